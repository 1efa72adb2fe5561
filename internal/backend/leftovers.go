package backend

import (
	"sync"
	"time"
)

// Grace is how long traffic that a crashed process protected stays blocked while
// nobody claims it.
const Grace = time.Minute

// Leftovers are what a backend that ended without Close left, while another backend
// carries the traffic: it cannot claim them, so they block until their time is over.
// The methods of nil, which is nothing left, do nothing.
type Leftovers struct {
	once   sync.Once
	stop   chan struct{}
	done   chan struct{}
	remove bool // guarded by stop
	err    error
}

// WatchLeftovers calls step every period until it says that nothing is left. end
// releases what step works with; remove tells it to take away what is left before.
func WatchLeftovers(period time.Duration, step func(now time.Time) (gone bool), end func(remove bool) error) *Leftovers {
	l := &Leftovers{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		t := time.NewTicker(period)
		defer t.Stop()
		for {
			select {
			case <-l.stop:
				l.err = end(l.remove)
				return
			case now := <-t.C:
				if step(now) {
					l.err = end(true)
					return
				}
			}
		}
	}()
	return l
}

// Done is closed when nobody takes care of them any more.
func (l *Leftovers) Done() <-chan struct{} { return l.done }

// Close removes what is left, at the orderly end of a process.
func (l *Leftovers) Close() error { return l.finish(true) }

// Leave leaves it where it is, to block until the next start.
func (l *Leftovers) Leave() error { return l.finish(false) }

func (l *Leftovers) finish(remove bool) error {
	if l == nil {
		return nil
	}
	l.once.Do(func() {
		l.remove = remove
		close(l.stop)
	})
	<-l.done
	return l.err
}
