package message

import (
	"encoding/binary"
	"errors"
	"fmt"

	ikev1 "iked/ikev1/message"
	"iked/internal/isakmp"
)

// Limits of what is read.
const (
	maxPayloads  = 32
	maxQuickMode = 8 // KINK_ISAKMP payloads in one message
)

// Body is the payloads of a message, or of a KINK_ENCRYPT after decryption; what is
// nil is not there. Each but KINK_ISAKMP stands once at most. Fields alias what was
// parsed.
type Body struct {
	APReq, APRep *AP
	KRBError     []byte  // KRB-ERROR, DER
	TGTReq       *string // the principal whose ticket-granting ticket is asked for
	TGTRep       []byte  // Ticket, DER
	ISAKMP       []*ISAKMP
	Error        *ErrorCode
	// Encrypt is the ciphertext of a Body, the last payload.
	Encrypt []byte
}

// AP is KINK_AP_REQ or KINK_AP_REP (RFC 4430, Sections 4.2.1 and 4.2.2).
//
//	+---------------+---------------+-------------------------------+
//	| Next Payload  |   RESERVED    |        Payload Length         |
//	+---------------+---------------+-------------------------------+
//	|                             EPOCH                             |
//	+---------------------------------------------------------------+
//	~                      KRB_AP_REQ or KRB_AP_REP                 ~
type AP struct {
	Epoch uint32
	Data  []byte // DER
}

// ISAKMP is KINK_ISAKMP (RFC 4430, Section 4.2.6): payloads of Quick Mode without
// padding between them.
//
//	+---------------+-------+-------+-------------------------------+
//	| InnerNextPload| QMMaj | QMMin |            RESERVED           |
//	+---------------+-------+-------+-------------------------------+
//	~                   Quick Mode payloads                         ~
type ISAKMP struct {
	Payloads []ikev1.Payload
}

// quickModeVersion is QMMaj 1 and QMMin 0.
const quickModeVersion uint8 = 0x10

// parseBody walks a chain of payloads. Octets behind the last one are the padding of
// a cipher where trailing says so (RFC 4430, Section 4.2.7).
func parseBody(first PayloadType, b []byte, trailing bool) (Body, error) {
	var m Body
	seen := map[PayloadType]bool{}
	c := isakmp.NewChain(uint8(first), b, isakmp.Limits{Payloads: maxPayloads, Align: Align, Trailing: trailing})
	for one, ok := c.Next(); ok; one, ok = c.Next() {
		t := PayloadType(one.Type)
		switch {
		case seen[t] && t != TypeISAKMP:
			return m, fault(ProtoErr, ReasonTwice, "%v stands twice", t)
		case seen[TypeEncrypt]:
			// RFC 4430, Section 4.2.7.
			return m, fault(ProtoErr, ReasonOrder, "%v stands behind KINK_ENCRYPT, which is the last one", t)
		}
		seen[t] = true
		if err := m.take(t, one.Body); err != nil {
			return m, err
		}
	}
	return m, asError(c.Err())
}

// take reads the body of one payload.
func (m *Body) take(t PayloadType, b []byte) error {
	short := func(n int) error {
		return fault(ProtoErr, ReasonPayloadSyntax, "%v has at least %d octets, found %d", t, n, len(b))
	}
	switch t {
	case TypeAPReq, TypeAPRep:
		if len(b) <= 4 {
			return short(5)
		}
		ap := &AP{Epoch: binary.BigEndian.Uint32(b), Data: b[4:]}
		if t == TypeAPReq {
			m.APReq = ap
		} else {
			m.APRep = ap
		}
	case TypeKRBError:
		if len(b) == 0 {
			return short(1)
		}
		m.KRBError = b
	case TypeTGTReq:
		// PrincNameLength, PrincName (RFC 4430, Section 4.2.4).
		name, err := counted(t, b)
		if err != nil {
			return err
		}
		s := string(name)
		m.TGTReq = &s
	case TypeTGTRep:
		// TGTLength, TGT (RFC 4430, Section 4.2.5).
		tgt, err := counted(t, b)
		if err != nil {
			return err
		}
		m.TGTRep = tgt
	case TypeISAKMP:
		if len(m.ISAKMP) == maxQuickMode {
			return fault(ProtoErr, ReasonTwice, "at most %d %v are read", maxQuickMode, t)
		}
		q, err := parseISAKMP(b)
		if err != nil {
			return err
		}
		m.ISAKMP = append(m.ISAKMP, q)
	case TypeEncrypt:
		if len(b) == 0 {
			return short(1)
		}
		m.Encrypt = b
	case TypeError:
		if len(b) != 4 {
			return fault(ProtoErr, ReasonPayloadSyntax, "%v has 4 octets, found %d", t, len(b))
		}
		code := ErrorCode(binary.BigEndian.Uint32(b))
		m.Error = &code
	default:
		return fault(ProtoErr, ReasonPayloadType, "%v is not known", t)
	}
	return nil
}

