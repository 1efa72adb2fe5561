package backendtest

import (
	"encoding/binary"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/testnet"
	"iked/sad"
	"iked/spd"
)

// rules are what a pair is held to besides carrying packets. Each names its own
// cells, and is run for those that both sides carry.
var rules = []struct {
	name string
	run  func(*testing.T, *pair)
}{
	{"a packet that comes again is dropped and counted", each(kinds, replay)},
	{"a forged packet is dropped and counted", each(kinds, forgery)},
	{"lifetimes end softly and hard", lifetimes},
	{"an inbound SA ends after its packets", each(kinds[:1], inboundLifetime)},
	{"bypass and discard before protect", each(tunnels, precedence)},
	{"clear text does not get in", each(kinds, clearText)},
	{"a flow without an SA asks for one", each(kinds, acquire)},
	{"each flow of an entry with PFP asks for its own SA", each(tunnels, populate)},
	{"SAs move while packets flow", each(movable, moved)},
	{"the newest SA carries", each(kinds, newest)},
	{"the inner MTU is the size of the largest packet that crosses whole", each(sizes, innerMTU)},
}

// gcm and sha256 protect what is not about algorithms.
var (
	gcm    = ESPAlgorithms[0]
	sha256 = AHAlgorithms[1]
)

// kinds are one cell of each mode and protocol; tunnels those with hosts behind.
var kinds = []Cell{
	{Proto: suite.ProtoESP, Mode: spd.Tunnel, Inner: 4, Outer: 4, Algorithm: gcm},
	{Proto: suite.ProtoESP, Mode: spd.Tunnel, Inner: 6, Outer: 4, Algorithm: gcm, ESN: true},
	{Proto: suite.ProtoESP, Mode: spd.Transport, Inner: 4, Outer: 4, Algorithm: gcm, ESN: true},
	{Proto: suite.ProtoESP, Mode: spd.Transport, Inner: 6, Outer: 6, Algorithm: gcm},
	{Proto: suite.ProtoESP, Mode: spd.BEET, Inner: 4, Outer: 4, Algorithm: gcm},
	{Proto: suite.ProtoESP, Mode: spd.BEET, Inner: 6, Outer: 4, Algorithm: gcm},
	{Proto: suite.ProtoAH, Mode: spd.Transport, Inner: 4, Outer: 4, Algorithm: sha256, ESN: true},
	{Proto: suite.ProtoAH, Mode: spd.Tunnel, Inner: 6, Outer: 6, Algorithm: sha256},
}

var tunnels = []Cell{kinds[0], kinds[1]}

// movable are the modes that have outer addresses of their own.
var movable = []Cell{kinds[0], kinds[1], kinds[4], kinds[5]}

// each runs a rule for cells. A cell that a side refuses is held to be refused,
// as in the matrix.
func each(cells []Cell, f func(*testing.T, *pair, Cell)) func(*testing.T, *pair) {
	return func(t *testing.T, p *pair) {
		for _, c := range cells {
			t.Run(c.String(), func(t *testing.T) {
				if p.refusal(t, c) == "" {
					f(t, p, c)
				}
			})
		}
	}
}

// protectedFrames are the frames of one direction that an SA carried.
func protectedFrames(wire *testnet.SentCapture, spi uint32) (frames []testnet.Packet) {
	for _, x := range wire.Packets() {
		if x.SPI == spi && x.Class.IPsec() {
			frames = append(frames, x)
		}
	}
	return frames
}

// replay: RFC 4303, Section 3.4.3, and RFC 4302, Section 3.4.3: a sequence number
// passes once.
func replay(t *testing.T, p *pair, c Cell) {
	s := p.setup(t, c)
	wire := p.capture(t)
	p.up(t, s)
	ping(t, s)
	wire.Stop()
	frames := protectedFrames(wire, s.b.in.SPI)
	if len(frames) < 3 {
		t.Fatalf("%d packets to replay: %v", len(frames), wire)
	}
	before, err := s.b.b.QuerySA(s.b.in.ID)
	must(t, err)
	for _, f := range frames {
		must(t, p.GwA.Inject("wan0", f.Data))
	}
	after := p.until(t, s.b.endpoint, s.b.in.ID, "replayed packets are counted", func(u sad.Usage) bool { return u.Replayed >= uint64(len(frames)) })
	if after.Packets != before.Packets || after.BadICV != 0 || after.Seq != before.Seq {
		t.Errorf("replayed packets changed the SA: %+v, then %+v", before, after)
	}
	ping(t, s)
}

// until polls an SA.
func (p *pair) until(t *testing.T, e *endpoint, id sad.ID, what string, ok func(sad.Usage) bool) sad.Usage {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		u, err := e.b.QuerySA(id)
		must(t, err)
		if ok(u) {
			return u
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s: %+v; counters %v", e.side.Name, what, u, nonZero(e.b.Counters()))
		}
	}
}

