package engine

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"sync"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/ident"
	"iked/internal/trace"
)

// Attribute types that the engine itself reads (RFC 7296, Section 3.15.1).
const (
	attrIP4DNS = 3
	attrIP6DNS = 10
)

// pools gives virtual addresses to peers (RFC 7296, Section 2.19). A peer gets
// the address again that it had, after a restart of either side as well, until
// the pool runs out of fresh ones.
type pools struct {
	mu     sync.Mutex
	byName map[string]*pool
	fixed  map[netip.Addr]*pool // addresses of users that no pool has
	owners map[uint64][]held    // IKE SA → what it holds
	store  Store
	warnf  func(trace.Group, string, ...any)
	dirty  bool
	timer  *time.Timer
}

// held is one address that an IKE SA holds.
type held struct {
	pool *pool
	off  uint64
}

type pool struct {
	conf   *conf.Pool
	leases map[uint64]*lease
	byPeer map[ident.ID][]uint64
	next   uint64 // no offset from here on was ever given
}

// lease binds an address to an identity. It is online while IKE SAs hold it.
type lease struct {
	peer   ident.ID
	owners []uint64
	last   time.Time // when it was given or came back
}

// maxOffline bounds what is remembered of peers that left, per pool.
const maxOffline = 1 << 16

func newPools(store Store, warnf func(trace.Group, string, ...any)) *pools {
	return &pools{byName: make(map[string]*pool), fixed: make(map[netip.Addr]*pool), owners: make(map[uint64][]held), store: store, warnf: warnf}
}

// set makes list the pools there are. Pools of the same name, base and size keep
// their leases; one with online leases that changed or is gone stays as long as
// these do.
func (p *pools) set(list []*conf.Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := make(map[string]*pool, len(list))
	var fresh []*pool
	for _, c := range list {
		if old := p.byName[c.Name]; old != nil && old.conf.Base == c.Base && old.conf.Size == c.Size {
			old.conf = c
			next[c.Name] = old
			continue
		}
		n := &pool{conf: c, leases: make(map[uint64]*lease), byPeer: make(map[ident.ID][]uint64)}
		next[c.Name] = n
		fresh = append(fresh, n)
	}
	p.byName = next
	if len(fresh) > 0 {
		p.restore(fresh)
	}
}

// online tells how many leases of a pool are in use.
func (p *pools) online(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.byName[name]
	if q == nil {
		return 0
	}
	n := 0
	for _, l := range q.leases {
		if len(l.owners) > 0 {
			n++
		}
	}
	return n
}

// assign answers what a peer asks for: an address for each family that it
// wants, and the attributes of the pools of its connection.
func (p *pools) assign(owner uint64, w ikev2.AssignAddress) ikev2.AddressReply {
	p.mu.Lock()
	defer p.mu.Unlock()
	var r ikev2.AddressReply
	var full []string
	// A family that no pool has is simply not answered (RFC 7296, Section 3.15.4).
	for _, want := range w.Wanted {
		if f := w.Fixed; f.IsValid() && f.Is4() == want.Unmap().Is4() && len(w.Config.Pools) > 0 {
			if r.Err = p.giveFixed(owner, w); r.Err != nil {
				return ikev2.AddressReply{Err: r.Err}
			}
			r.Addrs = append(r.Addrs, netip.PrefixFrom(f, f.BitLen()))
			w.Fixed = netip.Addr{} // once
			continue
		}
		for _, name := range w.Config.Pools {
			q := p.byName[name]
			if q == nil || q.conf.Size == 0 || q.conf.Base.Is4() != want.Unmap().Is4() {
				continue
			}
			off, ok := q.take(w.Peer, want.Unmap(), owner)
			if !ok {
				full = append(full, name)
				continue
			}
			p.owners[owner] = append(p.owners[owner], held{q, off})
			a := addrAt(q.conf.Base, off)
			r.Addrs = append(r.Addrs, netip.PrefixFrom(a, a.BitLen()))
			break
		}
	}
	if len(w.Wanted) > 0 && len(r.Addrs) == 0 {
		switch {
		case len(full) > 0:
			r.Err = fmt.Errorf("pool %v is used up", full)
		case len(w.Config.Pools) == 0:
			r.Err = fmt.Errorf("connection %s has no pools, and the peer asks for a virtual address", w.Config.Name)
		default:
			r.Err = fmt.Errorf("no pool of %v has addresses of the family that the peer asks for", w.Config.Pools)
		}
		return r
	}
	p.touch()
	for _, name := range w.Config.Pools {
		q := p.byName[name]
		if q == nil {
			continue
		}
		for _, a := range q.conf.Attrs {
			if addr, ok := netip.AddrFromSlice(a.Value); ok && (a.Type == attrIP4DNS || a.Type == attrIP6DNS) {
				if !slices.Contains(r.DNS, addr) {
					r.DNS = append(r.DNS, addr)
				}
				continue
			}
			if !slices.ContainsFunc(r.Others, func(o ikev2.Attribute) bool { return o.Type == a.Type && bytes.Equal(o.Value, a.Value) }) {
				r.Others = append(r.Others, ikev2.Attribute{Type: a.Type, Value: a.Value})
			}
		}
	}
	return r
}

