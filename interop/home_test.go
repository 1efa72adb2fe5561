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
	RunHome(t, startIn)
}

// RFC 5026: a mobile node in userspace that gets its home address from the home agent.
func TestAssignedHomeAddress(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	t.Parallel()
	RunAssignedHome(t, startIn)
}

// startIn starts iked in a namespace.
func startIn(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *Iked {
	t.Helper()
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
}
