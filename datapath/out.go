package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"iked/datapath/esp"
	"iked/datapath/ip"
	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/transport/batch"
	"iked/sad"
	"iked/spd"
)

// slots is the number of packets in one batch of a worker.
const slots = 128

// cachedFlows is the number of flows that a worker remembers, of 70 octets each.
const cachedFlows = 4096

// flushAt is the number of packets from which a batch is sent even though more
// wait.
const flushAt = 64

// outWorker carries the packets of one queue outwards.
type outWorker struct {
	d     *Datapath
	queue int
	q     tun.Queue
	c     *counters

	frame  []byte
	slab   []byte
	size   int // of a slot
	n      int // slots in use
	udp    []batch.Packet
	raw    []batch.Packet
	writer *batch.Writer

	split   tun.Splitter
	scratch esp.Scratch
	info    ip.Info
	flow    spd.Flow
	sealed  esp.Sealed
	nested  ip.Info // of a sealed packet that another SA is applied to
	outer   *outSA  // the SA of the outermost header of the sealed packet
	limit   int     // of the size that the first SA of a bundle may give a packet
	hdr     tun.Header
	pkt     []byte

	// The last flow and what became of it, valid for one generation; the cache has
	// those before.
	lastFlow   spd.Flow
	lastGen    uint64
	lastSA     *outSA
	lastPolicy *spd.Policy
	cache      *spd.Cache[outSA]

	// big holds a packet that was put together; releasing and whole say what the
	// slow worker is doing.
	big              []byte
	releasing, whole bool

	current  *outSA // whose packet is being processed
	icmp     tokens
	fragBuf  []byte
	fragInfo ip.Info
	fragID   uint32
	fragSA   *outSA
	emitIn   func([]byte)
	emitOut  func([]byte)
	fragTo   batch.Packet
}

func newOutWorker(d *Datapath, i int, q tun.Queue) *outWorker {
	size := (headroom + max(d.io.Device.MTU(), defaultMTU) + tailroom + 63) &^ 63
	w := &outWorker{d: d, queue: i, q: q, c: d.newCounters(),
		frame: make([]byte, tun.MaxFrame), slab: make([]byte, slots*size), size: size,
		udp: make([]batch.Packet, 0, slots), raw: make([]batch.Packet, 0, slots), writer: batch.NewWriter(),
		lastGen: ^uint64(0), cache: spd.NewCache[outSA](cachedFlows),
		// Not to be guessed by others (RFC 7739, Section 4).
		fragID: rand.Uint32(),
	}
	w.emitIn, w.emitOut = w.innerFragment, w.outerFragment
	return w
}

