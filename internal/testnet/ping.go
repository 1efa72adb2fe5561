package testnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// PingOptions shapes Ping; the zero value sends one small request.
type PingOptions struct {
	From     netip.Addr    // source address; zero: the kernel chooses
	Count    int           // requests; 0: 1
	Interval time.Duration // between requests; 0: 10 ms
	Timeout  time.Duration // for the replies, after the last request; 0: 1 s
	Size     int           // bytes of ICMP payload; 0: 56
	TOS      int           // DSCP and ECN of the requests
	// DF forbids fragments: set on the packet (IPv4) and at the sender (both).
	DF bool
}

// PingResult is what came back.
type PingResult struct {
	Sent, Received int
	RTT            []time.Duration
	// Errors are ICMP errors that arrived, in words.
	Errors []string
	// MTU is the smallest MTU of a "too big" answer, 0: none came.
	MTU int
}

// Lost is the number of requests without a reply.
func (r PingResult) Lost() int { return r.Sent - r.Received }

func (r PingResult) String() string {
	s := fmt.Sprintf("%d sent, %d received", r.Sent, r.Received)
	if len(r.RTT) > 0 {
		var sum time.Duration
		for _, d := range r.RTT {
			sum += d
		}
		s += fmt.Sprintf(", %v on average", (sum / time.Duration(len(r.RTT))).Round(time.Microsecond))
	}
	for _, e := range r.Errors {
		s += ", " + e
	}
	return s
}

var pingID atomic.Uint32 // tells apart the pings of one process in one namespace

// Ping sends ICMP echo requests from inside the namespace. That no reply comes is
// no error: see PingResult.
func (ns *Namespace) Ping(dst netip.Addr, o PingOptions) (PingResult, error) {
	var r PingResult
	if o.Count == 0 {
		o.Count = 1
	}
	if o.Interval == 0 {
		o.Interval = 10 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	if o.Size == 0 {
		o.Size = 56
	}
	if o.Size < 8 {
		o.Size = 8
	}
	conn, err := ns.pingSocket(dst, o)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	p := pinger{conn: conn, dst: dst, size: o.Size, id: int(uint16(uint32(os.Getpid())<<6 + pingID.Add(1))), result: &r, got: map[int]bool{}}
	for seq := 1; seq <= o.Count; seq++ {
		if err := p.send(seq); err != nil {
			if errors.Is(err, unix.EMSGSIZE) {
				r.Errors = append(r.Errors, "refused by the sender: message too long")
			} else {
				r.Errors = append(r.Errors, err.Error())
			}
		}
		r.Sent++
		wait := o.Interval
		if seq == o.Count {
			wait = o.Timeout
		}
		if err := p.receive(time.Now().Add(wait), seq == o.Count); err != nil {
			return r, fmt.Errorf("testnet: %s: ping %v: %w", ns.Name, dst, err)
		}
	}
	return r, nil
}

// WaitPing pings until a reply comes, at most for the given time.
func (ns *Namespace) WaitPing(dst netip.Addr, o PingOptions, within time.Duration) (PingResult, error) {
	o.Count = 1
	if o.Timeout == 0 {
		o.Timeout = 200 * time.Millisecond
	}
	deadline, total := time.Now().Add(within), PingResult{}
	for {
		r, err := ns.Ping(dst, o)
		if err != nil {
			return total, err
		}
		total.Sent += r.Sent
		total.Errors = r.Errors
		if r.Received > 0 {
			total.Received, total.RTT = r.Received, r.RTT
			return total, nil
		}
		if time.Now().After(deadline) {
			return total, fmt.Errorf("testnet: %s: no reply from %v within %v (%v)", ns.Name, dst, within, total)
		}
	}
}

func (ns *Namespace) pingSocket(dst netip.Addr, o PingOptions) (*net.IPConn, error) {
	network, level, disc, tos := "ip4:icmp", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_TOS
	if dst.Is6() {
		network, level, disc, tos = "ip6:ipv6-icmp", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_TCLASS
	}
	lc := &net.IPAddr{}
	if o.From.IsValid() {
		lc.IP = o.From.AsSlice()
	}
	var conn *net.IPConn
	err := ns.Do(func() (err error) { conn, err = net.ListenIP(network, lc); return err })
	if err != nil {
		return nil, fmt.Errorf("testnet: %s: ping socket: %w", ns.Name, err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	var opterr error
	err = raw.Control(func(fd uintptr) {
		room(int(fd))
		value := unix.IP_PMTUDISC_DONT
		if o.DF {
			// PROBE sets DF and does not let the path MTU cache refuse: the answer
			// must come from the router under test.
			value = unix.IP_PMTUDISC_PROBE
		}
		opterr = unix.SetsockoptInt(int(fd), level, disc, value)
		if opterr == nil && o.TOS != 0 {
			opterr = unix.SetsockoptInt(int(fd), level, tos, o.TOS)
		}
	})
	if err := errors.Join(err, opterr); err != nil {
		conn.Close()
		return nil, fmt.Errorf("testnet: %s: ping socket: %w", ns.Name, err)
	}
	return conn, nil
}

type pinger struct {
	conn     *net.IPConn
	dst      netip.Addr
	size, id int
	result   *PingResult
	got      map[int]bool
	buf      [1 << 16]byte
}

func (p *pinger) send(seq int) error {
	data := make([]byte, p.size)
	binary.BigEndian.PutUint64(data, uint64(time.Now().UnixNano()))
	for i := 8; i < len(data); i++ {
		data[i] = byte(i)
	}
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: seq, Data: data}}
	if p.dst.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest // the kernel fills in the checksum
	}
	b, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	_, err = p.conn.WriteTo(b, &net.IPAddr{IP: p.dst.AsSlice(), Zone: p.dst.Zone()})
	return err
}

