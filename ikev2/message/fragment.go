package message

import (
	"encoding/binary"
	"fmt"

	"iked/internal/isakmp"
)

// Limits of a fragmented message, when Reassembler does not say otherwise.
// At the least IPv4 datagram (576 octets) a fragment carries some 450 octets,
// so that the longest chain needs about 150 of them.
const (
	MaxFragments       = 160
	MaxFragmentedChain = isakmp.DefaultOctets
)

// MaxMessageLen is how many octets of IKE message fit into an IP packet of mtu
// octets: without IP header (no options), UDP header and, with marker, the
// non-ESP marker (RFC 3948, Section 2.2).
func MaxMessageLen(mtu int, ipv6, marker bool) int {
	n := mtu - 20 - 8
	if ipv6 {
		n -= 20
	}
	if marker {
		n -= 4
	}
	return n
}

// SealFragments is the message with header h and the payloads encrypted: in one
// SK if that has at most maxLen octets (see MaxMessageLen), else in SKF
// payloads of messages of at most maxLen octets each (RFC 7383, Section 2.5).
func SealFragments(h Header, ps []Payload, s Sealer, maxLen int) ([][]byte, error) {
	if h.Exchange == ExchangeIKESAInit {
		return nil, fmt.Errorf("IKE_SA_INIT is never encrypted: use Message.Append")
	}
	chain, err := AppendPayloads(nil, ps)
	if err != nil {
		return nil, err
	}
	const outer = isakmp.HeaderLen + isakmp.PayloadHeaderLen
	fixed := outer + s.IVLen() + s.ICVLen()
	if fixed+len(chain)+padding(len(chain), s.Block())+1 <= maxLen {
		b, err := sealChain(h, firstType(ps), chain, s)
		return [][]byte{b}, err
	}
	block := max(s.Block(), 1)
	room := (maxLen-fixed-fragmentHeaderLen)/block*block - 1
	if room < 1 {
		return nil, fmt.Errorf("a fragment needs more than %d octets, at most %d are allowed: raise the fragment size", fixed+fragmentHeaderLen+block, maxLen)
	}
	total := (len(chain) + room - 1) / room
	if total > MaxFragments || len(chain) > MaxFragmentedChain {
		return nil, fmt.Errorf("%d octets of payloads would need %d fragments, at most %d octets in %d fragments are sent: raise the fragment size",
			len(chain), total, MaxFragmentedChain, MaxFragments)
	}
	out := make([][]byte, 0, total)
	for i := 1; i <= total; i++ {
		first := NoPayload
		if i == 1 {
			first = firstType(ps)
		}
		part := chain[:min(room, len(chain))]
		chain = chain[len(part):]
		b := beginSealed(h, TypeSKF, first, fragmentHeaderLen+len(part), s)
		b = binary.BigEndian.AppendUint16(b, uint16(i))
		b = binary.BigEndian.AppendUint16(b, uint16(total))
		hdr := len(b)
		b, err := endSealed(append(append(b, make([]byte, s.IVLen())...), part...), hdr, s)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// Reassembler collects the fragments of one message (RFC 7383, Section 2.6).
// Only what Open authenticated may be added. The zero value is ready; the first
// fragment fixes which message it is.
//
// When all fragments of a message are there, Reassembler keeps only the fact:
// later ones are duplicates, until Reset.
type Reassembler struct {
	// Fragments and Octets bound the message; 0: MaxFragments and
	// MaxFragmentedChain.
	Fragments, Octets int

	of    Header // SPIs, exchange, flags and message ID are compared
	total int    // 0: nothing yet
	have  int
	size  int
	first PayloadType
	parts [][]byte // by number less 1; nil: not yet here
}

// Reset forgets everything.
func (r *Reassembler) Reset() { *r = Reassembler{Fragments: r.Fragments, Octets: r.Octets} }

// Pending is the number of fragments that are held, and that the message has.
func (r *Reassembler) Pending() (have, total int) { return r.have, r.total }

// Wanted says whether the fragment e would bring something new, before time is
// spent on decrypting it: nil, or the Drop that Add would return.
func (r *Reassembler) Wanted(e Encrypted) error {
	switch {
	case !e.IsFragment():
		return drop(ReasonFragmentMismatch, "an SK payload is not a fragment")
	case e.Fragment == 0 || e.Fragment > e.Total:
		return drop(ReasonFragmentNumber, "fragment number %d of %d", e.Fragment, e.Total)
	case int(e.Total) > orDefault(r.Fragments, MaxFragments):
		return drop(ReasonFragmentTotal, "at most %d fragments are put together, the message has %d", orDefault(r.Fragments, MaxFragments), e.Total)
	case r.total == 0:
		return nil
	case !sameMessage(r.of, e.Header):
		return drop(ReasonFragmentMismatch, "fragments of message %d of %s are collected, found message %d of %s",
			r.of.MessageID, ExchangeName(r.of.Exchange), e.Header.MessageID, ExchangeName(e.Header.Exchange))
	case int(e.Total) < r.total:
		// RFC 7383, Section 2.6: sent before the peer cut the message smaller.
		return drop(ReasonFragmentTotal, "the message is cut into %d by now, found a fragment of %d", r.total, e.Total)
	case int(e.Total) == r.total && (r.parts == nil || r.parts[e.Fragment-1] != nil):
		return drop(ReasonFragmentDuplicate, "fragment %d of %d is here", e.Fragment, e.Total)
	case r.parts == nil:
		return drop(ReasonFragmentDuplicate, "the message is complete")
	}
	return nil
}

func orDefault(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

func sameMessage(a, b Header) bool {
	return a.SPIi == b.SPIi && a.SPIr == b.SPIr && a.Exchange == b.Exchange && a.Flags == b.Flags && a.MessageID == b.MessageID
}

// Add adds a fragment. With the last one that was missing, complete is true and
// first and plain are for ParseInner. Errors are Drop and leave what was
// collected as it was, but for ReasonFragmentBudget: the message is too long
// and all of it is forgotten.
func (r *Reassembler) Add(o Opened) (first PayloadType, plain []byte, complete bool, err error) {
	if err := r.Wanted(o.Encrypted); err != nil {
		return NoPayload, nil, false, err
	}
	if int(o.Total) > r.total {
		// The first fragment, or RFC 7383, Section 2.6: the peer cut the message
		// smaller, what came before is of no use.
		r.Reset()
		r.of, r.total = o.Header, int(o.Total)
		r.parts = make([][]byte, r.total)
	}
	if limit := orDefault(r.Octets, MaxFragmentedChain); r.size+len(o.Plain) > limit {
		r.Reset()
		return NoPayload, nil, false, drop(ReasonFragmentBudget, "at most %d octets of payloads are put together", limit)
	}
	// The copy is never nil: an empty fragment is here, too.
	r.parts[o.Fragment-1] = append(make([]byte, 0, len(o.Plain)), o.Plain...)
	r.size += len(o.Plain)
	if o.Fragment == 1 {
		r.first = o.First
	}
	if r.have++; r.have < r.total {
		return NoPayload, nil, false, nil
	}
	plain = make([]byte, 0, r.size)
	for _, p := range r.parts {
		plain = append(plain, p...)
	}
	r.parts, r.size = nil, 0
	return r.first, plain, true, nil
}
