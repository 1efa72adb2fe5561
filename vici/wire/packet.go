package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// PacketType is the first octet of a packet.
type PacketType uint8

// Packet types.
const (
	CmdRequest      PacketType = 0
	CmdResponse     PacketType = 1
	CmdUnknown      PacketType = 2
	EventRegister   PacketType = 3
	EventUnregister PacketType = 4
	EventConfirm    PacketType = 5
	EventUnknown    PacketType = 6
	Event           PacketType = 7
)

// named tells which packets carry a name after their type.
func (t PacketType) named() bool {
	switch t {
	case CmdRequest, EventRegister, EventUnregister, Event:
		return true
	}
	return false
}

// Packet is one packet of the stream: an octet of type, a name with a length
// octet for requests, registrations and events, then the encoded message.
type Packet struct {
	Type PacketType
	Name string
	Body []byte // aliases the input of ParsePacket
}

// Append writes the packet with its 32-bit length.
func (p Packet) Append(b []byte) ([]byte, error) {
	n := 1 + len(p.Body)
	if p.Type.named() {
		n += 1 + len(p.Name)
	}
	if len(p.Name) > MaxName || n > MaxPacket {
		return nil, fmt.Errorf("vici: packet of %d octets, at most %d can be sent", n, MaxPacket)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, byte(p.Type))
	if p.Type.named() {
		b = append(b, byte(len(p.Name)))
		b = append(b, p.Name...)
	}
	return append(b, p.Body...), nil
}

// ParsePacket reads what follows the length field.
func ParsePacket(b []byte) (Packet, error) {
	if len(b) == 0 {
		return Packet{}, fmt.Errorf("%w: empty packet", ErrSyntax)
	}
	p := Packet{Type: PacketType(b[0])}
	b = b[1:]
	if p.Type > Event {
		return Packet{}, fmt.Errorf("%w: packet type %d", ErrSyntax, p.Type)
	}
	if p.Type.named() {
		if len(b) == 0 || len(b)-1 < int(b[0]) {
			return Packet{}, fmt.Errorf("%w: name runs past the end of the packet", ErrSyntax)
		}
		n := int(b[0])
		if !Printable(b[1 : 1+n]) {
			return Packet{}, fmt.Errorf("%w: name is not printable", ErrSyntax)
		}
		p.Name = string(b[1 : 1+n])
		b = b[1+n:]
	}
	p.Body = b
	return p, nil
}

// ErrTooLong is returned by ReadPacket; the connection must be closed.
var ErrTooLong = fmt.Errorf("%w: longer than %d octets", ErrSyntax, MaxPacket)

// ReadPacket reads one packet from a stream, without its length.
func ReadPacket(r io.Reader) ([]byte, error) {
	var l [4]byte
	if _, err := io.ReadFull(r, l[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(l[:])
	if n > MaxPacket {
		return nil, ErrTooLong
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
