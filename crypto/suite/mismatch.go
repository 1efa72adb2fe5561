package suite

import (
	"fmt"
	"strings"
)

// Reason says why two proposals do not fit.
type Reason uint8

// Reasons.
const (
	NoCommonTransform Reason = 1 + iota // no algorithm of one type in common
	UnknownType                         // a transform type that the protocol does not define
	DifferentProtocol                   // ESP against AH
)

// PairMismatch is the outcome of one pair of proposals. Type is the first
// transform type that differs, in the order encryption, integrity, PRF, key
// exchange, sequence numbers; the lists hold both sides' alternatives of it.
type PairMismatch struct {
	OurIndex, TheirIndex int
	Ours, Theirs         Proposal
	Reason               Reason
	Type                 TransformType
	OurList, TheirList   []Transform
	InOurs               bool // UnknownType: it stands in our proposal

	matched int
}

// Mismatch says why Select found nothing: one entry per pair of proposals.
type Mismatch struct {
	Ours, Theirs []Proposal
	Pairs        []PairMismatch
}

// Best is the pair that went furthest before it differed, nil if there is none.
func (m *Mismatch) Best() *PairMismatch {
	var best *PairMismatch
	for i := range m.Pairs {
		p := &m.Pairs[i]
		if p.Reason != NoCommonTransform {
			if best == nil {
				best = p
			}
			continue
		}
		if best == nil || best.Reason != NoCommonTransform || p.matched > best.matched {
			best = p
		}
	}
	return best
}

// Error makes a Mismatch an error.
func (m *Mismatch) Error() string { return m.String() }

// String is one sentence: what differs in the closest pair, and what to change.
func (m *Mismatch) String() string {
	switch {
	case len(m.Ours) == 0:
		return "no proposal chosen: we have no proposal configured; configure at least one"
	case len(m.Theirs) == 0:
		return "no proposal chosen: the peer sent no proposal; it must offer at least one"
	}
	b := m.Best()
	if b == nil {
		return "no proposal chosen"
	}
	s := "no proposal chosen: " + b.String()
	if n := len(m.Pairs) - 1; n > 0 {
		s += fmt.Sprintf(" (the closest of %d pairs)", n+1)
	}
	return s
}

// String is one sentence: what differs, and what to change.
func (p *PairMismatch) String() string {
	switch p.Reason {
	case DifferentProtocol:
		return fmt.Sprintf("we have %v, the peer has %v; configure the same protocol on both sides", p.Ours.Protocol, p.Theirs.Protocol)
	case UnknownType:
		who := "the peer's"
		if p.InOurs {
			who = "our"
		}
		return fmt.Sprintf("%s %v proposal %d contains %v, which we do not know; the peer must also offer a proposal without it",
			who, p.Theirs.Protocol, p.TheirIndex+1, p.Type)
	}
	s := fmt.Sprintf("%v %v differs: we have %s, the peer has %s; ", p.Ours.Protocol, p.Type,
		joinTransforms(p.OurList), joinTransforms(p.TheirList))
	return s + p.advice()
}

func (p *PairMismatch) advice() string {
	for _, o := range p.OurList {
		for _, t := range p.TheirList {
			switch {
			case o == t && o.ID >= firstPrivateID:
				return fmt.Sprintf("%v has a private number, which is accepted only from peers of known make; choose a standard algorithm", o)
			case o == t && p.Type == INTEG:
				return "the cipher carries its own integrity, so it must stand in a proposal without an integrity algorithm on both sides"
			case o.ID == t.ID && o.KeyBits != t.KeyBits:
				return fmt.Sprintf("key lengths must be equal: add %v here or %v at the peer", t, o)
			}
		}
	}
	switch {
	case p.Type == SN:
		return "write esn, noesn, or both on one side so that one is common"
	case p.Type == KE && p.Ours.Protocol != ProtoIKE && len(p.OurList) == 0:
		return fmt.Sprintf("the peer wants perfect forward secrecy: add one of its methods here, or add none at the peer (%s)", words(p.TheirList))
	case p.Type == KE && p.Ours.Protocol != ProtoIKE && len(p.TheirList) == 0:
		return fmt.Sprintf("we want perfect forward secrecy: add one of our methods at the peer, or none here (%s)", words(p.OurList))
	case p.Type == INTEG && (len(p.OurList) == 0 || len(p.TheirList) == 0):
		return "a combined-mode cipher needs no integrity algorithm on either side, every other cipher needs a common one"
	}
	if w := words(p.TheirList); w != "" {
		return fmt.Sprintf("add %s here, or one of ours at the peer", w)
	}
	return "add one of ours at the peer"
}

// Bounds on what is said of an offer: it comes from a stranger, and may be long.
const (
	maxWords = 12
	maxPairs = 16
)

// words turns transforms into the keywords of the configuration.
func words(ts []Transform) string {
	var out []string
	for _, t := range ts[:min(len(ts), maxWords)] {
		if k := t.Keyword(); k != "" {
			out = append(out, k)
		}
	}
	if len(out) > 1 {
		return strings.Join(out[:len(out)-1], ", ") + " or " + out[len(out)-1]
	}
	return strings.Join(out, "")
}

// Table prints the pairs side by side, ours left, for the explain command.
func (m *Mismatch) Table() string {
	var b strings.Builder
	for i := range m.Pairs {
		if i == maxPairs {
			fmt.Fprintf(&b, "and %d pairs more\n", len(m.Pairs)-i)
			break
		}
		p := &m.Pairs[i]
		fmt.Fprintf(&b, "ours %d:   %v\ntheirs %d: %v\n  %v\n", p.OurIndex+1, p.Ours, p.TheirIndex+1, p.Theirs, p)
	}
	return b.String()
}
