package esp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"iked/crypto/suite"
	"iked/datapath/ah"
	"iked/datapath/ip"
	"iked/internal/secret"
	"iked/internal/vectors"
	"iked/sad"
	"iked/spd"
)

// authAlgorithms are those of AH.
var authAlgorithms = []struct {
	name string
	id   uint16
}{
	{"SHA1-96", suite.IntegHMACSHA1_96}, {"SHA256-128", suite.IntegHMACSHA256}, {"SHA256-96", suite.IntegHMACSHA256_96},
	{"SHA384-192", suite.IntegHMACSHA384}, {"SHA512-256", suite.IntegHMACSHA512}, {"XCBC-96", suite.IntegAESXCBC96},
	{"CMAC-96", suite.IntegAESCMAC96}, {"GMAC-128", suite.IntegAES128GMAC}, {"GMAC-256", suite.IntegAES256GMAC},
}

// authSA makes an SA of AH with a key that is only good for tests.
func authSA(t testing.TB, id uint16, mode spd.Mode, src, dst string) *sad.SA {
	t.Helper()
	sa := &sad.SA{
		ID:  sad.ID{Dir: sad.Out, Proto: suite.ProtoAH, SPI: 0x55667788, Dst: netip.MustParseAddr(dst)},
		Src: netip.MustParseAddr(src), Local: anyTS(), Remote: anyTS(), Mode: mode,
		Integ: suite.Transform{Type: suite.INTEG, ID: id}, ReplayWindow: 64, Name: "test/ah",
	}
	n, _, err := ah.Lens(sa.Integ)
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, n)
	for i := range key {
		key[i] = byte(5*i + 1)
	}
	sa.IntegKey = secret.New(key)
	return sa
}

// whole is the sealed packet, its outer header included.
func whole(o *Outbound, buf []byte, s Sealed) []byte {
	start, _ := o.Encapsulate(buf, &s)
	return bytes.Clone(buf[start : s.Off+s.Len])
}

func openAH(t testing.TB, in *Inbound, pkt []byte, out *Opened) Drop {
	t.Helper()
	return in.OpenAH(new(Scratch), pkt, parse(t, pkt), out)
}

// Every algorithm, tunnel and transport mode, with and without ESN, either family
// in either: what is sealed is a valid packet whose next header is AH, and opens to
// the packet that it was made of.
func TestAHSealOpen(t *testing.T) {
	for _, a := range authAlgorithms {
		for _, esn := range []bool{false, true} {
			for _, c := range []struct {
				mode     spd.Mode
				src, dst string
				inner    [][]byte
			}{
				{spd.Tunnel, "192.0.2.1", "192.0.2.2", [][]byte{udp4(61, 0x2e, true), udp6(77, 0x2e)}},
				{spd.Tunnel, "2001:db8::1", "2001:db8::2", [][]byte{udp4(61, 0x2e, true), udp6(77, 0x2e)}},
				{spd.Transport, "10.1.0.1", "10.2.0.1", [][]byte{udp4(61, 0x2e, true)}},
				{spd.Transport, "2001:db8:1::1", "2001:db8:2::1", [][]byte{udp6(77, 0x2e)}},
			} {
				sa := authSA(t, a.id, c.mode, c.src, c.dst)
				sa.ESN = esn
				o, in := pair(t, sa)
				if esn {
					// The high half counts.
					o.SkipSequence(3<<32 + 5)
					in.replay.Update(3<<32 + 5)
				}
				for _, inner := range c.inner {
					buf, s := sealed(t, o, inner)
					pkt := whole(o, buf, s)
					info := parse(t, pkt)
					if info.Proto != ip.ProtoAH || info.TotalLen != len(pkt) || info.Src != sa.Src || info.Dst != sa.Dst {
						t.Fatalf("%s mode %d: outer header %+v", a.name, c.mode, info)
					}
					if got := o.InnerMTU() + len(pkt) - len(inner); got != 1500 {
						t.Errorf("%s mode %d: a packet of the inner MTU becomes %d octets, the path takes 1500", a.name, c.mode, got)
					}
					var out Opened
					if d := openAH(t, in, pkt, &out); d != Pass {
						t.Fatalf("%s mode %d ESN %v: %v", a.name, c.mode, esn, d)
					}
					want := inner
					if c.mode == spd.Transport && want[0]>>4 == 4 {
						want = bytes.Clone(inner)
						if id := binary.BigEndian.Uint16(out.Packet[4:]); id == 0 {
							t.Errorf("%s: the identification is 0: the kernel would change it under the ICV", a.name)
						} else {
							binary.BigEndian.PutUint16(want[4:], id)
							complete(want, 20)
						}
					}
					if !bytes.Equal(out.Packet, want) || out.Seq != s.Seq || !out.Newest || out.Flow.RemotePort != 1000 {
						t.Fatalf("%s mode %d: opened to\n%x, expected\n%x", a.name, c.mode, out.Packet, want)
					}
				}
				if u := in.Usage(); u.Packets != uint64(len(c.inner)) || u.Bytes == 0 {
					t.Errorf("%s: usage %+v", a.name, u)
				}
			}
		}
	}
}

