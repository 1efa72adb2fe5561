package transport

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"iked/internal/transport/batch"
)

// start opens a transport on free ports with a channel of IKE datagrams.
func start(t *testing.T, o Options) (*Transport, chan Datagram) {
	t.Helper()
	ch := make(chan Datagram, 4096)
	o.AnyPort = true
	if o.OnDatagram == nil {
		o.OnDatagram = func(d Datagram) { ch <- d }
	}
	tr, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr, ch
}

func receive(t *testing.T, ch chan Datagram) Datagram {
	t.Helper()
	select {
	case d := <-ch:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("no datagram arrived")
	}
	return Datagram{}
}

// RFC 3948, Section 2: four zero octets are IKE, one 0xFF is a keepalive, the
// rest is ESP.
func TestClassify(t *testing.T) {
	for _, c := range []struct {
		in   []byte
		want Kind
	}{
		{nil, KindRunt}, {[]byte{0xff}, KindKeepalive}, {[]byte{0}, KindRunt}, {[]byte{0xff, 0xff}, KindRunt},
		{[]byte{0, 0, 0}, KindRunt}, {[]byte{0, 0, 0, 0}, KindIKE}, {[]byte{0, 0, 0, 0, 1}, KindIKE},
		{[]byte{0, 0, 0, 1}, KindESP}, {[]byte{0xff, 0, 0, 0, 0}, KindESP},
	} {
		if got := Classify(c.in); got != c.want {
			t.Errorf("Classify(%x) = %d, want %d", c.in, got, c.want)
		}
	}
}

var loopback = map[string]netip.Addr{"IPv4": netip.MustParseAddr("127.0.0.1"), "IPv6": netip.IPv6Loopback()}

// An IKE message arrives as it was sent, with the address it was sent to, and
// without the marker on the NAT traversal port.
func TestIKEOnBothPorts(t *testing.T) {
	a, _ := start(t, Options{})
	b, got := start(t, Options{})
	a.Start()
	b.Start()
	bIKE, bNATT := b.Ports()
	aIKE, aNATT := a.Ports()
	for name, addr := range loopback {
		for _, natt := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s natt=%v", name, natt), func(t *testing.T) {
				to, from := bIKE, aIKE
				if natt {
					to, from = bNATT, aNATT
				}
				msg := bytes.Repeat([]byte{1, 2, 3, 4}, 500)
				if err := a.Send(netip.AddrPortFrom(addr, from), netip.AddrPortFrom(addr, to), msg, natt, 0); err != nil {
					t.Fatal(err)
				}
				d := receive(t, got)
				if !bytes.Equal(d.Data, msg) || d.NATT != natt || d.Local != netip.AddrPortFrom(addr, to) || d.Remote != netip.AddrPortFrom(addr, from) || d.At.IsZero() {
					t.Errorf("got %d octets from %v to %v, NATT %v", len(d.Data), d.Remote, d.Local, d.NATT)
				}
			})
		}
	}
}

// ESP in UDP goes to the handler in order, whether segmentation offload carried
// it or not; a keepalive goes nowhere.
func TestESPBatches(t *testing.T) {
	for name, addr := range loopback {
		for _, gso := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s gso=%v", name, gso), func(t *testing.T) {
				a, _ := start(t, Options{})
				b, _ := start(t, Options{Queues: 2})
				var mu sync.Mutex
				var got [][]byte
				all := make(chan struct{})
				const want = 150
				b.SetESPHandler(func(q int, ps []batch.Packet) {
					mu.Lock()
					defer mu.Unlock()
					for _, p := range ps {
						got = append(got, bytes.Clone(p.Data))
						if p.TOS != 0x2e<<2|2 {
							t.Errorf("TOS %#x, want EF and ECT(0)", p.TOS)
						}
					}
					if len(got) == want {
						close(all)
					}
				})
				a.Start()
				b.Start()
				if !gso {
					for f := range a.natt {
						for _, ep := range a.natt[f] {
							batch.DisableGSO(ep.conn)
						}
					}
				}
				_, port := b.Ports()
				to := netip.AddrPortFrom(addr, port)
				if err := a.Keepalive(netip.AddrPort{}, to); err != nil {
					t.Fatal(err)
				}
				var sent [][]byte
				for i := range want {
					n := 1300
					if i%40 == 39 {
						n = 200 + i
					}
					d := bytes.Repeat([]byte{byte(i)}, n)
					d[0] = 0x77
					sent = append(sent, d)
				}
				var ps []batch.Packet
				for i, d := range sent {
					ps = append(ps, batch.Packet{Data: d, Local: netip.AddrPortFrom(addr, 1), Remote: to, TOS: 0x2e<<2 | 2, TTL: 64, DF: i < 100})
				}
				if res := a.SendESP(0, ps); res.Failed != 0 {
					t.Fatalf("%+v", res)
				}
				select {
				case <-all:
				case <-time.After(10 * time.Second):
					t.Fatalf("%d of %d packets arrived", len(got), want)
				}
				for i := range sent {
					if !bytes.Equal(sent[i], got[i]) {
						t.Fatalf("packet %d differs: %d octets, want %d", i, len(got[i]), len(sent[i]))
					}
				}
				if n := b.Counters()["keepalives"]; n != 1 {
					t.Errorf("%d keepalives counted, want 1", n)
				}
			})
		}
	}
}

