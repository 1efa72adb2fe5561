package message

// Payload is one payload of a message. The types of this package that
// implement it are all pointers: *SA, *KE, *ID, *Cert, *CertReq, *Auth, *Nonce,
// *Notify, *Delete, *VendorID, *TrafficSelectors, *CP, *EAP.
type Payload interface {
	// Type is the number in the Next Payload field that announces it.
	Type() PayloadType
	// Append appends the body, without the generic header, to b.
	Append(b []byte) []byte
}

// parsePayload reads the body of a payload of a known type. known is false for
// the types that RFC 7296 does not define, IKEv1's 1 to 32 among them.
func parsePayload(t PayloadType, b []byte) (p Payload, known bool, err error) {
	switch t {
	case TypeSA:
		p, err = parseSA(b)
	case TypeKE:
		p, err = parseKE(b)
	case TypeIDi, TypeIDr:
		p, err = parseID(b, t == TypeIDr)
	case TypeCert:
		p, err = parseCert(b)
	case TypeCertReq:
		p, err = parseCertReq(b)
	case TypeAuth:
		p, err = parseAuth(b)
	case TypeNonce:
		p, err = parseNonce(b)
	case TypeNotify:
		p, err = parseNotify(b)
	case TypeDelete:
		p, err = parseDelete(b)
	case TypeVendor:
		p, err = &VendorID{Data: b}, nil
	case TypeTSi, TypeTSr:
		p, err = parseTrafficSelectors(b, t == TypeTSr)
	case TypeCP:
		p, err = parseCP(b)
	case TypeEAP:
		p, err = parseEAP(b)
	default:
		return nil, false, nil
	}
	return p, true, err
}

// short is the fault of a body that ends too early.
func short(t PayloadType, want, got int) error {
	return syntax(ReasonPayloadSyntax, "%v needs at least %d octets of body, found %d", t, want, got)
}
