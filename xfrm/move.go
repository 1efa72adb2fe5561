package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/migrate"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// UpdateSA implements backend.SADB. Linux 7.2 moves an SA in place (MIGRATE_STATE).
// Before, there is MIGRATE of policies alone, which copies the SA while the old one
// still sends, so that numbers and with them nonces are used twice. So there the SA is
// removed, what the kernel tells of its last state is changed, and that is added. In
// between packets are dropped.
func (b *Backend) UpdateSA(id sad.ID, m backend.Move) (sad.ID, error) {
	if !m.Src.IsValid() || !m.Dst.IsValid() || m.Src.Is4() != m.Dst.Is4() {
		return id, fmt.Errorf("update SA: SPI 0x%08x: outer addresses %v and %v, expected two of one family: %w", id.SPI, m.Src, m.Dst, backend.ErrInvalid)
	}
	if m.Encap != nil && id.Proto == suite.ProtoAH {
		return id, fmt.Errorf("update SA: SPI 0x%08x: AH cannot be encapsulated in UDP: %w", id.SPI, backend.ErrUnsupported)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return id, err
	}
	r := b.sas[id]
	if r == nil {
		return id, notFound("update", id)
	}
	if r.comp != nil && m.Dst.Is4() != id.Dst.Is4() {
		return id, fmt.Errorf("update SA %s, SPI 0x%08x to %v: compression is bound to one address family in the kernel; set ipcomp to no, or use the userspace backend: %w", r.name, id.SPI, m.Dst, backend.ErrUnsupported)
	}
	to := id
	to.Dst = m.Dst
	if to != id && (b.sas[to] != nil || b.bySAID[saID(to)] != nil) {
		return id, fmt.Errorf("update SA: SPI 0x%08x to %v: %w", id.SPI, to.Dst, backend.ErrExists)
	}
	if !r.dead {
		unsettle := b.settleNext(r)
		if err := b.move(r, to, m); err != nil {
			unsettle()
			return id, fmt.Errorf("update SA %s, SPI 0x%08x: %w", r.name, id.SPI, err)
		}
	}
	b.drop(r)
	if r.next.Dst == to.Dst {
		b.setNext(r, migrate.Pair{}) // its line of the journal is that of its place now
	}
	b.forgetNext(r)
	if r.mode == spd.Transport {
		hosts(&r.sel, *ends(r.src, r.id.Dst), ends(m.Src, m.Dst))
	}
	r.id, r.src, r.encap, r.mapped = to, m.Src, m.Encap != nil, netip.AddrPort{}
	var err error
	if r.comp != nil && !r.dead {
		if err = b.moveComp(r.comp, m); err != nil {
			b.req.do([]request{r.deletion()})
			b.lost(r, "its compression could not be moved")
		}
	}
	b.put(r)
	return to, err
}

// moved tells whether the kernel has the SA at its new addresses already: somebody
// else moved it, with MIGRATE.
func (b *Backend) moved(r *saRecord, to sad.ID, m backend.Move) bool {
	at := saRecord{id: to, mark: r.mark}
	msg, err := b.req.one(wire.GetSA, 0, at.byID())
	sa, ok := msg.(*wire.SA)
	if err != nil || !ok {
		return false
	}
	defer sa.Destroy()
	encap := m.Encap == nil && sa.Encap == nil || m.Encap != nil && sa.Encap != nil && sa.Encap.SrcPort == m.Encap.SrcPort && sa.Encap.DstPort == m.Encap.DstPort
	return encap && sa.ReqID == r.reqID && sa.Src.Addr(sa.Family) == m.Src
}

// move moves the SA in the kernel: somebody else has, or in place, or by another one.
func (b *Backend) move(r *saRecord, to sad.ID, m backend.Move) error {
	if b.moved(r, to, m) {
		if to != r.id {
			there := *r
			there.id = to
			b.journal.addSA(&there)
			b.journal.removeSA(r)
		}
		return nil
	}
	if b.report.StateMigrate {
		if done, err := b.moveInPlace(r, to, m); done {
			return err
		}
	}
	return b.replace(r, to, m)
}

// moveInPlace lets the kernel move the SA: with its numbers, window, counters and
// times, in one step. Not done: the kernel does not move this one, and it is as it was
// or is not found any more, as replace will see.
func (b *Backend) moveInPlace(r *saRecord, to sad.ID, m backend.Move) (done bool, err error) {
	msg, err := b.req.one(wire.GetSA, 0, r.byID())
	now, ok := msg.(*wire.SA)
	if !ok {
		return err != nil, err
	}
	now.Destroy()
	moved := *r
	moved.id = to
	// What is not named stays; request id and selector must be.
	req := &wire.StateMigrate{ID: r.said(), NewDst: wire.AddressOf(m.Dst), NewSrc: wire.AddressOf(m.Src), NewFamily: wire.FamilyOf(m.Dst), NewReqID: now.ReqID, NewSel: now.Sel}
	if r.mode == spd.Transport {
		// The packets have the outer addresses.
		hosts(&req.NewSel, now.SAInfo, ends(m.Src, m.Dst))
	}
	if mark := markOf(r.mark); mark != nil {
		req.OldMark = *mark
	}
	if e := m.Encap; e != nil {
		req.Encap = &wire.Encap{Type: wire.EncapUDP, SrcPort: e.SrcPort, DstPort: e.DstPort}
	} else if now.Encap != nil {
		req.Encap = &wire.Encap{} // of type 0: none any more
	}
	if to != r.id {
		b.journal.addSA(&moved)
	}
	if _, err = b.req.one(wire.MigrateState, 0, req); err == nil {
		if to != r.id {
			b.journal.removeSA(r)
		}
		return true, nil
	}
	if to != r.id {
		b.journal.removeSA(&moved)
	}
	switch {
	case errors.Is(err, unix.EEXIST):
		return true, fmt.Errorf("another SA has its SPI at %v; rekey it, or remove the other one: %w: %w", m.Dst, err, backend.ErrExists)
	case gone(err):
		return true, fmt.Errorf("the kernel does not have it any more, so that it must be made anew: %w", err)
	}
	b.log(true, "SA %s, SPI 0x%08x: the kernel does not move it in place, so it is removed and added: %v", r.name, r.id.SPI, err)
	return false, nil
}

