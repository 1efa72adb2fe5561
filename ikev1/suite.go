package ikev1

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

// agreed is the protection suite that a Quick Mode agreed on, with the SPIs of the
// peer; around is the AH around ESP, nil: none; cpi is that of compression, 0: none.
type agreed struct {
	main   offer.Transform
	mode   spd.Mode
	spi    uint32
	around *offer.Transform
	ahSPI  uint32
	cpi    uint16
}

// take notes the transform of one protocol of a suite.
func (g *agreed) take(s offer.Suite, p *message.Proposal, t offer.Transform) {
	spi, _ := p.SPI32()
	switch p {
	case s.Main():
		g.main, g.spi = t, spi
		g.mode, _, _ = offer.ModeOf(t.Encap)
	case s.Comp():
		g.cpi = uint16(spi)
	default:
		g.around, g.ahSPI = &t, spi
	}
}

// reserve asks for an inbound SPI at an own address.
func (sa *SA) reserve(f *keyex.Flow, proto suite.Protocol, local netip.Addr, at *uint32, fail func(time.Time, *trace.Failure)) {
	f.Ask(keyex.AllocSPI{Proto: proto, Local: local}, func(now time.Time, r keyex.Reply) {
		s, ok := r.(keyex.SPIReply)
		if !ok || s.Err != nil {
			fail(now, sa.failure(now, trace.StageInstall, fmt.Sprintf("no SPI can be had: %v", s.Err), "see the backend in `ikectl status`"))
			return
		}
		*at = s.SPI
	})
}

// unreserve gives inbound SPIs back that no SA uses.
func (sa *SA) unreserve(main suite.Protocol, s *offer.SPIs) {
	if s.Main != 0 {
		sa.Tell(keyex.FreeSPI{Proto: main, Local: sa.local.Addr(), SPI: s.Main})
	}
	if s.AH != 0 {
		sa.Tell(keyex.FreeSPI{Proto: suite.ProtoAH, Local: sa.local.Addr(), SPI: s.AH})
	}
	sa.unreserveCPI(s)
	*s = offer.SPIs{}
}

func (sa *SA) unreserveCPI(s *offer.SPIs) {
	if s.CPI != 0 {
		sa.Tell(keyex.FreeSPI{Proto: suite.ProtoIPComp, Local: sa.local.Addr(), SPI: uint32(s.CPI)})
		s.CPI = 0
	}
}

// reserveCPI asks for the number of compression.
func (sa *SA) reserveCPI(f *keyex.Flow, local netip.Addr, at *uint16, fail func(time.Time, *trace.Failure)) {
	f.Ask(keyex.AllocSPI{Proto: suite.ProtoIPComp, Local: local}, func(now time.Time, r keyex.Reply) {
		s, ok := r.(keyex.SPIReply)
		if !ok || s.Err != nil {
			fail(now, sa.failure(now, trace.StageInstall, fmt.Sprintf("no number for compression can be had: %v", s.Err), "see the backend in `ikectl status`, or set ipcomp to no"))
			return
		}
		*at = uint16(s.SPI)
	})
}

// throughNAT tells why a pair cannot be made: AH covers the addresses that a NAT
// changes, and has no encapsulation (RFC 3948, Section 1); and what is between a home
// address and its peer has none of the addresses that UDP would be between.
func (sa *SA) throughNAT(now time.Time, cfg *keyex.ChildConfig) *trace.Failure {
	if sa.nat.any() && sa.cfg.OwnEnds(cfg.Mode) {
		sentence, advice := keyex.HomeThroughNAT(cfg.Name)
		return sa.failure(now, trace.StageChild, sentence, advice)
	}
	if !sa.nat.any() || len(cfg.AH) == 0 && (len(cfg.Proposals) == 0 || cfg.Proposals[0].Protocol != suite.ProtoAH) {
		return nil
	}
	return sa.failure(now, trace.StageChild, "AH covers the addresses, and there is a NAT between the peers or encap is forced: "+cfg.Name+" cannot be protected by AH", "use esp_proposals alone for "+cfg.Name)
}

// maxParts bounds what is remembered of suites that went.
const maxParts = 16

// goneParts are the SPIs of suites that the peer ended by deleting one protocol: the
// Delete of the other one is about nothing that there still is.
type goneParts []keyex.ProtocolSPIs

func (g *goneParts) expect(c *keyex.Child, deleted suite.Protocol) {
	for _, p := range c.Protocols() {
		if p.Proto == deleted {
			continue
		}
		if len(*g) == maxParts {
			*g = slices.Delete(*g, 0, 1)
		}
		*g = append(*g, keyex.ProtocolSPIs{Proto: p.Proto, SPIOut: p.SPIOut})
	}
}

func (g *goneParts) take(p keyex.ProtocolSPIs) bool {
	i := slices.Index(*g, p)
	if i >= 0 {
		*g = slices.Delete(*g, i, i+1)
	}
	return i >= 0
}
