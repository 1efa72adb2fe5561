// Package datapath is the userspace backend: it takes clear packets from a TUN
// device, protects them with ESP in tunnel, transport or BEET mode, or with AH, and
// sends them over IP or UDP, and the other way round.
//
// Run to completion: each queue of the device has a worker that reads, looks up,
// seals in place and sends; each socket has one that receives, opens in place,
// joins and writes. Workers share the SPD and the SAD through snapshots, and
// allocate nothing per packet.
//
// What it cannot enforce: clear text that arrives from outside and pretends to
// come from behind a tunnel is routed by the kernel and never seen here. Strict
// reverse path filtering (rp_filter = 1) drops it, because the way back leads
// into the device. Describe says so.
package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"iked/crypto/aead"
	"iked/crypto/suite"
	"iked/datapath/ah"
	"iked/datapath/esp"
	"iked/datapath/guard"
	"iked/datapath/ip"
	"iked/datapath/route"
	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/trace"
	"iked/internal/transport/batch"
	"iked/sad"
	"iked/spd"
)

// Datapath implements backend.Backend and backend.AddressInstaller.
type Datapath struct {
	opt Options
	io  IO
	// clock is the coarse time of the workers, Unix nanoseconds.
	clock atomic.Int64
	// gen changes with the SPD and with every outbound SA: what a worker
	// remembers of a flow is valid for one value.
	gen        atomic.Uint64
	table      *spd.Table
	inboundESP spiSpace
	inboundAH  spiSpace
	spaceCPI   sad.SPIs // numbers of compression, and those in use
	cpis       esp.CPIs
	outbound   sad.Table[outSet] // by ReqID

	mu       sync.Mutex // of changes to SAs and policies
	sas      map[sad.ID]any
	groups   map[netip.Addr]int // multicast groups of inbound SAs, by how many have it
	policies map[uint64]spd.Policy
	bypasses map[uint64]spd.Policy // those of policies
	rests    int                   // how many of policies have a rest that leaves in clear
	orphans  time.Time             // when routes that nobody claimed are dropped

	events   backend.Queue
	acquires acquires
	slow     *outWorker      // sends what was held or put together; guarded by slowMu
	frags    *ip.Reassembler // guarded by slowMu
	slowMu   sync.Mutex
	bundles  atomic.Int64 // policies that demand more than one SA
	whole    atomic.Int64 // policies that need whole packets

	counters []*counters
	outs     []*outWorker
	kick     chan struct{} // ask for path MTUs again
	done     chan struct{}
	wg       sync.WaitGroup
	closed   atomic.Bool
	closeErr error
	started  sync.Once
}

var (
	_ backend.Backend          = (*Datapath)(nil)
	_ backend.AddressInstaller = (*Datapath)(nil)
	_ backend.AcquireAnswerer  = (*Datapath)(nil)
)

// New makes the device, the sockets and the rule in the network namespace of
// the calling thread, and starts. The transport in Options.UDP must be open;
// it may start later.
func New(o Options) (*Datapath, error) {
	o = o.withDefaults()
	var undo []func() error
	fail := func(err error) (*Datapath, error) {
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
		return nil, fmt.Errorf("userspace datapath: %w", err)
	}
	warn := func(msg string) {
		o.Log(trace.Record{At: time.Now(), Level: trace.Control, Group: trace.KNL, Warn: true, Msg: msg})
	}
	dev, err := tun.Open(tun.Options{Name: o.Device, Queues: o.Queues, MTU: o.MTU})
	if err != nil {
		return fail(err)
	}
	undo = append(undo, dev.Close)
	io := IO{Device: dev, UDP: o.UDP, Now: time.Now}
	prober, err := batch.NewProber(o.Mark)
	if err != nil {
		return fail(err)
	}
	undo = append(undo, prober.Close)
	io.PathMTU = prober.PathMTU
	if !o.UDPEncapOnly {
		raw, err := openRaw(o.Mark, guard.TableName(dev.Name()), io.PathMTU, warn)
		if err != nil {
			return fail(err)
		}
		undo = append(undo, raw.Close)
		io.Raw = raw
	}
	r, err := route.New(route.Options{Device: dev.Name(), MTU: o.MTU, Table: o.Table, Priority: o.Priority,
		Mark: o.Mark, Warn: warn})
	if err != nil {
		return fail(err)
	}
	io.Router = r
	undo = append(undo, r.Close)
	if g, err := guard.New(dev.Name(), exchangePorts(o), o.Mark); err != nil {
		warn(fmt.Sprintf("clear text that arrives where protection is demanded is not dropped: %v; a kernel with nf_tables and nft_fib can", err))
	} else {
		if g.Incomplete != nil {
			warn(g.Incomplete.Error())
		}
		io.Router = &guarded{Router: r, guard: g, warn: warn}
	}
	d := NewIO(o, io)
	if n := r.Adopted(); n > 0 {
		warn(fmt.Sprintf("%d routes of a process that ended without cleaning up are kept blocked for %v or until a policy claims them", n, backend.Grace))
	}
	return d, nil
}

