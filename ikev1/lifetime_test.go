package ikev1

import (
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/offer"
	"iked/internal/keyex"
)

// The four check levels against a lifetime that is shorter, the same, longer: what
// the responder holds, what it tells, and what it refuses.
func TestCheckLevels(t *testing.T) {
	const refused = ^uint64(0)
	for _, c := range []struct {
		level     keyex.LifeCheck
		own, peer uint64
		use       uint64
		tell      bool
	}{
		{keyex.LifeClaim, 100, 50, 50, false}, {keyex.LifeClaim, 100, 100, 100, false}, {keyex.LifeClaim, 100, 200, 100, true}, {keyex.LifeClaim, 0, 200, 200, false}, {keyex.LifeClaim, 100, 0, 100, true}, {keyex.LifeClaim, 0, 0, 0, false},
		{keyex.LifeObey, 100, 50, 50, false}, {keyex.LifeObey, 100, 200, 200, false}, {keyex.LifeObey, 100, 0, 100, false}, {keyex.LifeObey, 0, 200, 200, false},
		{keyex.LifeStrict, 100, 50, 50, false}, {keyex.LifeStrict, 100, 100, 100, false}, {keyex.LifeStrict, 100, 200, refused, false}, {keyex.LifeStrict, 100, 0, 100, false}, {keyex.LifeStrict, 0, 200, 200, false},
		{keyex.LifeExact, 100, 100, 100, false}, {keyex.LifeExact, 100, 50, refused, false}, {keyex.LifeExact, 100, 200, refused, false}, {keyex.LifeExact, 0, 0, 0, false}, {keyex.LifeExact, 100, 0, refused, false},
	} {
		use, tell, ok := offer.Weigh(c.level, c.own, c.peer)
		if ok != (c.use != refused) || ok && (use != c.use || tell != c.tell) {
			t.Errorf("%v, own %d, the peer's %d: %d, told %t, taken %t", c.level, c.own, c.peer, use, tell, ok)
		}
	}
}

// Quick Mode with each level and a longer, the same and a shorter lifetime of the
// initiator.
func TestQuickModeCheckLevels(t *testing.T) {
	for _, c := range []struct {
		level keyex.LifeCheck
		peer  time.Duration
		b, a  time.Duration // lifetimes of the pair on both sides; 0: refused
	}{
		{keyex.LifeClaim, 2 * time.Hour, time.Hour, time.Hour}, {keyex.LifeClaim, 30 * time.Minute, 30 * time.Minute, 30 * time.Minute},
		{keyex.LifeObey, 2 * time.Hour, 2 * time.Hour, 2 * time.Hour}, {keyex.LifeObey, 30 * time.Minute, 30 * time.Minute, 30 * time.Minute},
		{keyex.LifeStrict, 2 * time.Hour, 0, 0}, {keyex.LifeStrict, time.Hour, time.Hour, time.Hour}, {keyex.LifeStrict, 30 * time.Minute, 30 * time.Minute, 30 * time.Minute},
		{keyex.LifeExact, 2 * time.Hour, 0, 0}, {keyex.LifeExact, 30 * time.Minute, 0, 0}, {keyex.LifeExact, time.Hour, time.Hour, time.Hour},
	} {
		p := newPair(t)
		p.cha.Time, p.chb.Time = keyex.Lifetime{Hard: c.peer}, keyex.Lifetime{Hard: time.Hour}
		p.cb.V1.LifeCheck = c.level
		p.up()
		if c.b == 0 {
			p.matched(0)
			if len(happened[keyex.Failed](p.b)) == 0 || len(happened[keyex.Failed](p.a)) == 0 {
				t.Errorf("%v, %v: refused without a word", c.level, c.peer)
			}
			continue
		}
		p.matched(1)
		for _, x := range []struct {
			h    *host
			want time.Duration
		}{{p.a, c.a}, {p.b, c.b}} {
			for _, child := range x.h.in {
				if d := child.ExpireAt.Sub(child.Installed); d != x.want {
					t.Errorf("%v, the initiator's %v: %s holds the pair for %v, expected %v", c.level, c.peer, x.h.name, d, x.want)
				}
			}
		}
	}
}

