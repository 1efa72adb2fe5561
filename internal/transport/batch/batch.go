// Package batch reads and writes many datagrams with one system call: UDP
// sockets with segmentation offload in both directions, and raw sockets for the
// protocols of IPsec. It does not allocate per packet.
package batch

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Packet is one datagram, received or to be sent.
type Packet struct {
	// Data is the UDP payload. On raw sockets it is a whole IP packet when sent;
	// when received, a whole packet for IPv4 and, unless the socket was opened with
	// Whole, what follows the IP headers for IPv6, as the kernel gives it. An empty
	// one is of a packet whose headers could not be put together.
	Data []byte
	// Local and Remote are the ends; ports are 0 on raw sockets. When sent, an
	// invalid Local leaves the choice of the source to the kernel.
	Local, Remote netip.AddrPort
	// TOS is DSCP and ECN; TTL is the hop limit, and 0 leaves it to the kernel
	// when sent; DF is for sending over IPv4 only. A raw packet carries its own.
	TOS, TTL uint8
	DF       bool
	// Cut tells that the packet is known to be bigger than the path, so that the
	// kernel has to fragment it: it cannot be one segment of many.
	Cut bool
}

// Config describes a socket.
type Config struct {
	Local netip.AddrPort // the unspecified address of the family; port 0 is any
	// Mark is set on every packet (SO_MARK); 0 none.
	Mark uint32
	// ReusePort makes the socket one of a group.
	ReusePort bool
	// GRO asks for coalesced datagrams, GSO lets the kernel split big ones.
	GRO, GSO bool
	// Buffer is the size of the kernel's buffers; 0 its default.
	Buffer int
	// Dedicated gives the reader an operating system thread that waits in the
	// kernel for this socket alone. The runtime's poller would be woken for every
	// packet that arrives, also while the reader is busy.
	Dedicated bool
	// EncapESP leaves ESP in UDP to the kernel's IPsec stack.
	EncapESP bool
	// Whole makes a raw IPv6 socket give whole packets too, header and extension
	// headers put together from what the kernel tells. The flow label is zero, and
	// fragments have become one packet.
	Whole bool
}

// Conn is a socket. Reading is for one goroutine, writing for any.
type Conn struct {
	f   *os.File
	rc  syscall.RawConn
	v6  bool
	raw bool
	// whole is the protocol of a raw IPv6 socket that gives whole packets, else 0.
	whole uint8
	// port is the local port, 0 on raw sockets.
	port uint16
	gro  bool
	gso  atomic.Bool
	mu   sync.Mutex // one writer at a time
	df   bool       // what the socket does at the moment, guarded by mu
	// wake ends the waits of a dedicated socket; -1: the poller does.
	wake   int
	closed atomic.Bool
	wakeMu sync.RWMutex // held for reading while wake is in use
	// Marked tells that SO_MARK was accepted.
	Marked bool
	// Exempt is nil, or why IPsec policies of the kernel hold for this socket, too.
	Exempt error
}

// Port is the local port.
func (c *Conn) Port() uint16 { return c.port }

// GSO tells whether sends use UDP_SEGMENT; it turns false when the kernel
// refuses.
func (c *Conn) GSO() bool { return c.gso.Load() }

// GRO tells whether the kernel coalesces received datagrams.
func (c *Conn) GRO() bool { return c.gro }

// Close ends the reader with os.ErrClosed.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if c.wake < 0 {
		return c.f.Close()
	}
	// One count ends every wait: nobody reads it.
	one := [8]byte{7: 1}
	if _, err := unix.Write(c.wake, one[:]); err != nil {
		return fmt.Errorf("end the reader: %w", err)
	}
	err := c.f.Close()
	c.wakeMu.Lock()
	defer c.wakeMu.Unlock()
	unix.Close(c.wake)
	return err
}

// await waits until fd is ready for events, or the socket is closed: false.
func (c *Conn) await(fd uintptr, events int16) bool {
	c.wakeMu.RLock()
	defer c.wakeMu.RUnlock()
	for !c.closed.Load() {
		p := [2]unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: int32(c.wake), Events: unix.POLLIN}}
		if _, _, e := unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 2, 0, 0, 0, 0); e != 0 && e != unix.EINTR {
			return false
		}
		if p[0].Revents != 0 {
			return true
		}
	}
	return false
}

// DisableGSO makes a socket send every datagram by itself.
func DisableGSO(c *Conn) { c.gso.Store(false) }