// A full queue drops the newest IKE datagram and counts it; the loop goes on.
func TestOverflowDropsNewest(t *testing.T) {
	hold, first := make(chan struct{}), make(chan byte, 16)
	b, _ := start(t, Options{QueueLen: 2, OnDatagram: func(d Datagram) {
		first <- d.Data[0]
		<-hold
	}})
	a, _ := start(t, Options{})
	b.Start()
	port, _ := b.Ports()
	to := netip.AddrPortFrom(loopback["IPv4"], port)
	send := func(c byte) {
		t.Helper()
		if err := a.Send(netip.AddrPort{}, to, []byte{c}, false, 0); err != nil {
			t.Fatal(err)
		}
	}
	send(0)
	if c := <-first; c != 0 { // the callback is busy with it now
		t.Fatalf("first is %d", c)
	}
	for c := byte(1); c <= 5; c++ {
		send(c)
	}
	for deadline := time.Now().Add(10 * time.Second); b.Counters()["ike_overflow"] < 3; {
		if time.Now().After(deadline) {
			t.Fatalf("overflow is %d, want 3", b.Counters()["ike_overflow"])
		}
		time.Sleep(time.Millisecond)
	}
	close(hold)
	if c1, c2 := <-first, <-first; c1 != 1 || c2 != 2 {
		t.Errorf("kept %d and %d, want the oldest, 1 and 2", c1, c2)
	}
}

// A send to nowhere is an error and a counter, and the socket survives it.
func TestSendFaultIsSurvived(t *testing.T) {
	a, _ := start(t, Options{})
	b, got := start(t, Options{})
	b.Start()
	port, _ := b.Ports()
	to := netip.AddrPortFrom(loopback["IPv4"], port)
	// A source address that is not ours.
	if err := a.Send(netip.MustParseAddrPort("192.0.2.77:0"), to, []byte("x"), false, 0); err == nil {
		t.Fatal("sent from a foreign address")
	}
	if a.Counters()["socket_unreachable"] == 0 {
		t.Errorf("not counted: %v", a.Counters())
	}
	if err := a.Send(netip.AddrPort{}, to, []byte("y"), false, 0); err != nil {
		t.Fatal(err)
	}
	if d := receive(t, got); string(d.Data) != "y" {
		t.Errorf("got %q", d.Data)
	}
	if err := a.Send(netip.AddrPort{}, netip.AddrPort{}, []byte("z"), false, 0); err == nil {
		t.Error("sent to no address")
	}
}

// The daemon must not share its port with another process by accident.
func TestPortInUse(t *testing.T) {
	a, _ := start(t, Options{Queues: 2})
	ike, natt := a.Ports()
	if b, err := New(Options{Port: ike + 1, PortNATT: natt, Queues: 2}); err == nil {
		b.Close()
		t.Error("a second transport has the same NAT traversal port")
	}
}

// A panic of the ESP handler ends neither the loop nor the process.
func TestHandlerPanicIsSurvived(t *testing.T) {
	b, got := start(t, Options{})
	b.SetESPHandler(func(int, []batch.Packet) { panic("boom") })
	b.Start()
	a, _ := start(t, Options{})
	_, port := b.Ports()
	to := netip.AddrPortFrom(loopback["IPv4"], port)
	a.SendESP(0, []batch.Packet{{Data: []byte{1, 2, 3, 4, 5, 6, 7, 8}, Remote: to}})
	if err := a.Send(netip.AddrPort{}, to, []byte("after"), true, 0); err != nil {
		t.Fatal(err)
	}
	if d := receive(t, got); string(d.Data) != "after" {
		t.Errorf("got %q", d.Data)
	}
	// ESP of a batch is handled after its IKE messages.
	for deadline := time.Now().Add(10 * time.Second); b.Counters()["handler_panics"] != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("counters %v", b.Counters())
		}
	}
}

func TestCloseTwice(t *testing.T) {
	a, _ := start(t, Options{})
	a.Start()
	a.Close()
	a.Close()
	if err := a.Send(netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9"), []byte("x"), false, 0); err == nil {
		t.Error("sent after Close")
	}
}

// Sending and receiving a batch allocates nothing.
func TestBatchDoesNotAllocate(t *testing.T) {
	a, _ := start(t, Options{})
	_, port := a.Ports()
	to := netip.AddrPortFrom(loopback["IPv4"], port)
	var ps []batch.Packet
	for range 32 {
		ps = append(ps, batch.Packet{Data: make([]byte, 1000), Local: netip.AddrPortFrom(to.Addr(), 1), Remote: to})
		ps[len(ps)-1].Data[0] = 1
	}
	r := batch.NewReader(a.natt[v4][0].conn, 8, readSize)
	n := testing.AllocsPerRun(100, func() {
		if res := a.SendESP(0, ps); res.Failed != 0 {
			t.Fatalf("%+v", res)
		}
		for got := 0; got < len(ps); {
			b, err := r.Read()
			if err != nil {
				t.Fatal(err)
			}
			got += len(b)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per batch of %d, want 0", n, len(ps))
	}
}

// The DSCP that a connection asks for is in the IP header of its IKE packets, on
// both ports; the ECN field stays empty.
func TestDSCP(t *testing.T) {
	a, _ := start(t, Options{})
	for name, addr := range loopback {
		for _, natt := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s natt=%v", name, natt), func(t *testing.T) {
				c, err := batch.ListenUDP(batch.Config{Local: netip.AddrPortFrom(addr, 0)})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				for _, dscp := range []uint8{0b101110, 0} {
					if err := a.Send(netip.AddrPort{}, netip.AddrPortFrom(addr, c.Port()), []byte("ike"), natt, dscp); err != nil {
						t.Fatal(err)
					}
					got, err := batch.NewReader(c, 1, 2048).Read()
					if err != nil || len(got) != 1 || got[0].TOS != dscp<<2 {
						t.Errorf("DSCP %06b arrived as %+v, %v", dscp, got, err)
					}
				}
			})
		}
	}
}
