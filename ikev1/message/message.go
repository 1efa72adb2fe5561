package message

import (
	"fmt"

	"iked/internal/isakmp"
)

// limits of a chain of payloads. The padding of an encrypted message stands
// behind the last payload (RFC 2409, Appendix B); in clear nothing does.
var (
	clearLimits     = isakmp.Limits{Payloads: 64}
	encryptedLimits = isakmp.Limits{Payloads: 64, Trailing: true}
)

// Message is a message whose payloads can be read: in clear, or decrypted.
type Message struct {
	Header   isakmp.Header
	Payloads []Payload // in the order of the wire
	// Octets is the chain of payloads as it was received, without padding; ends
	// has where each payload ends in it.
	Octets []byte
	ends   []int
}

// ParseHeader reads and checks the header of a datagram. What is encrypted is
// b[isakmp.HeaderLen:]; nothing of it is looked at.
func ParseHeader(b []byte) (isakmp.Header, error) {
	h, err := isakmp.ParseHeader(b)
	if err != nil {
		return h, asError(err)
	}
	// RFC 2408, Section 5.2.
	if h.Major() != Version>>4 {
		return h, fault(InvalidMajorVersion, ReasonVersion, "the major version is %d, expected 1", h.Major())
	}
	if err := h.CheckLength(len(b)); err != nil {
		return h, asError(err)
	}
	if h.SPIi.IsZero() {
		return h, fault(0, ReasonZeroCookie, "the initiator's cookie is zero")
	}
	if h.Flags&^(FlagEncryption|FlagCommit|FlagAuthOnly) != 0 {
		return h, fault(InvalidFlags, ReasonFlags, "the flags are 0x%02x, expected encryption, commit and authentication only", h.Flags)
	}
	return h, nil
}

// Parse reads the payloads of a message in clear.
func Parse(b []byte) (*Message, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	if h.Flags&FlagEncryption != 0 {
		return nil, fault(InvalidFlags, ReasonFlags, "the message is encrypted, expected one in clear")
	}
	return parse(h, b[isakmp.HeaderLen:], clearLimits)
}

// ParseDecrypted reads the payloads of an encrypted message of that header,
// clear being its octets behind the header after decryption.
func ParseDecrypted(h isakmp.Header, clear []byte) (*Message, error) {
	return parse(h, clear, encryptedLimits)
}

func parse(h isakmp.Header, b []byte, lim isakmp.Limits) (*Message, error) {
	m := &Message{Header: h}
	c := isakmp.NewChain(h.NextPayload, b, lim)
	end := 0
	for one, ok := c.Next(); ok; one, ok = c.Next() {
		// RFC 2408, Section 5.3. A wrong pre-shared key shows here first.
		if b[one.Offset+1] != 0 {
			return nil, fault(PayloadMalformed, ReasonReserved, "the reserved octet of %v is 0x%02x, expected 0", PayloadType(one.Type), b[one.Offset+1])
		}
		p, err := parsePayload(PayloadType(one.Type), one.Body)
		if err != nil {
			return nil, asError(err)
		}
		end = one.Offset + isakmp.PayloadHeaderLen + len(one.Body)
		m.Payloads = append(m.Payloads, p)
		m.ends = append(m.ends, end)
	}
	if err := c.Err(); err != nil {
		return nil, asError(err)
	}
	m.Octets = b[:end:end]
	return m, nil
}

// ParsePayloads reads a chain of payloads that stands outside of an ISAKMP message,
// without padding (RFC 4430, Section 4.2.6). The result aliases b.
func ParsePayloads(first PayloadType, b []byte) ([]Payload, error) {
	m, err := parse(isakmp.Header{NextPayload: uint8(first)}, b, clearLimits)
	if err != nil {
		return nil, err
	}
	return m.Payloads, nil
}

// AfterHash is what a HASH that starts the message covers (RFC 2409, Section
// 5.5): everything behind it, headers included and padding not. false when the
// message does not start with HASH.
func (m *Message) AfterHash() (hash, rest []byte, ok bool) {
	if len(m.Payloads) == 0 || m.Payloads[0].Type() != TypeHash {
		return nil, nil, false
	}
	return m.Payloads[0].(*Opaque).Data, m.Octets[m.ends[0]:], true
}

// AppendPayloads appends a chain of payloads.
func AppendPayloads(b []byte, list []Payload) ([]byte, error) {
	for i, p := range list {
		if c, ok := p.(interface{ check() error }); ok {
			if err := c.check(); err != nil {
				return nil, err
			}
		}
		next := TypeNone
		if i+1 < len(list) {
			next = list[i+1].Type()
		}
		start := len(b)
		b = p.Append(isakmp.AppendPayloadHeader(b, uint8(next), false))
		if !isakmp.PutPayloadLength(b, start) {
			return nil, fmt.Errorf("%v has %d octets, at most 65535 can be written", p.Type(), len(b)-start)
		}
	}
	return b, nil
}

// First is the type of the first payload, for Header.NextPayload.
func First(list []Payload) uint8 {
	if len(list) == 0 {
		return isakmp.NoNext
	}
	return uint8(list[0].Type())
}

// Append appends a message in clear. Version, NextPayload and Length of the
// header are set here.
func Append(b []byte, h isakmp.Header, list []Payload) ([]byte, error) {
	start := len(b)
	h.Version, h.NextPayload = Version, First(list)
	b, err := AppendPayloads(h.Append(b), list)
	if err != nil {
		return nil, err
	}
	isakmp.PutLength(b[start:], len(b)-start)
	return b, nil
}
