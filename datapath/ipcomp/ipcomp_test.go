package ipcomp

import (
	"bytes"
	"compress/flate"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func hexOf(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dynamicStream is what zlib makes of dynamicText with a code of its own.
const (
	dynamicStream = "358f8111c0300802670574ff150a98daebb541fc2040ecac808584212cb8e407b3395853540aa49d359218bbb83ebad112795e7bfc5dca43d356991308325a9ccdbbfe53c0e860dfd1a1853366400f808acdc05cfc505123bc622b9ba15ce1e1a3fe2bead64403cad9f7351c2c9727ba093c35b40f"
	dynamicText   = "aabaedecaaeaccadbaabaaaacacaadeabaadbacaababcabbecaeaccabbadaacbeaeabcaaaaaacbbdbacaacaebacebcbabdaaaaabaaaadababaabbaaababbdbeeaabcbcababacaaacaaadcadaacbcabaaabaabbacbaaaadaacabaacaeacbeabcbaaababcabacbeaaaaaaaabbbbbbabaeaabacacaabacaaabbbadbaabaaacaaaacaadaaaaccbbebaabaaabbdcbcaabdabaebbaabaababa"
)

// Streams of RFC 1951, Section 3.2: a stored block, fixed codes, also with a reference
// into what is being written, an empty block before the last one, a block with codes
// of its own. zlib wrote those with codes.
func TestGoldenStreams(t *testing.T) {
	for name, c := range map[string]struct{ stream, want string }{
		"stored":                {"01" + "0300fcff" + "616263", "abc"},
		"fixed":                 {"4b4c4a0600", "abc"},
		"fixed, overlapping":    {"4b4cc40600", "aaaaaaaaaaaaaaaaaaaaaa"},
		"dynamic, of zlib":      {dynamicStream, dynamicText},
		"empty, then stored":    {"00" + "0000ffff" + "01" + "0100feff" + "7a", "z"},
		"padding behind is not": {"4b4c4a0600" + "0102", "abc"},
	} {
		var coder Coder
		dst := make([]byte, MaxLen)
		n, err := coder.Restore(dst, hexOf(t, c.stream))
		std, stdErr := io.ReadAll(flate.NewReader(bytes.NewReader(hexOf(t, c.stream))))
		if err != nil || stdErr != nil || string(dst[:n]) != string(std) || string(dst[:n]) != c.want {
			t.Errorf("%s: %q, %v; the standard library: %q, %v", name, dst[:n], err, std, stdErr)
		}
	}
}

// Whatever compress/flate writes, with every level and in pieces, is restored; what
// is cut anywhere is not.
func TestRestoresEveryLevel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := payload(t)
		var buf bytes.Buffer
		w, err := flate.NewWriter(&buf, rapid.IntRange(flate.HuffmanOnly, flate.BestCompression).Draw(t, "level"))
		if err != nil {
			t.Fatal(err)
		}
		for p := src; len(p) > 0; {
			n := rapid.IntRange(1, len(p)).Draw(t, "piece")
			w.Write(p[:n])
			if rapid.Bool().Draw(t, "flush") {
				w.Flush()
			}
			p = p[n:]
		}
		w.Close()
		var c Coder
		dst := make([]byte, len(src))
		if n, err := c.Restore(dst, buf.Bytes()); err != nil || !bytes.Equal(dst[:n], src) {
			t.Fatalf("%d octets of %d: %v", n, len(src), err)
		}
		if len(src) > 0 {
			if _, err := c.Restore(dst[:len(src)-1], buf.Bytes()); !errors.Is(err, ErrTooLong) {
				t.Fatalf("into one octet less: %v", err)
			}
		}
		if cut := rapid.IntRange(0, buf.Len()-1).Draw(t, "cut"); true {
			if n, err := c.Restore(dst, buf.Bytes()[:cut]); err == nil {
				t.Fatalf("%d of %d octets give %d", cut, buf.Len(), n)
			}
		}
	})
}

