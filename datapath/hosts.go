package datapath

import (
	"math"
	"net/netip"
	"slices"

	"iked/spd"
)

// betweenHosts tells whether a policy protects in transport mode: some of what two
// hosts say to each other, by their real addresses. The rest passes in clear, as
// it does where the kernel protects.
func betweenHosts(p *spd.Policy) bool {
	return p.Action == spd.Protect && p.Mode == spd.Transport &&
		!slices.ContainsFunc(p.Bundle, func(t spd.Template) bool { return t.Mode != spd.Transport })
}

// narrow tells whether selectors leave protocols or ports out.
func narrow(list []spd.TS) bool {
	return slices.ContainsFunc(list, func(ts spd.TS) bool { return ts.Proto != 0 || !ts.AnyPort() })
}

// told tells whether the guard is given the selectors of a policy one by one: those
// of a network take all that comes from behind a tunnel, those of hosts or of a
// protocol only what they name.
func told(p *spd.Policy) bool {
	return betweenHosts(p) || p.Action == spd.Discard && (narrow(p.Local) || narrow(p.Remote))
}

// router is who is told of the routes of a policy.
func (d *Datapath) router(p *spd.Policy) Router {
	if g, ok := d.io.Router.(*guarded); ok && told(p) {
		return toldOne{g}
	}
	return d.io.Router
}

// restOf marks the ID of the entry that lets the rest pass: owners of policies
// count from 1 or from 1<<63.
const restOf = 1 << 62

// rest is the entry behind all others for what two hosts say to each other outside
// of a policy's protocols and ports: the route to the peer brings it to the device,
// and it leaves in clear.
func rest(p *spd.Policy) (spd.Policy, bool) {
	if !betweenHosts(p) || !narrow(p.Local) && !narrow(p.Remote) {
		return spd.Policy{}, false
	}
	return spd.Policy{ID: p.ID | restOf, Name: p.Name, Action: spd.Bypass, Priority: math.MaxUint32,
		Local: addresses(p.Local), Remote: addresses(p.Remote)}, true
}

func addresses(list []spd.TS) []spd.TS {
	out := make([]spd.TS, len(list))
	for i, ts := range list {
		out[i] = spd.TS{From: ts.From, To: ts.To, PortTo: 65535}
	}
	return spd.Minimize(out)
}

// withRest adds to a change of the table what it means for the entries of the rest.
func (d *Datapath) withRest(remove []uint64, add []spd.Policy) (gone []uint64, all []spd.Policy) {
	gone, all = remove, add
	drop := func(id uint64) {
		if p, ok := d.policies[id]; ok {
			if r, ok := rest(&p); ok {
				gone = append(gone[:len(gone):len(gone)], r.ID)
			}
		}
	}
	for _, id := range remove {
		drop(id)
	}
	for i := range add {
		if r, ok := rest(&add[i]); ok {
			all = append(all[:len(all):len(all)], r)
		} else {
			drop(add[i].ID)
		}
	}
	return gone, all
}

// ownInner are the inner addresses of this host that a policy in BEET mode binds.
func ownInner(p *spd.Policy) (out []netip.Addr) {
	if p.Action != spd.Protect || p.Mode != spd.BEET {
		return nil
	}
	for _, ts := range p.Local {
		if ts.IsHost() && !slices.Contains(out, ts.From) {
			out = append(out, ts.From)
		}
	}
	return out
}
