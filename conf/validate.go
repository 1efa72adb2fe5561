package conf

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"iked/crypto/suite"
	"iked/internal/ident"
	"iked/internal/pki"
	"iked/spd"
)

// validate checks what no single key can tell. Every fault has its place and says
// what to do.
func (l *loader) validate(c *Config) {
	top := l.top
	if c.Port == c.PortNATT {
		l.fault(top.sub("port_nat_t", 0), "choose two", "port and port_nat_t are the same, %d", c.Port)
	}
	if c.PortKINK == c.Port || c.PortKINK == c.PortNATT {
		l.fault(top.sub("port_kink", 0), "choose another", "port_kink is a port of IKE, %d", c.PortKINK)
	}
	if c.Limits.HalfOpenPerSource > c.Limits.HalfOpen {
		l.warn(top.sub("limits.half_open_per_source", 0), "lower it", "half_open_per_source (%d) is above half_open (%d) and never counts", c.Limits.HalfOpenPerSource, c.Limits.HalfOpen)
	}
	// What follows from a fault that was reported already is not reported again.
	found := l.faults
	broken := func(key string) bool {
		return slices.ContainsFunc(found, func(f *Fault) bool { return !f.Warning && (f.Key == key || strings.HasPrefix(f.Key, key+".")) })
	}
	noCredentials := slices.ContainsFunc(found, func(f *Fault) bool {
		return !f.Warning && (f.Key == "" || strings.HasPrefix(f.Key, "secrets") || strings.HasPrefix(f.Key, "authorities"))
	})
	store, names := c.Store(nil), make(map[string]bool, len(c.Pools))
	for _, p := range c.Pools {
		names[p.Name] = true
	}
	for _, conn := range c.Connections {
		if len(found) > 0 && broken(conn.pos.Key) {
			continue
		}
		l.checkConnection(conn)
		l.checkPools(c, names, conn)
		l.checkUsers(c, conn)
		l.checkProof(c, conn)
		l.checkAddresses(conn)
		if !noCredentials && conn.Version != VersionKINK {
			l.checkCredentials(c, store, conn)
		}
		if p := conn.LocalPort; p != 0 && p != c.Port && p != c.PortNATT && conn.Version != VersionKINK {
			l.fault(conn.pos.sub("local_port", 0), "remove local_port, or set port", "the daemon has the ports %d and %d only, not %d", c.Port, c.PortNATT, p)
		}
	}
	l.checkInterfaces(c)
	l.checkOverlap(c)
	l.checkCerts(c)
}

// checkConnection holds the keys of one connection against each other; the
// control protocol runs it, too.
func (l *loader) checkConnection(c *Connection) {
	for _, x := range []struct {
		key string
		val timeDuration
	}{{"rekey_time", c.RekeyTime}, {"reauth_time", c.ReauthTime}} {
		if x.val > 0 && c.RandTime >= x.val {
			l.fault(c.pos.sub("rand_time", 0), "lower rand_time", "rand_time (%v) takes away all of %s (%v)", c.RandTime, x.key, x.val)
		}
	}
	for _, a := range c.Local {
		if !a.ID.IsAny() && a.ID.IsPattern() {
			l.fault(a.pos.sub("id", 0), "write one identity", "the own identity %s matches more than one", a.ID)
		}
	}
	l.checkVersion(c)
	l.checkMobility(c)
	switch at := c.pos.sub("nat_traversal", 0); {
	case c.NoNATs && c.Version != 2:
		l.fault(at, "remove nat_traversal, or set version to 2", "nat_traversal is about IKEv2, and the connection speaks another key exchange")
	case c.NoNATs && c.Encap:
		l.fault(at, "remove nat_traversal, or encap", "encap acts as if there were a NAT, and nat_traversal allows none")
	}
	for _, ch := range c.Children {
		l.checkChild(c, ch)
	}
}

