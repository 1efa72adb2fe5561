package pki

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"iked/internal/ident"
)

// Store is a snapshot of what is trusted and owned. All methods may be called
// concurrently; nothing but the cache of received certificates changes.
type Store struct {
	anchors []*Cert // trust anchors
	certs   []*Cert // end entity and intermediate certificates
	keys    map[[20]byte]*Key
	crls    []*CRL
	minRSA  int
	cache   *Cache
}

// StoreConfig is what a store is made of.
type StoreConfig struct {
	Anchors []*Cert
	Certs   []*Cert
	Keys    []*Key
	CRLs    []*CRL
	MinRSA  int    // bits, 0: DefaultMinRSA
	Cache   *Cache // shared between snapshots; nil: a new one
}

// NewStore makes a snapshot.
func NewStore(c StoreConfig) *Store {
	s := &Store{
		anchors: unique(c.Anchors), certs: unique(c.Certs), crls: slices.Clone(c.CRLs),
		keys: make(map[[20]byte]*Key, len(c.Keys)), minRSA: c.MinRSA, cache: c.Cache,
	}
	for _, k := range c.Keys {
		s.keys[k.KeyID] = k
	}
	if s.cache == nil {
		s.cache = NewCache(0)
	}
	return s
}

func unique(in []*Cert) []*Cert {
	var out []*Cert
	for _, c := range in {
		if !slices.ContainsFunc(out, c.Equal) {
			out = append(out, c)
		}
	}
	return out
}

// Key returns the private key of a certificate, nil if there is none.
func (s *Store) Key(c *Cert) *Key { return s.keys[c.KeyID] }

// Anchors are the trust anchors; the caller must not change them.
func (s *Store) Anchors() []*Cert { return s.anchors }

// CertRequests are the SHA-1 hashes of the anchors' public keys, concatenated
// (RFC 7296, Section 3.7). With some given, those are used instead of all.
func (s *Store) CertRequests(some []*Cert) []byte {
	if len(some) == 0 {
		some = s.anchors
	}
	var out []byte
	for _, c := range some {
		out = append(out, c.SPKIHash[:]...)
	}
	return out
}

// Own says which own certificate is wanted.
type Own struct {
	// ID is the own identity; %any: the subject of the certificate.
	ID ident.ID
	// Certs are the candidates of the configuration; none: all in the store.
	Certs []*Cert
	// Constraints of local auth.
	Constraints Constraints
	// CertRequests are the peer's hashes, 20 octets each; empty: it has no wish.
	CertRequests []byte
}

// Identity is an own identity: the chain has the leaf first and ends before the
// self-signed certificate.
type Identity struct {
	ID    ident.ID
	Key   *Key
	Chain []*Cert
}

// Choose picks an own certificate with its private key: one whose issuers the
// peer asked for if there is one, and the one that is valid longest among equals.
func (s *Store) Choose(now time.Time, o Own) (*Identity, *Failure) {
	candidates := o.Certs
	if len(candidates) == 0 {
		candidates = s.certs
	}
	var best *Identity
	bestScore := -1
	var evidence []string
	for _, c := range candidates {
		note := func(why string) { evidence = append(evidence, fmt.Sprintf("%s: %s", c.Name(), why)) }
		key := s.Key(c)
		if key == nil {
			note("no private key is loaded for it")
			continue
		}
		if len(o.Constraints.Keys) > 0 {
			if err := o.Constraints.checkKey(c.X509.PublicKey, s.minRSA); err != nil {
				note(err.Error())
				continue
			}
		}
		id := o.ID
		if id.IsAny() {
			id = ident.FromDN(c.X509.RawSubject)
		} else if !c.Holds(id) {
			note("does not hold the identity " + id.String())
			continue
		}
		if now.Before(c.X509.NotBefore) || now.After(c.X509.NotAfter) {
			note(validity(c))
			continue
		}
		chain, root := s.ownChain(c)
		score := 0
		if asked(o.CertRequests, chain, root) {
			score = 1
		}
		if score > bestScore || score == bestScore && c.X509.NotAfter.After(best.Chain[0].X509.NotAfter) {
			best, bestScore = &Identity{ID: id, Key: key, Chain: chain}, score
		}
	}
	if best == nil {
		what := "any identity"
		if !o.ID.IsAny() {
			what = "the identity " + o.ID.String()
		}
		return nil, fail(StepOwn, "no own certificate with a private key fits "+what,
			"Put the certificate into certs/ and its private key into private/ beside the configuration, or name them with local certs and secrets private; the identity must be the subject or a subjectAltName of the certificate.", evidence...)
	}
	return best, nil
}