// forgery: RFC 4303, Section 3.4.4: what does not authenticate changes nothing, and
// a number in the future in particular does not move the window.
func forgery(t *testing.T, p *pair, c Cell) {
	s := p.setup(t, c)
	wire := p.capture(t)
	p.up(t, s)
	ping(t, s)
	wire.Stop()
	frames := protectedFrames(wire, s.b.in.SPI)
	if len(frames) == 0 {
		t.Fatalf("no packet to forge: %v", wire)
	}
	before, err := s.b.b.QuerySA(s.b.in.ID)
	must(t, err)
	f := frames[0]
	seq := 4 // of ESP; RFC 4302, Section 2: in AH it stands behind the SPI at 4
	if c.Proto == suite.ProtoAH {
		seq = 8
	}
	at := len(f.Data) - len(f.Payload) + seq // Ethernet pads no frame of this size
	binary.BigEndian.PutUint32(f.Data[at:], 100_000)
	must(t, p.GwA.Inject("wan0", f.Data))
	after := p.until(t, s.b.endpoint, s.b.in.ID, "a forged packet is counted", func(u sad.Usage) bool { return u.BadICV == 1 })
	if after.Packets != before.Packets || after.Replayed != 0 || after.Seq != before.Seq {
		t.Errorf("a forged packet changed the SA: %+v, then %+v", before, after)
	}
	ping(t, s)
}

// lifetimes: RFC 4301, Section 4.4.2.1: in time and in octets, and in packets
// besides; a soft one warns, after a hard one the SA carries nothing.
func lifetimes(t *testing.T, p *pair) {
	for _, l := range []struct {
		why    string
		limits sad.Limits
	}{
		{"packets", sad.Limits{SoftPackets: 5, HardPackets: 12}},
		{"bytes", sad.Limits{SoftBytes: 3000, HardBytes: 9000}},
		{"time", sad.Limits{SoftTime: time.Second, HardTime: 3 * time.Second}},
	} {
		t.Run(l.why, func(t *testing.T) {
			each(kinds[:1], func(t *testing.T, p *pair, c Cell) {
				s := p.setup(t, c)
				s.a.out.Limits = l.limits
				p.expires(t, s, &s.a, s.a.out, l.why)
			})(t, p)
		})
	}
}

// inboundLifetime is the same for what arrives.
func inboundLifetime(t *testing.T, p *pair, c Cell) {
	s := p.setup(t, c)
	s.b.in.Limits = sad.Limits{SoftPackets: 5, HardPackets: 12}
	p.expires(t, s, &s.b, s.b.in, "packets")
}

// expires sends through an SA with limits until it has ended.
func (p *pair) expires(t *testing.T, s *setup, h *half, sa *sad.SA, why string) {
	t.Helper()
	wire := p.capture(t)
	h.events.forget()
	p.up(t, s)
	start := time.Now()
	ended := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ended:
				return
			default:
				// What is lost is the point.
				_, _ = s.a.NS.Ping(s.b.Addr, testnet.PingOptions{From: s.a.Addr, Size: 600, Timeout: 10 * time.Millisecond})
			}
		}
	}()
	fits := func(e backend.Expire) bool { return e.ID == sa.ID }
	soft := waitEvent(t, h.events, "the soft limit", fits, 3*patience)
	hard := waitEvent(t, h.events, "the hard limit", func(e backend.Expire) bool { return fits(e) && e.Hard }, 3*patience)
	took := time.Since(start)
	close(ended)
	<-done
	if soft.Hard || soft.Why != why || hard.Why != why || soft.Owner != sa.Owner || hard.Owner != sa.Owner {
		t.Errorf("events %+v and %+v, want a soft and a hard one by %s of owner %d", soft, hard, why, sa.Owner)
	}
	if sa.Limits.HardTime > 0 && (took < sa.Limits.HardTime-time.Second || took > sa.Limits.HardTime+patience) {
		t.Errorf("the SA ended after %v, its limit is %v", took, sa.Limits.HardTime)
	}
	r, err := s.a.NS.Ping(s.b.Addr, testnet.PingOptions{From: s.a.Addr, Timeout: 50 * time.Millisecond})
	if err != nil || r.Received != 0 {
		t.Errorf("an SA that has ended carries: %v, %v", r, err)
	}
	p.noClearText(t, wire)
	n := len(protectedFrames(wire, sa.SPI))
	if most := int(sa.Limits.HardPackets); sa.Dir == sad.Out && most > 0 && n > most {
		t.Errorf("%d packets left by an SA that ends after %d", n, most)
	}
}

func (p *pair) noClearText(t *testing.T, wire *testnet.SentCapture) {
	t.Helper()
	wire.Stop()
	if clear := wire.ClearText(); len(clear) > 0 {
		t.Errorf("clear text on the wire: %v", clear[0])
	}
}

// newest: RFC 7296, Section 2.8: after a rekeying the new SA carries, and the old
// one still receives until it is deleted.
func newest(t *testing.T, p *pair, c Cell) {
	s := p.setup(t, c)
	p.up(t, s)
	ping(t, s)
	second := p.setup(t, c)
	// The second pair of SAs serves the policy of the first.
	for _, sa := range []*sad.SA{second.a.in, second.a.out, second.b.in, second.b.out} {
		sa.ReqID, sa.Owner = s.a.in.ReqID, s.a.in.Owner
	}
	t.Cleanup(func() { p.remove(t, second) })
	p.install(t, second)
	wire := p.capture(t)
	ping(t, s)
	wire.Stop()
	if n := len(protectedFrames(wire, s.b.in.SPI)) + len(protectedFrames(wire, s.a.in.SPI)); n != 0 {
		t.Errorf("%d packets took the old SAs: %v", n, wire)
	}
	// The new ones go, and the old ones carry again.
	p.remove(t, second)
	ping(t, s)
}
