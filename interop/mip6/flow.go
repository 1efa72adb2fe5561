package mip6

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"iked/internal/testnet"
)

// Station is where a flow begins or ends.
type Station struct {
	NS   *testnet.Namespace
	Addr netip.Addr
}

// Flow is a stream of numbered packets from one station to another. Links keep their
// order, so that a packet that is not there when a later one has arrived is lost.
type Flow struct {
	Name string

	proto    uint8
	mh       byte // type of the mobility header
	to       netip.Addr
	out, in  net.PacketConn
	interval time.Duration
	stop     chan struct{}
	sending  sync.WaitGroup
	hearing  sync.WaitGroup

	mu      sync.Mutex
	sent    uint32      // the last number
	at      []time.Time // when each was sent
	reached uint32      // the highest that arrived
	got     map[uint32]bool
	unsent  map[uint32]error
	windows []window
	broken  error
}

// window are numbers that a move may cost: from is the last that had arrived before it
// began, to the last that was sent before it was over.
type window struct {
	from, to uint32
	why      string
}

// Protocols of flows.
const (
	UDP            uint8 = 17
	MobilityHeader uint8 = 135
	Experiment     uint8 = 253 // RFC 3692
)

// Types of the mobility header (RFC 6275, Section 6.1).
const (
	BindingUpdate          = 5
	BindingAcknowledgement = 6
)

const flowPort = 7100

// StartFlow starts sending. mh is the type of the mobility header when proto is that
// one.
func StartFlow(name string, from, to Station, proto, mh uint8, interval time.Duration) (*Flow, error) {
	f := &Flow{Name: name, proto: proto, mh: mh, to: to.Addr, interval: interval, stop: make(chan struct{}), got: map[uint32]bool{}, unsent: map[uint32]error{}}
	open := func(s Station, port int) (c net.PacketConn, err error) {
		if proto == UDP {
			return s.NS.ListenPacket("udp", netip.AddrPortFrom(s.Addr, uint16(port)).String())
		}
		return s.NS.ListenPacket(fmt.Sprintf("ip6:%d", proto), s.Addr.String())
	}
	var err error
	if f.in, err = open(to, flowPort); err != nil {
		return nil, err
	}
	if f.out, err = open(from, 0); err != nil {
		f.in.Close()
		return nil, err
	}
	f.hearing.Go(f.receive)
	f.sending.Go(f.send)
	return f, nil
}

func (f *Flow) send() {
	tick := time.NewTicker(f.interval)
	defer tick.Stop()
	var to net.Addr = &net.IPAddr{IP: f.to.AsSlice()}
	if f.proto == UDP {
		to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.to, flowPort))
	}
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		f.mu.Lock()
		f.sent++
		f.at = append(f.at, time.Now())
		n := f.sent
		f.mu.Unlock()
		// One that cannot be sent, for want of an SA or a route, is as lost as any.
		if _, err := f.out.WriteTo(f.packet(n), to); err != nil {
			f.mu.Lock()
			f.unsent[n] = err
			f.mu.Unlock()
		}
	}
}

// packet has the number in its last octets. The kernel makes the checksum of a mobility
// header.
//
//	| no next header (59) | length, in 8 octets without the first | type | reserved |
//	| checksum            | message data …                                          |
func (f *Flow) packet(n uint32) []byte {
	b := make([]byte, 24)
	if f.proto == MobilityHeader {
		b[0], b[1], b[2] = 59, byte(len(b)/8-1), f.mh
	}
	binary.BigEndian.PutUint32(b[len(b)-4:], n)
	return b
}

func (f *Flow) receive() {
	buf := make([]byte, 2048)
	for {
		n, _, err := f.in.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			f.mu.Lock()
			f.broken = err
			f.mu.Unlock()
			return
		}
		if n != 24 || f.proto == MobilityHeader && buf[2] != f.mh {
			continue
		}
		number := binary.BigEndian.Uint32(buf[n-4 : n])
		f.mu.Lock()
		f.got[number] = true
		f.reached = max(f.reached, number)
		f.mu.Unlock()
	}
}

