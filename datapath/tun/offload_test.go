package tun

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"iked/datapath/ip"
)

var (
	a4, b4 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	a6, b6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

// super is a TCP or UDP frame as the kernel gives it: the checksum field holds
// the pseudo header's sum.
func super(v6 bool, proto uint8, payload, gso int, seq uint32, flags byte) (Header, []byte) {
	o := ip.Outer{Src: a4, Dst: b4, Proto: proto, TTL: 64, DF: true, ID: 77}
	if v6 {
		o.Src, o.Dst = a6, b6
	}
	l4 := 20 + 12 // timestamps
	if proto == ip.ProtoUDP {
		l4 = 8
	}
	hl := o.Len()
	p := make([]byte, hl+l4+payload)
	o.Put(p, l4+payload)
	l := p[hl:]
	binary.BigEndian.PutUint16(l, 1234)
	binary.BigEndian.PutUint16(l[2:], 80)
	h := Header{Flags: flagNeedsCsum, HdrLen: uint16(hl + l4), GSOSize: uint16(gso), CsumStart: uint16(hl), CsumOffset: 16}
	if proto == ip.ProtoTCP {
		binary.BigEndian.PutUint32(l[4:], seq)
		binary.BigEndian.PutUint32(l[8:], 999)
		l[12], l[13] = 8<<4, flags
		copy(l[20:], []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2})
		h.GSOType = gsoTCPv4
		if v6 {
			h.GSOType = gsoTCPv6
		}
	} else {
		h.GSOType, h.CsumOffset = gsoUDPL4, 6
		binary.BigEndian.PutUint16(l[4:], uint16(len(l)))
	}
	for i := range payload {
		l[l4+i] = byte(i * 7)
	}
	binary.BigEndian.PutUint16(l[h.CsumOffset:], ^ip.Fold(pseudo(p, v6, proto, len(l))))
	return h, p
}

func split(t testing.TB, h Header, p []byte) [][]byte {
	t.Helper()
	var info ip.Info
	if f := ip.Parse(p, &info); f != ip.OK {
		t.Fatal(f)
	}
	var s Splitter
	if err := s.Start(h, bytes.Clone(p), &info); err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for {
		buf := make([]byte, s.Max())
		n := s.Next(buf)
		if n == 0 {
			return out
		}
		out = append(out, buf[:n])
	}
}

// collect is a queue that keeps frames.
type collect struct{ frames [][]byte }

func (c *collect) Read([]byte, bool) (int, error) { return 0, ErrAgain }
func (c *collect) Write(p [][]byte) error {
	c.frames = append(c.frames, bytes.Join(p, nil))
	return nil
}

// Every packet of a split frame is valid by itself: lengths, checksums, sequence
// numbers, flags on the right one. Joined again they are the frame.
func TestSplitAndJoin(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []uint8{ip.ProtoTCP, ip.ProtoUDP} {
			for _, payload := range []int{1, 999, 1000, 1001, 5000, 60000} {
				t.Run(fmt.Sprintf("v6=%v proto=%d payload=%d", v6, proto, payload), func(t *testing.T) {
					h, p := super(v6, proto, payload, 1000, 0xffffff00, tcpACK|tcpPSH)
					segs := split(t, h, p)
					if want := (payload + 999) / 1000; len(segs) != want {
						t.Fatalf("%d packets, want %d", len(segs), want)
					}
					c := &collect{}
					j := NewCoalescer(c)
					for i, s := range segs {
						var info ip.Info
						if f := ip.Parse(s, &info); f != ip.OK || info.TotalLen != len(s) {
							t.Fatalf("packet %d: %v, %d of %d octets", i, f, info.TotalLen, len(s))
						}
						if sum := checksum(s, info.HeaderLen, v6, proto); sum != 0 {
							t.Errorf("packet %d: checksum off by %04x", i, sum)
						}
						if proto == ip.ProtoTCP {
							l := s[info.HeaderLen:]
							if seq := binary.BigEndian.Uint32(l[4:]); seq != 0xffffff00+uint32(i*1000) {
								t.Errorf("packet %d: sequence number %x", i, seq)
							}
							if psh := l[13]&tcpPSH != 0; psh != (i == len(segs)-1) {
								t.Errorf("packet %d: PSH %v", i, psh)
							}
						}
						j.Add(s, &info)
					}
					j.Flush()
					if len(c.frames) != 1 {
						t.Fatalf("%d frames, want 1", len(c.frames))
					}
					got := c.frames[0]
					if len(segs) == 1 {
						if !bytes.Equal(got[HeaderLen:], segs[0]) || ParseHeader(got).GSOType != gsoNone {
							t.Error("a single packet must stay as it is")
						}
						return
					}
					if gh := ParseHeader(got); gh != h {
						t.Errorf("header %+v, want %+v", gh, h)
					}
					if !bytes.Equal(got[HeaderLen:], p) {
						t.Errorf("frame differs\n got %x\nwant %x", got[HeaderLen:100], p[:90])
					}
				})
			}
		}
	}
}

