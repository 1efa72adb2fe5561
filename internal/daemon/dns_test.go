package daemon

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// The file has the servers of all owners once, and goes with the last of them.
func TestResolvFile(t *testing.T) {
	dir := t.TempDir()
	r := newResolvFile("unix://"+dir+"/iked.vici", "/nowhere")
	a, b := netip.MustParseAddr("10.2.0.53"), netip.MustParseAddr("2001:db8::53")
	for _, err := range []error{r.Use("office-1", []netip.Addr{a, b}, "example.org"), r.Use("lab-2", []netip.Addr{a}, "example.org")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "resolv.conf")
	got, err := os.ReadFile(path)
	want := "# Name servers that IPsec peers assigned; written by iked.\nnameserver 10.2.0.53\nnameserver 2001:db8::53\nsearch example.org\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	for _, err := range []error{r.Drop("office-1"), r.Drop("lab-2"), r.Drop("lab-2")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
