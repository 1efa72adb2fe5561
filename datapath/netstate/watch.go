// Package netstate looks at how the kernel handles packets, again and again, and
// at once when something changes: for the parts of the datapath that go past the
// IP stack and must know when they may not.
package netstate

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	period = 500 * time.Millisecond // between two looks
	settle = 20 * time.Millisecond  // least time between two looks
)

// Watch calls a function again and again.
type Watch struct {
	NL   *netlink.Handle // of routes, links and kernel IPsec
	nft  *nftables.Conn  // nil: the kernel has none
	ns   *os.File
	news []*os.File
	wake chan struct{}
	done chan struct{}
	wg   sync.WaitGroup
	once sync.Once
}

// New opens what is needed, in the network namespace of the calling thread.
func New() (*Watch, error) {
	w := &Watch{wake: make(chan struct{}, 1), done: make(chan struct{})}
	var err error
	if w.NL, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_XFRM); err != nil {
		return nil, err
	}
	if w.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		w.NL.Close()
		return nil, err
	}
	news, err := subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		w.NL.Close()
		w.ns.Close()
		return nil, fmt.Errorf("news of routes: %w", err)
	}
	w.news = append(w.news, news)
	// A kernel without it has no firewall of this kind either; should it only be
	// forbidden, the look of every half second finds a firewall.
	if news, err = subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err == nil {
		w.news = append(w.news, news)
	}
	if w.nft, err = nftables.New(nftables.AsLasting()); err != nil {
		w.nft = nil
	}
	return w, nil
}

// Start calls look every half second, and soon after news, which it is told of.
// All calls come from one thread, which is in the namespace of New.
func (w *Watch) Start(look func(now time.Time, news bool)) {
	for _, f := range w.news {
		w.wg.Go(func() { w.listen(f) })
	}
	w.wg.Go(func() { w.run(look); w.hush() })
}

// Wake makes the next look come soon. It never waits.
func (w *Watch) Wake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Close ends the looking and waits for its end.
func (w *Watch) Close() {
	w.once.Do(func() {
		close(w.done)
		w.wg.Wait()
		w.NL.Close()
		w.ns.Close()
		w.hush() // once more, if Start never was
		if w.nft != nil {
			w.nft.CloseLasting()
		}
	})
}

// hush ends the news; it may be called again.
func (w *Watch) hush() {
	for _, f := range w.news {
		f.Close()
	}
}

// subscribe opens a socket that tells of the changes that groups are about.
func subscribe(protocol int, groups ...int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	var mask uint32
	for _, g := range groups {
		mask |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: mask}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// listen wakes the look at every piece of news. What it says does not matter,
// and neither does what was lost.
func (w *Watch) listen(news *os.File) {
	buf := make([]byte, 1<<16)
	for {
		if _, err := news.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		w.Wake()
	}
}

func (w *Watch) run(look func(time.Time, bool)) {
	// Files in /proc belong to the namespace of the thread that opens them, and so
	// do interfaces that are named by their index. The thread ends with this
	// function, as it stays locked.
	runtime.LockOSThread()
	if err := enter(w.ns); err != nil {
		return // nothing goes past the stack
	}
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		news := false
		select {
		case <-w.done:
			return
		case <-t.C:
		case <-w.wake:
			news = true
		}
		look(time.Now(), news)
		if news {
			select {
			case <-w.done:
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
