package main

import (
	"slices"
	"strings"
	"testing"
)

func newReport() *report {
	return &report{phase: "unit", results: map[string]bool{}, output: map[string]*strings.Builder{}, status: map[string]string{}}
}

// Each result of go test -json counts once; a skip keeps its reason, a failure what the
// test said, and a package that fails without a failed test, as one that does not
// build, counts as failure.
func TestCountsAreThoseOfGoTest(t *testing.T) {
	r := newReport()
	err := r.read(strings.NewReader(`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: no root here\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p"}
{"Action":"output","Package":"q","Test":"TestC/sub","Output":"    c_test.go:9: two of three\n        and what follows\n"}
{"Action":"output","Package":"q","Test":"TestC/sub","Output":"    guest.go:41: log of a daemon:\n        time=1 level=info\n"}
{"Action":"fail","Package":"q","Test":"TestC/sub"}
{"Action":"fail","Package":"q","Test":"TestC"}
{"Action":"fail","Package":"q"}
{"Action":"build-fail","ImportPath":"r"}
{"Action":"fail","Package":"r","FailedBuild":"r"}
`))
	if err != nil {
		t.Fatal(err)
	}
	if r.passed != 1 || r.failed != 3 || r.skipped != 1 {
		t.Errorf("got %d passed, %d failed, %d skipped, want 1, 3 and 1; failures %q", r.passed, r.failed, r.skipped, r.failures)
	}
	if want := "unit: q TestC/sub\n    c_test.go:9: two of three\n    guest.go:41: log of a daemon:"; len(r.failures) == 0 || r.failures[0] != want {
		t.Errorf("a failure is listed with what the test said: %q, want %q first", r.failures, want)
	}
	if len(r.skips) != 1 || !strings.Contains(r.skips[0], "no root here") {
		t.Errorf("a skip is listed with its reason: %q", r.skips)
	}
	if !r.results["p TestA"] || r.results["p TestD"] {
		t.Errorf("tests with a result: %v", r.results)
	}
}

// Each phase has packages, and no race detector meets a package whose tests run in a
// guest, where it cannot work.
func TestPackagesAreSplit(t *testing.T) {
	list, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range phases {
		if len(list[p.kind]) == 0 {
			t.Errorf("phase %s has no package", p.name)
		}
		if p.kind == vm && slices.Contains(p.args, "-race") {
			t.Errorf("phase %s runs guests with the race detector", p.name)
		}
	}
	for want, name := range map[kind]string{plain: "iked/spd", vm: "iked/internal/uml", interop: "iked/interop"} {
		for k, pkgs := range list {
			if slices.Contains(pkgs, name) != (k == want) {
				t.Errorf("%s is in the wrong list, or in none: %v", name, pkgs)
			}
		}
	}
}
