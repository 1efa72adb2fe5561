package datapath_test

import (
	"context"
	"testing"
	"time"

	"iked/datapath"
	"iked/internal/testnet"
)

// Policies of the kernel, here ones that block everything between the two
// gateways, do not hold for what the datapath sends and receives, as protocol 50 and
// in UDP, over both families.
func TestSealedPacketsPassPoliciesOfTheKernel(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	testnet.RequireCommand(t, "ip", "iproute2")
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			a, b := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
			connect(t, topo, a, b, w)
			if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 10*time.Second); err != nil {
				t.Fatal(err) // with neighbours known, their discovery is another matter
			}
			outA, outB := topo.WanA4.String(), topo.WanB4.String()
			if w.outer == 6 {
				outA, outB = topo.WanA6.String(), topo.WanB6.String()
			}
			for _, x := range [][3]string{{outA, outB, "out"}, {outB, outA, "in"}} {
				if out, err := topo.GwA.Run(context.Background(), "ip", "xfrm", "policy", "add", "src", x[0], "dst", x[1], "dir", x[2], "action", "block"); err != nil {
					testnet.LeaveOut(t, "this kernel takes no IPsec policies (CONFIG_XFRM_USER): "+out)
				}
			}
			if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 3}); err != nil || r.Lost() > 0 {
				t.Errorf("%v %v", r, err)
			}
			peer := topo.WanB4
			if w.outer == 6 {
				peer = topo.WanB6
			}
			if r, err := topo.GwA.Ping(peer, testnet.PingOptions{Count: 1, Timeout: 300 * time.Millisecond}); err == nil && r.Received > 0 {
				t.Error("the policy does not block others, so this test shows nothing")
			}
		})
	}
}