// NewIO is New on given devices, which it closes at the end.
func NewIO(o Options, io IO) *Datapath {
	o = o.withDefaults()
	if io.Now == nil {
		io.Now = time.Now
	}
	d := &Datapath{opt: o, io: io, table: spd.NewTable(spd.Discard), sas: map[sad.ID]any{}, groups: map[netip.Addr]int{}, policies: map[uint64]spd.Policy{}, bypasses: map[uint64]spd.Policy{},
		kick: make(chan struct{}, 1), done: make(chan struct{})}
	d.clock.Store(io.Now().UnixNano())
	if io.Router != nil && io.Router.Adopted() > 0 {
		d.orphans = io.Now().Add(backend.Grace)
	}
	d.events.Init()
	d.acquires.init(o.HoldFrames)
	queues := io.Device.Queues()
	for i, q := range queues {
		w := newOutWorker(d, i, q)
		d.outs = append(d.outs, w)
	}
	d.slow = newOutWorker(d, 0, queues[0])
	d.slow.big = make([]byte, headroom+65535+tailroom)
	d.frags = ip.NewReassembler(o.FragMemory)
	n := 0
	for _, w := range d.outs {
		d.wg.Go(w.run)
	}
	if io.Raw != nil {
		ins := d.inWorkers(io.Raw.Queues(), &n)
		for i, w := range ins {
			w.proto = io.Raw.Protocol(i)
		}
		io.Raw.Serve(func(q int, p []batch.Packet) { ins[q].batch(p, false) })
	}
	if io.UDP != nil {
		ins := d.inWorkers(io.UDP.ESPQueues(), &n)
		io.UDP.SetESPHandler(func(q int, p []batch.Packet) { ins[q].batch(p, true) })
	}
	d.wg.Go(d.tick)
	return d
}

// inWorkers makes workers for the inbound queues, spread over the device's.
func (d *Datapath) inWorkers(n int, next *int) []*inWorker {
	queues := d.io.Device.Queues()
	ws := make([]*inWorker, n)
	for i := range ws {
		ws[i] = newInWorker(d, queues[*next%len(queues)])
		*next++
	}
	return ws
}

func (d *Datapath) now() time.Time { return time.Unix(0, d.clock.Load()) }

func (d *Datapath) warn(format string, args ...any) {
	d.opt.Log(trace.Record{At: d.now(), Level: trace.Control, Group: trace.ESP, Warn: true, Msg: fmt.Sprintf(format, args...)})
}

// Describe implements backend.Backend.
func (d *Datapath) Describe() backend.Info {
	dev := d.io.Device
	detail := fmt.Sprintf("device %s, %d queues, MTU %d, routing table %d", dev.Name(), len(dev.Queues()), dev.MTU(), d.opt.Table)
	if l, ok := dev.(*tun.Linux); ok {
		if l.Offloads == "" {
			detail += ", no segmentation offload"
		} else {
			detail += ", offloads " + l.Offloads
		}
	}
	switch {
	case d.io.Raw == nil:
		detail += ", UDP encapsulation only"
	case d.io.UDP == nil:
		detail += ", no UDP encapsulation"
	}
	detail += "; " + d.clearText()
	return backend.Info{Name: "userspace", Detail: detail, UDPEncapOnly: d.io.Raw == nil, Supports: Supports}
}

// Supports is what every datapath carries; see backend.Info.
func Supports(proto suite.Protocol, mode spd.Mode, encr, integ suite.Transform, _ bool) (bool, string) {
	switch {
	case mode > spd.BEET:
		return false, fmt.Sprintf("mode %d: the userspace datapath carries tunnel, transport and BEET mode", mode)
	case proto == suite.ProtoIPComp && mode == spd.BEET:
		return false, "compression is for tunnel and transport mode"
	case proto == suite.ProtoIPComp:
		return true, ""
	case proto == suite.ProtoAH && mode == spd.BEET:
		return false, "BEET is a mode of ESP: use transport or tunnel mode with AH"
	case proto == suite.ProtoAH && encr != suite.Transform{}:
		return false, fmt.Sprintf("AH does not encrypt: %v is for ESP", encr)
	case proto == suite.ProtoAH:
		if _, _, err := ah.Lens(integ); err != nil {
			return false, err.Error()
		}
		return true, ""
	case proto != suite.ProtoESP:
		return false, fmt.Sprintf("protocol %v: the userspace datapath carries ESP and AH", proto)
	}
	if _, _, err := aead.KeyLens(encr, integ); err != nil {
		return false, err.Error()
	}
	return true, ""
}

// Events implements backend.Backend.
func (d *Datapath) Events() <-chan backend.Event { return d.events.C() }

// AddAddress implements backend.AddressInstaller.
func (d *Datapath) AddAddress(p netip.Prefix) error {
	if d.io.Router == nil {
		return nil
	}
	return d.io.Router.AddAddress(p)
}

// RemoveAddress implements backend.AddressInstaller.
func (d *Datapath) RemoveAddress(p netip.Prefix) error {
	if d.io.Router == nil {
		return nil
	}
	return d.io.Router.RemoveAddress(p)
}

// Close implements backend.Backend.
func (d *Datapath) Close() error {
	if d.closed.Swap(true) {
		return d.closeErr
	}
	close(d.done)
	var err error
	if d.io.UDP != nil {
		d.io.UDP.SetESPHandler(nil)
	}
	if d.io.Raw != nil {
		err = errors.Join(err, d.io.Raw.Close())
	}
	if d.io.Router != nil {
		err = errors.Join(err, d.io.Router.Close())
	}
	err = errors.Join(err, d.io.Device.Close())
	d.wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events.Close()
	d.closeErr = err
	return err
}
