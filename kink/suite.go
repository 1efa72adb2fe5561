package kink

import (
	"fmt"
	"time"

	"iked/crypto/suite"
	quick "iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// agreed is a protection suite with one transform of each protocol, and the SPIs of
// the peer; around is the AH around ESP, nil: none.
type agreed struct {
	main   offer.Transform
	spi    uint32
	around *offer.Transform
	ahSPI  uint32
}

// take notes the transform of one protocol.
func (g *agreed) take(main bool, t offer.Transform, spi uint32) {
	if main {
		g.main, g.spi = t, spi
		return
	}
	g.around, g.ahSPI = &t, spi
}

// same tells whether two suites say the same, but for SPIs.
func (g agreed) same(o agreed) bool {
	like := func(a, b *offer.Transform) bool {
		return a == nil && b == nil || a != nil && b != nil && a.Proposal.String() == b.Proposal.String() && a.Encap == b.Encap
	}
	return like(&g.main, &o.main) && like(g.around, o.around)
}

// firstOf is the first suite of an offer, with the first transform of each protocol:
// what an initiator guesses that the responder takes.
func firstOf(list []quick.Proposal) (g agreed, why string) {
	suites, why := offer.ReadSuites(list)
	if len(suites) == 0 {
		return g, why
	}
	for i := range suites[0] {
		p := &suites[0][i]
		t, why := offer.Read(p.Protocol, &p.Transforms[0])
		if why != "" {
			return g, why
		}
		g.take(suites[0].Main() == p, t, 0)
	}
	return g, ""
}

// spis are inbound SPIs that are reserved, as long as no SA uses them.
type spis struct {
	offer.SPIs
	proto suite.Protocol // of Main
	held  bool
}

// reserve asks for an inbound SPI, for AH around ESP or for the main protocol.
func (s *spis) reserve(sa *SA, f *keyex.Flow, around bool, fail func(time.Time, *trace.Failure)) {
	proto, at := s.proto, &s.Main
	if around {
		proto, at = suite.ProtoAH, &s.AH
	}
	f.Ask(keyex.AllocSPI{Proto: proto, Local: sa.local.Addr()}, func(now time.Time, r keyex.Reply) {
		x, ok := r.(keyex.SPIReply)
		if !ok || x.Err != nil {
			fail(now, sa.failure(now, trace.StageInstall, fmt.Sprintf("no SPI can be had: %v", x.Err), "see the backend in `ikectl status`"))
			return
		}
		*at, s.held = x.SPI, true
	})
}

// free gives back what no SA uses.
func (s *spis) free(sa *SA) {
	if !s.held {
		return
	}
	s.held = false
	for _, x := range s.stub().Protocols() {
		if x.SPIIn != 0 {
			sa.Tell(keyex.FreeSPI{Proto: x.Proto, Local: sa.local.Addr(), SPI: x.SPIIn})
		}
	}
}

// stub is a pair with these SPIs as far as a DELETE needs it.
func (s *spis) stub() *keyex.Child {
	c := &keyex.Child{Proto: s.proto, SPIIn: s.Main}
	if s.AH != 0 {
		c.AH = &keyex.Around{SPIIn: s.AH}
	}
	return c
}
