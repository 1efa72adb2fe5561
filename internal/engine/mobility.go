package engine

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"iked/conf"
	"iked/ikev2"
)

// Paths is implemented by Routes that know all own addresses, and from which of them
// packets reach a peer, the best first.
type Paths interface {
	Addresses() ([]OwnAddress, error)
	Paths(remote netip.Addr) ([]netip.Addr, error)
}

// OwnAddress is an address of this host.
type OwnAddress struct {
	Addr netip.Addr
	Link int // its number
	// Leads: a default route of its family goes over its link.
	Leads bool
}

// virtual are the virtual addresses of this host, which are inside of tunnels, and
// the own addresses as they were last looked at.
type virtual struct {
	mu   sync.Mutex
	uses map[netip.Addr]int
	own  []OwnAddress
	at   time.Time
}

// ownFresh is how long the list of own addresses is good for: a thousand peers come
// at once, and each is told of them.
const ownFresh = time.Second

func (v *virtual) add(a netip.Addr, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.uses == nil {
		v.uses = map[netip.Addr]int{}
	}
	if v.uses[a] += n; v.uses[a] <= 0 {
		delete(v.uses, a)
	}
}

func (v *virtual) has(a netip.Addr) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.uses[a] > 0
}

// addresses are the own ones, by look when they are not fresh.
func (v *virtual) addresses(now time.Time, look func() ([]OwnAddress, error)) []OwnAddress {
	v.mu.Lock()
	defer v.mu.Unlock()
	if age := now.Sub(v.at); v.at.IsZero() || age < 0 || age >= ownFresh {
		list, err := look()
		if err != nil {
			return v.own
		}
		v.own, v.at = list, now
	}
	return slices.DeleteFunc(slices.Clone(v.own), func(a OwnAddress) bool { return v.uses[a.Addr] > 0 || !a.Addr.IsGlobalUnicast() })
}

func (v *virtual) stale() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at = time.Time{}
}

// lookAround tells the IKE SAs that the network is another one. What stands for the
// address of this host itself stands for the new one before any of them moves.
func (e *Engine) lookAround() {
	e.virtual.stale()
	e.sup.post(func() { e.sup.restand() })
	for _, s := range e.shards {
		s.do(func(s *shard) {
			for _, x := range s.all() {
				if x.up && !x.v1 {
					s.start(x, ikev2.NetworkChanged{})
				}
			}
		})
	}
}

// findPaths answers which addresses this host has for a connection, and from which
// of them packets reach the peer's.
func (e *Engine) findPaths(w ikev2.FindPaths) ikev2.PathsReply {
	var r ikev2.PathsReply
	c, ok := w.Config.Ref.(*conf.Connection)
	if !ok || e.opt.Routes == nil {
		return ikev2.PathsReply{Unknown: true}
	}
	r.Own = e.outside(c, w.Local)
	for _, to := range w.Remotes {
		for _, a := range e.pathsTo(c, to) {
			if _, ok := e.opt.Routes.(Paths); !ok || slices.Contains(r.Own, a) {
				r.Paths = append(r.Paths, ikev2.Path{Local: a, Remote: to})
			}
		}
	}
	return r
}

// outside are the own addresses of a connection at which a peer may be able to reach
// it, when local is in use. Where no way leads out no peer comes in; what is on the link
// in use is as good as that, and what the configuration names is meant.
func (e *Engine) outside(c *conf.Connection, local netip.Addr) (out []netip.Addr) {
	own, ok := e.opt.Routes.(Paths)
	if !ok {
		return nil
	}
	list := e.virtual.addresses(time.Now(), own.Addresses)
	link := 0
	for _, a := range list {
		if a.Addr == local {
			link = a.Link
		}
	}
	for _, a := range list {
		if allowed(c, a.Addr) && (a.Leads || a.Link == link || named(c, a.Addr)) {
			out = append(out, a.Addr)
		}
	}
	return abroad(c, out, local)
}

// abroad leaves the home addresses of a mobile node out of own addresses, except the
// one in use and what the configuration names, as long as others are left: else the
// node is at home.
func abroad(c *conf.Connection, list []netip.Addr, local netip.Addr) []netip.Addr {
	away := slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return a != local && c.HasHome(a) && !named(c, a) })
	if len(away) == 0 {
		return list
	}
	return away
}

// pathsTo are the own addresses from which packets of a connection reach a peer.
func (e *Engine) pathsTo(c *conf.Connection, to netip.Addr) []netip.Addr {
	var list []netip.Addr
	switch routes := e.opt.Routes.(type) {
	case Paths:
		list, _ = routes.Paths(to) // no way: none
	default:
		if a, err := routes.LocalFor(to); err == nil {
			list = []netip.Addr{a.Unmap()}
		}
	}
	list = slices.DeleteFunc(list, func(a netip.Addr) bool { return !allowed(c, a) || e.virtual.has(a) })
	return abroad(c, list, netip.Addr{})
}

// allowed tells whether the configuration lets a connection be at an own address.
func allowed(c *conf.Connection, a netip.Addr) bool {
	return len(c.LocalAddrs) == 0 || fit(c.LocalAddrs, a) != rankNone
}

// named tells whether the configuration has an own address by itself.
func named(c *conf.Connection, a netip.Addr) bool {
	return slices.ContainsFunc(c.LocalAddrs, func(h conf.Host) bool { x, one := h.Addr(); return one && x == a })
}

// restand puts the standing entries of children that are for the addresses of the hosts
// themselves in place again: these may be others now.
func (p *supervisor) restand() {
	if p.stopped {
		return
	}
	for _, c := range p.conns {
		for _, k := range c.kids {
			dynamic := func(t conf.TS) bool { return t.Dynamic }
			if k.ike != nil && (slices.ContainsFunc(k.conf.Local, dynamic) || slices.ContainsFunc(k.conf.Remote, dynamic)) {
				p.stand(c, k)
			}
		}
	}
}