// Packets that another implementation made open to what they were made of; what
// is sealed in transport mode is the same packet octet for octet.
func TestAHVectors(t *testing.T) {
	ids := map[string]uint16{"HMAC-SHA1-96": suite.IntegHMACSHA1_96, "SHA2-256-128": suite.IntegHMACSHA256, "SHA2-384-192": suite.IntegHMACSHA384, "SHA2-512-256": suite.IntegHMACSHA512}
	opened, same := 0, 0
	for _, v := range vectors.Load[struct {
		Name, Mode, Auth string
		AuthKey          vectors.Hex `json:"auth_key"`
		SPI              uint32
		Seq              uint64
		ESN              bool
		ESNHi            uint64 `json:"esn_hi"`
		Input, Output    vectors.Hex
	}](t, "../../ah/testdata/packets.json") {
		info := parse(t, v.Output)
		mode := map[string]spd.Mode{"tunnel": spd.Tunnel, "transport": spd.Transport}[v.Mode]
		sa := authSA(t, ids[v.Auth], mode, info.Src.String(), info.Dst.String())
		sa.SPI, sa.ESN, sa.IntegKey = v.SPI, v.ESN, secret.New(v.AuthKey)
		o, in := pair(t, sa)
		before := v.ESNHi<<32 | v.Seq - 1
		in.replay.Update(before)
		o.SkipSequence(before)
		var out Opened
		d := openAH(t, in, bytes.Clone(v.Output), &out)
		if strings.Contains(v.Name, "routing") {
			// It is on its way still.
			if d != BadOption {
				t.Errorf("%s: %v", v.Name, d)
			}
			continue
		}
		if d != Pass || !bytes.Equal(out.Packet, v.Input) {
			t.Errorf("%s %s: %v, opened to\n%x, expected\n%x", v.Name, v.Auth, d, out.Packet, v.Input)
		}
		opened++
		if mode == spd.Transport && !strings.Contains(v.Name, "DestOpt") {
			buf, s := sealed(t, o, v.Input)
			if got := whole(o, buf, s); !bytes.Equal(got, v.Output) {
				t.Errorf("%s %s: sealed to\n%x, expected\n%x", v.Name, v.Auth, got, v.Output)
			}
			same++
		}
	}
	if opened < 36 || same < 16 {
		t.Errorf("%d vectors were opened and %d sealed", opened, same)
	}
}

// RFC 4302, Section 3.1.1: AH stands behind IPv4 options, and behind the IPv6
// extension headers that are for the hops of the way, in front of destination
// options; both come back with the packet. What changes on the way may change.
func TestAHWithOptions(t *testing.T) {
	v4 := udp4(60, 0, true)
	v4 = append(v4[:20:20], append([]byte{148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0}, v4[20:]...)...)
	v4[0], v4[5] = 0x48, 9
	complete(v4, 32)
	v6 := udp6(80, 0)
	v6 = append(v6[:40:40], append([]byte{60, 0, 5, 2, 0, 0, 1, 0, 17, 0, 1, 4, 0, 0, 0, 0}, v6[40:]...)...)
	v6[6] = 0
	complete(v6, 40)
	for _, c := range []struct {
		inner    []byte
		src, dst string
		at       int // of AH
		change   func(b []byte)
	}{
		{v4, "10.1.0.1", "10.2.0.1", 32, func(b []byte) {
			b[8], b[1] = 7, 3                               // TTL, TOS
			copy(b[26:], []byte{8, 192, 0, 2, 9, 0, 0}[:5]) // a hop records itself
			complete(b, 32)
		}},
		{v6, "2001:db8:1::1", "2001:db8:2::1", 48, func(b []byte) {
			b[7], b[1], b[2], b[3] = 9, b[1]^0xff, 0xaa, 0xbb // hop limit, class, flow label
		}},
	} {
		o, in := pair(t, authSA(t, suite.IntegHMACSHA256, spd.Transport, c.src, c.dst))
		buf, s := sealed(t, o, c.inner)
		pkt := whole(o, buf, s)
		info := parse(t, pkt)
		if info.Proto != ip.ProtoAH || info.HeaderLen != c.at {
			t.Fatalf("AH is not at octet %d: %+v", c.at, info)
		}
		c.change(pkt)
		var out Opened
		if d := openAH(t, in, pkt, &out); d != Pass {
			t.Fatalf("%v after changes that a router may make", d)
		}
		if !bytes.Equal(out.Packet[c.at+8:], c.inner[c.at+8:]) || len(out.Packet) != len(c.inner) || out.Info.Proto != ip.ProtoUDP {
			t.Errorf("opened to\n%x, expected\n%x", out.Packet, c.inner)
		}
	}
}

