package message

import (
	"encoding/binary"
	"math"
)

// MaxAttributes bounds the attributes of one payload or transform.
const MaxAttributes = 256

// Attribute is a data attribute (RFC 2408, Section 3.3), in either form.
//
//	+-+-----------------------------+-------------------------------+
//	|A|       Attribute Type        |    AF=0  Attribute Length     |
//	|F|                             |    AF=1  Attribute Value      |
//	+-+-----------------------------+-------------------------------+
//	|                 AF=0  Attribute Value                         |
type Attribute struct {
	Type  uint16 // 15 bits
	Basic bool   // the short form, of a value of two octets
	Value []byte
}

// Basic is an attribute in the short form.
func Basic(t, v uint16) Attribute {
	return Attribute{Type: t, Basic: true, Value: binary.BigEndian.AppendUint16(nil, v)}
}

// Variable is an attribute in the long form.
func Variable(t uint16, v []byte) Attribute { return Attribute{Type: t, Value: v} }

// Duration is a lifetime, in the short form when it fits, else in four octets:
// 32 bits are what every peer reads.
func Duration(t uint16, v uint64) Attribute {
	if v <= math.MaxUint16 {
		return Basic(t, uint16(v))
	}
	return Variable(t, binary.BigEndian.AppendUint32(nil, uint32(min(v, math.MaxUint32))))
}

// Uint is the value as a number; false when it has none or more than eight
// octets. A basic attribute in the long form is read too: old peers write it.
func (a Attribute) Uint() (v uint64, ok bool) {
	b := a.Value
	for len(b) > 8 && b[0] == 0 {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 8 {
		return 0, false
	}
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return v, true
}

// Equal tells whether type and value are the same; the form does not count (a
// responder may change it, RFC 2408, Section 4.2).
func (a Attribute) Equal(b Attribute) bool {
	if a.Type != b.Type {
		return false
	}
	x, ok := a.Uint()
	y, ok2 := b.Uint()
	if ok && ok2 {
		return x == y
	}
	return string(a.Value) == string(b.Value)
}

func (a Attribute) append(b []byte) []byte {
	if a.Basic {
		b = binary.BigEndian.AppendUint16(b, a.Type|0x8000)
		return append(b, a.Value...)
	}
	b = binary.BigEndian.AppendUint16(b, a.Type)
	b = binary.BigEndian.AppendUint16(b, uint16(len(a.Value)))
	return append(b, a.Value...)
}

// AppendAttributes appends a list of attributes.
func AppendAttributes(b []byte, list ...Attribute) []byte {
	for _, a := range list {
		b = a.append(b)
	}
	return b
}

// ParseAttributes reads a list of attributes, as RESPONDER-LIFETIME carries one.
func ParseAttributes(b []byte) ([]Attribute, error) {
	var list []Attribute
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, fault(AttributesNotSupported, ReasonAttribute, "an attribute has at least 4 octets, %d are left", len(b))
		}
		if len(list) == MaxAttributes {
			return nil, fault(AttributesNotSupported, ReasonAttribute, "at most %d attributes are read", MaxAttributes)
		}
		t, v := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		a := Attribute{Type: t &^ 0x8000, Basic: t&0x8000 != 0}
		if a.Basic {
			a.Value, b = b[2:4:4], b[4:]
		} else {
			n := 4 + int(v)
			if n > len(b) {
				return nil, fault(AttributesNotSupported, ReasonAttribute, "attribute %d has %d octets, %d are left", a.Type, v, len(b)-4)
			}
			a.Value, b = b[4:n:n], b[n:]
		}
		list = append(list, a)
	}
	return list, nil
}
