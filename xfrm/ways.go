package xfrm

import (
	"slices"

	"iked/spd"
	"iked/xfrm/wire"
)

// The kernel does not know the near side. It holds what a gateway forwards against
// its forward policies also on the way into a tunnel, and against its outbound ones
// also on the way out of a tunnel to the near side. Where an entry discards, what
// other entries protect must pass there first. So beside an entry that discards,
// each entry of a tunnel has ways: policies that let pass what the entry protects,
// where the kernel looks at it once too often. They lie behind all that protects and
// before all that discards, so that what comes from the far side in clear does not
// profit.

// behind is how far behind its entry a way is. Priorities of protection end 68928
// before those of what is discarded begin, unless the configuration has its own.
const behind = 60000

func (r *policyRecord) way(k policyKey) bool {
	return len(r.ways) > 0 && slices.Contains(r.ways, k)
}

// priority is that of what the entry has under a key.
func (r *policyRecord) priority(k policyKey) uint32 {
	if r.way(k) {
		return r.Priority + min(behind, ^r.Priority)
	}
	return r.Priority
}

// discarded counts the keys of entries that discard.
type discarded map[policyKey]int

// add counts the entries of a list n times more, and tells whether a key came or
// went.
func (d discarded) add(list []*policyRecord, n int) (changed bool) {
	for _, r := range list {
		if r.Action != spd.Discard {
			continue
		}
		for _, k := range r.keys {
			if d[k] += n; d[k] == 0 {
				delete(d, k)
				changed = true
			} else if d[k] == n {
				changed = true
			}
		}
	}
	return changed
}

// stops tells whether an entry that discards may stop what a way is for.
func (d discarded) stops(k policyKey) bool {
	for o := range d {
		if o.dir == k.dir && o.sel.Family == k.sel.Family && (o.sel.Proto == 0 || k.sel.Proto == 0 || o.sel.Proto == k.sel.Proto) &&
			overlap(&o.sel.Src, &k.sel.Src, min(o.sel.SrcLen, k.sel.SrcLen)) && overlap(&o.sel.Dst, &k.sel.Dst, min(o.sel.DstLen, k.sel.DstLen)) {
			return true
		}
	}
	return false
}

// overlap tells whether two addresses have their first bits in common.
func overlap(a, b *wire.Address, bits uint8) bool {
	n, rest := bits/8, bits%8
	return [16]byte(*a) == [16]byte(*b) || string(a[:n]) == string(b[:n]) && (rest == 0 || (a[n]^b[n])>>(8-rest) == 0)
}

// layWays gives the new entries of a change their ways. When what is discarded
// changes, those that stand may get or lose theirs: they then are part of the
// change.
func (b *Backend) layWays(old, recs []*policyRecord) (allOld, allRecs []*policyRecord) {
	gone, come := b.discarded.add(old, -1), b.discarded.add(recs, 1)
	fresh := map[*policyRecord]bool{}
	for _, r := range recs {
		fresh[r] = true
		if tunnels(&r.Policy) {
			r.lay(b.discarded)
		}
	}
	if !gone && !come {
		return old, recs
	}
	for id, r := range b.policies {
		if fresh[r] || !tunnels(&r.Policy) {
			continue
		}
		again := *r
		again.keys, again.ways = slices.DeleteFunc(slices.Clone(r.keys), r.way), nil
		if again.lay(b.discarded); slices.Equal(again.ways, r.ways) {
			continue
		}
		old, recs = append(old, r), append(recs, &again)
		b.policies[id] = &again
	}
	return old, recs
}

// lay adds the ways: forward for what the entry lets out, outbound for what it lets
// in, except where that is what the entry protects itself.
func (r *policyRecord) lay(d discarded) {
	if len(d) == 0 {
		return
	}
	for _, k := range r.keys {
		switch k.dir {
		case wire.DirOut:
			k.dir, k.mark = wire.DirFwd, r.MarkIn
		case wire.DirFwd:
			k.dir, k.mark = wire.DirOut, r.Mark
		default:
			continue
		}
		if d.stops(k) && !slices.Contains(r.keys, k) && !slices.Contains(r.ways, k) {
			r.ways = append(r.ways, k)
		}
	}
	r.keys = append(r.keys, r.ways...)
}
