package datapath_test

import (
	"testing"

	"iked/datapath"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
)

// Packets of every kind of SA cross between two userspace datapaths on the
// machine's own kernel.
func TestPair(t *testing.T) {
	testnet.RequireTUN(t)
	side := backendtest.Side{Name: "userspace", Refuses: func(backendtest.Cell) bool { return false }, Open: func(t testing.TB, ns *testnet.Namespace) backend.Backend {
		return open(t, ns, datapath.Options{})
	}, Lacks: map[string]string{
		"bypass and discard before protect":                  "the guard knows no holes for ports",
		"each flow of an entry with PFP asks for its own SA": "an entry with PFP asks once",
	}}
	backendtest.RunPair(t, side, side, nil)
}
