// Package engine owns all IKE SAs. It drives the IKEv2 state machine, which does
// no input or output of its own, connects it with the sockets, the backend, the
// credentials and the configuration, and keeps the tunnels up that the
// configuration wants.
//
// Three kinds of goroutine hold the state, and each is reached by messages only:
//
//	shard       owns a part of the IKE SAs; one SA never leaves its shard
//	supervisor  owns the connections: what should be up, and when to try again
//	worker      does slow computation (signatures, large groups) for the shards
//
// Before them stands the gate, which looks at a datagram without keeping
// anything of a stranger's.
package engine

import (
	"context"
	"errors"
	"hash/maphash"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/backend"
	"iked/internal/trace"
)

// Transport puts IKE datagrams on the wire. natt asks for the NAT traversal port
// with its non-ESP marker; dscp are the six bits of the IP header. data is not kept
// after the call.
type Transport interface {
	Send(local, remote netip.AddrPort, data []byte, natt bool, dscp uint8) error
	// Keepalive sends the one octet 0xFF (RFC 3948, Section 2.3).
	Keepalive(local, remote netip.AddrPort) error
}

// Resolver looks up the addresses of a name; *net.Resolver has the method.
// network is "ip", "ip4" or "ip6".
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Routes tells which own address packets to a destination leave from.
type Routes interface {
	LocalFor(remote netip.Addr) (netip.Addr, error)
}

// NameServers puts name servers that a peer assigned into use, with the domain that
// goes with them, and takes them out again.
type NameServers interface {
	Use(owner string, servers []netip.Addr, domain string) error
	Drop(owner string) error
}

// Store keeps small state over restarts. A missing entry is (nil, nil).
type Store interface {
	Load(name string) ([]byte, error)
	Save(name string, data []byte) error
}

// Options are what an engine is made of. Backend and Transport are required.
type Options struct {
	Backend   backend.Backend
	Transport Transport
	Resolver  Resolver    // nil: names cannot be used
	Routes    Routes      // nil: connections need an own address
	DNS       NameServers // nil: assigned name servers are only logged
	Users     Users       // nil: users of XAuth are those of the secrets alone
	// Why tells, as half a sentence, why it is this backend.
	Why string
	// Interfaces makes devices for route-based tunnels; nil: there are none.
	Interfaces Interfaces
	Store      Store // nil: leases are not kept
	// Log receives every record. It must not block.
	Log func(trace.Record)
	// LogLevel is the most talkative level that Log gets.
	LogLevel trace.Level
	// KINK is the port of KINK, and Kerberos makes what it needs of Kerberos; nil: KINK
	// is not spoken.
	KINK     KINKPort
	Kerberos func(KerberosSetup) (Kerberos, error)
	// Load reads the configuration again, for Reload. Nil: there is no file.
	Load func() (*conf.Config, error)
	// Shards and Workers; 0: one for each CPU.
	Shards, Workers int
	// QueueLen bounds the datagrams that wait for one shard; 0: 1024.
	QueueLen int
	// Version is what Version reports.
	Version string
}

// Engine owns all IKE SAs. Its methods are safe for concurrent use.
type Engine struct {
	opt     Options
	started time.Time

	shards []*shard
	sup    *supervisor
	work   *workers
	kdc    *workers // that wait for KDCs
	gate   *gate
	bus    bus

	spis      spiTable
	children  childTable
	policies  *policies
	statics   *statics
	devices   devices
	virtual   virtual
	migrates  migrates
	homes     homes
	wanderers wanderers
	peers     maphash.Seed // spreads peers over shards
	pools     *pools
	store     *credStore
	users     userChecks
	failures  failureLog

	total     counterSet
	connCount connCounters
	drops     reasons

	nextIKE   atomic.Uint32
	nextChild atomic.Uint32
	ikeCount  atomic.Int64
	logLevel  atomic.Uint32
	make      makers

	config   atomic.Pointer[program]
	kerberos atomic.Pointer[kerberosState]
	kink     kinkState
	known    kinkPeers

	loading sync.Mutex // one configuration change at a time
	src     sources    // under loading

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	down   atomic.Bool
}

