package main

import (
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

// The packages of interop are apart from all others, and both lists have some.
func TestPackagesAreSplit(t *testing.T) {
	rest, interop, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	if len(rest) == 0 || len(interop) == 0 {
		t.Fatalf("%d packages and %d of interop", len(rest), len(interop))
	}
	for _, p := range rest {
		if strings.HasPrefix(p, "iked/interop") {
			t.Errorf("%s is in the wrong list", p)
		}
	}
}
