package message

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"iked/internal/isakmp"
	"iked/internal/vectors"
)

// wantFault: every error is an *Error with a reason and a detail.
func wantFault(t *testing.T, what string, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason == "" || e.Detail == "" {
		t.Errorf("%s: got %v, expected a fault with its reason", what, err)
	}
}

// No prefix of a message is a message, not even when its header announces the
// length of the prefix; nor is one with an octet appended.
func TestEveryPrefix(t *testing.T) {
	for _, r := range recorded(t) {
		for _, m := range r.Messages {
			if _, err := Parse(m.Hex); err != nil {
				continue // encrypted: see below
			}
			for n := range m.Hex {
				b := bytes.Clone(m.Hex[:n])
				_, err := Parse(b)
				wantFault(t, "prefix", err)
				if n >= isakmp.HeaderLen {
					isakmp.PutLength(b, n)
					_, err = Parse(b)
					wantFault(t, "prefix with its length", err)
				}
			}
			b := append(bytes.Clone(m.Hex), 0)
			isakmp.PutLength(b, len(b))
			_, err := Parse(b)
			wantFault(t, "one octet more", err)
		}
		for n, plain := range [][]byte{r.QM1, r.QM2, r.QM3} {
			h, b := r.plain(n, plain)
			whole, err := ParseDecrypted(h, b)
			if err != nil {
				t.Fatal(err)
			}
			for i := range whole.Octets {
				_, err := ParseDecrypted(h, b[:i])
				wantFault(t, "prefix of a decrypted message", err)
			}
		}
	}
}

