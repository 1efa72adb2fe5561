package batch

import (
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reader reads batches from one socket.
type Reader struct {
	c       *Conn
	bare    bool // the packets tell their addresses and TOS themselves
	hdrs    []mmsghdr
	iovs    []unix.Iovec
	bufs    [][]byte
	names   [][sockaddrSize]byte
	oobs    [][]byte
	room    int // free octets before a packet, for headers
	packets []Packet

	pace  Pace // of a dedicated socket
	n     int  // result of the last call
	errno unix.Errno
	call  func(fd uintptr) bool
}

// NewReader makes a reader of up to n datagrams of up to size octets per call;
// coalesced datagrams count once.
func NewReader(c *Conn, n, size int) *Reader {
	r := &Reader{c: c,
		hdrs: make([]mmsghdr, n), iovs: make([]unix.Iovec, n), bufs: make([][]byte, n),
		names: make([][sockaddrSize]byte, n), oobs: make([][]byte, n),
		packets: make([]Packet, 0, n),
	}
	r.bare = c.raw && !c.v6
	if c.gro {
		r.packets = make([]Packet, 0, n*64)
	}
	oob := oobSize
	if c.whole != 0 {
		r.room, oob = wholeRoom, wholeOOB
	}
	for i := range r.hdrs {
		r.bufs[i] = make([]byte, r.room+size)
		r.oobs[i] = make([]byte, oob)
		r.iovs[i].Base = &r.bufs[i][r.room]
		r.iovs[i].SetLen(size)
		h := &r.hdrs[i].hdr
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		if !r.bare {
			h.Name, h.Control = &r.names[i][0], &r.oobs[i][0]
		}
	}
	r.call = r.recv
	return r
}

func (r *Reader) recv(fd uintptr) bool {
	for i := range r.hdrs {
		h := &r.hdrs[i].hdr
		h.Flags = 0
		if !r.bare {
			h.Namelen = sockaddrSize
			h.SetControllen(len(r.oobs[i]))
		}
	}
	if r.c.wake >= 0 && !r.pace.Full() {
		Rest()
	}
	for {
		// It never waits. Telling the scheduler of it would cost more than it does.
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs[0])), uintptr(len(r.hdrs)), unix.MSG_DONTWAIT, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e == unix.EAGAIN && r.c.wake >= 0 {
			if r.c.await(fd, unix.POLLIN) {
				if !r.pace.Woken(time.Now()) {
					Rest()
				}
				continue
			}
			e = unix.ECANCELED
		}
		r.n, r.errno = int(n), e
		return e != unix.EAGAIN
	}
}

// Read waits for datagrams. They and their buffers are valid until the next
// call. An error is os.ErrClosed or an errno that the socket reported; the
// socket remains usable after the latter.
func (r *Reader) Read() ([]Packet, error) {
	if err := r.c.rc.Read(r.call); err != nil || r.errno == unix.ECANCELED {
		return nil, os.ErrClosed
	}
	if r.errno != 0 {
		return nil, r.errno
	}
	r.packets = r.packets[:0]
	for i := range r.hdrs[:r.n] {
		h := &r.hdrs[i]
		if h.hdr.Flags&unix.MSG_TRUNC != 0 {
			continue
		}
		data := r.bufs[i][r.room : r.room+int(h.n)]
		if r.bare {
			if len(data) >= sizeIPv4 {
				r.packets = append(r.packets, bare(data))
			}
			continue
		}
		ctl := parseControl(r.oobs[i][:h.hdr.Controllen])
		p := Packet{
			Local:  netip.AddrPortFrom(ctl.local, r.c.port),
			Remote: sockaddr(r.names[i][:]),
			TOS:    ctl.tos,
			TTL:    ctl.ttl,
		}
		for ctl.segment > 0 && len(data) > ctl.segment {
			p.Data = data[:ctl.segment:ctl.segment]
			r.packets = append(r.packets, p)
			data = data[ctl.segment:]
		}
		p.Data = data
		if r.c.whole != 0 {
			p.Data = nil
			if h.hdr.Flags&unix.MSG_CTRUNC == 0 {
				p.Data = whole6(r.bufs[i][:r.room+int(h.n)], r.room, r.oobs[i][:h.hdr.Controllen], &ctl, p.Remote.Addr(), r.c.whole)
			}
		}
		r.packets = append(r.packets, p)
	}
	if r.c.wake >= 0 {
		r.pace.Read(len(r.packets), time.Now())
	}
	return r.packets, nil
}

// sizeIPv4 is the length of a header without options.
const sizeIPv4 = 20

// bare describes an IPv4 packet by its header alone.
func bare(b []byte) Packet {
	return Packet{
		Data:   b,
		Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0),
		Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0),
		TOS:    b[1],
		TTL:    b[8],
	}
}
