package xfrm

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"iked/internal/backend"
	"iked/spd"
	"iked/xfrm/wire"
)

// policyKey is what the kernel tells policies apart by.
type policyKey struct {
	sel  wire.Selector
	dir  uint8
	mark spd.Mark
	ifID uint32
}

func (k policyKey) attrs() wire.Attrs {
	a := wire.Attrs{Mark: markOf(k.mark)}
	if k.ifID != 0 {
		a.IfID = ptr(k.ifID)
	}
	return a
}

func (k policyKey) byID() *wire.PolicyByID {
	return &wire.PolicyByID{PolicyID: wire.PolicyID{Sel: k.sel, Dir: k.dir}, Attrs: k.attrs()}
}

func (k policyKey) deletion() request { return request{wire.DelPolicy, 0, k.byID()} }

// kernelPolicy is what stands under a key.
type kernelPolicy struct {
	action    uint8
	priority  uint32
	templates []wire.Template
}

func (p *kernelPolicy) equal(o *kernelPolicy) bool {
	return p.action == o.action && p.priority == o.priority && slices.Equal(p.templates, o.templates)
}

// elsewhere tells whether it is o but for the outer addresses, which is what a MIGRATE
// makes of it.
func (p *kernelPolicy) elsewhere(o *kernelPolicy) bool {
	return p.action == o.action && p.priority == o.priority && slices.EqualFunc(p.templates, o.templates, func(x, y wire.Template) bool {
		x.Src, x.ID.Dst, x.Family = y.Src, y.ID.Dst, y.Family
		return x == y
	})
}

// clear tells whether it lets packets out or in without protection.
func (p *kernelPolicy) clear() bool { return p.action == wire.Allow && len(p.templates) == 0 }

func (k policyKey) message(p *kernelPolicy) *wire.Policy {
	m := &wire.Policy{Attrs: k.attrs()}
	m.Sel, m.Dir, m.Priority, m.Action = k.sel, k.dir, p.priority, p.action
	m.Lifetime = wire.Lifetime{SoftBytes: wire.Infinite, HardBytes: wire.Infinite, SoftPackets: wire.Infinite, HardPackets: wire.Infinite}
	m.Templates = p.templates
	return m
}

// policyRecord is an entry of the SPD with what it is in the kernel.
type policyRecord struct {
	spd.Policy
	age  uint64
	keys []policyKey
	// ways are those of keys that let what the entry protects pass the check of what
	// is forwarded, on its way out.
	ways []policyKey
	// usedAt and askedAt belong to watchOpen.
	usedAt  int64
	askedAt time.Time
}

// entry are the entries of the SPD that have one key in the kernel, first the one
// that comes first in the SPD: it alone can ever match.
type entry struct {
	list []*policyRecord
	// orphan is what a process that ended without Close left; it stays until an
	// entry takes the key, or its time is over.
	orphan *kernelPolicy
	have   *kernelPolicy // what the kernel has; nil: nothing
	astray time.Time     // since when it was seen between other addresses; zero: it was not
}

func (e *entry) add(k policyKey, r *policyRecord) {
	pr := r.priority(k)
	i := sort.Search(len(e.list), func(i int) bool {
		o := e.list[i]
		po := o.priority(k)
		return pr < po || pr == po && r.age < o.age
	})
	e.list = slices.Insert(e.list, i, r)
}

func (e *entry) remove(r *policyRecord) {
	e.list = slices.DeleteFunc(e.list, func(o *policyRecord) bool { return o == r })
}

// want is what the kernel should have under the key; nil: nothing.
func (b *Backend) want(k policyKey, e *entry) *kernelPolicy {
	if len(e.list) == 0 {
		return e.orphan
	}
	r := e.list[0]
	if r.way(k) {
		return &kernelPolicy{action: wire.Allow, priority: r.priority(k)}
	}
	p := encodePolicy(&r.Policy, k)
	if r.Action == spd.Protect && r.FailOpen && k.dir == wire.DirOut && b.serving[r.ReqID] == 0 && !allTransport(&r.Policy) {
		// The kernel allows no optional template outbound in tunnel mode. While no SA
		// serves the entry its packets pass in clear by a policy that says so.
		p.action, p.templates = wire.Allow, nil
	}
	return p
}

// maxSelectors bounds what one entry may become in the kernel.
const maxSelectors = 4096

