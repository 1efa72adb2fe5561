package conf

import (
	"iked/internal/ident"
)

// FindPSK picks the shared secret of two identities. A secret without owners is
// anybody's. One with owners fits when one of them is the peer, or when all of
// them are this side; a secret that names another peer never fits. The better
// match of the peer wins, then that of this side, then the first.
//
// A remote of %any, an initiator that does not know yet who will answer, fits
// every owner.
func FindPSK(secrets []*Secret, local, remote ident.ID) (*Secret, bool) {
	var best *Secret
	var bestMe, bestPeer ident.Rank
	for _, s := range secrets {
		if s.Type != SecretIKE {
			continue
		}
		me, peer, ok := ranks(s.Owners, local, remote)
		if ok && (best == nil || peer > bestPeer || peer == bestPeer && me > bestMe) {
			best, bestMe, bestPeer = s, me, peer
		}
	}
	return best, best != nil
}

func ranks(owners []ident.ID, local, remote ident.ID) (me, peer ident.Rank, ok bool) {
	if len(owners) == 0 {
		return ident.Weak, ident.Weak, true
	}
	all := true
	for _, o := range owners {
		m, p := ident.Match(o, local), ident.Match(o, remote)
		if remote.IsAny() {
			p = ident.Weak
		}
		all = all && m > ident.None
		me, peer = max(me, m), max(peer, p)
	}
	if all {
		peer = max(peer, ident.Weak)
	}
	return me, peer, peer > ident.None
}

// impliedAuth chooses the class of authentication where a file gives none: a
// pre-shared key if there is one for the two identities, else certificates.
func (l *loader) impliedAuth(c *Config) {
	for _, conn := range c.Connections {
		local, remote := conn.Local[0], conn.Remote[0]
		if !local.Implied && !remote.Implied {
			continue
		}
		_, psk := c.PSK(local.ID, remote.ID)
		class := AuthPubkey
		switch {
		case !local.Implied:
			class = local.Class
		case !remote.Implied:
			class = remote.Class
		case len(local.Certs) > 0 || len(remote.Certs) > 0 || len(remote.CACerts) > 0:
		case psk:
			class = AuthPSK
		}
		if local.Implied {
			local.Class = class
		}
		if remote.Implied {
			remote.Class = class
		}
	}
}
