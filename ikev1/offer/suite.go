package offer

import (
	"encoding/binary"
	"fmt"
	"slices"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/sad"
	"iked/spd"
)

// A protection suite is what proposals of one number demand together (RFC 2407,
// Section 4.6.1; RFC 2408, Section 4.2): here AH around ESP, and compression inside of
// ESP. Its packets have one outer header:
//
//	transport mode   IP | AH | ESP | IPComp | payload
//	tunnel mode      new IP | AH | ESP | IPComp | IP | payload
//
// AH has transport mode then, since there is nothing but the packet of ESP to carry.
// In tunnel mode some peers say tunnel for both protocols and mean the same one
// header; AH in either mode is offered and taken.

// maxSuites bounds the suites of an offer of ours.
const maxSuites = 16

// SPIs are the numbers of the inbound half of a suite; AH is 0 without AH around ESP,
// CPI without compression.
type SPIs struct {
	Main, AH uint32
	CPI      uint16
}

// Suites writes what a configuration offers, each with compression first, if it has a
// CPI, and then without.
func Suites(cfg *keyex.ChildConfig, s SPIs, w Want) []message.Proposal {
	plain := around(cfg, s, w)
	var list []Suite
	if s.CPI != 0 {
		comp := message.Proposal{Protocol: message.ProtoIPComp, SPI: binary.BigEndian.AppendUint16(nil, s.CPI),
			Transforms: []message.Transform{{Number: 1, ID: message.CompDeflate, Attributes: w.attributes(nil)}}}
		for _, x := range plain {
			list = append(list, append(slices.Clone(x), comp))
		}
	}
	list = append(list, plain...)
	var out []message.Proposal
	for i, x := range list[:min(len(list), maxSuites)] {
		for _, p := range x {
			p.Number = uint8(i + 1)
			out = append(out, p)
		}
	}
	return out
}

// around are the suites without compression: AH around ESP where the configuration
// says so, else one protocol each.
func around(cfg *keyex.ChildConfig, s SPIs, w Want) (out []Suite) {
	mains := Proposals(cfg.Proposals, s.Main, w)
	if len(cfg.AH) == 0 {
		for i := range mains {
			out = append(out, mains[i:i+1:i+1])
		}
		return out
	}
	encaps := []uint16{w.Encap}
	if w.Encap == message.EncapTunnel {
		encaps = append(encaps, message.EncapTransport)
	}
	for _, m := range mains {
		// The group of a suite is that of its ESP (RFC 2409, Section 5.5).
		for _, p := range WithoutPFS(cfg.AH) {
			a := message.Proposal{Protocol: message.ProtoAH, SPI: binary.BigEndian.AppendUint32(nil, s.AH)}
			for _, e := range encaps {
				w.Encap = e
				a.Transforms = append(a.Transforms, transforms(p, w, len(a.Transforms))...)
			}
			if len(a.Transforms) > 0 {
				// The outermost first, as other implementations write it.
				out = append(out, Suite{a, m})
			}
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

// Comp is its compression; nil: it has none.
func (s Suite) Comp() *message.Proposal { return s.Of(message.ProtoIPComp) }

// SameButComp tells whether a suite has the proposals of another one without its
// compression, unchanged but for their number.
func (s Suite) SameButComp(o Suite) bool {
	o = slices.DeleteFunc(slices.Clone(o), func(p message.Proposal) bool { return p.Protocol == message.ProtoIPComp })
	return slices.EqualFunc(s, o, func(a, b message.Proposal) bool {
		return a.Protocol == b.Protocol && string(a.SPI) == string(b.SPI) &&
			slices.EqualFunc(a.Transforms, b.Transforms, func(x, y message.Transform) bool { return SameTransform(&x, &y) })
	})
}

// Rank is 0 for a suite with compression and 1 for others: the order in which
// they are looked at.
func (s Suite) Rank() int {
	if s.Comp() != nil {
		return 0
	}
	return 1
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
		p := &s[i]
		spi, ok := p.SPI32()
		switch p.Protocol {
		case message.ProtoAH, message.ProtoESP:
			// RFC 2406, Section 2.1; RFC 2402, Section 2.4: 1 to 255 are reserved.
			if !ok || spi < 256 {
				return "the SPI of the peer's proposal has not four octets, or is below 256"
			}
		case message.ProtoIPComp:
			if !ok || spi > 0xffff {
				return fmt.Sprintf("the CPI of the peer's proposal has %d octets, or is above 65535", len(p.SPI))
			}
			if err := sad.CheckCPI(uint16(spi)); err != nil {
				return "the peer's proposal has " + err.Error()
			}
		default:
			return fmt.Sprintf("proposal %d demands %v, which is not spoken here", p.Number, p.Protocol)
		}
	}
	if s.Main() == nil {
		return "the peer offers compression alone, which protects nothing"
	}
	return ""
}

// Fits tells why a suite has other protocols than a configuration wants; "": it has
// the same. Compression may be missing.
func (s Suite) Fits(cfg *keyex.ChildConfig) string {
	around := s.Around() != nil
	switch {
	case around && len(cfg.AH) == 0:
		return "the peer offers AH and ESP together, and " + cfg.Name + " has one of them"
	case !around && len(cfg.AH) > 0:
		return "the peer offers one protocol, and " + cfg.Name + " has AH and ESP together"
	case s.Comp() != nil && (!cfg.IPComp || s.Of(message.ProtoESP) == nil):
		return "the peer demands compression, and " + cfg.Name + " has none"
	}
	return ""
}

// SelectComp chooses the transform of compression for ESP of a mode, encapsulated in
// UDP or not, and with a group: its place in p. why tells why none fits.
func SelectComp(p *message.Proposal, mode spd.Mode, udp bool, group uint16) (at int, why string) {
	why = "the peer offers no compression"
	for j := range p.Transforms {
		t, no := Read(p.Protocol, &p.Transforms[j])
		m, u, ok := ModeOf(t.Encap)
		switch {
		case no != "":
			why = no
		case !ok || m != mode || u != udp:
			esp := "mode " + ModeName(mode)
			if udp {
				esp += " in UDP"
			}
			why = fmt.Sprintf("the peer offers compression with %s inside of ESP in %s", EncapWords(t.Encap), esp)
		case t.Group != 0 && t.Group != group:
			why = "the peer offers compression with another group than ESP in one suite"
		default:
			return j, ""
		}
	}
	return 0, why
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
			why = fmt.Sprintf("the peer offers AH with %s around ESP in mode %s", EncapWords(t.Encap), ModeName(mode))
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

// Offered tells whether the one transform of p is one of ours, unchanged. All
// combinations of what ours have were offered.
func Offered(ours []message.Proposal, p *message.Proposal) bool {
	return slices.ContainsFunc(ours, func(o message.Proposal) bool {
		return o.Protocol == p.Protocol && slices.ContainsFunc(o.Transforms, func(t message.Transform) bool { return SameTransform(&t, &p.Transforms[0]) })
	})
}
