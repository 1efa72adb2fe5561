// Package ring receives ESP without the IP stack: a program of the kernel at the
// entrance of the interfaces copies those packets that are for an SA of this host
// into memory that the datapath reads without a system call, and takes them from
// the stack. So a packet costs neither a route look-up nor a socket nor a wakeup
// of its own.
//
// It takes only what the stack would do nothing else with than give it to the raw
// socket: no firewall on the way in, no transformation, an interface that has no
// other programs of this kind behind it, a whole packet with a destination and an
// SPI that are known. Everything else, and everything on a kernel or with
// privileges that do not allow this, goes through the stack to the raw socket as
// ever. The program goes with the process, however that ends.
//
// It needs Linux 6.6 and CAP_BPF.
package ring

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/datapath/netstate"
	"iked/internal/heartbeat"
)

// Options of New.
type Options struct {
	Mark uint32 // of the daemon's packets, for the look at routes
	// Table is the daemon's own netfilter table, which does not count as a
	// firewall.
	Table string
	// Size is the memory for packets that wait, a power of two; DefaultSize.
	Size int
}

// DefaultSize is that of the buffer of a raw socket.
const DefaultSize = 4 << 20

// maxSPIs bounds the SAs whose packets are taken, and maxPeers the peers whose
// interfaces are looked for; what is more goes through the stack.
const (
	maxSPIs  = 1 << 17
	maxPeers = 1024
)

// Ring takes packets. All methods are safe for concurrent use.
type Ring struct {
	opt   Options
	spis  int // maps and program, descriptors
	ring  int
	state int
	prog  int
	wake  int // ends waiting

	shared   []byte // the state that program and reader share
	consumer []byte // one page with the position of the reader
	producer []byte // one page with that of the program, and twice the memory
	closed   atomic.Bool
	reading  sync.WaitGroup
	count    atomic.Uint64 // packets that were read

	watch *netstate.Watch
	links map[int]int // interface: descriptor; of the look

	mu    sync.Mutex
	peers map[pair]int // SAs
	taken map[key]taking
	own   map[netip.Addr]bool // addresses of this host; the keys of these are in the map
}

type pair struct{ local, remote netip.Addr }

// taking is an SA whose packets are taken.
type taking struct {
	pair
	until time.Time // zero: until Leave
}

type key [keyLen]byte

func keyOf(local netip.Addr, spi uint32) (k key) {
	a := local.As16()
	copy(k[:], a[:])
	binary.BigEndian.PutUint32(k[16:], spi)
	return k
}

// New prepares to take packets of interfaces of the network namespace of the
// calling thread; Take makes a beginning.
func New(o Options) (*Ring, error) {
	if o.Size == 0 {
		o.Size = DefaultSize
	}
	r := &Ring{opt: o, spis: -1, ring: -1, state: -1, prog: -1, wake: -1,
		links: map[int]int{}, peers: map[pair]int{}, taken: map[key]taking{}}
	if err := r.open(); err != nil {
		r.release()
		return nil, fmt.Errorf("ring of received packets: %w", err)
	}
	return r, nil
}

func (r *Ring) open() error {
	page := os.Getpagesize()
	var err error
	if r.spis, err = newMap(mapCreate{mapType: unix.BPF_MAP_TYPE_HASH, keySize: keyLen, valueSize: 4, maxEntries: maxSPIs, flags: unix.BPF_F_NO_PREALLOC}); err != nil {
		return fmt.Errorf("map of SPIs: %w", err)
	}
	if r.ring, err = newMap(mapCreate{mapType: unix.BPF_MAP_TYPE_RINGBUF, maxEntries: uint32(r.opt.Size)}); err != nil {
		return fmt.Errorf("ring of %d octets: %w", r.opt.Size, err)
	}
	if r.state, err = newMap(mapCreate{mapType: unix.BPF_MAP_TYPE_ARRAY, keySize: 4, valueSize: stateSize, maxEntries: 1, flags: unix.BPF_F_MMAPABLE}); err != nil {
		return fmt.Errorf("shared state: %w", err)
	}
	code, err := program(r.spis, r.ring, r.state)
	if err != nil {
		return err
	}
	if r.prog, err = loadProgram(code); err != nil {
		return fmt.Errorf("program: %w", err)
	}
	if r.shared, err = unix.Mmap(r.state, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map shared state: %w", err)
	}
	if r.consumer, err = unix.Mmap(r.ring, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map position: %w", err)
	}
	if r.producer, err = unix.Mmap(r.ring, int64(page), page+2*r.opt.Size, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map ring: %w", err)
	}
	heartbeat.Start() // its reader waits in a system call
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if r.watch, err = netstate.New(); err != nil {
		return err
	}
	r.watch.Start(func(time.Time, bool) { r.look() })
	return nil
}

// Take begins to take the packets of an SA from remote to local, wherever the
// route to remote leaves this host. When they were taken from another peer, none is left
// to the stack in between: it would overtake those that wait here.
func (r *Ring) Take(local, remote netip.Addr, spi uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, p := keyOf(local, spi), pair{local, remote}
	before, there := r.taken[k]
	switch {
	case there && before.pair == p:
		r.taken[k] = taking{pair: p} // and does not end any more
		return
	case r.closed.Load() || r.peers[p] == 0 && len(r.peers) >= maxPeers:
		return
	case !there && len(r.taken) >= maxSPIs:
		return
	case !there && r.own[local] && mapPut(r.spis, k[:], make([]byte, 4)) != nil:
		return // the stack has it
	}
	// When the address is not there yet, the next look puts it into the map.
	r.taken[k] = taking{pair: p}
	if r.peers[p]++; r.peers[p] == 1 {
		r.watch.Wake()
	}
	if there {
		r.forget(before.pair)
	}
}

