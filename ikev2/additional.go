package ikev2

import (
	"slices"
	"time"

	"iked/internal/trace"
	"iked/spd"
)

// A responder that takes only a part of what was offered in one CHILD_SA says
// with ADDITIONAL_TS_POSSIBLE that the rest can have CHILD_SAs of its own, and with
// SINGLE_PAIR_REQUIRED that each pair needs one (RFC 7296, Section 2.9). Who asked
// for all of a child's traffic then asks for it piece by piece; who asked for a
// packet has what it needs, and the next packet asks by itself.

// tsPair is traffic between two selectors.
type tsPair struct{ local, remote spd.TS }

// maxAdditional bounds the further CHILD_SAs that one negotiation asks for.
const maxAdditional = 64

// pairs are all combinations of the selectors that were offered.
func (o *childOffer) pairs() []tsPair {
	var out []tsPair
	for _, l := range o.tsi {
		for _, r := range o.tsr {
			if l.Is4() == r.Is4() && len(out) < maxAdditional {
				out = append(out, tsPair{l, r})
			}
		}
	}
	return out
}

// single is what to ask for after SINGLE_PAIR_REQUIRED; nil: nothing narrower.
func (o *childOffer) singlePair() *createChild {
	if o.single || o.only != nil || o.old != nil {
		return nil
	}
	x := &createChild{sa: o.sa, cfg: o.cfg, flow: o.flow, single: true}
	if o.flow == nil {
		p := o.pairs()
		if len(p) == 0 {
			return nil
		}
		x.only, x.rest = &p[0], p[1:]
	}
	return x
}

// askForRest goes on with what a CHILD_SA leaves; possible: the responder says that
// there can be more. A pair of which it has a part is not asked for again: the
// answer would be the same.
func (o *childOffer) askForRest(now time.Time, c *Child, possible bool) {
	rest := o.rest
	if possible && o.only == nil && o.flow == nil && o.old == nil {
		rest = o.pairs()
	}
	rest = slices.DeleteFunc(slices.Clone(rest), func(p tsPair) bool {
		l, r := spd.IntersectLists(c.Local, []spd.TS{p.local}), spd.IntersectLists(c.Remote, []spd.TS{p.remote})
		return l != nil && r != nil
	})
	o.sa.askFor(o.cfg, rest)
}

// askFor enqueues the exchange for the first of some pairs; the others follow it.
func (sa *SA) askFor(cfg *ChildConfig, pairs []tsPair) {
	if len(pairs) > 0 {
		sa.enqueue(&createChild{sa: sa, cfg: cfg, only: &pairs[0], rest: pairs[1:]})
	}
}

// failed tells that an offer came to nothing; the next pair may have more luck.
func (o *childOffer) failed(now time.Time, f *trace.Failure) {
	o.sa.failedFor(now, o.cfg, o.flow, f)
	rest := o.rest
	o.rest = nil
	o.sa.askFor(o.cfg, rest)
}
