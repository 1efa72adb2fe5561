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
// Section 4.4.1.1). Where the two sides of a pair have ICMP messages of different types,
// each side's are those that it sends (Section 4.4.1.3); else both are about every
// message. From and To are of one family, unmapped. It is comparable.
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
	// Inbound tells that the packet comes from Remote. It is looked up in SPD-I and
	// not in SPD-O (RFC 4301, Section 4.4.1).
	Inbound bool
	// LocalPort and RemotePort hold the ports; for ICMP both hold
	// type<<8|code, for the mobility header type<<8. The type of a mobility header
	// belongs to the selector of its sender, the local one on the way out (RFC
	// 4301, Section 4.4.1.1); the other one is about the other direction, as RFC
	// 4877, Section 5.2 writes entries (local_mh_type, remote_mh_type).
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

// PFP is a set of "populate from packet" flags (RFC 4301, Section 4.4.1.2): an
// SA takes these selectors from the packet that asked for it, and the others from
// the entry.
type PFP uint8

// PFP flags, one for each selector that RFC 4301 gives one.
const (
	PFPLocalAddr PFP = 1 << iota
	PFPRemoteAddr
	PFPProtocol
	PFPLocalPort // ICMP type and code, mobility header type too
	PFPRemotePort
)

// Dirs is a set of directions in which an entry is looked at: SPD-O and SPD-I of
// RFC 4301, Section 4.4.1. The zero value is both.
type Dirs uint8

// Directions.
const (
	Both     Dirs = 0
	Outbound Dirs = 1
	Inbound  Dirs = 2
)

// Mark is a packet mark and which of its bits count; the zero value is none.
type Mark struct{ Value, Mask uint32 }

// Template is one more protection of a Protect entry, applied to the result of
// the one before it: an SA bundle, in the sense of nested policies (RFC 4301,
// Section 4.1 and Appendix E).
type Template struct {
	Proto uint8 // 50 ESP, 51 AH
	Mode  Mode
	ReqID uint32
	// Local and Remote are the outer addresses in Tunnel and BEET mode; invalid
	// in Transport mode.
	Local, Remote netip.Addr
}

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
	// Proto is the protocol of its SAs, 50 ESP or 51 AH; 0 is ESP.
	Proto uint8
	// OuterLocal and OuterRemote are the outer addresses of the SAs in Tunnel and
	// BEET mode, as far as they are known: invalid ones stand for any (a trap for a
	// peer that may come from anywhere). Invalid in Transport mode.
	OuterLocal, OuterRemote netip.Addr
	// Compress tells that its SAs compress what they protect (RFC 3173).
	Compress bool
	// Bundle is further protection, from the inside outwards.
	Bundle []Template
	// PFP are the selectors that an SA takes from the packet. SAs of such an entry
	// have entries of their own, narrower and looked at first; no SA has the ReqID
	// of this one.
	PFP PFP
	// Dirs limits a Bypass or Discard entry to one direction.
	Dirs Dirs
	// IfID binds the entry to a route-based interface (XFRM interface), Mark its
	// outbound side and MarkIn its inbound side to packets with that mark; 0: none.
	// Kernel backend only.
	IfID         uint32
	Mark, MarkIn Mark
	// Acquire asks for an event when an outbound packet matches and no SA
	// serves it. The packet itself is dropped or held.
	Acquire bool
	// FailOpen lets a packet that matches and that no SA serves pass in clear, in
	// place of being dropped or held.
	FailOpen bool
}
