package wire

import (
	"bytes"
	"testing"
)

// No input makes a parser panic, and what it accepts it writes in a form that it
// reads to the same.
func FuzzParse(f *testing.F) {
	for typ, m := range samples() {
		f.Add(uint16(typ), m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, typ uint16, b []byte) {
		m, err := Parse(Type(typ), b)
		if err != nil {
			return
		}
		once := m.Append(nil)
		again, err := Parse(Type(typ), once)
		if err != nil {
			t.Fatalf("%v: what was written is not read: %v", Type(typ), err)
		}
		if twice := again.Append(nil); !bytes.Equal(once, twice) {
			t.Fatalf("%v:\n%x became\n%x", Type(typ), once, twice)
		}
	})
}

// No datagram makes the framing or the acknowledgements panic, and no body goes
// beyond it.
func FuzzMessages(f *testing.F) {
	f.Add(AppendMessage(nil, Header{Type: ErrorType, Flags: flagAckTLVs}, &Default{}))
	f.Add(AppendMessage(AppendMessage(nil, Header{Type: DoneType}, nil), Header{Type: ErrorType, Flags: flagCapped | flagAckTLVs}, &Dump{everything()}))
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := 0
		for m, err := range Messages(b) {
			if err != nil {
				break
			}
			sum += nlHeader + len(m.Body)
			a, err := ParseAck(m.Header, m.Body)
			if err == nil && (a.Errno < 0 || a.Errno > 4095) {
				t.Fatalf("%+v", a)
			}
		}
		if sum > len(b) {
			t.Fatalf("%d octets in messages of %d", sum, len(b))
		}
	})
}
