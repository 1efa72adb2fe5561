package backendtest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"iked/internal/backend"
)

// recorder keeps the events of a backend.
type recorder struct {
	mu   sync.Mutex
	list []backend.Event
	more chan struct{}
}

func record(b backend.Backend) *recorder {
	r := &recorder{more: make(chan struct{}, 1)}
	go func() {
		for e := range b.Events() {
			r.mu.Lock()
			r.list = append(r.list, e)
			r.mu.Unlock()
			select {
			case r.more <- struct{}{}:
			default:
			}
		}
	}()
	return r
}

// forget drops what came so far.
func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = nil
}

// all are the events so far.
func (r *recorder) all() []backend.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]backend.Event(nil), r.list...)
}

// waitEvent waits for the first event of its type that fits, and takes away what
// came before it.
func waitEvent[E backend.Event](t *testing.T, r *recorder, what string, fits func(E) bool, within time.Duration) (e E) {
	t.Helper()
	deadline := time.After(within)
	for {
		r.mu.Lock()
		for i, x := range r.list {
			if y, ok := x.(E); ok && fits(y) {
				r.list = r.list[i+1:]
				r.mu.Unlock()
				return y
			}
		}
		seen := fmt.Sprintf("%+v", r.list)
		r.mu.Unlock()
		select {
		case <-r.more:
		case <-deadline:
			t.Fatalf("no event within %v: %s; there were %s", within, what, seen)
		}
	}
}
