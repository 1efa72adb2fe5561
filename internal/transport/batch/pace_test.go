package batch

import (
	"testing"
	"time"
)

// Few packets are read at once, many that come one by one after a rest, full
// batches at once, and after a pause everything begins anew.
func TestPace(t *testing.T) {
	now := time.Unix(1000, 0)
	var p Pace
	each := func(n int, every time.Duration) {
		for range 100 {
			now = now.Add(every)
			p.Read(n, now)
		}
	}
	each(1, time.Millisecond)
	if !p.Full() || !p.Woken(now) {
		t.Error("1,000 packets in a second make the reader rest")
	}
	each(1, 20*time.Microsecond)
	if p.Full() || p.Woken(now) {
		t.Error("50,000 packets in a second, one by one, do not make the reader rest")
	}
	each(paceBatch, time.Millisecond)
	if !p.Full() {
		t.Error("full batches make the reader rest")
	}
	if now = now.Add(time.Second); !p.Woken(now) || !p.Full() {
		t.Error("the reader rests after a pause")
	}
}

// The first packet ever is read at once.
func TestPaceBegins(t *testing.T) {
	var p Pace
	now := time.Unix(1000, 0)
	if !p.Full() || !p.Woken(now) {
		t.Error("the reader rests before anything was read")
	}
	p.Read(1, now)
	if !p.Full() {
		t.Error("the reader rests after one packet")
	}
}
