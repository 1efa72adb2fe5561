package datapath

import (
	"time"

	"iked/datapath/ip"
	"iked/datapath/tun"
)

// fragment takes a fragment while a policy names ports or has a mode that protects
// whole packets: only a whole packet can be looked up and protected then (RFC
// 4301, Section 7; RFC 4303, Section 3.3.4). Without such a policy fragments are
// carried as they are.
func (w *outWorker) fragment(frame []byte) {
	d := w.d
	d.slowMu.Lock()
	defer d.slowMu.Unlock()
	pkt := frame[tun.HeaderLen:]
	whole, res := d.frags.Add(pkt[:w.info.TotalLen], &w.info, d.now())
	switch res {
	case ip.Waiting:
	case ip.Complete:
		w.c.n[outWhole].Add(1)
		d.slow.whole = true
		d.slow.safe(append(make([]byte, tun.HeaderLen, tun.HeaderLen+len(whole)), whole...))
		d.slow.flush()
		d.slow.whole = false
	default:
		w.c.n[outFragLost].Add(1)
	}
}

// sweep drops fragments whose rest did not come.
func (d *Datapath) sweep(now time.Time) {
	d.slowMu.Lock()
	defer d.slowMu.Unlock()
	before := d.frags.Expired + d.frags.Evicted
	d.frags.Sweep(now)
	if n := d.frags.Expired + d.frags.Evicted - before; n > 0 {
		d.slow.c.n[outFragLost].Add(n)
	}
}
