package conf

import (
	"net/netip"
	"slices"

	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/spd"
)

// needsHomes tells whether peers may only have home addresses that are permitted.
func (c *Connection) needsHomes() bool {
	return c.MobilityRole == keyex.RoleAgent || c.MobilityRole == keyex.RoleCorrespondent
}

// takeHomes gives the connections that need it the list home_addresses.
func (l *loader) takeHomes(c *Config) {
	used := false
	for _, conn := range c.Connections {
		if conn.needsHomes() {
			conn.Homes, used = c.Homes, true
		}
	}
	for _, h := range c.Homes {
		l.checkShared(h.pos.sub("id", 0), h.ID, h.Addrs)
	}
	if len(c.Homes) > 0 && !used {
		l.warn(c.Homes[0].pos, "set mobility_role: agent or correspondent in a connection", "home_addresses are for peers of a home agent or correspondent node, and no connection has that role")
	}
}

// checkHomeLinks warns of home links that no mobile node is told of.
func (l *loader) checkHomeLinks(c *Config) {
	for _, p := range c.Pools {
		i := slices.IndexFunc(p.Attrs, func(a Attr) bool { return a.Type == attrHomePrefix || a.Type == attrHomeAgent })
		if i < 0 || slices.ContainsFunc(c.Connections, func(conn *Connection) bool {
			return conn.MobilityRole == keyex.RoleAgent && slices.Contains(conn.Pools, p.Name)
		}) {
			continue
		}
		key := "home_prefix"
		if p.Attrs[i].Type == attrHomeAgent {
			key = "home_agent"
		}
		l.warn(p.pos.sub(key, 0), "add the pool to a connection with mobility_role: agent", "home agents tell of their home link, and no connection with that role gives addresses of %s", p.Name)
	}
}

// checkMobility holds the role in Mobile IPv6 against the other keys.
func (l *loader) checkMobility(c *Connection) {
	role := c.pos.sub("mobility_role", 0)
	for i, side := range [][]*Auth{c.Local, c.Remote} {
		for _, a := range side {
			if len(a.HomeAddresses) > 0 && (i == 0 || !c.needsHomes()) {
				l.fault(a.pos.sub("home_addresses", 0), "move it to remote, with mobility_role: agent or correspondent", "home_addresses are what a home agent or correspondent node permits its peer")
			}
		}
	}
	if c.MobilityRole == keyex.RoleNone {
		return
	}
	if c.Version == VersionKINK {
		l.fault(role, "remove it, or set version to 2 or 1", "mobility_role is about IKE: KINK has no peer but the one at the address of its principal")
		return
	}
	if c.needsHomes() && len(c.Homes) == 0 && len(c.Pools) == 0 && !slices.ContainsFunc(c.Remote, func(a *Auth) bool { return len(a.HomeAddresses) > 0 }) {
		l.fault(role, "add home_addresses to the remote section or at the top of the file, or pools", "no home address is permitted to any peer, and the %v refuses every other one", c.MobilityRole)
	}
	for _, side := range [][]*Auth{c.Local, c.Remote} {
		for _, a := range side {
			if a.Class == AuthXAuth {
				l.fault(a.pos.sub("auth", 0), "use psk or pubkey", "home addresses are bound to the identity of phase 1, and a user of xauth proves another one behind it")
			}
		}
	}
	for _, ch := range c.Children {
		if ch.Mode != ModeTransport {
			continue
		}
		if c.Encap {
			l.fault(c.pos.sub("encap", 0), "remove encap", "encap puts ESP into UDP between the addresses of IKE, and %s in transport mode is between a home address and its peer", ch.Name)
		}
		dynamic := func(t TS) bool { return t.Dynamic }
		if c.MobilityRole == keyex.RoleMobile && len(c.VIPs) == 0 && slices.ContainsFunc(ch.Local, dynamic) {
			l.fault(ch.pos.sub("local_ts", 0), "write the home address, or add vips for one that the home agent gives", "the role mobile needs a home address, and dynamic stands for the care-of address here")
		}
	}
}

// checkProof warns where many peers share what tells them apart: the home address of one
// is then no other's only as long as all are honest.
func (l *loader) checkProof(c *Config, conn *Connection) {
	if !conn.needsHomes() {
		return
	}
	for _, a := range conn.Remote {
		l.checkShared(a.pos.sub("home_addresses", 0), a.ID, a.HomeAddresses)
	}
	if conn.Remote[0].Class == AuthPubkey || !conn.Remote[0].ID.IsPattern() {
		return
	}
	for _, s := range c.Secrets {
		if s.Type == SecretIKE && (len(s.Owners) == 0 || slices.ContainsFunc(s.Owners, ident.ID.IsPattern)) {
			l.warn(s.pos, "give each peer a secret of its own, with its id", "this pre-shared key is that of many peers, and whoever has it can say that it is another one of %s, with its home address", conn.Name)
		}
	}
}

// checkShared warns of home addresses that each of many peers may have.
func (l *loader) checkShared(at Pos, id ident.ID, addrs []spd.TS) {
	if id.IsPattern() && (len(addrs) > 1 || len(addrs) == 1 && !addrs[0].IsHost()) {
		l.warn(at, "give each identity its own in home_addresses at the top, or use pools", "each peer of %s may have any of these home addresses that no other has at that time", id)
	}
}

// checkHomeTS holds the selectors of transport mode against the role: on each side
// they come down to one address, the peer's by what is negotiated.
func (l *loader) checkHomeTS(c *Connection, ch *Child) {
	wide := func(t TS) bool { return !t.Dynamic && !t.IsHost() }
	if slices.ContainsFunc(ch.Local, wide) {
		l.fault(ch.pos.sub("local_ts", 0), "write one address, or use mode: tunnel", "mode transport is between two addresses, and local_ts has a subnet")
	}
	if c.MobilityRole == keyex.RoleMobile && slices.ContainsFunc(ch.Remote, wide) {
		l.fault(ch.pos.sub("remote_ts", 0), "write dynamic or the address of the home agent, or use mode: tunnel", "mode transport is between two addresses, and remote_ts has a subnet")
	}
}

// HasHome tells whether an own address is a home address: one that the role mobile has
// as the whole of a local selector.
func (c *Connection) HasHome(a netip.Addr) bool {
	return c.MobilityRole == keyex.RoleMobile && slices.ContainsFunc(c.Children, func(ch *Child) bool {
		return ch.SAs() && slices.ContainsFunc(ch.Local, func(t TS) bool { return !t.Dynamic && t.IsHost() && t.From == a })
	})
}

// HomeTS are the home addresses of the remote sections, any protocol and port.
func (c *Connection) HomeTS() (out []spd.TS) {
	for _, a := range c.Remote {
		out = append(out, a.HomeAddresses...)
	}
	return out
}
