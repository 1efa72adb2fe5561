package datapath

import (
	"errors"
	"net/netip"
	"testing"

	"iked/spd"
)

// hostRouter counts the addresses that policies need, and refuses one of them, or
// routes.
type hostRouter struct {
	Router
	hosts  map[netip.Addr]int
	routes int
	refuse netip.Addr
	full   bool
}

var errRefused = errors.New("refused")

func (r *hostRouter) AddHost(a netip.Addr) error {
	if a == r.refuse {
		return errRefused
	}
	r.hosts[a]++
	return nil
}

func (r *hostRouter) RemoveHost(a netip.Addr) error {
	if r.hosts[a]--; r.hosts[a] == 0 {
		delete(r.hosts, a)
	}
	return nil
}

func (r *hostRouter) SetNear(_ []spd.TS, on bool) error {
	if on {
		r.routes++
	} else {
		r.routes--
	}
	return nil
}

func (r *hostRouter) Add([]netip.Prefix, []spd.TS, bool) error {
	r.routes++
	if r.full {
		return errRefused
	}
	return nil
}

func (r *hostRouter) Remove([]netip.Prefix, []spd.TS, bool) error {
	r.routes--
	return nil
}

// A policy that the router refuses leaves nothing of itself, and takes nothing away that
// others have: neither the address that was refused nor those behind it were added.
func TestRefusedPolicyLeavesTheRestAlone(t *testing.T) {
	host := func(s string) spd.TS { return spd.Host(netip.MustParseAddr(s)) }
	policy := func(id uint64, local ...spd.TS) spd.Policy {
		return spd.Policy{ID: id, Name: "p", Action: spd.Protect, Mode: spd.BEET, ReqID: 1, Local: local, Remote: []spd.TS{host("10.2.0.1")}}
	}
	for _, full := range []bool{false, true} {
		r := &hostRouter{hosts: map[netip.Addr]int{}}
		d := &Datapath{}
		d.io.Router = r
		standing := policy(1, host("10.1.0.1"), host("10.1.0.2"), host("10.1.0.3"))
		if err := d.addRoutes(&standing); err != nil {
			t.Fatal(err)
		}
		if r.full = full; !full {
			r.refuse = netip.MustParseAddr("10.1.0.2")
		}
		if err := d.applyPolicies(nil, []spd.Policy{policy(2, host("10.1.0.1"), host("10.1.0.2"), host("10.1.0.3"))}); !errors.Is(err, errRefused) {
			t.Errorf("error %v", err)
		}
		if len(r.hosts) != 3 || r.hosts[netip.MustParseAddr("10.1.0.1")] != 1 || r.hosts[netip.MustParseAddr("10.1.0.3")] != 1 || r.routes != 2 {
			t.Errorf("full %t: addresses %v and %d routes, expected those of the policy that stands", full, r.hosts, r.routes)
		}
	}
}
