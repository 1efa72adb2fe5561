package xfrm

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"iked/internal/backend"
	"iked/xfrm/wire"
)

// adopt deals with what a process that ended without Close left: its SAs go, since
// nobody has their keys; its policies stay and block, until an entry claims them or
// their time is over. Those that let traffic pass go at once. What the kernel refuses
// to do about one of them is tried again, and until then it stays in the journal.
func (b *Backend) adopt() {
	if b.journal == nil {
		return
	}
	// An entry or an SA of now may have taken the place of what is tried again.
	left := slices.DeleteFunc(b.journal.left, b.claimed)
	b.journal.left = nil
	reqs := make([]request, len(left))
	for i, l := range left {
		if l.sa != nil {
			reqs[i] = l.deletion()
		} else {
			reqs[i] = request{wire.GetPolicy, 0, l.policy}
		}
	}
	sas, kept := 0, 0
	var first error
	var keys []policyKey
	var moved []leftover
	for i, r := range b.req.do(reqs) {
		l := left[i]
		if r.err != nil && !gone(r.err) {
			b.journal.left = append(b.journal.left, l)
			if first == nil {
				first = r.err
			}
			continue
		}
		if l.sa != nil {
			if r.err == nil {
				sas++
			} else if l.reqID != 0 {
				moved = append(moved, l)
			}
			b.journal.drop(l.line())
			continue
		}
		p, ok := r.msg.(*wire.Policy)
		if !ok {
			b.journal.drop(l.line())
			continue
		}
		k := keyOf(&p.PolicyInfo, &p.Attrs)
		have := &kernelPolicy{p.Action, p.Priority, p.Templates}
		e := &entry{have: have}
		if !have.clear() {
			e.orphan = have
			kept++
		}
		b.entries[k] = e
		keys = append(keys, k)
	}
	if n, err := b.removeAstray(moved); err != nil {
		// Not before the next try: what is named in the journal is looked for again.
		for _, l := range moved {
			b.journal.add(l.line())
		}
		b.journal.left = append(b.journal.left, moved...)
		if first == nil {
			first = err
		}
	} else {
		sas += n
	}
	if err := b.settleLeft(keys); first == nil {
		first = err
	}
	b.trouble("leftovers", first != nil, "something of what a process that ended without cleaning up left in the kernel stays there, and is tried again every %v: %v", b.opt.Sweep, first)
	if sas+kept > 0 {
		if kept > 0 && b.orphans.IsZero() {
			b.orphans = time.Now().Add(b.grace)
		}
		b.log(true, "%d SAs of a process that ended without cleaning up were removed; %d of its policies block their traffic for %v or until they are claimed", sas, kept, b.grace)
	}
}

// claimed tells whether something of now has the place of a leftover.
// removeAstray removes SAs of a crashed process that a mobility manager has moved since
// then: one of the same protocol, SPI and request id at another address. The policies of
// the manager would go on using them. It tells how many.
func (b *Backend) removeAstray(left []leftover) (n int, err error) {
	if len(left) == 0 {
		return 0, nil
	}
	type name struct {
		proto      uint8
		spi, reqID uint32
	}
	names := make(map[name]bool, len(left))
	for _, l := range left {
		names[name{l.sa.SAID.Proto, l.sa.SAID.SPI, l.reqID}] = true
	}
	var reqs []request
	err = b.req.dump(wire.GetSA, &wire.Dump{}, func() { reqs = nil }, func(m wire.Message) {
		s, ok := m.(*wire.SA)
		if !ok {
			return
		}
		s.Destroy()
		if id := s.ByID(); names[name{id.Proto, id.SPI, s.ReqID}] && b.at(id) == nil {
			reqs = append(reqs, request{wire.DelSA, 0, &wire.SAByID{SAID: id, Attrs: wire.Attrs{Mark: s.Mark}}})
		}
	})
	if err != nil {
		return 0, err
	}
	for _, r := range b.req.do(reqs) {
		if r.err == nil {
			n++
		} else if !gone(r.err) && err == nil {
			err = r.err
		}
	}
	return n, err
}

func (b *Backend) claimed(l leftover) bool {
	if l.sa != nil {
		return b.bySAID[l.sa.SAID] != nil
	}
	return b.entries[keyOf(&wire.PolicyInfo{Sel: l.policy.Sel, Dir: l.policy.Dir}, &l.policy.Attrs)] != nil
}

// settleLeft is settle for keys of a crashed process, and for those before that must
// be tried again.
func (b *Backend) settleLeft(keys []policyKey) error {
	for _, k := range keys {
		b.unsettled[k] = true
	}
	err := b.settle(slices.Collect(maps.Keys(b.unsettled)))
	if err == nil {
		clear(b.unsettled)
	}
	return err
}

