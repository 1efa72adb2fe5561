package beet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"iked/sad"
	"iked/spd"
)

var (
	a4, b4 = netip.MustParseAddr("1.0.0.1"), netip.MustParseAddr("1.0.0.2")
	a6, b6 = netip.MustParseAddr("2001:20::1"), netip.MustParseAddr("2001:20::2")
)

func selectors(t testing.TB, list ...string) (out []spd.TS) {
	t.Helper()
	for _, s := range list {
		ts, _, err := spd.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ts)
	}
	return out
}

// The inner pair is one host on each side, of one family; everything else is
// refused with the selector that is wrong.
func TestHosts(t *testing.T) {
	for _, c := range []struct {
		what          string
		local, remote []string
		wrong         string // "": none
	}{
		{"two hosts", []string{"1.0.0.1"}, []string{"1.0.0.2"}, ""},
		{"two hosts of IPv6", []string{"2001:20::1"}, []string{"2001:20::2"}, ""},
		{"several protocols of one host", []string{"1.0.0.1[tcp/80]", "1.0.0.1[udp/53]"}, []string{"1.0.0.2"}, ""},
		{"no local selector", nil, []string{"1.0.0.2"}, "no local selector"},
		{"no remote selector", []string{"1.0.0.1"}, nil, "no remote selector"},
		{"a network", []string{"1.0.0.0/24"}, []string{"1.0.0.2"}, "from 1.0.0.0 to 1.0.0.255 is not a single host"},
		{"a remote network", []string{"1.0.0.1"}, []string{"::/0"}, "is not a single host"},
		{"two hosts on one side", []string{"1.0.0.1", "1.0.0.3"}, []string{"1.0.0.2"}, "name two hosts, 1.0.0.1 and 1.0.0.3"},
		{"two families", []string{"1.0.0.1"}, []string{"2001:20::2"}, "different families"},
		{"a group", []string{"1.0.0.1"}, []string{"224.0.0.1"}, "not that of one host"},
		{"any address", []string{"0.0.0.0/32"}, []string{"1.0.0.2"}, "not that of one host"},
	} {
		l, r, err := Hosts(selectors(t, c.local...), selectors(t, c.remote...))
		switch {
		case c.wrong == "" && (err != nil || !l.IsValid() || !r.IsValid()):
			t.Errorf("%s: %v, %v, %v", c.what, l, r, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: error %v, expected one that says %q", c.what, err, c.wrong)
		}
	}
}

// The pair has the order of the packets: what goes out comes from the local host,
// what comes in goes to it.
func TestBind(t *testing.T) {
	sa := &sad.SA{ID: sad.ID{Dir: sad.Out}, Mode: spd.BEET, Local: selectors(t, "1.0.0.1"), Remote: selectors(t, "1.0.0.2")}
	if in, err := Bind(sa); err != nil || in != (Inner{a4, b4}) {
		t.Errorf("out: %v, %v", in, err)
	}
	sa.Dir = sad.In
	if in, err := Bind(sa); err != nil || in != (Inner{b4, a4}) {
		t.Errorf("in: %v, %v", in, err)
	}
	sa.Remote = selectors(t, "1.0.0.0/30")
	if _, err := Bind(sa); err == nil {
		t.Error("a network was bound")
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// golden packets: the inner packet, what ESP protects, its protocol, and what the
// outer header carries. Layout of the pseudo header as Linux writes it (struct
// ip_beet_phdr: hdrlen = optlen/8, padlen = 4-(optlen&4), NOP as padding).
var golden = []struct {
	what    string
	inner   Inner
	packet  string
	payload string
	next    uint8
	carried Carried
}{
	{"IPv4", Inner{a4, b4},
		"4528 001c abcd 4000 3f11 8dd9 01000001 01000002 03e8 07d0 0008 1234",
		"03e8 07d0 0008 1234", 17, Carried{TOS: 0x28, TTL: 63, DF: true, ID: 0xabcd}},
	{"IPv4 without DF", Inner{a4, b4},
		"4500 0018 0001 0000 4006 78dd 01000001 01000002 03e8 07d0",
		"03e8 07d0", 6, Carried{TTL: 64, ID: 1}},
	{"IPv4 with four octets of options", Inner{a4, b4},
		"4600 0020 0001 4000 4011 a3c5 01000001 01000002 94040000 03e8 07d0 0008 1234",
		"11 00 00 00 94040000 03e8 07d0 0008 1234", ProtoBEETPH, Carried{TTL: 64, DF: true, ID: 1}},
	{"IPv4 with eight octets of options", Inner{a4, b4},
		"4700 0024 0001 4000 4011 a0c0 01000001 01000002 94040000 01010100 03e8 07d0 0008 1234",
		"11 01 04 00 01010101 94040000 01010100 03e8 07d0 0008 1234", ProtoBEETPH, Carried{TTL: 64, DF: true, ID: 1}},
	{"IPv6", Inner{a6, b6},
		"6280abcd 0008 11 3f 20010020000000000000000000000001 20010020000000000000000000000002 03e8 07d0 0008 1234",
		"03e8 07d0 0008 1234", 17, Carried{TOS: 0x28, TTL: 63, FlowLabel: 0xabcd}},
	{"IPv6 with destination options", Inner{a6, b6},
		"60000000 0010 3c 40 20010020000000000000000000000001 20010020000000000000000000000002 11 00 01 04 00000000 03e8 07d0 0008 1234",
		"11 00 01 04 00000000 03e8 07d0 0008 1234", 60, Carried{TTL: 64}},
}

// What is stripped is what ESP protects, octet for octet, and what is restored is
// the inner packet.
func TestGolden(t *testing.T) {
	for _, g := range golden {
		packet := unhex(t, g.packet)
		work := bytes.Clone(packet)
		var c Carried
		off, next, f := g.inner.Strip(work, &c)
		if f != OK || next != g.next || c != g.carried || !bytes.Equal(work[off:], unhex(t, g.payload)) {
			t.Errorf("%s: stripped %v, next %d, %+v\n got %x\nwant %s", g.what, f, next, c, work[off:], g.payload)
			continue
		}
		buf := append(bytes.Repeat([]byte{0xee}, g.inner.HeaderLen()), work[off:]...)
		start, f := g.inner.Restore(buf, g.inner.HeaderLen(), next, &c)
		if f != OK || !bytes.Equal(buf[start:], packet) {
			t.Errorf("%s: restored %v\n got %x\nwant %x", g.what, f, buf[start:], packet)
		}
		for n := range packet {
			if _, _, f := g.inner.Strip(bytes.Clone(packet[:n]), &c); f == OK {
				t.Errorf("%s: %d of %d octets are a packet", g.what, n, len(packet))
			}
		}
		other := Inner{g.inner.Dst, g.inner.Src}
		if _, _, f := other.Strip(bytes.Clone(packet), &c); f != OtherHosts {
			t.Errorf("%s: between other hosts: %v", g.what, f)
		}
	}
}

// There is no place for identification and offset of a fragment.
func TestFragments(t *testing.T) {
	var c Carried
	for _, flags := range []byte{0x20, 0x00} {
		b := unhex(t, golden[0].packet)
		b[6], b[7] = flags, 1-flags>>5 // more fragments, or an offset
		if _, _, f := golden[0].inner.Strip(b, &c); f != Fragment {
			t.Errorf("IPv4 fragment %02x: %v", flags, f)
		}
	}
	frag := func(field uint16) []byte {
		b := unhex(t, golden[5].packet)
		b[40], b[48] = 44, 17 // destination options, then the fragment header in place of UDP
		b[49] = 0
		binary.BigEndian.PutUint16(b[50:], field)
		return b
	}
	in := golden[5].inner
	if _, _, f := in.Strip(frag(8), &c); f != Fragment {
		t.Errorf("IPv6, offset: %v", f)
	}
	if _, _, f := in.Strip(frag(1), &c); f != Fragment {
		t.Errorf("IPv6, more fragments: %v", f)
	}
	if _, _, f := in.Strip(frag(0), &c); f != OK {
		t.Errorf("a whole packet with a fragment header (RFC 6946): %v", f)
	}
}

// A pseudo header that no right sender makes is refused.
func TestPseudoHeader(t *testing.T) {
	good := unhex(t, "11 01 04 00 01010101 94040000 01010100 03e8 07d0 0008 1234")
	room := bytes.Repeat([]byte{0xee}, ipv6Len)
	restore := func(in Inner, b []byte) Fault {
		_, f := in.Restore(append(bytes.Clone(room), b...), ipv6Len, ProtoBEETPH, &Carried{})
		return f
	}
	in := Inner{a4, b4}
	if f := restore(in, good); f != OK {
		t.Fatal(f)
	}
	for n := range 16 {
		if f := restore(in, good[:n]); f != PseudoHeader {
			t.Errorf("%d octets of it: %v", n, f)
		}
	}
	for what, change := range map[string]func(b []byte){
		"longer than the packet":       func(b []byte) { b[1] = 200 },
		"padding of two octets":        func(b []byte) { b[2] = 2 },
		"padding of 255 octets":        func(b []byte) { b[2] = 255 },
		"padding that is no NOP":       func(b []byte) { b[5] = 0 },
		"another pseudo header inside": func(b []byte) { b[0] = ProtoBEETPH },
	} {
		b := bytes.Clone(good)
		change(b)
		if f := restore(in, b); f != PseudoHeader {
			t.Errorf("%s: %v", what, f)
		}
	}
	long := append([]byte{17, 5, 0, 0}, bytes.Repeat([]byte{1}, 60)...)
	if f := restore(in, long); f != PseudoHeader {
		t.Errorf("44 octets of options: %v", f)
	}
	if f := restore(Inner{a6, b6}, good); f != PseudoHeader {
		t.Errorf("options of an IPv6 header: %v", f)
	}
	if _, f := in.Restore(make([]byte, 30), 19, 17, &Carried{}); f != NoRoom {
		t.Errorf("19 octets before the payload: %v", f)
	}
	if _, f := in.Restore(make([]byte, 65536+10), 20, 17, &Carried{}); f != Malformed {
		t.Errorf("more than an IPv4 packet: %v", f)
	}
}

// Whatever the header says comes back, but for what the outer family cannot carry.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		outer6 := rapid.Bool().Draw(t, "outer v6")
		data := rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "data")
		in := Inner{a4, b4}
		var p []byte
		if v6 {
			in = Inner{a6, b6}
			p = make([]byte, ipv6Len)
			binary.BigEndian.PutUint32(p, 6<<28|rapid.Uint32Range(0, 1<<28-1).Draw(t, "class and label"))
			binary.BigEndian.PutUint16(p[4:], uint16(len(data)))
			p[6], p[7] = 17, rapid.Byte().Draw(t, "hop limit")
			src, dst := in.Src.As16(), in.Dst.As16()
			copy(p[8:], src[:])
			copy(p[24:], dst[:])
		} else {
			words := rapid.IntRange(0, 10).Draw(t, "words of options")
			p = make([]byte, ipv4Len+4*words)
			copy(p[ipv4Len:], rapid.SliceOfN(rapid.Byte(), 4*words, 4*words).Draw(t, "options"))
			p[0], p[1] = 0x45+byte(words), rapid.Byte().Draw(t, "TOS")
			binary.BigEndian.PutUint16(p[2:], uint16(len(p)+len(data)))
			binary.BigEndian.PutUint16(p[4:], rapid.Uint16().Draw(t, "ID"))
			if rapid.Bool().Draw(t, "DF") {
				p[6] = 0x40
			}
			p[8], p[9] = rapid.Byte().Draw(t, "TTL"), rapid.SampledFrom([]byte{1, 6, 17, 50}).Draw(t, "protocol")
			src, dst := in.Src.As4(), in.Dst.As4()
			copy(p[12:], src[:])
			copy(p[16:], dst[:])
			binary.BigEndian.PutUint16(p[10:], headerChecksum(p))
		}
		p = append(p, data...)
		work := bytes.Clone(p)
		var c Carried
		off, next, f := in.Strip(work, &c)
		if f != OK {
			t.Fatal(f)
		}
		if overhead := len(work) - off - len(data); !v6 && overhead > 0 && overhead%8 != 0 {
			t.Fatalf("the pseudo header with options has %d octets", overhead)
		}
		if outer6 {
			c.ID, c.DF = 0, true
		} else {
			c.FlowLabel = 0
		}
		buf := append(bytes.Repeat([]byte{0xee}, ipv6Len), work[off:]...)
		start, f := in.Restore(buf, ipv6Len, next, &c)
		if f != OK {
			t.Fatal(f)
		}
		switch {
		case v6 && !outer6:
			p[1], p[2], p[3] = p[1]&0xf0, 0, 0
		case !v6 && outer6:
			p[4], p[5], p[6], p[10], p[11] = 0, 0, 0x40, 0, 0
			binary.BigEndian.PutUint16(p[10:], headerChecksum(p[:int(p[0]&15)*4]))
		}
		if !bytes.Equal(buf[start:], p) {
			t.Fatalf("got  %x\nwant %x", buf[start:], p)
		}
	})
}

