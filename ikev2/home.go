package ikev2

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"iked/ikev2/message"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

// Mobile IPv6 (RFC 4877): SAs of transport mode are between a home address and the home
// agent or correspondent node, while IKE is between the care-of address and it. Who a
// home address belongs to is said by the PAD (Section 6.1).

// ends are the addresses of a CHILD_SA whose ends are its own: on each side the one
// that all its selectors have.
func (c childSelectors) ends() (local, remote netip.Addr, ok bool) {
	if len(c.local) == 0 || len(c.remote) == 0 {
		return local, remote, false
	}
	local, ok1 := oneAddress(c.local)
	remote, ok2 := oneAddress(c.remote)
	return local, remote, ok1 && ok2
}

type childSelectors struct{ local, remote []spd.TS }

// reservesAt is where the inbound SPI of a CHILD_SA is reserved: at its end, as far as
// that is known.
func (sa *SA) reservesAt(m spd.Mode, local []spd.TS) netip.Addr {
	if sa.cfg.OwnEnds(m) && len(local) > 0 {
		if a, ok := oneAddress(local); ok {
			return a
		}
	}
	return sa.local.Addr()
}

// homeThroughNAT refuses a new CHILD_SA between a home address and its peer where
// there is a NAT between the addresses of IKE.
func (sa *SA) homeThroughNAT(now time.Time, cfg *ChildConfig, m spd.Mode) *trace.Failure {
	if !sa.cfg.OwnEnds(m) || !sa.nat.any() {
		return nil
	}
	sentence, advice := keyex.HomeThroughNAT(cfg.Name)
	return sa.failure(now, trace.StageChild, sentence, advice)
}

// foreignHome tells why a peer may not have the addresses of its selectors: they are
// neither permitted to its identity nor leased to it; nil: it may.
func (sa *SA) foreignHome(now time.Time, cfg *ChildConfig, list []spd.TS) *trace.Failure {
	sentence, advice := sa.cfg.ForeignHome(list, sa.remoteID, sa.vipRemote, " in child "+cfg.Name)
	if sentence == "" {
		return nil
	}
	return sa.failure(now, trace.StageSelectors, sentence, advice)
}

// unpermitted is foreignHome for an offer that has nothing in common with a child: is
// that because of the home address?
func (sa *SA) unpermitted(now time.Time, cfg *ChildConfig, offered []spd.TS) *trace.Failure {
	var configured []spd.TS
	for _, s := range cfg.Remote {
		if s.Dynamic {
			return sa.foreignHome(now, cfg, offered)
		}
		configured = append(configured, s.TS)
	}
	return sa.foreignHome(now, cfg, spd.IntersectLists(configured, offered))
}

// staysHome tells whether a CHILD_SA is for addresses that do not change with those of
// IKE on a side that has dynamic selectors.
func staysHome(vips []netip.Prefix, list []Selector) bool {
	return len(vips) > 0 || !slices.ContainsFunc(list, func(s Selector) bool { return s.Dynamic })
}

// takeHome takes what a home agent tells of the home link, asked or not by a mobile
// node alone.
func (sa *SA) takeHome(now time.Time, a message.CPAttribute) {
	if sa.cfg.Role != keyex.RoleMobile {
		return
	}
	switch a.Type {
	case message.MIP6HomePrefix:
		p, ok := a.HomePrefix()
		if !ok || len(sa.home.Prefixes) >= maxPrefixes || slices.Contains(sa.home.Prefixes, p.Prefix) {
			return
		}
		sa.home.Prefixes = append(sa.home.Prefixes, p.Prefix)
		life := "for ever"
		if p.Lifetime != 1<<32-1 {
			life = fmt.Sprintf("for %d seconds", p.Lifetime)
		}
		sa.log(now, trace.Control, false, "the home agent says that the home link has the prefix %v %s", p.Prefix, life)
	case message.HomeAgentAddress:
		if h, ok := a.HomeAgent(); ok && !sa.home.Agent.IsValid() {
			sa.home.Agent, sa.home.Agent4 = h.Addr, h.Addr4
			sa.log(now, trace.Control, false, "the home agent has the address %v", h.Addr)
		}
	}
}

// checkHome warns of a home address outside of the home link.
func (sa *SA) checkHome(now time.Time) {
	for _, v := range sa.vipLocal {
		if len(sa.home.Prefixes) > 0 && v.Addr().Is6() && !slices.ContainsFunc(sa.home.Prefixes, func(p netip.Prefix) bool { return p.Contains(v.Addr()) }) {
			sa.log(now, trace.Control, true, "the home address %v is in none of the prefixes %v of the home link", v.Addr(), sa.home.Prefixes)
		}
	}
}

// asksHome tells whether a mobile node asks for what a home agent tells of the home
// link, with or without a home address (RFC 5026, Section 3.2).
func (sa *SA) asksHome(cp *message.CP) bool {
	_, prefix := cp.Find(message.MIP6HomePrefix)
	_, agent := cp.Find(message.HomeAgentAddress)
	return sa.cfg.Role == keyex.RoleAgent && (prefix || agent)
}

// tellsHome tells whether an attribute of the pools goes to a peer: those about the home
// link only from a home agent to who asks for them.
func (sa *SA) tellsHome(cp *message.CP, t message.CPAttributeType) bool {
	if t != message.MIP6HomePrefix && t != message.HomeAgentAddress {
		return true
	}
	_, asked := cp.Find(t)
	return asked && sa.cfg.Role == keyex.RoleAgent
}
