package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/datapath/esp"
	"iked/datapath/ip"
	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/transport/batch"
	"iked/sad"
	"iked/spd"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backend.Backend {
		a, _ := pair(t, Options{}, 1500)
		return a
	})
}

var ways = []struct {
	name       string
	outA, outB netip.Addr
	netA, netB netip.Prefix
	encap      bool
}{
	{"4 in 4", out4A, out4B, net4A, net4B, false},
	{"6 in 6", out6A, out6B, net6A, net6B, false},
	{"6 in 4", out4A, out4B, net6A, net6B, false},
	{"4 in 6", out6A, out6B, net4A, net4B, false},
	{"4 in 4, UDP", out4A, out4B, net4A, net4B, true},
	{"6 in 6, UDP", out6A, out6B, net6A, net6B, true},
	{"6 in 4, UDP", out4A, out4B, net6A, net6B, true},
}

func host(p netip.Prefix, n byte) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] = n
	a, _ := netip.AddrFromSlice(b)
	return a
}

// A packet of the protected networks arrives as it was sent, and only ESP
// crosses the wire, over every combination of families and over UDP.
func TestPacketsCross(t *testing.T) {
	for _, c := range ways {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t, Options{}, 1500)
			tunnel(t, a, b, c.outA, c.outB, c.netA, c.netB, func(s *sad.SA) {
				if c.encap {
					s.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500}
				}
			})
			for i := range 50 {
				p := packet(host(c.netA, 5), host(c.netB, 6), 20*i)
				a.dev.Inject(i%2, tun.Header{}, p)
				if got := receive(t, b); !bytes.Equal(got, p) {
					t.Fatalf("packet %d\n got %x\nwant %x", i, got, p)
				}
			}
			sent := a.raw.seen
			if c.encap {
				sent = a.udp.seen
			}
			if len(sent) != 50 {
				t.Fatalf("%d packets on the wire, want 50", len(sent))
			}
			var info ip.Info
			if !c.encap && (ip.Parse(sent[7].Data, &info) != ip.OK || info.Proto != ip.ProtoESP || info.Src != c.outA || info.Dst != c.outB) {
				t.Errorf("on the wire: %+v", info)
			}
			u, err := a.QuerySA(sad.ID{Dir: sad.Out, Proto: 3, SPI: 0x2001, Dst: c.outB})
			if err != nil || u.Packets != 50 || u.Seq != 50 || u.MTU == 0 || u.LastUsed.IsZero() {
				t.Errorf("usage %+v, %v", u, err)
			}
		})
	}
}

// What the SPD says to protect never leaves in clear, and without an SA it does
// not leave at all. An unknown flow is discarded (RFC 4301, Section 4.4.1).
func TestFailClosed(t *testing.T) {
	a, _ := pair(t, Options{}, 1500)
	if err := a.ApplyPolicies(nil, []spd.Policy{backendtest.Policy(1, 1, net4A, net4B)}); err != nil {
		t.Fatal(err)
	}
	a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 10))
	wait(t, a, "out_no_sa", 1)
	a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), netip.MustParseAddr("198.51.100.1"), 10))
	wait(t, a, "out_no_policy", 1)
	if len(a.raw.seen)+len(a.udp.seen) != 0 {
		t.Errorf("something was sent: %v %v", a.raw.seen, a.udp.seen)
	}
}

// With fail: open the same traffic passes in clear, and is counted.
func TestFailOpen(t *testing.T) {
	a, _ := pair(t, Options{}, 1500)
	open := backendtest.Policy(1, 1, net4A, net4B)
	open.FailOpen = true
	if err := a.ApplyPolicies(nil, []spd.Policy{open}); err != nil {
		t.Fatal(err)
	}
	p := packet(host(net4A, 1), host(net4B, 1), 10)
	a.dev.Inject(0, tun.Header{}, p)
	wait(t, a, "out_fail_open", 1)
	got := waitSent(t, a.raw, 1)
	if !bytes.Equal(got[0].Data, p) {
		t.Errorf("sent %x", got[0].Data)
	}
}

func waitSent(t *testing.T, w *wire, n int) []batch.Packet {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		seen := w.seen
		w.mu.Unlock()
		if len(seen) >= n {
			return seen
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d packets were sent, want %d", len(seen), n)
		}
	}
}