// policyKeys are the kernel's policies of an entry. Inbound policies have two
// forms: one for what is delivered here, one for what is forwarded.
func policyKeys(p *spd.Policy) ([]policyKey, error) {
	var keys []policyKey
	seen := map[policyKey]bool{}
	add := func(s wire.Selector, dir uint8) {
		k := policyKey{s, dir, p.MarkIn, p.IfID}
		if dir == wire.DirOut {
			k.mark = p.Mark
		}
		if !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	outbound, err := expand(p, spd.Outbound)
	if err != nil {
		return nil, err
	}
	inbound, err := expand(p, spd.Inbound)
	if err != nil {
		return nil, err
	}
	for _, s := range outbound {
		add(s, wire.DirOut)
		if p.Action == spd.Bypass {
			// What is let out in clear must also pass the check of what is forwarded,
			// where it looks like something that comes in.
			add(s, wire.DirFwd)
		}
	}
	for _, s := range inbound {
		if p.Action != spd.Bypass {
			// Nothing that should be protected or discarded comes in because the kernel
			// does not know it for that.
			s = untyped(s)
		}
		add(s, wire.DirIn)
		if p.Action != spd.Protect || p.Mode == spd.Tunnel {
			add(s, wire.DirFwd)
		}
	}
	return keys, nil
}

func expand(p *spd.Policy, dir spd.Dirs) ([]wire.Selector, error) {
	list, err := spd.KernelSelectors(p, dir, maxSelectors)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, backend.ErrUnsupported)
	}
	out := make([]wire.Selector, len(list))
	for i, k := range list {
		out[i] = wireSelector(k)
	}
	return out, nil
}

// encodePolicy is an entry under one of its keys.
func encodePolicy(p *spd.Policy, k policyKey) *kernelPolicy {
	kp := &kernelPolicy{action: wire.Allow, priority: p.Priority}
	switch p.Action {
	case spd.Discard:
		kp.action = wire.Block
	case spd.Protect:
		kp.templates = templates(p, k)
	}
	return kp
}

// templates are the SAs that an entry asks for, from the inside outwards.
func templates(p *spd.Policy, k policyKey) []wire.Template {
	list := append([]spd.Template{{Proto: p.Proto, Mode: p.Mode, ReqID: p.ReqID, Local: p.OuterLocal, Remote: p.OuterRemote}}, p.Bundle...)
	list = compTemplates(p, list)
	optional := uint8(0)
	if p.FailOpen && (k.dir != wire.DirOut || allTransport(p)) {
		optional = 1
	}
	family := k.sel.Family
	out := make([]wire.Template, 0, len(list))
	for _, t := range list {
		if t.Proto == 0 {
			t.Proto = ipESP
		}
		src, dst := t.Local, t.Remote
		if k.dir != wire.DirOut {
			src, dst = dst, src
		}
		w := wire.Template{ReqID: t.ReqID, Mode: kernelMode(t.Mode), Optional: optional, AuthAlgs: ^uint32(0), EncrAlgs: ^uint32(0), CompAlgs: ^uint32(0)}
		w.ID.Proto = t.Proto
		if t.Proto == ipComp && k.dir != wire.DirOut {
			w.Optional = 1 // what does not shrink comes without (RFC 3173, Section 2.2)
		}
		if t.Mode != spd.Transport {
			w.Src, w.ID.Dst = wire.AddressOf(src), wire.AddressOf(dst)
			for _, a := range []uint16{wire.FamilyOf(src), wire.FamilyOf(dst)} {
				if a != 0 {
					family = a
				}
			}
		}
		w.Family = family // of what goes out of this step and into the next
		out = append(out, w)
	}
	return out
}

func allTransport(p *spd.Policy) bool {
	return p.Mode == spd.Transport && !slices.ContainsFunc(p.Bundle, func(t spd.Template) bool { return t.Mode != spd.Transport })
}

// ApplyPolicies implements backend.SPDB. The kernel knows no transactions: the
// changes go in one send, in an order in which nothing passes in clear that
// neither the old nor the new entries let pass.
func (b *Backend) ApplyPolicies(remove []uint64, add []spd.Policy) error {
	recs := make([]*policyRecord, 0, len(add))
	var invalid error
	for i := range add {
		if invalid = backend.CheckPolicy(&add[i]); invalid != nil {
			break
		}
		keys, err := policyKeys(&add[i])
		if err != nil {
			invalid = err
			break
		}
		r := &policyRecord{Policy: add[i], keys: keys}
		r.Local, r.Remote, r.Bundle = nil, nil, slices.Clone(add[i].Bundle)
		if tunnels(&add[i]) {
			r.Local, r.Remote = slices.Clone(add[i].Local), slices.Clone(add[i].Remote)
		}
		recs = append(recs, r)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return err
	}
	if invalid != nil {
		return invalid
	}
	var old []*policyRecord
	for _, id := range remove {
		if r := b.policies[id]; r != nil {
			old = append(old, r)
			delete(b.policies, id)
		}
	}
	for _, r := range recs {
		b.age++
		r.age = b.age
		if o := b.policies[r.ID]; o != nil {
			r.age = o.age
			old = append(old, o)
		}
		b.policies[r.ID] = r
	}
	old, recs = b.layWays(old, recs)
	b.exchange(old, recs)
	if err := b.settle(touched(old, recs)); err != nil {
		b.exchange(recs, old)
		b.discarded.add(recs, -1)
		b.discarded.add(old, 1)
		for _, r := range recs {
			delete(b.policies, r.ID)
		}
		for _, r := range old {
			b.policies[r.ID] = r
		}
		if again := b.settle(touched(old, recs)); again != nil {
			err = errors.Join(err, again)
		}
		return fmt.Errorf("policies: %w", refused(err))
	}
	for _, r := range old {
		if b.policies[r.ID] == nil {
			b.asking.forget(r.ID)
		}
	}
	return b.addrs.settle(old, recs)
}

