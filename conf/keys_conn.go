package conf

import (
	"iked/crypto/suite"
	"iked/internal/keyex"
)

func connectionFields() []field[Connection] {
	return []field[Connection]{
		{key: "version", typ: "1, 2, kink", def: "2", doc: "IKE version: 2, or 1 for a peer that knows no better (RFC 9395 deprecates IKEv1). 0 is 2. kink: Kerberos negotiates (RFC 4430).", set: setVersion},
		{key: "local_addrs", typ: "list of hosts", def: "%any", list: true, doc: "Own addresses: address, subnet, range, DNS name or %any. The initiator uses the first that is one address.",
			set: hosts(func(c *Connection) *[]Host { return &c.LocalAddrs })},
		{key: "remote_addrs", typ: "list of hosts", def: "%any", list: true, doc: "Addresses of the peer, as local_addrs. Names are resolved again at every attempt.",
			set: hosts(func(c *Connection) *[]Host { return &c.RemoteAddrs })},
		{key: "local_port", typ: "number", def: "0", doc: "Own UDP port; 0 is the daemon's. Other ports than the daemon's are refused.", set: unsigned(0, 65535, func(c *Connection) *uint16 { return &c.LocalPort })},
		{key: "remote_port", typ: "number", def: "500, 910 with KINK", doc: "UDP port of the peer.", set: unsigned(0, 65535, func(c *Connection) *uint16 { return &c.RemotePort })},
		{key: "proposals", typ: "list of proposals", def: "default", list: true, doc: "IKE proposals, best first, as aes256gcm16-prfsha384-ecp384.",
			set: proposals(suite.ProtoIKE, func(c *Connection) *[]suite.Proposal { return &c.Proposals })},
		{key: "vips", typ: "list of addresses", list: true, doc: "Virtual addresses to ask the peer for; 0.0.0.0 and :: ask for any. They are put on the tunnel device; name servers that come with them are written to resolv.conf beside the control socket.",
			set: each(func(_ *loader, c *Connection, s string) error {
				a, err := address(s)
				c.VIPs = append(c.VIPs, a)
				return err
			})},
		{key: "aggressive", typ: "yes/no", def: "no", doc: "IKEv1: initiate with Aggressive Mode, and accept it (RFC 2409, Section 5.4). Identities are sent in clear.", set: boolean(func(c *Connection) *bool { return &c.Aggressive })},
		{key: "aggressive_psk", typ: "yes/no", def: "no", doc: "IKEv1: answer Aggressive Mode with a pre-shared key. Whoever asks gets a hash to try passwords on, so that it takes this consent.", fileOnly: true, set: boolean(func(c *Connection) *bool { return &c.AggressivePSK })},
		{key: "proposal_check", typ: "obey, strict, claim, exact", def: "claim", doc: "IKEv1: what a responder does with the initiator's lifetimes. claim uses the shorter one and tells the initiator when that is the own; obey takes the initiator's, and its choice of perfect forward secrecy; strict refuses one longer than the own; exact refuses any other.",
			fileOnly: true, set: choice(func(c *Connection) *LifeCheck { return &c.LifeCheck }, []string{"obey", "strict", "claim", "exact"}, LifeObey, LifeStrict, LifeClaim, LifeExact)},
		{key: "pull", typ: "yes/no", def: "yes", doc: "IKEv1 Mode Config: the client asks for its virtual address; no lets the server send it unasked.", set: func(_ *loader, c *Connection, it *Item) error {
			yes, err := parseBool(it.Value)
			c.Push = !yes
			return err
		}},
		{key: "unity", typ: "yes/no", def: "no", doc: "IKEv1 Mode Config, as client with vips: announce Cisco's extensions (Unity). What the server then names as networks (split include) narrows remote_ts, its domain goes to resolv.conf with the name servers, its banner is logged and shown. A server with pools answers whoever announces them.", fileOnly: true, set: boolean(func(c *Connection) *bool { return &c.Unity })},
		{key: "kink_compat", typ: "none, racoon2", def: "none", doc: "KINK: racoon2 is for its kinkd, which makes keys of AES otherwise than all other implementations of Kerberos do, and ignores identities: one pair of SAs is for all selectors of a child.", fileOnly: true, set: choice(func(c *Connection) *bool { return &c.Racoon2 }, []string{"none", "racoon2"}, false, true)},
		{key: "kink_user_to_user", typ: "yes/no", def: "no", doc: "KINK: ask the peer for its ticket-granting ticket before a ticket for it is asked for, where it has no key of its own in a keytab, and give the own one to peers that ask.", fileOnly: true, set: boolean(func(c *Connection) *bool { return &c.UserToUser })},
		{key: "kink_gss", typ: "never", def: "never", doc: "KINK: whether authentication goes by GSS-API. This version speaks Kerberos itself, as RFC 4430 has it.", fileOnly: true, set: unsupported[Connection]("never")},
		{key: "dscp", typ: "six binary digits", def: "000000", doc: "DSCP of IKE packets.", set: value(parseDSCP, func(c *Connection) *uint8 { return &c.DSCP })},
		{key: "encap", typ: "yes/no", def: "no", doc: "Force UDP encapsulation, NAT or not.", set: boolean(func(c *Connection) *bool { return &c.Encap })},
		{key: "mobike", typ: "yes/no", def: "yes", doc: "Offer and take MOBIKE (RFC 4555): the IKE SA and its CHILD_SAs move when an address of either side changes, a route, or a NAT. IKEv2 only.", set: boolean(func(c *Connection) *bool { return &c.Mobike })},
		{key: "nat_traversal", typ: "yes/no", def: "yes", doc: "no: NATs are neither looked for nor allowed, and UDP encapsulation is not used. With MOBIKE the peer is told to refuse a move whose packet a NAT changed (RFC 4555, Section 3.9), which may as well be an attack. IKEv2 only.", fileOnly: true, set: func(_ *loader, c *Connection, it *Item) error {
			yes, err := parseBool(it.Value)
			c.NoNATs = err == nil && !yes
			return err
		}},
		{key: "mobility", typ: "mobike, kbit, reauth", def: "mobike", doc: "How the peer hears of it when a mobility manager moves this side (MIGRATE): mobike: by MOBIKE where that was agreed, else by its own manager; kbit: by its own manager alone; reauth: by a new IKE SA from the new address.", fileOnly: true,
			set: choice(func(c *Connection) *Mobility { return &c.Mobility }, []string{"mobike", "kbit", "reauth"}, MobilityMOBIKE, MobilityKBit, MobilityReauth)},
		{key: "mobility_role", typ: "none, mobile, agent, correspondent", def: "none", doc: "This side's part in Mobile IPv6 (RFC 4877, with version 1 RFC 3776). With one, the SAs of children in transport mode are between the addresses of local_ts and remote_ts, the home address and the home agent or correspondent node, and not between those of IKE; they stay when IKE moves. mobile: this side has a home address, in local_ts or vips. agent and correspondent: the peer may only have the home addresses that are permitted to its identity (home_addresses), or that a pool gave it.",
			set: choice(func(c *Connection) *keyex.MobilityRole { return &c.MobilityRole }, []string{"none", "mobile", "agent", "correspondent"}, keyex.RoleNone, keyex.RoleMobile, keyex.RoleAgent, keyex.RoleCorrespondent)},
		{key: "dpd_delay", typ: "time", def: "0", doc: "Check that the peer lives after that much silence; 0: never, but every 30s when a child has start: always, or packets make its SAs.", set: duration(func(c *Connection) *timeDuration { return &c.DPDDelay })},
		{key: "dpd_timeout", typ: "time", def: "0", doc: "About IKEv1 only; IKEv2 uses the retransmission schedule.", set: checkOnly[Connection](ParseTime)},
		{key: "fragmentation", typ: "yes, accept, force, no", def: "yes", doc: "IKE fragmentation (RFC 7383). accept: announce it, but never send fragments. force means yes.",
			set: choice(func(c *Connection) *Fragmentation { return &c.Fragmentation }, []string{"yes", "accept", "force", "no", "true", "enabled", "1", "false", "disabled", "0"}, FragYes, FragAccept, FragForce, FragNo, FragYes, FragYes, FragYes, FragNo, FragNo, FragNo)},
		{key: "childless", typ: "allow, prefer, force, never", def: "allow", doc: "Childless IKE SAs (RFC 6023): the other values are not supported by this version.", set: unsupported[Connection]("allow")},
		{key: "send_certreq", typ: "yes/no", def: "yes", doc: "Send CERTREQ payloads.", set: boolean(func(c *Connection) *bool { return &c.SendCertReq })},
		{key: "send_cert", typ: "ifasked, always, never", def: "ifasked", doc: "When to send certificates.",
			set: choice(func(c *Connection) *SendCert { return &c.SendCert }, []string{"ifasked", "always", "never", "yes", "no"}, CertIfAsked, CertAlways, CertNever, CertAlways, CertNever)},
		{key: "ocsp", typ: "reply, request, both, never", def: "reply", doc: "OCSP inside IKE (RFC 4806): request and both are not supported by this version.", set: unsupported[Connection]("reply", "never")},
		{key: "ppk_id", typ: "identity", doc: "Postquantum preshared key (RFC 8784): not supported by this version.", set: unsupported[Connection]("")},
		{key: "ppk_required", typ: "yes/no", def: "no", doc: "As ppk_id.", set: unsupported[Connection]("no")},
		{key: "keyingtries", typ: "number", def: "1", doc: "How often to try to set up the IKE SA before giving up until the next occasion; 0: for ever.", set: integer(0, 1<<30, func(c *Connection) *int { return &c.KeyingTries })},
		{key: "unique", typ: "no, never, keep, replace", def: "no", doc: "What a second IKE SA of the same two identities does.",
			set: choice(func(c *Connection) *Unique { return &c.Unique }, []string{"no", "never", "keep", "replace"}, UniqueNo, UniqueNever, UniqueKeep, UniqueReplace)},
		{key: "reauth_time", typ: "time", def: "0", doc: "Authenticate anew after that time; 0: never.", set: duration(func(c *Connection) *timeDuration { return &c.ReauthTime })},
		{key: "rekey_time", typ: "time", def: "4h, 0 with reauth_time", doc: "Replace the keys of the IKE SA after that time; 0: never.", set: duration(func(c *Connection) *timeDuration { return &c.RekeyTime })},
		{key: "over_time", typ: "time", def: "a tenth of the longer of the two", doc: "The IKE SA is closed that long after it should have been replaced.", set: duration(func(c *Connection) *timeDuration { return &c.OverTime })},
		{key: "rand_time", typ: "time", def: "over_time, at most half of the shorter of the two", doc: "Up to this is taken off reauth_time and rekey_time at random.", set: duration(func(c *Connection) *timeDuration { return &c.RandTime })},
		{key: "pools", typ: "list of names", list: true, doc: "Pools from which the peer gets virtual addresses and attributes.",
			set: each(func(_ *loader, c *Connection, s string) error { c.Pools = append(c.Pools, s); return nil })},
		{key: "if_id_in", typ: "number", def: "0", doc: "XFRM interface of the children that give none. Kernel backend only.", set: value(parseIfID("if_id_in"), func(c *Connection) *uint32 { return &c.IfIDIn })},
		{key: "if_id_out", typ: "number", def: "0", doc: "As if_id_in; the two must be equal.", set: value(parseIfID("if_id_out"), func(c *Connection) *uint32 { return &c.IfIDOut })},
		{key: "mediation", typ: "yes/no", def: "no", doc: "Mediation: not supported by this version.", set: unsupported[Connection]("no")},
		{key: "mediated_by", typ: "name", doc: "As mediation.", set: unsupported[Connection]("")},
		{key: "mediation_peer", typ: "identity", doc: "As mediation.", set: unsupported[Connection]("")},
	}
}

