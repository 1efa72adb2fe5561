package engine

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"iked/ikev2"
	ikemsg "iked/ikev2/message"
	"iked/internal/isakmp"
	"iked/internal/trace"
)

// Numbers of RFC 7296, Section 3.1 that the gate looks at.
const (
	exchangeIKESAInit = 34
	flagInitiator     = 0x08
	flagResponse      = 0x20
	notifyNoProposal  = 14
)

// maxDatagram is the largest IKE message that is looked at.
const maxDatagram = 65507

// gate looks at every datagram before any state does, and keeps nothing of a
// stranger's beyond fixed budgets.
type gate struct {
	e       *Engine
	half    *halfOpen
	cookies *cookieJar
	rate    rateTable
	replies bucket
	told    bucket
	logs    bucket // records about peers that are not authenticated
	refused bucket // peers that came to nothing
	deletes bucket // searches for what a peer deleted
	// wary is until when every stranger needs a cookie, in nanoseconds of Unix time,
	// because many came to nothing.
	wary   atomic.Int64
	graves graves
	next   uint64
	mu     sync.Mutex
}

func newGate(e *Engine) *gate {
	return &gate{
		e: e, half: newHalfOpen(), cookies: newCookieJar(),
		replies: bucket{rate: 20, burst: 40}, told: bucket{rate: 1, burst: 10}, logs: bucket{rate: 10, burst: 100}, refused: bucket{rate: 20, burst: 100}, deletes: bucket{rate: 20, burst: 100},
	}
}

// Receive takes a datagram from the transport. It never blocks. d.Data
// belongs to the engine from now on.
func (e *Engine) Receive(d ikev2.Datagram) {
	defer func() {
		if r := recover(); r != nil {
			e.panicked("", 0, r)
		}
	}()
	if why := e.gate.receive(d); why != "" {
		e.drops.add(why)
	}
}

// receive returns why the datagram was dropped, or "".
func (g *gate) receive(d ikev2.Datagram) string {
	e := g.e
	if len(d.Data) > maxDatagram {
		e.total[cInvalid].Add(1)
		return "too-long"
	}
	h, err := isakmp.ParseHeader(d.Data)
	if err != nil {
		e.total[cInvalid].Add(1)
		return "truncated-header"
	}
	if h.CheckLength(len(d.Data)) != nil {
		e.total[cInvalid].Add(1)
		return "length-mismatch"
	}
	switch {
	case h.Major() == 1:
		return g.receiveV1(d, h)
	case h.Major() != 2:
		// RFC 7296, Section 2.5: the answer to a higher major version.
		e.total[cInvalid].Add(1)
		if h.Major() > 2 && h.Flags&flagResponse == 0 {
			g.reply(d, ikev2.VersionReply(h))
		}
		return "major-version"
	case h.SPIi.IsZero():
		e.total[cInvalid].Add(1)
		return "zero-spi"
	}
	if h.SPIr.IsZero() {
		if h.Exchange != exchangeIKESAInit {
			e.total[cInvalid].Add(1)
			return "zero-spi"
		}
		if h.Flags&flagResponse == 0 {
			return g.initRequest(d, h)
		}
	}
	// RFC 7296, Section 3.1: the Initiator flag says which SPI is whose.
	spi := ikev2.SPI(h.SPIi.Uint64())
	if h.Flags&flagInitiator != 0 {
		spi = ikev2.SPI(h.SPIr.Uint64())
	}
	x := e.spis.get(spi)
	if x == nil {
		if g.graves.answer(e, spi, d) {
			return ""
		}
		e.total[cInvalidSPI].Add(1)
		// RFC 7296, Section 2.21.4: a request outside any IKE SA may be answered.
		if h.Flags&flagResponse == 0 && h.Exchange != exchangeIKESAInit {
			g.reply(d, ikev2.InvalidSPIReply(h))
		}
		return "unknown-ike-spi"
	}
	return g.pass(x, d)
}

// pass hands the datagram to the SA's shard.
func (g *gate) pass(x *ikeSA, d ikev2.Datagram) string {
	if !x.shard.box.offer(message{x: x, d: d}) {
		return "queue-full"
	}
	return ""
}

