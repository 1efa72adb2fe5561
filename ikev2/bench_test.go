package ikev2_test

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
)

// shake runs a handshake and adds up what the responder takes.
func shake(b testing.TB, p *pair) (responder time.Duration, ra, rb *ikev2.SA) {
	la, lb := netip.AddrPortFrom(addrA, 500), netip.AddrPortFrom(addrB, 500)
	ra = ikev2.NewInitiator(p.a, p.ca, la, lb)
	rb = ikev2.NewResponder(p.b, lb, la, false)
	now := p.net.Now
	var toA, toB []ikev2.Datagram
	drain := func(h *ikev2test.Host, sa *ikev2.SA, out *[]ikev2.Datagram) {
		for o := range sa.Outputs() {
			switch o := o.(type) {
			case ikev2.Send:
				*out = append(*out, ikev2.Datagram{Local: o.Remote, Remote: o.Local, Data: o.Data})
			case ikev2.Request:
				switch w := o.Work.(type) {
				case ikev2.AllocSPI:
					sa.Resume(now, o.ID, ikev2.SPIReply{SPI: uint32(h.NextChildID()) + 256})
				case ikev2.InstallChild:
					sa.Resume(now, o.ID, ikev2.DoneReply{})
				case ikev2.Compute:
					sa.Resume(now, o.ID, w.Run())
				}
			case ikev2.Closed:
				b.Fatalf("closed: %+v", o)
			}
		}
	}
	ra.Start(now, ikev2.StartInit{Child: p.cha})
	drain(p.a, ra, &toB)
	for len(toA)+len(toB) > 0 {
		in := toB
		toB = nil
		begin := time.Now()
		for _, d := range in {
			rb.Receive(now, d)
		}
		drain(p.b, rb, &toA)
		responder += time.Since(begin)
		in = toA
		toA = nil
		for _, d := range in {
			ra.Receive(now, d)
		}
		drain(p.a, ra, &toB)
	}
	if ra.State() != ikev2.Established || rb.State() != ikev2.Established || len(rb.Children()) != 1 {
		b.Fatalf("states %v and %v", ra.State(), rb.State())
	}
	return responder, ra, rb
}

// BenchmarkResponder is the CPU time of a PSK handshake with x25519, AES-128-GCM
// and one CHILD_SA on the responder's side (responder-ns/op); the whole time is
// both sides.
func BenchmarkResponder(b *testing.B) {
	p := newPair(b, 1)
	var sum time.Duration
	b.ReportAllocs()
	for b.Loop() {
		d, _, _ := shake(b, p)
		sum += d
	}
	b.ReportMetric(float64(sum.Nanoseconds())/float64(b.N), "responder-ns/op")
}

// BenchmarkMemory is the heap that an established responder's IKE SA with one
// CHILD_SA takes, over 10,000 of them (bytes/SA).
func BenchmarkMemory(b *testing.B) {
	const n = 10000
	for b.Loop() {
		b.ReportMetric(heapPerSA(b, n), "bytes/SA")
	}
}

func heapPerSA(b testing.TB, n int) float64 {
	p := newPair(b, 1)
	keep := make([]*ikev2.SA, 0, n)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range n {
		_, _, rb := shake(b, p)
		keep = append(keep, rb)
	}
	size := float64(heap()-before) / float64(n)
	runtime.KeepAlive(keep)
	return size
}

// An established IKE SA with its first CHILD_SA takes at most 9 KiB.
func TestMemoryPerSA(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector changes sizes: the limit is not checked")
		return
	}
	if size := heapPerSA(t, 500); size > 9*1024 {
		t.Errorf("%.0f octets per SA, at most 9216 are allowed", size)
	}
}
