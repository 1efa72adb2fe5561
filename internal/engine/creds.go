package engine

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/pki"
	"iked/internal/secret"
	"iked/internal/trace"
)

// credStore is what proves identities: shared secrets, private keys,
// certificates. It is read by all goroutines and replaced as a whole.
type credStore struct {
	now   atomic.Pointer[creds]
	cache *pki.Cache
}

// creds is one snapshot.
type creds struct {
	secrets *conf.PSKs
	pki     *pki.Store
}

func newCredStore() *credStore {
	s := &credStore{cache: pki.NewCache(0)}
	s.set(nil, pki.StoreConfig{})
	return s
}

func (s *credStore) set(secrets []*conf.Secret, cfg pki.StoreConfig) {
	cfg.Cache = s.cache
	s.now.Store(&creds{secrets: conf.NewPSKs(secrets), pki: pki.NewStore(cfg)})
}

// psk finds the shared secret of two identities.
func (s *credStore) psk(local, remote ident.ID) (secret.Bytes, bool) {
	x, ok := s.now.Load().secrets.Find(local, remote)
	if !ok {
		return secret.Bytes{}, false
	}
	return x.Data, true
}

func authOf(a ikev2.AuthConfig) *conf.Auth {
	if x, ok := a.Ref.(*conf.Auth); ok && x != nil {
		return x
	}
	return &conf.Auth{}
}

func (s *credStore) own(cfg *ikev2.Config, certRequests []byte) pki.Own {
	a := authOf(cfg.Local)
	return pki.Own{ID: cfg.Local.ID, Certs: a.Certs, Constraints: a.Constraints, CertRequests: certRequests}
}

// chooseIdentity finds the own identity and certificates.
func (s *credStore) chooseIdentity(now time.Time, w ikev2.ChooseIdentity) ikev2.IdentityReply {
	if w.Config.Local.Class == ikev2.AuthPSK {
		id := w.Config.Local.ID
		if id.IsAny() {
			id = ident.FromAddr(w.Local.Unmap())
		}
		return ikev2.IdentityReply{ID: id}
	}
	own, f := s.now.Load().pki.Choose(now, s.own(w.Config, w.CertRequests))
	if f != nil {
		return ikev2.IdentityReply{Err: traced{f.Trace()}}
	}
	r := ikev2.IdentityReply{ID: own.ID}
	if w.Config.Version == 1 {
		var err error
		if r.Curve, err = pki.CurveOf(own.Key); err != nil {
			return ikev2.IdentityReply{Err: err}
		}
	}
	for _, c := range own.Chain {
		r.Certs = append(r.Certs, ikev2.Cert{Encoding: pki.EncodingX509, Data: c.X509.Raw})
	}
	return r
}

// traced is a failure as an error: its evidence and advice go with it.
type traced struct{ f *trace.Failure }

func (t traced) Error() string {
	if t.f.Advice == "" {
		return t.f.Sentence
	}
	return t.f.Sentence + "; " + t.f.Advice
}

// sign makes an AUTH payload with the private key that chooseIdentity chose.
func (s *credStore) sign(w ikev2.Sign) ikev2.SignReply {
	own, f := s.now.Load().pki.Choose(time.Now(), s.own(w.Config, w.CertRequests))
	if f != nil {
		return ikev2.SignReply{Err: traced{f.Trace()}}
	}
	if w.Scheme == keyex.SchemeIKEv1 {
		auth, err := pki.SignIKEv1(own.Key, w.Octets)
		return ikev2.SignReply{Auth: auth, Err: err}
	}
	method, auth, err := pki.Sign(own.Key, authOf(w.Config.Local).Constraints, w.PeerHashes, w.Octets)
	return ikev2.SignReply{Method: method, Auth: auth, Err: err}
}

// demands are what a remote section asks of a certificate.
func demands(a *conf.Auth) pki.Peer {
	return pki.Peer{Listed: a.Certs, CACerts: a.CACerts, Constraints: a.Constraints, Revocation: a.Revocation, CAID: a.CAID, Policies: a.CertPolicy}
}

// verify checks the chain, the identity and the AUTH payload of a peer.
func (s *credStore) verify(now time.Time, w ikev2.Verify) ikev2.VerifyReply {
	a := authOf(w.Config.Remote)
	p := demands(a)
	p.ID = w.ID
	for _, c := range w.Certs {
		if c.Encoding == pki.EncodingX509 {
			p.Certs = append(p.Certs, c.Data)
		}
	}
	leaf, _, f := s.now.Load().pki.Verify(now, p)
	if f == nil && w.Scheme == keyex.SchemeIKEv1 {
		f = pki.CheckIKEv1(leaf, a.Constraints, w.Method, w.Auth, w.Octets)
	} else if f == nil {
		f = pki.CheckAuth(leaf, a.Constraints, w.Method, w.Auth, w.Octets)
	}
	if f == nil {
		return ikev2.VerifyReply{}
	}
	out := f.Trace()
	out.RemoteID = w.ID.String()
	return ikev2.VerifyReply{Failure: out}
}

// certRequests are the hashes of the trust anchors for a connection.
func (s *credStore) certRequests(cfg *ikev2.Config) []byte {
	return s.now.Load().pki.CertRequests(authOf(cfg.Remote).CACerts)
}

// CertInfo is a certificate for `list-certs`.
type CertInfo struct {
	Cert   *pki.Cert
	CA     bool // a trust anchor
	HasKey bool // its private key is loaded
	Cached bool // received from a peer
}

// ListCerts lists the certificates that are loaded or were received.
func (e *Engine) ListCerts() []CertInfo {
	var out []CertInfo
	seen := func(c *pki.Cert) bool {
		return slices.ContainsFunc(out, func(i CertInfo) bool { return i.Cert.Equal(c) })
	}
	e.loading.Lock()
	cfg := e.credentialSet()
	e.loading.Unlock()
	st := e.store.now.Load().pki
	for _, c := range cfg.Certs {
		if !seen(c) {
			out = append(out, CertInfo{Cert: c, HasKey: st.Key(c) != nil})
		}
	}
	for _, c := range cfg.Anchors {
		if !seen(c) {
			out = append(out, CertInfo{Cert: c, CA: true, HasKey: st.Key(c) != nil})
		}
	}
	for _, c := range e.store.cache.All() {
		if !seen(c) {
			out = append(out, CertInfo{Cert: c, CA: c.IsCA(), Cached: true, HasKey: st.Key(c) != nil})
		}
	}
	return out
}

// CRLs lists the certificate revocation lists.
func (e *Engine) CRLs() []*pki.CRL {
	e.loading.Lock()
	defer e.loading.Unlock()
	return e.credentialSet().CRLs
}

// FlushCerts drops the certificates that were received from peers.
func (e *Engine) FlushCerts() { e.store.cache.Flush() }

func keyIDText(id [20]byte) string { return fmt.Sprintf("%x", id[:]) }
