package message

import (
	"bytes"
	"encoding/binary"
	"testing"

	"iked/crypto/suite"
	"iked/internal/ident"
	"iked/internal/isakmp"
	"iked/internal/vectors"
)

// inner reads a chain of one payload as it came out of SK.
func inner(t testing.TB, p Payload) (*Message, error) {
	t.Helper()
	first, b := chainOf(t, p)
	return ParseInner(head(ExchangeInformational, 1, false), first, b)
}

// CVE-2023-23009, Openswan issue 487: any announced number of selectors, 0, 17
// and 255 among them, is held against the selectors that are there.
func TestTSCount(t *testing.T) {
	one := selectors(false).Append(nil)[4:]
	for announced := range 256 {
		for _, there := range []int{0, 1, 16, 17, 254, 255} {
			body := append([]byte{byte(announced), 0, 0, 0}, bytes.Repeat(one, there)...)
			m, err := inner(t, rawPayload{TypeTSi, body})
			if announced == there && there > 0 {
				if err != nil || len(m.Payloads[0].(*TrafficSelectors).TS) != there {
					t.Errorf("%d selectors: %v", there, err)
				}
			} else {
				wantError(t, err, Fatal, InvalidSyntax, ReasonPayloadSyntax)
			}
		}
	}
}

// CVE-2023-23009: every selector length but the one of its type is refused.
func TestTSLength(t *testing.T) {
	for typ, right := range map[uint8]int{TSIPv4: 16, TSIPv6: 40} {
		for n := range 1 << 16 {
			if n > 64 && n < 0xfff0 {
				continue
			}
			body := append([]byte{1, 0, 0, 0, typ, 0, byte(n >> 8), byte(n)}, make([]byte, right-4)...)
			_, err := inner(t, rawPayload{TypeTSr, body})
			if n == right {
				if err != nil {
					t.Errorf("type %d: %v", typ, err)
				}
				continue
			}
			wantError(t, err, Fatal, InvalidSyntax, ReasonPayloadSyntax)
		}
	}
}

// Selectors of types that are not understood are skipped, with a length that
// was checked; an offer may hold nothing else.
func TestTSUnknownType(t *testing.T) {
	for typ := range 256 {
		if typ == int(TSIPv4) || typ == int(TSIPv6) {
			continue
		}
		m, err := inner(t, rawPayload{TypeTSi, []byte{1, 0, 0, 0, byte(typ), 6, 0, 5, 9}})
		if err != nil {
			t.Errorf("type %d: %v", typ, err)
			continue
		}
		p := m.Payloads[0].(*TrafficSelectors)
		if len(p.TS) != 0 || len(p.Unknown) != 1 || p.Unknown[0].Type != uint8(typ) || p.Unknown[0].Proto != 6 {
			t.Errorf("type %d: got %+v", typ, p)
		}
		for _, n := range []byte{0, 3, 6} {
			_, err := inner(t, rawPayload{TypeTSi, []byte{1, 0, 0, 0, byte(typ), 6, 0, n, 9}})
			wantError(t, err, Fatal, InvalidSyntax, ReasonPayloadSyntax)
		}
	}
}

// Ranges do not run backwards, but for OPAQUE ports.
func TestTSRange(t *testing.T) {
	for _, c := range []struct {
		body string
		ok   bool
	}{
		{"01000000" + "07000010" + "ffff0000" + "0a0000010a000001", true}, // OPAQUE
		{"01000000" + "07000010" + "00020001" + "0a0000010a000001", false},
		{"01000000" + "07000010" + "ffff0001" + "0a0000010a000001", false},
		{"01000000" + "07000010" + "0000ffff" + "0a0000020a000001", false},
	} {
		_, err := inner(t, rawPayload{TypeTSi, vectors.Bytes(t, c.body)})
		if c.ok != (err == nil) {
			t.Errorf("%s: %v", c.body, err)
		}
	}
}

// CVE-2023-38712, libreswan issue 67, Openswan issue 488: number times size of
// the SPIs in D does not overflow, and must be exactly what follows.
func TestDeleteSPICountTimesSize(t *testing.T) {
	for _, num := range []int{0, 1, 2, 255, 256, 16384, 65535} {
		for size := range 256 {
			for _, there := range []int{0, 4, num, 4 * num, num * size & 0xffff} {
				if there > 65000 {
					continue
				}
				for proto := range byte(5) {
					body := append([]byte{proto, byte(size), byte(num >> 8), byte(num)}, make([]byte, there)...)
					m, err := inner(t, rawPayload{TypeDelete, body})
					ok := there == num*size &&
						(proto == 1 && size == 0 && num == 0 || (proto == 2 || proto == 3) && size == 4)
					if ok != (err == nil) {
						t.Fatalf("protocol %d, %d SPIs of %d octets, %d there: %v", proto, num, size, there, err)
					}
					if ok && proto != 1 && len(m.Payloads[0].(*Delete).SPIs) != num {
						t.Fatalf("%d SPIs expected", num)
					}
				}
			}
		}
	}
}

