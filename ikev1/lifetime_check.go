package ikev1

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// span is the lifetime of an SA as it is negotiated; 0: no limit of that kind.
type span struct{ seconds, kbytes uint64 }

func (s span) String() string {
	return fmt.Sprintf("%d s and %d kB (0: no limit)", s.seconds, s.kbytes)
}

// defaultSeconds is the lifetime of an SA of phase 2 whose transform says none (RFC
// 2407, Section 4.5).
const defaultSeconds = 28800

// weigh is one limit that a responder with a check level takes: own is configured,
// peer offered. tell: it is shorter than what was offered. False: the offer is
// refused.
func weigh(level keyex.LifeCheck, own, peer uint64) (use uint64, tell, ok bool) {
	switch {
	case level == keyex.LifeExact:
		return own, false, own == peer
	case peer == 0:
		return own, own != 0 && level == keyex.LifeClaim, true
	case level == keyex.LifeObey, own == 0, peer <= own:
		return peer, false, true
	case level == keyex.LifeStrict:
		return 0, false, false
	}
	return own, true, true
}

// weighSpan is weigh for both limits; tell names those that the peer must be told.
func weighSpan(level keyex.LifeCheck, own, peer span) (use, tell span, ok bool) {
	s, tellS, ok1 := weigh(level, own.seconds, peer.seconds)
	k, tellK, ok2 := weigh(level, own.kbytes, peer.kbytes)
	if tellS {
		tell.seconds = s
	}
	if tellK {
		tell.kbytes = k
	}
	return span{s, k}, tell, ok1 && ok2
}

// weighChild is weighSpan for a pair of SAs.
func weighChild(level keyex.LifeCheck, cfg *keyex.ChildConfig, t transform2) (use, tell span, ok bool) {
	peer := span{t.seconds, t.kbytes}
	if peer.seconds == 0 && level != keyex.LifeExact {
		peer.seconds = defaultSeconds
	}
	seconds, kbytes := lifeWords(cfg)
	return weighSpan(level, span{seconds, kbytes}, peer)
}

// refusedLife says why a lifetime was refused.
func refusedLife(level keyex.LifeCheck, own, peer span) string {
	return fmt.Sprintf("the peer offers a lifetime of %v, the configuration has %v, and proposal_check is %v", peer, own, level)
}

// withoutPFS are proposals whose key exchange is left to the peer.
func withoutPFS(list []suite.Proposal) []suite.Proposal {
	out := slices.Clone(list)
	for i := range out {
		out[i].Transforms = slices.DeleteFunc(slices.Clone(out[i].Transforms), func(t suite.Transform) bool { return t.Type == suite.KE })
	}
	return out
}

// acceptLife1 tells why the lifetime of a transform of phase 1 is refused; "": it
// is not.
func acceptLife1(cfg *keyex.Config) func(transform1) string {
	return func(t transform1) string {
		own, peer := span{seconds: lifetime1(cfg)}, span{seconds: t.seconds}
		if _, _, ok := weighSpan(cfg.V1.LifeCheck, own, peer); !ok {
			return refusedLife(cfg.V1.LifeCheck, own, peer)
		}
		return ""
	}
}

// agreedLife1 is the lifetime of phase 1 that a responder holds, in seconds, and
// what it tells of it; 0: none.
func (sa *SA) agreedLife1() (use, tell uint64) {
	use, shorter, _ := weigh(sa.cfg.V1.LifeCheck, lifetime1(sa.cfg), sa.peerLife)
	if shorter && sa.peerLife != 0 {
		tell = use
	}
	return use, tell
}

// lifePayload tells that our lifetime is the shorter one (RFC 2407, Section
// 4.6.3.1).
func lifePayload(proto message.Protocol, spi []byte, s span) message.Payload {
	var attrs []byte
	if s.seconds != 0 {
		attrs = message.AppendAttributes(attrs, message.Basic(message.P2LifeType, message.LifeSeconds), message.Duration(message.P2LifeDuration, s.seconds))
	}
	if s.kbytes != 0 {
		attrs = message.AppendAttributes(attrs, message.Basic(message.P2LifeType, message.LifeKilobytes), message.Duration(message.P2LifeDuration, s.kbytes))
	}
	return &message.Notify{DOI: message.DOIIPsec, Protocol: proto, SPI: spi, Kind: message.ResponderLifetime, Data: attrs}
}

// toldLife reads RESPONDER-LIFETIME; false: it cannot be read.
func toldLife(n *message.Notify) (s span, ok bool) {
	list, err := message.ParseAttributes(n.Data)
	if err != nil {
		return s, false
	}
	// Phase 1 and phase 2 number their attributes differently; of the former only
	// the type of the lifetime and the duration can stand here as well.
	typ, duration := message.P2LifeType, message.P2LifeDuration
	if n.Protocol == message.ProtoISAKMP && slices.ContainsFunc(list, func(a message.Attribute) bool { return a.Type == message.P1LifeType }) {
		typ, duration = message.P1LifeType, message.P1LifeDuration
	}
	life := uint64(0)
	for _, a := range list {
		v, isNumber := a.Uint()
		switch {
		case !isNumber:
		case a.Type == typ:
			life = v
		case a.Type == duration && life == uint64(message.LifeSeconds):
			s.seconds = v
		case a.Type == duration && life == uint64(message.LifeKilobytes):
			s.kbytes = v
		}
	}
	return s, true
}

// shorten is the smaller of two limits, of which 0 is none.
func shorten(a, b uint64) uint64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// takeLife holds an SA of ours to the shorter lifetime that the responder tells
// after phase 1; that of a pair stands in its Quick Mode.
func (sa *SA) takeLife(now time.Time, n *message.Notify) {
	s, ok := toldLife(n)
	if !ok || n.Protocol != message.ProtoISAKMP || len(n.SPI) != 0 && string(n.SPI) != string(sa.cookies()) {
		sa.dropped(now, "payload-syntax", "RESPONDER-LIFETIME has attributes, and the cookies of this SA")
		return
	}
	if sa.state != keyex.Established {
		sa.peerLife = shorten(sa.peerLife, s.seconds)
		return
	}
	sa.limitLife(s.seconds)
	sa.log(now, trace.Detail, false, "the peer holds the IKE_SA for %d s", s.seconds)
}

// limitLife makes the lifetime of the ISAKMP SA shorter, never longer.
func (sa *SA) limitLife(seconds uint64) {
	if seconds == 0 {
		return
	}
	life := seconds1(seconds)
	t := &sa.timers
	if end := sa.established.Add(life); t.hard.IsZero() || end.Before(t.hard) {
		t.hard = end
	}
	if at := sa.established.Add(life - life/10); sa.cfg.V1.XAuth != keyex.XAuthServer && (t.rekey.IsZero() || at.Before(t.rekey)) {
		t.rekey = at
	}
}

// seconds1 is a lifetime of a peer as a duration; shorter than ten seconds makes no
// sense and would keep both sides busy with nothing else.
func seconds1(s uint64) time.Duration { return time.Duration(min(max(s, 10), 1<<31)) * time.Second }

// spiOctets is an SPI as a notify has it.
func spiOctets(spi uint32) []byte { return binary.BigEndian.AppendUint32(nil, spi) }
