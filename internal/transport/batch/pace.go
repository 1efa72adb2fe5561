package batch

import (
	"time"

	"golang.org/x/sys/unix"
)

// Pace makes a reader rest while packets come fast but one by one, so that more
// of them are read, opened and handed on together: what a network card does with
// its interrupts. A socket with little traffic is read at once.
type Pace struct {
	start time.Time // of the window in which packets are counted
	count int
	last  int // packets of the last read
	busy  bool
}

const (
	paceWindow = time.Millisecond
	paceBusy   = 16 // packets in a window from which on traffic is fast
	paceBatch  = 48 // a read of that many was worth it
	paceRest   = 60 * time.Microsecond
)

// Read tells of n packets that were read.
func (p *Pace) Read(n int, now time.Time) {
	p.last = n
	p.count += n
	if d := now.Sub(p.start); d >= paceWindow {
		p.busy = d <= time.Duration(p.count)*paceWindow/paceBusy
		p.start, p.count = now, 0
	}
}

// Full tells that the last read does not ask for a rest.
func (p *Pace) Full() bool { return !p.busy || p.last >= paceBatch }

// Woken tells, when a packet arrived after the socket was empty, whether to read
// at once; after a pause the traffic counts as slow.
func (p *Pace) Woken(now time.Time) bool {
	if now.Sub(p.start) >= 4*paceWindow {
		p.busy = false
	}
	return !p.busy
}

// Rest waits for the time of a rest.
func Rest() {
	t := unix.NsecToTimespec(int64(paceRest))
	// Woken early is as good.
	_ = unix.Nanosleep(&t, nil)
}
