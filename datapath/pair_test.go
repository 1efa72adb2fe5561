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
	side := backendtest.Side{Name: "userspace", Open: func(t testing.TB, ns *testnet.Namespace) backend.Backend {
		return open(t, ns, datapath.Options{})
	}}
	backendtest.RunPair(t, side, side, nil)
}
