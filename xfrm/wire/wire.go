// Package wire is the codec of NETLINK_XFRM, the protocol between programs and
// the IPsec stack of the Linux kernel (include/uapi/linux/xfrm.h). It takes and
// gives octets and does no input or output.
//
// Structures are laid out in the byte order of the machine, but for SPIs and ports,
// which stand in network order. Every parser checks every length; what a newer
// kernel adds as an attribute is kept in Attrs.Unknown.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Type is the nlmsg_type of a message.
type Type uint16

// Message types, with the structure that follows the netlink header.
const (
	NewSA        Type = 16 // SA
	DelSA        Type = 17 // SAByID
	GetSA        Type = 18 // SAByID, or Dump
	NewPolicy    Type = 19 // Policy
	DelPolicy    Type = 20 // PolicyByID
	GetPolicy    Type = 21 // PolicyByID, or Dump
	AllocSPI     Type = 22 // SPIRequest
	AcquireMsg   Type = 23 // Acquire
	ExpireMsg    Type = 24 // Expire
	UpdPolicy    Type = 25 // Policy
	UpdSA        Type = 26 // SA
	PolExpire    Type = 27 // PolicyExpire
	FlushSAMsg   Type = 28 // FlushSA
	FlushPolMsg  Type = 29 // Dump
	NewAE        Type = 30 // AE
	GetAE        Type = 31 // AE
	ReportMsg    Type = 32 // Report
	MigrateMsg   Type = 33 // Migrate
	NewSADInfo   Type = 34 // SADInfo
	GetSADInfo   Type = 35 // SADInfo
	NewSPDInfo   Type = 36 // SPDInfo
	GetSPDInfo   Type = 37 // SPDInfo
	MappingMsg   Type = 38 // Mapping
	SetDefault   Type = 39 // Default
	GetDefault   Type = 40 // Default
	MigrateState Type = 41 // StateMigrate, since Linux 7.2
)

// Multicast groups.
const (
	GroupAcquire = 1
	GroupExpire  = 2 // also PolExpire
	GroupSA      = 3
	GroupPolicy  = 4
	GroupAEvents = 5
	GroupReport  = 6
	GroupMigrate = 7
	GroupMapping = 8
)

// Address families.
const (
	Inet  uint16 = 2
	Inet6 uint16 = 10
)

// Modes.
const (
	ModeTransport         uint8 = 0
	ModeTunnel            uint8 = 1
	ModeRouteOptimization uint8 = 2
	ModeInTrigger         uint8 = 3
	ModeBEET              uint8 = 4
	ModeIPTFS             uint8 = 5
)

// Message is the body of one message.
type Message interface {
	// Append appends the structure and its attributes.
	Append(b []byte) []byte
}

// ErrMalformed is wrapped by every error of Parse.
var ErrMalformed = errors.New("malformed XFRM message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrMalformed)
}

// Parse parses the body of a message that the kernel sends. The result keeps no
// part of b.
func Parse(t Type, b []byte) (Message, error) {
	var m interface {
		Message
		parse(b []byte) error
	}
	switch t {
	case NewSA, UpdSA:
		m = &SA{}
	case DelSA, GetSA:
		m = &SAByID{}
	case NewPolicy, UpdPolicy:
		m = &Policy{}
	case DelPolicy, GetPolicy:
		m = &PolicyByID{}
	case AllocSPI:
		m = &SPIRequest{}
	case AcquireMsg:
		m = &Acquire{}
	case ExpireMsg:
		m = &Expire{}
	case PolExpire:
		m = &PolicyExpire{}
	case FlushSAMsg:
		m = &FlushSA{}
	case FlushPolMsg:
		m = &Dump{}
	case NewAE, GetAE:
		m = &AE{}
	case ReportMsg:
		m = &Report{}
	case MigrateMsg:
		m = &Migrate{}
	case NewSADInfo, GetSADInfo:
		m = &SADInfo{}
	case NewSPDInfo, GetSPDInfo:
		m = &SPDInfo{}
	case MappingMsg:
		m = &Mapping{}
	case SetDefault, GetDefault:
		m = &Default{}
	case MigrateState:
		m = &StateMigrate{}
	default:
		return nil, malformed("message type %d is not known", t)
	}
	if err := m.parse(b); err != nil {
		return nil, fmt.Errorf("%v: %w", t, err)
	}
	return m, nil
}

