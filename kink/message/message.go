package message

import (
	"encoding/binary"
	"fmt"
)

// Message is a message whose outside can be read.
type Message struct {
	Header
	Body
	Cksum   []byte // nil: none
	covered []byte
}

// Parse reads a datagram; the result aliases it. Which messages have a checksum is
// checked here: those with KINK_AP_REQ or KINK_AP_REP, and no others (RFC 4430,
// Section 4).
func Parse(b []byte) (*Message, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	end := len(b) - int(h.CksumLen)
	m := &Message{Header: h, covered: b[:end]}
	if m.Body, err = parseBody(h.NextPayload, b[HeaderLen:end], false); err != nil {
		return nil, err
	}
	if h.CksumLen != 0 {
		m.Cksum = b[end:]
	}
	authentic := m.APReq != nil || m.APRep != nil
	switch {
	case authentic && m.Cksum == nil:
		return nil, fault(ProtoErr, ReasonChecksum, "a message with KINK_AP_REQ or KINK_AP_REP has a checksum, found none")
	case !authentic && m.Cksum != nil:
		return nil, fault(ProtoErr, ReasonChecksum, "a checksum of %d octets stands in a message without KINK_AP_REQ and KINK_AP_REP", len(m.Cksum))
	case !authentic && m.Encrypt != nil:
		return nil, fault(ProtoErr, ReasonOrder, "KINK_ENCRYPT stands in a message that names no key")
	case m.APReq != nil && m.APRep != nil:
		return nil, fault(ProtoErr, ReasonOrder, "KINK_AP_REQ and KINK_AP_REP stand in one message")
	}
	return m, nil
}

// Covered is what the checksum is over, a copy: the message without it, whose header
// says so (RFC 4430, Section 4).
func (m *Message) Covered() []byte {
	b := append([]byte(nil), m.covered...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[14:], 0)
	return b
}

// Append appends a message. cksum makes the checksum of the octets that it is given;
// nil: the message has none. Lengths and NextPayload of the header are set here.
func Append(b []byte, h Header, body Body, cksum func([]byte) ([]byte, error)) ([]byte, error) {
	start := len(b)
	list := body.parts()
	h.NextPayload = firstOf(list)
	b, err := appendBody(h.append(b), start, list)
	if err != nil {
		return nil, err
	}
	if n := len(b) - start; n > 0xffff-maxChecksum {
		return nil, fmt.Errorf("a message of %d octets, at most %d can be written", n, 0xffff-maxChecksum)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	if cksum == nil {
		return b, nil
	}
	sum, err := cksum(b[start:])
	if err != nil {
		return nil, err
	}
	if len(sum) == 0 || len(sum) > maxChecksum {
		return nil, fmt.Errorf("a checksum of %d octets, 1 to %d can be written", len(sum), maxChecksum)
	}
	binary.BigEndian.PutUint16(b[start+14:], uint16(len(sum)))
	b = append(b, sum...)
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return b, nil
}

// AppendInner appends the plaintext of a KINK_ENCRYPT (RFC 4430, Section 4.2.7).
//
//	+---------------+-----------------------------------------------+
//	| InnerNextPload|                   RESERVED2                   |
//	+---------------+-----------------------------------------------+
//	~                           Payloads                            ~
func AppendInner(b []byte, body Body) ([]byte, error) {
	if body.Encrypt != nil {
		return nil, fmt.Errorf("KINK_ENCRYPT does not stand within another")
	}
	start := len(b)
	list := body.parts()
	return appendBody(append(b, byte(firstOf(list)), 0, 0, 0), start, list)
}

// ParseInner reads the plaintext of a KINK_ENCRYPT; the result aliases it.
func ParseInner(b []byte) (Body, error) {
	if len(b) < 4 {
		return Body{}, fault(ProtoErr, ReasonPayloadSyntax, "KINK_ENCRYPT has at least 4 octets within, found %d", len(b))
	}
	m, err := parseBody(PayloadType(b[0]), b[4:], true)
	if err == nil && m.Encrypt != nil {
		return m, fault(ProtoErr, ReasonOrder, "KINK_ENCRYPT stands within another")
	}
	return m, err
}
