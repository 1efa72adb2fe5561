package vm

import (
	"os"
	"path/filepath"

	"iked/internal/backend/backendtest"
	"iked/internal/doccheck"
	"iked/internal/uml"
)

// Tables of docs/interop.md.
var (
	negotiatedTable backendtest.Table
	pairTables      = map[string]*backendtest.Table{"kernel with kernel": {}, "userspace with kernel": {}}
)

// writeTables writes them with IKED_WRITE_MATRIX=1.
func writeTables() error {
	if !uml.Inside() || os.Getenv("IKED_WRITE_MATRIX") != "1" {
		return nil
	}
	page := filepath.Join("..", "..", "docs", "interop.md")
	write := func(section string, t *backendtest.Table, head string) error {
		if t.Empty() {
			return nil
		}
		return doccheck.WriteSection(page, section, t.Markdown(head))
	}
	if err := write("negotiated", &negotiatedTable, "case"); err != nil {
		return err
	}
	for name, t := range pairTables {
		if err := write(name, t, "mode"); err != nil {
			return err
		}
	}
	return nil
}
