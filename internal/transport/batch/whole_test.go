package batch

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is one control message.
func message(level, typ int, data []byte) []byte {
	b := make([]byte, align(cmsgHdrLen)+align(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = int32(level), int32(typ)
	h.SetLen(align(cmsgHdrLen) + len(data))
	copy(b[align(cmsgHdrLen):], data)
	return b
}

// A whole packet is what the kernel told of: header, extension headers in their
// order, payload. A chain that is broken, or too long, makes none.
func TestWhole6(t *testing.T) {
	src, dst := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	hop := []byte{60, 0, 5, 2, 0, 0, 1, 0}
	dest := []byte{43, 0, 0x3e, 4, 1, 2, 3, 4}
	route := append([]byte{51, 2, 0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte{7}, 16)...)
	mHop, mDest, mRoute := message(unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, hop), message(unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, dest), message(unix.IPPROTO_IPV6, unix.IPV6_RTHDR, route)
	ttl := message(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, []byte{63, 0, 0, 0})
	long := append([]byte{51, 255}, make([]byte, 2046)...)
	longer := append([]byte{60, 0}, make([]byte, 6)...)
	for _, c := range []struct {
		name string
		oob  [][]byte
		exts [][]byte // nil: refused
		kind byte
	}{
		{"none", [][]byte{ttl}, [][]byte{}, 51},
		{"all", [][]byte{ttl, mHop, mDest, mRoute}, [][]byte{hop, dest, route}, unix.IPPROTO_HOPOPTS},
		{"one", [][]byte{mRoute}, [][]byte{route}, unix.IPPROTO_ROUTING},
		{"a header is missing", [][]byte{mHop, mRoute}, nil, 0},
		{"the last is missing", [][]byte{mHop, mDest}, nil, 0},
		{"the longest", [][]byte{message(unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, long)}, [][]byte{long}, unix.IPPROTO_DSTOPTS},
		{"too long", [][]byte{message(unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, longer), message(unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, long)}, nil, 0},
	} {
		buf := append(make([]byte, wholeRoom), "payload"...)
		got := whole6(buf, wholeRoom, bytes.Join(c.oob, nil), &control{local: dst, tos: 0x2e, ttl: 63}, src, 51)
		if c.exts == nil {
			if got != nil {
				t.Errorf("%s: made %x", c.name, got)
			}
			continue
		}
		ext := bytes.Join(c.exts, nil)
		want := []byte{0x62, 0xe0, 0, 0, 0, 0, c.kind, 63}
		binary.BigEndian.PutUint16(want[4:], uint16(len(ext)+7))
		s, d := src.As16(), dst.As16()
		want = append(append(append(append(want, s[:]...), d[:]...), ext...), "payload"...)
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n%x, expected\n%x", c.name, got, want)
		}
	}
	// A control message that is cut says nothing.
	for n := range mRoute {
		buf := append(make([]byte, wholeRoom), "payload"...)
		if got := whole6(buf, wholeRoom, mRoute[:n], &control{local: dst}, src, 51); len(got) != sizeIPv6+7 {
			t.Errorf("%d octets of a control message gave %x", n, got)
		}
	}
}

// FuzzWhole6: extension headers are a stranger's. Whatever they hold, what is put
// together is a header, them and the payload, or nothing.
func FuzzWhole6(f *testing.F) {
	f.Add([]byte{51, 0, 1, 4, 0, 0, 0, 0}, []byte{}, []byte("payload"), uint8(unix.IPV6_HOPOPTS))
	f.Add([]byte{60, 0, 1, 4, 0, 0, 0, 0}, []byte{51, 0, 0x3e, 4, 1, 2, 3, 4}, []byte{}, uint8(unix.IPV6_HOPOPTS))
	f.Add([]byte{51}, []byte{51, 255}, []byte{1}, uint8(unix.IPV6_RTHDR))
	f.Fuzz(func(t *testing.T, first, second, payload []byte, kind uint8) {
		if len(first)+len(second) > 4000 || len(payload) > 4000 {
			return
		}
		oob := message(unix.IPPROTO_IPV6, int(kind), first)
		if len(second) > 0 {
			oob = append(oob, message(unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, second)...)
		}
		src, dst := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
		buf := append(make([]byte, wholeRoom), payload...)
		got := whole6(buf, wholeRoom, oob, &control{local: dst}, src, 51)
		if got == nil {
			return
		}
		if len(got) < sizeIPv6+len(payload) || !bytes.HasSuffix(got, payload) || int(binary.BigEndian.Uint16(got[4:])) != len(got)-sizeIPv6 {
			t.Fatalf("made %x of %x, %x and %x", got, first, second, payload)
		}
	})
}
