package message

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iked/internal/isakmp"
	"iked/internal/vectors"
)

type recording struct {
	Name     string
	Messages []struct {
		Dir string
		Hex vectors.Hex
	}
	NiB       vectors.Hex `json:"ni_b"`
	SAiB      vectors.Hex `json:"sai_b"`
	IDiiB     vectors.Hex `json:"idii_b"`
	QM1       vectors.Hex `json:"qm1_plain"`
	QM2       vectors.Hex `json:"qm2_plain"`
	QM3       vectors.Hex `json:"qm3_plain"`
	Hash1     vectors.Hex
	Hash3     vectors.Hex
	MessageID vectors.Hex `json:"qm_message_id"`
	Phase1    []struct {
		Index int
		Plain vectors.Hex
	} `json:"decrypted_phase1"`
}

func recorded(t testing.TB) []recording {
	t.Helper()
	return vectors.Load[recording](t, "recorded_handshakes.json")
}

// plain is a decrypted Quick Mode message with its header.
func (r *recording) plain(n int, b []byte) (isakmp.Header, []byte) {
	h := isakmp.Header{SPIi: isakmp.SPI{1}, NextPayload: uint8(TypeHash), Version: Version, Exchange: uint8(ExchangeQuick),
		Flags: FlagEncryption, MessageID: binary.BigEndian.Uint32(r.MessageID), Length: uint32(isakmp.HeaderLen + len(b))}
	return h, b
}

// A recorded message in clear parses, says what the recording says, and is
// written again octet by octet.
func TestRecordedMessagesInClear(t *testing.T) {
	seen := 0
	for _, r := range recorded(t) {
		for i, m := range r.Messages {
			h, err := ParseHeader(m.Hex)
			if err != nil {
				t.Fatalf("%s, message %d: %v", r.Name, i, err)
			}
			if h.Flags&FlagEncryption != 0 {
				if _, err := Parse(m.Hex); err == nil {
					t.Errorf("%s, message %d: an encrypted message was read as one in clear", r.Name, i)
				}
				continue
			}
			seen++
			msg, err := Parse(m.Hex)
			if err != nil {
				t.Fatalf("%s, message %d: %v", r.Name, i, err)
			}
			again, err := Append(nil, h, msg.Payloads)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again, m.Hex) {
				t.Errorf("%s, message %d: written again as\n%x, received as\n%x", r.Name, i, again, []byte(m.Hex))
			}
			for _, p := range msg.Payloads {
				switch p := p.(type) {
				case *SA:
					if m.Dir == "i" && !bytes.Equal(p.Raw, r.SAiB) {
						t.Errorf("%s: SAi_b is %x, recorded %x", r.Name, p.Raw, []byte(r.SAiB))
					}
					// The structure is written as it was read, without Raw too.
					if b := (&SA{Proposals: p.Proposals}).Append(nil); !bytes.Equal(b, p.Raw) {
						t.Errorf("%s: proposals written as %x, received as %x", r.Name, b, p.Raw)
					}
					checkProposal(t, p)
				case *Opaque:
					if p.Kind == TypeNonce && m.Dir == "i" && !bytes.Equal(p.Data, r.NiB) {
						t.Errorf("%s: Ni_b is %x, recorded %x", r.Name, p.Data, []byte(r.NiB))
					}
				}
			}
		}
	}
	if seen < 6 {
		t.Fatalf("only %d messages in clear were read", seen)
	}
}

// RFC 2409, Appendix A: what the recorded SA payload offers.
func checkProposal(t *testing.T, sa *SA) {
	t.Helper()
	if len(sa.Proposals) != 1 || len(sa.Proposals[0].Transforms) != 1 {
		t.Fatalf("%d proposals", len(sa.Proposals))
	}
	p := sa.Proposals[0]
	if p.Protocol != ProtoISAKMP || p.Transforms[0].ID != KeyIKE {
		t.Errorf("protocol %v, transform %d", p.Protocol, p.Transforms[0].ID)
	}
	for typ, want := range map[uint16]uint64{P1Encryption: 7, P1KeyLength: 128, P1Hash: 2, P1Group: 2, P1AuthMethod: 1, P1LifeType: 1, P1LifeDuration: 28800} {
		a, ok := p.Transforms[0].Attribute(typ)
		if v, isNumber := a.Uint(); !ok || !isNumber || v != want {
			t.Errorf("attribute %d is %d, expected %d", typ, v, want)
		}
	}
}

