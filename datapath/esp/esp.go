// Package esp is ESP packet processing (RFC 4303), pure: it takes buffers and
// gives back buffers, in place, without copy and without allocation.
//
// An outbound packet lies in its buffer with at least Headroom free octets
// before and Tailroom free octets behind it:
//
//	| Headroom ....................... | inner packet | Tailroom ........... |
//	      | outer IP | UDP | SPI Seq IV | inner packet | TFC | pad | 2 | ICV |
//
// Outbound.Seal writes from the SPI to the ICV, Outbound.Encapsulate what is
// before it. Inbound.Open takes a packet from its SPI on and gives back the inner
// packet, a slice of the same buffer.
package esp

import (
	"net/netip"
	"time"

	"iked/datapath/ip"
	"iked/sad"
	"iked/spd"
)

// HeaderLen is the length of SPI and sequence number.
const HeaderLen = 8

// UDPHeaderLen is the length of the header of RFC 3948.
const UDPHeaderLen = 8

// Headroom and Tailroom are the free octets that Seal and Encapsulate may need
// before and behind a packet: IPv6, UDP, ESP header and the longest IV; padding
// to a block of 16, pad length, next header and the longest ICV. TFC padding
// comes on top.
const (
	Headroom = ip.IPv6HeaderLen + UDPHeaderLen + HeaderLen + 16
	Tailroom = 16 + 2 + 32
)

// Sealed is the result of Seal: where ESP lies in the buffer and what the outer
// header must say.
type Sealed struct {
	// Off and Len are the ESP packet, SPI to ICV, in the buffer.
	Off, Len int
	Seq      uint64
	// TOS is DSCP and ECN of the outer header, DF its DF bit (IPv4), TTL its
	// TTL or hop limit.
	TOS uint8
	TTL uint8
	DF  bool
	// Expiry tells that this packet reached a soft limit of the SA.
	Expiry sad.Expiry
}

// Opened is the result of Open.
type Opened struct {
	// Packet is the inner packet, a slice of the buffer that was opened.
	Packet []byte
	Info   ip.Info
	// Flow is the inner packet's as the SPD sees it.
	Flow spd.Flow
	Seq  uint64
	// Newest tells that this packet moved the replay window forward: only such
	// a packet may say where the peer is now (RFC 7296, Section 2.23).
	Newest bool
	Expiry sad.Expiry
}

// Path is the outside of an SA, replaced as a whole when a peer moves.
type Path struct {
	Src, Dst netip.Addr
	Encap    *sad.Encap
	// MTU is the path MTU, outer IP header included.
	MTU int
}

// NewOutbound prepares an outbound SA; path MTU mtu is that of the way to the
// peer (1500 when unknown). The error says which property cannot be carried.
func NewOutbound(sa *sad.SA, mtu int, now time.Time) (*Outbound, error) { panic("being written") }

// Outbound carries packets of one outbound SA. All methods are safe for
// concurrent use.
type Outbound struct{}

// Seal protects the packet in buf[off:off+n] in place. info is what ip.Parse
// said of it. It needs Headroom octets before and Tailroom behind. After any
// Drop the packet is garbage unless the drop is TooBig.
func (o *Outbound) Seal(buf []byte, off, n int, info *ip.Info, out *Sealed) Drop {
	panic("being written")
}

// SealDummy makes a dummy packet with n octets of random payload (RFC 4303,
// Section 2.6) in buf, whose ESP header starts so that Headroom stays free.
func (o *Outbound) SealDummy(buf []byte, n int, out *Sealed) Drop { panic("being written") }

// Encapsulate writes the outer IP header and, when the SA says so, the UDP
// header in front of a sealed packet; start is the first octet of the outer
// header, udp that of the UDP header or of ESP.
func (o *Outbound) Encapsulate(buf []byte, s *Sealed) (start, payload int) { panic("being written") }

// InnerMTU is the largest inner packet that fits the path MTU.
func (o *Outbound) InnerMTU() int { panic("being written") }

// Path is the current outside; SetPath replaces it.
func (o *Outbound) Path() *Path    { panic("being written") }
func (o *Outbound) SetPath(p Path) { panic("being written") }

// SA is the record it was made from.
func (o *Outbound) SA() *sad.SA { panic("being written") }

// Usage is what is known of the SA at the moment.
func (o *Outbound) Usage() sad.Usage { panic("being written") }

// CheckTime tells whether a time limit has passed at now.
func (o *Outbound) CheckTime(now time.Time) sad.Expiry { panic("being written") }

// Inbound carries packets of one inbound SA. All methods are safe for
// concurrent use.
type Inbound struct{}

// NewInbound prepares an inbound SA.
func NewInbound(sa *sad.SA, now time.Time) (*Inbound, error) { panic("being written") }

// Open authenticates and decrypts the ESP packet in b, SPI to ICV, in place;
// tos is DSCP and ECN of the outer header.
func (i *Inbound) Open(b []byte, tos uint8, out *Opened) Drop { panic("being written") }

// SA, Path, SetPath, Usage and CheckTime are as those of Outbound.
func (i *Inbound) SA() *sad.SA                        { panic("being written") }
func (i *Inbound) Path() *Path                        { panic("being written") }
func (i *Inbound) SetPath(p Path)                     { panic("being written") }
func (i *Inbound) Usage() sad.Usage                   { panic("being written") }
func (i *Inbound) CheckTime(now time.Time) sad.Expiry { panic("being written") }
