package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"iked/internal/ident"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	maxChain     = 8  // certificates in a chain
	maxPeerCerts = 16 // CERT payloads that are looked at
)

// Encodings of a CERT payload that are understood (RFC 7296, Section 3.6).
const (
	EncodingX509 uint8 = 4
)

// Peer is a peer's claim and what the configuration demands of it.
type Peer struct {
	// ID is the identity in the peer's ID payload; it must be in its certificate.
	ID ident.ID
	// Certs are the DER certificates of its CERT payloads, leaf first.
	Certs [][]byte
	// Listed, when there are some, are the only end entity certificates accepted;
	// they need no chain. CACerts are the only trust anchors accepted.
	Listed, CACerts []*Cert
	Constraints     Constraints
	Revocation      Revocation
	// CAID must be the subject or a name of a CA of the chain; %any: no demand.
	CAID ident.ID
	// Policies: one of these OIDs must be in the leaf's certificate policies.
	Policies []string
}

// Verify checks that a peer's certificate is good for its identity and returns
// it, with the chain that ends at the trust anchor. It checks, in this order: the
// identity, the key, the usage, the chain, policies and CA identity, revocation.
// That the peer has the private key is for CheckAuth to find out.
func (s *Store) Verify(now time.Time, p Peer) (leaf *Cert, chain []*Cert, f *Failure) {
	leaf, others, f := s.peerLeaf(p)
	if f != nil {
		return nil, nil, f
	}
	about := "the peer's certificate \"" + leaf.Name() + "\""
	if !leaf.Holds(p.ID) {
		return nil, nil, fail(StepIdentity, fmt.Sprintf("%s does not carry the identity %s that the peer claims", about, p.ID),
			"Give the peer an identity that is the subject or a subjectAltName of its certificate (key id in its local section), or issue the certificate with that name.", leaf.Names()...)
	}
	if err := p.Constraints.checkKey(leaf.X509.PublicKey, s.minRSA); err != nil {
		return nil, nil, fail(StepKey, about+": "+err.Error(), "Issue the peer a certificate with another key, or change auth in the remote section or min_rsa_bits.")
	}
	if f := checkUsage(leaf, about); f != nil {
		return nil, nil, f
	}
	if f := checkTime(now, leaf, about); f != nil {
		return nil, nil, f
	}
	trusted := slices.ContainsFunc(p.Listed, leaf.Equal) ||
		len(p.Listed) == 0 && len(p.CACerts) == 0 && slices.ContainsFunc(s.certs, leaf.Equal)
	if trusted {
		// An administrator put this very certificate here: it is its own anchor.
		chain = []*Cert{leaf}
		if issuer := s.issuerOf(leaf); issuer != nil {
			chain = append(chain, issuer)
		}
	} else if chain, f = s.chain(now, p, leaf, others, about); f != nil {
		return nil, nil, f
	}
	for _, c := range chain[1:] {
		limit := Constraints{}
		if err := limit.checkKey(c.X509.PublicKey, s.minRSA); err != nil {
			return nil, nil, fail(StepKey, fmt.Sprintf("CA certificate %q: %v", c.Name(), err), "Renew the CA with a stronger key, or change min_rsa_bits.")
		}
	}
	if f := checkChainDemands(p, leaf, chain, about); f != nil {
		return nil, nil, f
	}
	if f := s.checkRevocation(now, p.Revocation, chain); f != nil {
		return nil, nil, f
	}
	s.cache.Keep(chain...)
	return leaf, chain, nil
}