// replace removes the SA and adds it at its new place.
func (b *Backend) replace(r *saRecord, to sad.ID, m backend.Move) error {
	if err := b.readable(r); err != nil {
		return err
	}
	last := b.heard.expect(r.said())
	defer b.heard.forget(r.said())
	if err := b.req.do([]request{r.deletion()})[0].err; err != nil {
		return err
	}
	var old *wire.SA
	select {
	case old = <-last:
	case <-time.After(answerTime):
		// Its state is lost, and without it the SA must not go on.
		b.lost(r, "the kernel did not tell the state of the removed SA")
		return errors.New("the kernel does not tell the state of the SA; it is removed and must be negotiated again")
	}
	defer old.Destroy()
	next := *old
	next.ID.Dst, next.Src, next.Family = wire.AddressOf(m.Dst), wire.AddressOf(m.Src), wire.FamilyOf(m.Dst)
	next.Encap, next.Seq = nil, 0
	if e := m.Encap; e != nil {
		next.Encap = &wire.Encap{Type: wire.EncapUDP, SrcPort: e.SrcPort, DstPort: e.DstPort}
	} else {
		next.MTimerThresh = nil
	}
	if r.mode == spd.Transport || r.comp != nil {
		// The packets have the outer addresses.
		hosts(&next.Sel, old.SAInfo, &next.SAInfo)
	}
	restorable(&next)
	moved := *r
	moved.id = to
	b.journal.addSA(&moved)
	err := b.req.do([]request{{wire.NewSA, wire.FlagCreate | wire.FlagExcl, &next}})[0].err
	if err == nil {
		if to != r.id {
			b.journal.removeSA(r)
		}
		return nil
	}
	if to != r.id {
		b.journal.removeSA(&moved)
	}
	back := *old
	back.Seq = 0
	restorable(&back)
	if again := b.req.do([]request{{wire.NewSA, wire.FlagCreate | wire.FlagExcl, &back}})[0].err; again != nil {
		b.lost(r, "it could be neither moved nor put back")
		return errors.Join(err, again)
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: %w", err, backend.ErrExists)
	}
	return err
}

// readable tells whether the kernel gives out keys: in lockdown it gives zeros in
// their place, and an SA must not go on with those.
func (b *Backend) readable(r *saRecord) error {
	msg, err := b.req.one(wire.GetSA, 0, r.byID())
	if err != nil {
		return err
	}
	sa, ok := msg.(*wire.SA)
	if !ok {
		return fmt.Errorf("the kernel answers %T", msg)
	}
	defer sa.Destroy()
	for _, a := range []*wire.Algorithm{sa.AlgAEAD, sa.AlgCrypt, sa.AlgAuthTrunc} {
		if a != nil && a.Key.Len() > 0 && !slices.ContainsFunc(a.Key.Reveal(), func(x byte) bool { return x != 0 }) {
			return errors.New("the kernel hides keys (lockdown), so the SA cannot move; rekey it")
		}
	}
	return nil
}

// ends has the outer addresses of an SA, and nothing else.
func ends(src, dst netip.Addr) *wire.SAInfo {
	return &wire.SAInfo{Src: wire.AddressOf(src), ID: wire.ID{Dst: wire.AddressOf(dst)}, Family: wire.FamilyOf(dst)}
}

// hosts moves a selector that is the outer addresses themselves.
func hosts(sel *wire.Selector, old wire.SAInfo, next *wire.SAInfo) {
	if sel.Family != old.Family {
		return
	}
	if sel.Dst == old.ID.Dst {
		sel.Dst = next.ID.Dst
	}
	if sel.Src == old.Src {
		sel.Src = next.Src
	}
	sel.Family = next.Family
}

// restorable makes a message that adds an SA out of one that tells of it.
func restorable(m *wire.SA) {
	u := m.Used
	m.LifetimeVal = &u // octets, packets and the time of installation go on
	m.Used, m.Stats = wire.Used{}, wire.Stats{}
	if m.AlgAuthTrunc != nil {
		m.AlgAuth = nil // the same without the truncation
	}
	if m.ReplayESN != nil {
		m.Replay, m.ReplayWindow = nil, 0
	}
	if m.Offload != nil {
		m.Offload.Flags &^= wire.OffloadIPv6
	}
	m.LastUsed, m.SrcAddr, m.ReplayThresh, m.ETimerThresh = nil, nil, nil, nil
	m.Unknown = slices.Clone(m.Unknown[:0])
}