var typeNames = [...]string{"NEWSA", "DELSA", "GETSA", "NEWPOLICY", "DELPOLICY", "GETPOLICY", "ALLOCSPI", "ACQUIRE", "EXPIRE",
	"UPDPOLICY", "UPDSA", "POLEXPIRE", "FLUSHSA", "FLUSHPOLICY", "NEWAE", "GETAE", "REPORT", "MIGRATE", "NEWSADINFO", "GETSADINFO",
	"NEWSPDINFO", "GETSPDINFO", "MAPPING", "SETDEFAULT", "GETDEFAULT", "MIGRATE_STATE"}

// String is the name of the kernel's header without XFRM_MSG_.
func (t Type) String() string {
	if i := int(t) - int(NewSA); i >= 0 && i < len(typeNames) {
		return typeNames[i]
	}
	return fmt.Sprintf("message %d", uint16(t))
}

// Address is xfrm_address_t: an IPv4 address stands in the first four octets. The
// family stands elsewhere.
type Address [16]byte

// AddressOf gives zeros for an invalid address.
func AddressOf(a netip.Addr) Address {
	var x Address
	if a.Is4() {
		v := a.As4()
		copy(x[:], v[:])
	} else if a.IsValid() {
		x = a.As16()
	}
	return x
}

// Addr is the address in a family; invalid for a family that is neither IPv4 nor
// IPv6.
func (a Address) Addr(family uint16) netip.Addr {
	switch family {
	case Inet:
		return netip.AddrFrom4([4]byte(a[:4]))
	case Inet6:
		return netip.AddrFrom16(a)
	}
	return netip.Addr{}
}

// FamilyOf is 0 for an invalid address.
func FamilyOf(a netip.Addr) uint16 {
	switch {
	case a.Is4():
		return Inet
	case a.IsValid():
		return Inet6
	}
	return 0
}

// reader walks a structure whose length was checked before; a mistake in that
// check shows as bad and not as a panic.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.bad, r.b = true, nil
		return make([]byte, n)
	}
	x := r.b[:n]
	r.b = r.b[n:]
	return x
}

func (r *reader) skip(n int)       { r.take(n) }
func (r *reader) u8() uint8        { return r.take(1)[0] }
func (r *reader) u16() uint16      { return binary.NativeEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32      { return binary.NativeEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64      { return binary.NativeEndian.Uint64(r.take(8)) }
func (r *reader) be16() uint16     { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) be32() uint32     { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) address() Address { return Address(r.take(16)) }

// head splits a body into its structure and its attributes.
func head(name string, b []byte, size int) (r reader, rest []byte, err error) {
	if len(b) < size {
		return r, nil, malformed("%s has %d octets, expected at least %d", name, len(b), size)
	}
	return reader{b: b[:size]}, b[min(align(size), len(b)):], nil
}

func (r *reader) done(name string) error {
	if r.bad || len(r.b) != 0 {
		return malformed("%s: %d octets left over", name, len(r.b))
	}
	return nil
}

func align(n int) int { return (n + 3) &^ 3 }

func pad(b []byte, n int) []byte {
	for range n {
		b = append(b, 0)
	}
	return b
}

func append16(b []byte, v uint16) []byte { return binary.NativeEndian.AppendUint16(b, v) }
func append32(b []byte, v uint32) []byte { return binary.NativeEndian.AppendUint32(b, v) }
func append64(b []byte, v uint64) []byte { return binary.NativeEndian.AppendUint64(b, v) }
func be16(b []byte, v uint16) []byte     { return binary.BigEndian.AppendUint16(b, v) }
func be32(b []byte, v uint32) []byte     { return binary.BigEndian.AppendUint32(b, v) }
