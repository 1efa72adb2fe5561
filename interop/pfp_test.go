package interop

import (
	"testing"
	"time"

	"iked/internal/testnet"
)

// Each flow of an entry with PFP has its own CHILD_SA in the userspace datapath (RFC
// 4301, Section 4.4.1.2).
func TestPopulatedFromPackets(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	RunPFP(t, func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *Iked {
		d, err := NewIked(binaries(t), topo.Path(ns.Name))
		if err == nil {
			err = d.Configure(yaml)
		}
		if err == nil {
			err = d.Start(within(t, 20*time.Second), ns)
		}
		if err != nil {
			t.Fatal(err)
		}
		showLog(t, d.Process)
		return d
	}, nil)
}