// RFC 2409, Section 5.5: the hash covers everything behind HASH, without padding.
func TestRecordedQuickMode(t *testing.T) {
	for _, r := range recorded(t) {
		for n, b := range [][]byte{r.QM1, r.QM2, r.QM3} {
			m, err := ParseDecrypted(r.plain(n, b))
			if err != nil {
				t.Fatalf("%s, Quick Mode %d: %v", r.Name, n+1, err)
			}
			hash, rest, ok := m.AfterHash()
			if !ok || len(hash) != 20 {
				t.Fatalf("%s, Quick Mode %d: no HASH of 20 octets", r.Name, n+1)
			}
			if n == 0 && !bytes.Equal(hash, r.Hash1) || n == 2 && !bytes.Equal(hash, r.Hash3) {
				t.Errorf("%s, Quick Mode %d: HASH %x", r.Name, n+1, hash)
			}
			if n == 2 && len(rest) != 0 {
				t.Errorf("%s: %d octets behind the hash of the third message", r.Name, len(rest))
			}
			again, err := AppendPayloads(nil, m.Payloads)
			if err != nil || !bytes.Equal(again, m.Octets) || !bytes.HasPrefix(b, again) {
				t.Errorf("%s, Quick Mode %d: written again as %x (%v)", r.Name, n+1, again, err)
			}
		}
	}
}

