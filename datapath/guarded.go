package datapath

import (
	"errors"
	"net/netip"

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
	return r.Router.Add(remote, local, open)
}

func (r *guarded) Remove(remote []netip.Prefix, local []spd.TS, open bool) error {
	err := r.Router.Remove(remote, local, open)
	if open {
		return err
	}
	return errors.Join(err, r.guard.Remove(local))
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

// ikePorts are those that IKE uses, as far as the options tell.
func ikePorts(o Options) []uint16 {
	if u, ok := o.UDP.(interface{ Ports() (ike, natt uint16) }); ok {
		ike, natt := u.Ports()
		return []uint16{ike, natt}
	}
	return []uint16{500, 4500}
}