// payload is more or less compressible.
func payload(t *rapid.T) []byte {
	n := rapid.IntRange(0, 9000).Draw(t, "length")
	r := rand.New(rand.NewPCG(uint64(n), rapid.Uint64().Draw(t, "seed")))
	letters := rapid.IntRange(1, 256).Draw(t, "letters")
	b := make([]byte, n)
	for i := range b {
		if i > 64 && r.IntN(4) == 0 {
			// A repetition of something before, near or far.
			from := r.IntN(i)
			i0 := i
			for ; i < len(b) && i-i0 < 20; i++ {
				b[i] = b[from+i-i0]
			}
			continue
		}
		if b[i] == 0 {
			b[i] = byte(r.IntN(letters))
		}
	}
	return b
}

// RFC 3173, Section 2.2: what is sent compressed is shorter, and is restored by us
// and by the standard library. No reference goes further back than 2 KiB.
func TestCompress(t *testing.T) {
	var c Coder
	rapid.Check(t, func(t *rapid.T) {
		src := payload(t)
		limit := rapid.IntRange(0, len(src)+10).Draw(t, "limit")
		dst := make([]byte, limit)
		n, ok := c.Compress(dst, src)
		if !ok {
			if limit >= len(src) && len(src) > 0 && limit > 64 && bytes.Equal(src, bytes.Repeat(src[:1], len(src))) {
				t.Fatalf("%d equal octets do not shrink", len(src))
			}
			return
		}
		if n >= limit {
			t.Fatalf("%d octets, expected fewer than %d", n, limit)
		}
		std, err := io.ReadAll(flate.NewReader(bytes.NewReader(dst[:n])))
		if err != nil || !bytes.Equal(std, src) {
			t.Fatalf("the standard library: %v", err)
		}
		back := make([]byte, len(src))
		if m, err := c.Restore(back, dst[:n]); err != nil || !bytes.Equal(back[:m], src) {
			t.Fatal(err)
		}
	})
	// The same 1000 random octets 3000 apart: a reference would make them few.
	r := rand.New(rand.NewPCG(1, 2))
	part := make([]byte, 1000)
	for i := range part {
		part[i] = byte(r.Uint32())
	}
	src := append(append(bytes.Clone(part), make([]byte, 3000)...), part...)
	dst := make([]byte, len(src))
	if n, ok := c.Compress(dst, src); !ok || n < 1950 {
		t.Errorf("%d octets: a reference goes back further than the window of peers", n)
	}
	if m, err := c.Restore(make([]byte, len(src)), dst); err != nil || m != len(src) {
		t.Error(m, err)
	}
}

// A bomb costs no more than the buffer: 64 KiB of output, whatever it stands for.
func TestBomb(t *testing.T) {
	var buf bytes.Buffer
	w, _ := flate.NewWriter(&buf, flate.BestCompression)
	w.Write(make([]byte, 50<<20))
	w.Close()
	var c Coder
	if _, err := c.Restore(make([]byte, MaxLen), buf.Bytes()); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
}

// Streams that no right compressor makes.
func TestCorruptStreams(t *testing.T) {
	var c Coder
	for name, s := range map[string]string{
		"nothing":                        "",
		"block type 3":                   "07",
		"stored, lengths differ":         "01" + "0300fcfe" + "616263",
		"stored, cut":                    "01" + "0300fcff" + "6162",
		"no last block":                  "00" + "0000ffff",
		"too many length codes":          "fdff" + "ffffffffffffffff",
		"a reference before the packet":  "4b04010000",
		"a distance that does not exist": "4b84ff0f00",
	} {
		dst := make([]byte, 300)
		b := hexOf(t, s)
		n, err := c.Restore(dst, b)
		std, stdErr := io.ReadAll(flate.NewReader(bytes.NewReader(b)))
		if (err == nil) != (stdErr == nil) || err == nil && !bytes.Equal(dst[:n], std) {
			t.Errorf("%s: %v; the standard library: %v", name, err, stdErr)
		}
	}
}

