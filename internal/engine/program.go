package engine

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/keyex"
	"iked/migrate"
	"iked/sad"
	"iked/spd"
)

// program is the configuration in force, in the form that the engine runs on.
// It is immutable; a change makes a new one.
type program struct {
	global conf.Global
	v1     bool // some connection speaks IKEv1
	radius []*conf.Radius
	kink   bool // some connection speaks KINK
	conns  map[string]*connProgram
	order  []*connProgram
	// exact finds the connections whose remote address is one that is known;
	// others must be asked one by one.
	exact  map[netip.Addr][]*connProgram
	others []*connProgram
}

// connProgram is one connection.
type connProgram struct {
	conf *conf.Connection
	ike  *ikev2.Config
	// vici tells that it came over the control protocol.
	vici  bool
	index int
	km    []migrate.Child // its children as MIGRATE sees them
}

// childExtra is what the engine keeps with a child's configuration.
type childExtra struct {
	conf     *conf.Child
	priority uint32
}

func childRef(c *ikev2.ChildConfig) childExtra {
	if x, ok := c.Ref.(*childExtra); ok {
		return *x
	}
	return childExtra{}
}

func emptyProgram() *program { return buildProgram(conf.Global{}, nil, nil, nil) }

// buildProgram makes the program of the connections of the file and of those
// that came over the control protocol. old is reused where nothing changed, so
// that IKE SAs and their configuration stay the same object. fit is called with
// every new configuration of the state machine; nil: none.
func buildProgram(g conf.Global, old *program, fit func(*ikev2.Config), lists ...[]*connProgram) *program {
	p := &program{global: g, conns: make(map[string]*connProgram), exact: make(map[netip.Addr][]*connProgram)}
	for _, list := range lists {
		for _, c := range list {
			if old != nil {
				if o := old.conns[c.conf.Name]; o != nil && o.conf == c.conf && old.global == g {
					c = &connProgram{conf: o.conf, ike: o.ike, vici: c.vici, km: o.km}
				}
			}
			if c.ike == nil {
				c.ike, c.km = ikeConfig(&g, c.conf), kmChildren(c.conf)
				if fit != nil {
					fit(c.ike)
				}
			}
			c.index = len(p.order)
			p.v1 = p.v1 || c.ike.Version == 1
			p.kink = p.kink || c.ike.Version == keyex.VersionKINK
			p.conns[c.conf.Name] = c
			p.order = append(p.order, c)
		}
	}
	for _, c := range p.order {
		onlyAddrs := len(c.conf.RemoteAddrs) > 0
		for _, h := range c.conf.RemoteAddrs {
			if _, one := h.Addr(); !one {
				onlyAddrs = false
			}
		}
		if !onlyAddrs {
			p.others = append(p.others, c)
			continue
		}
		for _, h := range c.conf.RemoteAddrs {
			a, _ := h.Addr()
			p.exact[a] = append(p.exact[a], c)
		}
	}
	return p
}

// Ranks of how well an address fits a connection.
const (
	rankNone  = -1
	rankName  = 0 // a name, which says nothing about the address of the moment
	rankAny   = 1
	rankRange = 2
	rankHost  = 3
)

// candidates are the connections that may answer a peer, best first: the more
// exactly the addresses are given, the better; then in the order of the
// configuration. An address alone proves nothing, so a connection with a peer
// name takes part as well, last: its address may just have changed.
func (p *program) candidates(local, remote netip.Addr, version uint8) []*ikev2.Config {
	type ranked struct {
		c    *connProgram
		r, l int
	}
	var list []ranked
	try := func(c *connProgram) {
		if versionOrTwo(c.ike.Version) != version {
			return
		}
		r, l := fit(c.conf.RemoteAddrs, remote), fit(c.conf.LocalAddrs, local)
		if r > rankNone && l > rankNone {
			list = append(list, ranked{c, r, l})
		}
	}
	for _, c := range p.exact[remote] {
		try(c)
	}
	for _, c := range p.others {
		try(c)
	}
	slices.SortStableFunc(list, func(a, b ranked) int {
		return cmp.Or(b.r-a.r, b.l-a.l, a.c.index-b.c.index)
	})
	out := make([]*ikev2.Config, len(list))
	for i, x := range list {
		out[i] = x.c.ike
	}
	return out
}

