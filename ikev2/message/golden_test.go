package message

import (
	"bytes"
	"net/netip"
	"testing"

	"iked/crypto/suite"
	"iked/internal/ident"
	"iked/internal/vectors"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var cmpOpts = cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}

// A recorded IKE_SA_INIT request is read to the values it holds, and written
// back octet by octet.
func TestRecordedIKESAInitRequest(t *testing.T) {
	rec := recorded(t)
	m, err := Parse(rec.Messages[0])
	if err != nil {
		t.Fatal(err)
	}
	v, err := ParseIKESAInitRequest(m)
	if err != nil {
		t.Fatal(err)
	}
	want := &SA{Proposals: []Proposal{{Number: 1, Proposal: suite.Proposal{Protocol: suite.ProtoIKE, Transforms: []suite.Transform{
		{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128},
		{Type: suite.PRF, ID: suite.PRFHMACSHA1},
		{Type: suite.INTEG, ID: suite.IntegHMACSHA1_96},
		{Type: suite.KE, ID: suite.KEMODP1024},
	}}}}}
	if d := cmp.Diff(want, v.SA, cmpOpts); d != "" {
		t.Error(d)
	}
	if v.KE.Group != suite.KEMODP1024 || len(v.KE.Data) != 128 {
		t.Errorf("KE group %d with %d octets", v.KE.Group, len(v.KE.Data))
	}
	if !bytes.Equal(v.Nonce.Data, rec.Ni) {
		t.Errorf("Ni is %x", v.Nonce.Data)
	}
	if b, err := m.Append(nil); err != nil || !bytes.Equal(b, rec.Messages[0]) {
		t.Errorf("written back as %x, %v", b, err)
	}
	p, err := PeekIKESAInit(rec.Messages[0])
	if err != nil || !bytes.Equal(p.Nonce, rec.Ni) || p.Group != suite.KEMODP1024 || p.Cookie != nil {
		t.Errorf("peek gives %+v, %v", p, err)
	}
}

// A recorded IKE_SA_INIT response, with a notify behind the nonce.
func TestRecordedIKESAInitResponse(t *testing.T) {
	rec := recorded(t)
	m, err := Parse(rec.Messages[1])
	if err != nil {
		t.Fatal(err)
	}
	v, err := ParseIKESAInitResponse(m)
	if err != nil {
		t.Fatal(err)
	}
	if !v.Accepted() || !bytes.Equal(v.Nonce.Data, rec.Nr) || !v.Notifies.Has(MultipleAuthSupported) {
		t.Errorf("got %+v", v)
	}
	if b, err := m.Append(nil); err != nil || !bytes.Equal(b, rec.Messages[1]) {
		t.Errorf("written back as %x, %v", b, err)
	}
}

// The recorded IKE_AUTH messages open to the recorded plaintexts, are read to
// the values they hold, and sealing the same payloads with the same IV gives
// the same octets.
func TestRecordedIKEAuth(t *testing.T) {
	rec := recorded(t)
	for _, side := range []struct {
		name              string
		b                 []byte
		encr, auth, inner []byte
		first             uint8
	}{
		{"request", rec.Messages[2], rec.SKei, rec.SKai, rec.ReqInner, rec.ReqFirst},
		{"response", rec.Messages[3], rec.SKer, rec.SKar, rec.ReplyInner, rec.ReplyFirst},
	} {
		t.Run(side.name, func(t *testing.T) {
			s := newCBC(side.encr, side.auth, side.b[32:48])
			o, err := Open(s, bytes.Clone(side.b))
			if err != nil {
				t.Fatal(err)
			}
			if o.First != PayloadType(side.first) || !bytes.Equal(o.Plain, side.inner) {
				t.Fatalf("first %v, inside %x, want %d, %x", o.First, o.Plain, side.first, side.inner)
			}
			m, err := o.Message()
			if err != nil {
				t.Fatal(err)
			}
			b, err := Seal(m.Header, m.Payloads, s)
			if err != nil {
				t.Fatal(err)
			}
			// What the sender wrote as padding is its affair: compare what is inside.
			again, err := Open(s, b)
			if err != nil || !bytes.Equal(again.Plain, side.inner) || len(b) != len(side.b) {
				t.Errorf("sealed again: %x, %v", again.Plain, err)
			}
		})
	}
	o, err := Open(newCBC(rec.SKei, rec.SKai, nil), bytes.Clone(rec.Messages[2]))
	if err != nil {
		t.Fatal(err)
	}
	m, err := o.Message()
	if err != nil {
		t.Fatal(err)
	}
	v, err := ParseIKEAuthRequest(m)
	if err != nil {
		t.Fatal(err)
	}
	any4 := []TS{{Type: TSIPv4, EndPort: 65535, Start: netip.MustParseAddr("0.0.0.0"), End: netip.MustParseAddr("255.255.255.255")}}
	want := &IKEAuthRequest{
		Header: m.Header, Stage: AuthFirst,
		IDi:  &ID{Value: ident.ID{Type: ident.IPv4, Data: "\x0a\x00\x03\x01"}},
		Auth: &Auth{Method: AuthPSK, Data: rec.AuthI},
		SA: &SA{Proposals: []Proposal{{Number: 1, SPI: vectors.Bytes(t, "2a85e115"), Proposal: suite.Proposal{Protocol: suite.ProtoESP, Transforms: []suite.Transform{
			{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128},
			{Type: suite.INTEG, ID: suite.IntegHMACSHA1_96},
			{Type: suite.SN, ID: suite.SNNoESN},
		}}}}},
		TSi: &TrafficSelectors{TS: any4}, TSr: &TrafficSelectors{Responder: true, TS: any4},
	}
	if d := cmp.Diff(want, v, cmpOpts); d != "" {
		t.Error(d)
	}
}

