// Package xfrm is the kernel backend: SAs and policies are given to the IPsec
// stack of the Linux kernel (XFRM) over netlink, which carries the packets.
//
// Keys are in the kernel alone. What must be known to repair the kernel's tables
// is kept: the policies as a whole, the SAs without keys. An SA that somebody else
// removed is therefore not put back, which would use sequence numbers twice, but
// told as expired.
package xfrm

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"iked/internal/backend"
	"iked/internal/trace"
	"iked/internal/transport/batch"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// Options of New. The zero value of a field is its default.
type Options struct {
	// Log gets what a person should know; it must not block. nil: none.
	Log func(trace.Record)
	// State is a folder for the journal of what was put into the kernel, so that a
	// process that starts after a crash finds it and touches nothing else. "": none,
	// and then what a crashed process left behind stays.
	State string
	// Device gets virtual addresses (RFC 7296, Section 2.19); DefaultDevice. It is
	// made when the first address comes, and removed with the last.
	Device string
	// Mark is that of the packets of IKE, which never go to that device: also to an
	// address of a peer that is behind its own tunnel; 0: they have none.
	Mark uint32
	// Sweep is how often the kernel is compared with what should be there;
	// DefaultSweep.
	Sweep time.Duration
}

// Defaults of Options.
const (
	DefaultDevice = "ipsec0"
	DefaultSweep  = 30 * time.Second
)

// Backend implements backend.Backend with the kernel's IPsec stack.
type Backend struct {
	opt    Options
	report Report
	req    *socket // changes and questions
	tables *socket // dumps, which take long
	heard  *listener
	keys   *keyListener // nil: there is no PF_KEY
	events backend.Queue
	paths  *batch.Prober
	stat   *os.File // xfrm_stat of the network namespace; nil: the kernel has none

	mu        sync.Mutex
	sas       map[sad.ID]*saRecord
	bySAID    map[wire.SAID]*saRecord
	nexts     map[wire.SAID]*saRecord // by where somebody else has moved them
	inbound   map[spiKey]*saRecord
	serving   map[uint32]int // ReqID to living outbound SAs
	larval    map[spiKey]reservation
	policies  map[uint64]*policyRecord
	discarded discarded
	byReqID   map[uint32]map[uint64]*policyRecord // those that fail open
	entries   map[policyKey]*entry
	age       uint64
	asking    asking
	journal   *journal
	retryAt   time.Time // when the journal and leftovers are tried again
	orphans   time.Time // when policies that nobody claimed are removed
	grace     time.Duration
	// unsettled are keys of a crashed process that the kernel refused to change.
	unsettled map[policyKey]bool
	drift     map[string]bool
	sweepAt   time.Time
	resync    bool
	// holdUntil: nothing is compared before.
	holdUntil time.Time
	recent    recent
	buried    []buried
	watchAt   time.Time
	addrs     addresses
	counts    [numCounts]uint64

	done     chan struct{}
	wg       sync.WaitGroup
	closed   bool
	closeErr error
	once     sync.Once
}

var (
	_ backend.Backend          = (*Backend)(nil)
	_ backend.AddressInstaller = (*Backend)(nil)
	_ backend.AcquireAnswerer  = (*Backend)(nil)
	_ backend.AcquireTaker     = (*Backend)(nil)
)

// New opens the backend in the network namespace of the calling thread. It finds
// out what the kernel has and takes over what a process that ended without Close
// left there.
func New(o Options) (*Backend, error) {
	b := newBackend(o)
	if err := b.start(); err != nil {
		b.release()
		return nil, fmt.Errorf("kernel backend: %w", err)
	}
	return b, nil
}

func newBackend(o Options) *Backend {
	if o.Log == nil {
		o.Log = func(trace.Record) {}
	}
	if o.Device == "" {
		o.Device = DefaultDevice
	}
	if o.Sweep == 0 {
		o.Sweep = DefaultSweep
	}
	return &Backend{
		opt: o, grace: backend.Grace, unsettled: map[policyKey]bool{}, sas: map[sad.ID]*saRecord{}, bySAID: map[wire.SAID]*saRecord{}, nexts: map[wire.SAID]*saRecord{}, inbound: map[spiKey]*saRecord{}, serving: map[uint32]int{},
		larval: map[spiKey]reservation{}, policies: map[uint64]*policyRecord{}, discarded: discarded{}, byReqID: map[uint32]map[uint64]*policyRecord{},
		entries: map[policyKey]*entry{}, drift: map[string]bool{}, done: make(chan struct{}),
	}
}

func (b *Backend) start() (err error) {
	if b.req, err = newSocket(); err != nil {
		return err
	}
	if b.tables, err = newSocket(); err != nil {
		return err
	}
	if b.report, err = probe(b.req); err != nil {
		return err
	}
	if b.report.Unusable != "" {
		return errors.New(b.report.Unusable)
	}
	// The listener comes before the first policy: without one the kernel asks
	// nobody, and a packet without an SA is an error at once.
	if b.heard, err = newListener(b.req.port); err != nil {
		return err
	}
	b.listenPFKey()
	if b.stat, err = os.Open("/proc/thread-self/net/xfrm_stat"); err != nil {
		b.stat = nil // CONFIG_XFRM_STATISTICS is not set
	}
	if b.paths, err = batch.NewProber(0); err != nil {
		return err
	}
	if b.addrs, err = newAddresses(b.opt.Device, b.opt.Mark); err != nil {
		return err
	}
	if b.journal, err = openJournal(b.opt.State); errors.Is(err, errInUse) {
		return err
	}
	b.watchJournal(err)
	b.events.Init()
	b.asking.init()
	b.adopt()
	b.sweepAt = time.Now().Add(b.opt.Sweep)
	b.wg.Go(b.heard.run)
	b.wg.Go(b.handle)
	if b.keys != nil {
		b.wg.Go(b.hearPFKey)
	}
	b.wg.Go(b.keep)
	return nil
}