// ownChain follows the issuers of an own certificate through the store.
func (s *Store) ownChain(c *Cert) (chain []*Cert, root *Cert) {
	chain = []*Cert{c}
	for len(chain) < maxChain {
		last := chain[len(chain)-1]
		if bytes.Equal(last.X509.RawIssuer, last.X509.RawSubject) {
			if len(chain) > 1 {
				return chain[:len(chain)-1], last
			}
			return chain, last
		}
		next := s.issuerOf(last)
		if next == nil || slices.Contains(chain, next) {
			return chain, nil
		}
		chain = append(chain, next)
	}
	return chain, nil
}

func (s *Store) issuerOf(c *Cert) *Cert {
	for _, list := range [][]*Cert{s.anchors, s.certs} {
		for _, i := range list {
			if bytes.Equal(i.X509.RawSubject, c.X509.RawIssuer) && c.X509.CheckSignatureFrom(i.X509) == nil {
				return i
			}
		}
	}
	return nil
}

func asked(hashes []byte, chain []*Cert, root *Cert) bool {
	for i := 0; i+20 <= len(hashes); i += 20 {
		h := [20]byte(hashes[i : i+20])
		if root != nil && root.SPKIHash == h {
			return true
		}
		for _, c := range chain {
			if c.SPKIHash == h {
				return true
			}
		}
	}
	return false
}

// Name is the subject, or the serial number when that is empty, for people.
func (c *Cert) Name() string {
	n, err := ident.FormatDN(c.X509.RawSubject)
	if err != nil || n == "" {
		return "certificate with serial number " + c.X509.SerialNumber.Text(16)
	}
	return n
}

// Holds tells whether the certificate carries an identity: a distinguished name
// as its subject; a name, mail address or IP address as a subjectAltName
// (RFC 4945, Section 3.1); a key id as its subjectKeyIdentifier.
func (c *Cert) Holds(id ident.ID) bool {
	switch id.Type {
	case ident.DERDN:
		return ident.Equal(id, ident.FromDN(c.X509.RawSubject))
	case ident.FQDN:
		return slices.ContainsFunc(c.X509.DNSNames, func(n string) bool { return ident.Equal(id, ident.ID{Type: ident.FQDN, Data: n}) })
	case ident.RFC822:
		return slices.ContainsFunc(c.X509.EmailAddresses, func(n string) bool { return ident.Equal(id, ident.ID{Type: ident.RFC822, Data: n}) })
	case ident.IPv4, ident.IPv6:
		return slices.ContainsFunc(c.X509.IPAddresses, func(ip net.IP) bool {
			a, ok := netip.AddrFromSlice(ip)
			return ok && ident.FromAddr(a) == id
		})
	case ident.KeyID:
		return id.Data == string(c.KeyID[:]) || len(c.X509.SubjectKeyId) > 0 && id.Data == string(c.X509.SubjectKeyId)
	}
	return false
}

// Names are the identities that the certificate carries, for people.
func (c *Cert) Names() []string {
	names := []string{"subject " + c.Name()}
	for _, n := range c.X509.DNSNames {
		names = append(names, "DNS name "+ident.ID{Type: ident.FQDN, Data: n}.String())
	}
	for _, n := range c.X509.EmailAddresses {
		names = append(names, "mail address "+ident.ID{Type: ident.RFC822, Data: n}.String())
	}
	for _, ip := range c.X509.IPAddresses {
		names = append(names, "address "+ip.String())
	}
	return names
}

// Cache holds verified certificates of peers by their hash, so that a storm of
// the same chain parses it once. It is bounded.
type Cache struct {
	mu    sync.Mutex
	max   int
	certs map[[32]byte]*Cert
	order [][32]byte
}

// NewCache makes a cache of at most max certificates; 0: 1024.
func NewCache(max int) *Cache {
	if max <= 0 {
		max = 1024
	}
	return &Cache{max: max, certs: make(map[[32]byte]*Cert)}
}

// Parse is NewCert through the cache. It keeps nothing: see Keep.
func (k *Cache) Parse(der []byte) (*Cert, error) {
	h := sha256.Sum256(der)
	k.mu.Lock()
	c := k.certs[h]
	k.mu.Unlock()
	if c != nil {
		return c, nil
	}
	return NewCert(der)
}

// Keep holds certificates whose chain was verified: what strangers send takes no
// place and drives nothing out.
func (k *Cache) Keep(list ...*Cert) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range list {
		h := sha256.Sum256(c.X509.Raw)
		if _, ok := k.certs[h]; ok {
			continue
		}
		if len(k.order) >= k.max {
			delete(k.certs, k.order[0])
			k.order = k.order[1:]
		}
		k.certs[h] = c
		k.order = append(k.order, h)
	}
}

// Len is how many certificates are held.
func (k *Cache) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.certs)
}

// All returns what is held, oldest first.
func (k *Cache) All() []*Cert {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*Cert, 0, len(k.order))
	for _, h := range k.order {
		out = append(out, k.certs[h])
	}
	return out
}

// Flush drops everything.
func (k *Cache) Flush() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.certs)
	k.order = nil
}
