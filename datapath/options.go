package datapath

import (
	"net/netip"
	"runtime"
	"time"

	"iked/datapath/route"
	"iked/datapath/tun"
	"iked/internal/trace"
	"iked/internal/transport/batch"
	"iked/spd"
)

// Defaults of Options.
const (
	DefaultDevice   = "ipsec0"
	DefaultMTU      = 1400
	DefaultTable    = 5220
	DefaultPriority = 5220
	// DefaultFragMemory holds 64 of the largest packets.
	DefaultFragMemory = 4 << 20
	DefaultHoldFrames = 8
)

// Options of New. The zero value of a field is its default.
type Options struct {
	Device   string // DefaultDevice
	Queues   int    // of the device; GOMAXPROCS
	MTU      int    // of the device; DefaultMTU
	Table    int    // routing table of its own; DefaultTable
	Priority int    // of the rule that leads there; DefaultPriority
	// Mark is the packet mark of the daemon's own packets; the transport's
	// sockets must have the same. 0: none, which only works when no remote
	// selector covers a peer's own address.
	Mark     uint32
	HopLimit uint8 // of tunnel headers; 64
	// FragMemory bounds the octets of fragments that wait for the others;
	// DefaultFragMemory.
	FragMemory int
	// HoldFrames is how many packets wait for one SA that is being negotiated; 0:
	// DefaultHoldFrames, below 0: none.
	HoldFrames int
	// UDP is the socket for UDP encapsulation; nil: SAs with it are refused.
	UDP UDP
	// Ports are the UDP ports of the key exchanges, whose messages pass in clear; 500,
	// 4500 and 910.
	Ports []uint16
	// UDPEncapOnly opens no raw sockets.
	UDPEncapOnly bool
	// Log gets what a person should know; it must not block. nil: none.
	Log func(trace.Record)
}

// UDP carries ESP in UDP; internal/transport implements it.
type UDP interface {
	// ESPQueues is the number of queues on which the handler is called, each
	// from one goroutine.
	ESPQueues() int
	SetESPHandler(func(queue int, packets []batch.Packet))
	SendESP(queue int, packets []batch.Packet) batch.Result
}

// Raw carries ESP and AH directly over IP.
type Raw interface {
	// Queues is the number of queues of Serve.
	Queues() int
	// Protocol is the one whose packets a queue gives, 50 or 51. Those of AH begin
	// with their IP header, those of ESP over IPv4 too; of ESP over IPv6 there is
	// only what follows the headers.
	Protocol(queue int) uint8
	// Serve calls f with received packets, each queue from one goroutine of its
	// own, until Close. It returns at once.
	Serve(f func(queue int, packets []batch.Packet))
	// Send sends whole IP packets.
	Send(w *batch.Writer, packets []batch.Packet) batch.Result
	Close() error
}

// Router brings packets to the device; route.Manager implements it.
type Router interface {
	Add(remote []netip.Prefix, local []spd.TS, open bool) error
	Remove(remote []netip.Prefix, local []spd.TS, open bool) error
	SetNear(local []spd.TS, here bool) error
	SetDiscard(remote []netip.Prefix, on bool) error
	SetThrows(list []netip.Prefix) error
	DropOrphans() error
	Adopted() int
	AddAddress(p netip.Prefix) error
	RemoveAddress(p netip.Prefix) error
	AddHost(a netip.Addr) error
	RemoveHost(a netip.Addr) error
	Close() error
}

// IO is what the datapath stands on. New makes the real one; tests put two
// datapaths back to back in memory.
type IO struct {
	Device tun.Device
	Raw    Raw    // nil: UDP encapsulation only
	UDP    UDP    // nil: none
	Router Router // nil: none
	// PathMTU asks for the MTU of the way to a peer.
	PathMTU func(dst netip.Addr) (int, error)
	// Now is the clock of lifetimes.
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Device == "" {
		o.Device = DefaultDevice
	}
	if o.Queues <= 0 {
		o.Queues = runtime.GOMAXPROCS(0)
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	if o.Table == 0 {
		o.Table = DefaultTable
	}
	if o.Priority == 0 {
		o.Priority = DefaultPriority
	}
	if o.FragMemory == 0 {
		o.FragMemory = DefaultFragMemory
	}
	if o.HoldFrames == 0 {
		o.HoldFrames = DefaultHoldFrames
	}
	if o.Log == nil {
		o.Log = func(trace.Record) {}
	}
	return o
}

var _ Router = (*route.Manager)(nil)
