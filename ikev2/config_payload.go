package ikev2

import (
	"net/netip"
	"slices"
	"time"

	"iked/ikev2/message"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// configRequest asks for virtual addresses and name servers (RFC 7296, Section
// 3.15); nil when none are configured.
func (sa *SA) configRequest() *message.CP {
	if len(sa.cfg.VIPs) == 0 {
		return nil
	}
	cp := &message.CP{Kind: message.CFGRequest}
	var v4, v6 bool
	for _, a := range sa.cfg.VIPs {
		t := message.InternalIP6Address
		if a.Unmap().Is4() {
			t, v4 = message.InternalIP4Address, true
		} else {
			v6 = true
		}
		attr := message.CPAttribute{Type: t}
		if !a.IsUnspecified() {
			attr = message.NewCPAddr(t, a)
		}
		cp.Attributes = append(cp.Attributes, attr)
	}
	if v4 {
		cp.Attributes = append(cp.Attributes, message.CPAttribute{Type: message.InternalIP4DNS})
	}
	if v6 {
		cp.Attributes = append(cp.Attributes, message.CPAttribute{Type: message.InternalIP6DNS})
	}
	if v6 && sa.cfg.Role == keyex.RoleMobile {
		// RFC 5026, Section 3.2: the home address comes with the prefix of its link.
		cp.Attributes = append(cp.Attributes, message.CPAttribute{Type: message.MIP6HomePrefix}, message.CPAttribute{Type: message.HomeAgentAddress})
	}
	return cp
}

// Bounds on what a configuration payload may make the other side keep.
const (
	maxNameServers = 8
	maxAddresses   = 4 // of each family, for one IKE SA
	maxPrefixes    = 4 // of the home link
)

// takeAddresses uses what the responder gave. A failure means that the
// addresses that the configuration asks for did not come.
func (sa *SA) takeAddresses(now time.Time, cp *message.CP) *trace.Failure {
	if len(sa.cfg.VIPs) == 0 {
		return nil // RFC 7296, Section 2.19: a reply without request is ignored
	}
	if cp != nil && cp.Kind == message.CFGReply {
		for _, a := range cp.Attributes {
			sa.takeHome(now, a)
			addr, ok := a.Addr()
			if !ok {
				continue
			}
			switch a.Type {
			case message.InternalIP4Address, message.InternalIP6Address:
				if addr.Is4() == (a.Type == message.InternalIP4Address) && keyex.WantsAddress(sa.cfg.VIPs, sa.vipLocal, addr) {
					sa.vipLocal = append(sa.vipLocal, netip.PrefixFrom(addr, addr.BitLen()))
				}
			case message.InternalIP4DNS, message.InternalIP6DNS:
				if len(sa.dns) < maxNameServers && !slices.Contains(sa.dns, addr) {
					sa.dns = append(sa.dns, addr)
				}
			}
		}
	}
	if len(sa.vipLocal) == 0 {
		return sa.failure(now, trace.StageAddress, "the peer gave no virtual address", "configure pools at the peer, or remove vips here")
	}
	sa.checkHome(now)
	sa.usingAddresses = true
	sa.Tell(UseAddress{Config: sa.cfg, Addrs: sa.vipLocal, DNS: sa.dns})
	return nil
}

// asksAddress tells whether a CFG_REQUEST asks for an address.
func asksAddress(cp *message.CP) bool {
	if cp == nil || cp.Kind != message.CFGRequest {
		return false
	}
	for _, a := range cp.Attributes {
		if a.Type == message.InternalIP4Address || a.Type == message.InternalIP6Address {
			return true
		}
	}
	return false
}

// answerQueries answers what a CFG_REQUEST asks about this implementation; nil
// when it asks nothing of the kind. The version is not given out, which RFC 7296,
// Section 2.20, wants said with an empty string.
func answerQueries(cp *message.CP) []message.CPAttribute {
	if cp == nil || cp.Kind != message.CFGRequest {
		return nil
	}
	var answer []message.CPAttribute
	if _, ok := cp.Find(message.ApplicationVersion); ok {
		answer = append(answer, message.CPAttribute{Type: message.ApplicationVersion})
	}
	if _, ok := cp.Find(message.SupportedAttributes); ok {
		// RFC 7296, Section 3.15.1: two octets for each.
		var list []byte
		for _, t := range [...]message.CPAttributeType{message.InternalIP4Address, message.InternalIP4DNS, message.ApplicationVersion,
			message.InternalIP6Address, message.InternalIP6DNS, message.SupportedAttributes, message.MIP6HomePrefix, message.HomeAgentAddress} {
			list = append(list, byte(t>>8), byte(t))
		}
		answer = append(answer, message.CPAttribute{Type: message.SupportedAttributes, Value: list})
	}
	return answer
}

// assignAddress answers a CFG_REQUEST from the pools; then gets the CFG_REPLY,
// nil when there is nothing to give.
func (sa *SA) assignAddress(now time.Time, x *flow, cp *message.CP, then func(time.Time, *message.CP, error)) {
	if cp.Kind != message.CFGRequest || len(sa.cfg.Pools) == 0 {
		return
	}
	w := AssignAddress{Config: sa.cfg, Peer: sa.remoteID}
	wanted := [2]int{}
	for _, a := range cp.Attributes {
		switch a.Type {
		case message.InternalIP4Address, message.InternalIP6Address:
			any, family := netip.IPv4Unspecified(), 0
			if a.Type == message.InternalIP6Address {
				any, family = netip.IPv6Unspecified(), 1
			}
			// RFC 7296, Section 3.15.1: fewer than asked for may be given. One peer must
			// not take a whole pool.
			if wanted[family]++; wanted[family] > maxAddresses {
				continue
			}
			if addr, ok := a.Addr(); ok && addr.Is4() == any.Is4() {
				any = addr
			}
			w.Wanted = append(w.Wanted, any)
		case message.ApplicationVersion, message.SupportedAttributes: // see answerQueries
		default:
			w.Attrs = append(w.Attrs, uint16(a.Type))
		}
	}
	if !asksAddress(cp) && !sa.asksHome(cp) {
		return
	}
	x.Ask(w, func(now time.Time, r Reply) {
		a, _ := r.(AddressReply)
		if a.Err != nil {
			then(now, nil, a.Err)
			return
		}
		sa.vipRemote, sa.leasedAddresses = a.Addrs, len(a.Addrs) > 0
		reply := &message.CP{Kind: message.CFGReply}
		for _, p := range a.Addrs {
			t := message.InternalIP6Address
			if p.Addr().Is4() {
				t = message.InternalIP4Address
			}
			reply.Attributes = append(reply.Attributes, message.NewCPAddr(t, p.Addr()))
		}
		for _, d := range a.DNS {
			t := message.InternalIP6DNS
			if d.Unmap().Is4() {
				t = message.InternalIP4DNS
			}
			reply.Attributes = append(reply.Attributes, message.NewCPAddr(t, d))
		}
		for _, o := range a.Others {
			if !sa.tellsHome(cp, message.CPAttributeType(o.Type)) {
				continue
			}
			reply.Attributes = append(reply.Attributes, message.CPAttribute{Type: message.CPAttributeType(o.Type), Value: o.Value})
		}
		then(now, reply, nil)
	})
}