func setVersion(_ *loader, c *Connection, it *Item) error {
	if it.Value == "kink" {
		c.Version = VersionKINK
		return nil
	}
	n, err := parseUint(it.Value, 32)
	if err != nil {
		return refuse("set version to 2, 1 or kink", "expected a version, found %s", quote(it.Value))
	}
	switch n {
	case 0, 2:
		c.Version = 2
		return nil
	case 1:
		c.Version = 1
		return nil
	}
	return refuse("set version to 2, 1 or kink", "there is no IKE version %d", n)
}

func hosts(at func(*Connection) *[]Host) setter[Connection] {
	return each(func(_ *loader, c *Connection, s string) error {
		h, err := ParseHost(s)
		if err == nil {
			*at(c) = append(*at(c), h)
		}
		return err
	})
}

// proposals reads a list of proposals; each is parsed alone first, so that a
// fault has its place.
func proposals[T any](proto suite.Protocol, at func(*T) *[]suite.Proposal) setter[T] {
	return func(l *loader, t *T, it *Item) error {
		ok := true
		for i, s := range it.List {
			if _, err := suite.ParseProposals(proto, []string{s}); err != nil {
				l.add(it.element(i), err)
				ok = false
			}
		}
		if !ok || len(it.List) == 0 {
			return nil
		}
		ps, err := suite.ParseProposals(proto, it.List)
		*at(t) = ps
		return err
	}
}

