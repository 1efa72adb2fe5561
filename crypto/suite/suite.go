// Package suite names cryptographic transforms: the numbers of the IANA IKEv2
// registry, the names that people read and write, and the choice of one
// proposal out of two lists. It holds no algorithm.
package suite

// TransformType is the "Transform Type" of RFC 7296, Section 3.3.2.
type TransformType uint8

// Transform types (RFC 7296, Section 3.3.2; 6 to 12 are RFC 9370).
const (
	ENCR  TransformType = 1
	PRF   TransformType = 2
	INTEG TransformType = 3
	KE    TransformType = 4
	SN    TransformType = 5 // Extended Sequence Numbers, renamed by RFC 9827
)

// Protocol is the "Protocol ID" of a proposal (RFC 7296, Section 3.3.1).
type Protocol uint8

// Protocol IDs.
const (
	ProtoNone Protocol = 0
	ProtoIKE  Protocol = 1
	ProtoAH   Protocol = 2
	ProtoESP  Protocol = 3
	// ProtoIPComp is one of IKEv1 alone (RFC 2407, Section 4.4.1): IKEv2 negotiates
	// compression beside the proposals.
	ProtoIPComp Protocol = 4
)

// Encryption algorithms (transform type 1).
const (
	Encr3DES             uint16 = 3
	EncrNull             uint16 = 11
	EncrAESCBC           uint16 = 12
	EncrAESCTR           uint16 = 13
	EncrAESCCM8          uint16 = 14
	EncrAESCCM12         uint16 = 15
	EncrAESCCM16         uint16 = 16
	EncrAESGCM8          uint16 = 18
	EncrAESGCM12         uint16 = 19
	EncrAESGCM16         uint16 = 20
	EncrNullAESGMAC      uint16 = 21
	EncrChaCha20Poly1305 uint16 = 28
)

// Pseudorandom functions (transform type 2).
const (
	PRFHMACMD5    uint16 = 1
	PRFHMACSHA1   uint16 = 2
	PRFAESXCBC    uint16 = 4
	PRFHMACSHA256 uint16 = 5
	PRFHMACSHA384 uint16 = 6
	PRFHMACSHA512 uint16 = 7
	PRFAESCMAC    uint16 = 8
)

// Integrity algorithms (transform type 3). IntegHMACSHA256_96 is the private
// number that strongSwan uses; on the wire it is HMAC-SHA2-256-128, cut to 96
// bits by both sides (key `sha256_96`).
const (
	IntegNone          uint16 = 0
	IntegHMACMD5_96    uint16 = 1
	IntegHMACSHA1_96   uint16 = 2
	IntegAESXCBC96     uint16 = 5
	IntegHMACSHA1_160  uint16 = 7
	IntegAESCMAC96     uint16 = 8
	IntegAES128GMAC    uint16 = 9 // AH only (RFC 4543, Section 4)
	IntegAES192GMAC    uint16 = 10
	IntegAES256GMAC    uint16 = 11
	IntegHMACSHA256    uint16 = 12 // AUTH_HMAC_SHA2_256_128
	IntegHMACSHA384    uint16 = 13 // AUTH_HMAC_SHA2_384_192
	IntegHMACSHA512    uint16 = 14 // AUTH_HMAC_SHA2_512_256
	IntegHMACSHA256_96 uint16 = 1026
)

// Key exchange methods (transform type 4).
const (
	KENone     uint16 = 0
	KEMODP1024 uint16 = 2
	KEMODP1536 uint16 = 5
	KEMODP2048 uint16 = 14
	KEMODP3072 uint16 = 15
	KEMODP4096 uint16 = 16
	KEMODP6144 uint16 = 17
	KEMODP8192 uint16 = 18
	KEECP256   uint16 = 19
	KEECP384   uint16 = 20
	KEECP521   uint16 = 21
	KEX25519   uint16 = 31
	KEX448     uint16 = 32
)

// Sequence number transforms (transform type 5).
const (
	SNNoESN uint16 = 0
	SNESN   uint16 = 1
)

// Transform is one algorithm, as in a Transform substructure (RFC 7296,
// Section 3.3.2). KeyBits is the Key Length attribute in bits, 0 when absent.
// It is comparable.
type Transform struct {
	Type    TransformType
	ID      uint16
	KeyBits uint16
}

// Proposal is a list of alternatives per transform type, in order of
// preference (RFC 7296, Section 3.3). It carries no SPI and no number.
type Proposal struct {
	Protocol   Protocol
	Transforms []Transform
}
