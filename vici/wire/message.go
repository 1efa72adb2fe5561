// Package wire is the encoding of VICI, the Versatile IKE Control Interface:
// packets of a stream socket and the ordered message inside them. It is pure:
// bytes in, values out.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Limits of the encoding.
const (
	MaxPacket = 512 << 10 // octets of one packet, without its length field
	MaxName   = 255       // octets of a name
	MaxValue  = 65535     // octets of a value
	// maxDepth bounds nested sections: the deepest message that any command knows
	// has five levels.
	maxDepth = 32
)

// Element types of a message.
const (
	elemSectionStart = 1
	elemSectionEnd   = 2
	elemKeyValue     = 3
	elemListStart    = 4
	elemListItem     = 5
	elemListEnd      = 6
)

// Kind tells what a Node is.
type Kind uint8

// Kinds of nodes.
const (
	KindSection Kind = iota
	KindValue
	KindList
)

// Node is one named thing in a message; which fields hold depends on Kind.
type Node struct {
	Name  string
	Kind  Kind
	Value []byte   // KindValue
	Items [][]byte // KindList
	Sub   Message  // KindSection
}

// Message is an ordered list of nodes. The order is significant for clients.
type Message []Node

// Set appends a text value.
func (m *Message) Set(name, value string) {
	*m = append(*m, Node{Name: name, Kind: KindValue, Value: []byte(value)})
}

// SetBytes appends a binary value.
func (m *Message) SetBytes(name string, value []byte) {
	*m = append(*m, Node{Name: name, Kind: KindValue, Value: value})
}

// SetUint appends a decimal value.
func (m *Message) SetUint(name string, v uint64) { m.Set(name, strconv.FormatUint(v, 10)) }

// SetInt appends a decimal value that may be negative.
func (m *Message) SetInt(name string, v int64) { m.Set(name, strconv.FormatInt(v, 10)) }

// SetYes appends name=yes when v is true and nothing otherwise: optional flags
// are absent, never "no".
func (m *Message) SetYes(name string, v bool) {
	if v {
		m.Set(name, "yes")
	}
}

// SetIf appends a text value unless it is empty.
func (m *Message) SetIf(name, value string) {
	if value != "" {
		m.Set(name, value)
	}
}

// SetList appends a list, also an empty one.
func (m *Message) SetList(name string, items ...string) {
	n := Node{Name: name, Kind: KindList, Items: make([][]byte, len(items))}
	for i, it := range items {
		n.Items[i] = []byte(it)
	}
	*m = append(*m, n)
}

// SetSection appends a section.
func (m *Message) SetSection(name string, sub Message) {
	*m = append(*m, Node{Name: name, Kind: KindSection, Sub: sub})
}

// find returns the last value of that name: in a request the last one wins.
func (m Message) find(name string, k Kind) *Node {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i].Name == name && m[i].Kind == k {
			return &m[i]
		}
	}
	return nil
}

// Text returns a text value; one with octets outside printable ASCII counts as
// absent.
func (m Message) Text(name string) (string, bool) {
	n := m.find(name, KindValue)
	if n == nil || !Printable(n.Value) {
		return "", false
	}
	return string(n.Value), true
}

// Bytes returns a binary value.
func (m Message) Bytes(name string) ([]byte, bool) {
	n := m.find(name, KindValue)
	if n == nil {
		return nil, false
	}
	return n.Value, true
}

// Has tells whether a value of that name is present, whatever it is.
func (m Message) Has(name string) bool { return m.find(name, KindValue) != nil }

// List returns the items of a list.
func (m Message) List(name string) [][]byte {
	if n := m.find(name, KindList); n != nil {
		return n.Items
	}
	return nil
}

// Section returns a sub-section.
func (m Message) Section(name string) (Message, bool) {
	if n := m.find(name, KindSection); n != nil {
		return n.Sub, true
	}
	return nil, false
}

// Int reads a number as C does with base 0 (0x.., leading-0 octal); def when
// absent or not a number.
func (m Message) Int(name string, def int64) int64 {
	s, ok := m.Text(name)
	if !ok {
		return def
	}
	v, err := strconv.ParseInt(s, 0, 64)
	if err != nil || strings.ContainsRune(s, '_') {
		return def
	}
	return v
}

// Bool reads yes/true/enabled/1 and no/false/disabled/0; def otherwise.
func (m Message) Bool(name string, def bool) bool {
	s, _ := m.Text(name)
	switch strings.ToLower(s) {
	case "yes", "true", "enabled", "1":
		return true
	case "no", "false", "disabled", "0":
		return false
	}
	return def
}

