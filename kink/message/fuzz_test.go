package message

import (
	"bytes"
	"testing"

	"iked/internal/vectors"
)

// FuzzParse: any octets are a message that is written again so that it reads the
// same, or a fault with its reason and code.
func FuzzParse(f *testing.F) {
	for _, v := range vectors.Load[recordedMessage](f, "racoon2.json") {
		f.Add([]byte(v.Message))
	}
	f.Add(sealed(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(bytes.Clone(b))
		if err != nil {
			checkFault(t, err)
			return
		}
		var sum func([]byte) ([]byte, error)
		if m.Cksum != nil {
			sum = func([]byte) ([]byte, error) { return m.Cksum, nil }
		}
		again, err := Append(nil, m.Header, m.Body, sum)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}

// FuzzInner: the same behind the encryption, where a peer that is authenticated may
// put anything.
func FuzzInner(f *testing.F) {
	for _, v := range vectors.Load[recordedMessage](f, "racoon2.json") {
		f.Add([]byte(v.Inner))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := ParseInner(bytes.Clone(b))
		if err != nil {
			checkFault(t, err)
			return
		}
		again, err := AppendInner(nil, in)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := ParseInner(again); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