func (l *loader) checkChild(c *Connection, ch *Child) {
	limit := func(unit string, rekey, life, rnd uint64, show func(uint64) string) {
		switch {
		case life > 0 && rekey >= life:
			l.fault(ch.pos.sub("life_"+unit, 0), "raise life_"+unit+" or lower rekey_"+unit, "the SA ends (life_%s %s) before its keys are replaced (rekey_%s %s)", unit, show(life), unit, show(rekey))
		case rekey > 0 && rnd >= rekey:
			l.fault(ch.pos.sub("rand_"+unit, 0), "lower rand_"+unit, "rand_%s (%s) takes away all of rekey_%s (%s)", unit, show(rnd), unit, show(rekey))
		}
	}
	l.checkRoute(ch)
	l.checkPolicies(ch)
	number := func(n uint64) string { return fmt.Sprint(n) }
	limit("time", uint64(ch.Time.Rekey), uint64(ch.Time.Life), uint64(ch.Time.Rand), func(n uint64) string { return timeDuration(n).String() })
	limit("bytes", ch.Bytes.Rekey, ch.Bytes.Life, ch.Bytes.Rand, number)
	limit("packets", ch.Packets.Rekey, ch.Packets.Life, ch.Packets.Rand, number)
	if !ch.SAs() {
		l.checkShunt(ch)
		return
	}
	l.checkStart(c, ch)
	if ch.ReplayWindow > 0 && ch.ReplayWindow < 32 {
		l.fault(ch.pos.sub("replay_window", 0), "set it to 32 or more", "a replay window of %d packets is below the 32 of RFC 4303, Section 3.4.3", ch.ReplayWindow)
	}
	if !families(ch.Local, ch.Remote) {
		l.fault(ch.pos.sub("remote_ts", 0), "use selectors of one family on both sides", "no selector of local_ts has the address family of one of remote_ts")
	}
	l.checkPFS(ch)
	l.checkSuite(c, ch)
	l.checkCompression(c, ch)
	l.checkMode(c, ch)
	l.checkPFP(ch)
}

// families tells whether some pair of selectors is of one family.
func families(a, b []TS) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Dynamic || y.Dynamic || x.From.Is4() == y.From.Is4() {
				return true
			}
		}
	}
	return false
}

// checkPFS warns when forward secrecy is asked for in some proposals only: the
// peer then decides.
func (l *loader) checkPFS(ch *Child) {
	with, without := 0, 0
	for _, p := range ch.Proposals {
		if slices.ContainsFunc(p.Transforms, func(t suite.Transform) bool { return t.Type == suite.KE && t.ID != suite.KENone }) {
			with++
		} else {
			without++
		}
	}
	if with > 0 && without > 0 {
		l.warn(ch.pos.sub("esp_proposals", 0), "name a key exchange in all of them or in none", "%d of the proposals ask for forward secrecy and %d do not, so the peer decides", with, without)
	}
}

func (l *loader) checkPools(c *Config, known map[string]bool, conn *Connection) {
	for i, name := range conn.Pools {
		if !known[name] {
			var names []string
			for _, p := range c.Pools {
				names = append(names, p.Name)
			}
			remedy := "add it to pools"
			if n := nearest(name, names); n != "" {
				remedy = "did you mean " + n + "?"
			}
			l.fault(conn.pos.sub("pools", 0).at(fmt.Sprint(i), 0), remedy, "there is no pool %s", quote(name))
		}
	}
}

// checkAddresses warns when who gets a virtual address may use others as well.
func (l *loader) checkAddresses(conn *Connection) {
	if len(conn.Pools) == 0 || conn.needsHomes() {
		return
	}
	for _, ch := range conn.Children {
		if !ch.SAs() {
			continue
		}
		if slices.ContainsFunc(ch.Remote, func(t TS) bool { return !t.Dynamic }) {
			l.warn(ch.pos.sub("remote_ts", 0), "remove remote_ts, or write dynamic", "peers get an address of a pool, and remote_ts lets each of them claim every address that it names, those of others too")
		}
	}
}

// checkCredentials looks whether a connection can authenticate at all.
func (l *loader) checkCredentials(c *Config, store *pki.Store, conn *Connection) {
	local, remote := conn.Local[0], conn.Remote[0]
	_, psk := l.psks.Find(local.ID, remote.ID)
	usesPSK := local.Class == AuthPSK || remote.Class == AuthPSK
	if usesPSK && !psk && !patternPSK(c.Secrets, remote.ID) {
		l.fault(conn.pos, "add to secrets: {psk: \"file:…\"}, with id if it is not for everybody", "there is no pre-shared key for %s and %s", local.ID, remote.ID)
	}
	if local.Class == AuthPubkey {
		certs := local.Certs
		if len(certs) == 0 {
			certs = c.endCerts()
		}
		fits := slices.ContainsFunc(certs, func(x *pki.Cert) bool {
			return store.Key(x) != nil && (local.ID.IsAny() || x.Holds(local.ID))
		})
		if !fits {
			what := "there is no own certificate with its private key"
			if !local.ID.IsAny() {
				what += " for the identity " + local.ID.String()
			}
			if local.Implied && len(c.Secrets)+len(c.Keys)+len(certs) == 0 {
				what = "there is neither a pre-shared key nor a certificate with its private key"
			}
			l.fault(conn.pos, "put the certificate into certs/ and its key into private/ beside the configuration, or add a psk to secrets", "%s", what)
		}
		for _, x := range local.Certs {
			if store.Key(x) == nil {
				l.fault(local.pos.sub("certs", 0), "put its private key into private/", "certificate %q has no private key", x.Name())
			}
		}
	}
	if remote.Class == AuthPubkey && len(remote.Certs) == 0 && len(remote.CACerts) == 0 && len(store.Anchors()) == 0 {
		own := slices.ContainsFunc(c.endCerts(), func(x *pki.Cert) bool { return store.Key(x) == nil })
		if !own {
			l.fault(conn.pos, "put the CA certificate into cacerts/ beside the configuration, or name it in cacerts of the remote section", "nothing is there to check the peer's certificate with")
		}
	}
}

