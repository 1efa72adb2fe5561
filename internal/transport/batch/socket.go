package batch

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"iked/internal/heartbeat"
)

// ListenUDP opens a UDP socket of one address family. Its packets carry no DF
// bit unless one asks for it.
func ListenUDP(cfg Config) (*Conn, error) {
	c, fd, err := open(cfg, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if err != nil {
		return nil, fmt.Errorf("UDP socket on %v: %w", cfg.Local, err)
	}
	if err := c.bindUDP(fd, cfg); err != nil {
		c.discard(fd)
		return nil, fmt.Errorf("UDP socket on %v: %w", cfg.Local, err)
	}
	return c.finish(fd)
}

// OpenRaw opens a raw socket that receives a protocol. What is sent is whole IP
// packets. cfg.Local names the family by its unspecified address.
func OpenRaw(cfg Config, proto int) (*Conn, error) {
	c, fd, err := open(cfg, unix.SOCK_RAW, proto)
	if err != nil {
		return nil, fmt.Errorf("raw socket for protocol %d: %w", proto, err)
	}
	c.raw = true
	// Own headers; and what is sent to a group does not come back.
	level, opts := unix.IPPROTO_IP, [][2]int{{unix.IP_HDRINCL, 1}, {unix.IP_MULTICAST_LOOP, 0}}
	if c.v6 {
		level, opts = unix.IPPROTO_IPV6, [][2]int{{unix.IPV6_HDRINCL, 1}, {unix.IPV6_MULTICAST_LOOP, 0}}
		if cfg.Whole {
			c.whole = uint8(proto)
			opts = append(opts, wholeOpts...)
		}
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, level, o[0], o[1]); err != nil {
			c.discard(fd)
			return nil, fmt.Errorf("raw socket for protocol %d: option %d: %w", proto, o[0], err)
		}
	}
	return c.finish(fd)
}

// OpenLink opens a socket that sends IP packets to neighbours of any interface
// and receives nothing.
func OpenLink(cfg Config) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	c := &Conn{raw: true, wake: -1}
	c.prepare(fd, cfg)
	return c.finish(fd)
}

// prepare sets what sockets of every kind have.
func (c *Conn) prepare(fd int, cfg Config) {
	if cfg.Mark != 0 {
		c.Marked = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(cfg.Mark)) == nil
	}
	if cfg.Buffer > 0 {
		for _, o := range [...][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
			// The forced form needs CAP_NET_ADMIN of the initial namespace.
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], cfg.Buffer) != nil {
				_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], cfg.Buffer)
			}
		}
	}
}

func open(cfg Config, typ, proto int) (*Conn, int, error) {
	c := &Conn{v6: cfg.Local.Addr().Is6(), wake: -1}
	kind := typ | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	if cfg.Dedicated {
		// A descriptor in blocking mode stays out of the poller; every call says
		// MSG_DONTWAIT itself.
		kind &^= unix.SOCK_NONBLOCK
		heartbeat.Start() // its readers wait in system calls
		wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return nil, -1, fmt.Errorf("eventfd: %w", err)
		}
		c.wake = wake
	}
	family := unix.AF_INET
	if c.v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind, proto)
	if err != nil {
		c.discard(-1)
		return nil, -1, err
	}
	c.prepare(fd, cfg)
	// What the daemon sends is a key exchange, or protected already.
	c.Exempt = BypassIPsec(fd, family)
	// A raw IPv4 socket gives the header, which tells the same.
	var opts [][2]int
	if typ == unix.SOCK_DGRAM {
		opts = [][2]int{{unix.IP_PKTINFO, 1}, {unix.IP_RECVTOS, 1}, {unix.IP_RECVTTL, 1}}
	}
	level := unix.IPPROTO_IP
	if c.v6 {
		level = unix.IPPROTO_IPV6
		opts = [][2]int{{unix.IPV6_RECVPKTINFO, 1}, {unix.IPV6_RECVTCLASS, 1}, {unix.IPV6_RECVHOPLIMIT, 1}}
		if typ == unix.SOCK_DGRAM {
			opts = append(opts, [2]int{unix.IPV6_V6ONLY, 1})
		}
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, level, o[0], o[1]); err != nil {
			c.discard(fd)
			return nil, -1, fmt.Errorf("socket option %d: %w", o[0], err)
		}
	}
	return c, fd, nil
}

