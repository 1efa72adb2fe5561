package conf

import (
	"net/netip"
	"slices"

	"iked/crypto/suite"
	"iked/internal/keyex"
)

// checkShunt refuses the keys of SAs for a child that is a policy alone.
func (l *loader) checkShunt(ch *Child) {
	if ch.StartAction == 0 && ch.Start != StartPassive {
		l.warn(ch.pos.sub("start", 0), "set start: always, or start: passive for one that is put in force later by swanctl --install", "a child that passes or drops its traffic does so once it is started, and nothing starts %s", ch.Name)
	}
	if ch.PFP != 0 {
		l.fault(ch.pos.sub("pfp", 0), "remove pfp", "a child that passes or drops its traffic makes no SA that could take values of a packet")
	}
	if ch.ModeRequired {
		l.fault(ch.pos.sub("mode_required", 0), "remove it", "a child that passes or drops its traffic negotiates no mode")
	}
}

// checkStart looks whether there is somebody to begin with.
func (l *loader) checkStart(c *Connection, ch *Child) {
	acts := ch.StartAction | ch.CloseAction | ch.DPDAction
	if acts == 0 || !c.ManyPeers() {
		return
	}
	switch {
	case acts&ActionStart != 0:
		l.fault(ch.pos.sub("start", 0), "add remote_addrs with the address or name of the peer, or set start: passive, or on-demand, by which the packets say who the peer is",
			"there is no address to reach the peer at: remote_addrs has none that is one address or a name")
	case slices.ContainsFunc(ch.Remote, func(t TS) bool { return !t.Dynamic && !c.peers(t.From, t.To) }):
		// The packet's address is the peer's, so it must be one that the peer may have.
		l.fault(ch.pos.sub("remote_ts", 0), "write dynamic, or addresses that remote_addrs has, or name one peer in remote_addrs",
			"on demand, remote_addrs stand for many peers and the packet says which is meant, yet remote_ts has addresses that are no peer's")
	case len(c.VIPs) > 0:
		l.fault(c.pos.sub("vips", 0), "remove vips, or name one peer in remote_addrs", "a virtual address comes from one peer, yet remote_addrs stand for many")
	}
}

// peers tells whether remote_addrs have the whole range.
func (c *Connection) peers(from, to netip.Addr) bool {
	return slices.ContainsFunc(c.RemoteAddrs, func(h Host) bool { return h.Contains(from) && h.Contains(to) })
}

// checkSuite holds AH and ESP together against what can negotiate and carry them.
func (l *loader) checkSuite(c *Connection, ch *Child) {
	if len(ch.AH) == 0 {
		return
	}
	at := ch.pos.sub("ah_proposals", 0)
	switch {
	case c.Version != 1 && c.Version != VersionKINK:
		// RFC 7296, Section 3.3.1: a proposal has one protocol, and all are alternatives.
		l.fault(at, "keep one of ah_proposals and esp_proposals, or set version to 1", "a CHILD_SA of IKEv2 is ESP or AH, not both: its proposals have one protocol each")
		return
	case ch.Mode == ModeBEET:
		l.fault(at, "remove ah_proposals, or use mode: tunnel", "AH around ESP needs a packet with addresses of its own, and mode beet takes them off")
	}
	methods := func(list []suite.Proposal) (out []uint16) {
		for _, p := range list {
			for _, t := range p.List(suite.KE) {
				out = append(out, t.ID)
			}
		}
		return out
	}
	esp := methods(ch.Proposals)
	if slices.ContainsFunc(methods(ch.AH), func(id uint16) bool { return !slices.Contains(esp, id) }) {
		l.fault(at, "name the key exchange in esp_proposals", "forward secrecy of AH and ESP together is that of esp_proposals, which does not name the key exchange of ah_proposals")
	}
}

// checkCompression refuses what contradicts compression.
func (l *loader) checkCompression(c *Connection, ch *Child) {
	if !ch.IPComp {
		return
	}
	at := ch.pos.sub("ipcomp", 0)
	switch {
	case c.Version == VersionKINK:
		l.fault(at, "remove ipcomp", "compression is negotiated by IKE, and not by KINK")
	case len(ch.Proposals) > 0 && ch.Proposals[0].Protocol == suite.ProtoAH:
		l.fault(at, "remove ipcomp, or add esp_proposals", "compression is for ESP, and the child has AH alone")
	case ch.Mode == ModeBEET:
		l.fault(at, "remove ipcomp, or use mode: tunnel", "compression is for tunnel and transport mode")
	case ch.TFCPadding != 0:
		l.fault(at, "remove ipcomp, or tfc_padding", "compression tells by the lengths of packets what tfc_padding hides")
	}
}