// checkOnly takes a key that has no effect here, but must be well formed.
func checkOnly[T, V any](parse func(string) (V, error)) setter[T] {
	return func(_ *loader, _ *T, it *Item) error {
		_, err := parse(it.Value)
		return err
	}
}

func newConnection(name string, pos Pos) *Connection {
	return &Connection{
		Name: name, Version: 2, RemotePort: 500, Mobike: true, SendCertReq: true, KeyingTries: 1, pos: pos,
	}
}

// complete sets what depends on which keys were given.
func (c *Connection) complete(given map[string]bool) {
	for _, ch := range c.Children {
		ch.inheritIfID(c.IfIDIn, c.IfIDOut)
	}
	if c.Version == VersionKINK {
		c.completeKINK(given)
	}
	everywhere := []Host{{Text: "%any"}}
	if len(c.LocalAddrs) == 0 {
		c.LocalAddrs = everywhere
	}
	if len(c.RemoteAddrs) == 0 {
		c.RemoteAddrs = everywhere
	}
	if len(c.Proposals) == 0 {
		c.Proposals = suite.Defaults(suite.ProtoIKE)
		if c.Version == 1 {
			c.Proposals = defaultsV1()
		}
	}
	if !given["rekey_time"] && !given["reauth_time"] && c.Version != VersionKINK {
		c.RekeyTime = defaultIKERekey
	}
	if !given["over_time"] {
		c.OverTime = max(c.RekeyTime, c.ReauthTime) / 10
	}
	if !given["rand_time"] {
		x := max(c.RekeyTime, c.ReauthTime)
		if c.RekeyTime > 0 && c.ReauthTime > 0 {
			x = min(c.RekeyTime, c.ReauthTime)
		}
		c.RandTime = min(c.OverTime, x/2)
	}
	for _, side := range []*[]*Auth{&c.Local, &c.Remote} {
		if len(*side) == 0 {
			*side = []*Auth{{Implied: true, pos: c.pos}}
		}
	}
}
