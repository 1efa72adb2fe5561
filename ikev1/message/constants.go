package message

import "fmt"

// Version is the version octet of a header (RFC 2408, Section 3.1).
const Version uint8 = 0x10

// PayloadType numbers a payload (RFC 2408, Section 3.1; RFC 3947, Section 8).
type PayloadType uint8

// Payload types. NATDDraft and NATOADraft are those of the drafts 02 and 03 of
// RFC 3947; Fragment is proprietary.
const (
	TypeNone          PayloadType = 0
	TypeSA            PayloadType = 1
	TypeProposal      PayloadType = 2
	TypeTransform     PayloadType = 3
	TypeKE            PayloadType = 4
	TypeID            PayloadType = 5
	TypeCert          PayloadType = 6
	TypeCertRequest   PayloadType = 7
	TypeHash          PayloadType = 8
	TypeSignature     PayloadType = 9
	TypeNonce         PayloadType = 10
	TypeNotify        PayloadType = 11
	TypeDelete        PayloadType = 12
	TypeVendorID      PayloadType = 13
	TypeAttributes    PayloadType = 14
	TypeNATD          PayloadType = 20
	TypeNATOA         PayloadType = 21
	TypeNATDDraft     PayloadType = 130
	TypeNATOADraft    PayloadType = 131
	TypeFragment      PayloadType = 132
	firstPrivateType  PayloadType = 128
	lastAssignedISAKM PayloadType = 21
)

var payloadNames = map[PayloadType]string{
	TypeSA: "SA", TypeProposal: "P", TypeTransform: "T", TypeKE: "KE", TypeID: "ID", TypeCert: "CERT",
	TypeCertRequest: "CERTREQ", TypeHash: "HASH", TypeSignature: "SIG", TypeNonce: "NONCE", TypeNotify: "N",
	TypeDelete: "D", TypeVendorID: "VID", TypeAttributes: "ATTR", TypeNATD: "NAT-D", TypeNATOA: "NAT-OA",
	TypeNATDDraft: "NAT-D (draft)", TypeNATOADraft: "NAT-OA (draft)", TypeFragment: "FRAGMENT",
}

func (t PayloadType) String() string {
	if s, ok := payloadNames[t]; ok {
		return s
	}
	return fmt.Sprintf("payload type %d", uint8(t))
}

// Exchange is an exchange type (RFC 2408, Section 3.1; RFC 2409, Appendix A).
type Exchange uint8

// Exchange types.
const (
	ExchangeBase          Exchange = 1
	ExchangeMain          Exchange = 2 // identity protection
	ExchangeAuthOnly      Exchange = 3
	ExchangeAggressive    Exchange = 4
	ExchangeInformational Exchange = 5
	ExchangeTransaction   Exchange = 6
	ExchangeQuick         Exchange = 32
	ExchangeNewGroup      Exchange = 33
)

func (x Exchange) String() string {
	switch x {
	case ExchangeBase:
		return "Base Mode"
	case ExchangeMain:
		return "Main Mode"
	case ExchangeAuthOnly:
		return "Authentication Only"
	case ExchangeAggressive:
		return "Aggressive Mode"
	case ExchangeInformational:
		return "Informational"
	case ExchangeTransaction:
		return "Transaction"
	case ExchangeQuick:
		return "Quick Mode"
	case ExchangeNewGroup:
		return "New Group Mode"
	}
	return fmt.Sprintf("exchange type %d", uint8(x))
}

// Flags of a header (RFC 2408, Section 3.1).
const (
	FlagEncryption uint8 = 1 << 0
	FlagCommit     uint8 = 1 << 1
	FlagAuthOnly   uint8 = 1 << 2
)

// DOI and situation of IPsec (RFC 2407, Sections 4.2 and 4.6.1).
const (
	DOIISAKMP             uint32 = 0
	DOIIPsec              uint32 = 1
	SituationIdentityOnly uint32 = 1
)

// Protocol is a security protocol identifier (RFC 2407, Section 4.4.1).
type Protocol uint8

// Protocols.
const (
	ProtoISAKMP Protocol = 1
	ProtoAH     Protocol = 2
	ProtoESP    Protocol = 3
	ProtoIPComp Protocol = 4
)

func (p Protocol) String() string {
	switch p {
	case ProtoISAKMP:
		return "ISAKMP"
	case ProtoAH:
		return "AH"
	case ProtoESP:
		return "ESP"
	case ProtoIPComp:
		return "IPCOMP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Attribute types of phase 1 (RFC 2409, Appendix A).
const (
	P1Encryption   uint16 = 1
	P1Hash         uint16 = 2
	P1AuthMethod   uint16 = 3
	P1Group        uint16 = 4
	P1GroupType    uint16 = 5
	P1Prime        uint16 = 6
	P1Generator1   uint16 = 7
	P1Generator2   uint16 = 8
	P1CurveA       uint16 = 9
	P1CurveB       uint16 = 10
	P1LifeType     uint16 = 11
	P1LifeDuration uint16 = 12
	P1PRF          uint16 = 13
	P1KeyLength    uint16 = 14 // bits
	P1FieldSize    uint16 = 15
	P1GroupOrder   uint16 = 16
)

// Attribute types of phase 2 (RFC 2407, Section 4.5; RFC 4304).
const (
	P2LifeType      uint16 = 1
	P2LifeDuration  uint16 = 2
	P2Group         uint16 = 3
	P2Encapsulation uint16 = 4
	P2Auth          uint16 = 5
	P2KeyLength     uint16 = 6 // bits
	P2KeyRounds     uint16 = 7
	P2CompressDict  uint16 = 8
	P2CompressAlg   uint16 = 9
	P2ECNTunnel     uint16 = 10
	P2ESN           uint16 = 11
)

// Life types of both phases.
const (
	LifeSeconds   uint16 = 1
	LifeKilobytes uint16 = 2
)

// Encapsulation modes (RFC 2407, Section 4.5; RFC 3947, Section 5.1). The last
// two are those of the drafts.
const (
	EncapTunnel            uint16 = 1
	EncapTransport         uint16 = 2
	EncapUDPTunnel         uint16 = 3
	EncapUDPTransport      uint16 = 4
	EncapUDPTunnelDraft    uint16 = 61443
	EncapUDPTransportDraft uint16 = 61444
	// Private: BEET mode, between peers that sent VendorBEET alone.
	EncapBEET    uint16 = 61451
	EncapUDPBEET uint16 = 61452
)

// CompDeflate is the transform of IPCOMP with DEFLATE (RFC 2407, Section 4.4.5).
const CompDeflate uint8 = 2

// KeyIKE is the only transform of phase 1 (RFC 2407, Section 4.4.2).
const KeyIKE uint8 = 1
