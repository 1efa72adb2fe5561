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
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
	nl    *netlink.Handle
	nft   *nftables.Conn // nil: the kernel has none
	ns    *os.File
	wake  chan struct{}
	done  chan struct{}
	wg    sync.WaitGroup
	once  sync.Once
}

type pair struct{ src, dst netip.Addr }

const (
	period  = 500 * time.Millisecond // between two looks
	settle  = 20 * time.Millisecond  // least time between two looks
	idle    = 10 * time.Second       // ways that nobody asked for are dropped
	maxWays = 1024
)

// New starts to look, in the network namespace of the calling thread.
func New(o Options) (*Shortcut, error) {
	s := &Shortcut{opt: o, asked: map[pair]time.Time{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.ways.Store(&map[pair]*Way{})
	var err error
	if s.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_XFRM); err != nil {
		return nil, fmt.Errorf("shortcuts of packets: %w", err)
	}
	if s.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		s.nl.Close()
		return nil, fmt.Errorf("shortcuts of packets: %w", err)
	}
	news, err := subscribe()
	if err != nil {
		s.nl.Close()
		s.ns.Close()
		return nil, fmt.Errorf("shortcuts of packets: news of routes: %w", err)
	}
	if s.nft, err = nftables.New(nftables.AsLasting()); err != nil {
		s.nft = nil
	}
	s.wg.Go(func() { s.listen(news) })
	s.wg.Go(func() { s.run(); news.Close() })
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
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close ends the looking.
func (s *Shortcut) Close() {
	s.once.Do(func() {
		close(s.done)
		s.wg.Wait()
		s.nl.Close()
		s.ns.Close()
		if s.nft != nil {
			s.nft.CloseLasting()
		}
	})
}

// subscribe opens a socket that tells of changes of links, neighbours, addresses,
// routes and rules.
func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	var groups uint32
	for _, g := range []int{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE} {
		groups |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// listen wakes the look at every piece of news. What it says does not matter,
// and neither does what was lost.
func (s *Shortcut) listen(news *os.File) {
	buf := make([]byte, 1<<16)
	for {
		if _, err := news.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *Shortcut) run() {
	// Files in /proc belong to the namespace of the thread that opens them. The
	// thread ends with this function, as it stays locked.
	runtime.LockOSThread()
	if err := enter(s.ns); err != nil {
		return // no shortcuts
	}
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		news := false
		select {
		case <-s.done:
			return
		case <-t.C:
		case <-s.wake:
			news = true
		}
		s.look(time.Now(), news)
		if news {
			select {
			case <-s.done:
				return
			case <-time.After(settle):
			}
		}
	}
}

// enter makes ns the network namespace of this thread.
func enter(ns *os.File) error {
	var want, have unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &want); err != nil {
		return err
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &have); err != nil {
		return err
	}
	if want.Ino == have.Ino && want.Dev == have.Dev {
		return nil
	}
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}

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
	if len(asked) > 0 && s.untouched() {
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
