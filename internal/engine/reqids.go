package engine

import (
	"slices"

	"iked/conf"
	"iked/internal/trace"
)

// free is a reqid that no set and no configured child has, other than the one given.
// Freed numbers are used first, so they stay small and stable.
func (p *policies) free(other uint32) uint32 {
	taken := func(id uint32) bool { return p.inUse[id] != 0 || p.reserved[id] }
	for taken(p.firstFree) {
		p.firstFree++
	}
	id := p.firstFree
	for id == other || taken(id) {
		id++
	}
	return id
}

// reserve keeps the reqids of a configuration from being chosen for others: a child
// that is not up has them too, and so have policies of somebody else's, which SAs of
// the daemon's own would serve by accident. It tells which are chosen already.
func (p *policies) reserve(ids map[uint32]bool) (late []uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reserved, p.firstFree = ids, 1
	for _, set := range p.sets {
		if !set.static && ids[set.reqid] {
			late = append(late, set.reqid)
		}
		if set.around != 0 && ids[set.around] {
			late = append(late, set.around)
		}
	}
	slices.Sort(late)
	return slices.Compact(late)
}

// reserve keeps the configured request ids from being chosen for other children.
func (p *supervisor) reserve(next *program) {
	ids := make(map[uint32]bool)
	others := make(map[uint32]*conf.Child)
	for _, n := range next.order {
		for _, ch := range n.conf.Children {
			for _, id := range [...]uint32{ch.ReqID, ch.ReqIDIn} {
				if id == 0 {
					continue
				}
				ids[id] = true
				if ch.OthersPolicies {
					others[id] = ch
				}
			}
		}
	}
	for _, id := range p.e.policies.reserve(ids) {
		if ch := others[id]; ch != nil {
			p.e.warnf(trace.CFG, "request id %d of child %s was chosen for policies of the daemon's own before it was configured; use another one for %s and for the policies that it serves, or restart", id, ch.Name, ch.Name)
		}
	}
}