// initRequest decides on an IKE_SA_INIT request (RFC 7296, Sections 1.2, 2.6).
func (g *gate) initRequest(d ikev2.Datagram, h isakmp.Header) string {
	e := g.e
	if h.Flags&flagInitiator == 0 || h.MessageID != 0 {
		e.total[cInvalid].Add(1)
		return "bad-ike-sa-init"
	}
	if e.down.Load() {
		return "closing"
	}
	key := halfOpenKey{d.Remote, ikev2.SPI(h.SPIi.Uint64())}
	if x := g.half.find(key); x != nil {
		return g.pass(x, d) // sent again
	}
	p := e.config.Load()
	lim := &p.global.Limits
	src := source(d.Remote.Addr())
	verdict := g.rate.allow(src, lim.RatePerSource, time.Now())
	if verdict == rateOver || verdict == rateCrowd && lim.CookieThreshold <= 0 {
		return "rate-per-source"
	}
	if lim.IKESAs > 0 && e.ikeCount.Load() >= int64(lim.IKESAs) {
		return "ike-sa-limit"
	}
	if e.work.overloaded() {
		return "overloaded"
	}
	local, remote := d.Local.Addr().Unmap(), d.Remote.Addr().Unmap()
	if len(p.candidates(local, remote, 2)) == 0 {
		g.stranger(d, h)
		return "no-connection"
	}
	total, mine := g.half.counts(src)
	// Half of a source's share is for who has shown that the address is its own, so
	// that nobody shuts a peer out by using its address; and so is all of what is
	// left when there are more sources than can be told apart.
	share := lim.HalfOpenPerSource > 0 && mine >= max(lim.HalfOpenPerSource/2, 1)
	wary := time.Now().UnixNano() < g.wary.Load()
	if lim.CookieThreshold > 0 && (total >= lim.CookieThreshold || share || wary || verdict == rateCrowd) {
		// RFC 7296, Section 2.6: no state for a peer that has not shown that it
		// gets what is sent to its address.
		answer, ok, err := g.cookies.check(time.Now(), d, h)
		switch {
		case err != nil:
			e.total[cInvalid].Add(1)
			return "bad-ike-sa-init"
		case !ok && len(answer) > len(d.Data):
			// Shorter than any real request: nothing is made longer for a stranger.
			e.total[cInvalid].Add(1)
			return "bad-ike-sa-init"
		case !ok:
			e.total[cIKEInitInReq].Add(1)
			e.total[cIKEInitOutResp].Add(1)
			if err := e.opt.Transport.Send(d.Local, d.Remote, answer, d.NATT, 0); err != nil {
				e.drops.add("send-error")
			}
			return "cookie-demanded"
		}
	}
	return g.accept(d, key)
}

// waryTime is how long the gate stays wary.
const waryTime = 5 * time.Second

// failed notes that a stranger's request came to nothing. Such requests make no
// half-open SA that lasts, and yet cost work: when there are many, the next ones
// must show first that their addresses are their own.
func (g *gate) failed(now time.Time) {
	if !g.refused.take(now) {
		g.wary.Store(now.Add(waryTime).UnixNano())
	}
}

// accept makes a half-open SA.
func (g *gate) accept(d ikev2.Datagram, key halfOpenKey) string {
	e := g.e
	lim := &e.config.Load().global.Limits
	g.mu.Lock()
	g.next++
	s := e.shards[g.next%uint64(len(e.shards))]
	g.mu.Unlock()
	if versionOf(d.Data) == 1 {
		s = e.shardOf(d.Remote.Addr())
	}
	x := &ikeSA{shard: s, half: key, isHalf: true, index: -1, created: time.Now(), v1: versionOf(d.Data) == 1}
	old, full := g.half.enter(key, x, lim.HalfOpen, lim.HalfOpenPerSource)
	if full != "" {
		return full
	}
	if old != nil {
		return g.pass(old, d)
	}
	first := message{fn: func(s *shard) {
		s.accept(x, d)
	}}
	if !s.box.offer(first) {
		g.half.leave(key, x)
		return "queue-full"
	}
	return ""
}

