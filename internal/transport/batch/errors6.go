package batch

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrorSink is a raw IPv6 socket on which nothing arrives and nothing is sent: it is
// there so that the kernel takes "packet too big" messages about packets of its
// protocol into its routes. It does so for a raw IPv6 socket only that is
// connected or asks for errors (rawv6_err), other than over IPv4. What it is told
// stays unread in a queue of the smallest size; the routes are changed before it
// would be put there.
type ErrorSink struct{ f *os.File }

// OpenErrorSink makes one for a protocol and the routes of packets with a mark.
func OpenErrorSink(mark uint32, proto int) (*ErrorSink, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("raw socket of protocol %d for ICMPv6 errors: %w", proto, err)
	}
	// A program that accepts no octet of any packet.
	none := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
	steps := []error{
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &none),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1), // the kernel's minimum
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1),
	}
	if mark != 0 {
		steps = append(steps, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
	}
	for _, err := range steps {
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("raw socket of protocol %d for ICMPv6 errors: %w", proto, err)
		}
	}
	return &ErrorSink{os.NewFile(uintptr(fd), "icmp6 errors")}, nil
}

// Close closes the socket.
func (s *ErrorSink) Close() error { return s.f.Close() }