// Bypass and discard come before protect when their priority says so.
func TestActions(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, nil)
	hole := spd.Policy{ID: 2, Name: "hole", Action: spd.Bypass, Priority: 1,
		Local: []spd.TS{spd.FromPrefix(net4A)}, Remote: []spd.TS{spd.Host(host(net4B, 9))}}
	wall := hole
	wall.ID, wall.Action, wall.Remote = 3, spd.Discard, []spd.TS{spd.Host(host(net4B, 8))}
	if err := a.ApplyPolicies(nil, []spd.Policy{hole, wall}); err != nil {
		t.Fatal(err)
	}
	clear := packet(host(net4A, 1), host(net4B, 9), 10)
	a.dev.Inject(0, tun.Header{}, clear)
	if got := waitSent(t, a.raw, 1); !bytes.Equal(got[0].Data, clear) {
		t.Errorf("bypassed packet differs")
	}
	a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 8), 10))
	wait(t, a, "out_discard", 1)
	if a.Counters()["out_bypass"] != 1 {
		t.Errorf("counters %v", nonZero(a.Counters()))
	}
}

// A packet without an SA asks for one, once; what waited is sent when it comes.
func TestAcquireHoldsTheFirstPackets(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	p := backendtest.Policy(5, 1, net4A, net4B)
	p.Acquire = true
	if err := a.ApplyPolicies(nil, []spd.Policy{p}); err != nil {
		t.Fatal(err)
	}
	first := packet(host(net4A, 1), host(net4B, 2), 33)
	for range 3 {
		a.dev.Inject(0, tun.Header{}, first)
	}
	wait(t, a, "out_held", 3)
	e := event[backend.Acquire](t, a)
	if e.Policy != 5 || e.ReqID != 1 || e.Flow.Remote != host(net4B, 2) || e.Flow.RemotePort != 2000 {
		t.Errorf("event %+v", e)
	}
	for range 20 {
		a.dev.Inject(0, tun.Header{}, first)
	}
	wait(t, a, "out_no_sa", 15) // 8 are held
	select {
	case e := <-a.Events():
		t.Errorf("asked again: %+v", e)
	default:
	}
	tunnel(t, a, b, out4A, out4B, net4A, net4B, nil)
	for range 8 {
		if got := receive(t, b); !bytes.Equal(got, first) {
			t.Fatalf("got %x", got)
		}
	}
}

// RFC 4301, Section 5.2, step 4: an inbound packet must fit the selectors of the
// SA that carried it.
func TestInboundSelectorsAreChecked(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, nil)
	// Side a believes in wider selectors than b.
	wide := netip.MustParsePrefix("10.0.0.0/8")
	_, out := backendtest.Pair(2, out4A, out4B, 0x1001, 0x2001, wide, wide)
	id := out.ID
	if err := a.DeleteSA(id); err != nil {
		t.Fatal(err)
	}
	if err := a.AddSA(out); err != nil {
		t.Fatal(err)
	}
	if err := a.ApplyPolicies([]uint64{1}, []spd.Policy{backendtest.Policy(2, 2, wide, wide)}); err != nil {
		t.Fatal(err)
	}
	a.dev.Inject(0, tun.Header{}, packet(netip.MustParseAddr("10.9.0.1"), host(net4B, 1), 5))
	wait(t, b, "in_drop_selector_mismatch", 1)
	e := event[backend.InvalidSelectors](t, b)
	if e.Flow.Remote != netip.MustParseAddr("10.9.0.1") || e.Owner != 1 {
		t.Errorf("event %+v", e)
	}
}

// Garbage from the wire is counted by reason and changes nothing.
func TestGarbageIsCounted(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, func(s *sad.SA) { s.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500} })
	from := netip.AddrPortFrom(out4A, 4500)
	send := func(data []byte) { b.udp.in <- []batch.Packet{{Data: data, Remote: from}} }
	send([]byte{1, 2, 3})
	wait(t, b, "in_runt", 1)
	send(binary.BigEndian.AppendUint32(nil, 0x7777))
	send(append(binary.BigEndian.AppendUint32(nil, 0x7777), make([]byte, 40)...))
	wait(t, b, "in_no_sa", 1)
	send(append(binary.BigEndian.AppendUint32(nil, 0x2001), 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1))
	wait(t, b, "in_drop_bad_icv", 1)
	// A replay of a packet that was good.
	a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 5))
	receive(t, b)
	send(bytes.Clone(waitSent(t, a.udp, 1)[0].Data))
	wait(t, b, "in_drop_replay_duplicate", 1)
}

