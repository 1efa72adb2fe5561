package migrate

import (
	"net/netip"
	"time"
)

// Once tells what was heard from the kernel by both of its ways. Linux says every
// MIGRATE by netlink and by PF_KEY, whoever asked for it; the second time is about
// the past, which may be another one by then. The zero value is ready.
type Once struct{ heard []heard }

type heard struct {
	key    eventKey
	source Source
	at     time.Time
}

// Both ways deliver within moments. The list is bounded: one that is lost from it
// costs a plan that is empty.
const (
	onceTime = 10 * time.Second
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

// Seen tells whether an event is one that the other way told already. An event from
// one way is paired with one from the other, so that the same move made twice is two
// events.
func (o *Once) Seen(now time.Time, e *Event) bool {
	keep := o.heard[:0]
	for _, h := range o.heard {
		if now.Sub(h.at) < onceTime {
			keep = append(keep, h)
		}
	}
	o.heard = keep
	if e.Source == Control {
		return false
	}
	k := keyOf(e)
	for i, h := range o.heard {
		if h.key == k && h.source != e.Source {
			o.heard = append(o.heard[:i], o.heard[i+1:]...)
			return true
		}
	}
	if len(o.heard) >= onceMax {
		o.heard = append(o.heard[:0], o.heard[1:]...)
	}
	o.heard = append(o.heard, heard{k, e.Source, now})
	return false
}
