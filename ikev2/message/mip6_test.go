package message

import (
	"bytes"
	"net/netip"
	"testing"

	"iked/internal/vectors"
)

const (
	homePrefixHex = "00000e10" + "20010db8000100000000000000000000" + "40"
	homeAgentHex  = "20010db8000000000000000000000001" + "c0000201"
)

// RFC 5026, Section 5.2, and 3GPP TS 24.302: the octets of the attributes; no prefix of
// a value is one, none with an octet more, and none whose prefix or address no link or
// host has.
func TestMIP6Attributes(t *testing.T) {
	p := HomePrefix{Lifetime: 3600, Prefix: netip.MustParsePrefix("2001:db8:1::/64")}
	if a := p.Attribute(); a.Type != 16 || !bytes.Equal(a.Value, vectors.Bytes(t, homePrefixHex)) {
		t.Errorf("%v is written as %d %x", p, a.Type, a.Value)
	}
	h := HomeAgent{Addr: netip.MustParseAddr("2001:db8::1"), Addr4: netip.MustParseAddr("192.0.2.1")}
	if a := h.Attribute(); a.Type != 19 || !bytes.Equal(a.Value, vectors.Bytes(t, homeAgentHex)) {
		t.Errorf("%v is written as %d %x", h, a.Type, a.Value)
	}
	if got, ok := (CPAttribute{Value: vectors.Bytes(t, homePrefixHex)}).HomePrefix(); !ok || got != p {
		t.Errorf("read as %v, %t", got, ok)
	}
	if got, ok := (CPAttribute{Value: vectors.Bytes(t, homeAgentHex)}).HomeAgent(); !ok || got != h {
		t.Errorf("read as %v, %t", got, ok)
	}
	h.Addr4 = netip.Addr{}
	if got, ok := h.Attribute().HomeAgent(); !ok || got != h {
		t.Errorf("without IPv4, read as %v, %t", got, ok)
	}
	// Host bits of a prefix do not count.
	if got, ok := (CPAttribute{Value: vectors.Bytes(t, "00000e10"+"20010db8000100000000000000000005"+"40")}).HomePrefix(); !ok || got != p {
		t.Errorf("with host bits, read as %v, %t", got, ok)
	}
	for n := range 40 {
		b := make([]byte, n)
		copy(b, vectors.Bytes(t, homePrefixHex))
		if _, ok := (CPAttribute{Value: b}).HomePrefix(); ok != (n == 21) {
			t.Errorf("%d octets are a home prefix: %t", n, ok)
		}
		copy(b, vectors.Bytes(t, homeAgentHex))
		if _, ok := (CPAttribute{Value: b}).HomeAgent(); ok != (n == 16 || n == 20) {
			t.Errorf("%d octets are a home agent: %t", n, ok)
		}
	}
	for _, v := range []string{
		"00000e10" + "20010db8000100000000000000000000" + "81", "00000e10" + "ff020000000000000000000000000000" + "40", "00000e10" + "00000000000000000000000000000000" + "00",
		"00000e10" + "00000000000000000000ffff0a000000" + "78", "00000e10" + "fe800000000000000000000000000000" + "40",
	} {
		if got, ok := (CPAttribute{Value: vectors.Bytes(t, v)}).HomePrefix(); ok {
			t.Errorf("%s is read as %v", v, got)
		}
	}
	for _, v := range []string{"00000000000000000000000000000000", "ff020000000000000000000000000001", "00000000000000000000000000000001", homeAgentHex[:32] + "00000000", homeAgentHex[:32] + "e0000001"} {
		if got, ok := (CPAttribute{Value: vectors.Bytes(t, v)}).HomeAgent(); ok {
			t.Errorf("%s is read as %v", v, got)
		}
	}
}

// What is read of Mobile IPv6 is written as the same.
func FuzzMIP6Attributes(f *testing.F) {
	f.Add([]byte{}, true)
	for i, s := range []string{homePrefixHex, homeAgentHex, homeAgentHex[:32]} {
		f.Add(vectors.Bytes(f, s), i == 0)
	}
	f.Fuzz(func(t *testing.T, v []byte, prefix bool) {
		a := CPAttribute{Type: HomeAgentAddress, Value: v}
		if prefix {
			a.Type = MIP6HomePrefix
			if p, ok := a.HomePrefix(); ok {
				if again, ok := p.Attribute().HomePrefix(); !ok || again != p || p.Prefix != p.Prefix.Masked() {
					t.Fatalf("%x: %v, then %v %t", v, p, again, ok)
				}
			}
			return
		}
		if h, ok := a.HomeAgent(); ok && !bytes.Equal(h.Attribute().Value, v) {
			t.Fatalf("%x: %v", v, h)
		}
	})
}
