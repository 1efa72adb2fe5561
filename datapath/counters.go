package datapath

import (
	"sync/atomic"

	"iked/datapath/esp"
	"iked/datapath/ip"
)

// count is the index of one counter. The drops of esp and the faults of ip
// follow behind, so that no reason is without a counter.
type count int

// Counters of the datapath itself.
const (
	outPackets count = iota
	outBytes
	inPackets
	inBytes
	outDiscard   // the policy says so
	outNoPolicy  // no policy matches: RFC 4301 discards
	outNoSA      // protected, but nothing to protect it with
	outHeld      // kept until there is an SA
	outHeldLost  // kept in vain
	outBypass    // sent in clear as the policy says
	outFailOpen  // sent in clear for want of an SA
	outTooBig    // answered by ICMP
	outFragments // packets cut before or behind ESP
	outWhole     // fragments put together, for policies with ports
	outFragLost  // fragments that never became a packet
	outOffload   // frame with impossible segmentation
	outOversize  // longer than the device's MTU
	outSendError
	outLinked // of the packets sent, those that took a shortcut beside the IP stack
	inNoSA    // no SA for the SPI
	inBundle  // came through other SAs than the policy demands
	inNested  // came through more SAs than any policy can demand
	inRunt
	inWriteError
	icmpSent
	eventsLost
	panics
	deviceErrors
	numCounts
)

var countNames = [numCounts]string{
	"out_packets", "out_bytes", "in_packets", "in_bytes", "out_discard", "out_no_policy", "out_no_sa", "out_held",
	"out_held_lost", "out_bypass", "out_fail_open", "out_too_big", "out_fragmented", "out_reassembled", "out_fragment_lost", "out_bad_offload", "out_oversize",
	"out_send_error", "out_linked", "in_no_sa", "in_bundle", "in_nested", "in_runt", "in_write_error", "icmp_sent", "events_lost", "panics", "device_errors",
}

// counters are those of one worker; only it writes, anybody reads.
type counters struct {
	_       [64]byte
	n       [numCounts]atomic.Uint64
	inDrop  [esp.NumDrops]atomic.Uint64
	outDrop [esp.NumDrops]atomic.Uint64
	fault   [32]atomic.Uint64 // ip.Fault of what the device gave
	_       [64]byte
}

func (d *Datapath) newCounters() *counters {
	c := &counters{}
	d.mu.Lock()
	d.counters = append(d.counters, c)
	d.mu.Unlock()
	return c
}

// Counters implements backend.Backend: traffic totals and drops by reason; a
// name that begins with in_drop_ or out_drop_ is what ESP says.
func (d *Datapath) Counters() map[string]uint64 {
	d.mu.Lock()
	all := d.counters
	d.mu.Unlock()
	m := make(map[string]uint64, 96)
	for _, c := range all {
		for i := range c.n {
			m[countNames[i]] += c.n[i].Load()
		}
		for i := 1; i < esp.NumDrops; i++ {
			m["in_drop_"+esp.Drop(i).String()] += c.inDrop[i].Load()
			m["out_drop_"+esp.Drop(i).String()] += c.outDrop[i].Load()
		}
		for _, f := range ip.Faults() {
			m["out_invalid_"+f.String()] += c.fault[f].Load()
		}
	}
	if t, ok := d.io.Raw.(taker); ok {
		m["in_ring"], m["in_ring_lost"] = t.Ring()
	}
	if r, ok := d.io.Router.(*guarded); ok {
		if n, err := r.guard.Dropped(); err == nil {
			m["in_drop_clear_text"] = n
		}
		if n, err := r.guard.DroppedGroups(); err == nil {
			m["out_drop_clear_group"] = n
		}
	}
	return m
}
