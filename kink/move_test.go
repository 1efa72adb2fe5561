package kink

import (
	"net/netip"
	"testing"
	"time"

	"iked/internal/keyex"
	"iked/kink/message"
	"iked/spd"
)

var abroad = netip.MustParseAddr("203.0.113.1")

// moves lets a host hear from its mobility manager where a is now, and with pairs where
// their SAs are.
func (p *pair) moves(h *host, to netip.Addr, pairs bool) {
	for _, sa := range h.sas {
		t := keyex.Relocated{Local: to, Remote: p.b.addr}
		if h == p.b {
			t.Local, t.Remote = t.Remote, t.Local
		}
		h.start(sa, t)
		for _, c := range append([]*keyex.Child(nil), sa.children...) {
			if pairs {
				h.start(sa, keyex.ChildRelocated{SPI: c.SPIIn, Local: t.Local, Remote: t.Remote})
			}
		}
	}
}

// wander has a go to another address, and to no other any more.
func (p *pair) wander(to netip.Addr, pairs bool) {
	p.a.second, p.a.addr = p.a.addr, to
	p.moves(p.a, to, pairs)
	p.moves(p.b, to, pairs)
	p.a.second = netip.Addr{}
}

// between checks where all SAs of both sides are.
func (p *pair) between(when string, a, b netip.Addr) {
	p.t.Helper()
	for _, h := range []*host{p.a, p.b} {
		local, remote := a, b
		if h == p.b {
			local, remote = b, a
		}
		for _, list := range []map[uint32]*keyex.Child{h.in, h.out} {
			for spi, c := range list {
				if c.LocalAddr.Addr() != local || c.RemoteAddr.Addr() != remote {
					p.t.Errorf("%s: %s has SA %08x between %v and %v", when, h.name, spi, c.LocalAddr, c.RemoteAddr)
				}
			}
		}
	}
}

// Both sides follow their mobility managers without a message. What comes after is sent
// there and taken there: rekeyings by either side, signs of life, the end. So back home,
// and in the other family.
func TestMoves(t *testing.T) {
	p := newPair(t).up()
	p.matched(1)
	home := p.a.addr
	for _, to := range []netip.Addr{abroad, netip.MustParseAddr("198.51.100.7"), home} {
		sent := len(p.sent)
		p.wander(to, true)
		if p.run(time.Second); len(p.sent) != sent {
			t.Errorf("%v: %d messages", to, len(p.sent)-sent)
		}
		p.matched(1)
		p.between("after the move to "+to.String(), to, p.b.addr)
		for _, h := range []*host{p.a, p.b} {
			sa := h.sas[0]
			h.start(sa, keyex.RekeyChild{SPI: sa.children[0].SPIIn})
			p.run(3 * time.Minute)
			p.matched(1)
			p.between("after a rekeying by "+h.name, to, p.b.addr)
			h.start(sa, keyex.Liveness{})
			p.run(5 * time.Second)
		}
		for _, q := range p.sent[sent:] {
			if q.from.Addr() != to && q.to.Addr() != to {
				t.Errorf("a %v went from %v to %v", q.kind(), q.from, q.to)
			}
		}
	}
	if n := len(happened[keyex.Moved](p.a)); n != 3 || len(p.a.sas) != 1 || len(p.b.sas) != 1 {
		t.Errorf("%d moves, %d and %d SAs, %s %s", n, len(p.a.sas), len(p.b.sas), why(p.a), why(p.b))
	}
	p.a.start(p.a.sas[0], keyex.Delete{})
	p.run(time.Minute)
	p.nothing()
}

// A move says nothing: what is no other place, of two families, or half of one.
func TestMovesNowhere(t *testing.T) {
	p := newPair(t).up()
	sa := p.a.sas[0]
	for _, r := range []keyex.Relocated{{Local: p.a.addr, Remote: p.b.addr}, {Local: netip.MustParseAddr("2001:db8::1"), Remote: p.b.addr}, {Remote: p.b.addr}, {}} {
		p.a.start(sa, r)
		p.a.start(sa, keyex.ChildRelocated{SPI: sa.children[0].SPIIn + 1, Local: abroad, Remote: p.b.addr})
	}
	if n := len(happened[keyex.Moved](p.a)); n != 0 || sa.local.Addr() != p.a.addr || p.a.counts["moves"] != 0 {
		t.Errorf("%d moves, the SA is at %v", n, sa.local)
	}
}