// New makes an engine and starts its goroutines. It holds no configuration:
// Apply gives it one.
func New(opt Options) (*Engine, error) {
	if opt.Backend == nil || opt.Transport == nil {
		return nil, errors.New("engine: a backend and a transport are needed")
	}
	if opt.Shards <= 0 {
		opt.Shards = runtime.GOMAXPROCS(0)
	}
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	if opt.QueueLen <= 0 {
		opt.QueueLen = 1024
	}
	e := &Engine{opt: opt, started: time.Now()}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.logLevel.Store(uint32(opt.LogLevel))
	e.make = realMakers()
	e.policies = newPolicies(opt.Backend)
	e.statics = newStatics(e)
	e.devices.via = opt.Interfaces
	e.spis.init()
	e.peers = maphash.MakeSeed()
	e.children.init()
	e.store = newCredStore()
	e.config.Store(emptyProgram())
	e.pools = newPools(opt.Store, e.warnf)
	e.gate = newGate(e)
	e.sup = newSupervisor(e)
	e.work = newWorkers(e, opt.Workers)
	e.kdc = newWorkers(e, kdcWorkers)
	e.known.e = e
	e.known.load()
	e.kink.epoch = nextEpoch(opt.Store, e.started, func(format string, args ...any) { e.warnf(trace.DMN, format, args...) })
	for i := range opt.Shards {
		e.shards = append(e.shards, newShard(e, i))
	}
	e.wg.Add(len(e.shards) + 2)
	for _, s := range e.shards {
		go s.run()
	}
	go e.sup.run()
	go e.watchBackend()
	return e, nil
}

// Close deletes all IKE SAs, waiting at most until ctx ends for the peers to
// answer, takes the policies out of the backend and ends all goroutines. The
// backend and the transport are the caller's to close, after.
func (e *Engine) Close(ctx context.Context) error {
	if e.down.Swap(true) {
		return nil
	}
	e.sup.stop()
	e.deleteAll(ctx)
	e.cancel()
	e.sup.box.close()
	for _, s := range e.shards {
		s.box.close()
	}
	e.work.close()
	e.kdc.close()
	e.kerberos.Store(nil)
	e.wg.Wait()
	e.gate.graves.clear()
	err := errors.Join(e.statics.clear(), e.policies.clear(), e.devices.sweep(true))
	e.pools.flush()
	e.known.flush()
	e.bus.close()
	return err
}

// deleteAll starts the deletion of every IKE SA and waits for the end of them.
func (e *Engine) deleteAll(ctx context.Context) {
	for _, s := range e.shards {
		s.do(func(s *shard) {
			for _, x := range s.all() {
				s.start(x, ikev2.Delete{Why: ikev2.CloseAsked})
			}
		})
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for e.ikeCount.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, s := range e.shards {
				s.wait(context.Background(), func(s *shard) {
					for _, x := range s.all() {
						s.start(x, ikev2.Delete{Force: true, Why: ikev2.CloseAsked})
						s.bury(x, ikev2.Closed{Reason: ikev2.CloseAsked})
					}
				})
			}
			return
		}
	}
}

// watchBackend passes the backend's events on. It ends when the backend closes
// or the engine does.
func (e *Engine) watchBackend() {
	defer e.wg.Done()
	events := e.opt.Backend.Events()
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				if e.ctx.Err() == nil {
					e.warnf(trace.KNL, "the backend ended its events: no rekeying by volume and no on-demand tunnels until a restart")
				}
				return
			}
			e.backendEvent(ev)
		case <-e.ctx.Done():
			return
		}
	}
}

func (e *Engine) backendEvent(ev backend.Event) {
	switch ev := ev.(type) {
	case backend.Acquire:
		e.acquire(ev)
	case backend.Expire:
		if c := e.children.get(ev.Owner); c != nil {
			c.shard.do(func(s *shard) { s.childExpired(c, ev) })
		} else if ev.Owner == 0 {
			e.statics.expired(ev)
		}
	case backend.Mapping:
		if c := e.children.get(ev.Owner); c != nil {
			c.shard.do(func(s *shard) {
				if c.ike != nil {
					s.start(c.ike, ikev2.PeerMoved{Remote: ev.From})
				}
			})
		}
	case backend.Migrate:
		if _, err := e.Migrate(e.ctx, ev.Event); err != nil && e.ctx.Err() == nil {
			e.warnf(trace.KNL, "%v", err)
		}
	case backend.MigrateSA:
		if _, err := e.MigrateSA(e.ctx, ev.Event); err != nil && e.ctx.Err() == nil {
			e.warnf(trace.KNL, "%v", err)
		}
	case backend.InvalidSelectors:
		e.drops.add("esp-invalid-selectors")
		r := trace.Record{Level: trace.Detail, Group: trace.ESP, Warn: true,
			Msg: "inbound packet " + ev.Flow.Local.String() + " from " + ev.Flow.Remote.String() + " does not fit the selectors of its SA, dropped"}
		if c := e.children.get(ev.Owner); c != nil {
			r.Child = c.name()
			r.Conn = c.conn
		}
		e.log(r)
	}
}
