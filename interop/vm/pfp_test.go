package vm

import (
	"strings"
	"testing"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
)

// Each flow of an entry with PFP has its own CHILD_SA in the kernel, made from what
// the kernel's question says of the packet: its policy and its SAs have the values
// of the packet alone (RFC 4301, Section 4.4.1.2).
func TestPopulatedFromPacketsInTheKernel(t *testing.T) {
	uml.Require(t)
	interop.RunPFP(t, func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *interop.Iked {
		return StartIked(t, topo, ns, yaml, "kernel")
	}, func(t *testing.T, topo *testnet.Topology, children []interop.ChildSA) {
		policies := KernelList(t, topo.GwA, "policy")
		states := KernelList(t, topo.GwA, "state")
		for _, c := range children {
			dst, _, _ := strings.Cut(c.RemoteTS[0], "[")
			dst = strings.TrimSuffix(dst, "/32")
			_, port, _ := strings.Cut(strings.TrimSuffix(c.RemoteTS[0], "]"), "[udp/")
			has := func(entry string, words ...string) bool {
				for _, w := range words {
					if !strings.Contains(entry, w) {
						return false
					}
				}
				return strings.Contains(entry, "dst "+dst+"/32") && (port == "" || strings.Contains(entry, "proto udp dport "+port))
			}
			found := func(list []string, words ...string) bool {
				for _, e := range list {
					if has(e, words...) {
						return true
					}
				}
				return false
			}
			if !found(policies, "dir out ", "tmpl ") {
				t.Errorf("no outbound policy of the kernel for %v alone:\n%s", c.RemoteTS, strings.Join(policies, "\n"))
			}
			if !found(states, "spi 0x"+c.SPIOut) {
				t.Errorf("SA %s of the kernel is not for %v alone:\n%s", c.SPIOut, c.RemoteTS, strings.Join(states, "\n"))
			}
		}
	})
}
