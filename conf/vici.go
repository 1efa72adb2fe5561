package conf

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"iked/internal/ident"
	"iked/internal/pki"
	"iked/internal/secret"
)

// LoadError is the refusal of a load command. Error is the text that clients of
// the control protocol know; Faults say more, for the log.
type LoadError struct {
	Text   string
	Faults Faults
}

// Error implements error.
func (e *LoadError) Error() string { return e.Text }

// LoadConns reads the message of load-conn: a section per connection. Those
// before the first bad one are returned with the error.
func LoadConns(t *Tree) ([]*Connection, error) {
	var out []*Connection
	for i := range t.Items {
		it := &t.Items[i]
		if it.Kind != Section {
			continue // key/values at the top are ignored
		}
		l := newViciLoader()
		sec := named(it)
		if err := checkName(sec.Name); err != nil {
			l.add(sec.Pos, err)
			l.faults[0].exact = "invalid section: " + printableName(sec.Name)
		}
		c := l.connection(sec)
		if !l.faults.Failed() {
			l.checkConnection(c)
		}
		// Without class: pubkey for this side, whatever the peer proves for the other.
		for _, a := range c.Local {
			if a.Implied && c.Version != VersionKINK {
				a.Class = AuthPubkey
			}
		}
		if err := l.refusal("config discarded"); err != nil {
			return out, err
		}
		out = append(out, c)
	}
	return out, nil
}

// LoadPools reads the message of load-pool.
func LoadPools(t *Tree) ([]*Pool, error) {
	var out []*Pool
	for i := range t.Items {
		it := &t.Items[i]
		if it.Kind != Section {
			continue
		}
		l := newViciLoader()
		p := l.pool(named(it))
		if len(l.faults) > 0 && l.faults[0].exact == "" {
			f := l.faults[0]
			switch {
			case f.item == "addrs" && !f.unknown:
				v := ""
				for _, x := range it.Tree.Items {
					if x.Key == "addrs" {
						v = x.Value
					}
				}
				f.exact = "invalid addrs value: " + printableName(v)
			case f.unknown || f.section:
				f.exact = "invalid attribute: " + printableName(f.item)
			default:
				f.exact = "invalid attribute value for " + printableName(f.item)
			}
		}
		if err := l.refusal("pool discarded"); err != nil {
			return out, err
		}
		out = append(out, p)
	}
	return out, nil
}

// LoadAuthorities reads the message of load-authority.
func LoadAuthorities(t *Tree) ([]*Authority, error) {
	var out []*Authority
	for i := range t.Items {
		it := &t.Items[i]
		if it.Kind != Section {
			continue
		}
		l := newViciLoader()
		a := l.authority(named(it))
		if err := l.refusal("authority discarded"); err != nil {
			return out, err
		}
		out = append(out, a)
	}
	return out, nil
}

// LoadShared reads the message of load-shared.
func LoadShared(t *Tree) (*Secret, error) {
	s := &Secret{}
	typ := ""
	for i := range t.Items {
		it := &t.Items[i]
		switch {
		case it.Key == "id" && it.Kind == KeyValue:
			s.Name = it.Value
		case it.Key == "type" && it.Kind == KeyValue:
			typ = it.Value
		case it.Key == "data" && it.Kind == KeyValue:
			s.Data = secret.New([]byte(it.Value))
		case it.Key == "owners" && it.Kind == List:
			for _, o := range it.List {
				id, err := ident.Parse(o)
				if err != nil {
					return nil, &LoadError{Text: "invalid owner identity: " + printableName(o)}
				}
				s.Owners = append(s.Owners, id)
			}
		}
	}
	switch strings.ToLower(typ) {
	case "ike":
		s.Type = SecretIKE
	case "eap", "xauth":
		s.Type = SecretEAP
	case "ntlm":
		s.Type = SecretNTLM
	case "ppk":
		s.Type = SecretPPK
	case "":
		return nil, &LoadError{Text: "missing shared key type"}
	default:
		return nil, &LoadError{Text: "invalid shared key type: " + printableName(typ)}
	}
	if s.Data.Len() == 0 {
		return nil, &LoadError{Text: "shared key data missing"}
	}
	return s, nil
}

// CertKind is what load-cert brought.
type CertKind struct {
	Cert *pki.Cert // type X509
	CA   bool
	CRL  *pki.CRL // type X509_CRL
}