// discard closes what open made.
func (c *Conn) discard(fd int) {
	for _, fd := range []int{fd, c.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (c *Conn) bindUDP(fd int, cfg Config) error {
	if err := c.setDF(fd, false); err != nil {
		return fmt.Errorf("path MTU discovery: %w", err)
	}
	if cfg.ReusePort {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("SO_REUSEPORT: %w", err)
		}
	}
	if c.v6 {
		// RFC 6935: a tunnel may send zero checksums over IPv6.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1)
	}
	if cfg.GRO {
		c.gro = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	}
	if cfg.GSO {
		// A kernel that can read the option back has it.
		_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		c.gso.Store(err == nil)
	}
	if cfg.EncapESP {
		if err := encapESP(fd); err != nil {
			return err
		}
	}
	var sa unix.Sockaddr
	if c.v6 {
		sa = &unix.SockaddrInet6{Port: int(cfg.Local.Port()), Addr: cfg.Local.Addr().As16()}
	} else {
		sa = &unix.SockaddrInet4{Port: int(cfg.Local.Port()), Addr: cfg.Local.Addr().As4()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	got, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	switch a := got.(type) {
	case *unix.SockaddrInet4:
		c.port = uint16(a.Port)
	case *unix.SockaddrInet6:
		c.port = uint16(a.Port)
	}
	return nil
}

// setDF sets what IPv4 packets of the socket say about fragmentation. Without
// DF the kernel fragments a datagram that is too big; with it such a send fails
// with EMSGSIZE.
func (c *Conn) setDF(fd int, df bool) error {
	level, opt, v := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if df {
		v = unix.IP_PMTUDISC_DO
	}
	if c.v6 {
		level, opt, v = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT
		if df {
			v = unix.IPV6_PMTUDISC_DO
		}
	}
	err := unix.SetsockoptInt(fd, level, opt, v)
	if err == nil {
		c.df = df
	}
	return err
}

// finish hands the descriptor to the runtime's poller.
func (c *Conn) finish(fd int) (*Conn, error) {
	c.f = os.NewFile(uintptr(fd), "socket")
	rc, err := c.f.SyscallConn()
	if err != nil {
		c.f.Close()
		return nil, err
	}
	c.rc = rc
	return c, nil
}

// Prober asks for path MTUs with sockets that it keeps, so that it goes on
// asking in the network namespace in which it was made.
type Prober struct {
	mu sync.Mutex
	fd [2]int // IPv4, IPv6; -1: none
}

// NewProber makes a prober for packets with this mark.
func NewProber(mark uint32) (*Prober, error) {
	p := &Prober{fd: [2]int{-1, -1}}
	var errs []error
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if mark != 0 {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		}
		// Asking must not ask for a tunnel.
		_ = BypassIPsec(fd, family)
		p.fd[i] = fd
	}
	if len(errs) == 2 {
		return nil, fmt.Errorf("socket for path MTUs: %w", errors.Join(errs...))
	}
	return p, nil
}

// PathMTU is the MTU of the way to dst: that of the route or what ICMP has
// taught the kernel.
func (p *Prober) PathMTU(dst netip.Addr) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, level, opt := 0, unix.IPPROTO_IP, unix.IP_MTU
	var to unix.Sockaddr = &unix.SockaddrInet4{Port: 9} // discard; nothing is sent
	if dst.Is4() {
		to.(*unix.SockaddrInet4).Addr = dst.As4()
	} else {
		i, level, opt = 1, unix.IPPROTO_IPV6, unix.IPV6_MTU
		to = &unix.SockaddrInet6{Port: 9, Addr: dst.As16(), ZoneId: zoneID(dst)}
	}
	fd := p.fd[i]
	if fd < 0 {
		return 0, fmt.Errorf("path MTU to %v: no socket of this address family", dst)
	}
	// Forget the peer before, and with it the route and the source address.
	var none [16]byte
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), uintptr(len(none))); e != 0 {
		return 0, fmt.Errorf("path MTU to %v: %w", dst, e)
	}
	if err := unix.Connect(fd, to); err != nil {
		return 0, fmt.Errorf("path MTU to %v: %w", dst, err)
	}
	mtu, err := unix.GetsockoptInt(fd, level, opt)
	if err != nil {
		return 0, fmt.Errorf("path MTU to %v: %w", dst, err)
	}
	return mtu, nil
}

// Close closes the sockets.
func (p *Prober) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, fd := range p.fd {
		if fd >= 0 {
			unix.Close(fd)
			p.fd[i] = -1
		}
	}
	return nil
}
