package message

import (
	"bytes"
	"errors"
	"testing"

	"iked/internal/isakmp"
)

// FuzzParse: any octets are a message that is written again as it was, or a
// fault with its reason.
func FuzzParse(f *testing.F) {
	for _, r := range recorded(f) {
		for _, m := range r.Messages {
			f.Add([]byte(m.Hex))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(bytes.Clone(b))
		if err != nil {
			checkFault(t, err)
			return
		}
		again, err := Append(nil, m.Header, m.Payloads)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}

// FuzzDecrypted: the same behind the encryption, where a peer that is
// authenticated, or a wrong key, may put anything.
func FuzzDecrypted(f *testing.F) {
	for _, r := range recorded(f) {
		for _, b := range [][]byte{r.QM1, r.QM2, r.QM3} {
			f.Add(uint8(TypeHash), b)
		}
		for _, p := range r.Phase1 {
			f.Add(uint8(TypeID), []byte(p.Plain))
		}
	}
	f.Fuzz(func(t *testing.T, first uint8, b []byte) {
		m, err := ParseDecrypted(isakmp.Header{NextPayload: first}, b)
		if err != nil {
			checkFault(t, err)
			return
		}
		for _, p := range m.Payloads {
			if id, ok := p.(*ID); ok {
				if from, to, err := id.Range(); err == nil && (to.Less(from) || from.Is4() != to.Is4()) {
					t.Fatalf("range from %v to %v", from, to)
				}
			}
		}
		again, err := AppendPayloads(nil, m.Payloads)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseDecrypted(isakmp.Header{NextPayload: First(m.Payloads)}, again); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}

// FuzzReassemble: no order and content of fragments makes more than a message
// of 65,535 octets, or costs more memory than that.
func FuzzReassemble(f *testing.F) {
	f.Add([]byte{1, 0, 4, 2, 1, 3})
	f.Add([]byte{2, 1, 9, 1, 0, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Reassembler
		for ; len(b) >= 3; b = b[3:] {
			got, err := r.Add(&Fragment{ID: uint16(b[1] >> 4), Number: b[0], Last: b[1]&1 == 1, Data: make([]byte, int(b[2])*32)})
			if err != nil {
				checkFault(t, err)
			}
			if len(got) > maxMessage || r.size > maxMessage {
				t.Fatalf("%d octets, %d held", len(got), r.size)
			}
		}
	})
}

func checkFault(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason == "" || e.Detail == "" {
		t.Fatalf("%T without a reason: %v", err, err)
	}
}
