// Package isakmp is what IKEv1, IKEv2 and KINK have in common on the wire: the
// fixed header (RFC 2408, Section 3.1; RFC 7296, Section 3.1) and the chain of
// payloads behind generic payload headers (RFC 2408, Section 3.2; RFC 7296,
// Section 3.2). It knows no payload's content.
package isakmp

import (
	"encoding/binary"
	"encoding/hex"
)

// HeaderLen is the length of the fixed header in octets.
const HeaderLen = 28

// SPI is an IKE SA's Security Parameter Index; IKEv1 calls it a cookie.
type SPI [8]byte

// IsZero reports whether no SPI has been assigned yet.
func (s SPI) IsZero() bool { return s == SPI{} }

// Uint64 is the SPI as a big-endian number, for use as a map key or hash input.
func (s SPI) Uint64() uint64 { return binary.BigEndian.Uint64(s[:]) }

// SPIFromUint64 is the inverse of SPI.Uint64.
func SPIFromUint64(v uint64) (s SPI) {
	binary.BigEndian.PutUint64(s[:], v)
	return s
}

// String is sixteen hexadecimal digits.
func (s SPI) String() string { return hex.EncodeToString(s[:]) }

// Header is the fixed header of a message.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+-------------------------------+
//	|                  IKE SA Initiator's SPI (8)                   |
//	|                  IKE SA Responder's SPI (8)                   |
//	|  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
//	|                          Message ID                           |
//	|                            Length                             |
//	+-------------------------------+-------------------------------+
type Header struct {
	SPIi, SPIr  SPI
	NextPayload uint8
	Version     uint8 // major << 4 | minor
	Exchange    uint8
	Flags       uint8
	MessageID   uint32
	Length      uint32 // of the whole message, header included, in octets
}

// Major is the major version number.
func (h Header) Major() uint8 { return h.Version >> 4 }

// Minor is the minor version number.
func (h Header) Minor() uint8 { return h.Version & 0x0f }

// ParseHeader reads the header at the start of b. It compares Length with
// nothing: see CheckLength. The only error is TruncatedHeader.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, fault(TruncatedHeader, 0, "a header has %d octets, the datagram has %d", HeaderLen, len(b))
	}
	return Header{
		SPIi:        SPI(b[0:8]),
		SPIr:        SPI(b[8:16]),
		NextPayload: b[16],
		Version:     b[17],
		Exchange:    b[18],
		Flags:       b[19],
		MessageID:   binary.BigEndian.Uint32(b[20:]),
		Length:      binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// CheckLength compares the Length field with n, the octets that arrived. Any
// difference is LengthMismatch.
func (h Header) CheckLength(n int) error {
	if uint64(h.Length) != uint64(n) {
		return fault(LengthMismatch, 24, "the header announces %d octets, the datagram has %d", h.Length, n)
	}
	return nil
}

// Append appends the 28 octets of the header to b.
func (h Header) Append(b []byte) []byte {
	b = append(b, h.SPIi[:]...)
	b = append(b, h.SPIr[:]...)
	b = append(b, h.NextPayload, h.Version, h.Exchange, h.Flags)
	b = binary.BigEndian.AppendUint32(b, h.MessageID)
	return binary.BigEndian.AppendUint32(b, h.Length)
}

// PutLength writes n into the Length field of the encoded message b, which
// starts with a header.
func PutLength(b []byte, n int) { binary.BigEndian.PutUint32(b[24:28], uint32(n)) }
