// Package sad is the Security Association Database of RFC 4301, Section 4.4.2:
// the record of an SA, SPI numbers, lifetimes, anti-replay and extended
// sequence numbers. It holds no packet processing.
package sad

import (
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/internal/secret"
	"iked/spd"
)

// Direction of an SA, seen from this system.
type Direction uint8

// Directions.
const (
	In  Direction = 1
	Out Direction = 2
)

// ID names one SA. Inbound SAs are found by SPI and protocol (RFC 4301,
// Section 4.1); for outbound ones the SPI is the peer's, so its address counts.
// Those of a multicast group, whose destination it is, are found by SPI and
// destination, and by the sender when there is only one. It is comparable.
type ID struct {
	Dir   Direction
	Proto suite.Protocol // ESP or AH
	SPI   uint32
	Dst   netip.Addr // outer destination
	// Sender is the outer source, of an inbound SA of a multicast group that is for
	// the packets of one sender; invalid in all others.
	Sender netip.Addr
}

// Encap is UDP encapsulation (RFC 3948), as ports of the outer datagram.
type Encap struct {
	SrcPort, DstPort uint16
}

// DF is how an IPv4 tunnel header gets its DF bit (RFC 4301, Section 8.1).
type DF uint8

// DF choices.
const (
	DFCopy DF = iota
	DFSet
	DFClear
)

// DSCP choices for tunnel headers, as swanctl's copy_dscp.
type DSCP uint8

// How the DSCP field crosses the tunnel: on encapsulation only (default), on
// decapsulation only, both, none.
const (
	DSCPOut DSCP = iota
	DSCPIn
	DSCPBoth
	DSCPNo
)

// Offload names a device that may do an SA's work in hardware.
type Offload struct {
	Device string
	// Packet hands over whole packets, else cryptography only. Must refuses an SA
	// that the device does not take, else the kernel does the work itself.
	Packet, Must bool
}

// Limits are lifetimes; zero means none. Times count from installation.
type Limits struct {
	SoftTime, HardTime       time.Duration
	SoftBytes, HardBytes     uint64
	SoftPackets, HardPackets uint64
}

// SA is everything that a backend must know to carry packets of one direction.
type SA struct {
	ID
	Src   netip.Addr // outer source
	ReqID uint32
	Mode  spd.Mode
	// Local and Remote are the negotiated selectors (RFC 4301, Section 5.2 step 4
	// checks inbound packets against them).
	Local, Remote []spd.TS

	Encr, Integ suite.Transform
	EncrKey     secret.Bytes // with the salt as its last octets
	IntegKey    secret.Bytes
	ESN         bool
	// ReplayWindow in packets, inbound only; 0 switches the check off.
	ReplayWindow uint32
	Encap        *Encap
	Limits       Limits
	// CPI compresses the payload before ESP protects it, with DEFLATE (RFC 3173, RFC
	// 2394): the number that the receiver gave out; 0: no compression.
	CPI uint16
	// TFCPadding pads outbound packets to this many octets of inner packet;
	// TFCToMTU pads to the path MTU. 0 pads nothing.
	TFCPadding uint32
	DF         DF
	DSCP       DSCP
	NoECN      bool  // copy_ecn = no
	HopLimit   uint8 // TTL or hop limit of the tunnel header; 0: 64
	// NATLocal and NATRemote are the addresses of this host and the peer as the peer
	// has them, in Transport mode behind a NAT: NATLocal is where the peer sends to,
	// and checksums of what it sends were made with both (RFC 3948, Section 3.1.2;
	// RFC 7296, Section 2.23.1; RFC 3947, Section 5.2). Invalid: not translated.
	NATLocal, NATRemote netip.Addr
	// IfID binds the SA to a route-based interface, Mark to packets with that
	// mark, SetMark is put on packets after the SA was applied; 0: none. Offload is
	// the device that may do the work, "" none. Kernel backend only.
	IfID          uint32
	Mark, SetMark spd.Mark
	Offload       Offload
	// Static tells that the SA was keyed by hand (RFC 4301, Section 4.5.1).
	Static bool
	// Name is "connection/child", for people; Owner is handed back in events.
	Name  string
	Owner uint64
}

// TFCToMTU as TFCPadding pads every packet to the path MTU.
const TFCToMTU = ^uint32(0)

// Usage is what a backend knows of a living SA.
type Usage struct {
	Bytes, Packets uint64
	LastUsed       time.Time // zero: never
	Seq            uint64    // last sequence number sent or top of the window
	// Replayed and BadICV count what was refused by the replay window and by the
	// integrity check; inbound SAs only.
	Replayed, BadICV uint64
	// MTU is the largest inner packet that fits without fragmentation, 0 unknown;
	// outbound SAs only.
	MTU int
}