// Many D payloads are as many as a chain may have, no more.
func TestDeleteStorm(t *testing.T) {
	var ps []Payload
	for range isakmp.DefaultPayloads {
		ps = append(ps, &Delete{Protocol: suite.ProtoESP, SPIs: []uint32{1, 1, 1}})
	}
	first, b := chainOf(t, ps...)
	m, err := ParseInner(head(ExchangeInformational, 1, false), first, b)
	if err != nil || len(m.Payloads) != len(ps) {
		t.Fatal(err)
	}
	first, b = chainOf(t, append(ps, ps[0])...)
	_, err = ParseInner(head(ExchangeInformational, 1, false), first, b)
	wantError(t, err, Fatal, InvalidSyntax, isakmp.TooManyPayloads)
}

// Every SPI size of a notify, with an SPI that is there, one octet short and
// absent, for every protocol. VPP's notify lengths.
func TestNotifySPISize(t *testing.T) {
	for size := range 256 {
		for _, there := range []int{0, max(size-1, 0), size, size + 1} {
			body := append([]byte{byte(size), byte(size), 0x40, 0x09}, make([]byte, there)...)
			m, err := inner(t, rawPayload{TypeNotify, body})
			if (err == nil) != (there >= size) {
				t.Errorf("size %d, %d there: %v", size, there, err)
			}
			if err == nil {
				if n := m.Payloads[0].(*Notify); len(n.SPI) != size || len(n.Data) != there-size {
					t.Errorf("size %d, %d there: %+v", size, there, n)
				}
			}
		}
	}
}

// CVE-2023-38710: REKEY_SA of every protocol and SPI size. Only AH and ESP with
// four octets name a Child SA.
func TestRekeyProtocol(t *testing.T) {
	for proto := range 256 {
		for _, size := range []int{0, 1, 3, 4, 5, 8, 255} {
			n := &Notify{Protocol: suite.Protocol(proto), SPI: make([]byte, size), Kind: RekeySA}
			m := protected(ExchangeCreateChildSA, false, n, espSA(), pNonce, selectors(false), selectors(true))
			v, err := ParseCreateChildSARequest(m)
			if (proto == 2 || proto == 3) && size == 4 {
				if err != nil || v.Kind != RekeyChild || v.RekeyProtocol != n.Protocol {
					t.Errorf("protocol %d: %v", proto, err)
				}
				continue
			}
			wantError(t, err, Fatal, InvalidSyntax, ReasonPayloadSyntax)
		}
	}
}

// Proposals and deletes of every protocol: what is not known is kept out of the
// choice, not acted upon.
func TestProposalProtocol(t *testing.T) {
	for proto := range 256 {
		for _, size := range []int{0, 4, 8, 255} {
			sa := espSA()
			sa.Proposals[0].Protocol, sa.Proposals[0].SPI = suite.Protocol(proto), make([]byte, size)
			got, err := parseSA(sa.Append(nil))
			switch proto {
			case 1:
				if (err == nil) != (size == 0 || size == 8) {
					t.Errorf("IKE, SPI size %d: %v", size, err)
				}
			case 2, 3:
				if (err == nil) != (size == 4) {
					t.Errorf("protocol %d, SPI size %d: %v", proto, size, err)
				}
			default:
				if err != nil || got.Proposals[0].Unusable == "" {
					t.Errorf("protocol %d, SPI size %d may be chosen: %v", proto, size, err)
				}
			}
		}
	}
}

// transform is the octets of one transform, the last of its proposal.
func transform(typ byte, id uint16, attrs ...byte) []byte {
	return append([]byte{0, 0, 0, byte(8 + len(attrs)), typ, 0, byte(id >> 8), byte(id)}, attrs...)
}

