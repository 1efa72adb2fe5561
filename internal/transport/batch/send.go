package batch

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits of one message with UDP_SEGMENT: the kernel's UDP_MAX_SEGMENTS of
// older releases, and the largest UDP payload.
const (
	maxSegments = 64
	maxGSO      = 65000
	maxMessages = 128
)

// Result tells what became of a batch. The zero value: all sent.
type Result struct {
	Failed int // packets that were not sent
	// TooBig tells that one was larger than the path MTU that the kernel knows.
	TooBig bool
	Err    error // the last errno; os.ErrClosed
	// Linked is how many went to the link layer without the IP stack.
	Linked int
}

// Hop is where packets leave to: an interface and the link layer address of the
// neighbour.
type Hop struct {
	Index int
	Addr  [6]byte
}

// Writer holds the memory for sending batches. It is for one goroutine; several
// writers may share a socket.
type Writer struct {
	hdrs  [maxMessages]mmsghdr
	iovs  []unix.Iovec
	names [maxMessages][sockaddrSize]byte
	oobs  [maxMessages][oobSize]byte
	count [maxMessages]int // packets in each message

	c     *Conn
	hop   *Hop // on a link socket
	from  int  // first message of the next call
	n     int  // number of messages
	want  bool
	done  int
	errno unix.Errno
	dfErr error
	call  func(fd uintptr) bool
	setDF func(fd uintptr)
}

// NewWriter makes a writer.
func NewWriter() *Writer {
	w := &Writer{}
	w.call = w.sendmmsg
	w.setDF = func(fd uintptr) { w.dfErr = w.c.setDF(int(fd), w.want) }
	return w
}

// Send sends packets in order. It waits while the socket's buffer is full. A
// packet that the kernel refuses is left out and the rest is sent.
func (w *Writer) Send(c *Conn, packets []Packet) Result {
	var res Result
	c.mu.Lock()
	defer c.mu.Unlock()
	w.c = c
	for len(packets) > 0 {
		if !c.raw && !c.ensureDF(w, packets[0].DF) {
			res.Failed, res.Err = res.Failed+len(packets), w.dfErr
			break
		}
		n := w.build(packets)
		w.flush(packets[:n], &res)
		packets = packets[n:]
		if errors.Is(res.Err, os.ErrClosed) {
			res.Failed += len(packets)
			break
		}
	}
	w.c = nil
	// The kernel read the data; nothing must keep it alive.
	clear(w.iovs)
	return res
}

// SendLink sends whole IP packets of one family in order to a neighbour, by a
// socket of OpenLink. None may be longer than the MTU of the interface.
func (w *Writer) SendLink(c *Conn, hop *Hop, packets []Packet) Result {
	w.hop = hop
	res := w.Send(c, packets)
	w.hop = nil
	return res
}

// ensureDF switches the socket when the next packets want something else.
func (c *Conn) ensureDF(w *Writer, df bool) bool {
	if c.df == df {
		return true
	}
	w.want, w.dfErr = df, nil
	if err := c.rc.Control(w.setDF); err != nil {
		w.dfErr = os.ErrClosed
	}
	return w.dfErr == nil
}

// build fills messages with packets from the first one, up to a change of DF,
// and tells how many it took.
func (w *Writer) build(packets []Packet) int {
	if cap(w.iovs) < len(packets) {
		w.iovs = make([]unix.Iovec, len(packets))
	}
	w.iovs = w.iovs[:len(packets)]
	gso := w.c.gso.Load()
	w.n, w.from = 0, 0
	taken := 0
	for taken < len(packets) && w.n < maxMessages {
		p := &packets[taken]
		if !w.c.raw && p.DF != w.c.df {
			break
		}
		count := 1
		if gso {
			count = run(packets[taken:])
		}
		for i := range count {
			d := packets[taken+i].Data
			w.iovs[taken+i].Base = unsafe.SliceData(d)
			w.iovs[taken+i].SetLen(len(d))
		}
		ctl := cmsgs{b: &w.oobs[w.n]}
		h := &w.hdrs[w.n].hdr
		h.Name = &w.names[w.n][0]
		if w.hop != nil {
			h.Namelen = uint32(putLinkaddr(w.names[w.n][:], w.hop, p.Remote.Addr().Is4()))
		} else {
			segment := 0
			if count > 1 {
				segment = len(p.Data)
			}
			ctl.fill(p, w.c.raw, segment)
			port := p.Remote.Port()
			if w.c.raw {
				port = 0 // an IPv6 raw socket refuses any other
			}
			h.Namelen = uint32(putSockaddr(w.names[w.n][:], p.Remote, port))
		}
		h.Iov = &w.iovs[taken]
		h.SetIovlen(count)
		h.Control = nil
		if ctl.n > 0 {
			h.Control = &w.oobs[w.n][0]
		}
		h.SetControllen(ctl.n)
		w.count[w.n] = count
		w.n++
		taken += count
	}
	return taken
}

// run is the number of packets from the first one that one message with
// UDP_SEGMENT can carry: same ends, same header, same length but for the last.
func run(p []Packet) int {
	first := &p[0]
	size, total := len(first.Data), len(first.Data)
	n := 1
	for n < len(p) && n < maxSegments {
		q := &p[n]
		if len(q.Data) > size || total+len(q.Data) > maxGSO || q.Remote != first.Remote || q.Local != first.Local ||
			q.TOS != first.TOS || q.TTL != first.TTL || q.DF != first.DF || q.Cut || first.Cut {
			break
		}
		total += len(q.Data)
		n++
		if len(q.Data) < size {
			break
		}
	}
	return n
}

func (w *Writer) sendmmsg(fd uintptr) bool {
	for {
		// It never waits, see Reader.recv.
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&w.hdrs[w.from])), uintptr(w.n-w.from), unix.MSG_DONTWAIT, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e == unix.EAGAIN && w.c.wake >= 0 {
			if w.c.await(fd, unix.POLLOUT) {
				continue
			}
			e = unix.ECANCELED
		}
		w.done, w.errno = int(n), e
		return e != unix.EAGAIN
	}
}

// flush sends the built messages of packets.
func (w *Writer) flush(packets []Packet, res *Result) {
	at := 0
	for w.from < w.n {
		if err := w.c.rc.Write(w.call); err != nil || w.errno == unix.ECANCELED {
			res.Failed, res.Err = res.Failed+len(packets)-at, os.ErrClosed
			return
		}
		if w.errno == 0 {
			for range w.done {
				at += w.count[w.from]
				w.from++
			}
			continue
		}
		// The first message of the call failed.
		count := w.count[w.from]
		if count > 1 && (w.errno == unix.EIO || w.errno == unix.EINVAL || w.errno == unix.EOPNOTSUPP) {
			// No segmentation on this way, for instance without checksum offload.
			w.c.gso.Store(false)
			w.rebuild(packets[at:], res)
			return
		}
		res.Failed, res.Err = res.Failed+count, w.errno
		res.TooBig = res.TooBig || w.errno == unix.EMSGSIZE
		at += count
		w.from++
	}
}

// rebuild sends packets again as single messages; segmentation is off now.
func (w *Writer) rebuild(packets []Packet, res *Result) {
	for len(packets) > 0 {
		n := w.build(packets)
		if n == 0 {
			return
		}
		w.flush(packets[:n], res)
		packets = packets[n:]
	}
}
