package ikev1

import (
	"encoding/binary"
	"time"

	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// acceptLife1 tells why the lifetime of a transform of phase 1 is refused; "": it
// is not.
func acceptLife1(cfg *keyex.Config) func(transform1) string {
	return func(t transform1) string {
		own, peer := offer.Span{Seconds: lifetime1(cfg)}, offer.Span{Seconds: t.seconds}
		if _, _, ok := offer.WeighSpan(cfg.V1.LifeCheck, own, peer); !ok {
			return offer.RefusedLife(cfg.V1.LifeCheck, own, peer)
		}
		return ""
	}
}

// agreedLife1 is the lifetime of phase 1 that a responder holds, in seconds, and
// what it tells of it; 0: none.
func (sa *SA) agreedLife1() (use, tell uint64) {
	use, shorter, _ := offer.Weigh(sa.cfg.V1.LifeCheck, lifetime1(sa.cfg), sa.peerLife)
	if shorter && sa.peerLife != 0 {
		tell = use
	}
	return use, tell
}

// takeLife holds an SA of ours to the shorter lifetime that the responder tells
// after phase 1; that of a pair stands in its Quick Mode.
func (sa *SA) takeLife(now time.Time, n *message.Notify) {
	s, ok := offer.ToldLife(n)
	if !ok || n.Protocol != message.ProtoISAKMP || len(n.SPI) != 0 && string(n.SPI) != string(sa.cookies()) {
		sa.dropped(now, "payload-syntax", "RESPONDER-LIFETIME has attributes, and the cookies of this SA")
		return
	}
	if sa.state != keyex.Established {
		sa.peerLife = offer.Shorten(sa.peerLife, s.Seconds)
		return
	}
	sa.limitLife(s.Seconds)
	sa.log(now, trace.Detail, false, "the peer holds the IKE_SA for %d s", s.Seconds)
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
