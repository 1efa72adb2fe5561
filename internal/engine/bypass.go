package engine

import (
	"fmt"
	"net/netip"
	"slices"

	"iked/conf"
	"iked/internal/trace"
	"iked/spd"
)

// Addresses is implemented by Routes that know the addresses of this host, with
// the lengths of the prefixes on their links.
type Addresses interface {
	Own() ([]netip.Prefix, error)
}

// prioBypass is before every priority that a policy may have.
const prioBypass = 0

// maxOwn bounds the own addresses that have housekeeping entries.
const maxOwn = 256

// house are the entries by which this host lives on its link while a policy covers
// that link: the configured protocols, from and to its own addresses. A packet that
// the host forwards never matches. They are in the SPD only while they are needed.
type house struct {
	entries []houseEntry
	link    []spd.TS // what is on the own links
}

type houseEntry struct {
	name          string
	local, remote []spd.TS
	users         int    // sets that would cover its packets
	id            uint64 // in the SPD, 0: not there
}

// ports of the housekeeping protocols.
const (
	dhcpServer, dhcpClient     = 67, 68
	dhcp6Client, dhcp6Server   = 546, 547
	protoUDP, protoICMPv6      = 17, 58
	ndFirst, ndLast            = 130 << 8, 137<<8 | 255 // type and code: MLD (RFC 2710, Section 3), and RFC 4861, Section 4
	mld2First, mld2Last        = 143 << 8, 143<<8 | 255 // MLDv2 reports (RFC 3810, Section 5.2)
	unspecified4, broadcast4   = "0.0.0.0", "255.255.255.255"
	linkLocal6, multicastLink6 = "fe80::/10", "ff02::/16"
)

