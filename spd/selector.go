// Package spd is the Security Policy Database of RFC 4301, Section 4.4.1:
// selectors and their algebra, policies, and the ordered look-up of a packet.
package spd

import "net/netip"

// OPAQUE ports are written as start 65535, end 0 (RFC 7296, Section 3.13.1).
const (
	OpaqueStart uint16 = 65535
	OpaqueEnd   uint16 = 0
)

// TS is one side of one traffic selector: a range of addresses, a next layer
// protocol (0 is ANY) and a range of ports (RFC 7296, Section 3.13.1). For ICMP
// the port fields hold type<<8|code, for the mobility header type<<8 (RFC 4301,
// Section 4.4.1.1). From and To are of one family, unmapped. It is comparable.
type TS struct {
	From, To netip.Addr
	Proto    uint8
	PortFrom uint16
	PortTo   uint16
}

// Flow is what the selectors of a packet say, seen from this system: local is
// the source of an outbound packet and the destination of an inbound one.
type Flow struct {
	Local, Remote netip.Addr
	Proto         uint8
	// LocalPort and RemotePort hold the ports; for ICMP both hold
	// type<<8|code, for the mobility header type<<8.
	LocalPort, RemotePort uint16
	// HasPorts is false for a non-initial fragment and for a protocol without
	// ports: such a flow matches only ANY and OPAQUE (RFC 4301, Section 4.4.1.1).
	HasPorts bool
}

// Action is what a policy does with a packet (RFC 4301, Section 4.4.1).
type Action uint8

// Actions. The zero value is the safe one.
const (
	Discard Action = iota
	Bypass
	Protect
)

// Mode is the encapsulation mode of an SA.
type Mode uint8

// Modes.
const (
	Tunnel Mode = iota
	Transport
	BEET
)

// Policy is one SPD entry. One entry serves both directions: outbound packets
// are matched as they are, inbound ones with local and remote taken from their
// destination and source.
type Policy struct {
	// ID names the entry for its owner; unique in one SPD, chosen by the owner.
	ID uint64
	// Name is "connection/child", for people.
	Name   string
	Action Action
	// Local and Remote: the entry matches a flow when one selector of each list
	// does.
	Local, Remote []TS
	// Priority orders entries: the lowest number is looked at first; among
	// equals the entry that was added first.
	Priority uint32
	// ReqID binds a Protect entry to the SAs that may serve it; 0 otherwise.
	ReqID uint32
	Mode  Mode
	// Acquire asks for an event when an outbound packet matches and no SA
	// serves it. The packet itself is dropped or held.
	Acquire bool
	// FailOpen lets a packet that matches and that no SA serves pass in clear, in
	// place of being dropped or held.
	FailOpen bool
}