// watchJournal says that the journal is not written, and tries again. none is why
// there is no journal at all. Tunnels are worth more than what is known of them after
// a crash, so neither ends the backend.
func (b *Backend) watchJournal(none error) {
	const lost = "what a process that crashes leaves in the kernel stays there"
	if none != nil {
		b.log(true, "%s, and is not taken over now: %v", lost, none)
	}
	j := b.journal
	if j == nil {
		return
	}
	if j.damaged > 0 {
		b.log(true, "journal %s has %d lines that say nothing: what they stood for stays in the kernel; `ip xfrm policy` and `ip xfrm state` show it", j.path, j.damaged)
		j.damaged = 0
	}
	if j.err != nil {
		j.mend()
	}
	b.trouble("journal", j.err != nil, "%s: journal not written, tried again every %v: %v", lost, b.opt.Sweep, j.err)
}

// retryIfDue tries again what failed: to write the journal, and to deal with what a
// crashed process left.
func (b *Backend) retryIfDue(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.journal == nil || b.closed || now.Before(b.retryAt) {
		return
	}
	b.retryAt = now.Add(b.opt.Sweep)
	b.watchJournal(nil)
	b.adopt()
}

// dropOrphans removes policies that nobody claimed.
func (b *Backend) dropOrphans(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.orphans.IsZero() || now.Before(b.orphans) {
		return
	}
	b.orphans = time.Time{}
	var keys []policyKey
	for k, e := range b.entries {
		if e.orphan != nil {
			e.orphan = nil
			keys = append(keys, k)
		}
	}
	if err := b.settleLeft(keys); err != nil {
		b.log(true, "policies of a crashed process: %v", err)
	}
}

const (
	// sweepShare is the part of the time that sweeps may take.
	sweepShare = 100
	// resyncPause is the least time between two sweeps.
	resyncPause = 200 * time.Millisecond
	// missingTime is how long an SA must be missing, or a policy be between other
	// addresses, before something is done about it: the event of the lifetime of the one
	// or the move of the other may be on the way.
	missingTime = time.Second
	// holdTime is how long after a MIGRATE nothing is put right: its events come for
	// one direction of one policy after the other, and then what should be there is told
	// anew.
	holdTime = 3 * time.Second
)

// sweepIfDue compares the kernel with what should be there.
func (b *Backend) sweepIfDue(now time.Time) {
	b.mu.Lock()
	if now.Before(b.holdUntil) {
		b.mu.Unlock()
		return
	}
	due := !now.Before(b.sweepAt)
	if b.resync && b.sweepAt.Sub(now) < b.opt.Sweep-resyncPause {
		due = true
	}
	if due {
		b.resync = false
	}
	b.mu.Unlock()
	if !due {
		return
	}
	again, err := b.sweep()
	took := time.Since(now)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trouble("sweep", err != nil, "comparison with the kernel: %v", err)
	b.sweepAt = time.Now().Add(max(b.opt.Sweep, sweepShare*took))
	b.resync = b.resync || again
}

// trouble logs one when it begins.
func (b *Backend) trouble(what string, is bool, format string, args ...any) {
	if is && !b.drift[what] {
		b.log(true, format, args...)
	}
	if is {
		b.drift[what] = true
	} else {
		delete(b.drift, what)
	}
}

// sweep dumps both tables without holding up anybody, and then looks again at each
// difference, alone and under the lock, before it does something about it.
func (b *Backend) sweep() (again bool, err error) {
	var policies map[policyKey]kernelPolicy
	err = b.tables.dump(wire.GetPolicy, &wire.Dump{}, func() { policies = map[policyKey]kernelPolicy{} }, func(m wire.Message) {
		if p, ok := m.(*wire.Policy); ok && p.Index&7 < 3 { // not of a socket
			policies[keyOf(&p.PolicyInfo, &p.Attrs)] = kernelPolicy{p.Action, p.Priority, p.Templates}
		}
	})
	if err != nil {
		return false, err
	}
	var sas map[wire.SAID]seenSA
	err = b.tables.dump(wire.GetSA, &wire.Dump{}, func() { sas = map[wire.SAID]seenSA{} }, func(m wire.Message) {
		if s, ok := m.(*wire.SA); ok {
			s.Destroy()
			sas[s.ByID()] = seenSA{s.Src, s.ReqID, s.Mode}
		}
	})
	if err != nil {
		return false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false, nil
	}
	if time.Now().Before(b.holdUntil) {
		return true, nil // a MIGRATE was heard meanwhile
	}
	if b.findMoved(sas) {
		return true, nil // policies that moved with them are no fault
	}
	again, err = b.repairPolicies(policies)
	if err != nil {
		return again, err
	}
	return b.missSAs(sas) || again, nil
}