func portTS(p netip.Prefix, proto uint8, from, to uint16) spd.TS {
	ts := spd.FromPrefix(p)
	ts.Proto, ts.PortFrom, ts.PortTo = proto, from, to
	return ts
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// newHouse makes the entries for the own addresses.
func newHouse(which conf.Bypass, own []netip.Prefix, ports ...uint16) *house {
	h := &house{}
	any4, any6 := netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	var v4, v6 []netip.Prefix
	for _, p := range own {
		a := p.Addr().Unmap().WithZone("")
		if a.IsLoopback() {
			continue
		}
		h.link = append(h.link, spd.FromPrefix(p.Masked()))
		if a.Is4() {
			v4 = append(v4, single(a))
		} else {
			v6 = append(v6, single(a))
		}
	}
	if len(v4)+len(v6) == 0 {
		return h
	}
	add := func(name string, local, remote []spd.TS) {
		if len(local) > 0 {
			h.entries = append(h.entries, houseEntry{name: name, local: local, remote: remote})
		}
	}
	list := func(ps []netip.Prefix, proto uint8, from, to uint16) (out []spd.TS) {
		for _, p := range ps {
			out = append(out, portTS(p, proto, from, to))
		}
		return out
	}
	which.Each(func(one conf.Bypass, name string) {
		switch one {
		case conf.BypassND:
			if len(v6) == 0 {
				return
			}
			// RFC 4861, Section 4: from the unspecified address, to the multicast
			// groups of the link, and link-local. Its groups need MLD: a switch that
			// listens to it delivers no solicitation otherwise (Section 7.2.1).
			local := slices.Concat(v6, []netip.Prefix{netip.MustParsePrefix(linkLocal6), netip.MustParsePrefix(multicastLink6), single(netip.IPv6Unspecified())})
			for _, types := range [][2]uint16{{ndFirst, ndLast}, {mld2First, mld2Last}} {
				add(name, list(local, protoICMPv6, types[0], types[1]), list([]netip.Prefix{any6}, protoICMPv6, types[0], types[1]))
			}
		case conf.BypassIKE:
			var local []spd.TS
			for _, port := range ports {
				local = append(local, list(slices.Concat(v4, v6), protoUDP, port, port)...)
			}
			add(name, local, list([]netip.Prefix{any4, any6}, protoUDP, 0, 65535))
		case conf.BypassDHCP:
			// The client's side only: a server or a relay may well work through a tunnel.
			local4 := slices.Concat(v4, []netip.Prefix{single(netip.MustParseAddr(unspecified4)), single(netip.MustParseAddr(broadcast4))})
			if len(v4) > 0 {
				add(name, list(local4, protoUDP, dhcpClient, dhcpClient), list([]netip.Prefix{any4}, protoUDP, dhcpServer, dhcpServer))
			}
			if len(v6) > 0 {
				add(name, list(v6, protoUDP, dhcp6Client, dhcp6Client), list([]netip.Prefix{any6}, protoUDP, dhcp6Server, dhcp6Server))
			}
		}
	})
	return h
}

// covers tells which entries a set of policies would cover, as bits. One that is
// bound to a device or to marked packets covers none, and one that is not about
// the own links neither: between two sites the host is a router.
func (h *house) covers(set *policySet) (bits uint32) {
	if set.action == spd.Bypass || set.key.bind.ifID != 0 || set.key.bind.mark.Mask != 0 || !overlapAny(set.remote, h.link) {
		return 0
	}
	for i := range h.entries {
		if x := &h.entries[i]; overlapAny(set.local, x.local) && overlapAny(set.remote, x.remote) {
			bits |= 1 << i
		}
	}
	return bits
}

// overlapAny tells whether some packet fits both lists.
func overlapAny(a, b []spd.TS) bool {
	for _, x := range a {
		for _, y := range b {
			if _, ok := spd.Intersect(x, y); ok {
				return true
			}
		}
	}
	return false
}

// shelter puts the entries that a new set would cover into the SPD, before it is
// there itself.
func (p *policies) shelter(set *policySet) error {
	set.covers = p.house.covers(set)
	return p.shelterBits(set.covers)
}

func (p *policies) shelterBits(bits uint32) error {
	var add []spd.Policy
	var fresh []*houseEntry
	for i := range p.house.entries {
		x := &p.house.entries[i]
		if bits&(1<<i) == 0 {
			continue
		}
		x.users++
		if x.id != 0 {
			continue
		}
		p.nextPol++
		x.id = p.nextPol
		fresh = append(fresh, x)
		add = append(add, spd.Policy{ID: x.id, Name: "bypass/" + x.name, Action: spd.Bypass, Local: x.local, Remote: x.remote, Priority: prioBypass})
	}
	if len(add) == 0 {
		return nil
	}
	if err := p.db.ApplyPolicies(nil, add); err != nil {
		for _, x := range fresh {
			x.id = 0
		}
		p.unshelterBits(bits)
		return fmt.Errorf("install the bypass of housekeeping: %w", err)
	}
	return nil
}

// unshelter takes them away with the last set.
func (p *policies) unshelter(set *policySet) error {
	bits := set.covers
	set.covers = 0
	if ids := p.unshelterBits(bits); len(ids) > 0 {
		if err := p.db.ApplyPolicies(ids, nil); err != nil {
			return fmt.Errorf("remove the bypass of housekeeping: %w", err)
		}
	}
	return nil
}

func (p *policies) unshelterBits(bits uint32) (ids []uint64) {
	for i := range p.house.entries {
		x := &p.house.entries[i]
		if bits&(1<<i) == 0 {
			continue
		}
		if x.users--; x.users == 0 && x.id != 0 {
			ids = append(ids, x.id)
			x.id = 0
		}
	}
	return ids
}

// rehouse puts other entries in place: the configuration or the own addresses are
// others. The new ones are in force before the old ones go.
func (p *policies) rehouse(h *house) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.EqualFunc(h.entries, p.house.entries, func(a, b houseEntry) bool {
		return a.name == b.name && slices.Equal(a.local, b.local) && slices.Equal(a.remote, b.remote)
	}) && slices.Equal(h.link, p.house.link) {
		return nil
	}
	var old []uint64
	for i := range p.house.entries {
		if id := p.house.entries[i].id; id != 0 {
			old = append(old, id)
		}
	}
	p.house = h
	var first error
	for _, set := range p.sets {
		if err := p.shelter(set); err != nil && first == nil {
			first = err
		}
	}
	if len(old) > 0 {
		if err := p.db.ApplyPolicies(old, nil); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// NetworkChanged tells that this host has other addresses or routes than before.
func (e *Engine) NetworkChanged() {
	e.addressesChanged()
	e.lookAround()
}

// addressesChanged keeps the housekeeping entries to the own addresses.
func (e *Engine) addressesChanged() {
	a, ok := e.opt.Routes.(Addresses)
	if !ok {
		return
	}
	own, err := a.Own()
	if err != nil {
		e.warnf(trace.KNL, "the addresses of this host are not known: %v; neighbour discovery, IKE and DHCP pass no policy that covers them", err)
		return
	}
	if len(own) > maxOwn {
		e.warnf(trace.KNL, "this host has %d addresses; neighbour discovery, IKE and DHCP of %d of them pass where a policy covers them", len(own), maxOwn)
		own = own[:maxOwn]
	}
	g := e.config.Load().global
	if err := e.policies.rehouse(newHouse(g.Bypass, own, g.Port, g.PortNATT, g.PortKINK)); err != nil {
		e.warnf(trace.KNL, "%v", err)
	}
}