// LoadCert reads the message of load-cert. A certificate with the CA constraint
// becomes a CA, whatever the flag says.
func LoadCert(typ, flag string, data []byte) (CertKind, error) {
	refused := func(format string, a ...any) (CertKind, error) {
		return CertKind{}, &LoadError{Text: fmt.Sprintf(format, a...)}
	}
	switch strings.ToLower(typ) {
	case "":
		return refused("certificate type missing")
	case "x509", "x509_crl", "x509crl":
	case "x509ca":
		typ, flag = "X509", "CA"
	case "x509ocsp":
		typ, flag = "X509", "OCSP"
	case "x509aa":
		typ, flag = "X509", "AA"
	case "x509ac", "x509_ac", "pubkey", "ocsp_response":
		return refused("not supported by this version: certificate type %s", printableName(typ))
	default:
		return refused("invalid certificate type '%s'", printableName(typ))
	}
	if !slices.Contains([]string{"", "NONE", "CA", "AA", "OCSP", "ANY"}, strings.ToUpper(flag)) {
		return refused("invalid certificate flag '%s'", printableName(flag))
	}
	if len(data) == 0 {
		return refused("certificate data missing")
	}
	if strings.HasSuffix(strings.ToLower(typ), "crl") {
		lists, err := pki.ParseCRLs(data, "")
		if err != nil {
			return refused("parsing X509_CRL certificate failed")
		}
		return CertKind{CRL: lists[0]}, nil
	}
	certs, err := pki.ParseCerts(data, "")
	if err != nil {
		return refused("parsing X509 certificate failed")
	}
	k := CertKind{Cert: certs[0], CA: certs[0].IsCA()}
	if strings.EqualFold(flag, "CA") && !k.CA {
		return refused("ca certificate lacks CA basic constraint, rejected")
	}
	return k, nil
}

// LoadKey reads the message of load-key.
func LoadKey(typ string, data []byte) (*pki.Key, error) {
	want := strings.ToLower(typ)
	kinds := map[string]pki.KeyKind{"any": 0, "rsa": pki.KindRSA, "ecdsa": pki.KindECDSA, "ed25519": pki.KindEd25519}
	kind, ok := kinds[want]
	switch {
	case typ == "":
		return nil, &LoadError{Text: "key type missing"}
	case !ok:
		return nil, &LoadError{Text: "invalid key type: " + printableName(typ)}
	case len(data) == 0:
		return nil, &LoadError{Text: "key data missing"}
	}
	k, err := pki.ParseKey(data, secret.Bytes{}, "")
	if err == nil && kind != 0 {
		if got, _ := k.Kind(); got != kind {
			err = errors.New("the key is of another kind")
		}
	}
	if err != nil {
		return nil, &LoadError{Text: "parsing " + strings.ToUpper(want) + " private key failed"}
	}
	return k, nil
}

func newViciLoader() *loader { return &loader{vici: true} }

// named gives a section its name and its place.
func named(it *Item) *Tree {
	t := *it.Tree
	t.Name, t.Pos = it.Key, Pos{Key: it.Key}
	place(&t)
	return &t
}

// place sets the key paths of a tree that came without.
func place(t *Tree) {
	t.Items = slices.Clone(t.Items)
	for i := range t.Items {
		it := &t.Items[i]
		it.Pos = t.Pos.sub(it.Key, 0)
		if it.Kind == Section {
			sub := *it.Tree
			sub.Name, sub.Pos = it.Key, it.Pos
			place(&sub)
			it.Tree = &sub
		}
	}
}

// refusal words the first fault as clients of the control protocol know it.
func (l *loader) refusal(end string) error {
	for _, f := range l.faults {
		if f.Warning {
			continue
		}
		e := &LoadError{Faults: l.faults}
		switch {
		case f.exact != "":
			e.Text = f.exact
		case f.section:
			e.Text = "invalid section: " + printableName(f.item)
		case f.unknown:
			e.Text = "unknown option: " + printableName(f.item) + ", " + end
		case f.item != "":
			e.Text = "invalid value for: " + printableName(f.item) + ", " + end
		default:
			e.Text = f.Key + ": " + f.Message + ", " + end
		}
		return e
	}
	return nil
}

// printableName keeps what a client sent fit for a reply.
func printableName(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return strconv.QuoteToASCII(s)
		}
	}
	return s
}
