package esp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"iked/crypto/suite"
	"iked/datapath/ip"
	"iked/datapath/ipcomp"
	"iked/sad"
	"iked/spd"
)

// room is memory for restored payloads, of which a test has one at a time.
type room struct {
	b    []byte
	used int
}

func newRoom() *room           { return &room{b: make([]byte, RestoreRoom)} }
func (r *room) Take() []byte   { return r.b }
func (r *room) Used(n int)     { r.used = n }
func scratch(r *room) *Scratch { return &Scratch{Memory: r} }

const testCPI = 0x1234

// noisy puts random octets behind the header of a packet, so that it does not shrink.
func noisy(b []byte, from int) []byte {
	r := rand.New(rand.NewPCG(5, 6))
	for i := from; i < len(b); i++ {
		b[i] = byte(r.Uint32())
	}
	return b
}

// RFC 3173, Sections 2 and 3: in tunnel and transport mode, over IP and in UDP, with
// every algorithm, what shrinks is sent compressed, with the CPI of the receiver and the
// number of what it was, and arrives as it was; what does not is sent as it is.
func TestCompression(t *testing.T) {
	cases := append(hostCases()[:2:2],
		hostCase{"tunnel, 4 in 4", spd.Tunnel, "192.0.2.1", "192.0.2.2", udp4(1300, 0, true)},
		hostCase{"tunnel, 6 in 4", spd.Tunnel, "192.0.2.1", "192.0.2.2", udp6(1300, 0)},
		hostCase{"tunnel, 4 in 6", spd.Tunnel, "2001:db8::1", "2001:db8::2", udp4(1300, 0, true)},
		hostCase{"transport, options", spd.Transport, "10.1.0.1", "10.2.0.1", withOptions(udp4(1300, 0, true), 3)},
		hostCase{"tunnel, jumbo", spd.Tunnel, "192.0.2.1", "192.0.2.2", udp4(3900, 0, false)},
	)
	for _, a := range algorithms {
		for _, c := range cases {
			for _, encap := range []bool{false, true} {
				for _, noise := range []bool{false, true} {
					packet := bytes.Clone(c.packet)
					if noise {
						head := parse(t, packet).HeaderLen + 8
						noisy(packet, head)
					}
					sa := newSA(t, a.encr, a.keyBits, a.in)
					sa.CPI = testCPI
					if encap {
						sa.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500}
					}
					o, in := hostPair(t, sa, &c, 9000)
					buf, s := sealed(t, o, packet)
					if shorter := s.Len < len(packet)-300; shorter == noise {
						t.Fatalf("%s, %s: %d octets became %d", a.name, c.name, len(packet), s.Len)
					}
					start, inside := o.Encapsulate(buf, &s)
					outer := parse(t, buf[start:s.Off+s.Len])
					if want := map[bool]uint8{false: ip.ProtoESP, true: ip.ProtoUDP}[encap]; outer.Proto != want || outer.TotalLen != s.Off+s.Len-start {
						t.Fatalf("%s, %s: outer header %+v", a.name, c.name, outer)
					}
					if s.Special && encap {
						continue // a socket sends none
					}
					at, from := arrived(t, buf, &s, start, inside)
					var out Opened
					if need := in.Room(); at < need {
						t.Fatal("no room")
					}
					if d := in.OpenAt(scratch(newRoom()), buf[:s.Off+s.Len], at, &from, &out); d != Pass || !bytes.Equal(out.Packet, packet) {
						t.Fatalf("%s, %s, UDP %t, noise %t: %v\n got %x\nwant %x", a.name, c.name, encap, noise, d, out.Packet, packet)
					}
				}
			}
		}
	}
}

// The octets inside of ESP: next header 108, and IPComp with what it was.
func TestCompressionLayout(t *testing.T) {
	sa := newSA(t, suite.EncrNull, 0, suite.IntegHMACSHA256)
	sa.CPI = testCPI
	o, _ := pair(t, sa)
	packet := udp4(1300, 0, true)
	buf, s := sealed(t, o, packet)
	b := esp(buf, s)
	text, next, ok := trim(b[HeaderLen : len(b)-o.cipher.ICVLen()])
	if !ok || next != 108 || text[0] != ip.ProtoIPv4 || text[1] != 0 || binary.BigEndian.Uint16(text[2:]) != testCPI {
		t.Fatalf("next header %d: %x", next, text[:8])
	}
	var c ipcomp.Coder
	back := make([]byte, 2000)
	if n, err := c.Restore(back, text[4:]); err != nil || !bytes.Equal(back[:n], packet) {
		t.Errorf("%d octets, %v", n, err)
	}
	// RFC 3173, Section 2.2: what is short is left alone.
	buf, s = sealed(t, o, udp4(ipcomp.Threshold-1, 0, true))
	b = esp(buf, s)
	if _, next, _ := trim(b[HeaderLen : len(b)-o.cipher.ICVLen()]); next != ip.ProtoIPv4 {
		t.Errorf("a short packet has next header %d", next)
	}
}

// RFC 3173, Section 2.2: after payloads that do not shrink, some are not tried, and
// the first that does ends that.
func TestAdaptiveCompression(t *testing.T) {
	sa := gcmSA(t)
	sa.CPI = testCPI
	o, _ := pair(t, sa)
	noise := noisy(udp4(1300, 0, true), 28)
	for range patience {
		sealed(t, o, noise)
	}
	plain := 0
	for {
		if _, s := sealed(t, o, udp4(1300, 0, true)); s.Len < 1000 {
			break
		}
		if plain++; plain > mostSkips {
			t.Fatal("compression does not come back")
		}
	}
	if plain == 0 {
		t.Error("nothing was skipped")
	}
	for range 10 {
		if _, s := sealed(t, o, udp4(1300, 0, true)); s.Len > 1000 {
			t.Error("a payload that shrinks was skipped")
		}
	}
	for range 5000 {
		sealed(t, o, noise)
	}
	if n := o.gain.skip.Load(); n > mostSkips {
		t.Errorf("%d payloads are skipped", n)
	}
}

