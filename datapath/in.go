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
	proto   uint8 // of the socket: 51 for AH
	c       *counters
	join    *tun.Coalescer
	scratch esp.Scratch
	opened  esp.Opened
	outer   esp.Outer
	head    ip.Info // of the headers before AH, or before an inner SA
	nest    nested
	current *inSA
	touched *inSA // of this batch
	// spare holds packets that had no room for the header that their mode makes.
	spare []byte
	used  int
}

func newInWorker(d *Datapath, q tun.Queue) *inWorker {
	w := &inWorker{d: d, c: d.newCounters(), join: tun.NewCoalescer(q)}
	w.scratch.Memory = w
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
	w.used = 0
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
	if w.proto == ip.ProtoAH && !udp {
		w.authenticated(p)
		return
	}
	at, tos := 0, p.TOS
	if b := p.Data; !udp && p.Remote.Addr().Is4() {
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
		tos, at = b[1], n
	}
	w.process(p, at, tos, udp)
}

// process takes one ESP packet, which begins at p.Data[at] (RFC 4301, Section
// 5.2).
func (w *inWorker) process(p *batch.Packet, at int, tos uint8, udp bool) {
	b := p.Data[at:]
	if len(b) < esp.HeaderLen {
		w.c.n[inRunt].Add(1)
		return
	}
	sa := w.d.inboundESP.find(binary.BigEndian.Uint32(b), p.Local.Addr(), p.Remote.Addr())
	if sa == nil {
		w.c.n[inNoSA].Add(1)
		return
	}
	if !w.usable(sa) {
		return
	}
	var drop esp.Drop
	if sa.Rebuilds() {
		drop = w.rebuild(sa, p, at, tos)
	} else {
		drop = sa.Open(&w.scratch, b, tos, &w.opened)
	}
	w.passOn(sa, drop, p, udp)
}

// spareSize is the memory for packets without room for a header, and for those that
// are restored, of one batch. It is four times what one packet may take: when it begins
// anew, the packet that is being opened lies behind what is given out.
const spareSize = 256 << 10

// rebuild opens a packet of a mode that makes the header of the inner packet, for
// which the outer one is needed.
func (w *inWorker) rebuild(sa *inSA, p *batch.Packet, at int, tos uint8) esp.Drop {
	buf, o := p.Data, &w.outer
	*o = esp.Outer{Src: p.Remote.Addr(), Dst: p.Local.Addr(), Header: at}
	o.TOS, o.TTL, o.DF = tos, p.TTL, true
	if at > 0 {
		o.ID, o.DF = binary.BigEndian.Uint16(buf[4:]), buf[6]&0x40 != 0
	}
	if room := sa.Room(); room > at {
		to := w.take(room + len(buf))
		copy(to[room:], buf)
		buf, at = to, at+room
		w.used += len(to)
	}
	return sa.OpenAt(&w.scratch, buf, at, o, &w.opened)
}

// take is n octets of spare memory; w.used goes on behind what is needed of it.
func (w *inWorker) take(n int) []byte {
	if w.spare == nil {
		w.spare = make([]byte, spareSize)
	}
	if w.used+n > len(w.spare) {
		w.join.Flush()
		w.used = 0
	}
	return w.spare[w.used : w.used+n : w.used+n]
}

// Take implements esp.Memory.
func (w *inWorker) Take() []byte { return w.take(esp.RestoreRoom) }

// Used implements esp.Memory.
func (w *inWorker) Used(n int) { w.used += n }

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
			if !w.d.events.Emit(backend.InvalidSelectors{ID: *sa.id.Load(), Owner: sa.owner, Flow: w.opened.Flow}) {
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
	if w.d.events.Emit(backend.Mapping{ID: *sa.id.Load(), Owner: sa.owner, From: from, At: w.d.now()}) {
		sa.mapped.Store(&at)
	} else {
		w.c.n[eventsLost].Add(1)
	}
}