// passed waits until a packet has arrived that was sent after number n.
func (f *Flow) passed(n uint32, within time.Duration) error {
	deadline := time.Now().Add(within)
	for {
		f.mu.Lock()
		reached, broken := f.reached, f.broken
		f.mu.Unlock()
		if reached > n {
			return nil
		}
		if broken != nil {
			return fmt.Errorf("mip6: %s: %w", f.Name, broken)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("mip6: %s: nothing of what was sent after packet %d has arrived within %v", f.Name, n, within)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (f *Flow) close() {
	f.out.Close()
	f.in.Close()
	f.hearing.Wait()
}

// Flows run at the same time.
type Flows []*Flow

// patience is how long packets may take on a machine that does other work.
const patience = 20 * time.Second

// Running waits until packets of each flow arrive, and forgives what was lost before:
// until the links know the neighbours.
func (fs Flows) Running() error {
	for _, f := range fs {
		if err := f.passed(0, patience); err != nil {
			return err
		}
		f.mu.Lock()
		first := f.reached
		f.mu.Unlock()
		if err := f.passed(first+20, patience); err != nil {
			return err
		}
		f.mu.Lock()
		f.windows = append(f.windows, window{0, f.reached, "at the beginning"})
		f.mu.Unlock()
	}
	return nil
}

// During does what may cost the packets that are on their way meanwhile, and no other:
// those that had arrived before it began have arrived, and those that are sent when it
// is over arrive. It waits until the first of these has.
func (fs Flows) During(why string, do func() error) error {
	over := fs.Interrupt(why)
	if err := do(); err != nil {
		return err
	}
	return over()
}

// Interrupt begins what During does, and over ends it.
func (fs Flows) Interrupt(why string) (over func() error) {
	from := make([]uint32, len(fs))
	for i, f := range fs {
		f.mu.Lock()
		from[i] = f.reached
		f.mu.Unlock()
	}
	return func() error {
		to := make([]uint32, len(fs))
		for i, f := range fs {
			f.mu.Lock()
			to[i] = f.sent
			f.windows = append(f.windows, window{from[i], f.sent, why})
			f.mu.Unlock()
		}
		for i, f := range fs {
			if err := f.passed(to[i], patience); err != nil {
				return fmt.Errorf("%s: %w", why, err)
			}
		}
		return nil
	}
}

// Stop ends the flows and tells what was lost beyond what moves may cost, and in words
// what each flow lost in them.
func (fs Flows) Stop() (summary string, err error) {
	for _, f := range fs {
		close(f.stop)
	}
	for _, f := range fs {
		f.sending.Wait()
		if e := f.passed(f.sent-1, patience); e != nil {
			err = errors.Join(err, e)
		}
		f.close()
		words, e := f.account()
		summary += words
		err = errors.Join(err, e)
	}
	return summary, err
}

// account compares what was sent with what arrived.
func (f *Flow) account() (string, error) {
	costs := make([]int, len(f.windows))
	var lost []uint32
	for n := uint32(1); n <= f.sent; n++ {
		if f.got[n] {
			continue
		}
		free := false
		for i, w := range f.windows {
			if free = n > w.from && n <= w.to; free {
				costs[i]++
				break
			}
		}
		if !free {
			lost = append(lost, n)
		}
	}
	s := fmt.Sprintf("%s: %d packets", f.Name, f.sent)
	for i, w := range f.windows {
		s += fmt.Sprintf("; %s: %d of %d lost", w.why, costs[i], w.to-w.from)
	}
	if len(lost) > 0 {
		first, last := f.at[lost[0]-1].UTC(), f.at[lost[len(lost)-1]-1]
		err := fmt.Errorf("mip6: %s: %d of %d packets were lost beyond those on their way in a move, the first at %s and the last %v later, numbers %v", f.Name, len(lost), f.sent, first.Format("15:04:05.000"), last.Sub(first), lost[:min(len(lost), 10)])
		for _, n := range lost {
			if e := f.unsent[n]; e != nil {
				err = fmt.Errorf("%w; number %d was not even sent: %w", err, n, e)
				break
			}
		}
		return s + "\n", err
	}
	return s + "\n", nil
}
