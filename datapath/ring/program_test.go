package ring

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"iked/datapath/ip"
	"iked/internal/transport/batch"
)

// testRun is the part of bpf_attr for BPF_PROG_TEST_RUN.
type testRun struct {
	progFD, retval       uint32
	sizeIn, sizeOut      uint32
	dataIn, dataOut      uint64
	repeat, duration     uint32
	ctxSizeIn, ctxSizeOt uint32
	ctxIn, ctxOut        uint64
	flags, cpu, size, _  uint32
}

var (
	here4, peer4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	here6, peer6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

const spi = 0xabcd0123

// newRing has a ring on a host with the addresses here4 and here6.
func newRing(t *testing.T, size int) *Ring {
	t.Helper()
	ns, err := openNet(t).Namespace("here")
	if err == nil {
		err = ns.AddAddr("lo", here4.String()+"/32", here6.String()+"/128")
	}
	var r *Ring
	if err == nil {
		err = ns.Do(func() (err error) { r, err = New(Options{Size: size}); return err })
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	r.Take(here4, peer4, spi)
	r.Take(here6, peer6, spi)
	known := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.own[here4] && r.own[here6]
	}
	for deadline := time.Now().Add(10 * time.Second); !known(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the host's addresses are not looked at")
		}
	}
	return r
}

// run gives a frame to the program as if it had arrived; true: it was taken.
func (r *Ring) run(t *testing.T, frame []byte) bool {
	t.Helper()
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&frame[0])
	attr := testRun{progFD: uint32(r.prog), dataIn: address(frame), sizeIn: uint32(len(frame)), repeat: 1}
	if _, err := bpf(unix.BPF_PROG_TEST_RUN, &attr); err != nil {
		t.Fatal(err)
	}
	switch int32(attr.retval) {
	case tcxDrop:
		return true
	case tcxNext:
		return false
	}
	t.Fatalf("verdict %d", int32(attr.retval))
	return false
}

// espFrame is an Ethernet frame with an ESP packet of n octets.
func espFrame(src, dst netip.Addr, n int) []byte {
	f := make([]byte, 14, 14+n)
	f[11] = 2 // to the loopback device, whose address is zero
	o := ip.Outer{Src: src, Dst: dst, Proto: unix.IPPROTO_ESP, TTL: 64, TOS: 2}
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	if dst.Is6() {
		binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IPV6)
	}
	p := f[14 : 14+n]
	for i := range p {
		p[i] = byte(i * 7)
	}
	o.Put(p, n-o.Len())
	binary.BigEndian.PutUint32(p[o.Len():], spi)
	return f[:14+n]
}

// fixed makes the checksum of an IPv4 header right.
func fixed(f []byte) []byte {
	h := f[14 : 14+ip.IPv4HeaderLen]
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ip.Checksum(h, 0))
	return f
}

// Packets of every length come out of the ring as they were, in both families,
// also around its end; trailing octets of the frame are no part of them.
func TestPacketsAreTaken(t *testing.T) {
	r := newRing(t, 64<<10)
	rd := newReader(r)
	for round := range 40 {
		for _, n := range []int{64, 247, 248, 249, 1400, 1500, 1528, 1529, 3000} {
			for _, ends := range [][2]netip.Addr{{peer4, here4}, {peer6, here6}} {
				f := espFrame(ends[0], ends[1], n)
				if !r.run(t, append(bytes.Clone(f), 0, 0, 0)) {
					t.Fatalf("round %d: %v, %d octets: not taken", round, ends[1], n)
				}
				rd.collect()
				if len(rd.packets) != 1 {
					t.Fatalf("round %d: %d packets", round, len(rd.packets))
				}
				want := f[14:]
				if ends[1].Is6() {
					want = want[ip.IPv6HeaderLen:]
				}
				p := rd.packets[0]
				if !bytes.Equal(p.Data, want) || p.Local.Addr() != ends[1] || p.Remote.Addr() != ends[0] || p.TOS != 2 {
					t.Fatalf("%v, %d octets: %d octets from %v to %v, TOS %d", ends[1], n, len(p.Data), p.Remote, p.Local, p.TOS)
				}
			}
		}
	}
	if r.Lost() != 0 {
		t.Errorf("%d packets lost", r.Lost())
	}
}

