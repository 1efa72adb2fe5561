package testnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is one captured Ethernet frame.
type Packet struct {
	Time time.Time
	Data []byte
	Header
}

// Capture records what passes one interface, in both directions.
type Capture struct {
	file *os.File
	done chan struct{}
	stop sync.Once

	mu        sync.Mutex
	packets   []Packet
	fragments map[fragmentKey]Class
	err       error
}

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

// Capture starts recording on an interface.
func (ns *Namespace) Capture(ifname string) (*Capture, error) { return ns.capture(ifname, nil) }

// capture records what passes a filter; nil: everything.
func (ns *Namespace) capture(ifname string, filter []unix.SockFilter) (*Capture, error) {
	link, err := ns.link(ifname)
	if err != nil {
		return nil, err
	}
	fd := -1
	err = ns.Do(func() error {
		// Protocol 0 until bind: a packet socket would else take in frames of
		// every interface.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("testnet: %s: packet socket: %w", ns.Name, err)
		}
		room(fd)
		if len(filter) > 0 {
			prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
			if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
				unix.Close(fd)
				return fmt.Errorf("testnet: %s: filter of a capture: %w", ns.Name, err)
			}
		}
		all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index}); err != nil {
			unix.Close(fd)
			return fmt.Errorf("testnet: %s: capture on %s: %w", ns.Name, ifname, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c := &Capture{file: os.NewFile(uintptr(fd), ifname), done: make(chan struct{}), fragments: map[fragmentKey]Class{}}
	ns.net.mu.Lock()
	ns.net.captures = append(ns.net.captures, c)
	ns.net.mu.Unlock()
	go c.read()
	return c, nil
}

func (c *Capture) read() {
	defer close(c.done)
	defer c.file.Close()
	buf := make([]byte, 1<<17)
	for {
		n, err := c.file.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.drain(buf)
			return
		}
		if errors.Is(err, unix.ENETDOWN) {
			continue // the interface went down; it may come up again
		}
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return
		}
		c.add(buf[:n])
	}
}

// drain takes what the kernel had queued when the capture was stopped.
func (c *Capture) drain(buf []byte) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), buf)
			if err != nil || n <= 0 {
				return
			}
			c.add(buf[:n])
		}
	})
}

func (c *Capture) add(frame []byte) {
	p := Packet{Time: time.Now(), Data: append([]byte(nil), frame...)}
	p.Header = Classify(p.Data)
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Fragment {
		// Later fragments have no ports: they are what the first one was.
		key := fragmentKey{p.Src, p.Dst, p.FragmentID, p.Proto}
		if p.FragmentOffset == 0 {
			c.fragments[key] = p.Class
		} else if class, ok := c.fragments[key]; ok {
			p.Class = class
		}
	}
	c.packets = append(c.packets, p)
}

// Stop ends the recording; all that passed before the call is in Packets.
func (c *Capture) Stop() {
	c.stop.Do(func() {
		// The error is that of a capture that has ended by itself.
		_ = c.file.SetReadDeadline(time.Now())
		<-c.done
	})
}

// Packets is what was recorded so far.
func (c *Capture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Packet(nil), c.packets...)
}

// Err is why the recording ended by itself, or nil.
func (c *Capture) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Counts is the number of packets by class.
func (c *Capture) Counts() map[Class]int {
	counts := map[Class]int{}
	for _, p := range c.Packets() {
		counts[p.Class]++
	}
	return counts
}

// ClearText is what was neither IPsec nor housekeeping of the link.
func (c *Capture) ClearText() []Packet {
	var clear []Packet
	for _, p := range c.Packets() {
		if !p.Class.IPsec() && !p.Class.Housekeeping() {
			clear = append(clear, p)
		}
	}
	return clear
}

// String is the packets by class on one line, such as "ESP 8, IKE 4".
func (c *Capture) String() string {
	counts := c.Counts()
	if len(counts) == 0 {
		return "nothing"
	}
	var parts []string
	for class, n := range counts {
		parts = append(parts, fmt.Sprintf("%v %d", class, n))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}

// String is a packet on one line.
func (p Packet) String() string {
	if !p.Src.IsValid() {
		return fmt.Sprintf("%v, %d bytes", p.Class, len(p.Data))
	}
	src, dst := p.Src.String(), p.Dst.String()
	if p.SrcPort != 0 {
		src = netip.AddrPortFrom(p.Src, p.SrcPort).String()
		dst = netip.AddrPortFrom(p.Dst, p.DstPort).String()
	}
	s := fmt.Sprintf("%v %s > %s, protocol %d, %d bytes", p.Class, src, dst, p.Proto, len(p.Data))
	if p.SPI != 0 {
		s += fmt.Sprintf(", SPI %08x", p.SPI)
	}
	return s
}

// WritePcap writes the recording as a classic pcap file (link type Ethernet).
func (c *Capture) WritePcap(w io.Writer) error {
	le := binary.LittleEndian
	b := make([]byte, 0, 24)
	b = le.AppendUint32(b, 0xa1b2c3d4)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, 4)
	b = le.AppendUint64(b, 0)      // time zone, accuracy
	b = le.AppendUint32(b, 262144) // snapshot length
	b = le.AppendUint32(b, 1)      // LINKTYPE_ETHERNET
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("testnet: write pcap: %w", err)
	}
	for _, p := range c.Packets() {
		b = b[:0]
		b = le.AppendUint32(b, uint32(p.Time.Unix()))
		b = le.AppendUint32(b, uint32(p.Time.Nanosecond()/1000))
		b = le.AppendUint32(b, uint32(len(p.Data)))
		b = le.AppendUint32(b, uint32(len(p.Data)))
		if _, err := w.Write(append(b, p.Data...)); err != nil {
			return fmt.Errorf("testnet: write pcap: %w", err)
		}
	}
	return nil
}

// SavePcap is WritePcap to a file.
func (c *Capture) SavePcap(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("testnet: save capture: %w", err)
	}
	return errors.Join(c.WritePcap(f), f.Close())
}

// Inject sends an Ethernet frame out of an interface as it is.
func (ns *Namespace) Inject(ifname string, frame []byte) error {
	link, err := ns.link(ifname)
	if err != nil {
		return err
	}
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("testnet: %s: packet socket: %w", ns.Name, err)
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}); err != nil {
			return fmt.Errorf("testnet: %s: send on %s: %w", ns.Name, ifname, err)
		}
		return nil
	})
}
