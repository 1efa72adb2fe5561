// Package message is the codec of KINK (RFC 4430, Section 4): header, payloads and
// the place of the checksum. It knows no Kerberos; the payloads of Quick Mode within
// KINK_ISAKMP are those of ikev1/message.
package message

import (
	"fmt"

	"iked/internal/isakmp"
)

// Version is the version octet: major version 1, four reserved bits.
const Version uint8 = 0x10

// DOIIPsec is the domain of interpretation of IPsec.
const DOIIPsec uint32 = 1

// Type numbers a message (RFC 4430, Section 4).
type Type uint8

// Message types.
const (
	Create Type = 1
	Delete Type = 2
	Reply  Type = 3
	GetTGT Type = 4
	Ack    Type = 5
	Status Type = 6
)

func (t Type) String() string {
	switch t {
	case Create:
		return "CREATE"
	case Delete:
		return "DELETE"
	case Reply:
		return "REPLY"
	case GetTGT:
		return "GETTGT"
	case Ack:
		return "ACK"
	case Status:
		return "STATUS"
	}
	return fmt.Sprintf("message type %d", uint8(t))
}

// PayloadType numbers a payload (RFC 4430, Section 4.2).
type PayloadType uint8

// Payload types.
const (
	TypeDone     PayloadType = 0
	TypeAPReq    PayloadType = 1
	TypeAPRep    PayloadType = 2
	TypeKRBError PayloadType = 3
	TypeTGTReq   PayloadType = 4
	TypeTGTRep   PayloadType = 5
	TypeISAKMP   PayloadType = 6
	TypeEncrypt  PayloadType = 7
	TypeError    PayloadType = 8
)

func (t PayloadType) String() string {
	switch t {
	case TypeDone:
		return "KINK_DONE"
	case TypeAPReq:
		return "KINK_AP_REQ"
	case TypeAPRep:
		return "KINK_AP_REP"
	case TypeKRBError:
		return "KINK_KRB_ERROR"
	case TypeTGTReq:
		return "KINK_TGT_REQ"
	case TypeTGTRep:
		return "KINK_TGT_REP"
	case TypeISAKMP:
		return "KINK_ISAKMP"
	case TypeEncrypt:
		return "KINK_ENCRYPT"
	case TypeError:
		return "KINK_ERROR"
	}
	return fmt.Sprintf("payload type %d", uint8(t))
}

// ErrorCode is what KINK_ERROR says (RFC 4430, Section 4.2.8).
type ErrorCode uint32

// Codes.
const (
	OK         ErrorCode = 0
	ProtoErr   ErrorCode = 1
	InvDOI     ErrorCode = 2
	InvMaj     ErrorCode = 3
	IntErr     ErrorCode = 5
	BadQMVersn ErrorCode = 6
)

func (c ErrorCode) String() string {
	switch c {
	case OK:
		return "KINK_OK"
	case ProtoErr:
		return "KINK_PROTOERR"
	case InvDOI:
		return "KINK_INVDOI"
	case InvMaj:
		return "KINK_INVMAJ"
	case IntErr:
		return "KINK_INTERR"
	case BadQMVersn:
		return "KINK_BADQMVERS"
	}
	return fmt.Sprintf("KINK_ERROR %d", uint32(c))
}

// Reason is a stable word fit to label a counter; see isakmp.Reason.
type Reason = isakmp.Reason

// Reasons of this package, besides those of isakmp and of ikev1/message.
const (
	ReasonVersion       Reason = "major-version"
	ReasonDOI           Reason = "doi"
	ReasonMessageType   Reason = "message-type"
	ReasonChecksum      Reason = "checksum-length"
	ReasonPayloadType   Reason = "payload-type"
	ReasonPayloadSyntax Reason = "payload-syntax"
	ReasonTwice         Reason = "payload-twice"
	ReasonOrder         Reason = "payload-order"
	ReasonQuickMode     Reason = "quick-mode-version"
)

// Error is a fault in a message. Code is what a KINK_ERROR would say of it; whether
// it is said is the state machine's decision.
type Error struct {
	Code   ErrorCode
	Reason Reason
	Detail string // what was expected and what was found
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s (%v)", e.Reason, e.Detail, e.Code) }

func fault(c ErrorCode, r Reason, format string, args ...any) *Error {
	return &Error{Code: c, Reason: r, Detail: fmt.Sprintf(format, args...)}
}
