package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/testnet"
)

// Ports of the echo servers: echoPort answers over TCP and UDP, the others over
// UDP, for policies that tell ports apart.
const (
	echoPort = 7007
	holePort = 7008
	wallPort = 7009
)

// patience is how long an answer may take. Guests and machines under load are slow.
const patience = 5 * time.Second

// Node is who sends and receives packets, with an address.
type Node struct {
	NS   *testnet.Namespace
	Addr netip.Addr
	// open counts TCP connections that the server has.
	open *atomic.Int32
}

// Serve answers what comes to an address until the test ends.
func Serve(t *testing.T, ns *testnet.Namespace, a netip.Addr) Node {
	t.Helper()
	node := Node{NS: ns, Addr: a, open: new(atomic.Int32)}
	l, err := ns.Listen("tcp", netip.AddrPortFrom(a, echoPort).String())
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			node.open.Add(1)
			go func() {
				defer node.open.Add(-1)
				echo(c.(*net.TCPConn))
			}()
		}
	}()
	for _, port := range []uint16{echoPort, holePort, wallPort} {
		c, err := ns.ListenPacket("udp", netip.AddrPortFrom(a, port).String())
		must(t, err)
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 65536)
			for {
				n, from, err := c.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					// A lost answer shows at the client.
					_, _ = c.WriteTo(buf[:n], from)
				}
			}
		}()
	}
	return node
}

// echo sends back what came until the other side has ended its half. It returns
// when its own end was acknowledged too: nothing of the connection is sent later,
// when other SAs are there, or none.
func echo(c *net.TCPConn) {
	defer c.Close()
	end := time.Now().Add(4 * patience)
	_ = c.SetDeadline(end)
	if _, err := io.Copy(c, c); err != nil || c.CloseWrite() != nil {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for closed := false; !closed && time.Now().Before(end); time.Sleep(time.Millisecond) {
		_ = raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			closed = err != nil || info.State == unix.BPF_TCP_CLOSE
		})
	}
}

// Exchange sends what applications send, both ways: echo requests, a TCP transfer,
// datagrams, and one that must be fragmented.
func Exchange(t *testing.T, a, b Node) {
	t.Helper()
	Ping(t, a, b)
	if t.Failed() {
		return // the rest would wait in vain
	}
	if err := transfer(a, b, 50_000); err != nil {
		t.Errorf("TCP: %v", err)
	}
	for _, size := range []int{1, 512, 1300, 3000} {
		if err := datagram(b, a, echoPort, size); err != nil {
			t.Errorf("datagram of %d octets: %v", size, err)
		}
	}
}

// Ping wants answers both ways.
func Ping(t *testing.T, a, b Node) {
	t.Helper()
	for _, d := range [][2]Node{{a, b}, {b, a}} {
		r, err := d[0].NS.Ping(d[1].Addr, testnet.PingOptions{From: d[0].Addr, Count: 3, Size: 600, Interval: time.Millisecond, Timeout: patience})
		if err != nil || r.Lost() != 0 {
			t.Errorf("ping from %v to %v: %v, %v", d[0].Addr, d[1].Addr, r, err)
		}
	}
}

func exchange(t *testing.T, s *setup) {
	t.Helper()
	Exchange(t, s.a.Node, s.b.Node)
	s.counters(t)
}

func ping(t *testing.T, s *setup) {
	t.Helper()
	Ping(t, s.a.Node, s.b.Node)
	s.counters(t)
}

// counters shows those of both sides when the test has failed.
func (s *setup) counters(t *testing.T) {
	t.Helper()
	if t.Failed() {
		t.Logf("%s %v\n%s %v", s.a.side.Name, nonZero(s.a.b.Counters()), s.b.side.Name, nonZero(s.b.b.Counters()))
	}
}

func nonZero(m map[string]uint64) map[string]uint64 {
	for k, v := range m {
		if v == 0 {
			delete(m, k)
		}
	}
	return m
}

// dial connects from one half's address to a port of the other's.
func dial(from, to Node, network string, port uint16) (c net.Conn, err error) {
	dst := netip.AddrPortFrom(to.Addr, port).String()
	err = from.NS.Do(func() error {
		var local net.Addr = &net.TCPAddr{IP: from.Addr.AsSlice()}
		if network == "udp" {
			local = &net.UDPAddr{IP: from.Addr.AsSlice()}
		}
		d := net.Dialer{LocalAddr: local, Timeout: patience}
		c, err = d.Dial(network, dst)
		return err
	})
	return c, err
}

// transfer sends octets over TCP and wants them back.
func transfer(from, to Node, size int) error {
	c, err := dial(from, to, "tcp", echoPort)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return err
	}
	data := pattern(size)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		if err == nil {
			err = c.(*net.TCPConn).CloseWrite()
		}
		sent <- err
	}()
	var got bytes.Buffer
	if _, err := got.ReadFrom(c); err != nil {
		return fmt.Errorf("after %d octets: %w", got.Len(), err)
	}
	if err := <-sent; err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), data) {
		return fmt.Errorf("%d octets came back changed", got.Len())
	}
	for end := time.Now().Add(patience); to.open.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("the connection did not end")
		}
	}
	return nil
}

// datagram sends one over UDP and wants it back. Like every sender of IPv6 it may
// learn from the first one that the path is narrower than its own link (RFC 8201,
// Section 4), and sends again.
func datagram(from, to Node, port uint16, size int) error {
	for again := false; ; again = true {
		err := datagramWithin(from, to, port, size, patience)
		if again || !errors.Is(err, unix.EMSGSIZE) {
			return err
		}
	}
}

func datagramWithin(from, to Node, port uint16, size int, within time.Duration) error {
	c, err := dial(from, to, "udp", port)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	data := pattern(size)
	if _, err := c.Write(data); err != nil {
		return err
	}
	buf := make([]byte, size+1)
	n, err := c.Read(buf)
	if err != nil {
		return err
	}
	if !bytes.Equal(buf[:n], data) {
		return fmt.Errorf("%d octets came back, or changed ones", n)
	}
	return nil
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
	return b
}

// silent checks that nothing is answered; what leaves is the capture's to say.
func silent(t *testing.T, s *setup) {
	t.Helper()
	var wg sync.WaitGroup
	for _, d := range [][2]Node{{s.a.Node, s.b.Node}, {s.b.Node, s.a.Node}} {
		wg.Go(func() {
			r, err := d[0].NS.Ping(d[1].Addr, testnet.PingOptions{From: d[0].Addr, Timeout: 20 * time.Millisecond})
			if err != nil {
				t.Error(err)
			}
			if r.Received != 0 {
				t.Errorf("without its SAs %v was answered by %v", d[0].Addr, d[1].Addr)
			}
		})
	}
	wg.Wait()
}
