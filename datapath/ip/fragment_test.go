package ip

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func data(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// cut fragments a packet and checks each fragment.
func cut(t testing.TB, b []byte, mtu int) [][]byte {
	var out [][]byte
	emit := func(f []byte) {
		if len(f) > mtu {
			t.Fatalf("fragment of %d octets, MTU %d", len(f), mtu)
		}
		var i Info
		if fault := Parse(f, &i); fault != OK || i.TotalLen != len(f) {
			t.Fatalf("fragment is not valid: %v", fault)
		}
		out = append(out, bytes.Clone(f))
	}
	i := mustParse(t, b)
	buf := make([]byte, mtu)
	ok := false
	if i.Version == 4 {
		ok = Fragment4(b, &i, mtu, buf, emit)
	} else {
		ok = Fragment6(b, 0x1234567, mtu, buf, emit)
	}
	if !ok {
		t.Fatalf("packet of %d octets was not cut to %d", len(b), mtu)
	}
	return out
}

// A packet cut to any MTU, in any order, is put together to itself.
func TestFragmentReassemble(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		src, dst := a4, b4
		low := 68
		if rapid.Bool().Draw(rt, "v6") {
			src, dst, low = a6, b6, 100
		}
		b := packet(src, dst, ProtoUDP, data(rapid.IntRange(0, 3000).Draw(rt, "length")))
		frags := cut(t, b, rapid.IntRange(low, 2000).Draw(rt, "mtu"))
		if len(frags) > maxPieces {
			return
		}
		if len(frags) == 1 {
			if !bytes.Equal(frags[0], b) {
				rt.Fatal("a packet that fits was changed")
			}
			return
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "order"), 1))
		r.Shuffle(len(frags), func(i, j int) { frags[i], frags[j] = frags[j], frags[i] })
		asm := NewReassembler(1 << 20)
		for n, f := range frags {
			i := mustParse(t, f)
			whole, res := asm.Add(f, &i, t0)
			if last := n == len(frags)-1; last != (res == Complete) || !last && res != Waiting {
				rt.Fatalf("fragment %d of %d: %v", n+1, len(frags), res)
			}
			if res == Complete {
				want := bytes.Clone(b)
				if !bytes.Equal(whole, want) {
					rt.Fatalf("put together to\n%x, expected\n%x", whole, want)
				}
			}
		}
		if asm.Len() != 0 || asm.Used() != 0 {
			rt.Fatalf("%d packets, %d octets are left", asm.Len(), asm.Used())
		}
	})
}

// Options with the copied flag are in every fragment, others in the first only
// (RFC 791, Section 3.1); a fragment can be cut again.
func TestFragmentOptions(t *testing.T) {
	b := packet(a4, b4, ProtoUDP, data(108))
	opts := []byte{7, 3, 4, 1, 148, 4, 0, 0} // record route, no-operation, router alert
	b = append(b[:20:20], append(opts, b[20:]...)...)
	b[0] = 0x47
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], Checksum(b[:28], 0))
	frags := cut(t, b, 92)
	if len(frags) != 2 || frags[0][0] != 0x47 || frags[1][0] != 0x46 || !bytes.Equal(frags[1][20:24], opts[4:]) {
		t.Fatalf("%d fragments, headers %x %x", len(frags), frags[0][:28], frags[1][:28])
	}
	asm := NewReassembler(1 << 20)
	var whole []byte
	for _, f := range append(cut(t, frags[0], 76), frags[1]) {
		i := mustParse(t, f)
		whole, _ = asm.Add(f, &i, t0)
	}
	if !bytes.Equal(whole, b) {
		t.Errorf("put together to\n%x, expected\n%x", whole, b)
	}
	df := packet(a4, b4, ProtoUDP, data(100))
	df[6] = 0x40
	i := mustParse(t, packet(a4, b4, ProtoUDP, data(100)))
	i.DF = true
	if Fragment4(df, &i, 68, make([]byte, 68), func([]byte) {}) {
		t.Error("a packet with DF was cut")
	}
}

