package ring

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"iked/datapath/ip"
	"iked/internal/transport/batch"
)

// batchSize is the number of packets that are read together: as many as make
// two of the largest frames for the device.
const batchSize = 96

// reader takes packets out of the ring. The kernel does not let anybody write
// into the ring, and packets are opened in place: so they are copied.
type reader struct {
	r       *Ring
	wanted  *uint32
	behind  *uint64 // how far the reader is
	ahead   *uint64 // how far the program is
	data    []byte
	mask    uint64
	at      uint64
	buf     []byte
	packets []batch.Packet
	pace    batch.Pace
}

func newReader(r *Ring) *reader {
	page := os.Getpagesize()
	return &reader{r: r,
		wanted: (*uint32)(unsafe.Pointer(&r.shared[stateWanted])),
		behind: (*uint64)(unsafe.Pointer(&r.consumer[0])),
		ahead:  (*uint64)(unsafe.Pointer(&r.producer[0])),
		data:   r.producer[page:],
		mask:   uint64(r.opt.Size - 1),
		// Room for the last packet beyond the others.
		buf:     make([]byte, batchSize*2048+int(records[len(records)-1])),
		packets: make([]batch.Packet, 0, batchSize),
	}
}

// Serve calls f with received packets until Close, in the form of raw sockets:
// whole packets of IPv4, for IPv6 what follows the IP header. They are f's until it
// returns. f is called from one goroutine.
func (r *Ring) Serve(f func([]batch.Packet)) {
	rd := newReader(r)
	r.reading.Go(func() {
		for {
			p := rd.read()
			if p == nil {
				return
			}
			f(p)
		}
	})
}

// read waits for packets; nil: closed.
func (rd *reader) read() []batch.Packet {
	if !rd.pace.Full() {
		batch.Rest()
	}
	for !rd.r.closed.Load() {
		if rd.collect(); len(rd.packets) > 0 {
			rd.pace.Read(len(rd.packets), time.Now())
			return rd.packets
		}
		if !rd.await() {
			return nil
		}
		if !rd.pace.Woken(time.Now()) {
			batch.Rest()
		}
	}
	return nil
}

// collect copies what the ring has.
func (rd *reader) collect() {
	rd.packets = rd.packets[:0]
	free := rd.buf
	ahead := atomic.LoadUint64(rd.ahead)
	for rd.at < ahead && len(rd.packets) < batchSize && len(free) >= int(records[len(records)-1]) {
		record := rd.data[rd.at&rd.mask:]
		head := atomic.LoadUint32((*uint32)(unsafe.Pointer(&record[0])))
		if head&unix.BPF_RINGBUF_BUSY_BIT != 0 {
			break // not written yet
		}
		n := head &^ (unix.BPF_RINGBUF_BUSY_BIT | unix.BPF_RINGBUF_DISCARD_BIT)
		rd.at += uint64(n+unix.BPF_RINGBUF_HDR_SZ+7) &^ 7
		if head&unix.BPF_RINGBUF_DISCARD_BIT != 0 {
			continue
		}
		record = record[unix.BPF_RINGBUF_HDR_SZ:]
		m := copy(free, record[recordHeader:recordHeader+binary.NativeEndian.Uint32(record)])
		if p, ok := packet(free[:m:m]); ok {
			rd.packets = append(rd.packets, p)
			free = free[m:]
		}
	}
	rd.r.count.Add(uint64(len(rd.packets)))
	// The copies come before.
	atomic.StoreUint64(rd.behind, rd.at)
}

// packet describes an IP packet, of which the program has looked at the length;
// false: the header is damaged.
func packet(b []byte) (batch.Packet, bool) {
	if b[0]>>4 == 6 {
		return batch.Packet{
			Data:   b[ip.IPv6HeaderLen:],
			Local:  netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0),
			Remote: netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0),
			TOS:    b[0]<<4 | b[1]>>4,
		}, true
	}
	return batch.Packet{
		Data:   b,
		Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0),
		Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0),
		TOS:    b[1],
	}, ip.Checksum(b[:ip.IPv4HeaderLen], 0) == 0
}

// await waits until there is something in the ring; false: closed.
func (rd *reader) await() bool {
	// Asking to be woken comes before poll looks at the ring, see the program.
	atomic.SwapUint32(rd.wanted, 1)
	fds := [2]unix.PollFd{{Fd: int32(rd.r.ring), Events: unix.POLLIN}, {Fd: int32(rd.r.wake), Events: unix.POLLIN}}
	_, _, e := unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 2, 0, 0, 0, 0)
	atomic.StoreUint32(rd.wanted, 0)
	return (e == 0 || e == unix.EINTR) && fds[1].Revents == 0
}
