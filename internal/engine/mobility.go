package engine

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"iked/conf"
	"iked/ikev2"
)

// Paths is implemented by Routes that know all own addresses from which packets
// reach a peer, the best first.
type Paths interface {
	Paths(remote netip.Addr) ([]netip.Addr, error)
}

// virtual are the virtual addresses of this host, which are inside of tunnels, and
// the own addresses as they were last looked at.
type virtual struct {
	mu   sync.Mutex
	uses map[netip.Addr]int
	own  []netip.Addr
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
func (v *virtual) addresses(now time.Time, look func() ([]netip.Prefix, error)) []netip.Addr {
	v.mu.Lock()
	defer v.mu.Unlock()
	if age := now.Sub(v.at); v.at.IsZero() || age < 0 || age >= ownFresh {
		list, err := look()
		if err != nil {
			return v.own
		}
		v.own, v.at = nil, now
		for _, p := range list {
			if a := p.Addr().Unmap().WithZone(""); a.IsGlobalUnicast() {
				v.own = append(v.own, a)
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(v.own), func(a netip.Addr) bool { return v.uses[a] > 0 })
}

func (v *virtual) stale() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at = time.Time{}
}

// lookAround tells the IKE SAs that the network is another one.
func (e *Engine) lookAround() {
	e.virtual.stale()
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
// of them packets reach the peer's. What a child of the connection has behind it is
// no address where a peer could reach this host.
func (e *Engine) findPaths(w ikev2.FindPaths) ikev2.PathsReply {
	var r ikev2.PathsReply
	c, ok := w.Config.Ref.(*conf.Connection)
	if !ok || e.opt.Routes == nil {
		return ikev2.PathsReply{Unknown: true}
	}
	if own, ok := e.opt.Routes.(Addresses); ok {
		for _, a := range e.virtual.addresses(time.Now(), own.Own) {
			if allowed(c, a) && !behind(c, a) {
				r.Own = append(r.Own, a)
			}
		}
	}
	for _, to := range w.Remotes {
		for _, a := range e.pathsTo(c, to) {
			r.Paths = append(r.Paths, ikev2.Path{Local: a, Remote: to})
		}
	}
	return r
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
	return slices.DeleteFunc(list, func(a netip.Addr) bool { return !allowed(c, a) || e.virtual.has(a) })
}

// allowed tells whether the configuration lets a connection be at an own address.
func allowed(c *conf.Connection, a netip.Addr) bool {
	return len(c.LocalAddrs) == 0 || fit(c.LocalAddrs, a) != rankNone
}

// behind tells whether an own address is that of an inner network: one of the local
// selectors has it, and is not for everything.
func behind(c *conf.Connection, a netip.Addr) bool {
	for _, ch := range c.Children {
		for _, t := range ch.Local {
			if !t.Dynamic && t.Contains(a) && t.From != t.To && !(t.From.IsUnspecified()) {
				return true
			}
		}
	}
	return false
}