// release closes what is open.
func (b *Backend) release() {
	if b.heard != nil {
		b.heard.close()
	}
	b.keys.close()
	for _, s := range []*socket{b.req, b.tables} {
		if s != nil {
			s.close()
		}
	}
	if b.stat != nil {
		b.stat.Close()
	}
	if b.paths != nil {
		b.paths.Close()
	}
	b.addrs.close()
	b.journal.close()
}

func (b *Backend) log(warn bool, format string, args ...any) {
	b.opt.Log(trace.Record{At: time.Now(), Level: trace.Control, Group: trace.KNL, Warn: warn, Msg: fmt.Sprintf(format, args...)})
}

// Describe implements backend.Backend.
func (b *Backend) Describe() backend.Info {
	return backend.Info{Name: "kernel", Detail: b.report.String(), Supports: b.report.Supports}
}

// Events implements backend.Backend.
func (b *Backend) Events() <-chan backend.Event { return b.events.C() }

// count is the index of a counter of the backend itself.
type count int

const (
	acquires      count = iota // questions of the kernel
	acquiresStale              // there was an SA meanwhile, or an answer is pending
	acquiresOther              // of policies that do not ask, or of the second SPD and no SA of ESP or AH
	eventsLost
	repaired // differences that were repaired
	removed  // SAs that somebody else removed
	migratesRefused
	numCounts
)

var countNames = [numCounts]string{"acquires", "acquires_stale", "acquires_other", "events_lost", "repaired", "sas_removed_by_others", "migrates_refused"}

// Counters implements backend.Backend: the backend's own counters, and those of
// the kernel in /proc/net/xfrm_stat under their names there.
func (b *Backend) Counters() map[string]uint64 {
	m := make(map[string]uint64, 48)
	b.mu.Lock()
	for i, n := range b.counts {
		m[countNames[i]] = n
	}
	b.mu.Unlock()
	if b.stat == nil {
		return m
	}
	buf := make([]byte, 8192)
	n, _ := b.stat.ReadAt(buf, 0)
	for line := range strings.Lines(string(buf[:n])) {
		var name string
		var v uint64
		if _, err := fmt.Sscan(line, &name, &v); err == nil {
			m[name] = v
		}
	}
	return m
}

// keepPeriod is the grain of the housekeeping.
const keepPeriod = 100 * time.Millisecond

// keep is the housekeeping: events that waited, reservations, what a crashed
// process left, the comparison with the kernel.
func (b *Backend) keep() {
	t := time.NewTicker(keepPeriod)
	defer t.Stop()
	for {
		select {
		case <-b.done:
			return
		case now := <-t.C:
			b.events.Retry()
			b.lapse(now)
			b.answer(now)
			b.watchOpen(now)
			b.dropOrphans(now)
			b.retryIfDue(now)
			b.sweepIfDue(now)
		}
	}
}

// Close implements backend.Backend: it removes what the backend put into the
// kernel, and nothing else.
func (b *Backend) Close() error {
	b.once.Do(func() {
		b.mu.Lock()
		b.closed = true
		b.mu.Unlock()
		close(b.done)
		b.heard.close()
		b.keys.close()
		b.wg.Wait()
		b.mu.Lock()
		b.giveUp()
		b.closeErr = errors.Join(b.removeAll(), b.addrs.removeAll(), b.journal.remove())
		b.mu.Unlock()
		b.release()
		b.events.Close()
	})
	return b.closeErr
}

// removeAll takes SAs and policies out of the kernel. SAs go first: a policy
// without one protects by dropping. What stays all the same stays in the journal.
func (b *Backend) removeAll() error {
	var reqs []request
	var lines []string // of the journal; "" is none
	remove := func(r request, line string) { reqs, lines = append(reqs, r), append(lines, line) }
	for _, r := range b.sas {
		if r.elsewhere() {
			remove(r.there().deletion(), r.there().line())
		}
		for ; r != nil && !r.dead; r = r.comp {
			remove(r.deletion(), r.line())
		}
	}
	for k, v := range b.larval {
		remove(v.deletion(k), "")
	}
	for k, e := range b.entries {
		if e.have != nil {
			remove(k.deletion(), leftover{policy: k.byID()}.line())
		}
	}
	if b.journal != nil {
		for _, l := range b.journal.left {
			if !b.claimed(l) {
				remove(l.deletion(), l.line())
			}
		}
	}
	var first error
	var done []string
	for i, r := range b.req.do(reqs) {
		switch {
		case r.err == nil || gone(r.err):
			done = append(done, lines[i])
		case first == nil:
			first = r.err
		}
	}
	b.journal.forget(done)
	return first
}

// live is the first line of every method.
func (b *Backend) live() error {
	if b.closed {
		return backend.ErrClosed
	}
	return nil
}

// spiKey is an inbound SPI: the same number at another address would be ambiguous
// (RFC 4301, Section 4.1), but for the groups of multicast.
type spiKey struct {
	proto uint8
	spi   uint32
	group wire.Address // zero: unicast
}

// markOf is nil for no mark.
func markOf(m spd.Mark) *wire.Mark {
	if m == (spd.Mark{}) {
		return nil
	}
	return &wire.Mark{Value: m.Value, Mask: m.Mask}
}
