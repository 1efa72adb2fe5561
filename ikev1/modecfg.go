package ikev1

import (
	"net/netip"
	"slices"
	"time"

	"iked/ikev1/message"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// Mode Config (draft-dukes-ike-mode-cfg): virtual addresses. The client pulls them
// with a request, or the server pushes them with a set.

// Bounds on what Mode Config may make the other side keep.
const (
	maxNameServers = 8
	maxAddresses   = 4
)

// configure is the step behind authentication: addresses, then Quick Mode.
func (sa *SA) configure(now time.Time) {
	cfg := sa.cfg
	switch {
	case sa.parent != nil && len(sa.parent.vipLocal)+len(sa.parent.vipRemote) > 0:
		sa.ready(now) // they are taken over
	case len(cfg.VIPs) > 0 && cfg.V1.Push:
		// The server sends them.
	case len(cfg.VIPs) > 0:
		sa.pull(now)
	case len(cfg.Pools) > 0 && cfg.V1.Push && len(sa.vipRemote) == 0:
		sa.push(now)
	default:
		sa.ready(now)
	}
}

// pull asks for addresses.
func (sa *SA) pull(now time.Time) {
	var list []message.Attribute
	add := func(address, dns uint16, a netip.Addr) {
		var v []byte
		if !a.IsUnspecified() {
			v = a.AsSlice()
		}
		list = append(list, message.Variable(address, v))
		if _, ok := find(list, dns); !ok {
			list = append(list, message.Variable(dns, nil))
		}
	}
	for _, a := range sa.cfg.VIPs {
		if a = a.Unmap(); a.Is4() {
			add(cfgIP4Address, cfgIP4DNS, a)
		} else {
			add(cfgIP6Address, cfgIP6DNS, a)
		}
	}
	list = append(list, sa.askUnity()...)
	sa.transact(now, "MODE_CONFIG", message.CfgRequest, list, func(now time.Time, a *message.Attributes) {
		sa.takeAddresses(now, a.List)
	})
}

// addressOf is the address in an attribute; IPv6 ones may have a prefix length
// behind.
func addressOf(a message.Attribute) (netip.Addr, bool) {
	b := a.Value
	switch a.Type {
	case cfgIP4Address, cfgIP4DNS:
		if len(b) != 4 {
			return netip.Addr{}, false
		}
	case cfgIP6Address, cfgIP6DNS:
		if len(b) == 17 {
			b = b[:16]
		}
		if len(b) != 16 {
			return netip.Addr{}, false
		}
	default:
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(b)
	return addr, ok && !addr.Is4In6()
}

// takeAddresses uses what the server gave, as far as it was asked for.
func (sa *SA) takeAddresses(now time.Time, list []message.Attribute) {
	for _, a := range list {
		addr, ok := addressOf(a)
		if !ok {
			continue
		}
		switch a.Type {
		case cfgIP4Address, cfgIP6Address:
			if keyex.WantsAddress(sa.cfg.VIPs, sa.vipLocal, addr) {
				sa.vipLocal = append(sa.vipLocal, netip.PrefixFrom(addr, addr.BitLen()))
			}
		case cfgIP4DNS, cfgIP6DNS:
			if len(sa.dns) < maxNameServers && !slices.Contains(sa.dns, addr) {
				sa.dns = append(sa.dns, addr)
			}
		}
	}
	sa.takeUnity(now, list)
	if len(sa.vipLocal) == 0 {
		f := sa.failure(now, trace.StageAddress, "the peer gave no virtual address", "configure pools at the peer, or remove vips here")
		sa.log(now, trace.Control, true, "%s", f.Sentence)
		sa.tellEnd(now)
		sa.close(now, keyex.Closed{Reason: keyex.CloseFailed, Failure: f})
		return
	}
	sa.using = true
	sa.Tell(keyex.UseAddress{Config: sa.cfg, Addrs: sa.vipLocal, DNS: sa.dns, Domain: sa.given.domain})
	sa.ready(now)
}

// takePushed takes addresses that the server pushes.
func (sa *SA) takePushed(now time.Time, list []message.Attribute, answer func(time.Time, []message.Attribute)) {
	if len(sa.cfg.VIPs) == 0 || sa.state == keyex.Established || sa.cfg.V1.XAuth == keyex.XAuthClient && !sa.userDone {
		sa.log(now, trace.Control, true, "the peer %v pushes addresses, which this connection does not want now", sa.remoteID)
		answer(now, nil)
		return
	}
	var ack []message.Attribute
	for _, a := range list {
		ack = append(ack, message.Variable(a.Type, nil))
	}
	answer(now, ack)
	sa.takeAddresses(now, list)
}

// lease asks the pools for addresses, and for what the peer asked for beside them;
// nil: all there is. then gets the attributes, none when there are none.
func (sa *SA) lease(now time.Time, wanted []netip.Addr, asked []message.Attribute, then func(now time.Time, list []message.Attribute)) {
	give := func(now time.Time) {
		var list []message.Attribute
		for _, p := range sa.vipRemote {
			if p.Addr().Is4() {
				list = append(list, message.Variable(cfgIP4Address, p.Addr().AsSlice()))
				if !slices.ContainsFunc(sa.attrs, func(o keyex.Attribute) bool { return o.Type == cfgIP4Netmask }) {
					list = append(list, message.Variable(cfgIP4Netmask, []byte{255, 255, 255, 255}))
				}
			} else {
				list = append(list, message.Variable(cfgIP6Address, append(p.Addr().AsSlice(), 128)))
			}
		}
		for _, d := range sa.dns {
			t := cfgIP6DNS
			if d.Is4() {
				t = cfgIP4DNS
			}
			list = append(list, message.Variable(t, d.AsSlice()))
		}
		then(now, append(list, sa.extras(asked)...))
	}
	if len(sa.vipRemote) > 0 {
		give(now) // asked again, as after a new phase 1
		return
	}
	sa.Ask(keyex.AssignAddress{Config: sa.cfg, Peer: sa.lessee(), Wanted: wanted, Fixed: sa.fixed}, func(now time.Time, r keyex.Reply) {
		a, ok := r.(keyex.AddressReply)
		if !ok || a.Err != nil {
			sa.log(now, trace.Control, true, "no virtual address for the peer %v: %v", sa.remoteID, a.Err)
			then(now, nil)
			return
		}
		sa.vipRemote, sa.dns, sa.attrs, sa.leased = a.Addrs, a.DNS, a.Others, true
		give(now)
	})
}

// answerConfig is the server's answer to a pull.
func (sa *SA) answerConfig(now time.Time, list []message.Attribute, answer func(time.Time, []message.Attribute)) {
	if len(sa.cfg.Pools) == 0 || sa.state != keyex.Established {
		answer(now, nil)
		return
	}
	var wanted []netip.Addr
	for _, a := range list {
		any := netip.IPv4Unspecified()
		switch a.Type {
		case cfgIP4Address:
		case cfgIP6Address:
			any = netip.IPv6Unspecified()
		default:
			continue
		}
		if addr, ok := addressOf(a); ok {
			any = addr
		}
		if len(wanted) < maxAddresses {
			wanted = append(wanted, any)
		}
	}
	if len(wanted) == 0 {
		answer(now, nil)
		return
	}
	sa.lease(now, wanted, list, answer)
}

// push gives addresses without being asked.
func (sa *SA) push(now time.Time) {
	sa.lease(now, []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil, func(now time.Time, list []message.Attribute) {
		if len(list) == 0 {
			sa.ready(now)
			return
		}
		sa.transact(now, "MODE_CONFIG", message.CfgSet, list, func(now time.Time, _ *message.Attributes) { sa.ready(now) })
	})
}

// lessee is who has an address of a pool: the user, where there is one, since many
// users may share the identity of phase 1.
func (sa *SA) lessee() ident.ID {
	if sa.user == "" {
		return sa.remoteID
	}
	if id, err := ident.Parse(sa.user); err == nil && !id.IsPattern() {
		return id
	}
	return ident.ID{Type: ident.KeyID, Data: sa.user}
}

// returnAddresses gives virtual addresses back.
func (sa *SA) returnAddresses() {
	if sa.using {
		sa.using = false
		sa.Tell(keyex.UseAddress{Config: sa.cfg, Remove: true, Addrs: sa.vipLocal, DNS: sa.dns, Domain: sa.given.domain})
	}
	if sa.leased {
		sa.leased = false
		rel := keyex.ReleaseAddress{Config: sa.cfg, Peer: sa.lessee()}
		for _, p := range sa.vipRemote {
			rel.Addrs = append(rel.Addrs, p.Addr())
		}
		sa.Tell(rel)
	}
}
