package message

import (
	"bytes"
	"fmt"

	"iked/internal/isakmp"
)

// Message is a message in clear: one that never was encrypted, or one that was
// opened. Payloads holds those that are understood, in the order of the wire.
type Message struct {
	Header   Header
	Payloads []Payload
	// Protected says that the payloads came out of an Encrypted payload whose
	// ICV was right.
	Protected bool
}

// IsResponse reports whether the Response flag is set.
func (m *Message) IsResponse() bool { return m.Header.Flags&FlagResponse != 0 }

// Notifies are the Notify payloads.
func (m *Message) Notifies() Notifies { return collect[*Notify](m.Payloads) }

// chainLimits are the caps of every chain of IKEv2, outer and inner.
var chainLimits = isakmp.Limits{Last: [2]uint8{uint8(TypeSK), uint8(TypeSKF)}}

// CheckHeader reads the header of the datagram b (without non-ESP marker) and
// holds it against RFC 7296, Section 3.1. With a higher major version the error
// is NotifyPeer with INVALID_MAJOR_VERSION (Section 2.5); every other error is
// Drop. It allocates nothing for a good header.
func CheckHeader(b []byte) (Header, error) {
	h, err := isakmp.ParseHeader(b)
	if err != nil {
		return h, finish(err, false)
	}
	if err := h.CheckLength(len(b)); err != nil {
		return h, finish(err, false)
	}
	switch {
	case h.Major() > 2 && h.Flags&FlagResponse == 0:
		e := drop(ReasonVersion, "major version 2 is spoken here, the message has %d", h.Major())
		e.Action, e.Notify = NotifyPeer, InvalidMajorVersion
		return h, e
	case h.Major() != 2:
		return h, drop(ReasonVersion, "major version 2 is spoken here, the message has %d", h.Major())
	case h.SPIi.IsZero():
		return h, drop(ReasonZeroSPI, "the initiator's SPI is never zero")
	}
	return h, nil
}

// Parse reads a whole message that is not encrypted: IKE_SA_INIT, or an
// INFORMATIONAL about an SPI that is not known. Encrypted payloads are refused:
// see Open.
func Parse(b []byte) (*Message, error) {
	h, err := CheckHeader(b)
	if err != nil {
		return nil, err
	}
	return parseChain(h, PayloadType(h.NextPayload), b[isakmp.HeaderLen:], false)
}

// ParseInner reads the payloads that were inside an Encrypted payload of the
// message with header h: first and plain are those of Opened or of
// Reassembler.Add.
func ParseInner(h Header, first PayloadType, plain []byte) (*Message, error) {
	return parseChain(h, first, plain, true)
}

func parseChain(h Header, first PayloadType, b []byte, protected bool) (*Message, error) {
	m := &Message{Header: h, Protected: protected}
	c := isakmp.NewChain(uint8(first), bytes.Clone(b), chainLimits)
	for raw, ok := c.Next(); ok; raw, ok = c.Next() {
		t := PayloadType(raw.Type)
		if t == TypeSK || t == TypeSKF {
			return nil, finish(syntax(ReasonEncryptedInside, "no %v payload may stand here", t), protected)
		}
		p, known, err := parsePayload(t, raw.Body)
		switch {
		case err != nil:
			return nil, finish(err, protected)
		case known:
			m.Payloads = append(m.Payloads, p)
		case raw.Critical:
			return nil, m.critical(t)
		}
	}
	if err := c.Err(); err != nil {
		return nil, finish(err, protected)
	}
	return m, nil
}

// critical is the fault of a payload that is not understood but must be (RFC
// 7296, Section 2.5). A request is answered; a response cannot be, so the one
// that was protected ends the IKE SA and the one that was not is ignored.
func (m *Message) critical(t PayloadType) error {
	e := &Error{
		Action: NotifyPeer, Notify: UnsupportedCriticalPayload, Data: []byte{byte(t)}, Reason: ReasonCritical,
		Detail: fmt.Sprintf("%v is critical and not understood", t),
	}
	if m.IsResponse() {
		e.Action = Fatal
		if !m.Protected {
			e.Action, e.Notify, e.Data = Drop, NoNotify, nil
		}
	}
	return e
}

// Append appends the message in clear. NextPayload, Version and Length of the
// header are computed. The error is that of a payload longer than 65,535
// octets.
func (m *Message) Append(b []byte) ([]byte, error) {
	start := len(b)
	h := m.Header
	h.Version, h.NextPayload = Version, uint8(firstType(m.Payloads))
	b, err := AppendPayloads(h.Append(b), m.Payloads)
	if err != nil {
		return nil, err
	}
	isakmp.PutLength(b[start:], len(b)-start)
	return b, nil
}

// checker is a payload with values that its counts and lengths on the wire may
// not hold.
type checker interface{ check() error }

// AppendPayloads appends a chain of payloads. It is an error of the caller if
// one of them does not fit its own format.
func AppendPayloads(b []byte, ps []Payload) ([]byte, error) {
	for i, p := range ps {
		if c, ok := p.(checker); ok {
			if err := c.check(); err != nil {
				return nil, err
			}
		}
		start := len(b)
		// RFC 7296, Section 3.2: the critical bit is zero for payloads
		// defined there.
		b = p.Append(isakmp.AppendPayloadHeader(b, uint8(firstType(ps[i+1:])), false))
		if !isakmp.PutPayloadLength(b, start) {
			return nil, fmt.Errorf("%v has %d octets, a payload holds at most 65535: send less in it", p.Type(), len(b)-start)
		}
	}
	return b, nil
}

func firstType(ps []Payload) PayloadType {
	if len(ps) == 0 {
		return NoPayload
	}
	return ps[0].Type()
}

// collect are the payloads of one Go type.
func collect[P Payload](ps []Payload) (all []P) {
	for _, p := range ps {
		if x, ok := p.(P); ok {
			all = append(all, x)
		}
	}
	return all
}
