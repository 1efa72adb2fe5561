package vm

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/sad"
	"iked/spd"
	"iked/xfrm"
)

// What is protected by the type of its mobility header arrives when it is protected,
// and in clear it does not (RFC 4301, Section 5.2; RFC 4877, Section 4.1), though the
// kernel does not know the type of what arrives.
func TestMobilityHeaderArrives(t *testing.T) {
	uml.Require(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	const update, acknowledgement = 5, 6
	mh := func(a netip.Addr, typ uint16) []spd.TS {
		return []spd.TS{{From: a, To: a, Proto: 135, PortFrom: typ << 8, PortTo: typ<<8 | 0xff}}
	}
	end := func(ns *testnet.Namespace, own, peer netip.Addr, sends, gets uint16, spiIn, spiOut uint32) *xfrm.Backend {
		b := open(t, ns, xfrm.Options{State: t.TempDir()})
		in, out := backendtest.Pair(7, own, peer, spiIn, spiOut, netip.PrefixFrom(own, 128), netip.PrefixFrom(peer, 128))
		for _, sa := range []*sad.SA{in, out} {
			sa.Mode, sa.Local, sa.Remote = spd.Transport, mh(own, sends), mh(peer, gets)
			must(t, b.AddSA(sa))
		}
		p := backendtest.Policy(7, 7, netip.PrefixFrom(own, 128), netip.PrefixFrom(peer, 128))
		p.Mode, p.Local, p.Remote = spd.Transport, mh(own, sends), mh(peer, gets)
		must(t, b.ApplyPolicies(nil, []spd.Policy{p}))
		return b
	}
	node := end(topo.GwA, topo.WanA6, topo.WanB6, update, acknowledgement, 0x1000, 0x1001)
	end(topo.GwB, topo.WanB6, topo.WanA6, acknowledgement, update, 0x1001, 0x1000)
	in, err := topo.GwB.ListenPacket("ip6:135", topo.WanB6.String())
	must(t, err)
	defer in.Close()
	out, err := topo.GwA.ListenPacket("ip6:135", topo.WanA6.String())
	must(t, err)
	defer out.Close()
	arrives := func(mark byte, within time.Duration) bool {
		_, err := out.WriteTo([]byte{59, 1, update, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, mark}, &net.IPAddr{IP: topo.WanB6.AsSlice()})
		must(t, err)
		buf := make([]byte, 64)
		for {
			must(t, in.SetReadDeadline(time.Now().Add(within)))
			n, _, err := in.ReadFrom(buf)
			if err != nil {
				return false
			}
			if n == 16 && buf[15] == mark {
				return true
			}
		}
	}
	if !arrives(1, 20*time.Second) {
		t.Errorf("a protected Binding Update does not arrive:\n%s", ip(t, topo.GwB, "xfrm", "policy"))
	}
	must(t, node.Close())
	if arrives(2, time.Second) {
		t.Error("a Binding Update in clear arrives")
	}
}
