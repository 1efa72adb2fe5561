package message

import "fmt"

// NotifyType is a notify message type (RFC 2408, Section 3.14.1; RFC 2407,
// Section 4.6.3; RFC 3706).
type NotifyType uint16

// Notify types.
const (
	InvalidPayloadType      NotifyType = 1
	DOINotSupported         NotifyType = 2
	SituationNotSupported   NotifyType = 3
	InvalidCookie           NotifyType = 4
	InvalidMajorVersion     NotifyType = 5
	InvalidMinorVersion     NotifyType = 6
	InvalidExchangeType     NotifyType = 7
	InvalidFlags            NotifyType = 8
	InvalidMessageID        NotifyType = 9
	InvalidProtocolID       NotifyType = 10
	InvalidSPI              NotifyType = 11
	InvalidTransformID      NotifyType = 12
	AttributesNotSupported  NotifyType = 13
	NoProposalChosen        NotifyType = 14
	BadProposalSyntax       NotifyType = 15
	PayloadMalformed        NotifyType = 16
	InvalidKeyInformation   NotifyType = 17
	InvalidIDInformation    NotifyType = 18
	InvalidCertEncoding     NotifyType = 19
	InvalidCertificate      NotifyType = 20
	CertTypeUnsupported     NotifyType = 21
	InvalidCertAuthority    NotifyType = 22
	InvalidHashInformation  NotifyType = 23
	AuthenticationFailed    NotifyType = 24
	InvalidSignature        NotifyType = 25
	AddressNotification     NotifyType = 26
	NotifySALifetime        NotifyType = 27
	CertificateUnavailable  NotifyType = 28
	UnsupportedExchangeType NotifyType = 29
	UnequalPayloadLengths   NotifyType = 30
	Connected               NotifyType = 16384
	ResponderLifetime       NotifyType = 24576
	ReplayStatus            NotifyType = 24577
	InitialContact          NotifyType = 24578
	RUThere                 NotifyType = 36136
	RUThereAck              NotifyType = 36137
)

var notifyNames = map[NotifyType]string{
	InvalidPayloadType: "INVALID-PAYLOAD-TYPE", DOINotSupported: "DOI-NOT-SUPPORTED", SituationNotSupported: "SITUATION-NOT-SUPPORTED",
	InvalidCookie: "INVALID-COOKIE", InvalidMajorVersion: "INVALID-MAJOR-VERSION", InvalidMinorVersion: "INVALID-MINOR-VERSION",
	InvalidExchangeType: "INVALID-EXCHANGE-TYPE", InvalidFlags: "INVALID-FLAGS", InvalidMessageID: "INVALID-MESSAGE-ID",
	InvalidProtocolID: "INVALID-PROTOCOL-ID", InvalidSPI: "INVALID-SPI", InvalidTransformID: "INVALID-TRANSFORM-ID",
	AttributesNotSupported: "ATTRIBUTES-NOT-SUPPORTED", NoProposalChosen: "NO-PROPOSAL-CHOSEN", BadProposalSyntax: "BAD-PROPOSAL-SYNTAX",
	PayloadMalformed: "PAYLOAD-MALFORMED", InvalidKeyInformation: "INVALID-KEY-INFORMATION", InvalidIDInformation: "INVALID-ID-INFORMATION",
	InvalidCertEncoding: "INVALID-CERT-ENCODING", InvalidCertificate: "INVALID-CERTIFICATE", CertTypeUnsupported: "CERT-TYPE-UNSUPPORTED",
	InvalidCertAuthority: "INVALID-CERT-AUTHORITY", InvalidHashInformation: "INVALID-HASH-INFORMATION", AuthenticationFailed: "AUTHENTICATION-FAILED",
	InvalidSignature: "INVALID-SIGNATURE", AddressNotification: "ADDRESS-NOTIFICATION", NotifySALifetime: "NOTIFY-SA-LIFETIME",
	CertificateUnavailable: "CERTIFICATE-UNAVAILABLE", UnsupportedExchangeType: "UNSUPPORTED-EXCHANGE-TYPE", UnequalPayloadLengths: "UNEQUAL-PAYLOAD-LENGTHS",
	Connected: "CONNECTED", ResponderLifetime: "RESPONDER-LIFETIME", ReplayStatus: "REPLAY-STATUS", InitialContact: "INITIAL-CONTACT",
	RUThere: "R-U-THERE", RUThereAck: "R-U-THERE-ACK",
}

// Name is the name of the RFC, or "notify N".
func (t NotifyType) Name() string {
	if s, ok := notifyNames[t]; ok {
		return s
	}
	return fmt.Sprintf("notify %d", uint16(t))
}

func (t NotifyType) String() string { return t.Name() }

// IsError tells whether the type reports an error (RFC 2408, Section 3.14.1).
func (t NotifyType) IsError() bool { return t < 16384 }
