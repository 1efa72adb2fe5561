package ikev1

import (
	"net/netip"
	"testing"
	"time"

	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/spd"
)

// behindNAT puts a behind a NAT that gives it the address of the result, and adds
// shift to its ports.
func (p *pair) behindNAT(shift *uint16) netip.Addr {
	outside := netip.MustParseAddr("203.0.113.1")
	p.nat = func(x *packet) {
		if x.from.Addr() == p.a.addr {
			x.from = netip.AddrPortFrom(outside, x.from.Port()+*shift)
		}
		if x.to.Addr() == outside {
			x.to = netip.AddrPortFrom(p.a.addr, x.to.Port()-*shift)
		}
	}
	p.cb.Remote.ID = ident.ID{}
	return outside
}

// RFC 3947, Section 4: an authentic message that comes to port 500 after the change
// is old, and moves nothing. One on port 4500 from another port is a new mapping,
// which the side that is not behind a NAT follows (Section 7).
func TestOldPort(t *testing.T) {
	p := newPair(t)
	shift := uint16(10000)
	outside := p.behindNAT(&shift)
	p.up().matched(1)
	b := p.b.established()[0]
	want := netip.AddrPortFrom(outside, 14500)
	p.filter = func(x *packet) []*packet {
		if x.from.Addr() == p.a.addr {
			x.from, x.to, x.natt = netip.AddrPortFrom(p.a.addr, 500), netip.AddrPortFrom(p.b.addr, 500), false
		}
		return []*packet{x}
	}
	in := b.lastInbound
	p.run(time.Second)
	p.informOf(&message.Notify{DOI: 1, Protocol: message.ProtoISAKMP, SPI: b.cookies(), Kind: 30000})
	if !b.lastInbound.After(in) || b.remote != want || !b.natt || b.local.Port() != 4500 {
		t.Errorf("after a message to port 500 the peer is at %v, expected %v; the own address is %v", b.remote, want, b.local)
	}
	p.filter = nil
	shift = 20000
	p.informOf(&message.Notify{DOI: 1, Protocol: message.ProtoISAKMP, SPI: b.cookies(), Kind: 30000})
	want = netip.AddrPortFrom(outside, 24500)
	if b.remote != want || p.b.in[0x2001].RemoteAddr != want || len(happened[keyex.Moved](p.b)) != 1 {
		t.Errorf("after a new mapping the peer is at %v, its SAs at %v; expected %v", b.remote, p.b.in[0x2001].RemoteAddr, want)
	}
}

// RFC 3947, Section 7: a host behind a NAT does not follow its peer, or anybody on
// the way could send it elsewhere.
func TestBehindNATFollowsNobody(t *testing.T) {
	p := newPair(t)
	shift := uint16(10000)
	p.behindNAT(&shift)
	p.up().matched(1)
	b, before := p.b.established()[0], p.saA.remote
	p.filter = func(x *packet) []*packet {
		if x.from.Addr() == p.b.addr {
			x.from = netip.AddrPortFrom(netip.MustParseAddr("198.51.100.66"), 4500)
		}
		return []*packet{x}
	}
	in := p.saA.lastInbound
	p.run(time.Second)
	b.inform(p.now, &message.Notify{DOI: 1, Protocol: message.ProtoISAKMP, SPI: b.cookies(), Kind: 30000})
	p.b.drain(b)
	p.run(time.Second)
	if !p.saA.lastInbound.After(in) || p.saA.remote != before || p.a.counts["ike-address:not-followed"] != 1 {
		t.Errorf("it follows to %v, %v", p.saA.remote, p.a.counts)
	}
}

// RFC 3947, Section 4: a new phase 1 begins on port 4500, whichever side begins it,
// and stays there.
func TestRekeyBehindNAT(t *testing.T) {
	for _, byResponder := range []bool{false, true} {
		p := newPair(t)
		shift := uint16(10000)
		p.behindNAT(&shift)
		p.up().matched(1)
		p.filter = func(x *packet) []*packet {
			if !x.natt || x.from.Port() != 4500 {
				t.Errorf("by the responder %t: a packet goes from %v to %v", byResponder, x.from, x.to)
			}
			return []*packet{x}
		}
		if byResponder {
			p.b.start(p.b.established()[0], keyex.RekeyIKE{})
		} else {
			p.a.start(p.saA, keyex.RekeyIKE{})
		}
		p.run(5 * time.Second)
		fresh := 0
		for _, h := range []*host{p.a, p.b} {
			for _, sa := range h.established() {
				if sa != p.saA {
					fresh++
				}
			}
		}
		if fresh < 2 {
			t.Errorf("by the responder %t: there is no new phase 1: %s %s", byResponder, why(p.a), why(p.b))
		}
	}
}