// A packet whose checksum is only prepared gets its checksum.
func TestChecksumIsCompleted(t *testing.T) {
	for _, proto := range []uint8{ip.ProtoTCP, ip.ProtoUDP} {
		h, p := super(false, proto, 333, 0, 5, tcpACK)
		h.GSOType = gsoNone
		s := split(t, h, p)
		if len(s) != 1 || checksum(s[0], 20, false, proto) != 0 {
			t.Errorf("protocol %d: %d packets, checksum off by %04x", proto, len(s), checksum(s[0], 20, false, proto))
		}
	}
}

// Packets that are no continuation are never joined, and a flow keeps its order.
func TestJoinKeepsApart(t *testing.T) {
	h, p := super(false, ip.ProtoTCP, 3000, 1000, 1, tcpACK)
	for name, change := range map[string]func(s [][]byte) [][]byte{
		"a gap":          func(s [][]byte) [][]byte { return [][]byte{s[0], s[2]} },
		"wrong order":    func(s [][]byte) [][]byte { return [][]byte{s[1], s[0]} },
		"bad checksum":   func(s [][]byte) [][]byte { s[1][60] ^= 1; return s[:2] },
		"first is bad":   func(s [][]byte) [][]byte { s[0][60] ^= 1; return s[:2] },
		"other TOS":      func(s [][]byte) [][]byte { ip.SetTOS(s[1], 3); return s[:2] },
		"other flow":     func(s [][]byte) [][]byte { s[1][20] ^= 1; fix(s[1]); return s[:2] },
		"FIN":            func(s [][]byte) [][]byte { s[1][33] |= tcpFIN; fix(s[1]); return s[:2] },
		"other window":   func(s [][]byte) [][]byte { s[1][34] ^= 1; fix(s[1]); return s[:2] },
		"other options":  func(s [][]byte) [][]byte { s[1][48] ^= 1; fix(s[1]); return s[:2] },
		"longer follows": func(s [][]byte) [][]byte { return [][]byte{shorten(s[0]), s[1]} },
	} {
		t.Run(name, func(t *testing.T) {
			in := change(split(t, h, p))
			c := &collect{}
			j := NewCoalescer(c)
			for _, s := range in {
				var info ip.Info
				if f := ip.Parse(s, &info); f != ip.OK {
					t.Fatal(f)
				}
				j.Add(s, &info)
			}
			j.Flush()
			if len(c.frames) != len(in) {
				t.Fatalf("%d frames, want %d", len(c.frames), len(in))
			}
			for i := range in {
				if !bytes.Equal(c.frames[i][HeaderLen:], in[i]) {
					t.Errorf("frame %d is not packet %d", i, i)
				}
			}
		})
	}
}

// fix makes the TCP checksum right again.
func fix(p []byte) {
	p[36], p[37] = 0, 0
	binary.BigEndian.PutUint16(p[36:], checksum(p, 20, false, ip.ProtoTCP))
}

