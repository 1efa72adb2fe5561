package message

// Cert is a Certificate payload (RFC 7296, Section 3.6).
type Cert struct {
	Encoding CertEncoding
	Data     []byte // in the encoding; DER with CertX509
}

// Type is TypeCert.
func (*Cert) Type() PayloadType { return TypeCert }

// Append appends the body.
func (p *Cert) Append(b []byte) []byte { return append(append(b, byte(p.Encoding)), p.Data...) }

func parseCert(b []byte) (*Cert, error) {
	if len(b) < 2 {
		return nil, short(TypeCert, 2, len(b))
	}
	return &Cert{Encoding: CertEncoding(b[0]), Data: b[1:]}, nil
}

// AuthorityHashLen is the length of one entry of a CERTREQ payload: the SHA-1
// hash of a trust anchor's SubjectPublicKeyInfo.
const AuthorityHashLen = 20

// CertReq is a Certificate Request payload (RFC 7296, Section 3.7).
type CertReq struct {
	Encoding CertEncoding
	Data     []byte // concatenated authority hashes; empty: any authority
}

// Type is TypeCertReq.
func (*CertReq) Type() PayloadType { return TypeCertReq }

// Append appends the body.
func (p *CertReq) Append(b []byte) []byte { return append(append(b, byte(p.Encoding)), p.Data...) }

// Authorities are the authority hashes; ok is false when Data is not a
// sequence of whole hashes.
func (p *CertReq) Authorities() (hashes [][AuthorityHashLen]byte, ok bool) {
	if len(p.Data)%AuthorityHashLen != 0 {
		return nil, false
	}
	for d := p.Data; len(d) > 0; d = d[AuthorityHashLen:] {
		hashes = append(hashes, [AuthorityHashLen]byte(d))
	}
	return hashes, true
}

func parseCertReq(b []byte) (*CertReq, error) {
	if len(b) < 1 {
		return nil, short(TypeCertReq, 1, len(b))
	}
	return &CertReq{Encoding: CertEncoding(b[0]), Data: b[1:]}, nil
}
