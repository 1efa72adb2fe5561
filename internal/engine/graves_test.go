package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"iked/ikev2"
)

type fakeStone struct{ destroyed int }

func (f *fakeStone) Answer(d ikev2.Datagram) []ikev2.Datagram { return nil }
func (f *fakeStone) Destroy()                                 { f.destroyed++ }

// The keys of a closed IKE SA that answers repetitions are wiped when its time is over,
// whether or not another SA closes then, when another takes its place, and when the
// daemon ends; each once.
func TestGravesAreWiped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g graves
		var list []*fakeStone
		dig := func(spi ikev2.SPI) {
			f := &fakeStone{}
			list = append(list, f)
			g.dig(spi, stone{Tombstone: f}, time.Now())
		}
		wiped := func(when string, want ...int) {
			t.Helper()
			synctest.Wait() // the timer has run
			g.mu.Lock()
			defer g.mu.Unlock()
			for i, n := range want {
				if list[i].destroyed != n {
					t.Errorf("%s: stone %d is wiped %d times, expected %d", when, i, list[i].destroyed, n)
				}
			}
		}
		dig(1)
		time.Sleep(graveTime / 2)
		dig(2)
		wiped("at once", 0, 0)
		time.Sleep(graveTime/2 + time.Second)
		wiped("the first is over", 1, 0)
		dig(2)
		wiped("another in its place", 1, 1, 0)
		time.Sleep(graveTime + time.Second)
		wiped("all are over", 1, 1, 1)
		if len(g.m)+len(g.order) != 0 {
			t.Errorf("%d and %d are left", len(g.m), len(g.order))
		}
		dig(3)
		g.clear()
		wiped("the daemon ends", 1, 1, 1, 1)
		for i := range ikev2.SPI(maxGraves + 1) {
			dig(10 + i)
		}
		wiped("too many", 1, 1, 1, 1, 1, 0)
		if len(g.m) != maxGraves {
			t.Errorf("%d are kept, expected %d", len(g.m), maxGraves)
		}
		g.clear()
	})
}