// checkMode holds the mode and the protocol of a child against the other keys.
func (l *loader) checkMode(c *Connection, ch *Child) {
	ah := len(ch.Proposals) > 0 && ch.Proposals[0].Protocol == suite.ProtoAH
	if c.Encap && (ah || len(ch.AH) > 0) {
		l.fault(c.pos.sub("encap", 0), "remove encap, or use esp_proposals alone", "encap puts ESP into UDP, and AH has no such encapsulation (RFC 3948)")
	}
	if ah {
		if ch.TFCPadding != 0 {
			l.fault(ch.pos.sub("tfc_padding", 0), "remove it, or use esp_proposals", "AH has no padding of the payload (RFC 4302, Section 3.3.3.2.1)")
		}
	}
	if ch.Mode == ModeTunnel {
		if ch.ModeRequired {
			l.fault(ch.pos.sub("mode_required", 0), "remove it, or set mode to transport or beet", "tunnel mode is what a peer falls back to, so it needs not be required")
		}
		return
	}
	if ch.TFCPadding != 0 {
		l.fault(ch.pos.sub("tfc_padding", 0), "remove it, or use mode: tunnel", "only tunnel mode pads: outside of it, not every payload tells its own length (RFC 4303, Section 2.7)")
	}
	if ch.Mode == ModeBEET {
		// draft-nikander-esp-beet-mode, Section 3: the inner addresses are those of the
		// SA, not of the packet.
		for _, side := range []struct {
			key  string
			list []TS
		}{{"local_ts", ch.Local}, {"remote_ts", ch.Remote}} {
			if !onePeer(side.list) {
				l.fault(ch.pos.sub(side.key, 0), "write one address, or dynamic; ports and protocols may differ; or use mode: tunnel", "mode beet has one pair of inner addresses, and %s has more than one", side.key)
			}
		}
		return
	}
	if c.MobilityRole != keyex.RoleNone {
		l.checkHomeTS(c, ch)
		return
	}
	// RFC 4301, Section 4.1: transport mode is for the traffic of the hosts.
	wide := func(t TS) bool { return !t.Dynamic && !t.IsHost() }
	if slices.ContainsFunc(ch.Local, wide) {
		l.fault(ch.pos.sub("local_ts", 0), "write dynamic or the own address, or use mode: tunnel", "mode transport protects the traffic of the hosts themselves, and local_ts has a subnet")
	}
	if slices.ContainsFunc(ch.Remote, func(t TS) bool { return wide(t) && !(c.ManyPeers() && c.peers(t.From, t.To)) }) {
		l.fault(ch.pos.sub("remote_ts", 0), "write dynamic or the peer's address, or use mode: tunnel", "mode transport protects the traffic of the hosts themselves, and remote_ts has a subnet that remote_addrs does not have")
	}
	if len(c.VIPs) > 0 || len(c.Pools) > 0 {
		key := "vips"
		if len(c.Pools) > 0 {
			key = "pools"
		}
		l.fault(c.pos.sub(key, 0), "remove "+key+", or use mode: tunnel", "mode transport protects the traffic of the hosts' own addresses, a virtual address needs a tunnel")
	}
}

// onePeer tells whether all selectors have one address.
func onePeer(list []TS) bool {
	for _, t := range list {
		if t.Dynamic != list[0].Dynamic || t.From != list[0].From || !t.Dynamic && !t.IsHost() {
			return false
		}
	}
	return true
}

// checkPolicies refuses what policies of somebody else cannot have, or what is of
// those of the daemon.
func (l *loader) checkPolicies(ch *Child) {
	if !ch.OthersPolicies {
		if ch.ReqIDIn != 0 {
			l.fault(ch.pos.sub("reqid_in", 0), "remove reqid_in, or set policies: no", "the policies of the child are the daemon's, and have one request id for both directions")
		}
		return
	}
	at := ch.pos.sub("policies", 0)
	switch {
	case !ch.SAs():
		l.fault(at, "remove policies", "a child that passes or drops its traffic is a policy, and nothing is left of it without")
	case !ch.reqIDGiven:
		l.fault(at, "set reqid to the request id of the policies, or to 0 when they have none", "the policies of the child are somebody else's (policies: no), and nothing says which SAs serve them: reqid is not given")
	case len(ch.AH) > 0:
		l.fault(ch.pos.sub("ah_proposals", 0), "keep one of ah_proposals and esp_proposals", "AH around ESP has a request id of its own, and that of somebody else's policies (policies: no) is not known")
	case ch.IPComp:
		l.fault(ch.pos.sub("ipcomp", 0), "remove ipcomp", "policies ask for compression, and those of the child are somebody else's (policies: no)")
	case ch.Priority != 0:
		l.fault(ch.pos.sub("priority", 0), "remove priority", "the child has no policies of the daemon's that could have a priority (policies: no)")
	case ch.Fail != FailDefault:
		l.fault(ch.pos.sub("fail", 0), "remove fail", "what happens while the tunnel is down is up to who has its policies (policies: no)")
	}
}

// checkPFP refuses what contradicts SAs that packets ask for.
func (l *loader) checkPFP(ch *Child) {
	if ch.PFP == 0 {
		return
	}
	if (ch.StartAction|ch.CloseAction|ch.DPDAction)&ActionStart != 0 {
		l.fault(ch.pos.sub("pfp", 0), "set start: on-demand or passive", "pfp takes the selectors of an SA from the packet that asks for it, and start: always asks without one")
	}
	if ch.ReqID != 0 && !ch.OthersPolicies {
		l.fault(ch.pos.sub("reqid", 0), "remove reqid", "pfp makes an SA for each value, and each needs a reqid of its own")
	}
	if ch.Priority == 1 {
		l.fault(ch.pos.sub("priority", 0), "set it to 2 or more", "with pfp, the policies of SAs come before that of the child, and no priority is before 1")
	}
}
