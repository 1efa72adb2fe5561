package engine

import (
	"sync"
)

// workers run slow computation for the shards. The queue is bounded by what the
// IKE SAs may ask for at a time; the gate stops letting strangers in when it
// grows (overloaded).
type workers struct {
	mu     sync.Mutex
	cond   *sync.Cond
	queue  []func()
	closed bool
	wg     sync.WaitGroup
	high   int
}

// backlogPerWorker is how many jobs may wait for each worker before new peers
// are turned away.
const backlogPerWorker = 256

func newWorkers(e *Engine, n int) *workers {
	w := &workers{high: n * backlogPerWorker}
	w.cond = sync.NewCond(&w.mu)
	w.wg.Add(n)
	for range n {
		go w.run()
	}
	return w
}

func (w *workers) run() {
	defer w.wg.Done()
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && !w.closed {
			w.cond.Wait()
		}
		if w.closed {
			w.mu.Unlock()
			return
		}
		job := w.queue[0]
		w.queue[0] = nil
		w.queue = w.queue[1:]
		w.mu.Unlock()
		job()
	}
}

// submit queues a job; after close it is dropped, since nobody waits any more.
// The job must contain its own panics.
func (w *workers) submit(job func()) {
	w.mu.Lock()
	if !w.closed {
		w.queue = append(w.queue, job)
	}
	w.mu.Unlock()
	w.cond.Signal()
}

func (w *workers) overloaded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue) >= w.high
}

func (w *workers) close() {
	w.mu.Lock()
	w.closed = true
	w.queue = nil
	w.mu.Unlock()
	w.cond.Broadcast()
	w.wg.Wait()
}
