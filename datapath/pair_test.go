package datapath_test

import (
	"os"
	"path/filepath"
	"testing"

	"iked/datapath"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/doccheck"
	"iked/internal/testnet"
)

// Packets of every kind of SA cross between two userspace datapaths on the
// machine's own kernel.
func TestPair(t *testing.T) {
	testnet.RequireTUN(t)
	side := backendtest.Side{Name: "userspace", Open: func(t testing.TB, ns *testnet.Namespace) backend.Backend {
		return open(t, ns, datapath.Options{})
	}}
	var table backendtest.Table
	backendtest.RunPair(t, side, side, table.Add)
	if os.Getenv("IKED_WRITE_MATRIX") == "1" {
		if err := doccheck.WriteSection(filepath.Join("..", "docs", "interop.md"), "userspace with userspace", table.Markdown("mode")); err != nil {
			t.Error(err)
		}
	}
}