// RFC 7296, Section 2.23: a new address of the peer is told once, after an
// authenticated packet; nothing changes by itself.
func TestMapping(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, func(s *sad.SA) { s.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500} })
	moved := netip.MustParseAddrPort("203.0.113.7:1234")
	b.udp.change = func(p *batch.Packet) { p.Remote = moved }
	for range 3 {
		a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 5))
		receive(t, b)
	}
	e := event[backend.Mapping](t, b)
	if e.From != moved || e.ID.SPI != 0x2001 || e.Owner != 1 {
		t.Errorf("event %+v", e)
	}
	select {
	case e := <-b.Events():
		t.Errorf("told again: %+v", e)
	default:
	}
	b.dev.Inject(0, tun.Header{}, packet(host(net4B, 1), host(net4A, 1), 5))
	if got := waitSent(t, b.udp, 1); got[0].Remote.Addr() != out4A {
		t.Errorf("answers go to %v before UpdateSA", got[0].Remote)
	}
	_, err := b.UpdateSA(sad.ID{Dir: sad.Out, Proto: 3, SPI: 0x1001, Dst: out4A}, backend.Move{Src: out4B, Dst: moved.Addr(), Encap: &sad.Encap{SrcPort: 4500, DstPort: moved.Port()}})
	if err != nil {
		t.Fatal(err)
	}
	b.dev.Inject(0, tun.Header{}, packet(host(net4B, 1), host(net4A, 1), 5))
	if got := waitSent(t, b.udp, 2); got[1].Remote != moved {
		t.Errorf("answers go to %v after UpdateSA", got[1].Remote)
	}
}

// Lifetimes end with a soft and a hard event, each once; then nothing passes.
func TestLifetimes(t *testing.T) {
	for name, c := range map[string]struct {
		limits sad.Limits
		why    string
	}{
		"packets": {sad.Limits{SoftPackets: 5, HardPackets: 10}, "packets"},
		"bytes":   {sad.Limits{SoftBytes: 200, HardBytes: 400}, "bytes"},
		"time":    {sad.Limits{SoftTime: time.Millisecond, HardTime: 2 * time.Second}, "time"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, Options{}, 1500)
			tunnel(t, a, b, out4A, out4B, net4A, net4B, func(s *sad.SA) {
				if s.Dir == sad.Out {
					s.Limits = c.limits
				}
			})
			if c.why != "time" {
				for range 20 {
					a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 10))
				}
			}
			soft := event[backend.Expire](t, a)
			hard := event[backend.Expire](t, a)
			if soft.Hard || !hard.Hard || soft.Why != c.why || hard.Why != c.why || hard.ID.SPI != 0x2001 || hard.Owner != 1 {
				t.Errorf("events %+v, %+v", soft, hard)
			}
			before := a.Counters()["out_no_sa"]
			a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 10))
			wait(t, a, "out_no_sa", before+1)
		})
	}
}

// Of several SAs of one ReqID the one added last carries the traffic, and the
// one before it again when it is deleted.
func TestNewestSACarries(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, nil)
	in2, _ := backendtest.Pair(1, out4B, out4A, 0x2002, 0x1002, net4B, net4A)
	_, out2 := backendtest.Pair(1, out4A, out4B, 0x1002, 0x2002, net4A, net4B)
	if err := b.AddSA(in2); err != nil {
		t.Fatal(err)
	}
	spiOf := func(n int) uint32 {
		a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 5))
		receive(t, b)
		return binary.BigEndian.Uint32(waitSent(t, a.raw, n)[n-1].Data[20:])
	}
	if spi := spiOf(1); spi != 0x2001 {
		t.Errorf("SPI %x, want the only one", spi)
	}
	if err := a.AddSA(out2); err != nil {
		t.Fatal(err)
	}
	if spi := spiOf(2); spi != 0x2002 {
		t.Errorf("SPI %x, want the newest", spi)
	}
	if err := a.DeleteSA(out2.ID); err != nil {
		t.Fatal(err)
	}
	if spi := spiOf(3); spi != 0x2001 {
		t.Errorf("SPI %x, want the one that is left", spi)
	}
}