// versionOrTwo is a version of a configuration, where 0 means 2.
func versionOrTwo(v uint8) uint8 {
	if v == 0 {
		return 2
	}
	return v
}

// fit is how well an address fits a list; an empty list means any.
func fit(list []conf.Host, a netip.Addr) int {
	if len(list) == 0 {
		return rankAny
	}
	best := rankNone
	for _, h := range list {
		r := rankNone
		switch _, one := h.Addr(); {
		case h.Name != "":
			r = rankName
		case !h.Contains(a):
		case one:
			r = rankHost
		case h.IsAny():
			r = rankAny
		default:
			r = rankRange
		}
		best = max(best, r)
	}
	return best
}

// dpdAlways is the liveness interval of a connection that must be always up and
// that gives none, and of one that packets ask for: without one a peer that vanished
// would never be noticed.
const dpdAlways = 30 * time.Second

// ikeConfig is a connection as the state machine reads it.
func ikeConfig(g *conf.Global, c *conf.Connection) *ikev2.Config {
	keepAlive := g.KeepAlive
	if keepAlive == 0 {
		keepAlive = -1 // none; 0 is the default there
	}
	cfg := &ikev2.Config{
		Name: c.Name, Version: uint8(c.Version), Proposals: c.Proposals,
		V1:    v1Config(c),
		KINK:  keyex.KINK{Racoon2: c.Racoon2, UserToUser: c.UserToUser},
		Local: authConfig(c.Local, true), Remote: authConfig(c.Remote, false),
		FragmentSize: g.FragmentSize, ForceEncap: c.Encap, Mobike: c.Mobike, NoNATs: c.NoNATs, SendCertReq: c.SendCertReq,
		VIPs: c.VIPs, Pools: c.Pools, DPDDelay: c.DPDDelay, KeepAlive: keepAlive, PortNATT: g.PortNATT,
		InitialContact: c.Unique != conf.UniqueNever, HalfOpen: g.Limits.HalfOpenTimeout,
		Retransmit: ikev2.Retransmit{Timeout: g.Retransmit.Timeout, Base: g.Retransmit.Base,
			Tries: g.Retransmit.Tries, Max: g.Retransmit.Max, Jitter: g.Retransmit.Jitter},
		Role: c.MobilityRole, Homes: homesOf(c), Ref: c,
	}
	if c.RekeyTime > 0 {
		cfg.Rekey = ikev2.Lifetime{Rekey: c.RekeyTime, Hard: c.RekeyTime + c.OverTime, Jitter: c.RandTime}
	}
	if c.ReauthTime > 0 {
		cfg.Reauth = ikev2.Lifetime{Rekey: c.ReauthTime, Hard: c.ReauthTime + c.OverTime, Jitter: c.RandTime}
	}
	switch c.Fragmentation {
	case conf.FragAccept:
		cfg.Fragmentation = ikev2.FragAccept
	case conf.FragNo:
		cfg.Fragmentation = ikev2.FragNo
	}
	switch c.SendCert {
	case conf.CertAlways:
		cfg.SendCert = ikev2.CertAlways
	case conf.CertNever:
		cfg.SendCert = ikev2.CertNever
	}
	for _, ch := range c.Children {
		if ch.Mode == conf.ModePass || ch.Mode == conf.ModeDrop {
			continue // policies without SAs
		}
		child := childConfig(ch)
		// A tunnel between the addresses of IKE is none for what is between a home address
		// and its peer.
		child.ModeRequired = child.ModeRequired || cfg.OwnEnds(child.Mode)
		cfg.Children = append(cfg.Children, child)
		if (ch.Start == conf.StartAlways || c.PerPacket(ch)) && cfg.DPDDelay == 0 {
			cfg.DPDDelay = dpdAlways
		}
	}
	return cfg
}

// homesOf are the home addresses that the peers of a connection may have: those of the
// remote section whoever of it the peer is, and those of the list by identity.
func homesOf(c *conf.Connection) []keyex.Home {
	var out []keyex.Home
	if list := c.HomeTS(); len(list) > 0 {
		out = append(out, keyex.Home{ID: c.Remote[0].ID, Addrs: list})
	}
	for _, h := range c.Homes {
		out = append(out, keyex.Home{ID: h.ID, Addrs: h.Addrs})
	}
	return out
}