// giveFixed gives a peer the address that its user has: one of a pool, or one that
// none has and that is a pool of its own then. Two peers never have it at a time.
func (p *pools) giveFixed(owner uint64, w ikev2.AssignAddress) error {
	var q *pool
	off := uint64(0)
	for _, one := range p.byName {
		if o, ok := offsetOf(one.conf.Base, w.Fixed, one.conf.Size); ok {
			q, off = one, o
			break
		}
	}
	if q == nil {
		maps.DeleteFunc(p.fixed, func(_ netip.Addr, q *pool) bool { return q.leases[0] == nil || len(q.leases[0].owners) == 0 })
		if q = p.fixed[w.Fixed]; q == nil {
			q = &pool{conf: &conf.Pool{Base: w.Fixed, Size: 1}, leases: make(map[uint64]*lease), byPeer: make(map[ident.ID][]uint64)}
			p.fixed[w.Fixed] = q
		}
	}
	if l := q.leases[off]; l != nil && l.peer != w.Peer {
		if len(l.owners) > 0 {
			return fmt.Errorf("the address %v of %v is in use by %v", w.Fixed, w.Peer, l.peer)
		}
		q.forget(off)
	}
	q.give(off, w.Peer, owner)
	p.owners[owner] = append(p.owners[owner], held{q, off})
	return nil
}

// take finds an offset for a peer: the address that it asks for, if it is its
// own; one that it had; a fresh one; at last the one that was left longest ago.
func (q *pool) take(peer ident.ID, want netip.Addr, owner uint64) (uint64, bool) {
	mine := q.byPeer[peer]
	if off, ok := offsetOf(q.conf.Base, want, q.conf.Size); ok && slices.Contains(mine, off) {
		return q.give(off, peer, owner), true
	}
	for _, off := range mine {
		if len(q.leases[off].owners) == 0 {
			return q.give(off, peer, owner), true
		}
	}
	for q.next < q.conf.Size {
		off := q.next
		q.next++
		if q.leases[off] == nil {
			return q.give(off, peer, owner), true
		}
	}
	oldest, found := uint64(0), false
	for off, l := range q.leases {
		if len(l.owners) == 0 && (!found || l.last.Before(q.leases[oldest].last)) {
			oldest, found = off, true
		}
	}
	if !found {
		return 0, false
	}
	q.forget(oldest)
	return q.give(oldest, peer, owner), true
}

func (q *pool) give(off uint64, peer ident.ID, owner uint64) uint64 {
	l := q.leases[off]
	if l == nil {
		l = &lease{peer: peer}
		q.leases[off] = l
		q.byPeer[peer] = append(q.byPeer[peer], off)
	}
	l.owners = append(l.owners, owner)
	l.last = time.Now()
	return off
}

