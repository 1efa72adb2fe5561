package message

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"iked/internal/isakmp"
)

func whole(n int) []byte {
	b := isakmp.Header{SPIi: isakmp.SPI{1}, SPIr: isakmp.SPI{2}, NextPayload: uint8(TypeID), Version: Version, Exchange: uint8(ExchangeMain),
		Flags: FlagEncryption, Length: uint32(isakmp.HeaderLen + n)}.Append(nil)
	for i := range n {
		b = append(b, byte(i*7))
	}
	return b
}

func fragments(t testing.TB, msg []byte, id uint16, size int) []*Fragment {
	t.Helper()
	list, ok := Split(msg, id, size)
	if !ok {
		t.Fatalf("%d octets cannot be cut into %d", len(msg), size)
	}
	var out []*Fragment
	for _, b := range list {
		if len(b) > size {
			t.Fatalf("a datagram of %d octets, at most %d", len(b), size)
		}
		m, err := Parse(b)
		if err != nil || len(m.Payloads) != 1 {
			t.Fatalf("a fragment does not parse: %v", err)
		}
		out = append(out, m.Payloads[0].(*Fragment))
	}
	return out
}

// In any order and with duplicates the pieces make the message that was cut.
func TestFragmentsInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		msg := whole(rapid.IntRange(600, 6000).Draw(t, "octets"))
		list, ok := Split(msg, 5, min(rapid.IntRange(200, 1280).Draw(t, "size"), len(msg)-1))
		if !ok || len(list) > maxFragments {
			t.Skip("too many")
		}
		var r Reassembler
		order := rapid.Permutation(list).Draw(t, "order")
		for i, b := range order {
			m, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			f := m.Payloads[0].(*Fragment)
			for range rapid.IntRange(1, 2).Draw(t, "copies") {
				got, err := r.Add(f)
				if err != nil {
					t.Fatal(err)
				}
				if got != nil {
					if i != len(order)-1 || !bytes.Equal(got, msg) {
						t.Fatalf("after %d of %d pieces: %d octets", i+1, len(order), len(got))
					}
					return
				}
			}
		}
		t.Fatal("never complete")
	})
}

// A message that fits is sent whole; one that needs too many pieces is not cut.
func TestSplitLimits(t *testing.T) {
	msg := whole(100)
	if list, ok := Split(msg, 1, len(msg)); !ok || len(list) != 1 || !bytes.Equal(list[0], msg) {
		t.Error("a message that fits was cut")
	}
	if _, ok := Split(whole(60000), 1, 100); ok {
		t.Error("more than 255 fragments")
	}
	if _, ok := Split(msg, 1, fragmentOverhead); ok {
		t.Error("fragments without room")
	}
}

// Sets that never complete, contradict themselves or are too large cost no more
// than one set does (CVE-2016-10396 class).
func TestFragmentBudgets(t *testing.T) {
	var r Reassembler
	if _, err := r.Add(&Fragment{ID: 1, Number: maxFragments + 1, Data: []byte{1}}); err == nil {
		t.Error("a fragment beyond the last place was taken")
	}
	for id := range uint16(1000) {
		if got, err := r.Add(&Fragment{ID: id, Number: 2, Data: make([]byte, 1000)}); got != nil || err != nil {
			t.Fatal(err)
		}
	}
	if r.size != 1000 {
		t.Errorf("%d octets are held, expected those of one message", r.size)
	}
	r = Reassembler{}
	var err error
	for n := uint8(1); err == nil && n < maxFragments; n++ {
		_, err = r.Add(&Fragment{ID: 1, Number: n, Data: make([]byte, 2000)})
	}
	if err == nil || r.size != 0 {
		t.Errorf("more than 65535 octets were put together: %v", err)
	}
	for name, list := range map[string][]*Fragment{
		"two ends":              {{ID: 1, Number: 2, Last: true, Data: []byte{1}}, {ID: 1, Number: 1, Last: true, Data: []byte{1}}},
		"beyond the end":        {{ID: 1, Number: 2, Last: true, Data: []byte{1}}, {ID: 1, Number: 3, Data: []byte{1}}},
		"end before the middle": {{ID: 1, Number: 3, Data: []byte{1}}, {ID: 1, Number: 2, Last: true, Data: []byte{1}}},
	} {
		r = Reassembler{}
		var err error
		for _, f := range list {
			_, err = r.Add(f)
		}
		if err == nil || r.have != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the reassembler holds is its own.
func TestFragmentDataIsCopied(t *testing.T) {
	msg := whole(900)
	var r Reassembler
	list := fragments(t, msg, 3, 500)
	for i, f := range list {
		got, err := r.Add(f)
		if err != nil {
			t.Fatal(err)
		}
		for j := range f.Data {
			f.Data[j] = byte(rand.Uint32())
		}
		if i == len(list)-1 && (len(got) != len(msg) || !bytes.Equal(got[:400], msg[:400])) {
			t.Error("the message changed with the datagrams")
		}
	}
}
