package datapath

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"iked/datapath/ip"
	"iked/datapath/tun"
	"iked/internal/backend/backendtest"
	"iked/internal/transport/batch"
	"iked/sad"
	"iked/spd"
)

// hostPair is a way between two hosts: a mode, the outer addresses and, in BEET
// mode, the inner ones.
type hostPair struct {
	name       string
	mode       spd.Mode
	outA, outB netip.Addr
	inA, inB   netip.Addr
	encap      bool
}

var (
	hit4A, hit4B = netip.MustParseAddr("1.0.0.1"), netip.MustParseAddr("1.0.0.2")
	hit6A, hit6B = netip.MustParseAddr("2001:20::1"), netip.MustParseAddr("2001:20::2")
)

var hostPairs = []hostPair{
	{"transport, IPv4", spd.Transport, out4A, out4B, out4A, out4B, false},
	{"transport, IPv6", spd.Transport, out6A, out6B, out6A, out6B, false},
	{"transport, IPv4, UDP", spd.Transport, out4A, out4B, out4A, out4B, true},
	{"transport, IPv6, UDP", spd.Transport, out6A, out6B, out6A, out6B, true},
	{"BEET, 4 in 4", spd.BEET, out4A, out4B, hit4A, hit4B, false},
	{"BEET, 6 in 6", spd.BEET, out6A, out6B, hit6A, hit6B, false},
	{"BEET, 4 in 6", spd.BEET, out6A, out6B, hit4A, hit4B, false},
	{"BEET, 6 in 4", spd.BEET, out4A, out4B, hit6A, hit6B, false},
	{"BEET, 4 in 4, UDP", spd.BEET, out4A, out4B, hit4A, hit4B, true},
	{"BEET, 6 in 4, UDP", spd.BEET, out4A, out4B, hit6A, hit6B, true},
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// connectHosts sets SAs and policies of one pair of hosts on both sides.
func connectHosts(t testing.TB, a, b *side, h hostPair, change func(*sad.SA)) {
	t.Helper()
	tunnel(t, a, b, h.outA, h.outB, single(h.inA), single(h.inB), func(s *sad.SA) {
		s.Mode = h.mode
		if h.encap {
			s.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500}
		}
		if change != nil {
			change(s)
		}
	})
	for _, err := range []error{
		a.ApplyPolicies(nil, []spd.Policy{modePolicy(h.mode, h.inA, h.inB)}),
		b.ApplyPolicies(nil, []spd.Policy{modePolicy(h.mode, h.inB, h.inA)}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func modePolicy(m spd.Mode, l, r netip.Addr) spd.Policy {
	p := backendtest.Policy(1, 1, single(l), single(r))
	p.Mode = m
	return p
}

// A packet between two hosts arrives as it was sent, in every mode between hosts
// and every combination of families, over IP and over UDP; on the wire is ESP
// between the outer addresses.
func TestHostPacketsCross(t *testing.T) {
	for _, h := range hostPairs {
		t.Run(h.name, func(t *testing.T) {
			a, b := pair(t, Options{}, 1500)
			connectHosts(t, a, b, h, nil)
			for i := range 50 {
				p := packet(h.inA, h.inB, 20*i)
				a.dev.Inject(i%2, tun.Header{}, p)
				got := receive(t, b)
				if h.encap {
					got = ttl(got, 64) // the cable has no TTL
				}
				if !bytes.Equal(got, p) {
					t.Fatalf("packet %d\n got %x\nwant %x", i, got, p)
				}
			}
			sent := a.raw.seen
			if h.encap {
				sent = a.udp.seen
			}
			if len(sent) != 50 {
				t.Fatalf("%d packets on the wire, want 50", len(sent))
			}
			var info ip.Info
			if !h.encap && (ip.Parse(sent[7].Data, &info) != ip.OK || info.Proto != ip.ProtoESP || info.Src != h.outA || info.Dst != h.outB || info.TTL != 64) {
				t.Errorf("on the wire: %+v", info)
			}
			if bytes.Contains(sent[40].Data, []byte{100, 101, 102, 103, 104}) {
				t.Error("clear text on the wire")
			}
		})
	}
}

// ttl writes a TTL or hop limit.
func ttl(b []byte, n byte) []byte {
	b = bytes.Clone(b)
	if b[0]>>4 == 6 {
		b[7] = n
		return b
	}
	old := binary.BigEndian.Uint16(b[8:])
	b[8] = n
	binary.BigEndian.PutUint16(b[10:], ip.Adjust(binary.BigEndian.Uint16(b[10:]), old, binary.BigEndian.Uint16(b[8:])))
	return b
}

// fragments cuts a packet without DF.
func fragments(t testing.TB, p []byte, mtu int) (out [][]byte) {
	t.Helper()
	emit := func(f []byte) { out = append(out, bytes.Clone(f)) }
	var info ip.Info
	if p[0]>>4 == 4 {
		p[6], p[10], p[11] = 0, 0, 0
		binary.BigEndian.PutUint16(p[10:], ip.Checksum(p[:20], 0))
		if ip.Parse(p, &info) != ip.OK || !ip.Fragment4(p, &info, mtu, make([]byte, mtu), emit) {
			t.Fatal("cannot cut the packet")
		}
		return out
	}
	if !ip.Fragment6(p, 77, mtu, make([]byte, mtu), emit) {
		t.Fatal("cannot cut the packet")
	}
	return out
}

// Fragments of a host are put together before ESP, and the ESP packet is cut
// behind it (RFC 4303, Section 3.3.4): what crosses is one ESP packet in pieces,
// each within the path MTU.
func TestHostFragments(t *testing.T) {
	for _, h := range hostPairs {
		if h.encap {
			continue // the kernel cuts UDP
		}
		t.Run(h.name, func(t *testing.T) {
			a, b := pair(t, Options{}, 1400)
			connectHosts(t, a, b, h, nil)
			p := packet(h.inA, h.inB, 3000)
			for _, f := range fragments(t, p, 1300) {
				a.dev.Inject(0, tun.Header{}, f)
			}
			pieces := waitSent(t, a.raw, 3)
			re := ip.NewReassembler(1 << 20)
			for i, f := range pieces {
				var info ip.Info
				if fault := ip.Parse(f.Data, &info); fault != ip.OK || !info.Fragmented || info.Src != h.outA || info.Dst != h.outB || info.TotalLen > 1400 {
					t.Fatalf("piece %d: %v %+v", i, fault, info)
				}
				if whole, res := re.Add(f.Data, &info, b.now()); res == ip.Complete {
					q := f
					q.Data, q.Local, q.Remote, q.TTL = whole, f.Remote, f.Local, 64
					if whole[0]>>4 == 6 {
						q.Data = whole[ip.IPv6HeaderLen:]
					}
					b.raw.in <- []batch.Packet{q}
				}
			}
			var got []byte
			for len(got) < 3000 {
				got = receive(t, b)
			}
			if h.inA.Is4() {
				// IPv6 has no DF: a packet that was whole gets it.
				got[4], got[5], got[6] = p[4], p[5], p[6]
				got[10], got[11] = 0, 0
				binary.BigEndian.PutUint16(got[10:], ip.Checksum(got[:20], 0))
			}
			if !bytes.Equal(got, p) {
				t.Errorf("got %d octets %x\nwant %d octets %x", len(got), got[:60], len(p), p[:60])
			}
		})
	}
}

// The entry that lets the rest between two hosts pass comes and goes with its
// policy, stands behind all others, and takes the ID of none.
func TestRestBetweenHosts(t *testing.T) {
	a, _ := pair(t, Options{}, 1500)
	ported := modePolicy(spd.Transport, out4A, out4B)
	ported.Local[0].Proto, ported.Remote[0].Proto = 17, 17
	ported.Remote[0].PortFrom, ported.Remote[0].PortTo = 53, 53
	byHand := backendtest.Policy(1<<63|1, 7, net4A, net4B)
	apply := func(remove []uint64, add ...spd.Policy) {
		t.Helper()
		if err := a.ApplyPolicies(remove, add); err != nil {
			t.Fatal(err)
		}
	}
	action := func(f spd.Flow) spd.Action { return a.table.Lookup(&f).Action }
	between := spd.Flow{Local: out4A, Remote: out4B, Proto: 17, LocalPort: 1000, RemotePort: 80, HasPorts: true}
	dns := between
	dns.RemotePort = 53
	sites := spd.Flow{Local: host(net4A, 1), Remote: host(net4B, 1), Proto: 17, LocalPort: 1000, RemotePort: 80, HasPorts: true}
	check := func(when string, wantDNS, wantRest, wantSites spd.Action) {
		t.Helper()
		if action(dns) != wantDNS || action(between) != wantRest || action(sites) != wantSites {
			t.Errorf("%s: port 53 %d, the rest %d, the sites %d, expected %d, %d, %d", when, action(dns), action(between), action(sites), wantDNS, wantRest, wantSites)
		}
	}
	check("nothing", spd.Discard, spd.Discard, spd.Discard)
	apply(nil, byHand)
	apply(nil, ported)
	check("both", spd.Protect, spd.Bypass, spd.Protect)
	tunnel := ported
	tunnel.Mode = spd.Tunnel
	apply(nil, tunnel)
	check("the same in tunnel mode", spd.Protect, spd.Discard, spd.Protect)
	apply(nil, ported)
	apply([]uint64{ported.ID})
	check("removed", spd.Discard, spd.Discard, spd.Protect)
}
