package vm

import (
	"fmt"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
)

// RFC 4301, Section 5.1: what no entry lets pass is discarded, when the configuration
// ends with an entry that says so, with either backend: the tunnel comes up and
// carries, and nothing else leaves, to the peer or to others.
func TestEverythingElseIsDiscarded(t *testing.T) {
	uml.Require(t)
	testnet.RequireTUN(t)
	for _, backend := range []string{"kernel", "userspace"} {
		t.Run(backend, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			links, err := topo.GwA.Links()
			must(t, err)
			start(t, topo, topo.GwB, config(topo.WanB4, topo.WanA4, "", fmt.Sprintf("local_ts: [%v], remote_ts: [%v], start: passive", topo.NetB4, topo.NetA4)))
			reaches := func() bool {
				t.Helper()
				r, err := topo.GwA.Ping(topo.WanB4, testnet.PingOptions{Count: 2, Timeout: 500 * time.Millisecond})
				return err == nil && r.Received > 0
			}
			if !reaches() {
				t.Fatal("the peer is not reached without a policy")
			}
			a := start(t, topo, topo.GwA, config(topo.WanA4, topo.WanB4, "", fmt.Sprintf(
				`local_ts: [%v], remote_ts: [%v], start: on-demand}, {name: rest, mode: drop, local_ts: [0.0.0.0/0], remote_ts: [0.0.0.0/0], start: always`,
				topo.NetA4, topo.NetB4)), "--backend", backend)
			wire := wan(t, topo)
			_, err = topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second)
			must(t, err)
			if reaches() {
				t.Error("the peer is reached past the entry that discards everything else")
			}
			wire.Stop()
			if clear := wire.ClearText(); len(clear) > 0 {
				t.Errorf("on the wire: %v %v", wire, clear)
			}
			clean(t, a, topo.GwA, links)
			if !reaches() {
				t.Error("the peer is not reached after the end of the daemon")
			}
		})
	}
}