// A transaction that is under way when the peer moves ends between the new addresses,
// whichever of its messages was on its way: of a CREATE in two messages, of one in three,
// and of a DELETE. Nothing is done twice.
func TestMovesMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		three bool
		begin func(p *pair)
		want  int
	}{
		"CREATE":          {false, func(p *pair) { p.a.start(p.a.sas[0], keyex.RekeyChild{SPI: p.a.sas[0].children[0].SPIIn}) }, 1},
		"CREATE of b":     {false, func(p *pair) { p.b.start(p.b.sas[0], keyex.RekeyChild{SPI: p.b.sas[0].children[0].SPIIn}) }, 1},
		"with a key":      {true, func(p *pair) { p.a.start(p.a.sas[0], keyex.RekeyChild{SPI: p.a.sas[0].children[0].SPIIn}) }, 1},
		"with a key of b": {true, func(p *pair) { p.b.start(p.b.sas[0], keyex.RekeyChild{SPI: p.b.sas[0].children[0].SPIIn}) }, 1},
		"DELETE":          {false, func(p *pair) { p.a.start(p.a.sas[0], keyex.Delete{}) }, 0},
	} {
		for _, after := range []time.Duration{0, 5 * time.Millisecond, 15 * time.Millisecond, 25 * time.Millisecond} {
			for _, bFirst := range []bool{false, true} {
				p := newPair(t)
				if c.three {
					list := proposals(t, 3, "aes256-sha256-modp2048")
					p.cha.Proposals, p.chb.Proposals = list, list
				}
				p.up().matched(1)
				c.begin(p)
				p.run(after)
				p.a.second = abroad // it has both for a moment
				for i, h := range []*host{p.a, p.b} {
					if bFirst {
						h = []*host{p.b, p.a}[i]
					}
					p.moves(h, abroad, true)
					p.run(4 * time.Millisecond)
				}
				p.a.addr, p.a.second = abroad, netip.Addr{}
				p.run(3 * time.Minute)
				if p.matched(c.want); len(p.a.closed)+len(p.b.closed) != 0 && c.want > 0 {
					t.Errorf("%s after %v: %s %s", name, after, why(p.a), why(p.b))
				}
				p.between(name, abroad, p.b.addr)
			}
		}
	}
}

// What the peer sent before it moved is taken from its old address; a REPLY from a third
// one is not. What the peer says again from its new address is answered there.
func TestMovesLateMessages(t *testing.T) {
	p := newPair(t).up()
	home := p.a.addr
	var held []*packet
	p.filter = func(q *packet) []*packet {
		held = append(held, q)
		return nil
	}
	p.a.start(p.a.sas[0], keyex.Liveness{})
	p.b.start(p.b.sas[0], keyex.Liveness{})
	p.run(50 * time.Millisecond)
	p.filter = nil
	if len(held) != 2 {
		t.Fatalf("%d messages", len(held))
	}
	p.a.second, p.a.addr = home, abroad
	p.moves(p.a, abroad, true)
	p.moves(p.b, abroad, true)
	for _, q := range held {
		p.send(q)
	}
	p.run(time.Second)
	if p.b.counts["ike-drop:address"]+p.a.counts["ike-drop:address"] != 0 || p.count(message.Reply) != 3 {
		t.Errorf("%d replies, drops %v %v", p.count(message.Reply), p.a.counts, p.b.counts)
	}
	p.filter = func(q *packet) []*packet {
		if q.kind() == message.Reply {
			q.from = netip.MustParseAddrPort("198.51.100.99:910")
		}
		return []*packet{q}
	}
	p.b.start(p.b.sas[0], keyex.Liveness{})
	p.run(time.Second)
	if p.b.counts["ike-drop:address"] != 1 {
		t.Errorf("a REPLY from elsewhere: %v", p.b.counts)
	}
}

// In transport mode the pair stays at the home address, which its packets have: KINK goes
// on from abroad, and replaces it there by one of the same ends, whoever begins. Another
// peer gets no such pair.
func TestMovesTransport(t *testing.T) {
	p := newPair(t)
	for _, c := range []*keyex.ChildConfig{p.cha, p.chb} {
		c.Mode = spd.Transport
		c.Local, c.Remote = []keyex.Selector{{Dynamic: true}}, []keyex.Selector{{Dynamic: true}}
	}
	p.up().matched(1)
	home := p.a.addr
	p.wander(abroad, false)
	for _, h := range []*host{p.a, p.b} {
		h.start(h.sas[0], keyex.RekeyChild{SPI: h.sas[0].children[0].SPIIn})
		p.run(3 * time.Minute)
		p.matched(1)
		p.between("after a rekeying by "+h.name, home, p.b.addr)
		if len(happened[keyex.ChildReplaced](h)) == 0 {
			t.Errorf("%s has not replaced it: %s", h.name, why(h))
		}
	}
	// A new pair is for where the node is.
	p.a.start(p.a.sas[0], keyex.CreateChild{Child: p.cha})
	p.run(5 * time.Second)
	found := 0
	for _, c := range p.b.out {
		if c.Remote[0].From == abroad {
			found++
			if c.RemoteAddr.Addr() != abroad {
				t.Errorf("the pair for %v ends at %v", abroad, c.RemoteAddr)
			}
		}
	}
	if found != 1 {
		t.Errorf("%d pairs for the new address: %s %s", found, why(p.a), why(p.b))
	}
}
