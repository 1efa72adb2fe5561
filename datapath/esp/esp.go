// Package esp is packet processing of the SAs of ESP (RFC 4303) and of AH (RFC
// 4302), pure: it takes buffers and gives back buffers, in place, without copy and
// without allocation.
//
// An outbound packet lies in its buffer with at least Headroom free octets
// before and Tailroom free octets behind it:
//
//	| Headroom ....................... | inner packet | Tailroom ........... |
//	      | outer IP | UDP | SPI Seq IV | inner packet | TFC | pad | 2 | ICV |
//
// Outbound.Seal writes from the SPI to the ICV, Outbound.Encapsulate what is
// before it. Inbound.OpenAt takes a packet from its SPI on and gives back the inner
// packet, a slice of the same buffer.
//
// What a mode does to the headers around the payload is in tunnel.go,
// transport.go and beet.go, apart from the protection itself in seal.go and
// open.go, and in ah.go for AH.
package esp

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"iked/beet"
	"iked/crypto/aead"
	"iked/crypto/suite"
	"iked/datapath/ah"
	"iked/datapath/ip"
	"iked/datapath/ipcomp"
	"iked/sad"
	"iked/spd"
)

// HeaderLen is the length of SPI and sequence number.
const HeaderLen = 8

// UDPHeaderLen is the length of the header of RFC 3948.
const UDPHeaderLen = 8

// Headroom and Tailroom are the free octets that Seal and Encapsulate may need
// before and behind a packet: IPv6 and the longer of UDP, ESP header and the
// longest IV, or the longest AH header; padding to a block of 16, pad length, next
// header and the longest ICV. TFC padding comes on top.
const (
	Headroom = ip.IPv6HeaderLen + max(UDPHeaderLen+HeaderLen+16, ah.MaxLen)
	Tailroom = 16 + 2 + 32
)

// trailerLen is pad length and next header.
const trailerLen = 2

// defaultTTL is the TTL or hop limit of tunnel headers (RFC 4301, Section
// 5.1.2: constructed).
const defaultTTL = 64

// Floors of the path MTU: what an unauthenticated ICMP message may lower it to.
const (
	floorMTU4 = 576
	floorMTU6 = ip.MinMTU6
)

// Scratch is the working memory of one goroutine. The zero value is ready.
type Scratch struct {
	aead aead.Scratch
	ah   ah.Scratch
	comp *ipcomp.Coder
	// Memory has the room for payloads that are restored; nil: there is none.
	Memory Memory
	random [1024]byte
	left   int // octets of random that were not used yet
}

// fill writes random octets.
func (w *Scratch) fill(b []byte) {
	for len(b) > 0 {
		if w.left == 0 {
			rand.Read(w.random[:]) // never fails
			w.left = len(w.random)
		}
		at := len(w.random) - w.left
		n := copy(b, w.random[at:])
		clear(w.random[at : at+n])
		b, w.left = b[n:], w.left-n
	}
}

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
	// Header is the length of the original IP header that was moved before ESP, and
	// before the UDP header when there is one (transport mode), and of AH that of the
	// header which Seal made; 0: Encapsulate makes one.
	Header int
	// Special tells that the header has options or extension headers, which a UDP
	// socket cannot send.
	Special bool
	// id and flowLabel are for the header that Encapsulate makes.
	id        uint16
	flowLabel uint32
	// Expiry tells that the SA reached a soft limit.
	Expiry sad.Expiry
}

// Outer is what is known of the IP header that a received ESP packet had. The
// zero value of a field is what a socket does not tell.
type Outer struct {
	beet.Carried
	Src, Dst netip.Addr
	// Header is the length of the IPv4 header that lies directly before ESP in the
	// buffer; 0: none does.
	Header int
}

// Opened is the result of Open.
type Opened struct {
	// Packet is the inner packet, a slice of the buffer that was opened.
	Packet []byte
	Info   ip.Info
	// Flow is the inner packet's as the SPD sees it; of a SelectorMismatch too.
	Flow spd.Flow
	Seq  uint64
	// Newest tells that this packet moved the replay window forward: only such
	// a packet may say where the peer is now (RFC 7296, Section 2.23). It and
	// Seq are valid for every drop after authentication.
	Newest bool
	// Expiry tells that the SA reached a soft limit.
	Expiry sad.Expiry
}

// Path is the outside of an SA, replaced as a whole when a peer moves. It must
// not be changed after SetPath.
type Path struct {
	Src, Dst netip.Addr
	Encap    *sad.Encap
	// MTU is the path MTU, outer IP header included; outbound SAs only.
	MTU int
	// inner is the largest inner packet that fits.
	inner int
}

// common is what both directions of an SA have.
type common struct {
	sa     *sad.SA
	cipher *aead.Cipher // nil for AH
	auth   *ah.Auth     // nil for ESP
	path   atomic.Pointer[Path]
	meter  sad.Meter
	// align is what the plaintext's length must be a multiple of: the block of
	// the cipher, and 4 (RFC 4303, Section 2.4).
	align int
	// inner is the fixed pair of addresses of an SA in BEET mode.
	inner beet.Inner
}