// RFC 3947, Section 3.2: the first NAT-D is for the address that it is sent to, and
// any of the others may be that of the sender; fewer than two, of a peer that can
// NAT traversal, are no statement.
func TestNATDetection(t *testing.T) {
	p := newPair(t)
	p.up()
	sa := p.saA
	sa.p1 = &phase1{hash: sa.keys.hash, sa: sa}
	defer func() { sa.p1 = nil }()
	d := keyex.Datagram{Local: netip.MustParseAddrPort("192.0.2.1:500"), Remote: netip.MustParseAddrPort("192.0.2.2:500")}
	own, peer, other := sa.natHash(d.Local), sa.natHash(d.Remote), sa.natHash(netip.MustParseAddrPort("192.0.2.2:501"))
	for name, c := range map[string]struct {
		list          [][]byte
		local, remote bool
	}{
		"no NAT":                 {[][]byte{own, peer}, false, false},
		"several own addresses":  {[][]byte{own, other, peer}, false, false},
		"the peer's port":        {[][]byte{own, other}, false, true},
		"here":                   {[][]byte{other, peer}, true, false},
		"both":                   {[][]byte{other, other}, true, true},
		"another order":          {[][]byte{peer, own}, true, true},
		"cut off":                {[][]byte{own[:8], peer}, true, false},
		"one payload":            {[][]byte{other}, false, false},
		"none":                   {nil, false, false},
		"the peer's, of nothing": {[][]byte{own, {}}, false, true},
	} {
		m := &message.Message{}
		for _, h := range c.list {
			m.Payloads = append(m.Payloads, &message.Opaque{Kind: message.TypeNATD, Data: h})
		}
		sa.detectNAT(m, d)
		if sa.nat.local != c.local || sa.nat.remote != c.remote {
			t.Errorf("%s: %+v, expected %t here and %t there", name, sa.nat, c.local, c.remote)
		}
	}
}

// RFC 3947, Section 3.1: peers that know a draft alone get its payloads and its
// numbers; where both know the RFC, that counts.
func TestNATDrafts(t *testing.T) {
	for _, draft := range [][]byte{message.VendorNATTDraft02, message.VendorNATTDraft2B, message.VendorNATTDraft03, nil} {
		p := newPair(t)
		shift := uint16(10000)
		p.behindNAT(&shift)
		seen := map[message.PayloadType]int{}
		p.filter = func(x *packet) []*packet {
			m, err := message.Parse(x.data)
			if err != nil {
				return []*packet{x}
			}
			var list []message.Payload
			for _, y := range m.Payloads {
				seen[y.Type()]++
				o, ok := y.(*message.Opaque)
				if ok && draft != nil && o.Kind == message.TypeVendorID && x.from.Addr() == p.a.addr && string(o.Data) != string(draft) &&
					(message.IsVendor(o.Data, message.VendorNATT) || message.IsVendor(o.Data, message.VendorNATTDraft02) || message.IsVendor(o.Data, message.VendorNATTDraft03) || message.IsVendor(o.Data, message.VendorNATTDraft2B)) {
					continue
				}
				list = append(list, y)
			}
			if x.data, err = message.Append(nil, m.Header, list); err != nil {
				t.Fatal(err)
			}
			return []*packet{x}
		}
		p.up().matched(1)
		used, unused := message.TypeNATD, message.TypeNATDDraft
		encap := message.EncapUDPTunnel
		if draft != nil {
			used, unused, encap = unused, used, message.EncapUDPTunnelDraft
		}
		if seen[used] != 4 || seen[unused] != 0 || p.saA.encapOf(spd.Tunnel) != encap || p.b.established()[0].encapOf(spd.Tunnel) != encap || !p.a.in[0x1001].Encap {
			t.Errorf("draft %x: %v, encapsulation %d", draft, seen, p.saA.encapOf(spd.Tunnel))
		}
	}
}

// RFC 3947, Section 5.1: through a NAT the modes in UDP alone are taken, and without
// one the others alone.
func TestEncapsulationFollowsNAT(t *testing.T) {
	for _, nat := range []bool{true, false} {
		for encap, udp := range map[uint16]bool{message.EncapTunnel: false, message.EncapUDPTunnel: true, message.EncapUDPTunnelDraft: true} {
			p := newPair(t)
			shift := uint16(10000)
			if nat {
				p.behindNAT(&shift)
			}
			p.up().matched(1)
			l, _ := offer.IDOf(p.cha.Local[0].TS)
			r, _ := offer.IDOf(p.cha.Remote[0].TS)
			p.quickOf([]message.Payload{&message.SA{Proposals: offer.Proposals(p.cha.Proposals, 0x5555, offer.Want{Encap: encap})}, &message.Opaque{Kind: message.TypeNonce, Data: make([]byte, 16)}, l, r})
			if made := len(p.b.in) == 2; made != (nat == udp) {
				t.Errorf("NAT %t, encapsulation %d: made %t: %s", nat, encap, made, why(p.b))
			}
		}
	}
}
