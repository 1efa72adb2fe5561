package migrate

import (
	"net/netip"
	"slices"
	"time"
)

// Once tells what was heard from the kernel by both of its ways. Linux says every
// MIGRATE by netlink and by PF_KEY, whoever asked for it; the second time is about
// the past, which may be another one by then. Netlink is preferred: PF_KEY tells
// neither the type of the policy nor ports nor the interface. So what comes by it
// waits for its twin, and counts when there is none: netlink loses what comes faster
// than it is read. The zero value is ready.
type Once struct {
	heard   []heard
	waiting []waiting // in the order of their times
}

type heard struct {
	key    eventKey
	source Source
	at     time.Time
}

type waiting struct {
	event Event
	key   eventKey
	until time.Time
}

// Both ways deliver within moments. The lists are bounded: one that is lost from the
// first costs a plan that is empty, and one that finds no place in the second counts
// at once.
const (
	onceTime = 10 * time.Second
	twinTime = 300 * time.Millisecond
	onceMax  = 256
)

// eventKey is the part of an event that both ways tell alike: PF_KEY has no ports,
// type of policy or interface.
type eventKey struct {
	src, dst netip.Prefix
	proto    uint8
	dir      Dir
	n        int
	entries  [MaxEntries]Entry
	km       Ends
}

func keyOf(e *Event) (k eventKey) {
	k = eventKey{src: e.Selector.Src.Masked(), dst: e.Selector.Dst.Masked(), proto: e.Selector.Proto, dir: e.Dir, km: e.KM}
	k.n = copy(k.entries[:], e.Entries)
	for i := range k.n {
		// An address that is not there is written in either way as zero or not at all.
		if k.entries[i].Old.Unspecified() {
			k.entries[i].Old = Pair{}
		}
	}
	return k
}

// Hear tells whether an event counts now. An event from one way is paired with one
// from the other, so that the same move made twice is two events.
func (o *Once) Hear(now time.Time, e *Event) bool {
	if e.Source == Control {
		return true
	}
	o.heard = slices.DeleteFunc(o.heard, func(h heard) bool { return now.Sub(h.at) >= onceTime })
	k := keyOf(e)
	if i := slices.IndexFunc(o.heard, func(h heard) bool { return h.key == k && h.source != e.Source }); i >= 0 {
		o.heard = slices.Delete(o.heard, i, i+1)
		return false
	}
	if e.Source == PFKey && len(o.waiting) < onceMax {
		o.waiting = append(o.waiting, waiting{*e, k, now.Add(twinTime)})
		return false
	}
	if i := slices.IndexFunc(o.waiting, func(w waiting) bool { return w.key == k }); i >= 0 && e.Source == Netlink {
		o.waiting = slices.Delete(o.waiting, i, i+1)
		return true
	}
	o.note(now, k, e.Source)
	return true
}

func (o *Once) note(now time.Time, k eventKey, from Source) {
	if len(o.heard) >= onceMax {
		o.heard = slices.Delete(o.heard, 0, 1)
	}
	o.heard = append(o.heard, heard{k, from, now})
}

// Overdue are the events of PF_KEY that waited long enough: they count now, and their
// twins, should they come, do not.
func (o *Once) Overdue(now time.Time) (list []Event) {
	for len(o.waiting) > 0 && !now.Before(o.waiting[0].until) {
		w := o.waiting[0]
		o.waiting = slices.Delete(o.waiting, 0, 1)
		o.note(now, w.key, PFKey)
		list = append(list, w.event)
	}
	return list
}

// Due is when Overdue has something; zero: never.
func (o *Once) Due() time.Time {
	if len(o.waiting) == 0 {
		return time.Time{}
	}
	return o.waiting[0].until
}
