package message

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// No prefix of a recorded message is a message, not even when its header
// announces the length of the prefix. Nor is it with an octet appended.
func TestEveryPrefixOfMessages(t *testing.T) {
	rec := recorded(t)
	for i, msg := range rec.Messages {
		read := func(b []byte) error { _, err := Parse(b); return err }
		if i >= 2 {
			s := newCBC(rec.SKei, rec.SKai, nil)
			if i == 3 {
				s = newCBC(rec.SKer, rec.SKar, nil)
			}
			read = func(b []byte) error { _, err := Open(s, b); return err }
		}
		if err := read(bytes.Clone(msg)); err != nil {
			t.Fatal(err)
		}
		for n := range msg {
			wantDrop(t, read(bytes.Clone(msg[:n])))
			if n < 28 {
				continue
			}
			b := bytes.Clone(msg[:n])
			binary.BigEndian.PutUint32(b[24:], uint32(n))
			wantDrop(t, read(b))
		}
		longer := append(bytes.Clone(msg), 0)
		wantDrop(t, read(longer))
		binary.BigEndian.PutUint32(longer[24:], uint32(len(longer)))
		wantDrop(t, read(longer))
	}
}

func wantDrop(t *testing.T, err error) {
	t.Helper()
	e, ok := err.(*Error)
	if !ok || e.Action != Drop || e.Notify != NoNotify || e.Reason == "" || e.Detail == "" {
		t.Errorf("got %v, want an error that answers nothing and has a reason", err)
	}
}

// A change of any single bit of a protected message is found out, and nothing
// is answered. (The version and flags octets may be refused even earlier.)
func TestEveryBitIsAuthenticated(t *testing.T) {
	b, err := Seal(head(ExchangeInformational, 3, false), []Payload{NewNotify(SetWindowSize, []byte{0, 0, 0, 4})}, testSealer())
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(b) * 8 {
		x := bytes.Clone(b)
		x[i/8] ^= 1 << (i % 8)
		_, err := Open(testSealer(), x)
		e, ok := err.(*Error)
		if !ok || (e.Action != Drop && e.Reason != ReasonVersion) {
			t.Errorf("bit %d of octet %d: got %v", i%8, i/8, err)
		}
	}
}