// The SK payload of RFC 7634, Appendix B, opens, and sealing its notify with
// the same IV gives the RFC's message.
func TestRFC7634AppendixB(t *testing.T) {
	var vec struct {
		Key, Salt, IV, Plaintext vectors.Hex
		Message                  vectors.Hex `json:"ike_message"`
	}
	load(t, "testdata/rfc7634_appendix_b.json", &vec)
	s := newChaCha(vec.Key, vec.Salt, 0x1011121314151617)
	// The RFC's message has flags 0 and a notify of protocol 0.
	o, err := Open(s, bytes.Clone(vec.Message))
	if err != nil {
		t.Fatal(err)
	}
	if want := vec.Plaintext[:len(vec.Plaintext)-1]; o.First != TypeNotify || !bytes.Equal(o.Plain, want) {
		t.Errorf("first %v, inside %x, want %x", o.First, o.Plain, want)
	}
	m, err := o.Message()
	if err != nil {
		t.Fatal(err)
	}
	v, err := ParseInformational(m)
	if err != nil {
		t.Fatal(err)
	}
	n := v.Notifies.Find(SetWindowSize)
	if n == nil {
		t.Fatal("no SET_WINDOW_SIZE")
	}
	if w, ok := n.Uint32(); !ok || w != 10 {
		t.Errorf("window size %d, %t", w, ok)
	}
	got, err := Seal(o.Header, m.Payloads, s)
	if err != nil || !bytes.Equal(got, vec.Message) {
		t.Errorf("sealed %x, %v, want %x", got, err, vec.Message)
	}
}

