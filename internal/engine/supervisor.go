package engine

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink"
	"iked/migrate"
	"iked/spd"
)

// supervisor owns what should be up. It is one goroutine; the shards and the
// control protocol reach it by messages.
type supervisor struct {
	e      *Engine
	global conf.Global
	box    *mailbox[func()]
	conns  map[string]*connState
	sas    map[uint32]*saState // changed by enter and leave only
	index  peerIndex
	ops    []*operation
	waits  []*termination
	// unclaimed are questions of policies of others.
	unclaimed []unclaimed
	stopped   bool
}

// connState is a connection and what is being done for it.
type connState struct {
	name string
	prog *connProgram
	kids map[string]*kidState
	// names of kids, in the order of the configuration
	order    []string
	attempt  *attempt
	failures int // attempts in a row that failed
	started  time.Time
	begun    migrate.Ends // of the last attempt; invalid while they are looked for
	timer    *time.Timer
	// ikeOnly asks for the IKE SA without a child.
	ikeOnly bool
	// peers are those of many that something was tried with.
	peers map[netip.Addr]*peerState
}

// kidState is one configured child.
type kidState struct {
	looks int // how often its standing entries were looked for; an older look is over
	conf  *conf.Child
	ike   *ikev2.ChildConfig // nil for pass and drop
	// always: it must be up; tries: how many attempts are left otherwise, -1 for
	// ever.
	always bool
	tries  int
	// held: an operator took it down.
	held     bool
	live     map[uint32]*liveChild
	pending  uint32 // the IKE SA that negotiates it
	since    time.Time
	failures int
	retryAt  time.Time
	flow     *spd.Flow // a packet that waits
	asked    *asked    // what the backend wants an answer for
	// perPacket: packets make its CHILD_SAs, one for each value; demands are those
	// that wait, by what tells them apart.
	perPacket bool
	demands   map[spd.Flow]*demand
}

// liveChild is a CHILD_SA that is up.
type liveChild struct {
	info ChildInfo
	ike  uint32
}

// attempt is an IKE SA being set up.
type attempt struct {
	conn     *connState
	kid      string // "" for none
	flow     *spd.Flow
	ike      uint32 // 0 while names are resolved
	reauthOf uint32
	began    time.Time
	demand   *demand        // whose packet it carries
	kink     kink.Principal // of the peer, with KINK
	peer     netip.Addr     // one of many
	local    netip.Addr     // the own address; invalid while it is looked for
}

// saState is an IKE SA as the supervisor knows it.
type saState struct {
	info    SAInfo
	created time.Time
	upAt    time.Time
	closing bool
	// reauth: this SA replaces another by reauthentication; waiting are the
	// children that must be up before that one goes.
	reauthOf uint32
	waiting  map[string]bool
	replaced bool // another SA is being made in its place
	// live are its CHILD_SAs that are up.
	live []*liveChild
	// key and next are of peerIndex.
	key  uint64
	next *saState
}

func newSupervisor(e *Engine) *supervisor {
	return &supervisor{e: e, box: newMailbox[func()](0), conns: make(map[string]*connState), sas: make(map[uint32]*saState), index: newPeerIndex()}
}

func (p *supervisor) post(fn func()) { p.box.post(fn) }

// wait runs fn on the supervisor's goroutine.
func (p *supervisor) wait(ctx context.Context, fn func()) error {
	done := make(chan struct{})
	if !p.box.post(func() { defer close(done); fn() }) {
		return errClosed
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.e.ctx.Done():
		return errClosed
	}
}

func (p *supervisor) run() {
	defer p.e.wg.Done()
	var own, none []func()
	for {
		own, none = p.box.take(own, none)
		for _, fn := range own {
			p.guard(fn)
		}
		if len(own) > 0 {
			continue
		}
		if p.box.isClosed() {
			p.end()
			return
		}
		<-p.box.wake
	}
}

// guard contains a panic: the supervisor goes on.
func (p *supervisor) guard(fn func()) {
	defer func() {
		if r := recover(); r != nil {
			p.e.panicked("", 0, r)
		}
	}()
	fn()
}

// stop ends all efforts to bring something up, before the SAs are deleted.
func (p *supervisor) stop() {
	p.wait(context.Background(), func() {
		p.stopped = true
		for _, c := range p.conns {
			c.stopTimer()
		}
	})
}

// end answers those who still wait.
func (p *supervisor) end() {
	for _, o := range p.ops {
		o.finish(errClosed)
	}
	for _, t := range p.waits {
		t.finish()
	}
}

func (c *connState) stopTimer() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}

