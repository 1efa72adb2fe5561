package doccheck

import (
	"bytes"
	"fmt"
	"os"
)

// WriteSection replaces a part of a page that a test run writes: what stands
// between two lines of the page,
//
//	<!-- begin NAME -->
//	<!-- end NAME -->
func WriteSection(path, name, text string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := []byte("<!-- begin "+name+" -->\n"), []byte("<!-- end "+name+" -->\n")
	from, to := bytes.Index(page, begin), bytes.Index(page, end)
	if from < 0 || to < from {
		return fmt.Errorf("%s has no section between %q and %q", path, begin[:len(begin)-1], end[:len(end)-1])
	}
	from += len(begin)
	out := append(append(append([]byte(nil), page[:from]...), text...), page[to:]...)
	return os.WriteFile(path, out, 0o644)
}