// patternPSK tells whether a secret could fit a peer that is known by a pattern
// only.
func patternPSK(secrets []*Secret, remote ident.ID) bool {
	return remote.IsPattern() && slices.ContainsFunc(secrets, func(s *Secret) bool {
		return slices.ContainsFunc(s.Owners, func(o ident.ID) bool { return ident.Match(remote, o) > ident.None })
	})
}

// checkOverlap warns about two children that want the same traffic.
func (l *loader) checkOverlap(c *Config) {
	type traffic struct {
		local, remote string
		priority      uint32
		ifID          uint32
		mark          spd.Mark
	}
	seen := make(map[traffic]string)
	for _, conn := range c.Connections {
		for _, ch := range conn.Children {
			dyn := func(t TS) bool { return t.Dynamic }
			if slices.ContainsFunc(ch.Local, dyn) || slices.ContainsFunc(ch.Remote, dyn) {
				continue // whose address it will be is not known yet
			}
			if ch.OthersPolicies {
				continue // it has no policy that could be covered
			}
			k := traffic{
				string(appendValue(nil, reflect.ValueOf(ch.Local))), string(appendValue(nil, reflect.ValueOf(ch.Remote))), ch.Priority, ch.IfIDOut, ch.MarkOut,
			}
			if first, ok := seen[k]; ok {
				l.warn(ch.pos.sub("remote_ts", 0), "narrow the selectors, or set priority", "the selectors are those of %s, too; its policy comes first", first)
			} else {
				seen[k] = conn.Name + "/" + ch.Name
			}
		}
	}
}

// checkCerts warns about certificates that cannot be used any more, and keys
// without certificate.
func (l *loader) checkCerts(c *Config) {
	check := func(pos Pos, x *pki.Cert) {
		switch {
		case l.now.After(x.X509.NotAfter):
			l.warn(pos, "renew it", "certificate %q expired on %s", x.Name(), x.X509.NotAfter.UTC().Format("2006-01-02 15:04:05 MST"))
		case l.now.Before(x.X509.NotBefore):
			l.warn(pos, "set the clock of this system", "certificate %q is valid from %s on only", x.Name(), x.X509.NotBefore.UTC().Format("2006-01-02 15:04:05 MST"))
		}
	}
	all := c.endCerts()
	for _, x := range c.Certs {
		check(Pos{File: x.File}, x.Cert)
	}
	for _, conn := range c.Connections {
		for _, a := range slices.Concat(conn.Local, conn.Remote) {
			for _, x := range slices.Concat(a.Certs, a.CACerts) {
				check(a.pos.sub("certs", 0), x)
			}
			all = append(all, a.Certs...)
		}
	}
	for _, k := range c.Keys {
		if !slices.ContainsFunc(all, func(x *pki.Cert) bool { return x.KeyID == k.Key.KeyID }) {
			l.warn(k.pos, "put its certificate into certs/, or remove the key", "no certificate belongs to the private key %s", k.File)
		}
	}
}

// endCerts are the certificates that are no trust anchors.
func (c *Config) endCerts() []*pki.Cert {
	var out []*pki.Cert
	for _, x := range c.Certs {
		if !x.CA {
			out = append(out, x.Cert)
		}
	}
	return out
}

// Store makes the credential store of this snapshot. The cache of received
// certificates may be that of the snapshot before; nil makes a new one.
func (c *Config) Store(cache *pki.Cache) *pki.Store {
	s := pki.StoreConfig{Certs: c.endCerts(), MinRSA: c.MinRSABits, Cache: cache}
	for _, x := range c.Certs {
		if x.CA {
			s.Anchors = append(s.Anchors, x.Cert)
		}
	}
	for _, a := range c.Authorities {
		if a.CACert != nil {
			s.Anchors = append(s.Anchors, a.CACert)
		}
	}
	for _, conn := range c.Connections {
		for _, a := range conn.Local {
			s.Certs = append(s.Certs, a.Certs...)
		}
	}
	for _, k := range c.Keys {
		s.Keys = append(s.Keys, k.Key)
	}
	for _, x := range c.CRLs {
		s.CRLs = append(s.CRLs, x.CRL)
	}
	return pki.NewStore(s)
}
