// Package shortcut finds out where a packet of the daemon would leave the host,
// so that it can be handed to that interface without a route look-up for each.
//
// There is a shortcut only where the IP stack would do nothing else with the
// packet: a plain route over an Ethernet interface, a neighbour whose address is
// known, no firewall on the way out, no transformation. Everything else, and
// everything that is not known yet, goes through the stack. The first batch
// after each look goes through the stack too, so that the kernel goes on to
// check the neighbour and to learn path MTUs.
package shortcut

import (
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"iked/datapath/netstate"
	"iked/internal/transport/batch"
)

// Way is a shortcut from one address to another.
type Way struct {
	Hop batch.Hop
	MTU int
	// warm is set once a batch went through the stack.
	warm atomic.Bool
}

// Ready tells whether packets may take the shortcut; the first time they may
// not.
func (w *Way) Ready() bool { return w.warm.Load() || w.warm.Swap(true) }

// Options of New.
type Options struct {
	Mark uint32 // of the packets
	// PathMTU asks for the MTU of the way to a peer.
	PathMTU func(dst netip.Addr) (int, error)
}

// Shortcut looks for ways. Find is for the packets' path, all is safe for
// concurrent use.
type Shortcut struct {
	opt   Options
	ways  atomic.Pointer[map[pair]*Way] // nil values: none
	mu    sync.Mutex
	asked map[pair]time.Time // guarded by mu
	watch *netstate.Watch
}

type pair struct{ src, dst netip.Addr }

const (
	idle    = 10 * time.Second // ways that nobody asked for are dropped
	maxWays = 1024
)

// New starts to look, in the network namespace of the calling thread.
func New(o Options) (*Shortcut, error) {
	w, err := netstate.New()
	if err != nil {
		return nil, fmt.Errorf("shortcuts of packets: %w", err)
	}
	s := &Shortcut{opt: o, asked: map[pair]time.Time{}, watch: w}
	s.ways.Store(&map[pair]*Way{})
	w.Start(s.look)
	return s, nil
}

// Find gives the way from src to dst, or nil; it never waits.
func (s *Shortcut) Find(src, dst netip.Addr) *Way {
	p := pair{src, dst}
	if w, known := (*s.ways.Load())[p]; known {
		return w
	}
	s.ask(p)
	return nil
}

func (s *Shortcut) ask(p pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.asked[p]; !there && len(s.asked) < maxWays {
		s.asked[p] = time.Time{}
	}
}

// Forget drops all ways, because one did not work.
func (s *Shortcut) Forget() {
	s.ways.Store(&map[pair]*Way{})
	s.watch.Wake()
}

// Close ends the looking.
func (s *Shortcut) Close() { s.watch.Close() }

// look finds the ways of all pairs again. One that is the same stays warm when
// only news made us look: else each batch of news would send packets through the
// stack, whose neighbour states are news again.
func (s *Shortcut) look(now time.Time, news bool) {
	old := *s.ways.Load()
	s.mu.Lock()
	for p, at := range s.asked {
		w := old[p]
		switch {
		case at.IsZero() || w != nil && w.warm.Load():
			s.asked[p] = now
		case now.Sub(at) > idle:
			delete(s.asked, p)
		}
	}
	asked := maps.Clone(s.asked)
	s.mu.Unlock()
	ways := make(map[pair]*Way, len(asked))
	if len(asked) > 0 && s.watch.Untouched(netstate.Out, "") {
		hoods := map[hood][]netlink.Neigh{}
		for p := range asked {
			w := s.find(p, hoods)
			if prev := old[p]; w != nil && prev != nil && news && w.Hop == prev.Hop && w.MTU == prev.MTU {
				w = prev
			}
			ways[p] = w
		}
	}
	s.ways.Store(&ways)
}
