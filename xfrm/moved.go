package xfrm

import (
	"time"

	"iked/internal/backend"
	"iked/migrate"
	"iked/migrate/form"
	"iked/xfrm/wire"
)

// Others move the SAs of this backend: a mobility manager by MIGRATE, or whoever has
// MIGRATE_STATE. The key exchange is told, and says with UpdateSA where they are from
// now on. Until then the record of an SA has the place where it was; next is the other
// place where the kernel may have it, so that it is removed there as well.

// there is the record of the SA at its next place.
func (r *saRecord) there() *saRecord {
	n := *r
	n.src, n.id.Dst, n.next = r.next.Src, r.next.Dst, migrate.Pair{}
	return &n
}

func (r *saRecord) here() migrate.Pair { return migrate.Pair{Src: r.src, Dst: r.id.Dst} }

func (r *saRecord) elsewhere() bool { return r.next.Dst.IsValid() }

// setNext sets the next place, and nothing of the journal.
func (b *Backend) setNext(r *saRecord, at migrate.Pair) {
	if r.elsewhere() {
		delete(b.nexts, r.there().said())
	}
	if r.next = at; r.elsewhere() {
		b.nexts[r.there().said()] = r
	}
}

// at is the SA of this backend that the kernel has at a place.
func (b *Backend) at(id wire.SAID) *saRecord {
	if r := b.bySAID[id]; r != nil {
		return r
	}
	return b.nexts[id]
}

// noteNext keeps where an SA may be. The journal has both places.
func (b *Backend) noteNext(r *saRecord, at migrate.Pair) {
	if at == r.next {
		return
	}
	b.forgetNext(r)
	if at == r.here() {
		return // it is back
	}
	id := r.id
	if id.Dst = at.Dst; id != r.id && b.bySAID[saID(id)] != nil {
		return // another one of ours has that place
	}
	if b.setNext(r, at); id != r.id {
		b.journal.addSA(r.there())
	}
}

func (b *Backend) forgetNext(r *saRecord) {
	if r.elsewhere() && r.next.Dst != r.id.Dst {
		b.journal.removeSA(r.there())
	}
	b.setNext(r, migrate.Pair{})
}

// removeNext takes an SA that is not at its place any more out of the kernel.
func (b *Backend) removeNext(r *saRecord) {
	if r.elsewhere() {
		b.req.do([]request{r.there().deletion()})
	}
}

// settleNext makes the next place of an SA its own, when the kernel has it there.
// unsettle takes that back.
func (b *Backend) settleNext(r *saRecord) (unsettle func()) {
	none := func() {}
	if !r.elsewhere() || r.next.Dst == r.id.Dst {
		return none
	}
	msg, err := b.req.one(wire.GetSA, 0, r.there().byID())
	sa, ok := msg.(*wire.SA)
	if err != nil || !ok {
		return none
	}
	sa.Destroy()
	if sa.ReqID != r.reqID {
		return none
	}
	old := r.here()
	place := func(at, next migrate.Pair) {
		b.drop(r)
		b.setNext(r, migrate.Pair{})
		r.src, r.id.Dst = at.Src, at.Dst
		b.put(r)
		b.setNext(r, next)
	}
	place(r.next, old)
	return func() {
		if r.dead {
			place(old, migrate.Pair{})
		} else {
			place(old, r.here())
		}
	}
}

// migrated tells that somebody moved SAs and policies, by whichever of the kernel's ways
// it was heard.
func (b *Backend) migrated(ev *migrate.Event, err error) {
	b.resync = true
	if err != nil {
		b.counts[migratesRefused]++
		b.log(true, "a MIGRATE of somebody else is not understood, and not followed: %v", err)
		return
	}
	for i := range ev.Entries {
		b.follow(&ev.Entries[i], ev.Source)
	}
	b.tellMoved(backend.Migrate{Event: *ev})
}

// migratedSA tells that somebody moved one SA.
func (b *Backend) migratedSA(m *wire.StateMigrate) {
	id := m.ID
	id.Dst = wire.AddressOf(id.Dst.Addr(id.Family)) // behind an IPv4 address is what whoever asked left there
	r := b.at(id)
	if r == nil || r.dead || r.main != nil {
		return // not ours; compression moves with its SA
	}
	ev, err := form.FromStateXFRM(m)
	if err != nil {
		b.resync = true
		b.counts[migratesRefused]++
		b.log(true, "the move of SA %s, SPI 0x%08x, by somebody else is not understood, and not followed: %v", r.name, r.id.SPI, err)
		return
	}
	b.noteNext(r, ev.New)
	b.tellMoved(backend.MigrateSA{Event: *ev})
}

// tellMoved passes a move on. False: it finds no room; the comparison finds it then.
func (b *Backend) tellMoved(ev backend.Event) bool {
	b.resync = true
	if !b.events.Emit(ev) {
		b.counts[eventsLost]++
		return false
	}
	b.holdUntil = time.Now().Add(holdTime)
	return true
}

// seenSA is an SA in the kernel as a comparison saw it.
type seenSA struct {
	src   wire.Address
	reqID uint32
	mode  uint8
}

// findMoved looks for SAs that are at other addresses and of which no notification
// came: netlink lost it, or they were put there by other means. True: somebody was told,
// and everything else must wait for what becomes of it.
func (b *Backend) findMoved(seen map[wire.SAID]seenSA) (told bool) {
	type name struct {
		proto uint8
		spi   uint32
		reqID uint32
		mode  uint8
	}
	var at map[name]wire.SAID // those that are not ours
	for id, r := range b.bySAID {
		if _, ok := seen[id]; ok || r.dead || r.main != nil || r.searched {
			continue
		}
		if at == nil {
			at = map[name]wire.SAID{}
			for o, s := range seen {
				if b.bySAID[o] == nil {
					at[name{o.Proto, o.SPI, s.reqID, s.mode}] = o
				}
			}
		}
		mode := kernelMode(r.mode)
		if r.comp != nil {
			mode = wire.ModeTransport // around what was compressed
		}
		o, ok := at[name{id.Proto, id.SPI, r.reqID, mode}]
		if !ok {
			continue
		}
		if _, err := b.req.one(wire.GetSA, 0, r.byID()); !gone(err) {
			continue // moved back, or it moved while the table was read
		}
		ev := migrate.Single{Proto: id.Proto, SPI: id.SPI, Dst: r.id.Dst, New: migrate.Pair{Src: seen[o].src.Addr(o.Family), Dst: o.Dst.Addr(o.Family)}}
		if ev.Check() != nil {
			continue
		}
		b.noteNext(r, ev.New)
		if told = true; !b.tellMoved(backend.MigrateSA{Event: ev}) {
			continue
		}
		// Once: when nobody follows, it is an SA that somebody took away.
		r.searched = true
		b.log(true, "SA %s, SPI 0x%08x to %v is at %v now: somebody else moved it", r.name, r.id.SPI, r.id.Dst, ev.New)
	}
	return told
}