// Everything that the raw socket would not get, or not as it is, goes on.
func TestOthersGoOn(t *testing.T) {
	r := newRing(t, 64<<10)
	r.Take(here4, peer4, 77)
	r.Leave(here4, 77, 0)
	for name, change := range map[string]func(f4, f6 []byte) []byte{
		"other SPI":              func(f4, _ []byte) []byte { f4[37]++; return f4 },
		"other SPI, IPv6":        func(_, f6 []byte) []byte { f6[57]++; return f6 },
		"SPI that was left":      func(f4, _ []byte) []byte { binary.BigEndian.PutUint32(f4[34:], 77); return f4 },
		"other destination":      func(f4, _ []byte) []byte { f4[33]++; return fixed(f4) },
		"other destination v6":   func(_, f6 []byte) []byte { f6[53]++; return f6 },
		"AH":                     func(f4, _ []byte) []byte { f4[23] = unix.IPPROTO_AH; return fixed(f4) },
		"UDP over IPv6":          func(_, f6 []byte) []byte { f6[20] = unix.IPPROTO_UDP; return f6 },
		"first fragment":         func(f4, _ []byte) []byte { f4[20] |= 0x20; return fixed(f4) },
		"last fragment":          func(f4, _ []byte) []byte { f4[21] = 9; return fixed(f4) },
		"options":                func(f4, _ []byte) []byte { f4[14] = 0x46; return f4 },
		"fragment header":        func(_, f6 []byte) []byte { f6[20] = unix.IPPROTO_FRAGMENT; return f6 },
		"shorter than it says":   func(f4, _ []byte) []byte { return f4[:100] },
		"shorter than it says 6": func(_, f6 []byte) []byte { return f6[:100] },
		"no ESP header":          func(f4, _ []byte) []byte { f4[16], f4[17] = 0, 27; return fixed(f4) },
		"ARP":                    func(f4, _ []byte) []byte { f4[12], f4[13] = 8, 6; return f4 },
		"another version":        func(f4, _ []byte) []byte { f4[14] = 0x65; return f4 },
		"too long":               func(_, _ []byte) []byte { return espFrame(peer4, here4, int(records[2])+1)[:1400] },
	} {
		t.Run(name, func(t *testing.T) {
			if r.run(t, change(espFrame(peer4, here4, 1400), espFrame(peer6, here6, 1400))) {
				t.Error("taken")
			}
		})
	}
	rd := newReader(r)
	if rd.collect(); len(rd.packets) != 0 {
		t.Errorf("%d packets in the ring", len(rd.packets))
	}
}

// A packet whose IP header is damaged is not given to the datapath.
func TestDamagedHeader(t *testing.T) {
	r := newRing(t, 64<<10)
	f := espFrame(peer4, here4, 100)
	f[15] ^= 1 // TOS
	r.run(t, f)
	rd := newReader(r)
	if rd.collect(); len(rd.packets) != 0 {
		t.Error("it was")
	}
}

// A full ring loses packets, counts them, and goes on when it was read; reading
// allocates nothing.
func TestFullRing(t *testing.T) {
	size := 16 * os.Getpagesize()
	r := newRing(t, size)
	f := espFrame(peer4, here4, 1400)
	const sent = 200
	for range sent {
		if !r.run(t, f) {
			t.Fatal("a full ring lets packets through")
		}
	}
	rd := newReader(r)
	got := 0
	if n := testing.AllocsPerRun(10, func() { rd.collect(); got += len(rd.packets) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got < size/1600 || uint64(got)+r.Lost() != sent {
		t.Errorf("%d packets came out and %d were lost, of %d", got, r.Lost(), sent)
	}
	r.run(t, f)
	if rd.collect(); len(rd.packets) != 1 {
		t.Error("nothing comes after a full ring")
	}
}

// A reader that waits is woken by every packet, and by Close.
func TestReaderIsWoken(t *testing.T) {
	r := newRing(t, 64<<10)
	got := make(chan int)
	r.Serve(func(p []batch.Packet) { got <- len(p) })
	for range 300 {
		r.run(t, espFrame(peer4, here4, 300))
		if n := <-got; n != 1 {
			t.Fatalf("%d packets", n)
		}
	}
	r.Close()
}

// The layouts of what the kernel reads are its own.
func TestLayouts(t *testing.T) {
	for name, x := range map[string][2]uintptr{
		"map element": {unsafe.Sizeof(mapElem{}), 32}, "program name": {unsafe.Offsetof(progLoad{}.name), 48},
		"expected use": {unsafe.Offsetof(progLoad{}.expectedUse), 68}, "interface": {unsafe.Offsetof(linkInfo{}.ifindex), 16},
	} {
		if x[0] != x[1] {
			t.Errorf("%s: %d, expected %d", name, x[0], x[1])
		}
	}
}