// receive reads until the deadline, or, if last, until every request is answered.
func (p *pinger) receive(deadline time.Time, last bool) error {
	if err := p.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	proto := 1
	if p.dst.Is6() {
		proto = 58
	}
	for {
		if last && p.result.Received == p.result.Sent {
			return nil
		}
		n, from, err := p.conn.ReadFromIP(p.buf[:])
		var errno syscall.Errno
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.As(err, &errno): // an ICMP error reported by the kernel
			p.result.Errors = append(p.result.Errors, errno.Error())
			continue
		case err != nil:
			return err
		}
		m, err := icmp.ParseMessage(proto, p.buf[:n])
		if err != nil {
			continue // not ours: a raw socket sees all ICMP
		}
		p.message(m, from, p.buf[:n])
	}
}

func (p *pinger) message(m *icmp.Message, from *net.IPAddr, raw []byte) {
	switch body := m.Body.(type) {
	case *icmp.Echo:
		src, _ := netip.AddrFromSlice(from.IP)
		reply := m.Type == ipv4.ICMPTypeEchoReply || m.Type == ipv6.ICMPTypeEchoReply
		if !reply || body.ID != p.id || src.Unmap() != p.dst.WithZone("") || len(body.Data) != p.size || p.got[body.Seq] {
			return
		}
		for i := 8; i < len(body.Data); i++ {
			if body.Data[i] != byte(i) {
				p.result.Errors = append(p.result.Errors, fmt.Sprintf("reply %d altered at byte %d", body.Seq, i))
				return
			}
		}
		p.got[body.Seq] = true
		p.result.Received++
		p.result.RTT = append(p.result.RTT, time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(body.Data)))))
	case *icmp.DstUnreach:
		s := fmt.Sprintf("unreachable code %d from %v", m.Code, from)
		if m.Type == ipv4.ICMPTypeDestinationUnreachable && m.Code == 4 && len(raw) >= 8 {
			// RFC 1191, Section 4: the MTU is in the low half of the second word.
			p.mtu(int(binary.BigEndian.Uint16(raw[6:])))
			s = fmt.Sprintf("too big, MTU %d, from %v", binary.BigEndian.Uint16(raw[6:]), from)
		}
		p.result.Errors = append(p.result.Errors, s)
	case *icmp.PacketTooBig:
		p.mtu(body.MTU)
		p.result.Errors = append(p.result.Errors, fmt.Sprintf("too big, MTU %d, from %v", body.MTU, from))
	case *icmp.TimeExceeded:
		p.result.Errors = append(p.result.Errors, fmt.Sprintf("time exceeded from %v", from))
	}
}

func (p *pinger) mtu(mtu int) {
	if p.result.MTU == 0 || mtu < p.result.MTU {
		p.result.MTU = mtu
	}
}
