package conf

import (
	"path/filepath"
	"slices"
	"strings"

	"iked/internal/ident"
	"iked/kink"
)

// localFile takes the name of a file that is read later: absolute, or beside the
// configuration.
func localFile(at func(*Auth) *string) setter[Auth] {
	return func(l *loader, a *Auth, it *Item) error {
		name := strings.TrimPrefix(it.Value, "FILE:")
		if name == "" {
			return refuse("", "expected the name of a file")
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(l.dir, name)
		}
		*at(a) = name
		return nil
	}
}

// completeKINK sets what is otherwise in KINK.
func (c *Connection) completeKINK(given map[string]bool) {
	if !given["remote_port"] {
		c.RemotePort = 910
	}
	for _, side := range [][]*Auth{c.Local, c.Remote} {
		for _, a := range side {
			if a.text != "" {
				a.ID = ident.ID{Type: ident.Kerberos, Data: strings.TrimPrefix(a.text, "krb5:")}
			}
		}
	}
	for _, key := range []string{"aggressive", "aggressive_psk", "proposals", "vips", "pull", "unity", "encap", "mobike", "fragmentation", "send_certreq", "send_cert", "reauth_time", "rekey_time", "over_time", "rand_time", "pools"} {
		if given[key] {
			c.given = append(c.given, key)
		}
	}
}

// checkKINK holds a connection of KINK against what RFC 4430 has.
func (l *loader) checkKINK(c *Connection) {
	for _, key := range c.given {
		l.fault(c.pos.sub(key, 0), "remove it", "%s is about IKE, and KINK has no SA of its own that it could be about", key)
	}
	for _, side := range []struct {
		name string
		list []*Auth
	}{{"local", c.Local}, {"remote", c.Remote}} {
		a := side.list[0]
		if a.text == "" {
			l.fault(c.pos.sub(side.name, 0), "add to the connection: "+side.name+": {id: kink/host.example.org@EXAMPLE.ORG}", "KINK needs the principals of both sides, and %s.id is not there", side.name)
			continue
		}
		if len(side.list) > 1 || a.Class != AuthAny || len(a.Certs)+len(a.CACerts)+len(a.CertPolicy) > 0 || !a.CAID.IsAny() || a.User != "" {
			l.fault(a.pos, "remove auth, certs and all that is about them", "KINK authenticates by Kerberos alone")
		}
	}
	if a := c.Local[0]; a.text != "" {
		p, err := kink.ParsePrincipal(a.ID.Data)
		switch {
		case err != nil:
			l.fault(a.pos.sub("id", 0), "write it as kink/host.example.org@EXAMPLE.ORG", "%v", err)
		case a.Keytab != "" && a.CCache != "":
			l.fault(a.pos.sub("ccache", 0), "keep one of them", "the own tickets come from a keytab or from a credential cache, not from both")
		case !slices.Equal(p.Components()[:1], []string{"kink"}) && !c.UserToUser:
			// RFC 4430, Section 3: the name of the service.
			l.warn(a.pos.sub("id", 0), "use kink/host.example.org@EXAMPLE.ORG", "peers look for the service kink, and this host is %s", p)
		}
	}
	if a := c.Remote[0]; a.text != "" {
		if a.Keytab != "" || a.CCache != "" {
			l.fault(a.pos, "move it to local", "a peer keeps its keytab to itself")
		}
		pattern, err := kink.ParsePattern(a.ID.Data)
		if err != nil {
			l.fault(a.pos.sub("id", 0), "write it as kink/*.example.org@EXAMPLE.ORG", "%v", err)
			return
		}
		l.checkPeerName(c, pattern)
	}
}

// checkPeerName looks whether the principal of the peer is known when it must be
// asked: by the identity, by a name in remote_addrs, or on demand by the name that an
// address has.
func (l *loader) checkPeerName(c *Connection, pattern kink.Pattern) {
	if _, one := pattern.Exact(); one {
		return
	}
	named := slices.ContainsFunc(c.RemoteAddrs, func(h Host) bool { return h.Name != "" })
	for _, ch := range c.Children {
		if ch.SAs() && (ch.StartAction|ch.CloseAction|ch.DPDAction)&ActionStart != 0 && !named {
			l.fault(ch.pos.sub("start", 0), "name the peer in remote_addrs by its DNS name, or write its principal as remote.id, or set start: on-demand", "the pattern %s does not say which principal is at the address, so that nothing can be asked of it", pattern)
		}
	}
}
