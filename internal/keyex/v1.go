package keyex

// V1 is what only an IKEv1 connection has.
type V1 struct {
	// Aggressive initiates with Aggressive Mode, and accepts it as responder (RFC
	// 2409, Section 5.4).
	Aggressive bool
	// AggressivePSK consents to Aggressive Mode with a pre-shared key as responder:
	// whoever asks gets a hash to try passwords on at home.
	AggressivePSK bool
}

// SignScheme says how Sign and Verify work. Those of IKEv1:
// Octets are HASH_I or HASH_R themselves, RSA signs them as PKCS #1
// without DigestInfo (RFC 2409, Section 5.1), ECDSA takes them as the digest (RFC
// 4754). 0 are those of IKEv2.
type SignScheme uint8

// Schemes.
const (
	SchemeIKEv2 SignScheme = iota
	SchemeIKEv1
)