// forget counts an SA of a peer out.
func (r *Ring) forget(p pair) {
	if r.peers[p]--; r.peers[p] == 0 {
		delete(r.peers, p)
		r.watch.Wake()
	}
}

// Leave ends what Take began, at once or, unless Take comes again, after a while.
func (r *Ring) Leave(local netip.Addr, spi uint32, after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := keyOf(local, spi)
	t, there := r.taken[k]
	if !there {
		return
	}
	if after > 0 {
		t.until = time.Now().Add(after)
		r.taken[k] = t
		time.AfterFunc(after, func() { r.expire(k) })
		return
	}
	r.leave(k, t)
}

// expire ends what is not wanted any more.
func (r *Ring) expire(k key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, there := r.taken[k]; there && !t.until.IsZero() && !time.Now().Before(t.until) {
		r.leave(k, t)
	}
}

func (r *Ring) leave(k key, t taking) {
	delete(r.taken, k)
	if !r.closed.Load() {
		_ = mapDelete(r.spis, k[:]) // what is not there any more needs no deletion
	}
	r.forget(t.pair)
}

// Taken counts the packets that were read.
func (r *Ring) Taken() uint64 { return r.count.Load() }

// Lost counts the packets that found no room.
func (r *Ring) Lost() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() {
		return 0
	}
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.shared[stateFull])))
}

// look attaches the program where packets are expected, and only there.
func (r *Ring) look() {
	r.mu.Lock()
	peers := make([]pair, 0, len(r.peers))
	for p := range r.peers {
		peers = append(peers, p)
	}
	if len(peers) == 0 {
		r.own = nil // until somebody looks
	}
	r.mu.Unlock()
	want := map[int]bool{}
	if len(peers) > 0 && r.watch.Untouched(netstate.In, r.opt.Table) {
		if own, err := r.addresses(); err == nil {
			r.keep(own)
			want = r.entrances(peers, own)
		}
	}
	for index, link := range r.links {
		// One that is gone may have a successor of the same number.
		if !want[index] || attached(link) != index {
			unix.Close(link)
			delete(r.links, index)
		}
	}
	for index := range want {
		if _, there := r.links[index]; there {
			continue
		}
		if link, err := attach(r.prog, index); err == nil {
			r.links[index] = link
		}
	}
}

// addresses are those of this host.
func (r *Ring) addresses() (map[netip.Addr]bool, error) {
	addrs, err := r.watch.NL.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	own := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			own[ip.Unmap()] = true
		}
	}
	return own, nil
}

// keep has in the map of SPIs those of the host's own addresses only: what is for
// another destination is the stack's to forward or to drop, also where the program
// is needed for others.
func (r *Ring) keep(own map[netip.Addr]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.own
	r.own = own
	changed := false
	for p := range r.peers {
		changed = changed || own[p.local] != before[p.local]
	}
	if !changed {
		return
	}
	for k, p := range r.taken {
		switch {
		case r.own[p.local] && !before[p.local]:
			_ = mapPut(r.spis, k[:], make([]byte, 4)) // or the stack has it
		case !r.own[p.local] && before[p.local]:
			_ = mapDelete(r.spis, k[:])
		}
	}
}

// entrances are the interfaces at which packets of the peers may be taken.
func (r *Ring) entrances(peers []pair, own map[netip.Addr]bool) map[int]bool {
	links := map[int]bool{} // whether it may be used
	want := map[int]bool{}
	for _, p := range peers {
		if !own[p.local] {
			continue
		}
		routes, err := r.watch.NL.RouteGetWithOptions(p.remote.AsSlice(), &netlink.RouteGetOptions{SrcAddr: p.local.AsSlice(), Mark: r.opt.Mark})
		if err != nil || len(routes) != 1 || routes[0].Type != unix.RTN_UNICAST {
			continue
		}
		index := routes[0].LinkIndex
		usable, known := links[index]
		if !known {
			usable = r.usable(index)
			links[index] = usable
		}
		if usable {
			want[index] = true
		}
	}
	return want
}

// usable tells whether the stack handles what arrives at an interface, and nobody
// else: no bridge, bond or VRF that it is a port of, no traffic control.
func (r *Ring) usable(index int) bool {
	link, err := r.watch.NL.LinkByIndex(index)
	if err != nil {
		return false
	}
	a := link.Attrs()
	if a.MasterIndex != 0 || a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 {
		return false
	}
	qdiscs, err := r.watch.NL.QdiscList(link)
	if err != nil {
		return false
	}
	for _, q := range qdiscs {
		if q.Attrs().Parent == netlink.HANDLE_INGRESS {
			return false
		}
	}
	return true
}

// Close takes the program away and ends the reader; it waits for both.
func (r *Ring) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	one := [8]byte{7: 1}
	_, err := unix.Write(r.wake, one[:])
	r.reading.Wait()
	r.watch.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release()
	return err
}

func (r *Ring) release() {
	if r.watch != nil {
		r.watch.Close()
	}
	for _, link := range r.links {
		unix.Close(link)
	}
	for _, m := range [][]byte{r.shared, r.consumer, r.producer} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	for _, fd := range []int{r.prog, r.spis, r.ring, r.state, r.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
