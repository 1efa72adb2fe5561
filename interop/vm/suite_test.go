package vm

import (
	"testing"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
)

// AH around ESP as it is negotiated (RFC 2407, Section 4.6.1): in the kernel, and
// with the kernel on one side and the userspace datapath on the other.
func TestNegotiatedSuite(t *testing.T) {
	uml.Require(t)
	for _, backends := range [][2]string{{"kernel", "kernel"}, {"kernel", "userspace"}, {"userspace", "kernel"}} {
		t.Run(backends[0]+" with "+backends[1], func(t *testing.T) {
			interop.RunSuites(t, false, func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *interop.Iked {
				backend := backends[0]
				if ns == topo.GwB {
					backend = backends[1]
				}
				return StartIked(t, topo, ns, yaml, backend)
			})
		})
	}
}