// RFC 5722: an overlap kills the whole packet, and the rest of it is swallowed.
func TestReassemblyRejects(t *testing.T) {
	frags := cut(t, packet(a6, b6, ProtoUDP, data(200)), 112) // pieces of 64
	info := func(b []byte) *Info { i := mustParse(t, b); return &i }
	overlap := bytes.Clone(frags[1])
	binary.BigEndian.PutUint16(overlap[42:], 56|1)
	secondEnd := bytes.Clone(frags[1])
	secondEnd[43] &^= 1
	for what, c := range map[string]struct {
		order [][]byte
		want  ReassemblyResult
	}{
		"overlap":                {[][]byte{frags[0], overlap}, Overlap},
		"overlap in reverse":     {[][]byte{overlap, frags[0]}, Overlap},
		"the same piece again":   {[][]byte{frags[0], frags[0]}, Overlap},
		"two ends":               {[][]byte{frags[3], secondEnd}, Conflict},
		"a piece behind the end": {[][]byte{secondEnd, frags[2]}, Conflict},
	} {
		asm := NewReassembler(1 << 20)
		var res ReassemblyResult
		for _, f := range c.order {
			_, res = asm.Add(f, info(f), t0)
		}
		if res != c.want {
			t.Errorf("%s: %v, expected %v", what, res, c.want)
		}
		for _, f := range frags {
			if _, res := asm.Add(f, info(f), t0); res == Complete || res == Waiting {
				t.Errorf("%s: a later piece of the refused packet: %v", what, res)
			}
		}
		asm.Sweep(t0.Add(ReassemblyTime))
		if asm.Len() != 0 || asm.Used() != 0 || asm.Expired != 1 {
			t.Errorf("%s: after the time %d packets, %d octets, %d expired", what, asm.Len(), asm.Used(), asm.Expired)
		}
	}
}

// A stranger's fragments never take more than the budget; the oldest packet goes first.
func TestReassemblyBudget(t *testing.T) {
	const budget = 10_000
	asm := NewReassembler(budget)
	for n := range 2000 {
		b := packet(a4, b4, ProtoUDP, data(800))
		binary.BigEndian.PutUint16(b[4:], uint16(n))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], Checksum(b[:20], 0))
		f := cut(t, b, 500)[0]
		i := mustParse(t, f)
		asm.Add(f, &i, t0.Add(time.Duration(n)))
		if asm.Used() > budget {
			t.Fatalf("%d octets, budget %d", asm.Used(), budget)
		}
	}
	if asm.Evicted == 0 || asm.Len() == 0 {
		t.Errorf("%d evicted, %d wait", asm.Evicted, asm.Len())
	}
	big := packet(a4, b4, ProtoUDP, data(8000))
	pieces := 0
	for _, f := range cut(t, big, 68) {
		i := mustParse(t, f)
		if _, res := asm.Add(f, &i, t0.Add(time.Second)); res == TooMany {
			pieces++
		}
	}
	if pieces == 0 {
		t.Errorf("more than %d pieces were accepted", maxPieces)
	}
}

func FuzzReassembly(f *testing.F) {
	for _, b := range [][]byte{packet(a4, b4, ProtoUDP, data(200)), packet(a6, b6, ProtoUDP, data(200))} {
		var seed []byte
		i := mustParse(f, b)
		emit := func(p []byte) { seed = append(append(seed, byte(len(p))), p...) }
		if i.Version == 4 {
			Fragment4(b, &i, 108, make([]byte, 108), emit)
		} else {
			Fragment6(b, 7, 120, make([]byte, 120), emit)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		asm := NewReassembler(4000)
		now := t0
		for len(b) > 0 {
			n := min(int(b[0]), len(b)-1)
			p := b[1 : 1+n]
			b = b[1+n:]
			now = now.Add(time.Second)
			var i Info
			if Parse(p, &i) != OK || !i.Fragmented {
				continue
			}
			whole, res := asm.Add(p, &i, now)
			if (res == Complete) != (whole != nil) {
				t.Fatalf("%v with %d octets", res, len(whole))
			}
			if whole != nil && whole[0]>>4 == 4 {
				if fault := Parse(whole, &i); fault != OK || i.Fragmented {
					t.Fatalf("put together to an invalid packet: %v", fault)
				}
			}
			if asm.Used() > 4000 || asm.Used() < 0 {
				t.Fatalf("%d octets, budget 4000", asm.Used())
			}
		}
		asm.Sweep(now.Add(time.Hour))
		if asm.Used() != 0 || asm.Len() != 0 {
			t.Fatalf("%d octets are left after all times", asm.Used())
		}
	})
}
