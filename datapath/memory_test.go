package datapath

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"iked/datapath/ip"
	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/trace"
	"iked/internal/transport/batch"
	"iked/sad"
	"iked/spd"
)

// wire is one end of a cable between two datapaths, for both ways of sending.
type wire struct {
	peer   *wire
	in     chan []batch.Packet // ESP
	ah     chan []batch.Packet
	done   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	udp    bool
	mu     sync.Mutex
	seen   []batch.Packet // what was sent
	serve  func(int, []batch.Packet)
	change func(*batch.Packet) // to what arrives
}

func cable(udp bool) (*wire, *wire) {
	a := &wire{in: make(chan []batch.Packet, 1024), ah: make(chan []batch.Packet, 1024), done: make(chan struct{}), udp: udp}
	b := &wire{in: make(chan []batch.Packet, 1024), ah: make(chan []batch.Packet, 1024), done: make(chan struct{}), udp: udp}
	a.peer, b.peer = b, a
	return a, b
}

func (w *wire) Queues() int                                  { return 2 }
func (w *wire) Protocol(q int) uint8                         { return [2]uint8{ip.ProtoESP, ip.ProtoAH}[q] }
func (w *wire) ESPQueues() int                               { return 1 }
func (w *wire) SetESPHandler(f func(int, []batch.Packet))    { w.Serve(f) }
func (w *wire) SendESP(_ int, p []batch.Packet) batch.Result { return w.Send(nil, p) }

func (w *wire) Serve(f func(int, []batch.Packet)) {
	if f == nil {
		w.Close()
		return
	}
	queues := []chan []batch.Packet{w.in, w.ah}
	if w.udp {
		queues = queues[:1]
	}
	for i, in := range queues {
		w.wg.Go(func() {
			for {
				select {
				case p := <-in:
					f(i, p)
				case <-w.done:
					return
				}
			}
		})
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.done) })
	w.wg.Wait()
	return nil
}

func (w *wire) Send(_ *batch.Writer, packets []batch.Packet) batch.Result {
	var out, ah []batch.Packet
	for _, p := range packets {
		p.Data = bytes.Clone(p.Data)
		w.mu.Lock()
		w.seen = append(w.seen, p)
		w.mu.Unlock()
		q := p
		q.Data = bytes.Clone(p.Data)
		q.Local, q.Remote = p.Remote, p.Local
		to := &out
		var info ip.Info
		if !w.udp && ip.Parse(q.Data, &info) == ip.OK && info.Proto == ip.ProtoAH {
			to = &ah
		} else if !w.udp && q.Data[0]>>4 == 6 {
			q.TOS = uint8(binary.BigEndian.Uint16(q.Data) >> 4)
			q.Data = q.Data[ip.IPv6HeaderLen:]
		}
		if w.peer.change != nil {
			w.peer.change(&q)
		}
		*to = append(*to, q)
	}
	if len(out) > 0 {
		select {
		case w.peer.in <- out:
		case <-w.peer.done:
		}
	}
	if len(ah) > 0 {
		select {
		case w.peer.ah <- ah:
		case <-w.peer.done:
		}
	}
	return batch.Result{}
}

// side is one datapath with what its device was given.
type side struct {
	*Datapath
	dev  *tun.Memory
	raw  *wire
	udp  *wire
	got  chan []byte // frames
	logs *logBook
}

type logBook struct {
	mu  sync.Mutex
	msg []string
}

func (l *logBook) log(r trace.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.msg = append(l.msg, r.Msg)
}

// pair makes two datapaths that are connected, with a path MTU.
func pair(t testing.TB, o Options, mtu int) (a, b *side) {
	ra, rb := cable(false)
	ua, ub := cable(true)
	mk := func(raw, udp *wire) *side {
		s := &side{raw: raw, udp: udp, got: make(chan []byte, 4096), logs: &logBook{}}
		s.dev = tun.NewMemory(2, 1400, func(f []byte) { s.got <- f })
		opt := o
		opt.Log = s.logs.log
		s.Datapath = NewIO(opt, IO{Device: s.dev, Raw: raw, UDP: udp, PathMTU: func(netip.Addr) (int, error) { return mtu, nil }})
		t.Cleanup(func() { s.Close() })
		return s
	}
	return mk(ra, ua), mk(rb, ub)
}

var (
	net4A, net4B = netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16")
	net6A, net6B = netip.MustParsePrefix("2001:db8:1::/48"), netip.MustParsePrefix("2001:db8:2::/48")
	out4A, out4B = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	out6A, out6B = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

// tunnel sets SAs and policies for one pair of networks on both sides.
func tunnel(t testing.TB, a, b *side, outA, outB netip.Addr, netA, netB netip.Prefix, change func(*sad.SA)) {
	t.Helper()
	inA, sendA := backendtest.Pair(1, outA, outB, 0x1001, 0x2001, netA, netB)
	inB, sendB := backendtest.Pair(1, outB, outA, 0x2001, 0x1001, netB, netA)
	for _, s := range []*sad.SA{inA, sendA, inB, sendB} {
		if change != nil {
			change(s)
		}
	}
	for _, err := range []error{
		a.AddSA(inA), b.AddSA(inB), a.AddSA(sendA), b.AddSA(sendB),
		a.ApplyPolicies(nil, []spd.Policy{backendtest.Policy(1, 1, netA, netB)}),
		b.ApplyPolicies(nil, []spd.Policy{backendtest.Policy(1, 1, netB, netA)}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// packet makes a UDP packet with n octets of payload.
func packet(src, dst netip.Addr, n int) []byte {
	h := ip.Outer{Src: src, Dst: dst, Proto: ip.ProtoUDP, TTL: 64, DF: true}
	b := make([]byte, h.Len()+8+n)
	h.Put(b, 8+n)
	u := b[h.Len():]
	binary.BigEndian.PutUint16(u, 1000)
	binary.BigEndian.PutUint16(u[2:], 2000)
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	for i := range n {
		u[8+i] = byte(i)
	}
	var sum uint64
	if src.Is4() {
		sum = ip.PseudoSum(b[12:16], b[16:20], ip.ProtoUDP, len(u))
	} else {
		sum = ip.PseudoSum(b[8:24], b[24:40], ip.ProtoUDP, len(u))
	}
	binary.BigEndian.PutUint16(u[6:], ip.Checksum(u, sum))
	return b
}

func receive(t testing.TB, s *side) []byte {
	t.Helper()
	select {
	case f := <-s.got:
		return f[tun.HeaderLen:]
	case <-time.After(10 * time.Second):
		t.Fatalf("nothing arrived; counters %v", nonZero(s.Counters()))
	}
	return nil
}

func nonZero(m map[string]uint64) map[string]uint64 {
	for k, v := range m {
		if v == 0 {
			delete(m, k)
		}
	}
	return m
}

// wait waits until a counter has reached n.
func wait(t testing.TB, s *side, name string, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); s.Counters()[name] < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("counter %s is %d, want %d; all: %v", name, s.Counters()[name], n, nonZero(s.Counters()))
		}
	}
}

func event[E backend.Event](t testing.TB, s *side) E {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case e := <-s.Events():
			if e, ok := e.(E); ok {
				return e
			}
		case <-deadline:
			var e E
			t.Fatalf("no event %T; counters %v", e, nonZero(s.Counters()))
		}
	}
}
