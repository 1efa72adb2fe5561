// The race detector empties sync.Pool at random, so allocations are counted
// without it only.

//go:build !race

package aead

import "testing"

// Neither Seal nor Open allocates in steady state, whatever the algorithm.
func TestNoAllocation(t *testing.T) {
	for _, p := range pairs() {
		c := mustNew(t, p)
		for _, esn := range []bool{false, true} {
			var w Scratch
			b := packet(c, 8, 1408)
			var failed error
			n := testing.AllocsPerRun(50, func() {
				c.Seal(&w, b, 8, 3, esn)
				if _, err := c.Open(&w, b, 8, 3, esn); err != nil {
					failed = err
				}
			})
			if n != 0 || failed != nil {
				t.Errorf("%v, ESN %v: %v allocations, error %v", p, esn, n, failed)
			}
		}
	}
}