// RFC 4302, Section 3.4: no change of what may not change passes, none moves the
// window or counts as traffic, and what the window refuses is told from a forgery.
func TestAHRejectsForgery(t *testing.T) {
	o, in := pair(t, authSA(t, suite.IntegHMACSHA1_96, spd.Tunnel, "192.0.2.1", "192.0.2.2"))
	buf, s := sealed(t, o, udp4(60, 0, true))
	good := whole(o, buf, s)
	var out Opened
	n := uint64(0)
	for i := 20; i < len(good); i++ {
		for bit := range 8 {
			pkt := bytes.Clone(good)
			pkt[i] ^= 1 << bit
			d := openAH(t, in, pkt, &out)
			if d == Pass || in.replay.Top() != 0 || in.Usage().Packets != 0 {
				t.Fatalf("octet %d, bit %d: %v", i, bit, d)
			}
			if d == BadICV {
				n++
			}
		}
	}
	if u := in.Usage(); u.BadICV != n || n == 0 {
		t.Errorf("%d forgeries were counted, expected %d", u.BadICV, n)
	}
	for cut := 20; cut < len(good); cut++ {
		pkt := bytes.Clone(good[:cut])
		complete(pkt, 20)
		if d := openAH(t, in, pkt, &out); d == Pass || in.replay.Top() != 0 {
			t.Fatalf("%d octets of %d: %v", cut, len(good), d)
		}
	}
	if d := openAH(t, in, bytes.Clone(good), &out); d != Pass {
		t.Fatal(d)
	}
	before := in.Usage().Replayed // forgeries of the number 0
	if d := openAH(t, in, bytes.Clone(good), &out); d != ReplayDuplicate || in.Usage().Replayed != before+1 {
		t.Errorf("replay: %v, usage %+v", d, in.Usage())
	}
}

// RFC 4302, Section 3.4.1: a fragment is refused, whatever it holds.
func TestAHFragmentsAreRefused(t *testing.T) {
	o, in := pair(t, authSA(t, suite.IntegHMACSHA1_96, spd.Tunnel, "192.0.2.1", "192.0.2.2"))
	buf, s := sealed(t, o, udp4(64, 0, false))
	pkt := whole(o, buf, s)
	pkt[6] |= 0x20
	complete(pkt, 20)
	var out Opened
	if d := openAH(t, in, pkt, &out); d != OuterFragment {
		t.Errorf("more fragments: %v", d)
	}
	o, in = pair(t, authSA(t, suite.IntegHMACSHA1_96, spd.Tunnel, "2001:db8::1", "2001:db8::2"))
	buf, s = sealed(t, o, udp4(60, 0, false))
	pkt = whole(o, buf, s)
	// An atomic fragment (RFC 6946), whose header the kernel would have taken away.
	pkt = append(pkt[:40:40], append([]byte{ip.ProtoAH, 0, 0, 0, 0, 0, 0, 1}, pkt[40:]...)...)
	pkt[6] = ip.ProtoFragment
	complete(pkt, 40)
	if d := openAH(t, in, pkt, &out); d != OuterFragment {
		t.Errorf("fragment header: %v", d)
	}
	// RFC 4302, Section 3.3.4: transport mode takes whole packets only.
	ot, _ := pair(t, authSA(t, suite.IntegHMACSHA1_96, spd.Transport, "10.1.0.1", "10.2.0.1"))
	frag := udp4(60, 0, false)
	frag[6] |= 0x20
	complete(frag, 20)
	work := make([]byte, Headroom+60+Tailroom)
	copy(work[Headroom:], frag)
	if d := ot.Seal(new(Scratch), work, Headroom, parse(t, frag), &s); d != InnerFragment {
		t.Errorf("a fragment in transport mode: %v", d)
	}
}