func (c *common) init(sa *sad.SA, now time.Time) error {
	switch {
	case sa.Proto != suite.ProtoESP && sa.Proto != suite.ProtoAH:
		return fmt.Errorf("SA %08x of %s: protocol %v, expected ESP or AH", sa.SPI, sa.Name, sa.Proto)
	case sa.SPI < sad.MinSPI:
		return fmt.Errorf("SA %08x of %s: SPIs below %d are reserved (RFC 4303, Section 2.1)", sa.SPI, sa.Name, sad.MinSPI)
	case sa.Mode > spd.BEET:
		return fmt.Errorf("SA %08x of %s: mode %d, expected tunnel, transport or BEET", sa.SPI, sa.Name, sa.Mode)
	case !sa.Src.IsValid() || !sa.Dst.IsValid() || sa.Src.Is4() != sa.Dst.Is4():
		return fmt.Errorf("SA %08x of %s: outer addresses %s and %s, expected two of one family", sa.SPI, sa.Name, sa.Src, sa.Dst)
	case len(sa.Local) == 0 || len(sa.Remote) == 0:
		return fmt.Errorf("SA %08x of %s: %d local and %d remote selectors, expected at least one of each", sa.SPI, sa.Name, len(sa.Local), len(sa.Remote))
	}
	c.sa = sa
	c.meter.Init(sa.Limits, now)
	if sa.Proto == suite.ProtoAH {
		if err := c.initAH(sa); err != nil {
			return fmt.Errorf("SA %08x of %s: %w", sa.SPI, sa.Name, err)
		}
		return nil
	}
	var err error
	if sa.Mode == spd.BEET {
		if c.inner, err = beet.Bind(sa); err != nil {
			return fmt.Errorf("SA %08x of %s: %w", sa.SPI, sa.Name, err)
		}
	}
	c.cipher, err = aead.New(sa.Encr, sa.Integ, sa.EncrKey.Reveal(), sa.IntegKey.Reveal())
	if err != nil {
		return fmt.Errorf("SA %08x of %s: %w", sa.SPI, sa.Name, err)
	}
	c.align = max(c.cipher.Block(), 4)
	return nil
}

// SA is the record that the object was made from. It must not be changed, and
// its outer addresses are not followed: see Path.
func (c *common) SA() *sad.SA { return c.sa }

// Path is the current outside.
func (c *common) Path() *Path { return c.path.Load() }

// CheckTime tells which limit of the SA has been reached at now, the hardest
// first; bytes and packets are looked at as well.
func (c *common) CheckTime(now time.Time) sad.Expiry { return c.meter.Check(now) }

// Touch records a use at now; once per batch is enough.
func (c *common) Touch(now time.Time) { c.meter.Touch(now) }

// Outbound carries packets of one outbound SA. All methods are safe for
// concurrent use, each goroutine with its own Scratch.
type Outbound struct {
	common
	seq  sad.Counter
	ttl  uint8 // of the tunnel header
	room sad.Room
	gain gain
}

// NewOutbound prepares an outbound SA; mtu is the MTU of the path to the peer,
// 1500 when unknown. The error says which property cannot be carried.
func NewOutbound(sa *sad.SA, mtu int, now time.Time) (*Outbound, error) {
	o := new(Outbound)
	if err := o.init(sa, now); err != nil {
		return nil, err
	}
	var err error
	if o.room, err = sa.Room(); err != nil {
		return nil, fmt.Errorf("SA %08x of %s: %w", sa.SPI, sa.Name, err)
	}
	o.seq.Init(sa.ESN)
	o.ttl = sa.HopLimit
	if o.ttl == 0 {
		o.ttl = defaultTTL
	}
	o.SetPath(Path{Src: sa.Src, Dst: sa.Dst, Encap: sa.Encap, MTU: mtu})
	return o, nil
}

// SetPath replaces the outside; the inner MTU follows.
func (o *Outbound) SetPath(p Path) {
	p.MTU = max(p.MTU, floor(p.Dst))
	p.inner = o.fits(&p)
	o.path.Store(&p)
}

// LowerMTU takes a smaller path MTU that an ICMP message reported, not below
// the floor: 576 for IPv4, 1280 for IPv6 (RFC 4301, Section 8.2.1). It tells
// whether that changed anything.
func (o *Outbound) LowerMTU(mtu int) bool {
	for {
		old := o.path.Load()
		p := *old
		p.MTU = max(mtu, floor(p.Dst))
		if p.MTU >= old.MTU {
			return false
		}
		p.inner = o.fits(&p)
		if o.path.CompareAndSwap(old, &p) {
			return true
		}
	}
}

// Usage is what is known of the SA at the moment.
func (o *Outbound) Usage() sad.Usage {
	u := o.meter.Usage()
	u.Seq, u.MTU = o.seq.Last(), o.InnerMTU()
	return u
}

// SkipSequence passes over n sequence numbers (a copy of an SA that another
// process used before goes on behind it).
func (o *Outbound) SkipSequence(n uint64) { o.seq.Skip(n) }

// Inbound carries packets of one inbound SA. All methods are safe for
// concurrent use, each goroutine with its own Scratch.
type Inbound struct {
	common
	replay sad.Replay
	// What the window and the ICV refused.
	refused, badICV atomic.Uint64
	cpis            *CPIs
}

// NewInbound prepares an inbound SA.
func NewInbound(sa *sad.SA, now time.Time) (*Inbound, error) {
	i := new(Inbound)
	if err := i.init(sa, now); err != nil {
		return nil, err
	}
	i.replay.Init(sa.ReplayWindow, sa.ESN)
	i.SetPath(Path{Src: sa.Src, Dst: sa.Dst, Encap: sa.Encap})
	return i, nil
}

// SetPath replaces the outside.
func (i *Inbound) SetPath(p Path) { i.path.Store(&p) }

// Usage is what is known of the SA at the moment.
func (i *Inbound) Usage() sad.Usage {
	u := i.meter.Usage()
	u.Seq = i.replay.Top()
	u.Replayed, u.BadICV = i.refused.Load(), i.badICV.Load()
	return u
}