// What an authentic peer may write inside: each fault has its reason, and a stream
// that stands for more than a packet costs no more than a packet.
func TestCompressionFaults(t *testing.T) {
	sa := gcmSA(t)
	sa.CPI = testCPI
	good := udp4(1300, 0, true)
	packed := func(next uint8, cpi uint16, b []byte) []byte {
		var c ipcomp.Coder
		out := make([]byte, 4+len(b))
		n, ok := c.Compress(out[4:], b)
		if !ok {
			t.Fatal("it does not shrink")
		}
		ipcomp.Put(out, next, cpi)
		return out[:4+n]
	}
	var known CPIs
	known.Set(0x2345)
	for name, c := range map[string]struct {
		text []byte
		want Drop
	}{
		"right":                        {packed(ip.ProtoIPv4, testCPI, good), Pass},
		"the CPI of another SA":        {packed(ip.ProtoIPv4, 0x2345, good), Pass},
		"a CPI that nobody gave":       {packed(ip.ProtoIPv4, 0x3456, good), UnknownCPI},
		"the well known CPI":           {packed(ip.ProtoIPv4, 2, good), UnknownCPI},
		"no header":                    {[]byte{4, 0, 0x12}, BadCompression},
		"compressed twice":             {packed(ipcomp.Proto, testCPI, good), BadCompression},
		"a dummy":                      {packed(ip.ProtoNoNext, testCPI, good), BadCompression},
		"noise":                        {append([]byte{4, 0, 0x12, 0x34}, 0xff, 0xff, 0xff), BadCompression},
		"padding behind":               {append(packed(ip.ProtoIPv4, testCPI, good), 0, 0, 0), Pass},
		"cut":                          {packed(ip.ProtoIPv4, testCPI, good)[:100], BadCompression},
		"another version":              {packed(ip.ProtoIPv6, testCPI, good), InnerVersion},
		"no packet":                    {packed(ip.ProtoIPv4, testCPI, make([]byte, 500)), InnerVersion},
		"a protocol that is no mode's": {packed(ip.ProtoUDP, testCPI, good), BadNextHeader},
		"the longest":                  {packed(ip.ProtoIPv4, testCPI, udp4(65535, 0, false)), Pass},
	} {
		o, in := pair(t, sa)
		in.SetCPIs(&known)
		buf := make([]byte, Headroom+len(c.text)+300+Tailroom)
		copy(buf[Headroom:], c.text)
		var s Sealed
		plain := *sa
		plain.CPI = 0
		o.sa = &plain
		if d := o.seal(new(Scratch), buf, o.Path(), payload{off: Headroom, n: len(c.text), nextHeader: ipcomp.Proto}, &s); d != Pass {
			t.Fatal(d)
		}
		r := newRoom()
		var out Opened
		if d := in.OpenAt(scratch(r), bytes.Clone(esp(buf, s)), 0, &Outer{}, &out); d != c.want || d == Pass && r.used == 0 {
			t.Errorf("%s: %v, expected %v", name, d, c.want)
		}
		if d := in.replay.Top(); d != 1 {
			t.Errorf("%s: the window is at %d", name, d)
		}
	}
	// A whole stream of more than 65535 octets, and an SA without compression.
	o, in := pair(t, sa)
	text := packed(ip.ProtoIPv4, testCPI, make([]byte, 70000))
	if d, _ := openWith(t, o, in, text); d != InflatedTooBig {
		t.Errorf("a bomb: %v", d)
	}
	plain := gcmSA(t)
	o, in = pair(t, plain)
	if d, _ := openWith(t, o, in, packed(ip.ProtoIPv4, testCPI, good)); d != BadNextHeader {
		t.Errorf("an SA without compression: %v", d)
	}
}

// openWith seals a text as IPComp and opens it.
func openWith(t testing.TB, o *Outbound, in *Inbound, text []byte) (Drop, Opened) {
	t.Helper()
	plain := *o.sa
	plain.CPI = 0
	o.sa = &plain
	buf := make([]byte, Headroom+len(text)+300+Tailroom)
	copy(buf[Headroom:], text)
	var s Sealed
	if d := o.seal(new(Scratch), buf, o.Path(), payload{off: Headroom, n: len(text), nextHeader: ipcomp.Proto}, &s); d != Pass {
		t.Fatal(d)
	}
	var out Opened
	return in.OpenAt(scratch(newRoom()), bytes.Clone(esp(buf, s)), 0, &Outer{}, &out), out
}

// FuzzInsideCompressed is a peer with the right key: any octets inside of IPComp.
func FuzzInsideCompressed(f *testing.F) {
	var c ipcomp.Coder
	b := udp4(600, 0, true)
	out := make([]byte, len(b))
	n, _ := c.Compress(out, b)
	f.Add(out[:n], uint8(4))
	f.Add([]byte{1, 0, 0, 0xff, 0xff}, uint8(41))
	f.Fuzz(func(t *testing.T, packed []byte, next uint8) {
		if len(packed) > 60000 {
			return
		}
		sa := gcmSA(t)
		sa.CPI = testCPI
		o, in := pair(t, sa)
		text := make([]byte, 4+len(packed))
		copy(text[4:], packed)
		ipcomp.Put(text, next, testCPI)
		d, out := openWith(t, o, in, text)
		check(t, d, &out)
	})
}
