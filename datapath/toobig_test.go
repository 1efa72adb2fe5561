package datapath

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"iked/datapath/ip"
	"iked/datapath/tun"
	"iked/internal/backend/backendtest"
	"iked/internal/transport/batch"
	"iked/sad"
	"iked/spd"
)

// RFC 4301, Section 8.2: too big with DF is answered with the inner MTU, IPv6
// likewise.
func TestTooBigIsAnswered(t *testing.T) {
	for _, c := range ways[:2] {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t, Options{}, 1400)
			tunnel(t, a, b, c.outA, c.outB, c.netA, c.netB, nil)
			src, dst := host(c.netA, 1), host(c.netB, 1)
			a.dev.Inject(0, tun.Header{}, packet(src, dst, 1345))
			icmp := receive(t, a)
			var info ip.Info
			var e ip.Embedded
			if ip.Parse(icmp, &info) != ip.OK || info.Dst != src || !ip.ParseICMPError(icmp, &info, &e) || e.Info.Dst != dst {
				t.Fatalf("answer %x", icmp)
			}
			u, _ := a.QuerySA(sad.ID{Dir: sad.Out, Proto: 3, SPI: 0x2001, Dst: c.outB})
			if e.MTU != u.MTU || u.MTU < 1280 || u.MTU >= 1400 {
				t.Errorf("stated MTU %d, the SA has %d", e.MTU, u.MTU)
			}
			if a.Counters()["out_too_big"] != 1 {
				t.Errorf("counters %v", nonZero(a.Counters()))
			}
		})
	}
}

// RFC 4301, Section 8.2.1: without DF the packet is cut, and both pieces arrive.
func TestTooBigIsFragmented(t *testing.T) {
	a, b := pair(t, Options{}, 1000)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, nil)
	p := packet(host(net4A, 1), host(net4B, 1), 1300)
	p[6] &^= 0x40
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ip.Checksum(p[:20], 0))
	a.dev.Inject(0, tun.Header{}, p)
	r := ip.NewReassembler(1 << 16)
	for {
		f := receive(t, b)
		var info ip.Info
		if ip.Parse(f, &info) != ip.OK || !info.Fragmented {
			t.Fatalf("no fragment: %x", f)
		}
		if whole, res := r.Add(f, &info, time.Now()); res == ip.Complete {
			if !bytes.Equal(whole[20:], p[20:]) {
				t.Error("payload differs")
			}
			break
		}
	}
	for _, s := range a.raw.seen {
		if len(s.Data) > 1000 {
			t.Errorf("%d octets on a path of 1000", len(s.Data))
		}
	}
}

// RFC 4301, Section 7: with a policy that names ports a packet in fragments is
// looked up as a whole, and crosses the tunnel as a whole; the outer packet is
// cut instead. Over UDP the kernel cuts it.
func TestFragmentsMeetPoliciesWithPorts(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	ports := func(s *sad.SA) {
		l, r := &s.Local[0], &s.Remote[0]
		if s.Dst == out4A == (s.Dir == sad.Out) { // side b
			l, r = r, l
		}
		l.Proto, r.Proto = ip.ProtoUDP, ip.ProtoUDP
		r.PortFrom, r.PortTo = 2000, 2000
	}
	tunnel(t, a, b, out4A, out4B, net4A, net4B, ports)
	p := backendtest.Policy(1, 1, net4A, net4B)
	p.Local[0].Proto, p.Remote[0].Proto = ip.ProtoUDP, ip.ProtoUDP
	p.Remote[0].PortFrom, p.Remote[0].PortTo = 2000, 2000
	if err := a.ApplyPolicies(nil, []spd.Policy{p}); err != nil {
		t.Fatal(err)
	}
	whole := packet(host(net4A, 1), host(net4B, 1), 4000)
	whole[6] &^= 0x40
	whole[10], whole[11] = 0, 0
	binary.BigEndian.PutUint16(whole[10:], ip.Checksum(whole[:20], 0))
	var info ip.Info
	ip.Parse(whole, &info)
	var frags [][]byte
	ip.Fragment4(whole, &info, 1400, make([]byte, 1400), func(f []byte) { frags = append(frags, bytes.Clone(f)) })
	for i := len(frags) - 1; i >= 0; i-- {
		a.dev.Inject(0, tun.Header{}, frags[i])
	}
	wait(t, a, "out_reassembled", 1)
	// The kernel of the peer puts the outer packet together again.
	r := ip.NewReassembler(1 << 16)
	var outer []byte
	for _, s := range waitSent(t, a.raw, 3) {
		if ip.Parse(s.Data, &info) != ip.OK || !info.Fragmented || len(s.Data) > 1500 {
			t.Fatalf("outer packet %+v of %d octets", info, len(s.Data))
		}
		if w, res := r.Add(s.Data, &info, time.Now()); res == ip.Complete {
			outer = w
		}
	}
	if outer == nil {
		t.Fatal("the outer fragments make no packet")
	}
	b.raw.in <- []batch.Packet{{Data: outer, Remote: netip.AddrPortFrom(out4A, 0)}}
	got := receive(t, b)
	if !bytes.Equal(got[20:], whole[20:]) {
		t.Error("payload differs")
	}
}
