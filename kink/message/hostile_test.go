package message

import (
	"encoding/binary"
	"errors"
	"testing"

	"iked/internal/vectors"
)

// sealed is a message with everything in it.
func sealed(t testing.TB) []byte {
	t.Helper()
	body := everything()
	body.Encrypt = []byte("ciphertext")
	b, err := Append(nil, Header{Type: Create, XID: 1}, body, func([]byte) ([]byte, error) { return make([]byte, 12), nil })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func checkFault(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason == "" || e.Code == OK {
		t.Fatalf("a fault without reason or code: %v", err)
	}
}

// No prefix of a message is a message, also when its header says it is whole.
func TestEveryPrefix(t *testing.T) {
	list := [][]byte{sealed(t)}
	for _, v := range vectors.Load[recordedMessage](t, "racoon2.json") {
		list = append(list, v.Message)
	}
	for _, b := range list {
		for n := range len(b) {
			_, err := Parse(b[:n])
			if err == nil {
				t.Errorf("the first %d octets of %d are a message", n, len(b))
				continue
			}
			checkFault(t, err)
			if n < HeaderLen {
				continue
			}
			p := append([]byte(nil), b[:n]...)
			binary.BigEndian.PutUint16(p[2:], uint16(n))
			// The last octets become the checksum, so that padding alone may be missing.
			if m, err := Parse(p); err == nil && n <= len(b)-Align-len(m.Cksum) {
				t.Errorf("the first %d octets of %d, with that length, are the message %+v", n, len(b), m)
			}
		}
	}
}

// Headers and payloads that lie are refused with the code that RFC 4430, Section
// 4.2.8, has for the fault.
func TestLyingMessages(t *testing.T) {
	cases := map[string]struct {
		change func(b []byte) []byte
		code   ErrorCode
	}{
		"another major version": {func(b []byte) []byte { b[1] = 0x20; return b }, InvMaj},
		"another DOI":           {func(b []byte) []byte { b[7] = 2; return b }, InvDOI},
		"an unknown message":    {func(b []byte) []byte { b[0] = 7; return b }, ProtoErr},
		"the reserved message":  {func(b []byte) []byte { b[0] = 0; return b }, ProtoErr},
		"trailing octets":       {func(b []byte) []byte { return append(b, 0) }, ProtoErr},
		"no checksum": {func(b []byte) []byte {
			b = b[:len(b)-12]
			b[15] = 0
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			return b
		}, ProtoErr},
		"a checksum longer than all":      {func(b []byte) []byte { b[14] = 0xff; return b }, ProtoErr},
		"a checksum longer than any":      {func(b []byte) []byte { b[15] = maxChecksum + 1; return b }, ProtoErr},
		"an unknown payload":              {func(b []byte) []byte { b[12] = 9; return b }, ProtoErr},
		"an AP_REQ behind the message":    {func(b []byte) []byte { b[18] = 0xff; return b }, ProtoErr},
		"an AP_REQ of no octets":          {func(b []byte) []byte { b[18], b[19] = 0, 3; return b }, ProtoErr},
		"the same payload again":          {func(b []byte) []byte { b[16] = byte(TypeAPReq); return b }, ProtoErr},
		"another version of Quick Mode":   {func(b []byte) []byte { b[find(b, []byte("a nonce"))-7] = 0x20; return b }, BadQMVersn},
		"Quick Mode without its octets":   {func(b []byte) []byte { b[find(b, []byte("a nonce"))-1]++; return b }, ProtoErr},
		"a name that is not there":        {func(b []byte) []byte { b[find(b, []byte("kink/"))-1]++; return b }, ProtoErr},
		"a name with octets behind":       {func(b []byte) []byte { b[find(b, []byte("kink/"))-1] -= 4; return b }, ProtoErr},
		"a ticket of no octets":           {func(b []byte) []byte { b[find(b, []byte("ticket"))-1] = 0; return b }, ProtoErr},
		"a payload behind KINK_ENCRYPT":   {func(b []byte) []byte { b[find(b, []byte("ciphertext"))-4] = byte(TypeAPRep); return b }, ProtoErr},
		"KINK_ENCRYPT without its octets": {func(b []byte) []byte { b[find(b, []byte("ciphertext"))-1]--; return b }, OK},
	}
	for name, c := range cases {
		_, err := Parse(c.change(sealed(t)))
		var e *Error
		if c.code == OK {
			// Shorter by one is a ciphertext, too: the checksum alone tells.
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.As(err, &e) || e.Code != c.code {
			t.Errorf("%s: %v, expected %v", name, err, c.code)
		}
	}
}

func find(b, what []byte) int {
	for i := range b {
		if len(b)-i >= len(what) && string(b[i:i+len(what)]) == string(what) {
			return i
		}
	}
	panic("not there")
}

// Payloads that are forbidden together are refused: KINK_ENCRYPT without a key,
// within another, and requests that are answers.
func TestForbiddenTogether(t *testing.T) {
	sum := func([]byte) ([]byte, error) { return make([]byte, 12), nil }
	for name, c := range map[string]struct {
		body  Body
		cksum func([]byte) ([]byte, error)
	}{
		"KINK_ENCRYPT without a key":              {Body{Encrypt: []byte("x")}, nil},
		"an AP_REQ without checksum":              {Body{APReq: &AP{Data: []byte("x")}}, nil},
		"an AP_REP without checksum":              {Body{APRep: &AP{Data: []byte("x")}}, nil},
		"a checksum without a key":                {Body{TGTRep: []byte("x")}, sum},
		"an AP_REQ and an AP_REP in one":          {Body{APReq: &AP{Data: []byte("x")}, APRep: &AP{Data: []byte("x")}}, sum},
		"an AP_REQ that has an epoch and nothing": {Body{APReq: &AP{}}, sum},
	} {
		b, err := Append(nil, Header{Type: Reply}, c.body, c.cksum)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(b); err == nil {
			t.Errorf("%s is accepted", name)
		} else {
			checkFault(t, err)
		}
	}
	if _, err := AppendInner(nil, Body{Encrypt: []byte("x")}); err == nil {
		t.Error("KINK_ENCRYPT within KINK_ENCRYPT is written")
	}
	if _, err := ParseInner([]byte{byte(TypeEncrypt), 0, 0, 0, 0, 0, 0, 5, 1}); err == nil {
		t.Error("KINK_ENCRYPT within KINK_ENCRYPT is read")
	}
	if _, err := Append(nil, Header{Type: Create}, Body{TGTRep: make([]byte, 65000), KRBError: make([]byte, 600)}, nil); err == nil {
		t.Error("a message that no length can say is written")
	}
}
