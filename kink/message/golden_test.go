package message

import (
	"bytes"
	"testing"

	ikev1 "iked/ikev1/message"
	"iked/internal/vectors"
)

type recordedMessage struct {
	Name    string
	Message vectors.Hex
	Type    Type
	XID     uint32
	Epoch   uint32
	AP      int // octets of the KRB_AP_REQ or KRB_AP_REP
	Encrypt int // octets of the ciphertext
	Inner   vectors.Hex
}

// The messages that two kinkd of racoon2 sent each other are read, and written again
// octet by octet as they were.
func TestRacoon2(t *testing.T) {
	for _, v := range vectors.Load[recordedMessage](t, "racoon2.json") {
		m, err := Parse(v.Message)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		ap := m.APReq
		if v.Type == Reply {
			ap = m.APRep
		}
		if m.Type != v.Type || m.XID != v.XID || m.AckReq || ap == nil || ap.Epoch != v.Epoch || len(ap.Data) != v.AP || len(m.Encrypt) != v.Encrypt || len(m.Cksum) != 12 {
			t.Errorf("%s was read as %+v", v.Name, m)
		}
		var covered []byte
		again, err := Append(nil, Header{Type: m.Type, XID: m.XID, AckReq: m.AckReq}, m.Body, func(b []byte) ([]byte, error) {
			covered = bytes.Clone(b)
			return m.Cksum, nil
		})
		if err != nil || !bytes.Equal(again, v.Message) {
			t.Errorf("%s was written as\n%x (%v), expected\n%x", v.Name, again, err, v.Message)
		}
		// RFC 4430, Section 4: what the sender covers is what the receiver does.
		if !bytes.Equal(covered, m.Covered()) {
			t.Errorf("%s: the checksum of the sender is over\n%x, that of the receiver over\n%x", v.Name, covered, m.Covered())
		}
		in, err := ParseInner(v.Inner)
		if err != nil || len(in.ISAKMP) != 1 || in.ISAKMP[0].Payloads[0].Type() != ikev1.TypeSA {
			t.Fatalf("%s: within KINK_ENCRYPT is %+v (%v)", v.Name, in, err)
		}
		if inner, err := AppendInner(nil, in); err != nil || !bytes.Equal(inner, v.Inner) {
			t.Errorf("%s: KINK_ENCRYPT was written as\n%x (%v), expected\n%x", v.Name, inner, err, v.Inner)
		}
	}
}

// The checksum stands at the end, and is over the message that does not know of it.
// The vectors have no payloads, so that the header alone is looked at: a message with
// a checksum and no key is refused.
func TestChecksumPlace(t *testing.T) {
	for _, v := range vectors.Load[struct {
		EType                                            int
		Cksum_Input, Cksum, Final_Message, Encrypt_Plain vectors.Hex
	}](t, "generated.json") {
		var covered []byte
		got, err := Append(nil, Header{Type: Status, XID: 0x01020304}, Body{}, func(b []byte) ([]byte, error) {
			covered = bytes.Clone(b)
			return v.Cksum, nil
		})
		if err != nil || !bytes.Equal(got, v.Final_Message) || !bytes.Equal(covered, v.Cksum_Input) {
			t.Errorf("etype %d: the message is %x (%v), the checksum over %x, expected %x and %x", v.EType, got, err, covered, v.Final_Message, v.Cksum_Input)
		}
		if _, err := Parse(got); err == nil {
			t.Errorf("etype %d: a checksum without KINK_AP_REQ is accepted", v.EType)
		}
	}
}

// everything is a body with each payload that may stand together, of lengths that need
// padding.
func everything() Body {
	name, code := `kink/a\/b.example.org@EXAMPLE.ORG`, BadQMVersn
	return Body{
		APReq: &AP{Epoch: 7, Data: []byte("an AP-REQ")}, KRBError: []byte("error"), TGTReq: &name, TGTRep: []byte("ticket"),
		ISAKMP: []*ISAKMP{
			{Payloads: []ikev1.Payload{&ikev1.Opaque{Kind: ikev1.TypeNonce, Data: []byte("a nonce of 21 octets.")}, &ikev1.Notify{DOI: 1, Protocol: ikev1.ProtoESP, SPI: []byte{1, 2, 3, 4}, Kind: ikev1.InvalidSPI}}},
			{Payloads: []ikev1.Payload{&ikev1.Delete{Protocol: ikev1.ProtoAH, SPIs: [][]byte{{1, 2, 3, 4}}}}},
		},
		Error: &code,
	}
}

// Payloads start at multiples of four octets, and their lengths do not count what lies
// between (RFC 4430, Section 4.1). The payloads of Quick Mode are not aligned.
func TestAlignment(t *testing.T) {
	body := everything()
	inner, err := AppendInner(nil, body)
	if err != nil || len(inner)%Align != 0 {
		t.Fatalf("%d octets, %v", len(inner), err)
	}
	body.Encrypt = append(inner, 0xee) // a ciphertext of odd length
	b, err := Append(nil, Header{Type: Create, XID: 1, AckReq: true}, body, func(b []byte) ([]byte, error) {
		if len(b)%Align != 0 {
			t.Errorf("the checksum is over %d octets", len(b))
		}
		return []byte("checksum of 23 octets.."), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !m.AckReq || string(m.Cksum) != "checksum of 23 octets.." || string(m.APReq.Data) != "an AP-REQ" || *m.TGTReq != *body.TGTReq || string(m.TGTRep) != "ticket" ||
		string(m.KRBError) != "error" || len(m.ISAKMP) != 2 || len(m.ISAKMP[0].Payloads) != 2 || *m.Error != BadQMVersn || !bytes.Equal(m.Encrypt, body.Encrypt) {
		t.Errorf("read again as %+v", m)
	}
	// RFC 4430, Section 4.2.7: the padding of a cipher stands behind the last payload.
	if in, err := ParseInner(append(inner, 1, 2, 3, 4, 5, 6, 7)); err != nil || len(in.ISAKMP) != 2 {
		t.Errorf("behind a padding: %+v, %v", in, err)
	}
	// The last payload of a chain may lack its padding.
	if in, err := ParseInner([]byte{8, 0, 0, 0, 3, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5, 'x'}); err != nil || *in.Error != ProtoErr || string(in.KRBError) != "x" {
		t.Errorf("without padding: %+v, %v", in, err)
	}
}