// tunnels tells whether an entry protects in tunnel mode. Its selectors are looked at
// after the installation, for the routes of virtual addresses, and it has ways beside
// entries that discard.
func tunnels(p *spd.Policy) bool { return p.Action == spd.Protect && p.Mode == spd.Tunnel }

// exchange takes entries out of the lists of their keys and puts others in.
func (b *Backend) exchange(out, in []*policyRecord) {
	for _, r := range out {
		for _, k := range r.keys {
			if e := b.entries[k]; e != nil {
				e.remove(r)
			}
		}
		if set := b.byReqID[r.ReqID]; r.FailOpen && set != nil {
			if delete(set, r.ID); len(set) == 0 {
				delete(b.byReqID, r.ReqID)
			}
		}
	}
	for _, r := range in {
		for _, k := range r.keys {
			e := b.entries[k]
			if e == nil {
				e = &entry{}
				b.entries[k] = e
			}
			e.add(k, r)
		}
		if r.FailOpen && r.Action == spd.Protect {
			if b.byReqID[r.ReqID] == nil {
				b.byReqID[r.ReqID] = map[uint64]*policyRecord{}
			}
			b.byReqID[r.ReqID][r.ID] = r
		}
	}
}

func touched(lists ...[]*policyRecord) []policyKey {
	seen := map[policyKey]bool{}
	var keys []policyKey
	for _, list := range lists {
		for _, r := range list {
			for _, k := range r.keys {
				if !seen[k] {
					seen[k] = true
					keys = append(keys, k)
				}
			}
		}
	}
	return keys
}

// reopen settles the entries that fail open when SAs of their ReqID come or go.
func (b *Backend) reopen(reqID uint32) error {
	set := b.byReqID[reqID]
	if len(set) == 0 {
		return nil
	}
	list := make([]*policyRecord, 0, len(set))
	for _, r := range set {
		list = append(list, r)
	}
	return b.settle(touched(list))
}

// change is one step of settle.
type change struct {
	key   policyKey
	want  *kernelPolicy // nil: remove
	phase int
}

// phases of settle. At every moment between them a packet that is let pass in
// clear is one that the old entries let pass, or the new ones do: protection comes
// first and without loss of precedence, then the old openings close, then new ones
// open, and old protection goes last.
const (
	protect = iota
	closing
	lowering
	opening
	removing
)

func phase(have, want *kernelPolicy) int {
	switch {
	case want == nil && have.clear():
		return closing
	case want == nil:
		return removing
	case want.clear() && have != nil && have.clear() && want.priority > have.priority:
		return closing
	case want.clear():
		return opening
	case have != nil && !have.clear() && want.priority > have.priority:
		return lowering
	}
	return protect
}

// settle brings the kernel's policies under some keys to what they should be. Keys
// that have none any more are forgotten.
func (b *Backend) settle(keys []policyKey) error {
	var list []change
	for _, k := range keys {
		e := b.entries[k]
		if e == nil {
			continue
		}
		want := b.want(k, e)
		switch {
		case want == nil && e.have == nil:
			delete(b.entries, k)
		case want == nil || e.have == nil || !want.equal(e.have):
			list = append(list, change{k, want, phase(e.have, want)})
		}
	}
	slices.SortStableFunc(list, func(x, y change) int { return x.phase - y.phase })
	return b.carryOut(list)
}

func (b *Backend) carryOut(list []change) error {
	reqs := make([]request, len(list))
	for i, c := range list {
		if c.want == nil {
			reqs[i] = c.key.deletion()
			continue
		}
		b.journal.addPolicy(c.key)
		reqs[i] = request{wire.UpdPolicy, wire.FlagCreate, c.key.message(c.want)}
	}
	var first error
	for i, r := range b.req.do(reqs) {
		c := list[i]
		err := r.err
		if c.want == nil && gone(err) {
			err = nil
		}
		if err != nil {
			if first == nil {
				first = err
			}
			if c.want != nil && b.entries[c.key].have == nil {
				b.journal.removePolicy(c.key)
			}
			continue
		}
		e := b.entries[c.key]
		if e.have = c.want; c.want == nil {
			b.journal.removePolicy(c.key)
			if len(e.list) == 0 {
				delete(b.entries, c.key)
			}
		} else if len(e.list) > 0 {
			e.orphan = nil
		}
	}
	return first
}
