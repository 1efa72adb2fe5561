package message

import (
	"encoding/binary"

	"iked/internal/isakmp"
)

// Fragment is the payload of proprietary IKE fragmentation: a piece of a whole
// message, its ISAKMP header included.
//
//	+-------------------------------+---------------+---------------+
//	|          Fragment ID          |    Number     |     Flags     |
//	~                             Data                              ~
type Fragment struct {
	ID     uint16
	Number uint8 // from 1
	Last   bool
	Data   []byte
}

const fragmentLast = 1

// Type is TypeFragment.
func (*Fragment) Type() PayloadType { return TypeFragment }

// Append appends the body.
func (p *Fragment) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, p.ID)
	flags := byte(0)
	if p.Last {
		flags = fragmentLast
	}
	return append(append(b, p.Number, flags), p.Data...)
}

func parseFragment(b []byte) (*Fragment, error) {
	if len(b) < 5 {
		return nil, short(TypeFragment, 5, len(b))
	}
	if b[2] == 0 {
		return nil, fault(0, ReasonFragment, "fragments are numbered from 1, found 0")
	}
	return &Fragment{ID: binary.BigEndian.Uint16(b), Number: b[2], Last: b[3]&fragmentLast != 0, Data: b[4:]}, nil
}

// fragmentOverhead is what a fragment adds to its data.
const fragmentOverhead = isakmp.HeaderLen + isakmp.PayloadHeaderLen + 4

// Split cuts a message into datagrams of at most size octets, IP and UDP not
// counted. A message that fits stays whole. More than 255 fragments cannot be
// numbered: false.
func Split(msg []byte, id uint16, size int) ([][]byte, bool) {
	if len(msg) <= size {
		return [][]byte{msg}, true
	}
	piece := size - fragmentOverhead
	if piece <= 0 || (len(msg)+piece-1)/piece > 255 {
		return nil, false
	}
	h, err := isakmp.ParseHeader(msg)
	if err != nil {
		return nil, false
	}
	// The content is encrypted already, if it is; the fragment itself is not.
	h.Flags, h.NextPayload = h.Flags&^FlagEncryption, uint8(TypeFragment)
	var out [][]byte
	for n := uint8(1); len(msg) > 0; n++ {
		k := min(piece, len(msg))
		f := &Fragment{ID: id, Number: n, Last: k == len(msg), Data: msg[:k]}
		b, err := Append(nil, h, []Payload{f})
		if err != nil {
			return nil, false
		}
		out, msg = append(out, b), msg[k:]
	}
	return out, true
}

// Limits of a Reassembler: fragments come before anything is authenticated.
const (
	maxFragments = 64
	maxMessage   = 65535
)

// Reassembler puts the fragments of one peer's messages together. It holds the
// pieces of one message at a time: a higher ID takes the place of what never
// completed. The zero value is ready.
type Reassembler struct {
	id    uint16
	parts [][]byte // by number, from 1
	last  int
	have  int
	size  int
}

// Add takes a fragment, whose data is copied. The whole message comes back when
// it was the last one missing, else nil.
func (r *Reassembler) Add(f *Fragment) ([]byte, error) {
	n := int(f.Number)
	if n > maxFragments {
		return nil, fault(0, ReasonFragmentBudget, "fragment %d, at most %d are put together", n, maxFragments)
	}
	if r.parts == nil || f.ID != r.id {
		*r = Reassembler{id: f.ID, parts: make([][]byte, maxFragments+1)}
	}
	switch {
	case r.parts[n] != nil:
		return nil, nil // a duplicate
	case r.last != 0 && (n > r.last || f.Last), f.Last && r.beyond(n):
		r.reset()
		return nil, fault(0, ReasonFragment, "fragments of message %d contradict each other about the last one", f.ID)
	case r.size+len(f.Data) > maxMessage:
		r.reset()
		return nil, fault(0, ReasonFragmentBudget, "fragments of message %d have more than %d octets", f.ID, maxMessage)
	}
	r.parts[n] = append(make([]byte, 0, len(f.Data)), f.Data...)
	r.have++
	r.size += len(f.Data)
	if f.Last {
		r.last = n
	}
	if r.last == 0 || r.have != r.last {
		return nil, nil
	}
	msg := make([]byte, 0, r.size)
	for _, p := range r.parts[1 : r.last+1] {
		msg = append(msg, p...)
	}
	r.reset()
	return msg, nil
}

// beyond tells whether a piece behind number n is there.
func (r *Reassembler) beyond(n int) bool {
	for _, p := range r.parts[n+1:] {
		if p != nil {
			return true
		}
	}
	return false
}

func (r *Reassembler) reset() { *r = Reassembler{} }