// What a header must not be, and what the peer may be told.
func TestHeaders(t *testing.T) {
	good := func() []byte {
		b, err := Append(nil, isakmp.Header{SPIi: isakmp.SPI{1}, Exchange: uint8(ExchangeMain)}, []Payload{&Opaque{Kind: TypeVendorID, Data: []byte{1}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := Parse(good()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func([]byte)
		notify NotifyType
		reason Reason
	}{
		"IKEv2":              {func(b []byte) { b[17] = 0x20 }, InvalidMajorVersion, ReasonVersion},
		"no cookie":          {func(b []byte) { clear(b[:8]) }, 0, ReasonZeroCookie},
		"unknown flag":       {func(b []byte) { b[19] = 0x80 }, InvalidFlags, ReasonFlags},
		"encrypted":          {func(b []byte) { b[19] = FlagEncryption }, InvalidFlags, ReasonFlags},
		"huge length":        {func(b []byte) { binary.BigEndian.PutUint32(b[24:], 1<<31) }, PayloadMalformed, isakmp.LengthMismatch},
		"reserved octet":     {func(b []byte) { b[isakmp.HeaderLen+1] = 1 }, PayloadMalformed, ReasonReserved},
		"unassigned payload": {func(b []byte) { b[16] = 99 }, InvalidPayloadType, ReasonPayloadType},
		"proposal outside":   {func(b []byte) { b[16] = byte(TypeProposal) }, InvalidPayloadType, ReasonPayloadType},
	} {
		b := good()
		c.change(b)
		_, err := Parse(b)
		var e *Error
		if !errors.As(err, &e) || e.Notify != c.notify || e.Reason != c.reason {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// RFC 2408, Section 5.2: a higher minor version is read; private payloads are
	// passed over.
	b := good()
	b[17], b[16] = 0x15, 200
	if _, err := Parse(b); err != nil {
		t.Error(err)
	}
}

// Bodies of payloads that lie about what they hold (CVE-2002-2225,
// CVE-2004-0184 and CVE-2005-3671 classes).
func TestLyingPayloads(t *testing.T) {
	sa := func(rest string) string { return "0000000100000001" + rest }
	for name, c := range map[string]struct {
		t   PayloadType
		hex string
	}{
		"delete of more SPIs than there are":    {TypeDelete, "0000000103040004" + "01020304"},
		"delete of SPIs without octets":         {TypeDelete, "000000010300ffff"},
		"delete with a rest":                    {TypeDelete, "0000000103040001" + "0102030405"},
		"notify with a long SPI":                {TypeNotify, "00000001030a000e" + "01020304"},
		"notify of another DOI":                 {TypeNotify, "000000020300000e"},
		"ID without a header":                   {TypeID, "010000"},
		"certificate without encoding":          {TypeCert, ""},
		"short nonce":                           {TypeNonce, "01020304050607"},
		"long nonce":                            {TypeNonce, strings.Repeat("00", 257)},
		"empty key exchange":                    {TypeKE, ""},
		"empty hash":                            {TypeHash, ""},
		"NAT-OA of five octets":                 {TypeNATOA, "01000000" + "0102030405"},
		"NAT-OA of another family":              {TypeNATOA, "05000000" + "01020304"},
		"attribute past the end":                {TypeAttributes, "01000000" + "4089ffff61"},
		"half an attribute":                     {TypeAttributes, "01000000" + "c088"},
		"fragment number 0":                     {TypeFragment, "0001000009"},
		"fragment without data":                 {TypeFragment, "00010101"},
		"SA of another DOI":                     {TypeSA, "0000000200000001"},
		"SA of another situation":               {TypeSA, "0000000100000004"},
		"SA without proposals":                  {TypeSA, sa("")},
		"proposal with a long SPI":              {TypeSA, sa("0000000c0103ff0101020304")},
		"proposal without transforms":           {TypeSA, sa("0000000801030000")},
		"proposal with too few transforms":      {TypeSA, sa("000000100103000200000008010c0000")},
		"proposal length of zero":               {TypeSA, sa("0000000001030001")},
		"transform length of three":             {TypeSA, sa("000000100103000100000003010c0000")},
		"transform outside of a proposal":       {TypeSA, sa("03000008010300010000000801010000")},
		"transform whose attribute is too long": {TypeSA, sa("000000140103000100" + "00000c010c0000" + "0002ffff")},
	} {
		_, err := parsePayload(c.t, vectors.Bytes(t, c.hex))
		wantFault(t, name, err)
	}
}

// The counts of one message are bounded, whatever it holds.
func TestBudgets(t *testing.T) {
	many := &SA{}
	for range MaxProposals + 1 {
		many.Proposals = append(many.Proposals, Proposal{Number: 1, Protocol: ProtoESP, Transforms: []Transform{{ID: 12}}})
	}
	_, err := parseSA(many.Append(nil))
	wantFault(t, "too many proposals", err)
	many = &SA{}
	for range MaxTransforms/255 + 1 {
		many.Proposals = append(many.Proposals, Proposal{Number: 1, Protocol: ProtoESP, Transforms: make([]Transform, 255)})
	}
	_, err = parseSA(many.Append(nil))
	wantFault(t, "too many transforms", err)
	attrs := &Attributes{Kind: CfgRequest, List: make([]Attribute, MaxAttributes+1)}
	_, err = parseAttributePayload(attrs.Append(nil))
	wantFault(t, "too many attributes", err)
	var vids []Payload
	for range 65 {
		vids = append(vids, &Opaque{Kind: TypeVendorID, Data: []byte{1}})
	}
	b, err := Append(nil, isakmp.Header{SPIi: isakmp.SPI{1}}, vids)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse(b)
	wantFault(t, "too many payloads", err)
}

// A message that cannot be written is an error, not a shorter message.
func TestUnwritable(t *testing.T) {
	for name, p := range map[string]Payload{
		"a payload of 64 KiB": &Opaque{Kind: TypeKE, Data: make([]byte, 65536)},
		"an empty SA":         &SA{},
		"a long SPI":          &Notify{SPI: make([]byte, 256)},
		"uneven SPIs":         &Delete{Protocol: ProtoESP, SPIs: [][]byte{{1, 2, 3, 4}, {1}}},
	} {
		if _, err := Append(nil, isakmp.Header{}, []Payload{p}); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}
