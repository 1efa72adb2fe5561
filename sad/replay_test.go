package sad

import (
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// RFC 4303, Appendix A2: the high half of a number follows from the window.
func TestInference(t *testing.T) {
	for _, c := range []struct {
		th, tl, w, low uint32
		high           uint32
		v              Verdict
	}{
		{0, 10, 64, 0xfffffff0, 0, Invalid},         // before the first packet
		{5, 10, 64, 0xfffffff0, 4, Fresh},           // case B, the subspace before
		{5, 10, 64, 11, 5, Fresh},                   // case B, this one
		{5, 0xfffffff0, 64, 3, 6, Fresh},            // case A, the next subspace
		{5, 0xfffffff0, 64, 0xffffffb1, 5, Fresh},   // bottom of the window
		{5, 0xfffffff0, 64, 0xffffffb0, 6, Fresh},   // below it: next subspace, and the ICV fails
		{0, 0, 64, 0, 0, Invalid},                   // number 0 is never sent
		{0, 0, 64, 1, 0, Fresh},                     // the first packet
		{0, 63, 64, 1, 0, Fresh},                    // Tl = W-1: case A, bottom is 0
		{0, 62, 64, 0xffffffff, 0, Invalid},         // case B at the start
		{1, 62, 64, 0xffffffff, 0, Fresh},           // case B reaches into subspace 0
		{0xffffffff, 0xfffffff0, 64, 3, 0, Invalid}, // the numbers are used up
		{5, 0, 4096, 0xfffff001, 4, Fresh},          // bottom with the largest window
		{5, 0, 4096, 0xfffff000, 5, Fresh},          // below it
	} {
		var r Replay
		r.Init(c.w, true)
		r.top = uint64(c.th)<<32 | uint64(c.tl)
		seq, v := r.Check(c.low)
		if v != c.v || v == Fresh && seq != uint64(c.high)<<32|uint64(c.low) {
			t.Errorf("T %d:%#x, W %d, low %#x: number %#x, verdict %d, expected high half %d, verdict %d", c.th, c.tl, c.w, c.low, seq, v, c.high, c.v)
		}
	}
}

// A failed ICV changes nothing: Check alone never moves the window.
func TestCheckChangesNothing(t *testing.T) {
	var r Replay
	r.Init(64, true)
	for range 3 {
		if _, v := r.Check(1 << 31); v != Fresh || r.Top() != 0 {
			t.Fatalf("verdict %d, top %d: a packet that was not authenticated counted", v, r.Top())
		}
	}
}

// The window accepts exactly what a list of all received numbers would, for all
// sizes, with 32-bit and extended numbers, jumps included.
func TestWindowAgreesWithList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.SampledFrom([]uint32{32, 33, 63, 64, 65, 128, 1000, 4096}).Draw(t, "window")
		esn := rapid.Bool().Draw(t, "esn")
		var r Replay
		r.Init(w, esn)
		seen := map[uint64]bool{}
		top := uint64(0)
		if esn {
			top = rapid.SampledFrom([]uint64{0, 5, 1<<32 - 10, 1<<32 + 10, 7<<32 - 1}).Draw(t, "start")
			if top > 0 {
				r.Update(top)
				seen[top] = true
			}
		}
		for range 300 {
			d := rapid.OneOf(rapid.Int64Range(-80, 20), rapid.Int64Range(-5000, 5000), rapid.Int64Range(-200, 1<<20)).Draw(t, "step")
			seq := top + uint64(d)
			if d <= 0 && uint64(-d) >= top {
				seq = 1
			}
			if !esn && seq >= 1<<32 {
				continue
			}
			old := seq+uint64(w) <= top
			got, v := r.Check(uint32(seq))
			if old && esn {
				// Outside of the window another number is inferred; the ICV fails.
				if v == Fresh && got == seq {
					t.Fatalf("number %d behind the window of %d at %d is taken", seq, w, top)
				}
				continue
			}
			want := Fresh
			switch {
			case old:
				want = Old
			case seen[seq]:
				want = Duplicate
			}
			if v != want || got != seq {
				t.Fatalf("W %d, top %d, number %d: verdict %d of %d, expected %d", w, top, seq, v, got, want)
			}
			u, newest := r.Update(seq)
			if u != want || newest != (seq > top) {
				t.Fatalf("update of %d at %d: %d, newest %v, expected %d", seq, top, u, newest, want)
			}
			seen[seq] = true
			top = max(top, seq)
			if r.Top() != top {
				t.Fatalf("top %d, expected %d", r.Top(), top)
			}
		}
	})
}

// Sizes are brought into the limits; 0 switches the check off but still infers.
func TestWindowSizes(t *testing.T) {
	for in, want := range map[uint32]uint64{1: 32, 32: 32, 4096: 4096, 5000: 4096, 0: 0} {
		var r Replay
		if r.Init(in, false); r.window != want {
			t.Errorf("window %d is %d, expected %d", in, r.window, want)
		}
	}
	var r Replay
	r.Init(0, true)
	r.Update(5<<32 + 100)
	for range 2 {
		seq, v := r.Check(50)
		if u, newest := r.Update(seq); v != Fresh || u != Fresh || seq != 5<<32+50 || newest {
			t.Errorf("no check: number %#x, verdicts %d %d, newest %v", seq, v, u, newest)
		}
	}
}

// Several workers share an SA: of all copies of a packet one passes.
func TestConcurrentUpdate(t *testing.T) {
	var r Replay
	r.Init(4096, true)
	var wg sync.WaitGroup
	var passed [4][4001]bool
	for w := range 4 {
		wg.Go(func() {
			for s := uint64(1); s <= 4000; s++ {
				if seq, v := r.Check(uint32(s)); v == Fresh {
					u, _ := r.Update(seq)
					passed[w][s] = u == Fresh
				}
			}
		})
	}
	wg.Wait()
	for s := 1; s <= 4000; s++ {
		n := 0
		for w := range passed {
			if passed[w][s] {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("packet %d passed %d times", s, n)
		}
	}
}

func BenchmarkReplay(b *testing.B) {
	var r Replay
	r.Init(1024, true)
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		seq, _ := r.Check(uint32(i))
		r.Update(seq)
	}
}