// Printable tells whether every octet is printable ASCII.
func Printable(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// Append writes the message. It fails when a name or value does not fit its
// length field.
func (m Message) Append(b []byte) ([]byte, error) {
	var err error
	for i := range m {
		n := &m[i]
		if len(n.Name) > MaxName {
			return nil, fmt.Errorf("vici: name of %d octets, at most %d can be sent", len(n.Name), MaxName)
		}
		switch n.Kind {
		case KindSection:
			b = appendName(b, elemSectionStart, n.Name)
			if b, err = n.Sub.Append(b); err != nil {
				return nil, err
			}
			b = append(b, elemSectionEnd)
		case KindValue:
			b = appendName(b, elemKeyValue, n.Name)
			if b, err = appendValue(b, n.Value); err != nil {
				return nil, fmt.Errorf("%w (key %q)", err, n.Name)
			}
		case KindList:
			b = appendName(b, elemListStart, n.Name)
			for _, it := range n.Items {
				b = append(b, elemListItem)
				if b, err = appendValue(b, it); err != nil {
					return nil, fmt.Errorf("%w (list %q)", err, n.Name)
				}
			}
			b = append(b, elemListEnd)
		}
	}
	return b, nil
}

func appendName(b []byte, elem byte, name string) []byte {
	b = append(b, elem, byte(len(name)))
	return append(b, name...)
}

func appendValue(b, v []byte) ([]byte, error) {
	if len(v) > MaxValue {
		return nil, fmt.Errorf("vici: value of %d octets, at most %d can be sent", len(v), MaxValue)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
	return append(b, v...), nil
}

// ErrSyntax is wrapped by every error of Parse.
var ErrSyntax = errors.New("vici: malformed message")

type parser struct {
	in  []byte
	off int
}

// Parse reads a message. Values alias b. With an error it returns the nodes that
// came before the fault: queries are answered from those, as clients expect,
// while anything that changes state must refuse.
func Parse(b []byte) (Message, error) {
	p := parser{in: b}
	return p.section(0)
}

func (p *parser) fault(what string) error {
	return fmt.Errorf("%w: %s at octet %d", ErrSyntax, what, p.off)
}

func (p *parser) section(depth int) (Message, error) {
	var m Message
	for p.off < len(p.in) {
		elem := p.in[p.off]
		p.off++
		if elem == elemSectionEnd {
			if depth == 0 {
				return m, p.fault("section end without a section")
			}
			return m, nil
		}
		n, err := p.node(elem, depth)
		if err != nil {
			return m, err
		}
		m = append(m, n)
	}
	if depth > 0 {
		return m, p.fault("section without an end")
	}
	return m, nil
}

func (p *parser) node(elem byte, depth int) (Node, error) {
	switch elem {
	case elemSectionStart, elemKeyValue, elemListStart:
	default:
		return Node{}, p.fault(fmt.Sprintf("element type %d is not allowed here", elem))
	}
	name, err := p.name()
	if err != nil {
		return Node{}, err
	}
	n := Node{Name: name}
	switch elem {
	case elemSectionStart:
		if depth >= maxDepth {
			return Node{}, p.fault(fmt.Sprintf("sections nested deeper than %d", maxDepth))
		}
		n.Kind = KindSection
		n.Sub, err = p.section(depth + 1)
	case elemKeyValue:
		n.Kind = KindValue
		n.Value, err = p.value()
	case elemListStart:
		n.Kind = KindList
		n.Items, err = p.items()
	}
	return n, err
}

func (p *parser) items() ([][]byte, error) {
	var items [][]byte
	for p.off < len(p.in) {
		elem := p.in[p.off]
		p.off++
		switch elem {
		case elemListEnd:
			return items, nil
		case elemListItem:
			v, err := p.value()
			if err != nil {
				return items, err
			}
			items = append(items, v)
		default:
			return items, p.fault(fmt.Sprintf("element type %d inside a list", elem))
		}
	}
	return items, p.fault("list without an end")
}

func (p *parser) name() (string, error) {
	if p.off >= len(p.in) {
		return "", p.fault("name length missing")
	}
	n := int(p.in[p.off])
	p.off++
	if len(p.in)-p.off < n {
		return "", p.fault(fmt.Sprintf("name of %d octets, only %d left", n, len(p.in)-p.off))
	}
	s := string(p.in[p.off : p.off+n])
	p.off += n
	return s, nil
}

func (p *parser) value() ([]byte, error) {
	if len(p.in)-p.off < 2 {
		return nil, p.fault("value length missing")
	}
	n := int(binary.BigEndian.Uint16(p.in[p.off:]))
	p.off += 2
	if len(p.in)-p.off < n {
		return nil, p.fault(fmt.Sprintf("value of %d octets, only %d left", n, len(p.in)-p.off))
	}
	v := p.in[p.off : p.off+n : p.off+n]
	p.off += n
	return v, nil
}