// peerLeaf finds the peer's end entity certificate: the first CERT payload
// (RFC 7296, Section 3.6), else one that is configured and holds the identity.
func (s *Store) peerLeaf(p Peer) (leaf *Cert, others []*Cert, f *Failure) {
	for i, der := range p.Certs {
		if i == maxPeerCerts {
			break
		}
		c, err := s.cache.Parse(der)
		if err != nil {
			if i == 0 {
				return nil, nil, fail(StepParse, "the peer's certificate cannot be read: "+err.Error(),
					"Look at the certificate of the peer with: openssl x509 -text. Only X.509 certificates with RSA keys, named ECDSA curves or Ed25519 are read.")
			}
			continue
		}
		if i == 0 {
			leaf = c
		} else {
			others = append(others, c)
		}
	}
	if leaf == nil {
		list := p.Listed
		if len(list) == 0 {
			list = s.certs
		}
		for _, c := range list {
			if c.Holds(p.ID) {
				return c, nil, nil
			}
		}
		return nil, nil, fail(StepMissing, fmt.Sprintf("the peer sent no certificate and none is configured for the identity %s", p.ID),
			"Let the peer send its certificate (send_cert: always there), or put it into certs/ beside the configuration.")
	}
	if len(p.Listed) > 0 && !slices.ContainsFunc(p.Listed, leaf.Equal) {
		var names []string
		for _, c := range p.Listed {
			names = append(names, "accepted: "+c.Name()+" with serial number "+c.X509.SerialNumber.Text(16))
		}
		return nil, nil, fail(StepNotAllowed, fmt.Sprintf("the peer's certificate %q is not one of those that certs of the remote section lists", leaf.Name()),
			"Add the certificate to certs of the remote section, or use cacerts there to accept all of a CA.", names...)
	}
	return leaf, others, nil
}

// usages are the extended key usages that an IKE end entity may have; one is
// enough, and none at all, too (RFC 4945, Section 5.1.3.12).
func usageFits(c *x509.Certificate) bool {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageAny, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth,
			x509.ExtKeyUsageIPSECEndSystem, x509.ExtKeyUsageIPSECTunnel, x509.ExtKeyUsageIPSECUser:
			return true
		}
	}
	ike := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 17}         // id-kp-ipsecIKE (RFC 4945)
	intermediate := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 8, 2, 2} // iKEIntermediate
	return slices.ContainsFunc(c.UnknownExtKeyUsage, func(o asn1.ObjectIdentifier) bool { return o.Equal(ike) || o.Equal(intermediate) })
}

func checkUsage(c *Cert, about string) *Failure {
	// RFC 4945, Section 5.1.3.2: digitalSignature or nonRepudiation, if the
	// extension is there at all.
	if ku := c.X509.KeyUsage; ku != 0 && ku&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return fail(StepUsage, about+" has a keyUsage without digitalSignature", "Issue it with keyUsage digitalSignature.")
	}
	if !usageFits(c.X509) {
		return fail(StepUsage, about+" has no extendedKeyUsage that fits IKE", "Issue it with serverAuth, clientAuth or ipsecIKE, or without extendedKeyUsage.")
	}
	return nil
}

func validity(c *Cert) string {
	return fmt.Sprintf("valid from %s to %s", c.X509.NotBefore.UTC().Format(time.RFC3339), c.X509.NotAfter.UTC().Format(time.RFC3339))
}

func checkTime(now time.Time, c *Cert, about string) *Failure {
	ev := []string{validity(c), "now " + now.UTC().Format(time.RFC3339)}
	if now.After(c.X509.NotAfter) {
		return fail(StepExpired, fmt.Sprintf("%s expired on %s", about, c.X509.NotAfter.UTC().Format(time.RFC3339)), "Renew the certificate, or set the clock of this system.", ev...)
	}
	if now.Before(c.X509.NotBefore) {
		return fail(StepNotYet, fmt.Sprintf("%s is valid from %s on only", about, c.X509.NotBefore.UTC().Format(time.RFC3339)), "Set the clock of this system, or wait.", ev...)
	}
	return nil
}

// chain builds and checks a path to a trust anchor (RFC 5280, Section 6).
func (s *Store) chain(now time.Time, p Peer, leaf *Cert, others []*Cert, about string) ([]*Cert, *Failure) {
	anchors := p.CACerts
	if len(anchors) == 0 {
		anchors = s.anchors
	}
	if len(anchors) == 0 {
		return nil, fail(StepIssuer, about+" cannot be checked: no CA certificate is configured", "Put the CA certificate of the peer into cacerts/ beside the configuration.")
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	known := map[string]*Cert{string(leaf.X509.Raw): leaf}
	add := func(pool *x509.CertPool, list []*Cert) {
		for _, c := range list {
			pool.AddCert(c.X509)
			known[string(c.X509.Raw)] = c
		}
	}
	add(inter, others)
	add(inter, s.certs)
	add(inter, s.anchors) // with CACerts given, other CAs may still be intermediates
	add(roots, anchors)
	chains, err := leaf.X509.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, s.explain(now, err, leaf, others, anchors, about)
	}
	var refused *Failure
	for _, path := range chains {
		chain := make([]*Cert, 0, len(path))
		for _, c := range path {
			chain = append(chain, known[string(c.Raw)])
		}
		if len(chain) > maxChain {
			refused = fail(StepChain, fmt.Sprintf("%s has a chain of %d certificates, at most %d are followed", about, len(chain), maxChain), "Shorten the chain of CAs.")
			continue
		}
		if refused = checkPath(p.Constraints, chain); refused == nil {
			return chain, nil
		}
	}
	return nil, refused
}

