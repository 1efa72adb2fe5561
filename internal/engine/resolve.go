package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"iked/conf"
)

// resolveTimeout bounds one look-up of a name.
const resolveTimeout = 10 * time.Second

var errClosed = errors.New("the daemon is shutting down")

// addresses chooses the two ends of an attempt. Names are resolved now, every
// time. When a peer has several addresses, turn chooses among them, so that
// attempts go round. Those that a mobility manager told come before all.
func (e *Engine) addresses(c *conf.Connection, turn int) (local, remote netip.AddrPort, err error) {
	if local, remote, ok := e.kmEnds(c, nil); ok {
		return local, remote, nil
	}
	remotes, err := e.resolve(c.RemoteAddrs)
	if err != nil {
		return local, remote, fmt.Errorf("remote_addrs: %w", err)
	}
	if len(remotes) == 0 {
		return local, remote, errors.New("remote_addrs has no single address or name, so only the peer can initiate")
	}
	locals, err := e.resolve(c.LocalAddrs)
	if err != nil {
		return local, remote, fmt.Errorf("local_addrs: %w", err)
	}
	lport, rport := e.localPort(c), orPort(c.RemotePort, 500)
	var first error
	for i := range remotes {
		r := remotes[(turn+i)%len(remotes)]
		l, err := e.localFor(c, locals, r)
		if err == nil {
			return netip.AddrPortFrom(l, lport), netip.AddrPortFrom(r, rport), nil
		}
		if first == nil {
			first = err
		}
	}
	return local, remote, first
}

// localPort is the own port of a connection.
func (e *Engine) localPort(c *conf.Connection) uint16 {
	g := &e.config.Load().global
	if c.Version == conf.VersionKINK {
		return orPort(g.PortKINK, 910)
	}
	return orPort(c.LocalPort, orPort(g.Port, 500))
}

func orPort(p, other uint16) uint16 {
	if p != 0 {
		return p
	}
	return other
}

// localFor is the own address for a peer: the configured one of its family, or
// the one that the routes give; of a mobile node, the care-of address.
func (e *Engine) localFor(c *conf.Connection, locals []netip.Addr, remote netip.Addr) (netip.Addr, error) {
	for _, l := range locals {
		if l.Is4() == remote.Is4() {
			return l, nil
		}
	}
	if len(locals) > 0 {
		return netip.Addr{}, fmt.Errorf("local_addrs has no address of the family of %s", remote)
	}
	if e.opt.Routes == nil {
		return netip.Addr{}, fmt.Errorf("no own address for %s: give one in local_addrs", remote)
	}
	l, err := e.opt.Routes.LocalFor(remote)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no route to %s: %w", remote, err)
	}
	l = l.Unmap()
	if c.HasHome(l) {
		// RFC 4877, Section 4.1: away from home nothing comes back to the home address
		// before the binding that IKE is about to protect.
		if list := e.pathsTo(c, remote); len(list) > 0 {
			l = list[0]
		}
	}
	if len(c.LocalAddrs) > 0 && fit(c.LocalAddrs, l) == rankNone {
		return netip.Addr{}, fmt.Errorf("packets to %s leave from %s, which local_addrs does not allow", remote, l)
	}
	return l, nil
}

// resolve lists the single addresses of a list, names resolved. The error is
// that of the last name when nothing came of any entry.
func (e *Engine) resolve(list []conf.Host) ([]netip.Addr, error) {
	var out []netip.Addr
	var last error
	for _, h := range list {
		if a, ok := h.Addr(); ok {
			out = append(out, a)
			continue
		}
		if h.Name == "" {
			continue
		}
		addrs, err := e.lookUp(h.Name)
		if err != nil {
			last = err
			continue
		}
		out = append(out, addrs...)
	}
	if len(out) == 0 && last != nil {
		return nil, last
	}
	return out, nil
}

func (e *Engine) lookUp(name string) ([]netip.Addr, error) {
	if e.opt.Resolver == nil {
		return nil, fmt.Errorf("name %s cannot be resolved: there is no resolver", name)
	}
	ctx, cancel := context.WithTimeout(e.ctx, resolveTimeout)
	defer cancel()
	addrs, err := e.opt.Resolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, fmt.Errorf("name %s cannot be resolved: %w", name, err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("name %s has no address", name)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}
