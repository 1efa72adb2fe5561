package interop

import (
	"testing"
	"time"

	"iked/internal/testnet"
)

// RFC 4877: a mobile node and its home agent in userspace.
func TestMobileIPv6(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	t.Parallel()
	RunHome(t, func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *Iked {
		d, err := NewIked(binaries(t), topo.Path(ns.Name))
		if err == nil {
			err = d.Configure(yaml)
		}
		if err == nil {
			err = d.Start(within(t, 60*time.Second), ns)
		}
		if err != nil {
			t.Fatal(err)
		}
		showLog(t, d.Process)
		return d
	})
}
