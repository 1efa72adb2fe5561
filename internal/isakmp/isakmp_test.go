package isakmp

import (
	"bytes"
	"errors"
	"testing"

	"iked/internal/vectors"

	"pgregory.net/rapid"
)

func reasonOf(err error) Reason {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Reason
}

// The header of a real IKE_SA_INIT is read field by field and written back as
// the same octets.
func TestHeaderGolden(t *testing.T) {
	b := vectors.Bytes(t, "a150f12f598f9a0e9fb14c9c853ad1b22120222000000007000000e8")
	h, err := ParseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	want := Header{
		SPIi: SPI{0xa1, 0x50, 0xf1, 0x2f, 0x59, 0x8f, 0x9a, 0x0e}, SPIr: SPI{0x9f, 0xb1, 0x4c, 0x9c, 0x85, 0x3a, 0xd1, 0xb2},
		NextPayload: 33, Version: 0x20, Exchange: 34, Flags: 0x20, MessageID: 7, Length: 232,
	}
	if h != want {
		t.Errorf("got %+v, want %+v", h, want)
	}
	if h.Major() != 2 || h.Minor() != 0 {
		t.Errorf("version %d.%d, want 2.0", h.Major(), h.Minor())
	}
	if got := h.Append(nil); !bytes.Equal(got, b) {
		t.Errorf("written back as %x", got)
	}
	if s := h.SPIi.String(); s != "a150f12f598f9a0e" {
		t.Errorf("SPI prints as %q", s)
	}
	if SPIFromUint64(h.SPIi.Uint64()) != h.SPIi {
		t.Error("SPI changes on its way through a number")
	}
}

// No prefix of a header is a header.
func TestHeaderEveryPrefix(t *testing.T) {
	b := make([]byte, HeaderLen)
	for n := range b {
		if _, err := ParseHeader(b[:n]); reasonOf(err) != TruncatedHeader {
			t.Errorf("%d octets: got %v, want %s", n, err, TruncatedHeader)
		}
	}
}

// The Length field must be what arrived, for every difference and up to its
// largest value.
func TestHeaderLength(t *testing.T) {
	for _, l := range []uint32{0, 27, 99, 101, 1 << 31, 0xffffffff} {
		if err := (Header{Length: l}).CheckLength(100); reasonOf(err) != LengthMismatch {
			t.Errorf("length %d for 100 octets: got %v", l, err)
		}
	}
	if err := (Header{Length: 100}).CheckLength(100); err != nil {
		t.Error(err)
	}
}

func walk(first uint8, b []byte, lim Limits) (ps []Payload, err error) {
	c := NewChain(first, b, lim)
	for p, ok := c.Next(); ok; p, ok = c.Next() {
		ps = append(ps, p)
	}
	return ps, c.Err()
}