// proposal is the body of an SA payload with one ESP proposal.
func proposal(num byte, transforms ...[]byte) []byte {
	b := []byte{0, 0, 0, 0, 1, 3, 4, num, 1, 2, 3, 4}
	for i, x := range transforms {
		x = bytes.Clone(x)
		if i < len(transforms)-1 {
			x[0] = 3
		}
		b = append(b, x...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// racoon2 issue 27: an attribute's length is held against its transform, 0xFFFF
// among others.
func TestAttributeLength(t *testing.T) {
	for _, n := range []uint16{1, 2, 0x7fff, 0x8000, 0xfffc, 0xffff} {
		_, err := parseSA(proposal(1, transform(1, 20, 0, 14, byte(n>>8), byte(n))))
		wantError(t, err, Fatal, InvalidSyntax, ReasonProposal)
	}
	for _, cut := range [][]byte{{0x80}, {0x80, 14}, {0x80, 14, 1}} {
		_, err := parseSA(proposal(1, transform(1, 20, cut...)))
		wantError(t, err, Fatal, InvalidSyntax, ReasonProposal)
	}
}

// RFC 7296, Section 3.3.6: a transform with an attribute that is not understood
// is passed over; when none of its type is left, the proposal is.
func TestAttributeUnknown(t *testing.T) {
	good := transform(1, 20, 0x80, 14, 1, 0)
	for name, attrs := range map[string][]byte{
		"unknown TV":       {0x80, 15, 1, 0},
		"unknown TLV":      {0, 15, 0, 2, 1, 2},
		"key length TLV":   {0, 14, 0, 2, 1, 0},
		"two key lengths":  {0x80, 14, 1, 0, 0x80, 14, 0, 128},
		"key length of 0":  {0x80, 14, 0, 0},
		"known, unknown":   {0x80, 14, 1, 0, 0x80, 99, 0, 0},
		"empty TLV":        {0, 77, 0, 0},
		"AF and type 7fff": {0xff, 0xff, 0xff, 0xff},
	} {
		sa, err := parseSA(proposal(2, transform(1, 20, attrs...), good))
		if err != nil || sa.Proposals[0].Unusable != "" || len(sa.Proposals[0].Transforms) != 1 {
			t.Errorf("%s beside a good one: %+v, %v", name, sa, err)
		}
		sa, err = parseSA(proposal(2, transform(5, 0, attrs...), good))
		if err != nil || sa.Proposals[0].Unusable == "" {
			t.Errorf("%s, the only one of its type: %+v, %v", name, sa, err)
		}
	}
}

// CVE-2016-5391, CVE-2016-3071: a proposal without transforms is read and
// cannot be chosen; a number of transforms that is not there is refused.
func TestProposalWithoutTransforms(t *testing.T) {
	sa, err := parseSA(proposal(0))
	if err != nil || sa.Proposals[0].Unusable == "" {
		t.Errorf("no transform: %+v, %v", sa, err)
	}
	x := transform(1, 20)
	for _, num := range []byte{0, 2, 3, 255} {
		_, err := parseSA(proposal(num, x))
		wantError(t, err, Fatal, InvalidSyntax, ReasonProposal)
	}
	_, err = parseSA(proposal(1, x, x))
	wantError(t, err, Fatal, InvalidSyntax, ReasonProposal)
	_, err = parseSA(nil)
	wantError(t, err, Fatal, InvalidSyntax, ReasonProposal)
}

// CVE-2014-9221: all 65,536 numbers of a key exchange method are just numbers.
func TestEveryGroupNumber(t *testing.T) {
	for g := range 1 << 16 {
		p, err := parseKE([]byte{byte(g >> 8), byte(g), 0, 0, 1})
		if err != nil || p.Group != uint16(g) {
			t.Fatalf("group %d: %+v, %v", g, p, err)
		}
	}
}

// The numbers of proposals and transforms have an end.
func TestProposalCaps(t *testing.T) {
	many := func(n, transforms int) []byte {
		sa := new(SA)
		for i := range n {
			p := espSA().Proposals[0]
			p.Number, p.Transforms = uint8(i+1), make([]suite.Transform, transforms)
			sa.Proposals = append(sa.Proposals, p)
		}
		return sa.Append(nil)
	}
	if sa, err := parseSA(many(MaxProposals, 1)); err != nil || len(sa.Proposals) != MaxProposals {
		t.Error(err)
	}
	if _, err := parseSA(many(8, 255)); err != nil {
		t.Error(err)
	}
	_, err := parseSA(many(MaxProposals+1, 1))
	wantError(t, err, Fatal, InvalidSyntax, ReasonTooManyProposals)
	_, err = parseSA(many(9, 255))
	wantError(t, err, Fatal, InvalidSyntax, ReasonTooManyProposals)
	_, err = inner(t, &CP{Attributes: make([]CPAttribute, MaxCPAttributes+1)})
	wantError(t, err, Fatal, InvalidSyntax, ReasonPayloadSyntax)
}

// CVE-2025-9242: identities of every size up to the largest payload are read
// without harm, those above MaxID are refused; addresses have the size of an
// address, and the ID types that are patterns here are not accepted.
func TestIDLength(t *testing.T) {
	for _, typ := range []ident.Type{ident.Any, ident.IPv4Subnet, ident.IPv6Subnet, ident.IPv4Range, ident.IPv6Range} {
		_, err := inner(t, rawPayload{TypeIDi, append([]byte{byte(typ), 0, 0, 0}, make([]byte, 8)...)})
		wantError(t, err, Fatal, InvalidSyntax, ReasonPayloadSyntax)
	}
	for _, n := range []int{0, 1, 4, 16, 255, 256, MaxID, MaxID + 1, 4096, 65527} {
		m, err := inner(t, rawPayload{TypeIDi, append([]byte{byte(ident.FQDN), 0, 0, 0}, make([]byte, n)...)})
		if (err == nil) != (n <= MaxID) || err == nil && len(m.Payloads[0].(*ID).Value.Data) != n {
			t.Errorf("%d octets: %v", n, err)
		}
		_, err = inner(t, rawPayload{TypeIDr, append([]byte{byte(ident.IPv4), 0, 0, 0}, make([]byte, n)...)})
		if (err == nil) != (n == 4) {
			t.Errorf("IPv4 of %d octets: %v", n, err)
		}
		_, err = inner(t, rawPayload{TypeIDr, append([]byte{byte(ident.IPv6), 0, 0, 0}, make([]byte, n)...)})
		if (err == nil) != (n == 16) {
			t.Errorf("IPv6 of %d octets: %v", n, err)
		}
		_, err = inner(t, rawPayload{TypeIDi, make([]byte, 4+n)})
		wantError(t, err, Fatal, InvalidSyntax, ReasonPayloadSyntax)
	}
	for n := range 4 {
		_, err := inner(t, rawPayload{TypeIDi, make([]byte, n)})
		wantError(t, err, Fatal, InvalidSyntax, ReasonPayloadSyntax)
	}
}

// Certificates of every encoding and of sizes up to the largest payload; more
// than a payload holds is an error of the writer.
func TestCertLength(t *testing.T) {
	for enc := range 256 {
		if _, err := inner(t, &Cert{Encoding: CertEncoding(enc), Data: []byte{1}}); err != nil {
			t.Errorf("encoding %d: %v", enc, err)
		}
	}
	for n := range 2 {
		_, err := inner(t, rawPayload{TypeCert, make([]byte, n)})
		wantError(t, err, Fatal, InvalidSyntax, ReasonPayloadSyntax)
	}
	if _, err := inner(t, &Cert{Encoding: CertX509, Data: make([]byte, 65530)}); err != nil {
		t.Error(err)
	}
	if _, err := AppendPayloads(nil, []Payload{&Cert{Encoding: CertX509, Data: make([]byte, 65531)}}); err == nil {
		t.Error("a payload of 65,536 octets was written")
	}
	for n, ok := range map[int]bool{0: true, 19: false, 20: true, 21: false, 400: true} {
		hashes, got := (&CertReq{Data: make([]byte, n)}).Authorities()
		if got != ok || ok && len(hashes) != n/AuthorityHashLen {
			t.Errorf("CERTREQ of %d octets: %d hashes, %t", n, len(hashes), got)
		}
	}
}

// Nonces have 16 to 256 octets (RFC 7296, Section 3.9).
func TestNonceLength(t *testing.T) {
	for n := range 300 {
		_, err := inner(t, &Nonce{Data: make([]byte, n)})
		if (err == nil) != (n >= 16 && n <= 256) {
			t.Errorf("%d octets: %v", n, err)
		}
	}
}

// CVE-2015-3991: an IKEv1 payload in an IKEv2 message is not understood, not
// acted upon. Types 1 to 32 with bodies of IKEv1 messages.
func TestIKEv1PayloadsAreUnknown(t *testing.T) {
	for typ := PayloadType(1); typ <= 32; typ++ {
		p, known, err := parsePayload(typ, make([]byte, 40))
		if p != nil || known || err != nil {
			t.Errorf("type %d is read as %T, %v", typ, p, err)
		}
	}
}

// CVE-2026-12413: the limit on payloads holds in the same way outside of SK and
// SKF, inside, and after reassembly.
func TestPayloadLimitInsideAndOutside(t *testing.T) {
	const most = isakmp.DefaultPayloads
	for _, n := range []int{most - 1, most, most + 1, 2 * most} {
		var ps []Payload
		for range n {
			ps = append(ps, &VendorID{Data: make([]byte, 10)})
		}
		m := &Message{Header: head(ExchangeInformational, 1, false), Payloads: ps}
		clear, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Parse(clear)
		if (err == nil) != (n <= most) {
			t.Errorf("%d in clear: %v", n, err)
		}
		for _, size := range []int{200, 5000} {
			frames, err := SealFragments(m.Header, ps, testSealer(), size)
			if err != nil {
				t.Fatal(err)
			}
			_, err = receive(testSealer(), frames)
			if (err == nil) != (n <= most) {
				t.Errorf("%d in %d frames: %v", n, len(frames), err)
			}
			if n > most {
				wantError(t, err, Fatal, InvalidSyntax, isakmp.TooManyPayloads)
			}
		}
		// In clear, with SK as one more payload behind them.
		sealed, err := Seal(m.Header, nil, testSealer())
		if err != nil {
			t.Fatal(err)
		}
		first, chain := chainOf(t, append(ps[:n:n], rawPayload{TypeSK, sealed[32:]})...)
		h := m.Header
		h.Version, h.NextPayload, h.Length = Version, uint8(first), uint32(28+len(chain))
		_, err = FindEncrypted(append(h.Append(nil), chain...))
		if (err == nil) != (n+1 <= most) {
			t.Errorf("%d in clear before SK: %v", n, err)
		}
	}
}

// SK inside of SK, and SK or SKF in a message that is read in clear, are
// refused; so is a message of IKE_SA_INIT that is encrypted.
func TestEncryptedPayloadWhereNoneMayBe(t *testing.T) {
	for _, typ := range []PayloadType{TypeSK, TypeSKF} {
		_, err := inner(t, rawPayload{typ, make([]byte, 40)})
		wantError(t, err, Fatal, InvalidSyntax, ReasonEncryptedInside)
		b, err := (&Message{Header: head(ExchangeInformational, 1, false), Payloads: []Payload{rawPayload{typ, make([]byte, 40)}}}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Parse(b)
		wantError(t, err, Drop, NoNotify, ReasonEncryptedInside)
		b[18] = ExchangeIKESAInit
		_, err = FindEncrypted(b)
		wantError(t, err, Drop, NoNotify, ReasonEncryptedInside)
	}
	if _, err := Seal(head(ExchangeIKESAInit, 0, false), nil, testSealer()); err == nil {
		t.Error("IKE_SA_INIT was encrypted")
	}
	if _, err := SealFragments(head(ExchangeIKESAInit, 0, false), nil, testSealer(), 100); err == nil {
		t.Error("IKE_SA_INIT was fragmented")
	}
}

// Messages in clear where SK is due are dropped.
func TestNotEncrypted(t *testing.T) {
	for _, ps := range [][]Payload{nil, {NewNotify(InvalidIKESPI, nil)}} {
		b, err := (&Message{Header: head(ExchangeInformational, 0, true), Payloads: ps}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(testSealer(), b)
		wantError(t, err, Drop, NoNotify, ReasonNotEncrypted)
	}
}

// What the counts of the wire cannot hold is an error of the writer, never a
// wrong count.
func TestWriterRefusesWhatDoesNotFit(t *testing.T) {
	many := selectors(false)
	many.TS = make([]TS, 256)
	for i := range many.TS {
		many.TS[i] = selectors(false).TS[0]
	}
	family := selectors(false)
	family.TS[0].Type = TSIPv6
	transforms := espSA()
	transforms.Proposals[0].Transforms = make([]suite.Transform, 256)
	for name, p := range map[string]Payload{
		"256 selectors":     many,
		"no selector":       &TrafficSelectors{},
		"selector's family": family,
		"256 transforms":    transforms,
		"SPI of a proposal": ikeSA(make([]byte, 256)...),
		"no proposal":       &SA{},
		"SPI of a notify":   &Notify{SPI: make([]byte, 256)},
		"65,536 octets":     &VendorID{Data: make([]byte, 65532)},
	} {
		if _, err := AppendPayloads(nil, []Payload{p}); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	many.TS = many.TS[1:]
	if _, err := inner(t, many); err != nil {
		t.Error(err)
	}
}
