package xfrm

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/backend"
	"iked/migrate/form"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// listener reads what the kernel tells everybody.
type listener struct {
	file *os.File
	raw  syscall.RawConn
	own  uint32 // the port of our own requests
	out  chan heard

	mu      sync.Mutex
	waiting map[wire.SAID]chan *wire.SA
}

// heard is a notification; the zero value says that some were lost.
type heard struct {
	typ wire.Type
	msg wire.Message
}

// heardQueue is how many notifications wait for their handling; more are lost, and
// then the tables are compared.
const heardQueue = 8192

func newListener(own uint32) (*listener, error) {
	fd, _, err := open(unix.SOCK_NONBLOCK, eventBuffer)
	if err != nil {
		return nil, err
	}
	for _, g := range []int{wire.GroupAcquire, wire.GroupExpire, wire.GroupSA, wire.GroupPolicy, wire.GroupMapping, wire.GroupMigrate} {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("netlink membership", err)
		}
	}
	l := &listener{file: os.NewFile(uintptr(fd), "xfrm events"), own: own, out: make(chan heard, heardQueue), waiting: map[wire.SAID]chan *wire.SA{}}
	if l.raw, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		return nil, err
	}
	return l, nil
}

func (l *listener) close() { l.file.Close() }

// run reads until close. It never waits for whoever handles what it reads.
func (l *listener) run() {
	defer close(l.out)
	buf := make([]byte, maxDatagram)
	for {
		var n int
		var from unix.Sockaddr
		var err error
		if l.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		}) != nil {
			return // closed
		}
		if err != nil {
			// ENOBUFS: notifications were lost.
			l.tell(heard{})
			if !errors.Is(err, unix.ENOBUFS) {
				time.Sleep(keepPeriod)
			}
			continue
		}
		if nl, ok := from.(*unix.SockaddrNetlink); ok && nl.Pid == 0 {
			l.datagram(buf[:n])
		}
		clear(buf[:n]) // keys
	}
}

func (l *listener) datagram(b []byte) {
	for raw, err := range wire.Messages(b) {
		if err != nil {
			l.tell(heard{})
			return
		}
		if raw.Type == wire.ErrorType || raw.Type == wire.DoneType {
			continue
		}
		msg, err := wire.Parse(raw.Type, raw.Body)
		if err != nil {
			// A message of a kind that this version does not know, or one that is cut.
			l.tell(heard{})
			continue
		}
		if raw.Port == l.own {
			l.answer(msg)
			continue
		}
		// Nobody behind needs keys.
		switch m := msg.(type) {
		case *wire.SA:
			m.Destroy()
		case *wire.SAByID:
			m.Destroy()
		case *wire.Expire:
			m.Destroy()
		}
		l.tell(heard{raw.Type, msg})
	}
}

func (l *listener) tell(h heard) {
	select {
	case l.out <- h:
	default:
		// Full: whoever reads it finds the zero value as soon as there is room.
		select {
		case <-l.out:
			select {
			case l.out <- heard{}:
			default:
			}
		default:
		}
	}
}

// expect hands over the last state of an SA that is about to be removed.
func (l *listener) expect(id wire.SAID) <-chan *wire.SA {
	c := make(chan *wire.SA, 1)
	l.mu.Lock()
	l.waiting[id] = c
	l.mu.Unlock()
	return c
}

func (l *listener) forget(id wire.SAID) {
	l.mu.Lock()
	delete(l.waiting, id)
	l.mu.Unlock()
}

// answer handles what our own requests made the kernel tell.
func (l *listener) answer(msg wire.Message) {
	switch m := msg.(type) {
	case *wire.SA:
		m.Destroy()
	case *wire.SAByID:
		l.mu.Lock()
		c := l.waiting[m.SAID]
		l.mu.Unlock()
		if c == nil || m.Attrs.SA == nil {
			m.Destroy()
			return
		}
		sa := &wire.SA{SAInfo: *m.Attrs.SA, Attrs: m.Attrs}
		sa.Attrs.SA = nil
		select {
		case c <- sa:
		default:
			sa.Destroy()
		}
	}
}

// handle is the goroutine of events.
func (b *Backend) handle() {
	for h := range b.heard.out {
		b.mu.Lock()
		if !b.closed {
			b.event(h)
		}
		b.mu.Unlock()
	}
}

func (b *Backend) event(h heard) {
	switch m := h.msg.(type) {
	case nil:
		b.counts[eventsLost]++
		b.resync = true
	case *wire.Acquire:
		b.acquire(m)
	case *wire.Expire:
		b.expire(m)
	case *wire.Mapping:
		b.mapping(m)
	case *wire.SAByID:
		if h.typ == wire.DelSA {
			if b.at(m.SAID) != nil {
				b.resync = true // looked up again before anything is said
			}
		}
	case *wire.Migrate:
		b.migrated(form.FromXFRM(m))
	case *wire.StateMigrate:
		b.migratedSA(m)
	case *wire.FlushSA, *wire.Dump, *wire.PolicyExpire:
		b.resync = true
	case *wire.PolicyByID:
		b.resync = true
	case *wire.Policy:
		if b.entries[keyOf(&m.PolicyInfo, &m.Attrs)] != nil {
			b.resync = true
		}
	}
}

func keyOf(p *wire.PolicyInfo, a *wire.Attrs) policyKey {
	k := policyKey{sel: p.Sel, dir: p.Dir}
	if a.Mark != nil {
		k.mark = spd.Mark{Value: a.Mark.Value, Mask: a.Mark.Mask}
	}
	if a.IfID != nil {
		k.ifID = *a.IfID
	}
	return k
}

// expire handles the end of a lifetime. What expires without being an SA of ours is
// a reservation, or the kernel's note that it asked for one.
func (b *Backend) expire(m *wire.Expire) {
	r := b.at(m.ByID())
	if r == nil || r.dead || r.main != nil {
		return
	}
	r.last = usage(r.id.Dir, &m.SAInfo, &m.Attrs)
	bytes, packets := r.limit.SoftBytes, r.limit.SoftPackets
	if m.Hard {
		bytes, packets = r.limit.HardBytes, r.limit.HardPackets
	}
	why := "time"
	switch {
	case bytes > 0 && m.Used.Bytes >= bytes:
		why = "bytes"
	case packets > 0 && m.Used.Packets >= packets:
		why = "packets"
	}
	if m.Hard {
		b.ended(r)
	}
	b.events.Emit(backend.Expire{ID: r.id, Owner: r.owner, Hard: m.Hard, Why: why})
}

// mappingAgain is when the same new address is told again.
const mappingAgain = 10 * time.Second

func (b *Backend) mapping(m *wire.Mapping) {
	r := b.at(m.ID)
	if r == nil || r.dead || r.main != nil || r.id.Dir != sad.In {
		return
	}
	from := netip.AddrPortFrom(m.NewSrc.Addr(m.ID.Family), m.NewPort)
	now := time.Now()
	if from == r.mapped && now.Sub(r.mappedAt) < mappingAgain {
		return
	}
	if b.events.Emit(backend.Mapping{ID: r.id, Owner: r.owner, From: from, At: now}) {
		r.mapped, r.mappedAt = from, now
	} else {
		b.counts[eventsLost]++
	}
}
