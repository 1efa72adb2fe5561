package xfrm

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"iked/xfrm/wire"
)

// KernelError is a refusal of the kernel.
type KernelError struct {
	Op    wire.Type
	Errno unix.Errno
	Text  string // what the kernel says about it, may be empty
}

func (e *KernelError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("kernel refuses %v: %v", e.Op, e.Errno)
	}
	return fmt.Sprintf("kernel refuses %v: %s (%v)", e.Op, e.Text, e.Errno)
}

// Unwrap makes errors.Is compare the error number.
func (e *KernelError) Unwrap() error { return e.Errno }

// request is one message to the kernel.
type request struct {
	typ   wire.Type
	flags uint16
	msg   wire.Message
}

// result is what came of it; msg is the answer of those that have one.
type result struct {
	msg wire.Message
	err error
}

// wireTo carries datagrams to the kernel and back. Without fault receive gives the
// length of one; what is not from the kernel has none.
type wireTo interface {
	send(b []byte) error
	receive(b []byte) (int, error)
	close()
}

// netlinkFD is the descriptor of a netlink socket.
type netlinkFD int

func (n netlinkFD) send(b []byte) error {
	return os.NewSyscallError("netlink send", unix.Sendto(int(n), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

func (n netlinkFD) receive(b []byte) (int, error) {
	size, from, err := unix.Recvfrom(int(n), b, 0)
	for errors.Is(err, unix.EINTR) {
		size, from, err = unix.Recvfrom(int(n), b, 0)
	}
	if errors.Is(err, unix.EAGAIN) {
		return 0, fmt.Errorf("the kernel does not answer within %v", answerTime)
	}
	if err != nil {
		return 0, os.NewSyscallError("netlink receive", err)
	}
	if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
		return 0, nil
	}
	return size, nil
}

func (n netlinkFD) close() { unix.Close(int(n)) }

// socket asks the kernel. Requests are numbered, and each answer is matched with
// its request by the number.
type socket struct {
	mu   sync.Mutex
	ends wireTo // nil: closed
	seq  uint32
	port uint32
	out  []byte
	in   []byte
}

const (
	// batchSize bounds the messages of one send: their acknowledgements must fit
	// into the receive buffer.
	batchSize   = 64
	recvBuffer  = 4 << 20
	eventBuffer = 16 << 20
	answerTime  = 10 * time.Second
	// maxDatagram is what the kernel puts into one datagram of a dump at most.
	maxDatagram = 64 << 10
	dumpTries   = 8
)

// open makes a netlink socket in the network namespace of the calling thread.
func open(flags, buffer int) (fd int, port uint32, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|flags, unix.NETLINK_XFRM)
	if err != nil {
		return -1, 0, os.NewSyscallError("netlink socket", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	// Old kernels have neither; then errors have no text.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	// Without this the kernel would send back the request, and the keys in it.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return -1, 0, os.NewSyscallError("netlink bind", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return -1, 0, os.NewSyscallError("netlink getsockname", err)
	}
	return fd, sa.(*unix.SockaddrNetlink).Pid, nil
}

func newSocket() (*socket, error) {
	fd, port, err := open(0, recvBuffer)
	if err != nil {
		return nil, err
	}
	tv := unix.NsecToTimeval(answerTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("netlink receive timeout", err)
	}
	return &socket{ends: netlinkFD(fd), port: port, in: make([]byte, maxDatagram)}, nil
}

func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends != nil {
		s.ends.close()
		s.ends = nil
	}
}

// do sends requests together and gives the result of each. The kernel handles them
// one after the other before it returns from the send.
func (s *socket) do(reqs []request) []result {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]result, 0, len(reqs))
	for len(reqs) > 0 {
		n := min(len(reqs), batchSize)
		all = append(all, s.batch(reqs[:n])...)
		reqs = reqs[n:]
	}
	return all
}

// one is do for a single request.
func (s *socket) one(typ wire.Type, flags uint16, msg wire.Message) (wire.Message, error) {
	r := s.do([]request{{typ, flags, msg}})[0]
	return r.msg, r.err
}

func (s *socket) batch(reqs []request) []result {
	res := make([]result, len(reqs))
	fail := func(err error) []result {
		for i := range res {
			if res[i].err == nil {
				res[i].err = err
			}
		}
		return res
	}
	if s.ends == nil {
		return fail(os.ErrClosed)
	}
	first := s.seq + 1
	s.seq += uint32(len(reqs))
	s.out = s.out[:0]
	for i, r := range reqs {
		// The kernel tells everybody of a change with the port that stands in the request.
		s.out = wire.AppendMessage(s.out, wire.Header{Type: r.typ, Flags: r.flags | wire.FlagRequest | wire.FlagAck, Seq: first + uint32(i), Port: s.port}, r.msg)
	}
	err := s.ends.send(s.out)
	clear(s.out[:cap(s.out)]) // keys
	if err != nil {
		return fail(err)
	}
	for done := 0; done < len(reqs); {
		err := s.receive(func(m wire.Raw) error {
			i := int(m.Seq - first)
			if i < 0 || i >= len(reqs) {
				return nil // of a request that was given up
			}
			if m.Type != wire.ErrorType {
				res[i].msg, res[i].err = wire.Parse(m.Type, m.Body)
				return nil
			}
			done++
			a, err := wire.ParseAck(m.Header, m.Body)
			switch {
			case err != nil:
				res[i].err = err
			case a.Errno != 0:
				res[i].err = &KernelError{reqs[i].typ, unix.Errno(a.Errno), a.Text}
			}
			return nil
		})
		if err != nil {
			return fail(err)
		}
	}
	return res
}

// receive reads one datagram of the kernel and wipes it.
func (s *socket) receive(f func(wire.Raw) error) error {
	n, err := s.ends.receive(s.in)
	if err != nil {
		return err
	}
	defer clear(s.in[:n])
	for m, err := range wire.Messages(s.in[:n]) {
		if err != nil {
			return err
		}
		if err := f(m); err != nil {
			return err
		}
	}
	return nil
}

var errInterrupted = errors.New("the table changed during the dump")

// dump gives every SA or policy to f. When the table changes meanwhile it starts
// again, so f may see one twice; start is called before each try.
func (s *socket) dump(typ wire.Type, filter *wire.Dump, start func(), f func(wire.Message)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for range dumpTries {
		start()
		if err = s.dumpOnce(typ, filter, f); !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return fmt.Errorf("%v: %w %d times in a row", typ, err, dumpTries)
}

func (s *socket) dumpOnce(typ wire.Type, filter *wire.Dump, f func(wire.Message)) error {
	if s.ends == nil {
		return os.ErrClosed
	}
	s.seq++
	s.out = wire.AppendMessage(s.out[:0], wire.Header{Type: typ, Flags: wire.FlagRequest | wire.FlagDump, Seq: s.seq}, filter)
	if err := s.ends.send(s.out); err != nil {
		return err
	}
	changed, ended := false, false
	for !ended {
		err := s.receive(func(m wire.Raw) error {
			if m.Seq != s.seq {
				return nil
			}
			changed = changed || m.Flags&wire.FlagDumpIntr != 0
			if m.Type == wire.ErrorType || m.Type == wire.DoneType {
				ended = true
				a, err := wire.ParseAck(m.Header, m.Body)
				if err == nil && a.Errno != 0 {
					err = &KernelError{typ, unix.Errno(a.Errno), a.Text}
				}
				return err
			}
			msg, err := wire.Parse(m.Type, m.Body)
			if err == nil {
				f(msg)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if changed {
		return errInterrupted
	}
	return nil
}
