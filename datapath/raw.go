package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/datapath/ring"
	"iked/datapath/shortcut"
	"iked/internal/transport/batch"
)

// rawSockets are those of protocols 50 and 51.
type rawSockets struct {
	conns  []*batch.Conn
	protos []uint8            // of conns
	by     [2]*batch.Conn     // that send, IPv4 and IPv6
	link   *batch.Conn        // for packets that take a shortcut; nil: none do
	short  *shortcut.Shortcut // nil: none
	ring   *ring.Ring         // for ESP that is received without the IP stack; nil: none is
	sinks  []*batch.ErrorSink // for path MTUs over IPv6
	nl     *netlink.Handle    // interfaces and their addresses
	warn   func(string)
	wg     sync.WaitGroup
}

// openRaw opens them; table is the daemon's own of netfilter.
func openRaw(mark uint32, table string, pathMTU func(netip.Addr) (int, error), warn func(string)) (*rawSockets, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	r := &rawSockets{nl: nl, warn: warn}
	for _, proto := range []uint8{unix.IPPROTO_ESP, unix.IPPROTO_AH} {
		for f, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			c, err := batch.OpenRaw(batch.Config{Local: netip.AddrPortFrom(any, 0), Mark: mark, Buffer: 4 << 20, Dedicated: true,
				Whole: proto == unix.IPPROTO_AH}, int(proto))
			if err != nil {
				if errors.Is(err, unix.EAFNOSUPPORT) {
					continue
				}
				r.Close()
				return nil, err
			}
			if mark != 0 && !c.Marked && r.by[f] == nil {
				warn("cannot mark own packets: a tunnel that covers the peer's own address would swallow them")
			}
			r.conns, r.protos = append(r.conns, c), append(r.protos, proto)
			if r.by[f] == nil {
				r.by[f] = c
			}
			if f == 1 {
				sink, err := batch.OpenErrorSink(mark, int(proto))
				if err != nil {
					warn(fmt.Sprintf("path MTUs to IPv6 peers are not learned from routers: %v", err))
					continue
				}
				r.sinks = append(r.sinks, sink)
			}
		}
	}
	if len(r.conns) == 0 {
		r.Close()
		return nil, fmt.Errorf("no raw socket: neither IPv4 nor IPv6: %w", unix.EAFNOSUPPORT)
	}
	r.openLink(mark, pathMTU)
	if r.ring, err = ring.New(ring.Options{Mark: mark, Table: table}); err != nil {
		warn(fmt.Sprintf("every received packet takes the way through the IP stack: %v", err))
		r.ring = nil
	}
	return r, nil
}

// openLink prepares shortcuts. Without them everything works, only slower.
func (r *rawSockets) openLink(mark uint32, pathMTU func(netip.Addr) (int, error)) {
	link, err := batch.OpenLink(batch.Config{Mark: mark, Buffer: 4 << 20})
	if err != nil {
		r.warn(fmt.Sprintf("every packet takes the way through the IP stack: %v", err))
		return
	}
	short, err := shortcut.New(shortcut.Options{Mark: mark, PathMTU: pathMTU})
	if err != nil {
		link.Close()
		r.warn(fmt.Sprintf("every packet takes the way through the IP stack: %v", err))
		return
	}
	r.link, r.short = link, short
}

// Queues is one for each socket, and one for the ring.
func (r *rawSockets) Queues() int {
	if r.ring != nil {
		return len(r.conns) + 1
	}
	return len(r.conns)
}

// TakeESP implements taker.
func (r *rawSockets) TakeESP(local, remote netip.Addr, spi uint32) {
	if r.ring != nil {
		r.ring.Take(local, remote, spi)
	}
}

// LeaveESP implements taker.
func (r *rawSockets) LeaveESP(local netip.Addr, spi uint32, after time.Duration) {
	if r.ring != nil {
		r.ring.Leave(local, spi, after)
	}
}

// Ring implements taker.
func (r *rawSockets) Ring() (taken, lost uint64) {
	if r.ring == nil {
		return 0, 0
	}
	return r.ring.Taken(), r.ring.Lost()
}

// Protocol implements Raw.
func (r *rawSockets) Protocol(queue int) uint8 {
	if queue == len(r.conns) {
		return unix.IPPROTO_ESP // the ring
	}
	return r.protos[queue]
}

// rawBatch and rawSize: a packet is rarely bigger than a link's MTU, but
// the kernel reassembles.
const (
	rawBatch = 64
	rawSize  = 65536
)

func (r *rawSockets) Serve(f func(queue int, packets []batch.Packet)) {
	if r.ring != nil {
		r.ring.Serve(func(p []batch.Packet) { f(len(r.conns), p) })
	}
	for i, c := range r.conns {
		r.wg.Go(func() {
			rd := batch.NewReader(c, rawBatch, rawSize)
			for faults := 0; ; {
				p, err := rd.Read()
				if err == nil {
					faults = 0
					f(i, p)
					continue
				}
				var errno unix.Errno
				if !errors.As(err, &errno) {
					return
				}
				// ICMP about what was sent; the socket goes on.
				if faults++; faults > 8 {
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
}

// Send sends runs of packets with the same ends together.
func (r *rawSockets) Send(w *batch.Writer, packets []batch.Packet) batch.Result {
	var sum batch.Result
	for len(packets) > 0 {
		n := 1
		for n < len(packets) && packets[n].Remote == packets[0].Remote && packets[n].Local == packets[0].Local {
			n++
		}
		res := r.send(w, packets[:n])
		sum.Failed += res.Failed
		sum.Linked += res.Linked
		sum.TooBig = sum.TooBig || res.TooBig
		if res.Err != nil {
			sum.Err = res.Err
		}
		packets = packets[n:]
	}
	return sum
}

func (r *rawSockets) send(w *batch.Writer, run []batch.Packet) batch.Result {
	if way := r.way(run); way != nil {
		res := w.SendLink(r.link, &way.Hop, run)
		res.Linked = len(run) - res.Failed
		if res.Failed > 0 && !errors.Is(res.Err, unix.ENOBUFS) {
			r.short.Forget()
		}
		return res
	}
	c := r.by[0]
	if !run[0].Remote.Addr().Is4() {
		c = r.by[1]
	}
	if c == nil {
		return batch.Result{Failed: len(run), Err: unix.EAFNOSUPPORT}
	}
	return w.Send(c, run)
}

// way is the shortcut for a run; nil: there is none, or the IP stack must see a
// packet because it is too big. Packets that are not the datapath's own, those
// in clear, have no local address and no shortcut.
func (r *rawSockets) way(run []batch.Packet) *shortcut.Way {
	local, remote := run[0].Local.Addr(), run[0].Remote.Addr()
	if r.short == nil || !local.IsValid() || local.IsUnspecified() || remote.IsMulticast() || remote.IsLinkLocalUnicast() {
		return nil
	}
	way := r.short.Find(local, remote)
	if way == nil {
		return nil
	}
	for i := range run {
		if len(run[i].Data) > way.MTU {
			return nil
		}
	}
	if !way.Ready() {
		return nil
	}
	return way
}

func (r *rawSockets) Close() error {
	if r.ring != nil {
		r.ring.Close()
	}
	if r.short != nil {
		r.short.Close()
		r.link.Close()
	}
	for _, c := range r.conns {
		c.Close()
	}
	for _, s := range r.sinks {
		s.Close()
	}
	r.nl.Close()
	r.wg.Wait()
	return nil
}