func (q *pool) forget(off uint64) {
	l := q.leases[off]
	delete(q.leases, off)
	list := slices.DeleteFunc(q.byPeer[l.peer], func(o uint64) bool { return o == off })
	if len(list) == 0 {
		delete(q.byPeer, l.peer)
	} else {
		q.byPeer[l.peer] = list
	}
}

func (q *pool) free(off uint64, owner uint64) {
	l := q.leases[off]
	if l == nil {
		return
	}
	if i := slices.Index(l.owners, owner); i >= 0 {
		l.owners = slices.Delete(l.owners, i, i+1)
		l.last = time.Now()
	}
}

// release gives back addresses of an IKE SA; the lease is remembered.
func (p *pools) release(owner uint64, addrs []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owners[owner] = slices.DeleteFunc(p.owners[owner], func(h held) bool {
		if !slices.Contains(addrs, addrAt(h.pool.conf.Base, h.off)) {
			return false
		}
		h.pool.free(h.off, owner)
		return true
	})
	if len(p.owners[owner]) == 0 {
		delete(p.owners, owner)
	}
	p.touch()
}

// releaseAll gives back all that an IKE SA holds.
func (p *pools) releaseAll(owner uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list, ok := p.owners[owner]
	if !ok {
		return
	}
	for _, h := range list {
		h.pool.free(h.off, owner)
	}
	delete(p.owners, owner)
	p.touch()
}

// transfer hands what an IKE SA holds to its successor.
func (p *pools) transfer(from, to uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list, ok := p.owners[from]
	if !ok {
		return
	}
	for _, h := range list {
		if l := h.pool.leases[h.off]; l != nil {
			for i := range l.owners {
				if l.owners[i] == from {
					l.owners[i] = to
				}
			}
		}
	}
	delete(p.owners, from)
	p.owners[to] = append(p.owners[to], list...)
}

// PoolInfo is a pool as the control protocol shows it.
type PoolInfo struct {
	Name            string
	Base            netip.Addr
	Size            uint64
	Online, Offline int
	Leases          []LeaseInfo
}

// LeaseInfo is one lease.
type LeaseInfo struct {
	Addr   netip.Addr
	Peer   ident.ID
	Online bool
}

// Pools lists the pools, all or the one named, with their leases if wanted.
func (e *Engine) Pools(name string, leases bool) []PoolInfo {
	p := e.pools
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []PoolInfo
	for n, q := range p.byName {
		if name != "" && n != name {
			continue
		}
		info := PoolInfo{Name: n, Base: q.conf.Base, Size: q.conf.Size}
		for off, l := range q.leases {
			on := len(l.owners) > 0
			if on {
				info.Online++
			} else {
				info.Offline++
			}
			if leases {
				info.Leases = append(info.Leases, LeaseInfo{addrAt(q.conf.Base, off), l.peer, on})
			}
		}
		slices.SortFunc(info.Leases, func(a, b LeaseInfo) int { return a.Addr.Compare(b.Addr) })
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b PoolInfo) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// addrAt is base + off.
func addrAt(base netip.Addr, off uint64) netip.Addr {
	n := new(big.Int).SetBytes(base.AsSlice())
	n.Add(n, new(big.Int).SetUint64(off))
	b := make([]byte, base.BitLen()/8)
	n.FillBytes(b)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// offsetOf is a − base if that is within size.
func offsetOf(base, a netip.Addr, size uint64) (uint64, bool) {
	if a.BitLen() != base.BitLen() || a.Less(base) {
		return 0, false
	}
	n := new(big.Int).SetBytes(a.AsSlice())
	n.Sub(n, new(big.Int).SetBytes(base.AsSlice()))
	if !n.IsUint64() || n.Uint64() >= size {
		return 0, false
	}
	return n.Uint64(), true
}