// No packet allocates.
func TestAllocs(t *testing.T) {
	for _, g := range golden {
		packet := unhex(t, g.packet)
		buf := make([]byte, 64+len(packet))
		if n := testing.AllocsPerRun(100, func() {
			work := buf[64:]
			copy(work, packet)
			var c Carried
			off, next, f := g.inner.Strip(work, &c)
			if f != OK {
				t.Fatal(f)
			}
			if _, f := g.inner.Restore(buf, 64+off, next, &c); f != OK {
				t.Fatal(f)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", g.what, n)
		}
	}
}

// Any payload that is restored is a packet that is stripped again to the same.
func FuzzRestore(f *testing.F) {
	for _, g := range golden {
		f.Add(unhex(f, g.payload), g.next, g.inner.Dst.Is4())
	}
	f.Fuzz(func(t *testing.T, payload []byte, next uint8, is4 bool) {
		in := Inner{a6, b6}
		if is4 {
			in = Inner{a4, b4}
		}
		c := Carried{TOS: 1, TTL: 2, DF: true}
		buf := append(make([]byte, ipv6Len), payload...)
		start, fault := in.Restore(buf, ipv6Len, next, &c)
		if fault != OK {
			return
		}
		var d Carried
		off, n, fault := in.Strip(buf[start:], &d)
		if fault == Fragment && !is4 {
			return // a peer may send fragments of IPv6: their header is in the payload
		}
		if fault != OK || d != c && is4 {
			t.Fatalf("what was restored is not stripped: %v %+v", fault, d)
		}
		if n != next && next != ProtoBEETPH {
			t.Fatalf("next header %d, was %d", n, next)
		}
		if next == ProtoBEETPH && payload[1] == 0 && payload[2] == 4 {
			return // a pseudo header without options is not made here
		}
		got := bytes.Clone(buf[start+off:])
		if next == ProtoBEETPH {
			got[3] = payload[3] // reserved
		}
		if !bytes.Equal(got, payload) {
			t.Fatalf("payload\n got %x\nwant %x", got, payload)
		}
	})
}

// Any packet that is stripped is restored to the same.
func FuzzStrip(f *testing.F) {
	for _, g := range golden {
		f.Add(unhex(f, g.packet))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range []Inner{{a4, b4}, {a6, b6}} {
			work := bytes.Clone(b)
			var c Carried
			off, next, fault := in.Strip(work, &c)
			if fault != OK {
				continue
			}
			buf := append(make([]byte, ipv6Len), work[off:]...)
			start, fault := in.Restore(buf, ipv6Len, next, &c)
			if fault != OK && next != ProtoBEETPH {
				t.Fatalf("not restored: %v", fault)
			}
			if fault == OK && len(buf)-start != len(b) {
				t.Fatalf("%d octets became %d", len(b), len(buf)-start)
			}
		}
	})
}
