package conf

import (
	"fmt"
	"strings"

	"iked/internal/ident"
	"iked/internal/pki"
	"iked/spd"
)

// Users is who knows the users of XAuth.
type Users uint8

// Who may know them.
const (
	UsersSecrets Users = iota // the secrets of type xauth
	UsersRadius
	UsersHook // the program that xauth_hook names
)

func authFields() []field[Auth] {
	return []field[Auth]{
		{key: "round", typ: "number", def: "0", doc: "Order of the rounds.", set: integer(0, 1<<30, func(a *Auth) *int { return &a.Round })},
		{key: "auth", typ: "psk, pubkey, rsa…, ecdsa…, xauth…", doc: "Class of authentication. xauth is a user name and a password behind phase 1 of IKEv1: as second round, or as the only one (hybrid). In remote, xauth looks the user up in secrets, xauth-radius asks the servers of radius, xauth-hook (or xauth-pam) the program of xauth_hook. Without it: a pre-shared key if a secret of the two identities is there, else certificates. Constraints on the key and the hash may follow, as rsa-3072-sha256, ecdsa-384, rsa/pss-sha256, pubkey-ed25519; after ike: hashes are about the IKE signature only.", set: setAuth},
		{key: "id", typ: "identity", def: "local: subject of the certificate, or the own address; remote: %any", doc: "Own identity, or the expected one; that may be a subnet, a range or have wildcards. KINK: a principal, as kink/a.example.org@EXAMPLE.ORG; remote, with * for any characters of one component.", set: func(l *loader, a *Auth, it *Item) error {
			a.text = it.Value
			return identity(func(a *Auth) *ident.ID { return &a.ID })(l, a, it)
		}},
		{key: "keytab", typ: "file", def: "default_keytab_name of krb5_conf", doc: "KINK, local: the file with the own keys; without that name in krb5_conf, /etc/krb5.keytab. It is read again when it changes.", fileOnly: true, set: localFile(func(a *Auth) *string { return &a.Keytab })},
		{key: "ccache", typ: "file", doc: "KINK, local: a credential cache that somebody else keeps fresh, in place of a keytab. Without a keytab peers reach this host by user-to-user alone.", fileOnly: true, set: localFile(func(a *Auth) *string { return &a.CCache })},
		{key: "certs", typ: "list of files", list: true, binary: true, doc: "Local: own certificates to choose from. Remote: the only certificates accepted; they need no CA. Names are looked up in certs/.", set: certificates("certs", func(a *Auth) *[]*pki.Cert { return &a.Certs })},
		{key: "cacerts", typ: "list of files", list: true, binary: true, doc: "The only CAs accepted. Names are looked up in cacerts/.", set: certificates("cacerts", func(a *Auth) *[]*pki.Cert { return &a.CACerts })},
		{key: "ca_id", typ: "identity", doc: "Identity that a CA of the peer's chain must have.", set: identity(func(a *Auth) *ident.ID { return &a.CAID })},
		{key: "revocation", typ: "relaxed, ifuri, strict", def: "relaxed", doc: "relaxed refuses what is known to be revoked; ifuri also a certificate that names a CRL when none is in crls/; strict every certificate without valid CRL.",
			set: choice(func(a *Auth) *pki.Revocation { return &a.Revocation }, []string{"relaxed", "ifuri", "strict"}, pki.Relaxed, pki.IfURI, pki.Strict)},
		{key: "cert_policy", typ: "list of OIDs", list: true, doc: "One of these policies must be in the peer's certificate.", set: each(func(_ *loader, a *Auth, s string) error {
			if strings.Trim(s, "0123456789.") != "" || s == "" {
				return fmt.Errorf("expected an OID such as 1.3.6.1.4.1.1, found %s", quote(s))
			}
			a.CertPolicy = append(a.CertPolicy, s)
			return nil
		})},
		{key: "pubkeys", typ: "list of files", list: true, binary: true, doc: "Raw public keys: not supported by this version.", set: unsupported[Auth]()},
		{key: "groups", typ: "list of names", list: true, doc: "Group memberships: not supported by this version.", set: unsupported[Auth]()},
		{key: "eap_id", typ: "identity", doc: "EAP: not supported by this version.", set: unsupported[Auth]("")},
		{key: "aaa_id", typ: "identity", doc: "EAP: not supported by this version.", set: unsupported[Auth]("")},
		{key: "home_addresses", typ: "list of addresses, subnets or ranges", list: true, doc: "Remote, with mobility_role agent or correspondent: the home addresses that the peer may have (RFC 4877, Section 6.1). Where id stands for many peers, each may have one of them that nobody else has, the first that comes; home_addresses at the top of the file binds each to one identity, whose it is then also when it is not there.", set: homes(func(a *Auth) *[]spd.TS { return &a.HomeAddresses })},
		{key: "xauth_id", typ: "text", doc: "IKEv1: the own user name for XAuth, with auth: xauth in a local section.", set: text(func(a *Auth) *string { return &a.User })},
	}
}