// Payloads that no recorded message holds: their octets, laid out by hand after
// the diagrams of RFC 7296, Section 3, read and written.
func TestPayloadGolden(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name string
		p    Payload
		body string
	}{
		{"IDr FQDN", &ID{Responder: true, Value: ident.ID{Type: ident.FQDN, Data: "sun"}}, "02000000" + "73756e"},
		{"IDi reserved octets are kept for AUTH", &ID{Value: ident.ID{Type: ident.KeyID, Data: "k"}, Reserved: [3]byte{1, 2, 3}}, "0b010203" + "6b"},
		{"CERT", &Cert{Encoding: CertX509, Data: []byte{0x30, 0}}, "04" + "3000"},
		{"CERTREQ", &CertReq{Encoding: CertX509}, "04"},
		{"N REKEY_SA", NewChildNotify(RekeySA, suite.ProtoESP, 0xc0000001), "03044009" + "c0000001"},
		{"N INVALID_KE_PAYLOAD", NewInvalidKE(31), "00000011" + "001f"},
		{"N SIGNATURE_HASH_ALGORITHMS", NewSignatureHashes(HashSHA256, HashIdentity), "0000402f" + "00020005"},
		{"D ESP", &Delete{Protocol: suite.ProtoESP, SPIs: []uint32{1, 0xfffffffe}}, "03040002" + "00000001" + "fffffffe"},
		{"D IKE", &Delete{Protocol: suite.ProtoIKE}, "01000000"},
		{"V", &VendorID{Data: []byte("x")}, "78"},
		{"EAP success", &EAP{Data: []byte{3, 7, 0, 4}}, "03070004"},
		{"TSr", &TrafficSelectors{Responder: true, TS: []TS{
			{Type: TSIPv4, Proto: 6, StartPort: 80, EndPort: 443, Start: addr("10.0.0.0"), End: addr("10.0.0.255")},
			{Type: TSIPv6, StartPort: 65535, EndPort: 0, Start: addr("2001:db8::"), End: addr("2001:db8::ffff")},
		}, Unknown: []UnknownTS{{Type: TSSecLabel, Body: []byte("top")}}}, "03000000" +
			"0706001000" + "5001bb" + "0a0000000a0000ff" +
			"08000028ffff0000" + "20010db8000000000000000000000000" + "20010db800000000000000000000ffff" +
			"0a000007746f70"},
		{"CP", &CP{Kind: CFGReply, Attributes: []CPAttribute{
			NewCPAddr(InternalIP4Address, addr("10.9.0.1")), NewCPAddr(InternalIP6Address, addr("fd00::1")),
			NewCPSubnet(netip.MustParsePrefix("10.1.0.0/16")), NewCPSubnet(netip.MustParsePrefix("fd00::/64")), {Type: InternalIP4DNS},
		}}, "02000000" + "000100040a090001" + "00080011fd00000000000000000000000000000180" +
			"000d00080a010000ffff0000" + "000f0011fd00000000000000000000000000000040" + "00030000"},
		{"SA of two proposals", &SA{Proposals: []Proposal{
			{Number: 1, SPI: []byte{1, 2, 3, 4}, Proposal: suite.Proposal{Protocol: suite.ProtoESP, Transforms: []suite.Transform{{Type: suite.ENCR, ID: 20, KeyBits: 256}, {Type: suite.SN}}}},
			{Number: 2, SPI: []byte{1, 2, 3, 4}, Proposal: suite.Proposal{Protocol: suite.ProtoAH, Transforms: []suite.Transform{{Type: suite.INTEG, ID: 12}}}},
		}}, "0200002001030402" + "01020304" + "0300000c01000014800e0100" + "0000000805000000" + "0000001402020401" + "01020304" + "000000080300000c"},
	} {
		want := vectors.Bytes(t, c.body)
		if got := c.p.Append(nil); !bytes.Equal(got, want) {
			t.Errorf("%s: written as %x, want %x", c.name, got, want)
		}
		got, known, err := parsePayload(c.p.Type(), want)
		if !known || err != nil {
			t.Errorf("%s: not read: %v", c.name, err)
			continue
		}
		if d := cmp.Diff(c.p, got, cmpOpts); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// The helpers for addresses and subnets read what the constructors write, and
// refuse other sizes and masks with holes.
func TestCPValues(t *testing.T) {
	for _, s := range []string{"10.1.0.0/16", "0.0.0.0/0", "10.0.0.1/32", "fd00::/64", "::/0"} {
		p := netip.MustParsePrefix(s)
		if got, ok := NewCPSubnet(p).Subnet(); !ok || got != p {
			t.Errorf("%v became %v, %t", p, got, ok)
		}
	}
	for _, s := range []string{"10.1.0.1", "fd00::1"} {
		a := netip.MustParseAddr(s)
		for _, typ := range []CPAttributeType{InternalIP4Address, InternalIP6Address} {
			if a.Is4() != (typ == InternalIP4Address) {
				continue
			}
			if got, ok := NewCPAddr(typ, a).Addr(); !ok || got != a {
				t.Errorf("%v became %v, %t", a, got, ok)
			}
		}
	}
	for _, v := range []string{"", "0a", "0a000000ff00ff00", "0a000000ffff00", "fd000000000000000000000000000000ff"} {
		if p, ok := (CPAttribute{Value: vectors.Bytes(t, v)}).Subnet(); ok {
			t.Errorf("%s is read as subnet %v", v, p)
		}
	}
	for _, n := range []int{0, 1, 3, 5, 8, 15, 18} {
		if a, ok := (CPAttribute{Value: make([]byte, n)}).Addr(); ok {
			t.Errorf("%d octets are read as address %v", n, a)
		}
	}
}

// Names are those of the RFC; what is not known is named by class and number.
func TestNotifyNames(t *testing.T) {
	for n, want := range map[NotifyType]string{
		InvalidSyntax: "INVALID_SYNTAX", FragmentationSupported: "IKEV2_FRAGMENTATION_SUPPORTED", UseBEETMode: "USE_BEET_MODE",
		8192: "ERROR_8192", 40970: "STATUS_40970",
	} {
		if n.Name() != want {
			t.Errorf("%d is %s, want %s", uint16(n), n.Name(), want)
		}
		if n.IsError() != (n < 16384) {
			t.Errorf("%d: error %t", uint16(n), n.IsError())
		}
	}
}
