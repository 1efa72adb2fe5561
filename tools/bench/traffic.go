package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"

	"iked/internal/testnet"
)

const port = 5201

// tcp sends from host A to host B over n connections and returns what the receiver
// got: bytes, and bits per second after a second of warming up.
func tcp(topo *testnet.Topology, n int, d time.Duration) (bytes int64, rate float64, err error) {
	l, err := topo.HostB.Listen("tcp4", netip.AddrPortFrom(topo.HostB4, port).String())
	if err != nil {
		return 0, 0, err
	}
	defer l.Close()
	var received atomic.Int64
	var readers sync.WaitGroup
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed at the end
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 256<<10)
				for {
					k, err := c.Read(buf)
					received.Add(int64(k))
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	stop := make(chan struct{})
	var conns []net.Conn
	for range n {
		c, err := topo.HostA.Dial("tcp4", netip.AddrPortFrom(topo.HostB4, port).String())
		if err != nil {
			return 0, 0, fmt.Errorf("tcp: %w", err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	for _, c := range conns {
		readers.Add(1)
		go func() {
			defer readers.Done()
			buf := make([]byte, 256<<10)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write(buf); err != nil {
					return // the deadline at the end, or the count shows it
				}
			}
		}()
	}
	warm := min(time.Second, d/2)
	time.Sleep(warm)
	first, start := received.Load(), time.Now()
	time.Sleep(d)
	got, took := received.Load()-first, time.Since(start)
	total := received.Load()
	close(stop)
	for _, c := range conns {
		if err := c.SetDeadline(time.Now()); err != nil && !errors.Is(err, net.ErrClosed) {
			return 0, 0, err
		}
	}
	readers.Wait()
	if got == 0 {
		return 0, 0, errors.New("tcp: nothing arrived")
	}
	return total, float64(got) * 8 / took.Seconds(), nil
}

// datagrams is the outcome of udp.
type datagrams struct {
	rate float64 // received per second
	loss float64 // share
}

const batch = 64

// udp sends datagrams of a size from host A to host B as fast as the sender can.
func udp(topo *testnet.Topology, size int, d time.Duration) (datagrams, error) {
	var r datagrams
	server, err := topo.HostB.ListenPacket("udp4", netip.AddrPortFrom(topo.HostB4, port).String())
	if err != nil {
		return r, err
	}
	defer server.Close()
	if err := server.(*net.UDPConn).SetReadBuffer(8 << 20); err != nil {
		return r, err
	}
	client, err := topo.HostA.Dial("udp4", netip.AddrPortFrom(topo.HostB4, port).String())
	if err != nil {
		return r, err
	}
	defer client.Close()

	var sent, received atomic.Int64
	stop := make(chan struct{})
	done := make(chan error, 2)
	go func() {
		messages := make([]ipv4.Message, batch)
		for i := range messages {
			messages[i].Buffers = [][]byte{make([]byte, size)}
		}
		pc := ipv4.NewPacketConn(client.(*net.UDPConn))
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			n, err := pc.WriteBatch(messages, 0)
			sent.Add(int64(max(n, 0)))
			if err != nil && n <= 0 {
				time.Sleep(100 * time.Microsecond) // no buffers: as an application would
			}
		}
	}()
	go func() {
		messages := make([]ipv4.Message, batch)
		for i := range messages {
			messages[i].Buffers = [][]byte{make([]byte, 2048)}
		}
		pc := ipv4.NewPacketConn(server)
		for {
			n, err := pc.ReadBatch(messages, 0)
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) {
				done <- nil
				return
			}
			if err != nil {
				done <- err
				return
			}
			received.Add(int64(n))
		}
	}()
	time.Sleep(min(time.Second, d/2))
	s0, r0, start := sent.Load(), received.Load(), time.Now()
	time.Sleep(d)
	s1, r1, took := sent.Load(), received.Load(), time.Since(start)
	close(stop)
	if err := server.SetReadDeadline(time.Now()); err != nil {
		return r, err
	}
	if err := errors.Join(<-done, <-done); err != nil {
		return r, fmt.Errorf("udp: %w", err)
	}
	if r1 == r0 {
		return r, errors.New("udp: nothing arrived")
	}
	r.rate = float64(r1-r0) / took.Seconds()
	r.loss = max(0, 1-float64(r1-r0)/float64(s1-s0))
	return r, nil
}
