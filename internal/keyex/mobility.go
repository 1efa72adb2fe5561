package keyex

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"iked/internal/ident"
	"iked/spd"
)

// MobilityRole is this side's part in Mobile IPv6 (RFC 4877; RFC 3776 with IKEv1).
// With one, the SAs of transport mode are between the addresses of their traffic
// selectors, which are the home address and the home agent or correspondent node,
// whatever addresses IKE is between.
type MobilityRole uint8

// Roles.
const (
	RoleNone MobilityRole = iota
	RoleMobile
	RoleAgent
	RoleCorrespondent
)

func (r MobilityRole) String() string {
	switch r {
	case RoleMobile:
		return "mobile"
	case RoleAgent:
		return "agent"
	case RoleCorrespondent:
		return "correspondent"
	}
	return "none"
}

// Home is an entry of the PAD that binds home addresses to an identity, which may be
// a pattern (RFC 4877, Section 6.1; RFC 4301, Section 4.4.3). Addrs have any protocol
// and port.
type Home struct {
	ID    ident.ID
	Addrs []spd.TS
}

// HomeLink is what a home agent tells a mobile node of its home link with the home
// address (RFC 5026, Section 5.2; 3GPP TS 24.302): the peer's word.
type HomeLink struct {
	Prefixes []netip.Prefix
	// Agent and Agent4 are the addresses of the home agent; invalid: not told.
	Agent, Agent4 netip.Addr
}

// OwnEnds tells whether the SAs of a mode are between addresses of their own and not
// those of IKE.
func (c *Config) OwnEnds(m spd.Mode) bool { return c.Role != RoleNone && m == spd.Transport }

// ChecksHomes tells whether a peer may only have the addresses that are permitted to
// its identity: it may be a mobile node.
func (c *Config) ChecksHomes() bool { return c.Role == RoleAgent || c.Role == RoleCorrespondent }

// Permitted are the home addresses of an identity, by the entries that match it best:
// one for a single node counts more than one for many. Generic tells that they are
// those of many nodes. There may be none.
func (c *Config) Permitted(peer ident.ID) (addrs []spd.TS, generic bool) {
	best := ident.None
	for _, h := range c.Homes {
		switch rank := ident.Match(h.ID, peer); {
		case rank == ident.None || rank < best:
		default:
			if rank > best {
				best, addrs = rank, nil
			}
			addrs = append(addrs, h.Addrs...)
		}
	}
	return spd.Minimize(addrs), len(addrs) > 0 && best < ident.Exact
}

// PeerTraffic are the configured selectors of a peer, as far as it may have their
// addresses: those that are permitted to its identity or leased to it. Dynamic ones
// stand for all of these. Only for who ChecksHomes. Nothing permitted is nothing.
func (c *Config) PeerTraffic(list []Selector, peer ident.ID, leased []netip.Prefix) []spd.TS {
	allowed, _ := c.Permitted(peer)
	for _, p := range leased {
		allowed = append(allowed, spd.FromPrefix(p))
	}
	var out []spd.TS
	for _, s := range list {
		t := s.TS
		if t.PortFrom == 0 && t.PortTo == 0 && s.Dynamic {
			t.PortTo = 65535
		}
		for _, a := range allowed {
			u := t
			if s.Dynamic {
				u.From, u.To = a.From, a.To
			}
			if i, ok := spd.Intersect(a, u); ok {
				out = append(out, i)
			}
		}
	}
	return spd.Minimize(out)
}

// MayHave tells whether a peer may have all addresses of its selectors. Those of many
// nodes it may have one by one alone: nobody takes the addresses of the others along
// (RFC 4301, Section 4.4.1.2: the entry of all nodes gives each SA the address of its
// own).
func (c *Config) MayHave(list []spd.TS, peer ident.ID, leased []netip.Prefix) bool {
	own := make([]spd.TS, 0, len(leased))
	for _, p := range leased {
		own = append(own, spd.FromPrefix(p))
	}
	permitted, generic := c.Permitted(peer)
	for _, t := range list {
		t.Proto, t.PortFrom, t.PortTo = 0, 0, 65535
		if spd.Subset([]spd.TS{t}, own) {
			continue
		}
		if !spd.Subset([]spd.TS{t}, permitted) || generic && (!t.IsHost() || t.From != list[0].From || c.ofAnother(t, peer)) {
			return false
		}
	}
	return true
}

// ofAnother tells whether an address is bound to a single identity that is not the
// peer's: what many nodes may have leaves it out.
func (c *Config) ofAnother(t spd.TS, peer ident.ID) bool {
	return slices.ContainsFunc(c.Homes, func(h Home) bool {
		return !h.ID.IsAny() && !h.ID.IsPattern() && ident.Match(h.ID, peer) == ident.None && len(spd.IntersectLists(h.Addrs, []spd.TS{t})) > 0
	})
}

// ErrHomeTaken is why a CHILD_SA is not put in: its peer may have the address, and
// another one has it at present.
var ErrHomeTaken = errors.New("a home address is one peer's at a time")

// InstallAdvice is what to do about a CHILD_SA that cannot be put in; of the backend's own
// reasons, what other says.
func InstallAdvice(err error, other string) string {
	if errors.Is(err, ErrHomeTaken) {
		return "wait until the other one has left, or bind each address to one identity by home_addresses"
	}
	return other
}

// HomeThroughNAT says that a child in transport mode with OwnEnds cannot be where there is
// a NAT between the addresses of IKE: its packets would need UDP between these, and have
// none of them.
func HomeThroughNAT(child string) (sentence, advice string) {
	return fmt.Sprintf("child %s in transport mode is between a home address and its peer, and a NAT between the addresses of IKE lets no such packet through", child),
		"take the NAT away, or protect the traffic in tunnel mode"
}

// ForeignHome tells in words why a peer may not have the addresses of its selectors,
// which are neither permitted to its identity nor leased to it, and what to do; "": it
// may. of says of what the addresses are, as " in child net".
func (c *Config) ForeignHome(list []spd.TS, peer ident.ID, leased []netip.Prefix, of string) (sentence, advice string) {
	if !c.ChecksHomes() || len(list) == 0 || c.MayHave(list, peer, leased) {
		return "", ""
	}
	permitted, generic := c.Permitted(peer)
	has := "no home address is permitted to it"
	switch {
	case generic && slices.ContainsFunc(list, func(t spd.TS) bool { return c.ofAnother(t, peer) }):
		has = "each of its kind may have one of " + spd.ListText(permitted) + ", and this is bound to another identity"
	case generic:
		has = "each of its kind may have one of " + spd.ListText(permitted)
	case len(permitted) > 0:
		has = "it may have " + spd.ListText(permitted)
	}
	for _, p := range leased {
		has += ", and a pool gave it " + p.Addr().String()
	}
	return fmt.Sprintf("the peer %v may not have %s, which it wants to be its home address%s: %s", peer, spd.ListText(list), of, has),
		fmt.Sprintf("if the address is the peer's, add it to home_addresses of the remote section, or at the top: {id: \"%v\", addrs: […]}", peer)
}