// counted reads a text behind its length in two octets, which is all of b but padding
// that some count in.
func counted(t PayloadType, b []byte) ([]byte, error) {
	if len(b) < 2 {
		return nil, fault(ProtoErr, ReasonPayloadSyntax, "%v has at least 3 octets, found %d", t, len(b))
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n == 0 || n > len(b) || len(b)-n >= Align {
		return nil, fault(ProtoErr, ReasonPayloadSyntax, "%v announces %d octets, found %d", t, n, len(b))
	}
	return b[:n:n], nil
}

func parseISAKMP(b []byte) (*ISAKMP, error) {
	if len(b) < 4 {
		return nil, fault(ProtoErr, ReasonPayloadSyntax, "%v has at least 4 octets, found %d", TypeISAKMP, len(b))
	}
	// RFC 4430, Section 12.1: a version that is not known is told, with ours.
	if b[1]>>4 != quickModeVersion>>4 {
		return nil, fault(BadQMVersn, ReasonQuickMode, "the version of Quick Mode is %d, expected 1", b[1]>>4)
	}
	list, err := ikev1.ParsePayloads(ikev1.PayloadType(b[0]), b[4:])
	if err != nil {
		return nil, asError(err)
	}
	return &ISAKMP{Payloads: list}, nil
}

// asError makes an *Error of one of the other codecs.
func asError(err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Code: ProtoErr, Reason: ReasonPayloadSyntax, Detail: err.Error()}
	var own *Error
	var chain *isakmp.Error
	var quick *ikev1.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &quick):
		e.Reason, e.Detail = quick.Reason, quick.Detail
	case errors.As(err, &chain):
		e.Reason, e.Detail = chain.Reason, chain.Detail
	}
	return e
}

// part is one payload to write.
type part struct {
	t      PayloadType
	append func(b []byte) ([]byte, error)
}

// parts are the payloads in the order in which they are written: KINK_ENCRYPT last.
func (m *Body) parts() []part {
	var list []part
	octets := func(t PayloadType, head []byte, data []byte) {
		list = append(list, part{t, func(b []byte) ([]byte, error) { return append(append(b, head...), data...), nil }})
	}
	for _, ap := range []struct {
		t PayloadType
		p *AP
	}{{TypeAPReq, m.APReq}, {TypeAPRep, m.APRep}} {
		if ap.p != nil {
			octets(ap.t, binary.BigEndian.AppendUint32(nil, ap.p.Epoch), ap.p.Data)
		}
	}
	if m.KRBError != nil {
		octets(TypeKRBError, nil, m.KRBError)
	}
	if m.TGTReq != nil {
		octets(TypeTGTReq, binary.BigEndian.AppendUint16(nil, uint16(len(*m.TGTReq))), []byte(*m.TGTReq))
	}
	if m.TGTRep != nil {
		octets(TypeTGTRep, binary.BigEndian.AppendUint16(nil, uint16(len(m.TGTRep))), m.TGTRep)
	}
	for _, q := range m.ISAKMP {
		list = append(list, part{TypeISAKMP, func(b []byte) ([]byte, error) {
			return ikev1.AppendPayloads(append(b, ikev1.First(q.Payloads), quickModeVersion, 0, 0), q.Payloads)
		}})
	}
	if m.Error != nil {
		octets(TypeError, nil, binary.BigEndian.AppendUint32(nil, uint32(*m.Error)))
	}
	if m.Encrypt != nil {
		octets(TypeEncrypt, nil, m.Encrypt)
	}
	return list
}

// appendBody appends the payloads, each padded to the boundary, which lies at b[at].
// The length of a payload does not count its padding (RFC 4430, Section 4.1).
func appendBody(b []byte, at int, list []part) ([]byte, error) {
	for i, p := range list {
		next := TypeDone
		if i+1 < len(list) {
			next = list[i+1].t
		}
		start := len(b)
		var err error
		if b, err = p.append(isakmp.AppendPayloadHeader(b, uint8(next), false)); err != nil {
			return nil, err
		}
		if !isakmp.PutPayloadLength(b, start) {
			return nil, fmt.Errorf("%v has %d octets, at most 65535 can be written", p.t, len(b)-start)
		}
		for (len(b)-at)%Align != 0 {
			b = append(b, 0)
		}
	}
	return b, nil
}

func firstOf(list []part) PayloadType {
	if len(list) == 0 {
		return TypeDone
	}
	return list[0].t
}
