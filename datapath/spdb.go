package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"iked/internal/backend"
	"iked/spd"
)

// ApplyPolicies implements backend.SPDB. Routes of a new policy come before it
// and those of an old one go behind it, so that its traffic meets a policy or
// the default, which drops, but never the clear way.
func (d *Datapath) ApplyPolicies(remove []uint64, add []spd.Policy) error {
	if err := d.applyPolicies(remove, add); err != nil {
		return err
	}
	// An SA that is there already carries what waited; one that is yet to come sends
	// it itself.
	if len(add) > 0 {
		d.release(0)
	}
	return nil
}

func (d *Datapath) applyPolicies(remove []uint64, add []spd.Policy) error {
	if d.closed.Load() {
		return backend.ErrClosed
	}
	for i := range add {
		if err := backend.CheckPolicy(&add[i]); err != nil {
			return err
		}
		if err := unbound("policy "+add[i].Name, add[i].IfID, add[i].Mark, add[i].MarkIn); err != nil {
			return err
		}
		if err := checkBundle(&add[i]); err != nil {
			return err
		}
		if add[i].Dirs == spd.Inbound {
			return fmt.Errorf("policy %s: the userspace datapath sees clear packets on their way out only; an entry for the other way needs the kernel backend or a firewall: %w", add[i].Name, backend.ErrUnsupported)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range add {
		if err := d.addRoutes(&add[i]); err != nil {
			var undo error
			for j := range i {
				undo = errors.Join(undo, d.removeRoutes(&add[j]))
			}
			return fmt.Errorf("policy %s: %w", add[i].Name, errors.Join(err, undo))
		}
	}
	gone, all := d.withRest(remove, add)
	if err := d.table.Apply(gone, all); err != nil {
		for i := range add {
			err = errors.Join(err, d.removeRoutes(&add[i]))
		}
		return fmt.Errorf("%w: %w", err, backend.ErrInvalid)
	}
	d.gen.Add(1)
	var old []spd.Policy
	for _, id := range remove {
		if p, ok := d.policies[id]; ok {
			old = append(old, p)
			delete(d.policies, id)
			delete(d.bypasses, id)
			d.lost(d.acquires.forget(id))
		}
	}
	for i := range add {
		if p, ok := d.policies[add[i].ID]; ok {
			old = append(old, p)
		}
		d.policies[add[i].ID] = add[i]
		delete(d.bypasses, add[i].ID)
		if add[i].Action == spd.Bypass {
			d.bypasses[add[i].ID] = add[i]
		}
		d.count(&add[i], 1)
	}
	for i := range old {
		d.count(&old[i], -1)
	}
	var err error
	for i := range old {
		err = errors.Join(err, d.removeRoutes(&old[i]))
	}
	err = errors.Join(err, d.throws())
	d.passes(old, add)
	if err != nil {
		// The policies are in force; a route that stays drops, it does not leak.
		d.warn("routes: %v", err)
	}
	return nil
}

// addRoutes adds all of a policy's or nothing.
func (d *Datapath) addRoutes(p *spd.Policy) error {
	if p.Action == spd.Bypass || d.io.Router == nil {
		return nil
	}
	// The address first: a route prefers it as the source.
	own := ownInner(p)
	for i, a := range own {
		if err := d.io.Router.AddHost(a); err != nil {
			// Others may need the addresses that were not reached.
			return errors.Join(err, d.removeHosts(own[:i]))
		}
	}
	err := errors.Join(d.border(p, true), d.router(p).Add(spd.Prefixes(p.Remote), p.Local, p.FailOpen))
	if err != nil {
		// Both count what they were told also where the kernel refused some of it.
		err = errors.Join(err, d.removeRoutes(p))
	}
	return err
}

// border tells on which side of the boundary the selectors of a policy are.
func (d *Datapath) border(p *spd.Policy, on bool) error {
	if p.Action == spd.Discard {
		return d.io.Router.SetDiscard(spd.Prefixes(p.Remote), on)
	}
	return d.io.Router.SetNear(p.Local, on)
}

func (d *Datapath) removeRoutes(p *spd.Policy) error {
	if p.Action == spd.Bypass || d.io.Router == nil {
		return nil
	}
	err := errors.Join(d.router(p).Remove(spd.Prefixes(p.Remote), p.Local, p.FailOpen), d.border(p, false))
	return errors.Join(err, d.removeHosts(ownInner(p)))
}

func (d *Datapath) removeHosts(list []netip.Addr) (err error) {
	for _, a := range list {
		err = errors.Join(err, d.io.Router.RemoveHost(a))
	}
	return err
}

// throws lets the kernel route what a Bypass policy lets pass as a whole. A
// route knows the remote address only, so this is for policies that leave all
// else open and that no other policy comes before; the rest comes to the device
// and is sent from there.
func (d *Datapath) throws() error {
	if d.io.Router == nil {
		return nil
	}
	var list []netip.Prefix
	for _, p := range d.bypasses {
		if !wide(p.Local) {
			continue
		}
		for _, ts := range p.Remote {
			if ts.Proto == 0 && ts.AnyPort() && d.firstFor(&p, p.Local, ts, nil) {
				list = ts.AppendPrefixes(list)
			}
		}
	}
	return d.io.Router.SetThrows(list)
}

// wide tells whether selectors leave the whole of every family that they name
// open.
func wide(list []spd.TS) bool {
	for _, ts := range list {
		p := ts.AppendPrefixes(nil)
		if ts.Proto != 0 || !ts.AnyPort() || len(p) != 1 || p[0].Bits() != 0 {
			return false
		}
	}
	return true
}

// firstFor tells whether no other policy comes before p for traffic between one of
// local and remote, apart from those that except names.
func (d *Datapath) firstFor(p *spd.Policy, local []spd.TS, remote spd.TS, except func(*spd.Policy) bool) bool {
	for _, o := range d.policies {
		if o.ID == p.ID || o.Action == spd.Bypass || o.Priority > p.Priority || except != nil && except(&o) {
			continue
		}
		if meet(o.Remote, remote) && slices.ContainsFunc(local, func(l spd.TS) bool { return meet(o.Local, l) }) {
			return false
		}
	}
	return true
}

// meet tells whether selectors have traffic in common with another.
func meet(list []spd.TS, ts spd.TS) bool {
	return slices.ContainsFunc(list, func(o spd.TS) bool { _, ok := spd.Intersect(o, ts); return ok })
}

// named tells whether selectors name ports or message types.
func named(list []spd.TS) bool {
	return slices.ContainsFunc(list, func(ts spd.TS) bool { return !ts.AnyPort() })
}

// needsWhole tells whether a policy can only be applied to whole packets: it
// names ports, or its mode protects no fragments (RFC 4303, Section 3.3.4).
func needsWhole(p *spd.Policy) bool {
	return named(p.Local) || named(p.Remote) || p.Action == spd.Protect && p.Mode != spd.Tunnel
}

func (d *Datapath) count(p *spd.Policy, n int64) {
	if needsWhole(p) {
		d.whole.Add(n)
	}
	if len(p.Bundle) > 0 {
		d.bundles.Add(n)
	}
	if _, ok := rest(p); ok {
		d.rests += int(n)
	}
}
