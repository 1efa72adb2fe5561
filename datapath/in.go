package datapath

import (
	"encoding/binary"
	"net/netip"
	"runtime/debug"
	"time"

	"iked/datapath/esp"
	"iked/datapath/ip"
	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/transport/batch"
	"iked/sad"
)

// inWorker carries the packets of one socket inwards.
type inWorker struct {
	d       *Datapath
	c       *counters
	join    *tun.Coalescer
	scratch esp.Scratch
	opened  esp.Opened
	current *inSA
	touched *inSA // of this batch
}

func newInWorker(d *Datapath, q tun.Queue) *inWorker {
	w := &inWorker{d: d, c: d.newCounters(), join: tun.NewCoalescer(q)}
	w.join.Err = func(n int, err error) { w.c.n[inWriteError].Add(uint64(n)) }
	return w
}

// batch takes what one read of a socket gave; udp tells from where.
func (w *inWorker) batch(packets []batch.Packet, udp bool) {
	w.touched = nil
	for i := range packets {
		w.safe(&packets[i], udp)
	}
	// The buffers are the reader's: everything goes out before it reads again.
	w.join.Flush()
}

func (w *inWorker) safe(p *batch.Packet, udp bool) {
	w.current = nil
	defer func() {
		if v := recover(); v != nil {
			w.c.n[panics].Add(1)
			if x := w.current; x != nil {
				w.d.panicked(*x.id.Load(), x.owner, x.name, v, debug.Stack())
			} else {
				w.d.panicked(sad.ID{}, 0, "no SA", v, debug.Stack())
			}
		}
	}()
	b, tos := p.Data, p.TOS
	if !udp && p.Remote.Addr().Is4() {
		// A raw IPv4 socket gives the IP header too.
		if len(b) < ip.IPv4HeaderLen {
			w.c.n[inRunt].Add(1)
			return
		}
		n := int(b[0]&15) * 4
		if n < ip.IPv4HeaderLen || n > len(b) {
			w.c.n[inRunt].Add(1)
			return
		}
		tos, b = b[1], b[n:]
	}
	w.process(b, tos, p.Remote, udp)
}

// process takes one ESP packet (RFC 4301, Section 5.2).
func (w *inWorker) process(b []byte, tos uint8, from netip.AddrPort, udp bool) {
	if len(b) < esp.HeaderLen {
		w.c.n[inRunt].Add(1)
		return
	}
	sa := w.d.inbound.Get(binary.BigEndian.Uint32(b))
	if sa == nil {
		w.c.n[inNoSA].Add(1)
		return
	}
	w.current = sa
	if sa.dead.Load() {
		w.c.inDrop[esp.LifetimeOver].Add(1)
		return
	}
	o := &w.opened
	drop := sa.Open(&w.scratch, b, tos, o)
	if drop != esp.Pass {
		w.dropped(sa, drop, from, udp)
		return
	}
	if sa != w.touched {
		sa.Touch(w.d.now())
		w.touched = sa
	}
	if o.Expiry != sad.Alive {
		w.d.expired(*sa.id.Load(), sa.owner, &sa.soft, &sa.dead, o.Expiry)
	}
	if udp && o.Newest {
		w.mapping(sa, from)
	}
	w.c.n[inPackets].Add(1)
	w.c.n[inBytes].Add(uint64(len(o.Packet)))
	w.join.Add(o.Packet, &o.Info)
}

// selectorsEvery is the least time between two InvalidSelectors events of an SA.
const selectorsEvery = time.Second

func (w *inWorker) dropped(sa *inSA, drop esp.Drop, from netip.AddrPort, udp bool) {
	w.c.inDrop[drop].Add(1)
	switch drop {
	case esp.LifetimeOver:
		w.d.expired(*sa.id.Load(), sa.owner, &sa.soft, &sa.dead, w.opened.Expiry)
	case esp.Dummy:
		// Authenticated: the peer is alive, and it is there.
		sa.Touch(w.d.now())
		if udp && w.opened.Newest {
			w.mapping(sa, from)
		}
	case esp.SelectorMismatch:
		now, last := w.d.clock.Load(), sa.said.Load()
		if now-last >= int64(selectorsEvery) && sa.said.CompareAndSwap(last, now) {
			if !w.d.events.emit(backend.InvalidSelectors{ID: *sa.id.Load(), Owner: sa.owner, Flow: w.opened.Flow}) {
				w.c.n[eventsLost].Add(1)
			}
		}
	}
}

// mappingEvery is the least time between two Mapping events of an SA.
const mappingEvery = 500 * time.Millisecond

// mapping tells when the peer's NAT has given it another address or port. Only
// authenticated packets that are newer than all before may (RFC 7296, Section
// 2.23).
func (w *inWorker) mapping(sa *inSA, from netip.AddrPort) {
	p := sa.Path()
	if p.Encap == nil || from.Addr() == p.Src && from.Port() == p.Encap.SrcPort {
		return
	}
	if last := sa.mapped.Load(); last != nil && *last == from {
		return
	}
	// A peer that sends from many addresses at once is heard once in a while.
	if now, last := w.d.clock.Load(), sa.mappedAt.Load(); last != 0 && now-last < int64(mappingEvery) || !sa.mappedAt.CompareAndSwap(last, max(now, 1)) {
		return
	}
	at := from
	if w.d.events.emit(backend.Mapping{ID: *sa.id.Load(), Owner: sa.owner, From: from, At: w.d.now()}) {
		sa.mapped.Store(&at)
	} else {
		w.c.n[eventsLost].Add(1)
	}
}
