package conf

import (
	"slices"

	"iked/crypto/suite"
	"iked/internal/ident"
)

// defaultsV1 are the proposals of an IKEv1 connection that names none: what RFC
// 8247 still recommends of what IKEv1 can say, few enough for one datagram.
func defaultsV1() []suite.Proposal {
	list, err := suite.ParseProposals(suite.ProtoIKE, []string{"aes128-aes256-sha256-sha384-prfsha256-prfsha384-ecp256-ecp384-modp3072-modp2048-x25519"})
	if err != nil {
		panic("conf: the default proposals of IKEv1 are faulty: " + err.Error())
	}
	return list
}

// checkVersion holds the version against the other keys.
func (l *loader) checkVersion(c *Connection) {
	if c.Version == VersionKINK {
		l.checkKINK(c)
		return
	}
	if c.Racoon2 || c.UserToUser {
		key := "kink_compat"
		if !c.Racoon2 {
			key = "kink_user_to_user"
		}
		l.fault(c.pos.sub(key, 0), "remove it, or set version to kink", "%s is about KINK, and the connection speaks IKE", key)
	}
	for _, side := range [][]*Auth{c.Local, c.Remote} {
		for _, a := range side {
			switch {
			case a.Keytab != "" || a.CCache != "":
				l.fault(a.pos, "remove keytab and ccache, or set version to kink", "keytab and ccache are about KINK, and the connection speaks IKE")
			case a.ID.Type == ident.Kerberos:
				l.fault(a.pos.sub("id", 0), "use another identity, or set version to kink", "IKE has no identities of Kerberos: %s", a.ID)
			}
		}
	}
	if c.Version != 1 {
		for key, given := range map[string]bool{"aggressive": c.Aggressive, "aggressive_psk": c.AggressivePSK, "proposal_check": c.LifeCheck != LifeClaim, "unity": c.Unity} {
			if given {
				l.fault(c.pos.sub(key, 0), "remove it, or set version to 1", "%s is about IKEv1, and the connection speaks IKEv2", key)
			}
		}
		for _, side := range [][]*Auth{c.Local, c.Remote} {
			for _, a := range side {
				if a.Class == AuthXAuth {
					l.fault(a.pos.sub("auth", 0), "use psk or pubkey, or version: 1", "xauth is about IKEv1, and the connection speaks IKEv2")
				}
			}
		}
		return
	}
	if c.AggressivePSK && !c.Aggressive {
		l.fault(c.pos.sub("aggressive_psk", 0), "set aggressive to yes, or remove aggressive_psk", "aggressive_psk consents to Aggressive Mode, which aggressive does not allow")
	}
	if c.Unity && len(c.VIPs) == 0 {
		l.fault(c.pos.sub("unity", 0), "add vips, or remove unity", "unity is about what a server gives with a virtual address, and the connection asks for none")
	}
	l.checkXAuth(c)
	if a, b := c.Local[0], c.Remote[0]; a.Class != AuthAny && b.Class != AuthAny && a.Class != b.Class && a.Class != AuthXAuth && b.Class != AuthXAuth {
		l.fault(b.pos.sub("auth", 0), "use the same for both sides, or version: 2", "local auth and remote auth differ, and both sides of IKEv1 use one method (RFC 2409, Section 5)")
	}
	if !slices.ContainsFunc(c.Proposals, sayable) {
		l.fault(c.pos.sub("proposals", 0), "add one such as aes256-sha256-modp2048", "IKEv1 can say none of the proposals: it has AES-CBC and 3DES with HMAC, and MODP and ECP groups")
	}
}

// checkXAuth holds the rounds of authentication against what IKEv1 can do: one
// round, and XAuth behind it or, hybrid, in its place on one side.
func (l *loader) checkXAuth(c *Connection) {
	users := 0
	for _, side := range [][]*Auth{c.Local, c.Remote} {
		for i, a := range side {
			switch {
			case a.Class == AuthXAuth:
				users++
			case i > 0:
				l.fault(a.pos, "set auth to xauth, or remove the round", "a second round of authentication is XAuth in IKEv1")
			}
			if i > 1 {
				l.fault(a.pos, "remove the round", "IKEv1 has at most two rounds of authentication")
			}
		}
	}
	if a := c.Local[len(c.Local)-1]; a.Class == AuthXAuth && a.User == "" {
		l.fault(a.pos.sub("xauth_id", 0), "add xauth_id with the user name", "XAuth needs the own user name")
	}
	if a := c.Local[len(c.Local)-1]; a.Class == AuthXAuth && a.Users != UsersSecrets {
		l.fault(a.pos.sub("auth", 0), "set it to xauth", "the own password is one of the secrets; who else knows users is for the remote side")
	}
	if users > 1 {
		l.fault(c.pos, "let one side alone have auth: xauth", "one side is the user of XAuth, and both are configured so")
	}
	for i, side := range [][]*Auth{c.Local, c.Remote} {
		other := [][]*Auth{c.Remote, c.Local}[i]
		if side[0].Class == AuthXAuth && other[0].Class != AuthPubkey {
			l.fault(other[0].pos.sub("auth", 0), "set it to pubkey", "hybrid authentication proves the server by a certificate")
		}
	}
}

// checkUsers looks whether there is somebody who knows the users of a connection.
func (l *loader) checkUsers(c *Config, conn *Connection) {
	for _, a := range conn.Remote {
		switch {
		case a.Class != AuthXAuth:
		case a.Users == UsersRadius && len(c.Radius) == 0:
			l.fault(a.pos.sub("auth", 0), "add to radius: {name: …, address: …, secret: \"file:…\"}", "there is no RADIUS server")
		case a.Users == UsersHook && c.XAuthHook == "":
			l.fault(a.pos.sub("auth", 0), "add xauth_hook: /path/of/a/program", "there is no program that knows the users")
		}
	}
}

// sayable tells whether IKEv1 has numbers for some combination of a proposal.
func sayable(p suite.Proposal) bool {
	has := func(tt suite.TransformType, f func(id uint16) bool) bool {
		return slices.ContainsFunc(p.List(tt), func(t suite.Transform) bool { return f(t.ID) })
	}
	return has(suite.ENCR, func(id uint16) bool { return id == suite.EncrAESCBC || id == suite.Encr3DES }) &&
		has(suite.INTEG, func(id uint16) bool { return id != suite.IntegNone }) &&
		has(suite.KE, func(id uint16) bool { return id != suite.KENone && (id <= 30 || id == suite.KEX25519) })
}
