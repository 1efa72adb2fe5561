package mobile

import (
	"testing"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
	"iked/interop/vm"
)

// RFC 4877: a mobile node and its home agent with the SAs and policies of the kernel,
// whose types of mobility headers and ICMP are those of the negotiated selectors; and one
// side with the kernel's, the other in userspace.
func TestMobileIPv6(t *testing.T) {
	uml.Require(t)
	for _, x := range [][2]string{{"kernel", "kernel"}, {"kernel", "userspace"}, {"userspace", "kernel"}} {
		t.Run(x[0]+" with "+x[1], func(t *testing.T) {
			interop.RunHome(t, func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *interop.Iked {
				backend := x[0]
				if ns == topo.GwB {
					backend = x[1]
				}
				return vm.StartIked(t, topo, ns, yaml, backend)
			})
		})
	}
}

// RFC 5026: the home address is the home agent's gift; the SAs are the kernel's.
func TestAssignedHomeAddress(t *testing.T) {
	uml.Require(t)
	interop.RunAssignedHome(t, func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *interop.Iked {
		return vm.StartIked(t, topo, ns, yaml, "kernel")
	})
}

// The same of datagrams with strongSwan's transport_proxy, as home agent and as mobile
// node; iked has the kernel's SAs, or its own.
func TestMobileIPv6WithStrongSwan(t *testing.T) {
	uml.Require(t)
	testnet.RequireCommand(t, interop.CharonPath, interop.CharonPackages)
	for _, backend := range []string{"kernel", "userspace"} {
		t.Run(backend, func(t *testing.T) {
			interop.RunHomeWithStrongSwan(t, func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *interop.Iked {
				return vm.StartIked(t, topo, ns, yaml, backend)
			})
		})
	}
}