// accept makes the state machine of a responder. When that panics, the budget
// is given back.
func (s *shard) accept(x *ikeSA, d ikev2.Datagram) {
	defer func() {
		if r := recover(); r != nil {
			s.e.panicked("", 0, r)
			s.unhalf(x)
		}
	}()
	if x.v1 {
		x.m = s.e.newResponderV1(d.Local, d.Remote, d.NATT)
	} else {
		x.m = s.e.newResponder(d.Local, d.Remote, d.NATT)
	}
	id := x.m.Identify()
	x.id, x.spi = id.ID, id.SPI
	s.adopt(x)
	s.drive(x, func(now time.Time) { x.m.Receive(now, d) })
}

// stranger answers a peer that no connection is for, and notes it for Explain;
// both at a bounded rate.
func (g *gate) stranger(d ikev2.Datagram, h isakmp.Header) {
	g.reply(d, noProposal(h))
	if g.otherVersion(d, 2) {
		return
	}
	if !g.told.take(time.Now()) {
		return
	}
	g.e.fail(trace.Failure{At: time.Now(), Stage: trace.StageConfig, Local: d.Local.String(), Remote: d.Remote.String(),
		Sentence: fmt.Sprintf("no connection is for a peer at %s that calls %s", d.Remote.Addr().Unmap(), d.Local.Addr().Unmap()),
		Advice:   "add a connection whose remote_addrs holds that address (or none, for any), and whose local_addrs fits"}, 0)
}

// reply sends an answer outside any IKE SA, not more than a few a second.
func (g *gate) reply(d ikev2.Datagram, b []byte) {
	if !g.replies.take(time.Now()) {
		g.e.drops.add("reply-rate")
		return
	}
	if err := g.e.opt.Transport.Send(d.Local, d.Remote, b, d.NATT, 0); err != nil {
		g.e.drops.add("send-error")
	}
}

// noProposal is NO_PROPOSAL_CHOSEN without an IKE SA.
func noProposal(h isakmp.Header) []byte {
	r := isakmp.Header{SPIi: h.SPIi, NextPayload: uint8(ikemsg.TypeNotify), Version: 2 << 4, Exchange: h.Exchange, Flags: flagResponse}
	b := r.Append(nil)
	start := len(b)
	b = isakmp.AppendPayloadHeader(b, isakmp.NoNext, false)
	b = append(b, 0, 0, 0, notifyNoProposal)
	isakmp.PutPayloadLength(b, start)
	isakmp.PutLength(b, len(b))
	return b
}

// bucket is a token bucket.
type bucket struct {
	mu          sync.Mutex
	rate, burst float64
	level       float64
	last        time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last.IsZero() {
		b.level = b.burst
	} else if d := now.Sub(b.last); d > 0 {
		b.level = min(b.burst, b.level+b.rate*d.Seconds())
	}
	b.last = now
	if b.level < 1 {
		return false
	}
	b.level--
	return true
}

// rateTable counts IKE_SA_INIT requests of each source in the current second. It
// forgets all when the second is over, and at rateSources sources it knows no
// more, so its size is fixed.
type rateTable struct {
	mu     sync.Mutex
	second int64
	count  map[netip.Addr]int
}

const rateSources = 8192

// rateVerdict is what the rate of a source says of a request.
type rateVerdict uint8

const (
	rateOK    rateVerdict = iota
	rateOver              // the source sends too much
	rateCrowd             // there are too many sources in this second to count this one
)

func (t *rateTable) allow(src netip.Addr, limit int, now time.Time) rateVerdict {
	if limit <= 0 {
		return rateOK
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := now.Unix(); s != t.second || t.count == nil {
		t.second = s
		if t.count == nil {
			t.count = make(map[netip.Addr]int)
		}
		clear(t.count)
	}
	n, known := t.count[src]
	if !known && len(t.count) >= rateSources {
		return rateCrowd
	}
	t.count[src] = n + 1
	if n >= limit {
		return rateOver
	}
	return rateOK
}
