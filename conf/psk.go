package conf

import (
	"strings"

	"iked/internal/ident"
	"iked/internal/secret"
)

// PSKs are shared secrets, ready to be looked up by identities.
type PSKs struct {
	all []*Secret
	// byOwner has the places in all of the secrets whose owners are single
	// identities; loose those of the others.
	byOwner map[ident.ID][]int
	loose   []int
}

// NewPSKs prepares a list of secrets; those that are not for IKE never match.
func NewPSKs(secrets []*Secret) *PSKs {
	p := &PSKs{all: secrets, byOwner: make(map[ident.ID][]int)}
	for i, s := range secrets {
		if s.Type != SecretIKE {
			continue
		}
		keys := make([]ident.ID, 0, len(s.Owners))
		for _, o := range s.Owners {
			if k, ok := single(o); ok {
				keys = append(keys, k)
			}
		}
		if len(keys) == 0 || len(keys) != len(s.Owners) {
			p.loose = append(p.loose, i)
			continue
		}
		for _, k := range keys {
			p.byOwner[k] = append(p.byOwner[k], i)
		}
	}
	return p
}

// User is the password of a user of XAuth: that of the first secret of type eap or
// xauth with the name among its owners. Names are compared letter by letter.
func (p *PSKs) User(name string) (secret.Bytes, bool) {
	for _, s := range p.all {
		if s.Type != SecretEAP {
			continue
		}
		for _, o := range s.Owners {
			if o.Data == name && (o.Type == ident.FQDN || o.Type == ident.RFC822 || o.Type == ident.KeyID) {
				return s.Data.Clone(), true
			}
		}
	}
	return secret.Bytes{}, false
}

// single is the form in which an identity that matches only its like is looked
// up: names without regard to case.
func single(id ident.ID) (ident.ID, bool) {
	if id.IsPattern() || id.Type == ident.DERDN {
		return id, false
	}
	if id.Type == ident.FQDN || id.Type == ident.RFC822 {
		for i := range len(id.Data) {
			if id.Data[i] >= 0x80 {
				return id, false // case is not that simple there
			}
		}
		id.Data = strings.ToLower(id.Data)
	}
	return id, true
}

// Find picks the shared secret of two identities. A secret without owners is
// anybody's. One with owners fits when one of them is the peer, or when all of
// them are this side; a secret that names another peer never fits. The better
// match of the peer wins, then that of this side, then the first.
//
// A remote of %any, an initiator that does not know yet who will answer, fits
// every owner.
func (p *PSKs) Find(local, remote ident.ID) (*Secret, bool) {
	best := -1
	var bestMe, bestPeer ident.Rank
	try := func(i int) {
		s := p.all[i]
		if s.Type != SecretIKE {
			return
		}
		me, peer, ok := ranks(s.Owners, local, remote)
		if !ok || best >= 0 && (peer < bestPeer || peer == bestPeer && (me < bestMe || me == bestMe && i > best)) {
			return
		}
		best, bestMe, bestPeer = i, me, peer
	}
	if remote.IsAny() {
		for i := range p.all {
			try(i)
		}
	} else {
		for _, id := range [...]ident.ID{remote, local} {
			k, _ := single(id)
			for _, i := range p.byOwner[k] {
				try(i)
			}
		}
		for _, i := range p.loose {
			try(i)
		}
	}
	if best < 0 {
		return nil, false
	}
	return p.all[best], true
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
		if conn.Version == VersionKINK {
			continue
		}
		if !local.Implied && !remote.Implied {
			continue
		}
		_, psk := l.psks.Find(local.ID, remote.ID)
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
