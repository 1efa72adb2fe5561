package ikev2

import (
	"encoding/binary"
	"fmt"
	"time"

	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/trace"
	"iked/sad"
	"iked/spd"
)

// Compression (RFC 7296, Section 2.22): each side names the number under which it
// receives, in a notify beside the proposals. An offer may have one for each
// algorithm; the answer has one, or none, and then there is no compression.
//
//	+---------------+---------------+---------------+
//	|              CPI              | Transform-ID  |
//	+---------------+---------------+---------------+

// deflate is the only algorithm here; OUI, LZS and LZJH are not offered and not taken.
const deflate = 2

// ipcompNotify is the notify of a number of ours.
func ipcompNotify(cpi uint16) *message.Notify {
	return message.NewNotify(message.IPCompSupported, append(binary.BigEndian.AppendUint16(nil, cpi), deflate))
}

// ipcompCPI is the number of the peer for DEFLATE; 0: it names none that can be used.
func ipcompCPI(ns message.Notifies) uint16 {
	for n := range ns.All(message.IPCompSupported) {
		// Attributes may follow the transform; DEFLATE has none.
		if len(n.Data) != 3 || n.Data[2] != deflate {
			continue
		}
		if cpi := binary.BigEndian.Uint16(n.Data); sad.CheckCPI(cpi) == nil {
			return cpi
		}
	}
	return 0
}

// compressible tells whether SAs of a protocol and mode may compress.
func compressible(cfg *ChildConfig, proto suite.Protocol, mode spd.Mode) bool {
	return cfg.IPComp && proto == suite.ProtoESP && mode != spd.BEET
}

// reserveCPI gets the number of the offer.
func (o *childOffer) reserveCPI(now time.Time, x *flow, then func(time.Time, *trace.Failure)) {
	if !compressible(o.cfg, o.proto, o.mode()) {
		then(now, nil)
		return
	}
	x.Ask(AllocSPI{Proto: suite.ProtoIPComp, Local: o.sa.reservesAt(o.mode(), o.tsi)}, func(now time.Time, r Reply) {
		s, ok := r.(SPIReply)
		if !ok || s.Err != nil {
			o.free()
			then(now, o.sa.failure(now, trace.StageInstall, fmt.Sprintf("no number for the compression of %s: %v", o.cfg.Name, s.Err), "see the kernel's or the datapath's message, or set ipcomp to no"))
			return
		}
		o.cpi = uint16(s.SPI)
		then(now, nil)
	})
}

// freeCPI gives a number back.
func (sa *SA) freeCPI(cpi *uint16) {
	if *cpi != 0 {
		sa.Tell(FreeSPI{Proto: suite.ProtoIPComp, Local: sa.local.Addr(), SPI: uint32(*cpi)})
		*cpi = 0
	}
}

// compression takes the answer to the offer: the number of the peer, 0: there is no
// compression.
func (o *childOffer) compression(now time.Time, ns message.Notifies) (cpi uint16, f *trace.Failure) {
	if !ns.Has(message.IPCompSupported) {
		if o.cpi != 0 {
			o.sa.logChild(now, o.cfg, true, "CHILD_SA %s is not compressed: the peer does not do it", o.cfg.Name)
		}
		return 0, nil
	}
	if cpi = ipcompCPI(ns); cpi == 0 || o.cpi == 0 {
		// What it sends could not be read.
		return 0, o.sa.failure(now, trace.StageChild, "the peer answers with compression that was not offered", "this is a fault of the peer (RFC 7296, Section 2.22)")
	}
	return cpi, nil
}

// reserveCPI gets the number of the answer, where both sides want compression.
// Without one there is none.
func (q *childRequest) reserveCPI(now time.Time) {
	ch := &q.choice
	cpi := ipcompCPI(q.notifies)
	if cpi == 0 || !compressible(ch.cfg, ch.proposal.Protocol, ch.mode) {
		if ch.cfg.IPComp {
			q.sa.logChild(now, ch.cfg, true, "CHILD_SA %s is not compressed: the peer does not ask for it", ch.cfg.Name)
		}
		return
	}
	q.flow.Ask(AllocSPI{Proto: suite.ProtoIPComp, Local: q.sa.reservesAt(ch.mode, ch.local)}, func(now time.Time, r Reply) {
		s, ok := r.(SPIReply)
		if !ok || s.Err != nil {
			q.sa.logChild(now, ch.cfg, true, "CHILD_SA %s is not compressed: no number can be had: %v", ch.cfg.Name, s.Err)
			return
		}
		q.cpi, q.cpiOut = uint16(s.SPI), cpi
	})
}
