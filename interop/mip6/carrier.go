package mip6

import (
	"context"
	"errors"
	"net/netip"

	"iked/internal/testnet"
)

// Carrier lets packets between the home address and a peer of the mobile node travel to
// its care-of address.
type Carrier interface {
	// Set says where the mobile node is.
	Set(careOf netip.Addr) error
}

// Routes carry them where the kernel has no Mobile IPv6: the router knows the way of what
// the home agent and the correspondent send to the home address, and the home agent that it
// is not on the home link. In IPv4 the way that was there before stays.
type Routes struct{ Scene *Scene }

// table is that of the router for this way.
const table = "77"

// Set implements Carrier.
func (r Routes) Set(careOf netip.Addr) error {
	if !careOf.Is6() {
		return nil
	}
	ip := func(ns *testnet.Namespace, args ...string) error {
		_, err := ns.Run(context.Background(), append([]string{"ip", "-6"}, args...)...)
		return err
	}
	home := Home.String() + "/128"
	var err error
	for _, from := range []netip.Addr{Agent, Correspondent} {
		// One that was not there is no fault.
		_ = ip(r.Scene.Router, "rule", "delete", "from", from.String(), "lookup", table)
		if careOf != Home {
			err = errors.Join(err, ip(r.Scene.Router, "rule", "add", "from", from.String(), "lookup", table))
		}
	}
	if careOf == Home {
		return errors.Join(err, ip(r.Scene.Agent, "route", "delete", home))
	}
	return errors.Join(err, ip(r.Scene.Router, "route", "replace", home, "via", careOf.String(), "table", table), ip(r.Scene.Agent, "route", "replace", home, "via", "2001:db8:f::fe"))
}