// v1Config is what only IKEv1 knows: a second round of authentication, or an only
// one without certificate and secret, is XAuth.
func v1Config(c *conf.Connection) keyex.V1 {
	v := keyex.V1{Aggressive: c.Aggressive, AggressivePSK: c.AggressivePSK, LifeCheck: lifeCheck(c.LifeCheck), Push: c.Push, Unity: c.Unity}
	for i, side := range [][]*conf.Auth{c.Local, c.Remote} {
		for _, a := range side {
			if a.Class != conf.AuthXAuth {
				continue
			}
			v.XAuth, v.Hybrid = keyex.XAuthServer, len(side) == 1
			if i == 0 {
				v.XAuth, v.User = keyex.XAuthClient, a.User
			}
		}
	}
	return v
}

func lifeCheck(l conf.LifeCheck) keyex.LifeCheck {
	switch l {
	case conf.LifeObey:
		return keyex.LifeObey
	case conf.LifeStrict:
		return keyex.LifeStrict
	case conf.LifeExact:
		return keyex.LifeExact
	}
	return keyex.LifeClaim
}

func authConfig(rounds []*conf.Auth, local bool) ikev2.AuthConfig {
	if len(rounds) == 0 {
		return ikev2.AuthConfig{}
	}
	a := rounds[0]
	out := ikev2.AuthConfig{ID: a.ID, Ref: a}
	switch a.Class {
	case conf.AuthPSK:
		out.Class = ikev2.AuthPSK
	case conf.AuthPubkey:
		out.Class = ikev2.AuthPubkey
	default:
		if local {
			out.Class = ikev2.AuthPubkey
		}
	}
	return out
}

func childConfig(c *conf.Child) *ikev2.ChildConfig {
	cfg := &ikev2.ChildConfig{
		Name: c.Name, Mode: modeOf(c.Mode), Proposals: c.Proposals, AH: c.AH, IPComp: c.IPComp, ReqID: c.ReqID,
		Local: selectors(c.Local), Remote: selectors(c.Remote),
		Time:      ikev2.Lifetime{Rekey: c.Time.Rekey, Hard: c.Time.Life, Jitter: c.Time.Rand},
		SoftBytes: c.Bytes.Rekey, HardBytes: c.Bytes.Life, BytesJitter: c.Bytes.Rand,
		SoftPackets: c.Packets.Rekey, HardPackets: c.Packets.Life, PacketsJitter: c.Packets.Rand,
		ReplayWindow: c.ReplayWindow, TFCPadding: c.TFCPadding, SHA256_96: c.SHA256_96,
		NoECN: !c.CopyECN, Inactivity: c.Inactivity, ModeRequired: c.ModeRequired, PFP: c.PFP,
		Ref: &childExtra{conf: c, priority: c.Priority},
	}
	if c.PFP != 0 {
		cfg.Limit = c.PFPLimit
	}
	switch c.DF {
	case conf.DFSet:
		cfg.DF = sad.DFSet
	case conf.DFClear:
		cfg.DF = sad.DFClear
	}
	switch c.CopyDSCP {
	case conf.DSCPIn:
		cfg.DSCP = sad.DSCPIn
	case conf.DSCPBoth:
		cfg.DSCP = sad.DSCPBoth
	case conf.DSCPNo:
		cfg.DSCP = sad.DSCPNo
	}
	if c.OthersPolicies && cfg.Mode != spd.Tunnel {
		cfg.ModeRequired = true // SAs of another mode would serve none of the policies
	}
	return cfg
}

func modeOf(m conf.Mode) spd.Mode {
	switch m {
	case conf.ModeTransport:
		return spd.Transport
	case conf.ModeBEET:
		return spd.BEET
	}
	return spd.Tunnel
}

func selectors(list []conf.TS) []ikev2.Selector {
	out := make([]ikev2.Selector, len(list))
	for i, t := range list {
		out[i] = ikev2.Selector{TS: t.TS, Dynamic: t.Dynamic}
	}
	return out
}

// failClosed tells whether the traffic of a child is dropped while it is down.
func failClosed(g *conf.Global, c *conf.Child) bool {
	if c.Fail == conf.FailDefault {
		return g.Fail != conf.FailOpen
	}
	return c.Fail == conf.FailClosed
}