func setAuth(_ *loader, a *Auth, it *Item) error {
	a.Text = it.Value
	low := strings.ToLower(it.Value)
	switch {
	case low == "psk":
		a.Class = AuthPSK
		return nil
	case low == "xauth" || low == "xauth-generic":
		a.Class = AuthXAuth
		return nil
	case low == "xauth-radius":
		a.Class, a.Users = AuthXAuth, UsersRadius
		return nil
	case low == "xauth-hook" || low == "xauth-pam":
		a.Class, a.Users = AuthXAuth, UsersHook
		return nil
	case strings.HasPrefix(low, "eap") || strings.HasPrefix(low, "xauth"):
		return refuse("use psk or pubkey, or with IKEv1 xauth, xauth-radius or xauth-hook", "not supported by this version: auth %s", quote(it.Value))
	case strings.HasPrefix(low, "pubkey"), strings.HasPrefix(low, "rsa"), strings.HasPrefix(low, "ecdsa"), strings.HasPrefix(it.Value, "ike:"):
		c, err := pki.ParseConstraints(it.Value)
		if err != nil {
			return err
		}
		a.Class, a.Constraints = AuthPubkey, c
		return nil
	}
	return refuse("", "expected psk, pubkey, rsa… or ecdsa…, found %s", quote(it.Value))
}

// certificates reads a list of files, or of certificates with the control
// protocol.
func certificates(sub string, at func(*Auth) *[]*pki.Cert) setter[Auth] {
	return each(func(l *loader, a *Auth, s string) error {
		data, source := []byte(s), ""
		if !l.vici {
			var err error
			if data, source, err = l.read(sub, s); err != nil {
				return err
			}
		}
		certs, err := pki.ParseCerts(data, source)
		if err != nil {
			return err
		}
		*at(a) = append(*at(a), certs...)
		return nil
	})
}

// credential is a sub-section cert* or cacert* of a round.
type credential struct{ file, handle string }

func credentialFields() []field[credential] {
	return []field[credential]{
		{key: "file", typ: "path", doc: "File with the certificate.", set: text(func(c *credential) *string { return &c.file })},
		{key: "handle", typ: "hexadecimal", doc: "Token: not supported by this version.", set: text(func(c *credential) *string { return &c.handle })},
		{key: "slot", typ: "number", doc: "As handle.", set: checkOnly[credential](func(s string) (uint64, error) { return parseUint(s, 32) })},
		{key: "module", typ: "name", doc: "As handle.", set: checkOnly[credential](func(s string) (string, error) { return s, nil })},
	}
}

func (l *loader) auth(it *Item, prefix string) *Auth {
	a := &Auth{Name: it.Key[len(prefix):], pos: it.Tree.Pos}
	sub := func(s *Item) bool {
		low := strings.ToLower(s.Key)
		place := &a.Certs
		switch {
		case strings.HasPrefix(low, "cacert"):
			place = &a.CACerts
		case !strings.HasPrefix(low, "cert"):
			return false
		}
		l.credentialSection(s, place)
		return true
	}
	given := fill(l, authFields(), a, it.Tree, sub)
	a.Implied = !given["auth"]
	return a
}

func (l *loader) credentialSection(it *Item, at *[]*pki.Cert) {
	var c credential
	fill(l, credentialFields(), &c, it.Tree, nil)
	special := func(text string) {
		l.fault(it.Pos, "", "%s: %s", text, it.Key)
		l.faults[len(l.faults)-1].exact = text + ": " + it.Key
	}
	switch {
	case c.file == "" && c.handle == "":
		special("handle or file path missing")
	case c.file != "" && c.handle != "":
		special("handle and file path given")
	case c.handle != "":
		special("unable to load certificate")
	default:
		data, source, err := l.read("certs", c.file)
		if err == nil {
			var certs []*pki.Cert
			if certs, err = pki.ParseCerts(data, source); err == nil {
				*at = append(*at, certs...)
				return
			}
		}
		special("unable to load certificate")
	}
}