// run reads frames until the device is closed. What waits is sent when there is
// nothing more to read, or when the batch is full.
func (w *outWorker) run() {
	faults := 0
	for {
		n, err := w.q.Read(w.frame, w.n == 0)
		switch {
		case err == nil:
			faults = 0
			w.safe(w.frame[:n])
			if w.n < flushAt {
				continue
			}
		case errors.Is(err, os.ErrClosed):
			return
		case !errors.Is(err, tun.ErrAgain):
			w.c.n[deviceErrors].Add(1)
			if faults++; faults == 1 {
				w.d.warn("device %s: read: %v", w.d.io.Device.Name(), err)
			}
			select {
			case <-w.d.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
		w.flush()
	}
}

// safe processes a frame; a panic costs the SA whose packet it was, no more.
func (w *outWorker) safe(frame []byte) {
	w.current = nil
	defer func() {
		if v := recover(); v != nil {
			w.c.n[panics].Add(1)
			w.n, w.udp, w.raw = 0, w.udp[:0], w.raw[:0]
			if x := w.current; x != nil {
				w.d.panicked(*x.id.Load(), x.owner, x.name, v, debug.Stack())
			} else {
				w.d.panicked(sad.ID{}, 0, "no SA", v, debug.Stack())
			}
		}
	}()
	w.process(frame)
}

// panicked closes the SA whose packet made a worker panic.
func (d *Datapath) panicked(id sad.ID, owner uint64, name string, v any, stack []byte) {
	d.warn("panic while processing a packet of %s, SPI 0x%08x: %v\n%s", name, id.SPI, v, stack)
	if id == (sad.ID{}) {
		return
	}
	d.mu.Lock()
	gone := d.deleteSA(id)
	d.mu.Unlock()
	if gone {
		d.events.Emit(backend.Expire{ID: id, Owner: owner, Hard: true, Why: "panic"})
	}
}

// process takes one frame of the device (RFC 4301, Section 5.1).
func (w *outWorker) process(frame []byte) {
	if len(frame) < tun.HeaderLen {
		w.c.fault[ip.TooShort].Add(1)
		return
	}
	w.hdr, w.pkt = tun.ParseHeader(frame), frame[tun.HeaderLen:]
	if f := ip.Parse(w.pkt, &w.info); f != ip.OK {
		w.c.fault[f].Add(1)
		return
	}
	if w.info.Fragmented && w.d.whole.Load() > 0 {
		w.fragment(frame)
		return
	}
	w.flow = w.info.Outbound()
	gen := w.d.gen.Load()
	if w.flow != w.lastFlow || gen != w.lastGen {
		w.lookup(gen)
	}
	p, sa := w.lastPolicy, w.lastSA
	switch {
	case p.Action == spd.Bypass:
		w.c.n[outBypass].Add(1)
		w.clear()
		return
	case p.Action == spd.Discard:
		if p.ID == 0 {
			w.c.n[outNoPolicy].Add(1)
		} else {
			w.c.n[outDiscard].Add(1)
		}
		return
	case sa == nil:
		w.miss(p, &w.flow, frame)
		return
	}
	if len(p.Bundle) > 0 {
		var ok bool
		if w.limit, ok = w.complete(p); !ok {
			w.miss(p, &w.flow, frame)
			return
		}
	}
	w.current = sa
	if err := w.split.Start(w.hdr, w.pkt, &w.info); err != nil {
		w.c.n[outOffload].Add(1)
		return
	}
	large := w.split.Max() > w.size-headroom-tailroom
	if large && !w.whole {
		w.c.n[outOversize].Add(1)
		return
	}
	sa.Touch(w.d.now())
	for {
		buf := w.slot()
		if large {
			buf = w.big
		}
		n := w.split.Next(buf[headroom:])
		if n == 0 {
			return
		}
		w.info.TotalLen = n
		if fit, mtu := w.fit(sa); fit != esp.Send {
			if !w.unfit(sa, buf, fit, mtu) {
				return
			}
			continue
		}
		if w.seal(sa, buf) {
			w.push(buf)
		}
	}
}

// fit holds the packet of w.info against the path, or against what a bundle leaves
// of it.
func (w *outWorker) fit(sa *outSA) (esp.Fit, int) {
	if len(w.lastPolicy.Bundle) > 0 {
		return sa.FitTo(&w.info, w.limit)
	}
	return sa.Fit(&w.info)
}

// lookup finds the policy and the SA of the flow.
func (w *outWorker) lookup(gen uint64) {
	w.lastFlow, w.lastGen = w.flow, gen
	var ok bool
	if w.lastPolicy, w.lastSA, ok = w.cache.Get(&w.flow, gen); ok {
		return
	}
	w.lastPolicy, w.lastSA = w.find(&w.flow)
	// What follows for ICMP is not about the flow alone, and stays out of the cache.
	if w.lastPolicy.Action == spd.Protect && w.lastSA != nil || w.info.Proto != ip.ProtoICMP && w.info.Proto != ip.ProtoICMPv6 {
		w.cache.Put(&w.flow, gen, w.lastPolicy, w.lastSA)
		return
	}
	// RFC 4301, Section 6.2: an ICMP error that fits no SA by itself may use the
	// one that fits the traffic it is about, the other way round. Two errors with
	// the same outer flow may be about different traffic: remember nothing.
	var e ip.Embedded
	if !ip.ParseICMPError(w.pkt, &w.info, &e) {
		return
	}
	w.lastGen = ^uint64(0)
	quoted := e.Info.Inbound()
	if p, sa := w.find(&quoted); p.Action == spd.Protect && sa != nil {
		w.lastPolicy, w.lastSA = p, sa
	}
}

// find is the ordered look-up in the SPD, then the newest SA of that policy
// whose selectors have the flow.
func (w *outWorker) find(f *spd.Flow) (*spd.Policy, *outSA) {
	p := w.d.table.Lookup(f)
	if p.Action != spd.Protect {
		return p, nil
	}
	set := w.d.outbound.Get(p.ReqID)
	if set == nil {
		return p, nil
	}
	for _, sa := range *set.list.Load() {
		w.current = sa
		if s := sa.SA(); !sa.dead.Load() && s.Proto == protocol(p.Proto) && f.Match(s.Local, s.Remote) {
			return p, sa
		}
	}
	return p, nil
}

// slot is the memory for the next packet; a full batch is sent first.
func (w *outWorker) slot() []byte {
	if w.n == slots {
		w.flush()
	}
	return w.slab[w.n*w.size : (w.n+1)*w.size : (w.n+1)*w.size]
}

// seal protects the packet in buf with the SA and with those of the policy's
// bundle; false: it was dropped and counted.
func (w *outWorker) seal(sa *outSA, buf []byte) bool {
	room := buf
	bundle := len(w.lastPolicy.Bundle) > 0
	if bundle {
		// TFC padding fills no more than the bundle leaves.
		room = buf[:headroom+max(w.info.TotalLen, min(sa.Limit(w.limit), len(buf)-headroom-tailroom))+esp.Tailroom]
	}
	if !w.wasSealed(sa, sa.Seal(&w.scratch, room, headroom, &w.info, &w.sealed)) {
		return false
	}
	w.outer = sa
	if bundle {
		if w.outer = w.bundle(sa, buf); w.outer == nil {
			return false
		}
	}
	w.c.n[outPackets].Add(1)
	w.c.n[outBytes].Add(uint64(w.info.TotalLen))
	return true
}

// wasSealed tells whether an SA has sealed a packet; what it has not is counted.
func (w *outWorker) wasSealed(sa *outSA, drop esp.Drop) bool {
	if drop != esp.Pass {
		w.c.outDrop[drop].Add(1)
		switch drop {
		case esp.SequenceOverflow:
			w.d.expired(*sa.id.Load(), sa.owner, &sa.soft, &sa.dead, sad.HardPackets)
		case esp.LifetimeOver:
			w.d.expired(*sa.id.Load(), sa.owner, &sa.soft, &sa.dead, w.sealed.Expiry)
		}
		return false
	}
	if w.sealed.Expiry != sad.Alive {
		w.d.expired(*sa.id.Load(), sa.owner, &sa.soft, &sa.dead, w.sealed.Expiry)
	}
	return true
}

// push puts the sealed packet of the current slot into the batch.
func (w *outWorker) push(buf []byte) {
	w.n++
	sa := w.outer
	p, s := sa.Path(), &w.sealed
	out := batch.Packet{TOS: s.TOS, TTL: s.TTL, DF: s.DF}
	if p.Encap != nil && !s.Special {
		out.Data = buf[s.Off : s.Off+s.Len]
		out.Local, out.Remote = netip.AddrPortFrom(p.Src, p.Encap.SrcPort), netip.AddrPortFrom(p.Dst, p.Encap.DstPort)
		w.udp = append(w.udp, out)
		return
	}
	start, _ := sa.Encapsulate(buf, s)
	out.Data = buf[start : s.Off+s.Len]
	out.Local, out.Remote = netip.AddrPortFrom(p.Src, 0), netip.AddrPortFrom(p.Dst, 0)
	w.raw = append(w.raw, out)
}

// flush sends the batch.
func (w *outWorker) flush() {
	if len(w.udp) > 0 {
		w.sent(w.d.io.UDP.SendESP(w.queue, w.udp))
		w.udp = w.udp[:0]
	}
	if len(w.raw) > 0 {
		if w.d.io.Raw != nil {
			w.sent(w.d.io.Raw.Send(w.writer, w.raw))
		} else {
			w.c.n[outSendError].Add(uint64(len(w.raw)))
		}
		w.raw = w.raw[:0]
	}
	w.n = 0
}

func (w *outWorker) sent(res batch.Result) {
	if res.Linked > 0 {
		w.c.n[outLinked].Add(uint64(res.Linked))
	}
	if res.Failed == 0 {
		return
	}
	w.c.n[outSendError].Add(uint64(res.Failed))
	if res.TooBig {
		select {
		case w.d.kick <- struct{}{}:
		default:
		}
	}
}

// clear sends the packets of a frame as they are, marked as the daemon's own so
// that they are not routed to the device again.
func (w *outWorker) clear() {
	if err := w.split.Start(w.hdr, w.pkt, &w.info); err != nil {
		w.c.n[outOffload].Add(1)
		return
	}
	if w.split.Max() > w.size {
		// Only a packet that was put together is that long: cut it again.
		if !w.whole || !w.clearFragments() {
			w.c.n[outOversize].Add(1)
		}
		return
	}
	for {
		buf := w.slot()
		n := w.split.Next(buf)
		if n == 0 {
			return
		}
		w.n++
		w.raw = append(w.raw, batch.Packet{Data: buf[:n], Remote: netip.AddrPortFrom(w.info.Dst, 0)})
	}
}

// clearFragments cuts the packet of w.pkt again, as its sender did.
func (w *outWorker) clearFragments() bool {
	mtu := min(w.d.pathMTU(w.info.Dst), w.size)
	w.fragTo, w.fragBuf = batch.Packet{Remote: netip.AddrPortFrom(w.info.Dst, 0)}, make([]byte, mtu)
	if w.info.Version == 4 {
		return ip.Fragment4(w.pkt, &w.info, mtu, w.fragBuf, w.emitOut)
	}
	w.fragID++
	return ip.Fragment6(w.pkt[:w.info.TotalLen], w.fragID, mtu, w.fragBuf, w.emitOut)
}

// String names the worker in logs.
func (w *outWorker) String() string { return fmt.Sprintf("queue %d", w.queue) }
