package message

import (
	"fmt"

	"iked/internal/isakmp"
)

// SPI is an IKE SA's SPI.
type SPI = isakmp.SPI

// Header is the fixed header of a message (RFC 7296, Section 3.1).
type Header = isakmp.Header

// Version is the version octet of every message that is sent: 2.0.
const Version = 0x20

// Flags of the header (RFC 7296, Section 3.1).
const (
	FlagInitiator uint8 = 0x08 // the sender is the original initiator of the IKE SA
	FlagVersion   uint8 = 0x10 // the sender speaks a higher major version
	FlagResponse  uint8 = 0x20
)

// Exchange is an exchange type.
type Exchange = uint8

// Exchange types (RFC 7296, Section 3.1; RFC 9242; RFC 9370).
const (
	ExchangeIKESAInit       Exchange = 34
	ExchangeIKEAuth         Exchange = 35
	ExchangeCreateChildSA   Exchange = 36
	ExchangeInformational   Exchange = 37
	ExchangeIKEIntermediate Exchange = 43
	ExchangeIKEFollowupKE   Exchange = 44
)

// ExchangeName is the name of an exchange type in the RFC's spelling.
func ExchangeName(x Exchange) string {
	switch x {
	case ExchangeIKESAInit:
		return "IKE_SA_INIT"
	case ExchangeIKEAuth:
		return "IKE_AUTH"
	case ExchangeCreateChildSA:
		return "CREATE_CHILD_SA"
	case ExchangeInformational:
		return "INFORMATIONAL"
	case ExchangeIKEIntermediate:
		return "IKE_INTERMEDIATE"
	case ExchangeIKEFollowupKE:
		return "IKE_FOLLOWUP_KE"
	}
	return fmt.Sprintf("exchange %d", x)
}

// PayloadType is the type of a payload (RFC 7296, Section 3.2).
type PayloadType uint8

// Payload types. Numbers 1 to 32 are IKEv1's and unknown here.
const (
	NoPayload   PayloadType = 0
	TypeSA      PayloadType = 33
	TypeKE      PayloadType = 34
	TypeIDi     PayloadType = 35
	TypeIDr     PayloadType = 36
	TypeCert    PayloadType = 37
	TypeCertReq PayloadType = 38
	TypeAuth    PayloadType = 39
	TypeNonce   PayloadType = 40
	TypeNotify  PayloadType = 41
	TypeDelete  PayloadType = 42
	TypeVendor  PayloadType = 43
	TypeTSi     PayloadType = 44
	TypeTSr     PayloadType = 45
	TypeSK      PayloadType = 46
	TypeCP      PayloadType = 47
	TypeEAP     PayloadType = 48
	TypeSKF     PayloadType = 53
)

var payloadNames = map[PayloadType]string{
	NoPayload: "none", TypeSA: "SA", TypeKE: "KE", TypeIDi: "IDi", TypeIDr: "IDr", TypeCert: "CERT",
	TypeCertReq: "CERTREQ", TypeAuth: "AUTH", TypeNonce: "Nonce", TypeNotify: "N", TypeDelete: "D",
	TypeVendor: "V", TypeTSi: "TSi", TypeTSr: "TSr", TypeSK: "SK", TypeCP: "CP", TypeEAP: "EAP", TypeSKF: "SKF",
}

// String is the RFC's notation of the payload.
func (t PayloadType) String() string {
	if s, ok := payloadNames[t]; ok {
		return s
	}
	return fmt.Sprintf("payload type %d", uint8(t))
}

// AuthMethod is how an AUTH payload was made (RFC 7296, Section 3.8).
type AuthMethod uint8

// Authentication methods.
const (
	AuthRSA       AuthMethod = 1
	AuthPSK       AuthMethod = 2
	AuthDSS       AuthMethod = 3
	AuthECDSA256  AuthMethod = 9
	AuthECDSA384  AuthMethod = 10
	AuthECDSA521  AuthMethod = 11
	AuthGSPM      AuthMethod = 12
	AuthNull      AuthMethod = 13 // RFC 7619
	AuthSignature AuthMethod = 14 // RFC 7427
)

func (m AuthMethod) String() string {
	switch m {
	case AuthRSA:
		return "RSA signature"
	case AuthPSK:
		return "PSK"
	case AuthDSS:
		return "DSS signature"
	case AuthECDSA256:
		return "ECDSA-256"
	case AuthECDSA384:
		return "ECDSA-384"
	case AuthECDSA521:
		return "ECDSA-521"
	case AuthGSPM:
		return "GSPM"
	case AuthNull:
		return "NULL"
	case AuthSignature:
		return "digital signature"
	}
	return fmt.Sprintf("auth method %d", uint8(m))
}

// CertEncoding is the encoding of a CERT or CERTREQ payload (RFC 7296,
// Section 3.6).
type CertEncoding uint8

// Certificate encodings.
const (
	CertPKCS7        CertEncoding = 1
	CertPGP          CertEncoding = 2
	CertDNS          CertEncoding = 3
	CertX509         CertEncoding = 4
	CertKerberos     CertEncoding = 6
	CertCRL          CertEncoding = 7
	CertARL          CertEncoding = 8
	CertSPKI         CertEncoding = 9
	CertAttribute    CertEncoding = 10
	CertRawRSA       CertEncoding = 11
	CertHashURL      CertEncoding = 12
	CertHashURLs     CertEncoding = 13
	CertOCSP         CertEncoding = 14 // RFC 4806
	CertRawPublicKey CertEncoding = 15 // RFC 7670, SubjectPublicKeyInfo in DER
)

// SignatureHash is an entry of SIGNATURE_HASH_ALGORITHMS (RFC 7427, Section 4).
type SignatureHash uint16

// Hash algorithms of digital signatures.
const (
	HashSHA1     SignatureHash = 1
	HashSHA256   SignatureHash = 2
	HashSHA384   SignatureHash = 3
	HashSHA512   SignatureHash = 4
	HashIdentity SignatureHash = 5 // RFC 8420
)
