package offer

import (
	"encoding/binary"
	"fmt"
	"slices"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/spd"
)

// A protection suite is what proposals of one number demand together (RFC 2407,
// Section 4.6.1; RFC 2408, Section 4.2): here AH around ESP. Its packets have one
// outer header:
//
//	transport mode   IP | AH | ESP | payload
//	tunnel mode      new IP | AH | ESP | IP | payload
//
// AH has transport mode then, since there is nothing but the packet of ESP to carry.
// In tunnel mode some peers say tunnel for both protocols and mean the same one
// header; AH in either mode is offered and taken.

// maxSuites bounds the suites of an offer of ours.
const maxSuites = 16

// SPIs are the numbers of the inbound half of a suite; AH is 0 without AH around.
type SPIs struct{ Main, AH uint32 }

// Suites writes what a configuration offers: suites with AH around ESP where it says
// so, else Proposals.
func Suites(cfg *keyex.ChildConfig, s SPIs, w Want) []message.Proposal {
	mains := Proposals(cfg.Proposals, s.Main, w)
	if len(cfg.AH) == 0 {
		return mains
	}
	encaps := []uint16{w.Encap}
	if w.Encap == message.EncapTunnel {
		encaps = append(encaps, message.EncapTransport)
	}
	var out []message.Proposal
	number := uint8(0)
	for _, m := range mains {
		// The group of a suite is that of its ESP (RFC 2409, Section 5.5).
		for _, p := range WithoutPFS(cfg.AH) {
			a := message.Proposal{Protocol: message.ProtoAH, SPI: binary.BigEndian.AppendUint32(nil, s.AH)}
			for _, e := range encaps {
				w.Encap = e
				a.Transforms = append(a.Transforms, transforms(p, w, len(a.Transforms))...)
			}
			if len(a.Transforms) == 0 || number == maxSuites {
				continue
			}
			number++
			a.Number, m.Number = number, number
			// The outermost first, as other implementations write it.
			out = append(out, a, m)
		}
	}
	return out
}

// Suite is a protection suite of a peer, in the order of the wire.
type Suite []message.Proposal

// Of is the part of a protocol; nil: it has none.
func (s Suite) Of(p message.Protocol) *message.Proposal {
	for i := range s {
		if s[i].Protocol == p {
			return &s[i]
		}
	}
	return nil
}

// Main is its ESP or, without ESP, its AH; nil: it has neither.
func (s Suite) Main() *message.Proposal {
	if p := s.Of(message.ProtoESP); p != nil {
		return p
	}
	return s.Of(message.ProtoAH)
}

// Around is the AH around its ESP; nil: there is none.
func (s Suite) Around() *message.Proposal {
	if s.Of(message.ProtoESP) == nil {
		return nil
	}
	return s.Of(message.ProtoAH)
}

// ReadSuites parts the proposals of a peer into suites. Proposals of one number and
// one protocol are alternatives; why tells what is wrong with what was left out.
func ReadSuites(list []message.Proposal) (out []Suite, why string) {
	var seen [256]bool
	for _, first := range list {
		if seen[first.Number] {
			continue
		}
		seen[first.Number] = true
		var s Suite
		several, twice := false, false
		for _, p := range list {
			if p.Number != first.Number {
				continue
			}
			several = several || p.Protocol != first.Protocol
			twice = twice || s.Of(p.Protocol) != nil
			s = append(s, p)
		}
		switch {
		case !several:
			for i := range s {
				out = append(out, s[i:i+1:i+1])
			}
		case twice:
			why = fmt.Sprintf("proposal %d demands a protocol twice", first.Number)
		default:
			out = append(out, s)
		}
	}
	return slices.DeleteFunc(out, func(s Suite) bool {
		no := s.unfit()
		if no != "" {
			why = no
		}
		return no != ""
	}), why
}

// unfit tells why a suite is none that can be spoken here; "": it is one.
func (s Suite) unfit() string {
	for i := range s {
		switch p := &s[i]; {
		case p.Protocol != message.ProtoAH && p.Protocol != message.ProtoESP:
			return fmt.Sprintf("proposal %d demands %v, which is not supported by this version", p.Number, p.Protocol)
		default:
			// RFC 2406, Section 2.1; RFC 2402, Section 2.4: 1 to 255 are reserved.
			if spi, ok := p.SPI32(); !ok || spi < 256 {
				return "the SPI of the peer's proposal has not four octets, or is below 256"
			}
		}
	}
	return ""
}

// Fits tells why a suite has other protocols than a configuration wants; "": it has
// the same.
func (s Suite) Fits(cfg *keyex.ChildConfig) string {
	switch around := s.Around() != nil; {
	case around && len(cfg.AH) == 0:
		return "the peer offers AH and ESP together, and " + cfg.Name + " has one of them"
	case !around && len(cfg.AH) > 0:
		return "the peer offers one protocol, and " + cfg.Name + " has AH and ESP together"
	}
	return ""
}

// SelectAround chooses the AH around ESP of a mode and with a group: the transform's
// place in p, and what it says. why tells why none fits.
func SelectAround(cfg *keyex.ChildConfig, level keyex.LifeCheck, p *message.Proposal, mode spd.Mode, group uint16) (at int, t Transform, why string) {
	var list []suite.Proposal
	var read []Transform
	var where []int
	why = "the peer offers no AH"
	for j := range p.Transforms {
		t, no := Read(p.Protocol, &p.Transforms[j])
		m, udp, ok := ModeOf(t.Encap)
		switch _, _, lives := WeighChild(level, cfg, t); {
		case no != "":
			why = no
		case !ok || udp || m != mode && m != spd.Transport:
			why = fmt.Sprintf("the peer offers AH with encapsulation mode %d around ESP in %s mode", t.Encap, ModeName(mode))
		case t.Group != group:
			// RFC 2409, Section 5.5.
			why = "the peer offers AH with another group than ESP in one suite"
		case !lives:
			own, kbytes := LifeWords(cfg)
			why = RefusedLife(level, Span{own, kbytes}, Span{t.Seconds, t.KBytes})
		default:
			list, read, where = append(list, t.Proposal), append(read, t), append(where, j)
		}
	}
	if len(list) == 0 {
		return 0, t, why
	}
	c, m := suite.Select(WithoutPFS(cfg.AH), WithoutPFS(list), suite.Options{})
	if m != nil {
		return 0, t, "no algorithm of its AH is in ah_proposals"
	}
	return where[c.TheirIndex], read[c.TheirIndex], ""
}

// Shorter is a transform with the shorter lifetimes of two: those of a suite end
// together.
func (t Transform) Shorter(o Transform) Transform {
	t.Seconds, t.KBytes = Shorten(t.Seconds, o.Seconds), Shorten(t.KBytes, o.KBytes)
	return t
}
