package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"iked/internal/transport/batch"
)

// Kind is what a datagram on the NAT traversal port is.
type Kind uint8

// Kinds (RFC 3948, Section 2).
const (
	KindRunt Kind = iota // too short to be anything
	KindKeepalive
	KindIKE
	KindESP
)

// markerLen is the length of the non-ESP marker.
const markerLen = 4

// Classify tells what a datagram on the NAT traversal port is. A marker of four
// zero octets stands before IKE, where ESP has its SPI, which is never 0; one
// octet 0xFF is a keepalive (RFC 3948, Sections 2.2 and 2.3).
func Classify(b []byte) Kind {
	switch {
	case len(b) == 1 && b[0] == 0xff:
		return KindKeepalive
	case len(b) < markerLen:
		return KindRunt
	case b[0]|b[1]|b[2]|b[3] == 0:
		return KindIKE
	}
	return KindESP
}

// loop reads one socket.
type loop struct {
	t     *Transport
	ep    *endpoint
	natt  bool
	queue int // of ESP
}

// readSize holds the largest datagram, and what UDP_GRO makes of many.
const readSize = 65536

func (l *loop) run() {
	n := 4
	if l.natt {
		n = 8
	}
	r := batch.NewReader(l.ep.conn, n, readSize)
	faults := 0
	for {
		packets, err := r.Read()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			// The socket reports what happened to it once, and goes on working. Slow
			// down when it reports without end.
			l.t.fault("receive", err)
			if faults++; faults > 8 {
				select {
				case <-time.After(50 * time.Millisecond):
				case <-l.t.done:
					return
				}
			}
			continue
		}
		faults = 0
		l.batch(packets)
	}
}

// batch sorts one batch: IKE is copied out, ESP stays in place.
func (l *loop) batch(packets []batch.Packet) {
	if !l.natt {
		for i := range packets {
			l.ike(&packets[i], packets[i].Data)
		}
		return
	}
	n := 0
	for i := range packets {
		p := &packets[i]
		switch Classify(p.Data) {
		case KindIKE:
			l.ike(p, p.Data[markerLen:])
		case KindESP:
			packets[n] = *p
			n++
		case KindKeepalive:
			l.t.counters.keepalives.Add(1)
		default:
			l.t.counters.runts.Add(1)
		}
	}
	if n == 0 {
		return
	}
	h := l.t.esp.Load()
	if h == nil {
		l.t.counters.espUnclaimed.Add(uint64(n))
		return
	}
	l.t.counters.espIn.Add(uint64(n))
	l.call(*h, packets[:n])
}

// call keeps a fault in the handler from ending the loop.
func (l *loop) call(h ESPHandler, packets []batch.Packet) {
	defer func() {
		if v := recover(); v != nil {
			l.t.counters.panics.Add(1)
			l.t.limiter.warn("panic", fmt.Sprintf("panic in the ESP handler: %v\n%s", v, debug.Stack()))
		}
	}()
	h(l.queue, packets)
}

func (l *loop) ike(p *batch.Packet, data []byte) {
	d := Datagram{
		Local: p.Local, Remote: netip.AddrPortFrom(p.Remote.Addr(), p.Remote.Port()),
		Data: append([]byte(nil), data...), NATT: l.natt, At: time.Now(),
	}
	l.t.counters.ikeIn.Add(1)
	select {
	case l.t.queue <- d:
	default:
		// The newest is dropped: what waits is closer to being answered.
		l.t.counters.ikeOverflow.Add(1)
		l.t.limiter.warn("overflow", "IKE datagrams arrive faster than they are handled, new ones are dropped")
	}
}