// What is written is what the RFCs draw.
func TestGoldenPayloads(t *testing.T) {
	for _, c := range []struct {
		name string
		p    Payload
		hex  string
	}{
		{"ID address", RangeID(netip.MustParseAddr("10.0.3.1"), netip.MustParseAddr("10.0.3.1"), 0, 0), "01000000" + "0a000301"},
		{"ID subnet", RangeID(netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("10.1.255.255"), 6, 80), "04060050" + "0a010000ffff0000"},
		{"ID range", RangeID(netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.3"), 0, 0), "07000000" + "0a0100010a010003"},
		{"ID IPv6 subnet", RangeID(netip.MustParseAddr("2001:db8::"), netip.MustParseAddr("2001:db8::ff"), 0, 0),
			"06000000" + "20010db8000000000000000000000000" + "ffffffffffffffffffffffffffffff00"},
		{"notify", &Notify{DOI: DOIIPsec, Protocol: ProtoISAKMP, SPI: bytes.Repeat([]byte{7}, 16), Kind: RUThere, Data: []byte{0, 0, 0, 9}},
			"00000001" + "01108d28" + "07070707070707070707070707070707" + "00000009"},
		{"delete", &Delete{Protocol: ProtoESP, SPIs: [][]byte{{1, 2, 3, 4}, {5, 6, 7, 8}}}, "00000001" + "03040002" + "0102030405060708"},
		{"certificate", &Cert{Encoding: CertX509Signature, Data: []byte{0x30, 0}}, "043000"},
		{"certificate request", &Cert{Request: true, Encoding: CertX509Signature}, "04"},
		{"NAT-OA", &NATOA{Addr: netip.MustParseAddr("192.0.2.1")}, "01000000c0000201"},
		{"attributes", &Attributes{Kind: CfgRequest, Identifier: 0x1234, List: []Attribute{Basic(16520, 0), Variable(16521, []byte("bob"))}},
			"01001234" + "c0880000" + "40890003626f62"},
		{"fragment", &Fragment{ID: 1, Number: 2, Last: true, Data: []byte{9}}, "0001020109"},
	} {
		got := c.p.Append(nil)
		if want := vectors.Bytes(t, c.hex); !bytes.Equal(got, want) {
			t.Errorf("%s is written as %x, expected %x", c.name, got, want)
		}
		back, err := parsePayload(c.p.Type(), got)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if d := cmp.Diff(c.p, back, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(bytes.Equal)); d != "" {
			t.Errorf("%s is read back differently:\n%s", c.name, d)
		}
	}
}

// RFC 2407, Section 4.6.2: the addresses that an ID stands for.
func TestIDRange(t *testing.T) {
	for _, c := range []struct{ from, to string }{
		{"10.0.0.1", "10.0.0.1"}, {"10.0.0.0", "10.255.255.255"}, {"0.0.0.0", "255.255.255.255"}, {"10.0.0.3", "10.0.0.9"},
		{"2001:db8::1", "2001:db8::1"}, {"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}, {"2001:db8::5", "2001:db8::9"},
	} {
		from, to := netip.MustParseAddr(c.from), netip.MustParseAddr(c.to)
		f, l, err := RangeID(from, to, 0, 0).Range()
		if err != nil || f != from || l != to {
			t.Errorf("%v to %v comes back as %v to %v: %v", from, to, f, l, err)
		}
	}
	for name, p := range map[string]*ID{
		"mask with a hole":      {Kind: IDIPv4Subnet, Data: []byte{10, 0, 0, 0, 255, 0, 255, 0}},
		"range turned round":    {Kind: IDIPv4Range, Data: []byte{10, 0, 0, 9, 10, 0, 0, 1}},
		"short address":         {Kind: IDIPv4Addr, Data: []byte{10, 0, 0}},
		"IPv4 subnet as IPv6":   {Kind: IDIPv6Subnet, Data: []byte{10, 0, 0, 0, 255, 0, 0, 0}},
		"a name":                {Kind: 2, Data: []byte("example.org")},
		"long IPv6 address":     {Kind: IDIPv6Addr, Data: make([]byte, 17)},
		"a type nobody defined": {Kind: 99, Data: make([]byte, 8)},
	} {
		if _, _, err := p.Range(); err == nil {
			t.Errorf("%s was taken for addresses", name)
		}
	}
	// Host bits behind the mask do not count.
	f, l, err := (&ID{Kind: IDIPv4Subnet, Data: []byte{10, 1, 2, 3, 255, 255, 0, 0}}).Range()
	if err != nil || f != netip.MustParseAddr("10.1.0.0") || l != netip.MustParseAddr("10.1.255.255") {
		t.Errorf("%v to %v: %v", f, l, err)
	}
}

// RFC 2408, Section 3.3: both forms of an attribute carry the same numbers.
func TestAttributeForms(t *testing.T) {
	for _, c := range []struct {
		a    Attribute
		want uint64
	}{
		{Basic(11, 1), 1}, {Variable(11, []byte{0, 1}), 1}, {Variable(12, []byte{0, 1, 0x51, 0x80}), 86400},
		{Variable(12, []byte{0, 0, 0, 0, 0, 1, 0x51, 0x80}), 86400}, {Duration(12, 28800), 28800}, {Duration(12, 86400), 86400},
		{Variable(12, append(make([]byte, 9), 7)), 7},
	} {
		if v, ok := c.a.Uint(); !ok || v != c.want {
			t.Errorf("%+v is %d, expected %d", c.a, v, c.want)
		}
	}
	if Duration(12, 28800).Basic == false || Duration(12, 86400).Basic {
		t.Error("a duration takes the short form when it fits, and only then")
	}
	if _, ok := Variable(12, nil).Uint(); ok {
		t.Error("an attribute without octets is a number")
	}
	if !Basic(11, 1).Equal(Variable(11, []byte{0, 0, 0, 1})) || Basic(11, 1).Equal(Basic(12, 1)) || Basic(11, 1).Equal(Basic(11, 2)) {
		t.Error("attributes are equal by type and value")
	}
}

// Vendors add versions behind their IDs.
func TestVendors(t *testing.T) {
	if !IsVendor(append(bytes.Clone(VendorFragments), 0x80, 0, 0, 0), VendorFragments) || !IsVendor(append(bytes.Clone(VendorDPD[:14]), 9, 9), VendorDPD) {
		t.Error("a version is part of the ID")
	}
	if IsVendor(VendorNATT[:15], VendorNATT) || IsVendor(VendorNATTDraft02, VendorNATT) || IsVendor(nil, VendorXAuth) {
		t.Error("another vendor's ID matches")
	}
}
