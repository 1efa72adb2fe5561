//go:build !race

package datapath

import (
	"testing"

	"iked/datapath/tun"
	"iked/internal/transport/batch"
)

// Under the race detector sync.Pool forgets at random what it was given, so that
// allocations are counted in builds without it only.

// No packet of AH or of a bundle allocates, in either direction.
func TestBundleAllocs(t *testing.T) {
	for _, c := range bundles {
		a, b := pair(t, Options{}, 1500)
		netA, netB := net4A, net4B
		src, dst := netA.Addr().Next(), netB.Addr().Next()
		if !c.nets {
			netA, netB, src, dst = single(out4A), single(out4B), out4A, out4B
		}
		pa, pb := nest(t, a, b, out4A, out4B, netA, netB, c.layers)
		apply(t, a, pa)
		apply(t, b, pb)
		frame := append(make([]byte, tun.HeaderLen), packet(src, dst, 500)...)
		w := newOutWorker(a.Datapath, 0, a.dev.Queues()[0])
		proto := uint8(c.wire[0])
		in := newInWorker(b.Datapath, tun.NewMemory(1, 1400, nil).Queues()[0])
		in.proto = proto
		packets := make([]batch.Packet, 1)
		work := make([]byte, 2048)
		allocs := testing.AllocsPerRun(100, func() {
			w.safe(frame)
			if len(w.raw) != 1 {
				t.Fatalf("%s: %d packets; counters %v", c.name, len(w.raw), nonZero(a.Counters()))
			}
			p := w.raw[0]
			p.Data = work[:copy(work, p.Data)]
			p.Local, p.Remote = p.Remote, p.Local
			w.n, w.raw = 0, w.raw[:0]
			packets[0] = p
			in.batch(packets, false)
		})
		if n := b.Counters()["in_packets"]; n != 101 {
			t.Fatalf("%s: %d packets arrived; counters %v", c.name, n, nonZero(b.Counters()))
		}
		if allocs != 0 {
			t.Errorf("%s: %v allocations for a packet, expected none", c.name, allocs)
		}
	}
}
