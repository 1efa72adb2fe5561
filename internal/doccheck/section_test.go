package doccheck

import (
	"os"
	"path/filepath"
	"testing"
)

// A section is replaced and the rest of the page stays; a page without its marks is
// not touched.
func TestWriteSection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	const page = "before\n<!-- begin x -->\nold\n<!-- end x -->\nafter\n"
	if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteSection(path, "y", "new\n"); err == nil {
		t.Error("a section that is not there was written")
	}
	for range 2 {
		if err := WriteSection(path, "x", "new\n"); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := "before\n<!-- begin x -->\nnew\n<!-- end x -->\nafter\n"; string(got) != want {
			t.Errorf("the page became\n%s\nwant\n%s", got, want)
		}
	}
}