// A panic while an SA's packet is processed costs that SA only: it is told, with
// the stack in the log, and the worker goes on.
func TestPanicClosesTheSA(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, nil)
	tunnel6 := func() {
		_, o := backendtest.Pair(6, out4A, out4B, 0x1006, 0x2006, net6A, net6B)
		i, _ := backendtest.Pair(6, out4B, out4A, 0x2006, 0x1006, net6B, net6A)
		if a.AddSA(o) != nil || b.AddSA(i) != nil || a.ApplyPolicies(nil, []spd.Policy{backendtest.Policy(6, 6, net6A, net6B)}) != nil {
			t.Fatal("no second tunnel")
		}
	}
	tunnel6()
	a.mu.Lock()
	// An SA whose state is gone: every use of it panics.
	broken := &outSA{Outbound: &esp.Outbound{}, name: "test/net", reqID: 1}
	set := a.outbound.Get(1)
	broken.id.Store((*set.list.Load())[0].id.Load())
	a.sas[*broken.id.Load()] = broken
	set.list.Store(&[]*outSA{broken})
	a.gen.Add(1)
	a.mu.Unlock()
	a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 5))
	e := event[backend.Expire](t, a)
	if !e.Hard || e.Why != "panic" || e.ID.SPI != 0x2001 {
		t.Errorf("event %+v", e)
	}
	if a.Counters()["panics"] != 1 {
		t.Errorf("counters %v", nonZero(a.Counters()))
	}
	a.logs.mu.Lock()
	log := strings.Join(a.logs.msg, "\n")
	a.logs.mu.Unlock()
	if !strings.Contains(log, "goroutine") || !strings.Contains(log, "test/net") {
		t.Errorf("log %q", log)
	}
	p := packet(host(net6A, 1), host(net6B, 1), 5)
	a.dev.Inject(0, tun.Header{}, p)
	if got := receive(t, b); !bytes.Equal(got, p) {
		t.Error("the other SA does not work any more")
	}
}

// Carrying a packet allocates nothing, in either direction, over IP and UDP.
func TestNoAllocationPerPacket(t *testing.T) {
	for _, c := range ways {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t, Options{}, 1500)
			tunnel(t, a, b, c.outA, c.outB, c.netA, c.netB, func(s *sad.SA) {
				s.ReplayWindow = 0 // the same packet is opened many times
				if c.encap {
					s.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500}
				}
			})
			frame := append(make([]byte, tun.HeaderLen), packet(host(c.netA, 1), host(c.netB, 1), 1000)...)
			w := newOutWorker(a.Datapath, 0, a.dev.Queues()[0])
			if n := testing.AllocsPerRun(100, func() {
				w.safe(frame)
				w.n, w.udp, w.raw = 0, w.udp[:0], w.raw[:0]
			}); n != 0 {
				t.Errorf("%v allocations for a packet out", n)
			}
			w.safe(frame)
			sealed := append(append([]batch.Packet(nil), w.udp...), w.raw...)[0]
			if !c.encap && c.outA.Is6() {
				sealed.Data = sealed.Data[ip.IPv6HeaderLen:]
			}
			sealed.Remote = sealed.Local
			wire := bytes.Clone(sealed.Data)
			sink := tun.NewMemory(1, 1400, nil)
			in := newInWorker(b.Datapath, sink.Queues()[0])
			ps := []batch.Packet{sealed}
			if n := testing.AllocsPerRun(100, func() {
				copy(ps[0].Data, wire)
				in.batch(ps, c.encap)
			}); n != 0 {
				t.Errorf("%v allocations for a packet in", n)
			}
			if got := in.c.n[inPackets].Load(); got != 101 {
				t.Errorf("%d packets were opened, want 101: %v", got, nonZero(b.Counters()))
			}
		})
	}
}

// Policies, SAs and traffic may change at the same time.
func TestConcurrentChanges(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, nil)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				a.dev.Inject(i%2, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 50))
			}
		}
	}()
	go func() {
		for range b.got {
		}
	}()
	for i := range 200 {
		_, out := backendtest.Pair(1, out4A, out4B, 0x1001, uint32(0x3000+i), net4A, net4B)
		if err := a.AddSA(out); err != nil {
			t.Fatal(err)
		}
		p := backendtest.Policy(uint64(100+i), 9, net6A, netip.PrefixFrom(host(net6B, byte(i)), 128))
		if err := a.ApplyPolicies([]uint64{uint64(99 + i)}, []spd.Policy{p}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.QuerySA(out.ID); err != nil {
			t.Fatal(err)
		}
		if err := a.DeleteSA(out.ID); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
	if n := a.Counters()["out_no_sa"]; n != 0 {
		t.Errorf("%d packets found no SA, want 0", n)
	}
	a.Close()
	b.Close()
	close(b.got)
	_ = fmt.Sprint(a.slow)
}
