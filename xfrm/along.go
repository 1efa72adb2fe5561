package xfrm

import (
	"cmp"
	"slices"
	"time"

	"iked/internal/backend"
	"iked/migrate"
	"iked/xfrm/wire"
)

// The kernel moves one SA for each entry of a MIGRATE, the first that it finds. During
// a rekeying there are two, and the one that it leaves behind may be the only one that
// the peer still has, while the policy asks for SAs at the new addresses only. So those
// are brought along as soon as the event is heard.

// about tells whether an entry of a MIGRATE is about an SA.
func (r *saRecord) about(x *migrate.Entry) bool {
	return x.Proto == ipProto(r.id.Proto) && x.Mode == r.mode && (x.ReqID == 0 || x.ReqID == r.reqID) && (x.Old == r.here() || x.Old == r.next)
}

// follow lets the SAs that an entry is about be where it says.
func (b *Backend) follow(x *migrate.Entry, from migrate.Source) {
	var list []*saRecord
	for _, r := range b.sas {
		if !r.dead && r.about(x) {
			list = append(list, r)
		}
	}
	// Of outbound SAs the one added last carries the traffic.
	slices.SortFunc(list, func(p, q *saRecord) int {
		return cmp.Or(p.added.Compare(q.added), cmp.Compare(p.id.SPI, q.id.SPI))
	})
	for _, r := range list {
		// What PF_KEY says is said by netlink too, and by the second time the SAs may be
		// where they were. What UDP is around, or compression inside of, UpdateSA moves,
		// which knows what belongs to it.
		if from == migrate.Netlink && !r.encap && r.comp == nil {
			b.bringAlong(r, x.New)
		}
		b.noteNext(r, x.New)
	}
	if from == migrate.Netlink {
		b.recent.add(x)
	}
	for _, g := range b.buried {
		if g.about(x) {
			b.removeMoved(g.saRecord, x.New)
		}
	}
}

// bringAlong puts an SA to a place, unless the kernel has it there. Its record stays.
func (b *Backend) bringAlong(r *saRecord, to migrate.Pair) {
	id := r.id
	if id.Dst = to.Dst; to == r.here() || id != r.id && b.bySAID[saID(id)] != nil {
		return
	}
	unsettle := b.settleNext(r)
	err := b.move(r, id, backend.Move{Src: to.Src, Dst: to.Dst})
	unsettle()
	if !r.dead {
		b.journal.addSA(r) // until UpdateSA it has both places
	}
	if err != nil && !gone(err) {
		b.log(true, "SA %s, SPI 0x%08x, was left behind by a MIGRATE to %v and cannot follow: %v", r.name, r.id.SPI, to.Dst, err)
	}
}

// recent are entries that a MIGRATE was about a moment ago. Whoever adds an SA at
// addresses that are left then had not heard of it.
type recent []recentMove

type recentMove struct {
	migrate.Entry
	until time.Time
}

const recentMax = 256

func (m *recent) add(x *migrate.Entry) {
	now := time.Now()
	*m = slices.DeleteFunc(*m, func(o recentMove) bool { return now.After(o.until) })
	if len(*m) >= recentMax {
		*m = slices.Delete(*m, 0, 1)
	}
	*m = append(*m, recentMove{*x, now.Add(holdTime)})
}

// catchUp brings an SA that was just added to where others like it have gone.
func (b *Backend) catchUp(r *saRecord) {
	if len(b.recent) == 0 || r.encap || r.comp != nil {
		return
	}
	now, at := time.Now(), *r
	for i := range b.recent {
		if x := &b.recent[i]; now.Before(x.until) && at.about(&x.Entry) {
			at.src, at.id.Dst = x.New.Src, x.New.Dst
		}
	}
	if to := at.here(); to != r.here() {
		b.bringAlong(r, to)
		b.noteNext(r, to)
	}
}

// buried is an SA that was not there any more when it was to be deleted. When a MIGRATE
// had moved it, of which the event was still on its way, it is somewhere else.
type buried struct {
	*saRecord
	at time.Time
}

const (
	buriedTime = 10 * time.Second // an event is never that late
	buriedMax  = 256
)

// bury remembers such an SA.
func (b *Backend) bury(r *saRecord) {
	now := time.Now()
	b.buried = slices.DeleteFunc(b.buried, func(g buried) bool { return now.Sub(g.at) > buriedTime })
	if len(b.buried) >= buriedMax {
		b.buried = slices.Delete(b.buried, 0, 1)
	}
	b.buried = append(b.buried, buried{r, now})
}

// removeMoved deletes such an SA where it went.
func (b *Backend) removeMoved(r *saRecord, to migrate.Pair) {
	x := *r
	x.next = to
	there := x.there()
	if b.at(there.said()) != nil {
		return // another one of ours
	}
	msg, err := b.req.one(wire.GetSA, 0, there.byID())
	sa, ok := msg.(*wire.SA)
	if err != nil || !ok {
		return
	}
	sa.Destroy()
	if sa.ReqID != r.reqID || sa.Src.Addr(sa.Family) != to.Src {
		return
	}
	if err := b.req.do([]request{there.deletion()})[0].err; err != nil && !gone(err) {
		b.log(true, "SA %s, SPI 0x%08x to %v, stays in the kernel: %v", r.name, r.id.SPI, to.Dst, err)
	}
}
