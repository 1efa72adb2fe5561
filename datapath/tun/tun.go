// Package tun is the clear side of the datapath: a TUN device with several
// queues whose packets carry virtio-net headers, so that one read or write moves
// up to 64 KiB of one TCP or UDP flow. Splitter cuts what was read into packets,
// Coalescer joins what is written.
package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrAgain: no packet waits.
var ErrAgain = errors.New("no packet waits")

// Device is a TUN device or what stands for one.
type Device interface {
	Name() string
	MTU() int
	Queues() []Queue
	Close() error
}

// Queue is one queue of a device. Reading is for one goroutine, writing for any.
type Queue interface {
	// Read reads one frame, a virtio-net header and a packet, into buf, which
	// has MaxFrame octets. Without wait it returns ErrAgain instead of waiting.
	// After Close it returns os.ErrClosed.
	Read(buf []byte, wait bool) (int, error)
	// Write writes one frame that lies in pieces, the header first.
	Write(pieces [][]byte) error
}

// MaxFrame is the length of the largest frame.
const MaxFrame = HeaderLen + 65535

// Options of Open.
type Options struct {
	Name   string // may be a pattern such as "ipsec%d"
	Queues int
	MTU    int
}

// Linux is a device of the kernel.
type Linux struct {
	name   string
	mtu    int
	queues []Queue
	// Offloads says what the kernel accepted: "tso", "uso" or nothing.
	Offloads string
}

// Open makes the device; it vanishes with Close or with the process. It has no
// address and is down. A device of this name that another process holds is an
// error.
func Open(o Options) (*Linux, error) {
	d := &Linux{name: o.Name, mtu: o.MTU}
	for i := range max(o.Queues, 1) {
		if err := d.openQueue(i); err != nil {
			d.Close()
			return nil, err
		}
	}
	return d, nil
}

func (d *Linux) openQueue(i int) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(d.name)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("device name %q: %w", d.name, err)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
	if i == 0 {
		flags |= unix.IFF_TUN_EXCL
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return fmt.Errorf("make TUN device %s, queue %d: %w", d.name, i, err)
	}
	d.name = ifr.Name()
	// Segmentation of TCP and UDP by us: UDP since Linux 6.2.
	const csumTSO = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	switch {
	case ioctl(fd, unix.TUNSETOFFLOAD, csumTSO|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil:
		d.Offloads = "tso uso"
	case ioctl(fd, unix.TUNSETOFFLOAD, csumTSO) == nil:
		d.Offloads = "tso"
	}
	f := os.NewFile(uintptr(fd), "/dev/net/tun")
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return fmt.Errorf("TUN device %s: %w", d.name, err)
	}
	q := &queue{f: f, rc: rc}
	q.readCall, q.writeCall = q.doRead, q.doWrite
	d.queues = append(d.queues, q)
	return nil
}

func ioctl(fd int, req uint, arg uintptr) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), arg); e != 0 {
		return e
	}
	return nil
}

// Name is the name of the device.
func (d *Linux) Name() string { return d.name }

// MTU is the largest packet that the device was opened for.
func (d *Linux) MTU() int { return d.mtu }

// Queues are the queues of the device.
func (d *Linux) Queues() []Queue { return d.queues }

// Close removes the device and ends reads.
func (d *Linux) Close() error {
	var errs []error
	for _, q := range d.queues {
		errs = append(errs, q.(*queue).f.Close())
	}
	return errors.Join(errs...)
}

type queue struct {
	f  *os.File
	rc syscall.RawConn

	rbuf     []byte
	rwait    bool
	rn       int
	rerr     unix.Errno
	readCall func(uintptr) bool

	mu        sync.Mutex // of writers
	iov       []unix.Iovec
	werr      unix.Errno
	writeCall func(uintptr) bool
}

func (q *queue) doRead(fd uintptr) bool {
	for {
		// The device never waits: its descriptor is in non-blocking mode.
		n, _, e := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&q.rbuf[0])), uintptr(len(q.rbuf)))
		if e == unix.EINTR {
			continue
		}
		q.rn, q.rerr = int(n), e
		return e != unix.EAGAIN || !q.rwait
	}
}

// Read implements Queue.
func (q *queue) Read(buf []byte, wait bool) (int, error) {
	q.rbuf, q.rwait = buf, wait
	if err := q.rc.Read(q.readCall); err != nil {
		return 0, os.ErrClosed
	}
	switch q.rerr {
	case 0:
		return q.rn, nil
	case unix.EAGAIN:
		return 0, ErrAgain
	}
	return 0, q.rerr
}

func (q *queue) doWrite(fd uintptr) bool {
	for {
		_, _, e := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&q.iov[0])), uintptr(len(q.iov)))
		if e == unix.EINTR {
			continue
		}
		q.werr = e
		return e != unix.EAGAIN
	}
}

// Write implements Queue.
func (q *queue) Write(pieces [][]byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.iov = q.iov[:0]
	for _, p := range pieces {
		if len(p) == 0 {
			continue
		}
		v := unix.Iovec{Base: &p[0]}
		v.SetLen(len(p))
		q.iov = append(q.iov, v)
	}
	err := q.rc.Write(q.writeCall)
	clear(q.iov)
	if err != nil {
		return os.ErrClosed
	}
	if q.werr != 0 {
		return q.werr
	}
	return nil
}