// Waits between attempts: the first comes quickly, the next doubled, at most
// retryMax apart, each varied so that many gateways do not knock at once. They
// count from the start of an attempt, which lasts as long as its
// retransmissions; at least retryMin lies between two.
const (
	retryFirst = 2 * time.Second
	retryMin   = time.Second
	retryMax   = 90 * time.Second
)

func backoff(failures int) time.Duration {
	d := retryFirst
	for i := 1; i < failures && d < retryMax; i++ {
		d *= 2
	}
	return vary(min(d, retryMax))
}

// vary changes a duration by up to a fifth either way.
func vary(d time.Duration) time.Duration {
	return d*4/5 + rand.N(d*2/5+1)
}

// wanted tells whether a child should be brought up now.
func (k *kidState) wanted() bool {
	if k.ike == nil || k.held {
		return false
	}
	if k.idle() != nil {
		return true
	}
	if k.pending != 0 {
		return false
	}
	if k.flow != nil {
		return true
	}
	return len(k.live) == 0 && (k.always || k.tries != 0)
}

// tend does what a connection needs now, and sets its alarm for what it needs
// later.
func (p *supervisor) tend(c *connState) {
	if p.stopped || p.conns[c.name] != c {
		return
	}
	c.stopTimer()
	now := time.Now()
	var due []*kidState
	var next time.Time
	many := c.prog.conf.ManyPeers()
	if many {
		p.tendPeers(c)
	}
	for _, name := range c.order {
		k := c.kids[name]
		if !k.wanted() || many && k.idle() != nil {
			continue
		}
		if k.retryAt.After(now) {
			next = earlier(next, k.retryAt)
			continue
		}
		due = append(due, k)
	}
	if len(due) == 0 && !c.ikeOnly {
		// Nothing to bring up now.
	} else if sa := p.usable(c); sa != nil {
		c.ikeOnly = false
		for _, k := range due {
			p.create(c, k, sa)
		}
	} else if c.attempt == nil {
		if wait := c.nextAttempt(now); wait.After(now) {
			next = earlier(next, wait)
		} else {
			var k *kidState
			if len(due) > 0 {
				k = due[0]
			}
			p.begin(c, k, 0)
		}
	}
	if !next.IsZero() {
		c.timer = time.AfterFunc(time.Until(next), func() { p.post(func() { p.tend(c) }) })
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// nextAttempt is when the next IKE SA may be tried.
func (c *connState) nextAttempt(now time.Time) time.Time {
	if c.failures == 0 {
		return now
	}
	return c.started
}

// usable is an established IKE SA of a connection that children can be made
// with, the newest one.
func (p *supervisor) usable(c *connState) *saState {
	if !p.hasSA(c.name) {
		return nil
	}
	var best *saState
	for _, s := range p.sas {
		if s.info.Conn == c.name && !s.closing && !s.replaced && (best == nil || s.upAt.After(best.upAt)) {
			best = s
		}
	}
	return best
}

// create makes a child with an IKE SA that is up.
func (p *supervisor) create(c *connState, k *kidState, sa *saState) {
	if k.idle() != nil {
		p.createDemands(k, sa, func(*demand) bool { return true })
		return
	}
	k.pending, k.since = sa.info.UniqueID, time.Now()
	task := ikev2.CreateChild{Child: k.ike, Flow: k.flow}
	k.flow = nil
	if !p.e.startTask(sa.info.UniqueID, task) {
		k.pending = 0
	}
}

// begin starts an attempt: names are resolved, then the IKE SA is initiated.
func (p *supervisor) begin(c *connState, k *kidState, reauthOf uint32) {
	a := &attempt{conn: c, reauthOf: reauthOf, began: time.Now()}
	if k != nil {
		a.kid, a.flow = k.conf.Name, k.flow
		k.flow = nil
		if d := k.idle(); d != nil {
			a.flow, a.demand, d.begun = &d.flow, d, true
		}
		for _, l := range k.live {
			if reauthOf != 0 && l.ike == reauthOf && a.flow == nil {
				a.flow = l.info.flow
			}
		}
	}
	c.attempt, c.started, c.begun = a, a.began, migrate.Ends{}
	turn := c.failures
	go func() {
		local, remote, err := p.e.addresses(c.prog.conf, turn)
		if err == nil && c.prog.conf.Version == conf.VersionKINK {
			a.kink, err = p.e.kinkPeer(c.prog.conf, remote.Addr())
		}
		p.post(func() { p.launch(a, local, remote, err) })
	}()
}

// launch initiates the IKE SA of an attempt.
func (p *supervisor) launch(a *attempt, local, remote netip.AddrPort, err error) {
	c := a.conn
	if p.stopped || !a.current() {
		return
	}
	if p.conns[c.name] != c {
		a.end()
		return
	}
	if err != nil {
		f := trace.Failure{At: time.Now(), Stage: trace.StageReach, Conn: c.name, Child: a.kid, Initiator: true,
			Sentence: fmt.Sprintf("connection %s cannot be initiated: %v", c.name, err),
			Advice:   "see remote_addrs and local_addrs of the connection, the name servers and the routes of this host"}
		p.e.fail(f, 0)
		p.attemptFailed(a, f)
		return
	}
	if a.local = local.Addr(); !a.peer.IsValid() {
		c.begun = migrate.Ends{Local: local.Addr(), Remote: remote.Addr()}
	}
	p.e.sayKM(a, local, remote)
	cfg := c.prog.ike
	if cfg.InitialContact && p.hasSA(c.name) {
		// RFC 7296, Section 2.4: it would make the peer drop what is there.
		other := *cfg
		other.InitialContact = false
		cfg = &other
	}
	task := ikev2.StartInit{Flow: a.flow}
	if k := c.kids[a.kid]; k != nil {
		task.Child = k.ike
	}
	s := p.e.shards[rand.IntN(len(p.e.shards))]
	switch cfg.Version {
	case 1:
		s = p.e.shardOf(remote.Addr())
	case keyex.VersionKINK:
		s = p.e.hashedShard(remote.Addr())
	}
	s.do(func(s *shard) {
		x := s.initiate(cfg, a.kink, local, remote)
		p.post(func() { p.initiated(a, x) })
		s.start(x, task)
	})
}

func (p *supervisor) hasSA(conn string) bool { return p.index.byConn[conn] > 0 }

// initiated learns the number of the SA that an attempt made.
func (p *supervisor) initiated(a *attempt, x *ikeSA) {
	a.ike = x.id
	if !a.current() { // taken back meanwhile
		p.e.startTask(x.id, ikev2.Delete{Force: true, Why: ikev2.CloseAsked})
		return
	}
	if a.demand != nil {
		a.demand.ike = x.id
	} else if k := a.conn.kids[a.kid]; k != nil {
		k.pending, k.since = x.id, time.Now()
	}
}

// attemptFailed plans the next attempt.
func (p *supervisor) attemptFailed(a *attempt, f trace.Failure) {
	c := a.conn
	if !a.current() {
		return
	}
	if a.peer.IsValid() {
		p.peerFailed(a, f)
		return
	}
	c.attempt = nil
	c.failures++
	p.planRetry(c)
	for _, k := range c.kids {
		wait := time.Until(c.started)
		p.unanswered(k, wait)
		p.failDemands(k, wait, func(d *demand) bool { return d.ike == 0 || d.ike == a.ike })
		if k.pending == a.ike && a.ike != 0 {
			k.pending = 0
		}
		if k.tries > 0 && len(k.live) == 0 && !k.always {
			k.tries--
		}
	}
	p.failOps(c.name, a.kid, f)
	if old := p.sas[a.reauthOf]; old != nil {
		p.retryReauth(old)
		return
	}
	c.ikeOnly = false
	p.tend(c)
}

// planRetry sets when the next attempt may start.
func (p *supervisor) planRetry(c *connState) {
	now := time.Now()
	at := c.started.Add(backoff(c.failures))
	if soon := now.Add(vary(retryMin)); at.Before(soon) {
		at = soon
	}
	c.started = at
}

// initiate makes an initiator.
func (s *shard) initiate(cfg *ikev2.Config, peer kink.Principal, local, remote netip.AddrPort) *ikeSA {
	x := &ikeSA{cfg: cfg, conn: cfg.Name, index: -1, v1: cfg.Version == 1, kink: cfg.Version == keyex.VersionKINK, remote: remote.Addr().Unmap()}
	if x.kink {
		x.m = s.e.newInitiatorKINK(cfg, peer, local, remote)
	} else {
		x.m = s.e.newInitiator(cfg, local, remote)
	}
	id := x.m.Identify()
	x.id, x.spi = id.ID, id.SPI
	s.adopt(x)
	return x
}

// startTask gives a task to an IKE SA, wherever it is. It is dropped when the SA
// is gone by then. False: the engine is closed.
func (e *Engine) startTask(id uint32, t ikev2.Task) bool {
	ok := true
	for _, s := range e.shards {
		ok = s.do(func(s *shard) {
			if x := s.sas[id]; x != nil {
				s.start(x, t)
			}
		}) && ok
	}
	return ok
}

// kid finds a child.
func (p *supervisor) kid(conn, child string) (*connState, *kidState) {
	c := p.conns[conn]
	if c == nil {
		return nil, nil
	}
	return c, c.kids[child]
}

func sortSAs(list []*saState) {
	slices.SortFunc(list, func(a, b *saState) int { return cmp.Compare(a.info.UniqueID, b.info.UniqueID) })
}
