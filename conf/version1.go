package conf

import (
	"slices"

	"iked/crypto/suite"
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
	if c.Version != 1 {
		for key, given := range map[string]bool{"aggressive": c.Aggressive, "aggressive_psk": c.AggressivePSK} {
			if given {
				l.fault(c.pos.sub(key, 0), "remove it, or set version to 1", "%s is about IKEv1, and the connection speaks IKEv2", key)
			}
		}
		return
	}
	if c.AggressivePSK && !c.Aggressive {
		l.fault(c.pos.sub("aggressive_psk", 0), "set aggressive to yes, or remove aggressive_psk", "aggressive_psk consents to Aggressive Mode, which aggressive does not allow")
	}
	if len(c.VIPs) > 0 || len(c.Pools) > 0 {
		key := "vips"
		if len(c.Pools) > 0 {
			key = "pools"
		}
		l.fault(c.pos.sub(key, 0), "remove "+key+", or use version: 2", "virtual addresses need Mode Config in IKEv1, which this version does not have")
	}
	for _, side := range [][]*Auth{c.Local, c.Remote} {
		if len(side) > 1 {
			l.fault(side[1].pos, "remove the second round, or use version: 2", "a second round of authentication is XAuth in IKEv1, which this version does not have")
		}
	}
	if a, b := c.Local[0], c.Remote[0]; a.Class != AuthAny && b.Class != AuthAny && a.Class != b.Class {
		l.fault(b.pos.sub("auth", 0), "use the same for both sides, or version: 2", "local auth and remote auth differ, and both sides of IKEv1 use one method (RFC 2409, Section 5)")
	}
	if !slices.ContainsFunc(c.Proposals, sayable) {
		l.fault(c.pos.sub("proposals", 0), "add one such as aes256-sha256-modp2048", "IKEv1 can say none of the proposals: it has AES-CBC and 3DES with HMAC, and MODP and ECP groups")
	}
	for _, ch := range c.Children {
		switch {
		case ch.Mode == ModeBEET:
			l.fault(ch.pos.sub("mode", 0), "use tunnel or transport, or version: 2", "mode beet is not negotiated by IKEv1 in this version")
		case ch.Mode == ModeTransport && c.Encap:
			l.fault(ch.pos.sub("mode", 0), "use mode: tunnel, or version: 2", "transport mode in UDP is not negotiated by IKEv1 in this version")
		}
		if ch.PFP != 0 {
			l.fault(ch.pos.sub("pfp", 0), "remove pfp, or use version: 2", "pfp is not negotiated by IKEv1 in this version")
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
