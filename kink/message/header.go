package message

import "encoding/binary"

// HeaderLen is the length of the header in octets.
const HeaderLen = 16

// Align is the boundary at which payloads start (RFC 4430, Section 4.1).
const Align = 4

// maxChecksum bounds the checksum, in octets: the longest of RFC 8009 has 24.
const maxChecksum = 64

// Header is the fixed header (RFC 4430, Section 4).
//
//	+---------------+-------+-------+-------------------------------+
//	|     Type      | MjVer |RESRVED|            Length             |
//	+---------------+-------+-------+-------------------------------+
//	|                 Domain of Interpretation (DOI)                |
//	+---------------------------------------------------------------+
//	|                      Transaction ID (XID)                     |
//	+---------------+-+-------------+-------------------------------+
//	|  NextPayload  |A|  RESERVED2  |           CksumLen            |
//	+---------------+-+-------------+-------------------------------+
type Header struct {
	Type   Type
	XID    uint32
	AckReq bool // A: the responder waits for an ACK
	// NextPayload, Length and CksumLen are set by Append. Length is that of the
	// whole message, and CksumLen that of the checksum at its end, without padding.
	NextPayload PayloadType
	Length      uint16
	CksumLen    uint16
}

// flagAckReq is A.
const flagAckReq = 0x80

// ParseHeader reads and checks the header of a datagram.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, fault(ProtoErr, "truncated-header", "a message has at least %d octets, found %d", HeaderLen, len(b))
	}
	h := Header{
		Type: Type(b[0]), Length: binary.BigEndian.Uint16(b[2:]), XID: binary.BigEndian.Uint32(b[8:]),
		NextPayload: PayloadType(b[12]), AckReq: b[13]&flagAckReq != 0, CksumLen: binary.BigEndian.Uint16(b[14:]),
	}
	// The reserved bits are ignored (RFC 4430, Section 4).
	switch doi := binary.BigEndian.Uint32(b[4:]); {
	case b[1]>>4 != Version>>4:
		return h, fault(InvMaj, ReasonVersion, "the major version is %d, expected 1", b[1]>>4)
	case doi != DOIIPsec:
		return h, fault(InvDOI, ReasonDOI, "the DOI is %d, expected IPsec, %d", doi, DOIIPsec)
	case int(h.Length) != len(b):
		return h, fault(ProtoErr, "length-mismatch", "the length is given as %d, found %d octets", h.Length, len(b))
	case h.Type < Create || h.Type > Status:
		return h, fault(ProtoErr, ReasonMessageType, "%v is not known", h.Type)
	case int(h.CksumLen) > len(b)-HeaderLen || h.CksumLen > maxChecksum:
		return h, fault(ProtoErr, ReasonChecksum, "a checksum of %d octets is announced in a message of %d", h.CksumLen, len(b))
	}
	return h, nil
}

// append appends the header without checksum.
func (h Header) append(b []byte) []byte {
	b = append(b, byte(h.Type), Version, 0, 0)
	b = binary.BigEndian.AppendUint32(b, DOIIPsec)
	b = binary.BigEndian.AppendUint32(b, h.XID)
	a := byte(0)
	if h.AckReq {
		a = flagAckReq
	}
	return append(b, byte(h.NextPayload), a, 0, 0)
}
