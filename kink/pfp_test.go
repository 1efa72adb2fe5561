package kink

import (
	"net/netip"
	"testing"
	"time"

	"iked/internal/keyex"
	"iked/spd"
)

// The selectors of an SA are those of the packet that asked for it (RFC 4301, Section
// 4.4.1.2), up to a limit; without a packet there is none.
func TestPFP(t *testing.T) {
	p := newPair(t)
	flags := spd.PFPLocalAddr | spd.PFPRemoteAddr
	p.cha.PFP, p.cha.Limit = flags, 2
	p.chb.PFP, p.chb.Limit = flags, 2
	flow := func(n byte) *spd.Flow {
		return &spd.Flow{Local: netip.AddrFrom4([4]byte{10, 1, 0, n}), Remote: netip.AddrFrom4([4]byte{10, 2, 0, n}), Proto: 1}
	}
	sa := NewInitiator(p.a, p.ca, p.b.acc.own, addrPort(p.a), addrPort(p.b))
	p.a.sas = append(p.a.sas, sa)
	p.a.start(sa, keyex.StartInit{Child: p.cha, Flow: flow(1)})
	p.run(time.Second)
	p.matched(1)
	p.a.start(sa, keyex.CreateChild{Child: p.cha, Flow: flow(2)})
	p.run(time.Second)
	p.matched(2)
	for _, c := range p.a.in {
		if !c.Local[0].IsHost() || !c.Remote[0].IsHost() {
			t.Errorf("the SA is for %v === %v", c.Local, c.Remote)
		}
	}
	p.a.start(sa, keyex.CreateChild{Child: p.cha, Flow: flow(3)})
	p.run(time.Second)
	p.matched(2)
	failed := happened[keyex.Failed](p.a)
	if len(failed) != 1 || failed[0].Flow == nil || *failed[0].Flow != *flow(3) {
		t.Fatalf("%v", failed)
	}
	// The responder has its own limit and its own flags.
	p.cha.Limit = 9
	p.a.start(sa, keyex.CreateChild{Child: p.cha, Flow: flow(3)})
	p.run(time.Second)
	p.matched(2)
	if len(happened[keyex.Failed](p.b)) != 1 {
		t.Error("the responder has no limit")
	}
	wide := *p.cha
	wide.PFP = 0
	p.a.start(sa, keyex.CreateChild{Child: &wide})
	p.run(time.Second)
	p.matched(2)
	p.a.start(sa, keyex.CreateChild{Child: p.cha})
	if n := len(happened[keyex.Failed](p.a)); n != 4 {
		t.Errorf("%d failures, expected four: %s", n, why(p.a))
	}
}
