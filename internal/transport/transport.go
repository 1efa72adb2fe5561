// Package transport owns the UDP sockets of IKE: port 500, and port 4500 where
// IKE and ESP share one socket (RFC 3948). Read loops hand ESP to the datapath
// in the goroutine that read it, and IKE datagrams to the engine through a
// bounded queue. Faults of sockets and links are counted and survived.
package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"iked/internal/trace"
	"iked/internal/transport/batch"
)

// DefaultMark is the packet mark of the daemon's own packets, by which the
// routing rule of the datapath lets them pass beside the tunnel.
const DefaultMark = 0x1ced

// Options of New. The zero value of a field is its default.
type Options struct {
	// Port and PortNATT are 500 and 4500 by default; AnyPort lets the kernel
	// choose both, for tests.
	Port, PortNATT uint16
	AnyPort        bool
	// Single opens Port alone, for a protocol without NAT traversal.
	Single bool
	// Mark is DefaultMark by default; NoMark sets none.
	Mark   uint32
	NoMark bool
	// Queues is the number of sockets on PortNATT per address family, each with
	// a read loop of its own; 1 by default.
	Queues int
	// KernelESP leaves ESP in UDP to the kernel's IPsec stack: an ESPHandler gets
	// none, and there is one socket on PortNATT per address family.
	KernelESP bool
	// QueueLen is how many IKE datagrams wait for OnDatagram; 1024 by default.
	QueueLen int
	// OnDatagram gets IKE datagrams, one after the other.
	OnDatagram func(Datagram)
	// Log gets faults; it must not block. nil: none.
	Log func(trace.Record)
}

// Datagram is one IKE message as it arrived.
type Datagram struct {
	Local, Remote netip.AddrPort
	Data          []byte // owned by the receiver, without the non-ESP marker
	NATT          bool   // on PortNATT
	At            time.Time
}

// ESPHandler gets ESP packets, SPI to ICV, that came UDP-encapsulated. The
// batch is valid until it returns and may be changed in place. queue is in
// 0..ESPQueues()-1 and each queue calls from one goroutine.
type ESPHandler = func(queue int, packets []batch.Packet)

// Transport is the set of sockets. All methods are safe for concurrent use.
type Transport struct {
	opt      Options
	ike      [2]*endpoint   // port 500, by family
	natt     [2][]*endpoint // port 4500
	loops    []*loop
	esp      atomic.Pointer[ESPHandler]
	queue    chan Datagram
	done     chan struct{}
	closed   atomic.Bool
	wg       sync.WaitGroup
	counters counters
	limiter  logLimiter
}

// endpoint is a socket with the memory for sending to it.
type endpoint struct {
	conn *batch.Conn
	mu   sync.Mutex
	w    *batch.Writer
}

const (
	v4 = 0
	v6 = 1
)

func family(a netip.Addr) int {
	if a.Is4() {
		return v4
	}
	return v6
}

var unspecified = [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}

