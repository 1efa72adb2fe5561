package offer

import (
	"fmt"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/keyex"
)

// Span is the lifetime of an SA as it is negotiated; 0: no limit of that kind.
type Span struct{ Seconds, KBytes uint64 }

func (s Span) String() string {
	return fmt.Sprintf("%d s and %d kB (0: no limit)", s.Seconds, s.KBytes)
}

// defaultSeconds is the lifetime of an SA of phase 2 whose transform says none (RFC
// 2407, Section 4.5).
const defaultSeconds = 28800

// Weigh is one limit that a responder with a check level takes: own is configured,
// peer offered. tell: it is shorter than what was offered. False: the offer is
// refused.
func Weigh(level keyex.LifeCheck, own, peer uint64) (use uint64, tell, ok bool) {
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

// WeighSpan is Weigh for both limits; tell names those that the peer must be told.
func WeighSpan(level keyex.LifeCheck, own, peer Span) (use, tell Span, ok bool) {
	s, tellS, ok1 := Weigh(level, own.Seconds, peer.Seconds)
	k, tellK, ok2 := Weigh(level, own.KBytes, peer.KBytes)
	if tellS {
		tell.Seconds = s
	}
	if tellK {
		tell.KBytes = k
	}
	return Span{s, k}, tell, ok1 && ok2
}

// WeighChild is WeighSpan for a pair of SAs.
func WeighChild(level keyex.LifeCheck, cfg *keyex.ChildConfig, t Transform) (use, tell Span, ok bool) {
	peer := Span{t.Seconds, t.KBytes}
	if peer.Seconds == 0 && level != keyex.LifeExact {
		peer.Seconds = defaultSeconds
	}
	seconds, kbytes := LifeWords(cfg)
	return WeighSpan(level, Span{seconds, kbytes}, peer)
}

// RefusedLife says why a lifetime was refused.
func RefusedLife(level keyex.LifeCheck, own, peer Span) string {
	return fmt.Sprintf("the peer offers a lifetime of %v, the configuration has %v, and proposal_check is %v", peer, own, level)
}

// WithoutPFS are proposals whose key exchange is left to the peer.
func WithoutPFS(list []suite.Proposal) []suite.Proposal {
	out := slices.Clone(list)
	for i := range out {
		out[i].Transforms = slices.DeleteFunc(slices.Clone(out[i].Transforms), func(t suite.Transform) bool { return t.Type == suite.KE })
	}
	return out
}

// LifePayload tells that our lifetime is the shorter one (RFC 2407, Section
// 4.6.3.1).
func LifePayload(proto message.Protocol, spi []byte, s Span) message.Payload {
	var attrs []byte
	if s.Seconds != 0 {
		attrs = message.AppendAttributes(attrs, message.Basic(message.P2LifeType, message.LifeSeconds), message.Duration(message.P2LifeDuration, s.Seconds))
	}
	if s.KBytes != 0 {
		attrs = message.AppendAttributes(attrs, message.Basic(message.P2LifeType, message.LifeKilobytes), message.Duration(message.P2LifeDuration, s.KBytes))
	}
	return &message.Notify{DOI: message.DOIIPsec, Protocol: proto, SPI: spi, Kind: message.ResponderLifetime, Data: attrs}
}

// ToldLife reads RESPONDER-LIFETIME; false: it cannot be read.
func ToldLife(n *message.Notify) (s Span, ok bool) {
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
			s.Seconds = v
		case a.Type == duration && life == uint64(message.LifeKilobytes):
			s.KBytes = v
		}
	}
	return s, true
}

// Shorten is the smaller of two limits, of which 0 is none.
func Shorten(a, b uint64) uint64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// HeldByResponder is the lifetime that the responder tells to have (RFC 2407,
// Section 4.6.3.1), where it is shorter than the one that was agreed on.
func HeldByResponder(list []message.Payload, agreed Span) Span {
	for _, p := range list {
		if n, ok := p.(*message.Notify); ok && n.Kind == message.ResponderLifetime {
			if s, ok := ToldLife(n); ok {
				agreed = Span{Shorten(agreed.Seconds, s.Seconds), Shorten(agreed.KBytes, s.KBytes)}
			}
		}
	}
	return agreed
}

// Life is the lifetime of a pair; 0: none.
type Life struct{ Soft, Hard time.Duration }

// LifeOf is what a configuration and the peer agree on: the shorter one counts
// (RFC 2407, Section 4.5.4), with obey that of the peer. The soft limit stays in
// proportion.
func LifeOf(cfg *keyex.ChildConfig, seconds uint64, obey bool) Life {
	l := Life{cfg.Time.Rekey, cfg.Time.Hard}
	if obey && seconds != 0 {
		l = Life{}
	}
	if peer := time.Duration(min(seconds, 1<<31)) * time.Second; seconds != 0 && (l.Hard == 0 || peer < l.Hard) {
		l.Soft, l.Hard = min(nonZero(l.Soft, peer), peer-peer/10), peer
	}
	return l
}

func nonZero(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}

// LifeWords are the lifetimes that we offer.
func LifeWords(cfg *keyex.ChildConfig) (seconds, kbytes uint64) {
	return uint64(cfg.Time.Hard / time.Second), cfg.HardBytes / 1024
}

// LimitBytes holds a pair to the kilobytes that were agreed on.
func LimitBytes(c *keyex.Child, kbytes uint64, obey bool) {
	n := min(kbytes, 1<<50) * 1024
	if n != 0 && (obey || c.Config.HardBytes == 0 || n < c.Config.HardBytes) {
		c.HardBytes = n
	}
}
