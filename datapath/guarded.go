package datapath

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"iked/datapath/guard"
	"iked/spd"
)

// guarded is a Router that also has the kernel drop clear text that arrives where
// the policies demand protection.
type guarded struct {
	Router
	guard *guard.Guard
	warn  func(string)
}

// Add guards the local selectors first: what cannot be guarded is still
// protected on its way out. A policy that fails open guards nothing: its peer
// answers in clear what was sent in clear.
func (r *guarded) Add(remote []netip.Prefix, local []spd.TS, open bool) error {
	if open {
		return r.Router.Add(remote, local, open)
	}
	if err := r.guard.Add(local); err != nil {
		r.warn(err.Error())
	}
	return toldOne{r}.Add(remote, local, open)
}

func (r *guarded) Remove(remote []netip.Prefix, local []spd.TS, open bool) error {
	err := r.Router.Remove(remote, local, open)
	if open {
		return err
	}
	return errors.Join(err, r.guard.Remove(local), r.guard.RemoveGroups(remote))
}

// toldOne is for policies whose selectors are told one by one (SetPasses): what
// comes from behind the tunnel to their local addresses is not dropped as a whole.
type toldOne struct{ *guarded }

func (r toldOne) Add(remote []netip.Prefix, local []spd.TS, open bool) error {
	if !open {
		if err := r.guard.AddGroups(remote); err != nil {
			r.warn(err.Error())
		}
	}
	return r.Router.Add(remote, local, open)
}

func (r toldOne) Remove(remote []netip.Prefix, local []spd.TS, open bool) error {
	err := r.Router.Remove(remote, local, open)
	if open {
		return err
	}
	return errors.Join(err, r.guard.RemoveGroups(remote))
}

// AddDelivered drops what arrives in clear for a group.
func (r *guarded) AddDelivered(group netip.Addr) error { return r.guard.AddDelivered(group) }

// RemoveDelivered takes that back.
func (r *guarded) RemoveDelivered(group netip.Addr) error { return r.guard.RemoveDelivered(group) }

// SetPasses lets through what policies let pass in clear.
func (r *guarded) SetPasses(list []guard.Pass) {
	if err := r.guard.SetPasses(list); err != nil {
		r.warn(err.Error())
	}
}

// passer is a Router that drops clear text and can be told what passes.
type passer interface{ SetPasses([]guard.Pass) }

// passes tells the guard which clear text is to arrive, and which is not, in the
// order of the policies: that of Bypass policies which none comes before whose
// selectors are not told themselves, and that which is protected between hosts; then
// the rest of what hosts say to each other. touched are the policies that came or went;
// most of them change nothing about it.
func (d *Datapath) passes(touched ...[]spd.Policy) {
	r, ok := d.io.Router.(passer)
	if !ok {
		return
	}
	top, changed := uint32(0), d.rests > 0
	for _, p := range d.bypasses {
		top = max(top, p.Priority)
	}
	for _, list := range touched {
		for i := range list {
			changed = changed || list[i].Action == spd.Bypass || told(&list[i]) || list[i].Priority <= top && len(d.bypasses) > 0
		}
	}
	if !changed {
		return
	}
	var list []ordered
	take := func(p *spd.Policy, drop bool) {
		if p.Dirs == spd.Outbound {
			return
		}
		for _, remote := range p.Remote {
			for _, local := range p.Local {
				if local.Is4() == remote.Is4() && (drop || d.firstFor(p, []spd.TS{local}, remote, told)) {
					list = append(list, ordered{p.Priority, guard.Pass{Local: local, Remote: remote, Drop: drop}})
				}
			}
		}
	}
	for _, p := range d.bypasses {
		take(&p, false)
	}
	for _, p := range d.policies {
		if told(&p) && !p.FailOpen {
			take(&p, true)
		}
	}
	list = append(list, d.restsIn()...)
	slices.SortFunc(list, ordered.compare)
	passes := make([]guard.Pass, len(list))
	for i := range list {
		passes[i] = list[i].Pass
	}
	r.SetPasses(passes)
}

// restsIn are what two hosts say to each other beside what is protected, where a tunnel
// has the same local address, so that all from behind the tunnel to it is dropped: the
// route to the host makes it look like that. What the tunnel itself has is dropped.
func (d *Datapath) restsIn() (list []ordered) {
	if d.rests == 0 {
		return nil
	}
	var whole []*spd.Policy // of which the guard knows the local addresses alone
	for _, p := range d.policies {
		if p.Action != spd.Bypass && !told(&p) && p.Dirs != spd.Outbound {
			whole = append(whole, &p)
		}
	}
	for _, p := range d.policies {
		q, ok := rest(&p)
		if !ok {
			continue
		}
		for _, remote := range q.Remote {
			for _, local := range q.Local {
				beside, has := false, false
				for _, o := range whole {
					if meet(o.Local, local) {
						beside, has = true, has || meet(o.Remote, remote)
					}
				}
				if beside && !has {
					list = append(list, ordered{q.Priority, guard.Pass{Local: local, Remote: remote}})
				}
			}
		}
	}
	return list
}

// ordered is a Pass with the priority of its policy.
type ordered struct {
	priority uint32
	guard.Pass
}

// compare orders them as their policies are; among equals what is dropped comes
// first.
func (a ordered) compare(b ordered) int {
	if a.priority == b.priority && a.Drop != b.Drop {
		if a.Drop {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.priority, b.priority), a.Local.From.Compare(b.Local.From), a.Remote.From.Compare(b.Remote.From),
		cmp.Compare(a.Local.Proto, b.Local.Proto), cmp.Compare(a.Local.PortFrom, b.Local.PortFrom), cmp.Compare(a.Remote.PortFrom, b.Remote.PortFrom))
}

func (r *guarded) Close() error { return errors.Join(r.Router.Close(), r.guard.Close()) }

// clearText says what happens to clear text that arrives where protection is
// demanded.
func (d *Datapath) clearText() string {
	if _, ok := d.io.Router.(*guarded); ok {
		return "clear text that arrives unprotected is dropped"
	}
	return "clear text that arrives unprotected is dropped by strict rp_filter only"
}

// exchangePorts are those of the key exchanges.
func exchangePorts(o Options) []uint16 {
	if len(o.Ports) > 0 {
		return o.Ports
	}
	return []uint16{500, 4500, 910}
}
