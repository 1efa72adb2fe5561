package sad

import (
	"testing"
	"time"
)

// RFC 3173, Section 3.3: the negotiated numbers are taken from a peer; well-known,
// which do not tell SAs apart, reserved and private ones are not. What is given
// out is negotiated, and nothing twice.
func TestCPI(t *testing.T) {
	for cpi, ok := range map[uint16]bool{0: false, 1: false, 2: false, 3: false, 63: false, 255: false, 256: true, 61439: true, 61440: false, 65535: false} {
		if (CheckCPI(cpi) == nil) != ok {
			t.Errorf("CPI %d: %v", cpi, CheckCPI(cpi))
		}
	}
	var s SPIs
	now := time.Unix(1000, 0)
	seen := map[uint32]bool{}
	for range 20000 {
		n, err := s.AllocCPI(now)
		if err != nil || n < uint32(MinCPI) || n > uint32(MaxCPI) || seen[n] {
			t.Fatalf("CPI %d: %v", n, err)
		}
		seen[n] = true
	}
}