// checkPath does what package x509 leaves out: constraints on the hashes of
// certificate signatures, and directory name constraints.
func checkPath(limits Constraints, chain []*Cert) *Failure {
	for i, c := range chain[:len(chain)-1] {
		if h := hashOf(c.X509.SignatureAlgorithm); !allowed(limits.ChainHashes, h) {
			return fail(StepKey, fmt.Sprintf("certificate %q is signed with %s, which remote auth does not allow", c.Name(), hashName(h)),
				"Issue the certificate with another hash, or put the hashes after \"ike:\" in remote auth, so that they apply to IKE only.")
		}
		if i > 0 && limitsDirectoryNames(c) {
			return directoryNames(c)
		}
	}
	if limitsDirectoryNames(chain[len(chain)-1]) {
		return directoryNames(chain[len(chain)-1])
	}
	return nil
}

func directoryNames(c *Cert) *Failure {
	return fail(StepChain, fmt.Sprintf("CA certificate %q limits directory names (nameConstraints), which this version cannot check and therefore refuses", c.Name()),
		"Use a CA without directoryName constraints, or list the peer's certificate in certs of the remote section.")
}

// limitsDirectoryNames looks for a directoryName [4] in the nameConstraints
// (RFC 5280, Section 4.2.1.10); one that is not readable counts as well.
func limitsDirectoryNames(c *Cert) bool {
	for _, e := range c.X509.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) {
			continue
		}
		in := cryptobyte.String(e.Value)
		var seq cryptobyte.String
		if !in.ReadASN1(&seq, cbasn1.SEQUENCE) {
			return true
		}
		for !seq.Empty() {
			var trees cryptobyte.String
			if !seq.ReadAnyASN1(&trees, nil) {
				return true
			}
			for !trees.Empty() {
				var tree cryptobyte.String
				if !trees.ReadASN1(&tree, cbasn1.SEQUENCE) {
					return true
				}
				if tree.PeekASN1Tag(cbasn1.Tag(4).ContextSpecific().Constructed()) {
					return true
				}
			}
		}
	}
	return false
}

func hashOf(a x509.SignatureAlgorithm) uint16 {
	switch a {
	case x509.SHA256WithRSA, x509.ECDSAWithSHA256, x509.SHA256WithRSAPSS:
		return HashSHA256
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		return HashSHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		return HashSHA512
	case x509.PureEd25519:
		return HashIdentity
	}
	return HashSHA1
}

// explain turns the error of package x509 into the step that failed.
func (s *Store) explain(now time.Time, err error, leaf *Cert, others, anchors []*Cert, about string) *Failure {
	var evidence []string
	for _, a := range anchors {
		evidence = append(evidence, "trusted: "+a.Name())
	}
	for _, o := range others {
		evidence = append(evidence, "sent by the peer: "+o.Name())
	}
	evidence = append(evidence, "check: "+err.Error())
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var critical x509.UnhandledCriticalExtension
	switch {
	case errors.As(err, &invalid):
		who := about
		if invalid.Cert != nil && !bytes.Equal(invalid.Cert.Raw, leaf.X509.Raw) {
			if n, e := ident.FormatDN(invalid.Cert.RawSubject); e == nil {
				who = "CA certificate \"" + n + "\""
			}
		}
		switch invalid.Reason {
		case x509.Expired:
			if invalid.Cert != nil && now.Before(invalid.Cert.NotBefore) {
				return fail(StepNotYet, who+" is not valid yet", "Set the clock of this system, or wait.", evidence...)
			}
			return fail(StepExpired, who+" has expired", "Renew the certificate, or set the clock of this system.", evidence...)
		case x509.NotAuthorizedToSign:
			return fail(StepNotCA, who+" signed another certificate, but is no CA certificate", "Use a certificate with basicConstraints CA:TRUE and keyUsage keyCertSign as issuer.", evidence...)
		case x509.TooManyIntermediates, x509.TooManyConstraints, x509.CANotAuthorizedForThisName, x509.CANotAuthorizedForExtKeyUsage, x509.UnconstrainedName:
			return fail(StepChain, about+" is not allowed by its CAs: "+err.Error(), "Have it issued by a CA whose pathlen and nameConstraints allow it.", evidence...)
		}
	case errors.As(err, &critical):
		return fail(StepChain, about+" or one of its CAs has a critical extension that is not understood", "Issue the certificate without that critical extension.", evidence...)
	case errors.As(err, &unknown):
		// x509 gives up on the issuer when its key usage or signature does not fit.
		if unknown.Cert != nil && strings.Contains(err.Error(), "cannot sign this kind of certificate") {
			return fail(StepNotCA, "the issuer of "+about+" is no CA certificate", "Use a certificate with basicConstraints CA:TRUE and keyUsage keyCertSign as issuer.", evidence...)
		}
		issuer, _ := ident.FormatDN(leaf.X509.RawIssuer)
		return fail(StepIssuer, fmt.Sprintf("%s is issued by %q, and no chain from there to a trusted CA is known", about, issuer),
			"Put the CA certificate into cacerts/ beside the configuration, or let the peer send the intermediate certificates.", evidence...)
	}
	return fail(StepChain, about+" was refused: "+err.Error(), "Look at the chain with: openssl verify.", evidence...)
}