// RFC 3173, Section 3.3.
func TestHeader(t *testing.T) {
	b := make([]byte, HeaderLen, 10)
	Put(b, 4, 0x1234)
	if !bytes.Equal(b, []byte{4, 0, 0x12, 0x34}) {
		t.Errorf("%x", b)
	}
	b[1] = 0xff // flags are ignored
	if next, cpi, rest, ok := Parse(append(b, 9)); !ok || next != 4 || cpi != 0x1234 || !bytes.Equal(rest, []byte{9}) {
		t.Error(next, cpi, rest, ok)
	}
	for n := range HeaderLen {
		if _, _, _, ok := Parse(b[:n]); ok {
			t.Errorf("%d octets are a header", n)
		}
	}
}

// No allocation once the coder has worked, with codes of every length.
func TestAllocs(t *testing.T) {
	var c Coder
	src := make([]byte, 1400)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range src {
		src[i] = byte(r.ExpFloat64() * 12) // codes from short to long
	}
	noise := make([]byte, 1400)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	dst, back := make([]byte, len(src)), make([]byte, MaxLen)
	n, ok := c.Compress(dst, src)
	if !ok {
		t.Fatal("it does not shrink")
	}
	if got := testing.AllocsPerRun(100, func() {
		c.Compress(dst, src)
		c.Compress(make([]byte, 0), noise)
		if _, err := c.Restore(back, dst[:n]); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Restore(back, noise)
	}); got != 0 {
		t.Errorf("%v allocations for each packet", got)
	}
}

// Any octets: the standard library and this say the same.
func FuzzRestore(f *testing.F) {
	for _, s := range []string{"4b4c4a0600", "010300fcff616263", "07", "fdffffffffff"} {
		b, _ := hex.DecodeString(s)
		f.Add(b)
	}
	var buf bytes.Buffer
	w, _ := flate.NewWriter(&buf, flate.BestCompression)
	w.Write([]byte("what is protected, what is protected and what is not protected: 0123456789 abcdefghijklmnopqrstuvwxyz"))
	w.Close()
	f.Add(buf.Bytes())
	var c Coder
	f.Fuzz(func(t *testing.T, b []byte) {
		dst := make([]byte, 4096)
		n, err := c.Restore(dst, b)
		std, stdErr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), int64(len(dst)+1)))
		switch {
		case errors.Is(err, ErrTooLong):
			// What comes later may be corrupt as well.
			if len(std) <= len(dst) && stdErr == nil {
				t.Errorf("too long, of %d octets", len(std))
			}
		case (err == nil) != (stdErr == nil):
			t.Errorf("%v; the standard library: %v", err, stdErr)
		case err == nil && !bytes.Equal(dst[:n], std):
			t.Errorf("%x, expected %x", dst[:n], std)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	var c Coder
	src := bytes.Repeat([]byte("GET /index.html HTTP/1.1\r\nHost: www.example.org\r\n"), 28)
	dst := make([]byte, len(src))
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		c.Compress(dst, src)
	}
}

func BenchmarkRestore(b *testing.B) {
	var c Coder
	src := bytes.Repeat([]byte("GET /index.html HTTP/1.1\r\nHost: www.example.org\r\n"), 28)
	dst := make([]byte, len(src))
	n, _ := c.Compress(dst, src)
	back := make([]byte, MaxLen)
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if _, err := c.Restore(back, dst[:n]); err != nil {
			b.Fatal(err)
		}
	}
}

// A packet that compression does not make shorter is sent as it is: where what comes out
// has just the length of the room for it, the packet must not be overwritten.
func TestNoGainLeavesThePacketAlone(t *testing.T) {
	var c Coder
	equal := 0
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		src := make([]byte, 300+r.IntN(900))
		for i := range src {
			src[i] = byte(r.IntN(16))
		}
		before := bytes.Clone(src)
		big := make([]byte, 2*len(src))
		n, ok := c.Compress(big, src)
		if !ok || n < 50 || n >= len(src) {
			continue
		}
		equal++
		room := src[len(src)-n:] // exactly as long as what comes out
		if got, ok := c.Compress(room, src); ok || got != 0 || !bytes.Equal(src, before) {
			t.Fatalf("%d octets into %d: %d, %t, changed %t", len(src), n, got, ok, !bytes.Equal(src, before))
		}
	}
	if equal == 0 {
		t.Error("no packet came out shorter")
	}
}
