// Package testnet builds small networks out of Linux network namespaces, for
// tests, for the demonstration and for measurements.
//
// Namespaces are anonymous: they live as long as this process holds their file
// descriptor (or a process runs inside), so that nothing is left behind even if
// the process is killed, and any number of networks exist side by side. No
// program besides this one is needed, except nft for the NAT helper.
//
// It needs CAP_SYS_ADMIN and CAP_NET_ADMIN: be root, or root inside a user
// namespace (EnterUserNS).
package testnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"iked/internal/heartbeat"
)

// Net is a set of namespaces with what runs in them.
type Net struct {
	dir string

	mu         sync.Mutex
	namespaces []*Namespace
	processes  []*Process
	captures   []*Capture
	closed     bool
}

// Open makes an empty network with a temporary directory of its own.
func Open() (*Net, error) {
	dir, err := os.MkdirTemp("", "testnet-")
	if err != nil {
		return nil, fmt.Errorf("testnet: temporary directory: %w", err)
	}
	return &Net{dir: dir}, nil
}

// Dir is a directory for files of this network; Close removes it.
func (n *Net) Dir() string { return n.dir }

// Path is a file below Dir.
func (n *Net) Path(elem ...string) string {
	return filepath.Join(append([]string{n.dir}, elem...)...)
}

// Close stops the processes in the reverse order of their start, ends captures,
// lets go of the namespaces and removes Dir. A second call does nothing.
func (n *Net) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	processes, captures, namespaces := n.processes, n.captures, n.namespaces
	n.mu.Unlock()

	var errs []error
	for i := len(processes) - 1; i >= 0; i-- {
		if err := processes[i].Stop(5 * time.Second); err != nil {
			errs = append(errs, err)
		}
	}
	for _, c := range captures {
		c.Stop()
	}
	for _, ns := range namespaces {
		ns.close()
	}
	errs = append(errs, os.RemoveAll(n.dir))
	return errors.Join(errs...)
}

// Namespace is one network namespace: a host or a router.
type Namespace struct {
	Name string

	net    *Net
	fd     int
	handle *netlink.Handle
}

// Namespace makes a namespace with its loopback interface up. IPv6 addresses in
// it are usable at once: duplicate address detection is off. name is a label for
// messages only.
func (n *Net) Namespace(name string) (*Namespace, error) {
	heartbeat.Start() // captures wait in system calls
	fd := -1
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare(CLONE_NEWNET): %w", err)
		}
		var err error
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("testnet: new namespace %s: %w", name, err)
	}
	ns := &Namespace{Name: name, net: n, fd: fd}
	if ns.handle, err = netlink.NewHandleAt(netns.NsHandle(fd), unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("testnet: namespace %s: netlink: %w", name, err)
	}
	n.mu.Lock()
	n.namespaces = append(n.namespaces, ns)
	n.mu.Unlock()

	// Strict or loose reverse path filtering inherited from the machine would
	// decide about decrypted packets before the daemon under test does.
	for _, kv := range [][2]string{
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv6.conf.all.accept_dad", "0"},
		{"net.ipv6.conf.default.accept_dad", "0"},
		{"net.ipv6.conf.default.router_solicitations", "0"},
	} {
		if err := ns.Sysctl(kv[0], kv[1]); err != nil {
			return nil, err
		}
	}
	return ns, ns.SetLink("lo", true)
}

func (ns *Namespace) close() {
	if ns.fd < 0 {
		return
	}
	ns.handle.Close()
	unix.Close(ns.fd)
	ns.fd = -1
}

// Path names the namespace for programs such as nsenter --net=PATH, as long as
// this process lives.
func (ns *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.fd)
}

// FD is the descriptor that holds the namespace; it stays owned by Net.
func (ns *Namespace) FD() int { return ns.fd }

// Do runs fn on a thread that is inside the namespace. Sockets that fn opens
// stay in the namespace for good; goroutines that fn starts do not run in it.
func (ns *Namespace) Do(fn func() error) error {
	return onThread(func() error {
		if err := ns.enter(); err != nil {
			return err
		}
		return fn()
	})
}

func (ns *Namespace) enter() error {
	if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("testnet: enter namespace %s: %w", ns.Name, err)
	}
	return nil
}
