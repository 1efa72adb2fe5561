package datapath_test

import (
	"testing"

	"iked/crypto/suite"
	"iked/datapath"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/spd"
)

// Packets of every kind of SA cross between two userspace datapaths on the
// machine's own kernel.
func TestPair(t *testing.T) {
	testnet.RequireTUN(t)
	side := backendtest.Side{Name: "userspace", Refuses: refuses, Open: func(t testing.TB, ns *testnet.Namespace) backend.Backend {
		return open(t, ns, datapath.Options{})
	}, Lacks: map[string]string{
		"a packet that comes again is dropped and counted":   "refused packets are not counted by SA",
		"a forged packet is dropped and counted":             "refused packets are not counted by SA",
		"bypass and discard before protect":                  "the guard knows no holes for ports",
		"each flow of an entry with PFP asks for its own SA": "an entry with PFP asks once",
	}}
	backendtest.RunPair(t, side, side, nil)
}

func refuses(c backendtest.Cell) bool { return c.Proto != suite.ProtoESP || c.Mode != spd.Tunnel }