// RFC 4301, Section 5.2, step 4, for AH as for ESP.
func TestAHSelectors(t *testing.T) {
	for _, c := range []struct {
		mode     spd.Mode
		src, dst string
	}{{spd.Tunnel, "192.0.2.1", "192.0.2.2"}, {spd.Transport, "10.1.0.1", "10.2.0.1"}} {
		sa := authSA(t, suite.IntegHMACSHA256, c.mode, c.src, c.dst)
		sa.Local, sa.Remote = []spd.TS{ts(t, "10.2.0.1[udp/2000]")}, []spd.TS{ts(t, "10.1.0.1[udp]")}
		o, in := pair(t, sa)
		var out Opened
		buf, s := sealed(t, o, udp4(60, 0, true))
		if d := openAH(t, in, whole(o, buf, s), &out); d != Pass {
			t.Errorf("mode %d: %v", c.mode, d)
		}
		other := udp4(60, 0, true)
		other[23]++ // destination port
		buf, s = sealed(t, o, other)
		if d := openAH(t, in, whole(o, buf, s), &out); d != SelectorMismatch {
			t.Errorf("mode %d, another port: %v", c.mode, d)
		}
	}
}

// What AH cannot have is refused with a sentence, and lifetimes and numbers end
// the SA as they do with ESP.
func TestAHLimits(t *testing.T) {
	for _, c := range []struct {
		change func(sa *sad.SA)
		want   string
	}{
		{func(sa *sad.SA) { sa.Mode = spd.BEET }, "BEET is a mode of ESP"},
		{func(sa *sad.SA) { sa.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500} }, "cannot pass a NAT"},
		{func(sa *sad.SA) { sa.Encr = suite.Transform{Type: suite.ENCR, ID: suite.EncrNull} }, "does not encrypt"},
		{func(sa *sad.SA) { sa.Integ = suite.Transform{} }, "integrity"},
		{func(sa *sad.SA) { sa.IntegKey = secret.New([]byte("short")) }, "octets"},
		{func(sa *sad.SA) { sa.SPI = 255 }, "reserved"},
	} {
		sa := authSA(t, suite.IntegHMACSHA256, spd.Tunnel, "192.0.2.1", "192.0.2.2")
		c.change(sa)
		if _, err := NewOutbound(sa, 1500, now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, expected one with %q", err, c.want)
		}
	}
	sa := authSA(t, suite.IntegHMACSHA256, spd.Tunnel, "192.0.2.1", "192.0.2.2")
	sa.Limits.HardPackets = 1
	o, _ := pair(t, sa)
	buf, _ := sealed(t, o, udp4(60, 0, true))
	var s Sealed
	if d := o.Seal(new(Scratch), buf, Headroom, parse(t, buf[Headroom:]), &s); d != LifetimeOver {
		t.Errorf("over the limit: %v", d)
	}
	o, _ = pair(t, authSA(t, suite.IntegHMACSHA256, spd.Tunnel, "192.0.2.1", "192.0.2.2"))
	o.SkipSequence(1<<32 - 1)
	if d := o.Seal(new(Scratch), buf, Headroom, parse(t, buf[Headroom:]), &s); d != SequenceOverflow {
		t.Errorf("no number left: %v", d)
	}
}

// FuzzOpenAH is a stranger, and with the right ICV a peer: any octets behind an
// outer header; what passes is a valid packet, and moved the window.
func FuzzOpenAH(f *testing.F) {
	o, _ := pair(f, authSA(f, suite.IntegHMACSHA1_96, spd.Tunnel, "192.0.2.1", "192.0.2.2"))
	buf, s := sealed(f, o, udp4(60, 0, true))
	f.Add(whole(o, buf, s), true)
	o, _ = pair(f, authSA(f, suite.IntegHMACSHA1_96, spd.Transport, "2001:db8:1::1", "2001:db8:2::1"))
	buf, s = sealed(f, o, udp6(70, 0))
	f.Add(whole(o, buf, s), false)
	f.Fuzz(func(t *testing.T, pkt []byte, tunnel bool) {
		mode := spd.Transport
		if tunnel {
			mode = spd.Tunnel
		}
		_, in := pair(t, authSA(t, suite.IntegHMACSHA1_96, mode, "192.0.2.1", "192.0.2.2"))
		var info ip.Info
		if ip.Parse(pkt, &info) != ip.OK || info.Proto != ip.ProtoAH {
			return
		}
		var out Opened
		if d := in.OpenAH(new(Scratch), bytes.Clone(pkt), &info, &out); d == Pass && in.replay.Top() == 0 {
			t.Fatal("a packet passed without moving the window")
		}
		// The peer's.
		pkt = bytes.Clone(pkt[:info.TotalLen])
		if n, f := in.auth.Check(pkt, info.HeaderLen); f == ah.OK && n == 24 {
			clear(pkt[info.HeaderLen+12 : info.HeaderLen+24])
			binary.BigEndian.PutUint32(pkt[info.HeaderLen+8:], 7)
			if in.auth.Seal(new(ah.Scratch), pkt, info.HeaderLen, 7, false) == ah.OK {
				check(t, in.OpenAH(new(Scratch), pkt, &info, &out), &out)
			}
		}
	})
}
