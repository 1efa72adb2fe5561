package interop

import (
	"testing"
	"time"

	"iked/internal/testnet"
)

// AH around ESP as it is negotiated (RFC 2407, Section 4.6.1), in the userspace
// datapath.
func TestNegotiatedSuite(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	RunSuites(t, true, func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *Iked {
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
	})
}