// shorten takes 10 octets away, so that the next does not follow.
func shorten(p []byte) []byte {
	p = p[:len(p)-10]
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ip.Checksum(p[:20], 0))
	fix(p)
	return p
}

// More flows than can be joined at a time lose nothing.
func TestManyFlows(t *testing.T) {
	c := &collect{}
	j := NewCoalescer(c)
	n := 0
	for seg := range 4 {
		for flow := range 3 * maxGroups {
			_, p := super(false, ip.ProtoTCP, 100, 0, uint32(1+100*seg), tcpACK)
			binary.BigEndian.PutUint16(p[20:], uint16(flow))
			fix(p)
			var info ip.Info
			ip.Parse(p, &info)
			j.Add(p, &info)
			n++
		}
	}
	j.Flush()
	total := 0
	for _, f := range c.frames {
		total += (len(f) - HeaderLen - 52) / 100
	}
	if total != n {
		t.Errorf("%d packets came out, want %d", total, n)
	}
}

// A header that does not fit its packet is an error, never a panic.
func FuzzSplit(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []uint8{ip.ProtoTCP, ip.ProtoUDP} {
			h, p := super(v6, proto, 2500, 1000, 1, tcpACK)
			var b [HeaderLen]byte
			h.Put(b[:])
			f.Add(append(b[:], p...))
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < HeaderLen || len(frame) > MaxFrame {
			return
		}
		var info ip.Info
		if ip.Parse(frame[HeaderLen:], &info) != ip.OK {
			return
		}
		var s Splitter
		if s.Start(ParseHeader(frame), bytes.Clone(frame[HeaderLen:]), &info) != nil {
			return
		}
		buf := make([]byte, s.Max())
		for n := 0; s.Next(buf) != 0; n++ {
			if n > 65535 {
				t.Fatal("does not end")
			}
		}
	})
}

// Joining arbitrary packets gives their octets back: nothing is lost or doubled.
func FuzzJoin(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, s1, s2 uint64) {
		r := rand.New(rand.NewPCG(s1, s2))
		c := &collect{}
		j := NewCoalescer(c)
		in := 0
		seq := uint32(r.Uint32())
		for range 100 {
			n := 1 + r.IntN(300)
			_, p := super(false, ip.ProtoTCP, n, 0, seq, tcpACK)
			fix(p)
			if r.IntN(8) == 0 {
				p[len(p)-1] ^= 0xff
			}
			if r.IntN(4) != 0 {
				seq += uint32(n)
			}
			var info ip.Info
			if ip.Parse(p, &info) != ip.OK {
				t.Fatal("own packet is invalid")
			}
			in += n
			j.Add(p, &info)
		}
		j.Flush()
		out := 0
		for _, fr := range c.frames {
			var info ip.Info
			if ip.Parse(fr[HeaderLen:], &info) != ip.OK {
				t.Fatal("frame is invalid")
			}
			for _, s := range split(t, ParseHeader(fr), fr[HeaderLen:]) {
				out += len(s) - 52
			}
		}
		if in != out {
			t.Fatalf("%d octets in, %d out", in, out)
		}
	})
}

// Splitting and joining allocate nothing.
func TestNoAllocation(t *testing.T) {
	h, p := super(false, ip.ProtoTCP, 20000, 1000, 1, tcpACK)
	var info ip.Info
	ip.Parse(p, &info)
	bufs := make([][]byte, 32)
	for i := range bufs {
		bufs[i] = make([]byte, 1500)
	}
	var s Splitter
	j := NewCoalescer(NewMemory(1, 1400, nil).Queues()[0])
	var seg ip.Info
	if n := testing.AllocsPerRun(50, func() {
		if err := s.Start(h, p, &info); err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			n := s.Next(bufs[i])
			if n == 0 {
				break
			}
			ip.Parse(bufs[i][:n], &seg)
			j.Add(bufs[i][:n], &seg)
		}
		j.Flush()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