// Types, critical bits, offsets and bodies come out as they stand in the chain.
func TestChainGolden(t *testing.T) {
	ps, err := walk(40, vectors.Bytes(t, "29000006abcd"+"2b800004"+"0000000500"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Payload{
		{Type: 40, Next: 41, Offset: 0, Body: []byte{0xab, 0xcd}},
		{Type: 41, Next: 43, Critical: true, Offset: 6, Body: []byte{}},
		{Type: 43, Next: 0, Offset: 10, Body: []byte{0}},
	}
	if len(ps) != len(want) {
		t.Fatalf("got %d payloads, want %d", len(ps), len(want))
	}
	for i, w := range want {
		g := ps[i]
		if g.Type != w.Type || g.Next != w.Next || g.Critical != w.Critical || g.Offset != w.Offset || !bytes.Equal(g.Body, w.Body) {
			t.Errorf("payload %d: got %+v, want %+v", i, g, w)
		}
		if cap(g.Body) != len(g.Body) {
			t.Errorf("payload %d: appending to its body would write into the next payload", i)
		}
	}
}

// Each fault of a chain has its reason.
func TestChainFaults(t *testing.T) {
	for name, c := range map[string]struct {
		first uint8
		b     string
		lim   Limits
		want  Reason
	}{
		"nothing announced, octets there": {0, "00", Limits{}, TrailingOctets},
		"announced, nothing there":        {33, "", Limits{}, TruncatedPayload},
		"three octets":                    {33, "000000", Limits{}, TruncatedPayload},
		"length 0":                        {33, "00000000", Limits{}, PayloadLength},
		"length 3":                        {33, "0000000300", Limits{}, PayloadLength},
		"one octet too long":              {33, "0000000500", Limits{}, ""},
		"length beyond the end":           {33, "00000006ff", Limits{}, TruncatedPayload},
		"length 65535":                    {33, "0000ffff00", Limits{}, TruncatedPayload},
		"octets behind the last":          {33, "0000000400", Limits{}, TrailingOctets},
		"chain goes on":                   {33, "21000004", Limits{}, TruncatedPayload},
		"too many":                        {33, "21000004210000040000000400", Limits{Payloads: 2}, TooManyPayloads},
		"too long":                        {33, "00000004", Limits{Octets: 3}, TooLong},
		"octets behind SK":                {46, "2900000400", Limits{Last: [2]uint8{46, 53}}, TrailingOctets},
	} {
		if _, err := walk(c.first, vectors.Bytes(t, c.b), c.lim); reasonOf(err) != c.want {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// The cap on payloads lets exactly that many pass.
func TestChainPayloadCap(t *testing.T) {
	chain := func(n int) []byte {
		b := bytes.Repeat([]byte{43, 0, 0, 4}, n)
		b[len(b)-4] = 0
		return b
	}
	if ps, err := walk(43, chain(DefaultPayloads), Limits{}); err != nil || len(ps) != DefaultPayloads {
		t.Errorf("%d payloads: got %d, %v", DefaultPayloads, len(ps), err)
	}
	if _, err := walk(43, chain(DefaultPayloads+1), Limits{}); reasonOf(err) != TooManyPayloads {
		t.Errorf("one more: got %v", err)
	}
}

// A type in Last ends the chain whatever its Next Payload says.
func TestChainLast(t *testing.T) {
	ps, err := walk(41, vectors.Bytes(t, "2e0000042300000500"), Limits{Last: [2]uint8{46, 53}})
	if err != nil || len(ps) != 2 || ps[1].Type != 46 || ps[1].Next != 35 {
		t.Errorf("got %+v, %v", ps, err)
	}
}

// With Align payloads start at multiples of it, and the last one may lack its
// padding; with Trailing what is behind the last payload is Rest.
func TestChainAlignAndTrailing(t *testing.T) {
	for _, s := range []string{"0200000501000000" + "0000000502000000", "0200000501000000" + "0000000502"} {
		ps, err := walk(1, vectors.Bytes(t, s), Limits{Align: 4})
		if err != nil || len(ps) != 2 || ps[1].Offset != 8 || ps[1].Body[0] != 2 {
			t.Errorf("%s: got %+v, %v", s, ps, err)
		}
	}
	c := NewChain(1, vectors.Bytes(t, "00000004"+"000000"), Limits{Trailing: true})
	for _, ok := c.Next(); ok; _, ok = c.Next() {
	}
	if c.Err() != nil || !bytes.Equal(c.Rest(), []byte{0, 0, 0}) || c.Count() != 1 {
		t.Errorf("rest %x, count %d, %v", c.Rest(), c.Count(), c.Err())
	}
}

// What is written as a chain is read as the same chain, and no prefix of it is
// a chain.
func TestChainRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bodies := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 40), 1, 10).Draw(t, "bodies")
		var b []byte
		for i, body := range bodies {
			next := uint8(33)
			if i == len(bodies)-1 {
				next = NoNext
			}
			start := len(b)
			b = append(AppendPayloadHeader(b, next, i%2 == 1), body...)
			if !PutPayloadLength(b, start) {
				t.Fatal("a short payload does not fit")
			}
		}
		ps, err := walk(33, b, Limits{})
		if err != nil || len(ps) != len(bodies) {
			t.Fatalf("got %d payloads, %v", len(ps), err)
		}
		for i, p := range ps {
			if !bytes.Equal(p.Body, bodies[i]) || p.Critical != (i%2 == 1) {
				t.Fatalf("payload %d changed", i)
			}
		}
		for n := range b {
			if _, err := walk(33, b[:n], Limits{}); err == nil {
				t.Fatalf("prefix of %d of %d octets is a chain", n, len(b))
			}
		}
	})
}

// A payload of more than 65,535 octets is not written.
func TestPutPayloadLength(t *testing.T) {
	b := make([]byte, 0x10000)
	if PutPayloadLength(b, 0) {
		t.Error("65,536 octets fit")
	}
	if !PutPayloadLength(b[:0xffff], 0) || b[2] != 0xff || b[3] != 0xff {
		t.Error("65,535 octets do not fit")
	}
}

// A walk over a good chain allocates nothing.
func TestChainAllocatesNothing(t *testing.T) {
	b := vectors.Bytes(t, "29000006abcd"+"2b800004"+"0000000500")
	n := testing.AllocsPerRun(100, func() {
		c := NewChain(40, b, Limits{})
		for _, ok := c.Next(); ok; _, ok = c.Next() {
		}
		if c.Err() != nil {
			panic(c.Err())
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever arrives, a header that is read is written back the same, and a walk
// ends with bodies that lie inside of the input, one behind the other.
func FuzzHeader(f *testing.F) {
	f.Add(vectors.Bytes(f, "a150f12f598f9a0e9fb14c9c853ad1b2282022200000000700000020"+"00000004"))
	f.Add(vectors.Bytes(f, "a150f12f598f9a0e0000000000000000282022080000000000000028"+"29000006abcd"+"2b800004"+"0000000500"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			if len(b) >= HeaderLen {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(h.Append(nil), b[:HeaderLen]) {
			t.Fatal("the header changed")
		}
		rest := b[HeaderLen:]
		end := 0
		c := NewChain(h.NextPayload, rest, Limits{Last: [2]uint8{46, 53}})
		for p, ok := c.Next(); ok; p, ok = c.Next() {
			if p.Offset != end {
				t.Fatalf("payload at %d, the one before ended at %d", p.Offset, end)
			}
			end = p.Offset + PayloadHeaderLen + len(p.Body)
			if end > len(rest) {
				t.Fatalf("payload ends at %d of %d", end, len(rest))
			}
		}
		if c.Err() == nil && end != len(rest) {
			t.Fatalf("no fault, yet the walk ended at %d of %d", end, len(rest))
		}
	})
}
