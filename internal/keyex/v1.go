package keyex

import (
	"net/netip"

	"iked/internal/ident"
	"iked/internal/secret"
)

// V1 is what only an IKEv1 connection has.
type V1 struct {
	// Aggressive initiates with Aggressive Mode, and accepts it as responder (RFC
	// 2409, Section 5.4).
	Aggressive bool
	// AggressivePSK consents to Aggressive Mode with a pre-shared key as responder:
	// whoever asks gets a hash to try passwords on at home.
	AggressivePSK bool
	// XAuth is this side's part in draft-beaulieu-ike-xauth, behind phase 1; User the
	// client's name.
	XAuth XAuthRole
	User  string
	// Hybrid: the client proves itself by XAuth alone, the server by a certificate
	// (draft-ietf-ipsec-isakmp-hybrid-auth).
	Hybrid bool
	// LifeCheck is what a responder does with lifetimes and PFS of the initiator.
	LifeCheck LifeCheck
	// Push: the server gives addresses without being asked; a client waits for them.
	Push bool
	// Unity: a client announces Cisco's extensions of Mode Config and honours them. A
	// server answers who announces them.
	Unity bool
}

// LifeCheck is how a responder takes the initiator's lifetimes.
type LifeCheck uint8

// Check levels. Claim uses the shorter lifetime and tells the initiator when it is
// the own one; Obey takes the initiator's, and its choice of perfect forward
// secrecy; Strict refuses a longer lifetime than the own; Exact any other.
const (
	LifeClaim LifeCheck = iota
	LifeObey
	LifeStrict
	LifeExact
)

func (l LifeCheck) String() string {
	switch l {
	case LifeObey:
		return "obey"
	case LifeStrict:
		return "strict"
	case LifeExact:
		return "exact"
	}
	return "claim"
}

// XAuthRole is a part in XAuth.
type XAuthRole uint8

// Parts in XAuth.
const (
	NoXAuth XAuthRole = iota
	XAuthClient
	XAuthServer
)

// SignScheme says how Sign and Verify work. Those of IKEv1: Octets are HASH_I or
// HASH_R themselves, RSA signs them as PKCS #1 without DigestInfo (RFC 2409,
// Section 5.1), ECDSA takes them as the digest (RFC 4754). 0 are those of IKEv2.
type SignScheme uint8

// Schemes.
const (
	SchemeIKEv2 SignScheme = iota
	SchemeIKEv1
)

// CheckUser checks a user name and a password (XAuth). Who answers destroys the
// password. Reply: UserReply.
type CheckUser struct {
	Config   *Config
	Peer     ident.ID
	From     netip.AddrPort // where the peer is
	User     string
	Password secret.Bytes
}

// UserReply answers CheckUser; an error refuses the user.
type UserReply struct {
	Err error
	// Unavailable: who knows the users did not answer, so that the peer is refused
	// without its being wrong.
	Unavailable bool
	// Address is what whoever knows the users gives this one; invalid: nothing.
	Address netip.Addr
}

func (UserReply) reply() {}

// UserSecret asks for the own password (XAuth). Reply: SecretReply.
type UserSecret struct {
	Config *Config
	User   string
}

func (CheckUser) work()  {}
func (UserSecret) work() {}

// SecretReply answers UserSecret.
type SecretReply struct {
	Secret secret.Bytes
	Err    error
}

func (SecretReply) reply() {}