// repairPolicies puts right what somebody else changed. A policy that is only between
// other addresses has to stand like that for a while: a MIGRATE changes it before it is
// heard. again: there is one.
func (b *Backend) repairPolicies(seen map[policyKey]kernelPolicy) (again bool, err error) {
	var keys []policyKey
	for k, e := range b.entries {
		if e.have == nil {
			continue
		}
		if p, ok := seen[k]; ok && p.equal(e.have) {
			e.astray = time.Time{}
			continue
		}
		msg, err := b.req.one(wire.GetPolicy, 0, k.byID())
		if err != nil && !gone(err) {
			return again, err
		}
		what := "is gone"
		p, ok := msg.(*wire.Policy)
		if ok {
			now := &kernelPolicy{p.Action, p.Priority, p.Templates}
			if now.equal(e.have) {
				e.astray = time.Time{}
				continue
			}
			if now.elsewhere(e.have) {
				if !e.astray.After(b.holdUntil) {
					e.astray = time.Now() // before, a MIGRATE was heard
				}
				if time.Since(e.astray) < missingTime {
					again = true
					continue
				}
			}
			what = "is another one"
			e.have = now
		} else {
			e.have = nil
		}
		b.counts[repaired]++
		b.log(true, "policy %s of %s %s: put right", k, ownerOf(e), what)
		e.astray = time.Time{}
		keys = append(keys, k)
	}
	return again, b.settle(keys)
}

func ownerOf(e *entry) string {
	if len(e.list) > 0 {
		return e.list[0].Name
	}
	return "a crashed process"
}

// String is a policy for people.
func (k policyKey) String() string {
	s := k.sel
	return fmt.Sprintf("%v/%d to %v/%d protocol %d %s", s.Src.Addr(s.Family), s.SrcLen, s.Dst.Addr(s.Family), s.DstLen, s.Proto,
		map[uint8]string{wire.DirIn: "in", wire.DirOut: "out", wire.DirFwd: "forward"}[k.dir])
}

// missSAs looks for SAs that somebody else removed. They are not put back.
func (b *Backend) missSAs(seen map[wire.SAID]seenSA) (again bool) {
	now := time.Now()
	for id, r := range b.bySAID {
		if _, ok := seen[id]; ok || r.dead {
			r.missing, r.searched = time.Time{}, false
			continue
		}
		if _, err := b.req.one(wire.GetSA, 0, r.byID()); !gone(err) {
			continue
		}
		switch {
		case !r.missing.After(b.holdUntil): // before, a MIGRATE was heard
			r.missing, again = now, true
		case now.Sub(r.missing) >= missingTime:
			if r.main != nil {
				b.lostComp(r)
			} else {
				b.removeNext(r) // nobody followed it there
				b.lost(r, "somebody else removed it")
			}
		default:
			again = true
		}
	}
	return again
}

// watchPeriod is how often entries that pass in clear are looked at.
const watchPeriod = time.Second

// watchOpen asks for the SAs of entries that fail open and ask: the kernel lets
// their packets pass by a policy without templates and asks nobody, but it notes
// when that was used last.
func (b *Backend) watchOpen(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || now.Before(b.watchAt) {
		return
	}
	b.watchAt = now.Add(watchPeriod)
	for reqID, set := range b.byReqID {
		if b.serving[reqID] > 0 {
			continue
		}
		for _, r := range set {
			if r.Acquire && !allTransport(&r.Policy) {
				b.watch(r, now)
			}
		}
	}
}

func (b *Backend) watch(r *policyRecord, now time.Time) {
	for _, k := range r.keys {
		e := b.entries[k]
		if k.dir != wire.DirOut || r.way(k) || e == nil || e.have == nil || !e.have.clear() || e.list[0] != r {
			continue
		}
		msg, err := b.req.one(wire.GetPolicy, 0, k.byID())
		p, ok := msg.(*wire.Policy)
		if err != nil || !ok || p.Used.UseTime == 0 || int64(p.Used.UseTime) <= r.usedAt {
			continue
		}
		if now.Before(r.askedAt) {
			continue
		}
		// The packet is not known, only that one fitted.
		flow := flowOf(&k.sel)
		if b.events.Emit(backend.Acquire{Policy: r.ID, ReqID: r.ReqID, Flow: flow}) {
			r.usedAt, r.askedAt = int64(p.Used.UseTime), now.Add(askAgain)
		}
		return
	}
}
