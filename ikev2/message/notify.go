package message

import (
	"encoding/binary"
	"fmt"
	"iter"

	"iked/crypto/suite"
)

// Notify is a Notify payload (RFC 7296, Section 3.10).
//
//	+---------------+---------------+-------------------------------+
//	|  Protocol ID  |   SPI Size    |      Notify Message Type      |
//	~                Security Parameter Index (SPI)                 ~
//	~                       Notification Data                       ~
//	+---------------+---------------+-------------------------------+
type Notify struct {
	Protocol suite.Protocol // ProtoNone when there is no SPI
	SPI      []byte         // at most 255 octets
	Kind     NotifyType
	Data     []byte
}

// NewNotify is a notify that concerns no SPI.
func NewNotify(t NotifyType, data []byte) *Notify { return &Notify{Kind: t, Data: data} }

// NewChildNotify is a notify about the AH or ESP SA with that SPI.
func NewChildNotify(t NotifyType, proto suite.Protocol, spi uint32) *Notify {
	return &Notify{Protocol: proto, SPI: binary.BigEndian.AppendUint32(nil, spi), Kind: t}
}

// NewInvalidKE is INVALID_KE_PAYLOAD naming the group that is wanted.
func NewInvalidKE(group uint16) *Notify {
	return NewNotify(InvalidKEPayload, binary.BigEndian.AppendUint16(nil, group))
}

// Type is TypeNotify.
func (*Notify) Type() PayloadType { return TypeNotify }

// Append appends the body.
func (p *Notify) Append(b []byte) []byte {
	b = append(b, byte(p.Protocol), byte(len(p.SPI)))
	b = binary.BigEndian.AppendUint16(b, uint16(p.Kind))
	return append(append(b, p.SPI...), p.Data...)
}

// check is for the octet that counts the SPI.
func (p *Notify) check() error {
	if len(p.SPI) > 255 {
		return fmt.Errorf("%v has an SPI of %d octets, at most 255 can be written", p.Kind, len(p.SPI))
	}
	return nil
}

// Uint16 is the data as one number, as INVALID_KE_PAYLOAD carries its group;
// false when the data has not two octets.
func (p *Notify) Uint16() (uint16, bool) {
	if len(p.Data) != 2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(p.Data), true
}

// Uint32 is the data as one number, as SET_WINDOW_SIZE and AUTH_LIFETIME (in
// seconds) carry it; false when the data has not four octets.
func (p *Notify) Uint32() (uint32, bool) {
	if len(p.Data) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(p.Data), true
}

// ChildSPI is the SPI of AH or ESP; false when protocol or size is another.
func (p *Notify) ChildSPI() (uint32, bool) {
	if (p.Protocol != suite.ProtoESP && p.Protocol != suite.ProtoAH) || len(p.SPI) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(p.SPI), true
}

// SignatureHashes is the content of SIGNATURE_HASH_ALGORITHMS (RFC 7427,
// Section 4). A half entry at the end is ignored.
func (p *Notify) SignatureHashes() []SignatureHash {
	var hs []SignatureHash
	for d := p.Data; len(d) >= 2; d = d[2:] {
		hs = append(hs, SignatureHash(binary.BigEndian.Uint16(d)))
	}
	return hs
}

// NewSignatureHashes is SIGNATURE_HASH_ALGORITHMS with that content.
func NewSignatureHashes(hs ...SignatureHash) *Notify {
	var d []byte
	for _, h := range hs {
		d = binary.BigEndian.AppendUint16(d, uint16(h))
	}
	return NewNotify(SignatureHashAlgorithms, d)
}

func parseNotify(b []byte) (*Notify, error) {
	if len(b) < 4 {
		return nil, short(TypeNotify, 4, len(b))
	}
	p := &Notify{Protocol: suite.Protocol(b[0]), Kind: NotifyType(binary.BigEndian.Uint16(b[2:]))}
	size := int(b[1])
	b = b[4:]
	if size > len(b) {
		return nil, syntax(ReasonPayloadSyntax, "%v announces an SPI of %d octets, %d are left", p.Kind, size, len(b))
	}
	if size > 0 {
		p.SPI = b[:size:size]
	}
	p.Data = b[size:]
	return p, nil
}

// Notifies are the Notify payloads of a message, in the order of the wire.
type Notifies []*Notify

// Find is the first notify of that type, or nil.
func (ns Notifies) Find(t NotifyType) *Notify {
	for _, n := range ns {
		if n.Kind == t {
			return n
		}
	}
	return nil
}

// Has reports whether there is a notify of that type.
func (ns Notifies) Has(t NotifyType) bool { return ns.Find(t) != nil }

// All are the notifies of that type.
func (ns Notifies) All(t NotifyType) iter.Seq[*Notify] {
	return func(yield func(*Notify) bool) {
		for _, n := range ns {
			if n.Kind == t && !yield(n) {
				return
			}
		}
	}
}

// UnknownError is the first notify of an error type that is not understood, or
// nil. A response that has one stands for a failed request, whatever else it
// says (RFC 7296, Section 3.10.1).
func (ns Notifies) UnknownError() *Notify {
	for _, n := range ns {
		if n.Kind.IsError() && !n.Kind.Known() {
			return n
		}
	}
	return nil
}

// Error is the first notify of an error type, or nil.
func (ns Notifies) Error() *Notify {
	for _, n := range ns {
		if n.Kind.IsError() {
			return n
		}
	}
	return nil
}