// obey takes the initiator's choice of perfect forward secrecy, none or another
// group; all other levels want their own.
func TestObeyPFS(t *testing.T) {
	for _, level := range []keyex.LifeCheck{keyex.LifeObey, keyex.LifeClaim, keyex.LifeStrict, keyex.LifeExact} {
		for _, theirs := range []string{"aes256-sha256", "aes256-sha256-modp2048"} {
			p := newPair(t)
			p.cha.Proposals, p.chb.Proposals = proposals(t, suite.ProtoESP, theirs), proposals(t, suite.ProtoESP, "aes256-sha256-ecp256")
			p.cb.V1.LifeCheck = level
			p.up().matched(map[bool]int{true: 1}[level == keyex.LifeObey])
		}
	}
}

// Phase 1: the responder tells its shorter lifetime, the initiator holds it; obey
// takes the longer one; strict and exact refuse.
func TestPhase1Lifetimes(t *testing.T) {
	for _, c := range []struct {
		level      keyex.LifeCheck
		peer       time.Duration
		a, b       time.Duration
		aggressive bool
	}{
		{keyex.LifeClaim, 10 * time.Hour, 5 * time.Hour, 5 * time.Hour, false}, {keyex.LifeClaim, 10 * time.Hour, 5 * time.Hour, 5 * time.Hour, true}, {keyex.LifeClaim, 2 * time.Hour, 2 * time.Hour, 2 * time.Hour, false},
		{keyex.LifeObey, 10 * time.Hour, 10 * time.Hour, 10 * time.Hour, false}, {keyex.LifeStrict, 10 * time.Hour, 0, 0, false}, {keyex.LifeStrict, 2 * time.Hour, 2 * time.Hour, 2 * time.Hour, false},
		{keyex.LifeExact, 2 * time.Hour, 0, 0, false}, {keyex.LifeExact, 5 * time.Hour, 5 * time.Hour, 5 * time.Hour, false},
	} {
		p := newPair(t)
		p.ca.Rekey, p.cb.Rekey = keyex.Lifetime{Rekey: c.peer - c.peer/10, Hard: c.peer}, keyex.Lifetime{Rekey: 4 * time.Hour, Hard: 5 * time.Hour}
		p.cb.V1.LifeCheck = c.level
		p.ca.V1.Aggressive, p.cb.V1.Aggressive, p.cb.V1.AggressivePSK = c.aggressive, c.aggressive, c.aggressive
		p.up()
		if c.a == 0 {
			if len(p.a.established())+len(p.b.established()) != 0 {
				t.Errorf("%v took %v", c.level, c.peer)
			}
			continue
		}
		p.matched(1)
		for _, x := range []struct {
			sa   *SA
			want time.Duration
		}{{p.a.established()[0], c.a}, {p.b.established()[0], c.b}} {
			if d := x.sa.timers.hard.Sub(x.sa.established); d != x.want || !x.sa.timers.rekey.Before(x.sa.timers.hard) {
				t.Errorf("%v, the initiator's %v: the ISAKMP SA lives for %v, expected %v; initiator %t", c.level, c.peer, d, x.want, x.sa.initiator)
			}
		}
	}
}

// Kilobytes: the smaller number counts on both sides; with obey that of the
// initiator.
func TestKilobytes(t *testing.T) {
	for _, c := range []struct {
		level      keyex.LifeCheck
		own, peer  uint64 // configured octets of the responder and the initiator
		useA, useB uint64
	}{
		{level: keyex.LifeClaim, own: 0, peer: 1 << 20, useB: 1 << 20}, {level: keyex.LifeClaim, own: 1 << 20, peer: 4 << 20, useA: 1 << 20},
		{level: keyex.LifeClaim, own: 1 << 20, peer: 0, useA: 1 << 20}, {level: keyex.LifeClaim, own: 4 << 20, peer: 1 << 20, useB: 1 << 20},
		{level: keyex.LifeObey, own: 1 << 20, peer: 4 << 20, useB: 4 << 20},
	} {
		p := newPair(t)
		p.cha.HardBytes, p.chb.HardBytes, p.cb.V1.LifeCheck = c.peer, c.own, c.level
		p.up().matched(1)
		limit := func(h *host, cfg *keyex.ChildConfig) uint64 {
			for _, child := range h.in {
				if child.HardBytes != 0 {
					return child.HardBytes
				}
			}
			return cfg.HardBytes
		}
		wantA, wantB := c.peer, c.own
		if c.useA != 0 {
			wantA = c.useA
		}
		if c.useB != 0 {
			wantB = c.useB
		}
		if a, b := limit(p.a, p.cha), limit(p.b, p.chb); a != wantA || b != wantB {
			t.Errorf("%v, own %d, the initiator's %d: %d and %d octets, expected %d and %d", c.level, c.own, c.peer, a, b, wantA, wantB)
		}
	}
}