// New opens the sockets. A host without IPv6, or without IPv4, gets those of the
// other family; the error is that of the first port that could not be had.
// Nothing is read before Start.
func New(opt Options) (*Transport, error) {
	if !opt.AnyPort {
		opt.Port, opt.PortNATT = orDefault(opt.Port, 500), orDefault(opt.PortNATT, 4500)
	}
	opt.Mark, opt.Queues, opt.QueueLen = orDefault(opt.Mark, DefaultMark), orDefault(opt.Queues, 1), orDefault(opt.QueueLen, 1024)
	if opt.NoMark {
		opt.Mark = 0
	}
	if opt.KernelESP {
		opt.Queues = 1
	}
	if opt.Port == opt.PortNATT && !opt.AnyPort && !opt.Single {
		return nil, fmt.Errorf("port and port_nat_t are both %d, expected two ports", opt.Port)
	}
	t := &Transport{opt: opt, queue: make(chan Datagram, opt.QueueLen), done: make(chan struct{})}
	t.limiter.log = opt.Log
	if err := t.open(); err != nil {
		t.closeSockets()
		return nil, err
	}
	return t, nil
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

func (t *Transport) open() error {
	var missing error
	for f := range unspecified {
		err := t.openFamily(f)
		if err == nil {
			continue
		}
		if !noFamily(err) {
			return err
		}
		missing = errors.Join(missing, err)
	}
	if len(t.loops) == 0 {
		return missing
	}
	return nil
}

func (t *Transport) openFamily(f int) error {
	cfg := batch.Config{Local: netip.AddrPortFrom(unspecified[f], t.opt.Port), Mark: t.opt.Mark}
	c, err := batch.ListenUDP(cfg)
	if err != nil {
		return err
	}
	if !c.Marked && t.opt.Mark != 0 {
		t.limiter.warn("mark", fmt.Sprintf("cannot mark own packets (SO_MARK needs CAP_NET_ADMIN): a tunnel that covers the peer's own address would swallow them (port %d)", c.Port()))
	}
	if c.Exempt != nil {
		t.limiter.warn("exempt", fmt.Sprintf("%v (port %d): the kernel's policies would stop IKE where they cover the peer's own address", c.Exempt, c.Port()))
	}
	t.ike[f] = &endpoint{conn: c, w: batch.NewWriter()}
	t.loops = append(t.loops, &loop{t: t, ep: t.ike[f], queue: -1})
	if t.opt.AnyPort && t.opt.Port == 0 {
		t.opt.Port = c.Port() // both families on one port
	}
	if t.opt.Single {
		return nil
	}
	cfg = batch.Config{Local: netip.AddrPortFrom(unspecified[f], t.opt.PortNATT), Mark: t.opt.Mark, GRO: true, GSO: true, Buffer: 4 << 20, Dedicated: true}
	if t.opt.KernelESP {
		cfg = batch.Config{Local: cfg.Local, Mark: t.opt.Mark, EncapESP: true}
	}
	if t.opt.PortNATT != 0 && t.opt.Queues > 1 {
		// A group would silently join another process's: see that the port is free.
		probe, err := batch.ListenUDP(cfg)
		if err != nil {
			return err
		}
		probe.Close()
	}
	cfg.ReusePort = t.opt.Queues > 1
	for range t.opt.Queues {
		c, err := batch.ListenUDP(cfg)
		if err != nil {
			return err
		}
		if t.opt.PortNATT == 0 {
			t.opt.PortNATT = c.Port()
			cfg.Local = netip.AddrPortFrom(unspecified[f], c.Port())
		}
		ep := &endpoint{conn: c, w: batch.NewWriter()}
		t.natt[f] = append(t.natt[f], ep)
		t.loops = append(t.loops, &loop{t: t, ep: ep, natt: true, queue: t.espQueues()})
	}
	return nil
}

func (t *Transport) espQueues() int {
	n := 0
	for _, l := range t.loops {
		if l.natt {
			n++
		}
	}
	return n
}

// ESPQueues is the number of queues that an ESPHandler sees.
func (t *Transport) ESPQueues() int { return t.espQueues() }

// SetESPHandler registers who gets ESP; before that, and after nil, it is
// counted and dropped.
func (t *Transport) SetESPHandler(h ESPHandler) {
	if h == nil {
		t.esp.Store(nil)
		return
	}
	t.esp.Store(&h)
}

// Ports are the ports in use.
func (t *Transport) Ports() (ike, natt uint16) { return t.opt.Port, t.opt.PortNATT }

// Describe is one line for status.
func (t *Transport) Describe() string {
	s := fmt.Sprintf("UDP ports %d and %d", t.opt.Port, t.opt.PortNATT)
	for f, name := range [...]string{"IPv4", "IPv6"} {
		if t.ike[f] == nil {
			s += ", no " + name
		}
	}
	if t.opt.KernelESP {
		return s + ", ESP in UDP is the kernel's"
	}
	for _, l := range t.loops {
		if l.natt {
			return s + fmt.Sprintf(", %d ESP queues, segmentation offload %s/%s", t.espQueues(), onOff(l.ep.conn.GSO()), onOff(l.ep.conn.GRO()))
		}
	}
	return s
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// Start begins to read.
func (t *Transport) Start() {
	t.wg.Go(t.deliver)
	for _, l := range t.loops {
		t.wg.Go(l.run)
	}
}

// deliver hands IKE datagrams over, in the order of their arrival.
func (t *Transport) deliver() {
	for {
		select {
		case d := <-t.queue:
			if t.opt.OnDatagram != nil {
				t.opt.OnDatagram(d)
			}
		case <-t.done:
			return
		}
	}
}

// Close ends all loops and closes the sockets. No callback runs after it
// returns; it must not be called from one.
func (t *Transport) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	close(t.done)
	t.closeSockets()
	t.wg.Wait()
	return nil
}

func (t *Transport) closeSockets() {
	for _, l := range t.loops {
		l.ep.conn.Close()
	}
}
