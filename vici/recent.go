package vici

import (
	"sync"

	"iked/internal/trace"
)

// recentRecords is how many records the daemon keeps for `ikectl log`.
const recentRecords = 512

// recent is a ring of the last records.
type recent struct {
	mu   sync.Mutex
	ring [recentRecords]trace.Record
	n    uint64
}

func (r *recent) add(rec trace.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring[r.n%recentRecords] = rec
	r.n++
}

// all returns the records, oldest first.
func (r *recent) all() []trace.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := min(r.n, recentRecords)
	out := make([]trace.Record, 0, have)
	for i := r.n - have; i < r.n; i++ {
		out = append(out, r.ring[i%recentRecords])
	}
	return out
}
