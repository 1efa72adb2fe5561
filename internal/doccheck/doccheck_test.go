package doccheck

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// pages are README and all of docs, relative to the root.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"README.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, filepath.ToSlash(rel))
		}
	}
	return all
}

func read(t *testing.T, page string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Each test that a coverage table names is in the tree, and each row names a test
// or says why there is none.
func TestCoverageTablesAreTrue(t *testing.T) {
	tests, err := Tests(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages(t) {
		rows, faults := Rows(page, read(t, page))
		for _, f := range faults {
			t.Error(f)
		}
		missing := 0
		for _, r := range rows {
			if r.Missing != "" {
				missing++
			}
			for _, name := range r.Tests {
				if !tests[name] {
					t.Errorf("%s:%d: there is no test %s", r.File, r.Line, name)
				}
			}
		}
		if len(rows) > 0 {
			t.Logf("%s: %d requirements, %d tested, %d not implemented", page, len(rows), len(rows)-missing, missing)
		}
	}
	for _, page := range []string{"docs/ikev1.md", "docs/ikev2.md", "docs/esp.md"} {
		if rows, _ := Rows(page, read(t, page)); len(rows) < 40 {
			t.Errorf("%s: only %d rows are found in its tables", page, len(rows))
		}
	}
}

// Links inside of the project resolve, headings included.
func TestLinksResolve(t *testing.T) {
	for _, page := range pages(t) {
		for _, f := range Links(root, page, read(t, page)) {
			t.Error(f)
		}
	}
}

// The checks find what is wrong.
func TestFaultsAreFound(t *testing.T) {
	page := strings.Join([]string{
		"# A Page: of *this*", "",
		"| section | requirement | test |", "|---|---|---|",
		"| 1.2 | good | `ikev2.TestGood`, `datapath/esp.FuzzOpen` |",
		"| 1.3 | missing | not implemented: nobody asks for it |",
		"| 1.4 | no reason | not implemented: |",
		"| 1.5 | nothing | |",
		"| one cell |", "| 1.6 | two cells |", "",
		"| other | table |", "|---|---|", "| a | b |", "",
		"[a](docs/../README.md) [b](nowhere.md) [c](#a-page-of-this) [d](#elsewhere) [e](https://example.org/x)",
	}, "\n")
	rows, faults := Rows("page.md", page)
	if len(rows) != 2 || !slices.Equal(rows[0].Tests, []string{"ikev2.TestGood", "datapath/esp.FuzzOpen"}) || rows[1].Missing != "nobody asks for it" || rows[1].Line != 6 {
		t.Errorf("rows %+v", rows)
	}
	if len(faults) != 4 || !strings.HasPrefix(faults[0], "page.md:7:") {
		t.Errorf("faults %q", faults)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "README.md"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "docs"), 0o700); err != nil {
		t.Fatal(err)
	}
	links := Links(dir, "page.md", page)
	if len(links) != 2 || !strings.Contains(links[0], "nowhere.md") || !strings.Contains(links[1], "#elsewhere") {
		t.Errorf("links %q", links)
	}
}

// The tests of this package are among those that are found, in their folder.
func TestTestsAreFound(t *testing.T) {
	tests, err := Tests(root)
	if err != nil {
		t.Fatal(err)
	}
	if !tests["internal/doccheck.TestTestsAreFound"] || tests["internal/doccheck.TestGood"] {
		t.Errorf("%d tests are found, not this one", len(tests))
	}
}