func checkChainDemands(p Peer, leaf *Cert, chain []*Cert, about string) *Failure {
	if !p.CAID.IsAny() {
		ok := slices.ContainsFunc(chain[1:], func(c *Cert) bool {
			return c.Holds(p.CAID) || ident.Match(p.CAID, ident.FromDN(c.X509.RawSubject)) > ident.None
		})
		if !ok {
			return fail(StepCAID, fmt.Sprintf("no CA in the chain of %s has the identity %s", about, p.CAID), "Change ca_id of the remote section, or use a certificate of that CA.")
		}
	}
	if len(p.Policies) > 0 {
		ok := slices.ContainsFunc(leaf.X509.Policies, func(o x509.OID) bool { return slices.Contains(p.Policies, o.String()) })
		if !ok {
			return fail(StepPolicy, about+" has none of the certificate policies that cert_policy asks for", "Issue it with such a policy, or change cert_policy.")
		}
	}
	return nil
}

// checkRevocation holds the chain against the CRLs of the store (RFC 5280,
// Section 6.3). A revocation counts even in a CRL that is out of date.
func (s *Store) checkRevocation(now time.Time, want Revocation, chain []*Cert) *Failure {
	for i, c := range chain[:len(chain)-1] {
		known := false
		for _, l := range s.crls {
			if !bytes.Equal(l.List.RawIssuer, c.X509.RawIssuer) || l.List.CheckSignatureFrom(chain[i+1].X509) != nil {
				continue
			}
			for _, e := range l.List.RevokedCertificateEntries {
				// Reason 8, removeFromCRL, is for delta CRLs (RFC 5280, Section 5.3.1).
				if e.SerialNumber.Cmp(c.X509.SerialNumber) == 0 && e.ReasonCode != 8 {
					return fail(StepRevoked, fmt.Sprintf("certificate %q was revoked on %s", c.Name(), e.RevocationTime.UTC().Format(time.RFC3339)),
						"Issue the peer a new certificate.", "CRL: "+l.Source)
				}
			}
			fresh := !now.Before(l.List.ThisUpdate) && (l.List.NextUpdate.IsZero() || now.Before(l.List.NextUpdate))
			known = known || fresh && complete(l.List)
		}
		if known || want == Relaxed || want == IfURI && len(c.X509.CRLDistributionPoints) == 0 {
			continue
		}
		return fail(StepRevocation, fmt.Sprintf("no valid CRL tells whether certificate %q was revoked", c.Name()),
			"Put a current CRL of its CA into crls/ beside the configuration, or set revocation: relaxed.", c.X509.CRLDistributionPoints...)
	}
	return nil
}

// complete tells whether a CRL speaks for all certificates of its issuer: it has
// no critical extension (issuing distribution point, delta CRL indicator).
func complete(l *x509.RevocationList) bool {
	return !slices.ContainsFunc(l.Extensions, func(e pkix.Extension) bool { return e.Critical })
}
