package datapath

import (
	"testing"
	"time"
)

// RFC 4301, Section 6, and RFC 4443, Section 2.4: ICMP errors are limited, to a
// burst and a rate.
func TestICMPErrorsAreLimited(t *testing.T) {
	var b tokens
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	take := func(at int64, tries int) (n int) {
		for range tries {
			if b.take(at) {
				n++
			}
		}
		return n
	}
	if n := take(now, 1000); n != icmpBurst {
		t.Errorf("%d at once, expected %d", n, icmpBurst)
	}
	sent := 0
	for i := range int64(1000) {
		sent += take(now+(i+1)*int64(time.Millisecond), 10)
	}
	if sent < icmpPerSecond-1 || sent > icmpPerSecond+1 {
		t.Errorf("%d in the second after, expected %d", sent, icmpPerSecond)
	}
	if n := take(now+int64(time.Hour), 1000); n != icmpBurst {
		t.Errorf("%d at once after an hour, expected %d", n, icmpBurst)
	}
}
