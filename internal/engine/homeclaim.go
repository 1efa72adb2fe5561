package engine

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/spd"
)

// homes tells whose the home addresses are that CHILD_SAs are for. Where the PAD permits
// addresses to many nodes (RFC 4877, Section 6.1: an entry for a pattern), nothing in it
// keeps one of them from taking the address of another that is here already: its policies
// and SAs would be in the place of the other's. So an address is that of the first, as
// long as it has a CHILD_SA for it, and each of many nodes has one of each family.
type homes struct {
	mu   sync.Mutex
	of   map[netip.Addr]*home
	only map[manyHome]netip.Addr
}

// home is an address that a peer has; sas counts the CHILD_SAs that are for it.
type home struct {
	peer ident.ID
	sas  int
}

// manyHome is one of many nodes and a family of addresses.
type manyHome struct {
	peer ident.ID
	v4   bool
}

func manyHomeOf(peer ident.ID, a netip.Addr) manyHome {
	if peer.Type == ident.FQDN || peer.Type == ident.RFC822 {
		peer.Data = strings.ToLower(peer.Data)
	}
	return manyHome{peer, a.Is4()}
}

// claim counts a CHILD_SA of a peer in for addresses; one tells which of them it may have
// as one of many nodes alone. Nothing is counted with an error.
func (h *homes) claim(peer ident.ID, list []netip.Addr, one func(netip.Addr) bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range list {
		if o := h.of[a]; o != nil && !ident.Equal(o.peer, peer) {
			return fmt.Errorf("%s is the home address of %v at present, and %v may not have it too: %w", a, o.peer, peer, keyex.ErrHomeTaken)
		}
		if o, ok := h.only[manyHomeOf(peer, a)]; ok && o != a && one(a) {
			return fmt.Errorf("%v has the home address %s at present, and as one of many nodes it may not have %s too: %w", peer, o, a, keyex.ErrHomeTaken)
		}
	}
	if h.of == nil {
		h.of, h.only = make(map[netip.Addr]*home), make(map[manyHome]netip.Addr)
	}
	for _, a := range list {
		o := h.of[a]
		if o == nil {
			o = &home{peer: peer}
			h.of[a] = o
		}
		o.sas++
		if one(a) {
			h.only[manyHomeOf(peer, a)] = a
		}
	}
	return nil
}

// release counts a CHILD_SA out.
func (h *homes) release(list []netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range list {
		o := h.of[a]
		if o == nil {
			continue
		}
		if o.sas--; o.sas > 0 {
			continue
		}
		delete(h.of, a)
		if k := manyHomeOf(o.peer, a); h.only[k] == a {
			delete(h.only, k)
		}
	}
}

// claimHomes counts a CHILD_SA in for the home addresses that it is for, before anything
// of it is in the backend.
func (s *shard) claimHomes(c *childSA) error {
	x := c.ike
	if c.homes != nil || x == nil || x.cfg == nil || !x.cfg.ChecksHomes() {
		return nil
	}
	list := hostsOf(c.child.Remote)
	if len(list) == 0 {
		return nil // networks, which are permitted to one identity
	}
	info := x.m.Look()
	_, generic := x.cfg.Permitted(info.RemoteID)
	err := s.e.homes.claim(info.RemoteID, list, func(a netip.Addr) bool {
		for _, p := range info.RemoteVIPs {
			if p.Unmap() == a {
				return false
			}
		}
		return generic
	})
	if err == nil {
		c.homes = list
	}
	return err
}

// hostsOf are the single addresses of selectors, each once.
func hostsOf(list []spd.TS) (out []netip.Addr) {
	seen := make(map[netip.Addr]bool, len(list))
	for _, t := range list {
		if t.IsHost() && !seen[t.From] {
			seen[t.From] = true
			out = append(out, t.From)
		}
	}
	return out
}
