package main

import (
	"slices"
	"strings"
	"testing"
)

func newReport() *report {
	return &report{phase: "unit", results: map[string]bool{}, output: map[string]*strings.Builder{}, status: map[string]string{}}
}

// Each result of go test -json counts once; a skip keeps its reason, and a package
// that fails without a failed test, as one that does not build, counts as failure.
func TestCountsAreThoseOfGoTest(t *testing.T) {
	r := newReport()
	err := r.read(strings.NewReader(`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: no root here\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p"}
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
