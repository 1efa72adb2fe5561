package migrate

import (
	"net/netip"
	"slices"

	"iked/spd"
)

// KMTable remembers where key exchanges go on, as KMADDRESS told, policy by policy: for
// negotiations that begin later. A mobile node tells of its care-of address before the
// first Binding Update leaves, which asks for the SA (draft-ebalard-mext-pfkey-
// enhanced-migrate). The zero value is ready and empty.
type KMTable struct {
	entries map[kmKey]kmEntry
	told    uint64 // events so far
}

// kmKey is one template of a policy of one direction.
type kmKey struct {
	sel   spd.KernelSelector
	dir   Dir
	ifID  uint32
	proto uint8
	mode  spd.Mode
	reqID uint32
}

type kmEntry struct {
	Ends
	at       uint64        // when, in events
	src, dst [2]netip.Addr // of the selector: first and last
}

// MaxKM is how many templates a KMTable remembers; what was told of longest ago goes.
const MaxKM = 4096

// Learn takes in what an event says of policies that a child of the list may be about.
// Others are not remembered.
func (t *KMTable) Learn(e *Event, list []Child) (learned bool) {
	if !e.KM.Local.IsValid() || e.Sub || e.Check() != nil {
		return false
	}
	for _, x := range e.Entries {
		k := kmKey{e.Selector, e.Dir, e.IfID, x.Proto, x.Mode, x.ReqID}
		v := newKM(e)
		if !slices.ContainsFunc(list, func(c Child) bool { return v.about(&k, &c) }) {
			continue
		}
		if !learned {
			t.told++
			learned = true
		}
		v.at = t.told
		if t.entries == nil {
			t.entries = make(map[kmKey]kmEntry)
		}
		if _, there := t.entries[k]; !there && len(t.entries) >= MaxKM {
			t.evict()
		}
		t.entries[k] = v
	}
	return learned
}

func newKM(e *Event) kmEntry {
	src, dst := spd.FromPrefix(e.Selector.Src), spd.FromPrefix(e.Selector.Dst)
	return kmEntry{Ends: e.KM, src: [2]netip.Addr{src.From, src.To}, dst: [2]netip.Addr{dst.From, dst.To}}
}

// evict drops what was told of longest ago.
func (t *KMTable) evict() {
	var oldest kmKey
	at := ^uint64(0)
	for k, v := range t.entries {
		if v.at < at || v.at == at && before(&k, &oldest) {
			oldest, at = k, v.at
		}
	}
	delete(t.entries, oldest)
}

// before is an order of the templates of one event.
func before(a, b *kmKey) bool {
	if a.reqID != b.reqID {
		return a.reqID < b.reqID
	}
	return a.mode < b.mode || a.mode == b.mode && a.proto < b.proto
}

// Find is where IKE begins for one of some children, as the last event about one of
// them told; with a flow, as the last one whose selector has the flow.
func (t *KMTable) Find(flow *spd.Flow, list []Child) (Ends, bool) {
	var best kmEntry
	for k, v := range t.entries {
		if v.at <= best.at || flow != nil && !v.has(k.dir, flow) {
			continue
		}
		if slices.ContainsFunc(list, func(c Child) bool { return v.about(&k, &c) }) {
			best = v
		}
	}
	return best.Ends, best.at != 0
}

// Keep drops what is about none of the children.
func (t *KMTable) Keep(list []Child) {
	for k, v := range t.entries {
		if !slices.ContainsFunc(list, func(c Child) bool { return v.about(&k, &c) }) {
			delete(t.entries, k)
		}
	}
}

// Len is how many templates are remembered.
func (t *KMTable) Len() int { return len(t.entries) }

// about tells whether a child may have the SAs of a template: by protocol, mode and
// request id, and by the addresses of its traffic. PF_KEY tells no ports, so that these
// do not count.
func (v *kmEntry) about(k *kmKey, c *Child) bool {
	x := Entry{Proto: k.proto, Mode: k.mode, ReqID: k.reqID}
	return x.names(c, k.dir) && v.meets(k.dir, c)
}

// meets tells whether the selector is about traffic of a child.
func (v *kmEntry) meets(d Dir, c *Child) bool {
	src, dst := c.Local, c.Remote
	if d != Out {
		src, dst = dst, src
	}
	return overlap(src, v.src) && overlap(dst, v.dst)
}

func overlap(list []spd.TS, b [2]netip.Addr) bool {
	return slices.ContainsFunc(list, func(t spd.TS) bool {
		return t.From.Is4() == b[0].Is4() && !b[1].Less(t.From) && !t.To.Less(b[0])
	})
}

// has tells whether the selector has the addresses of an outbound packet, which is
// about the other direction for a policy of that one.
func (v *kmEntry) has(d Dir, f *spd.Flow) bool {
	src, dst := f.Local, f.Remote
	if d != Out {
		src, dst = dst, src
	}
	in := func(b [2]netip.Addr, a netip.Addr) bool {
		return a.Is4() == b[0].Is4() && !a.Less(b[0]) && !b[1].Less(a)
	}
	return in(v.src, src) && in(v.dst, dst)
}
