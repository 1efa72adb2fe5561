package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"iked/conf"
	"iked/crypto/suite"
	"iked/ikev2"
	"iked/internal/backend"
	"iked/internal/trace"
	"iked/migrate"
	"iked/spd"
)

// A mobility manager tells by KMADDRESS where IKE goes on, also before there is an IKE
// SA: on a foreign link the home address of a node cannot be reached before the Binding
// Update that the SA is for (RFC 4877, Section 4.1). What it told of the policies of
// configured children is remembered, and negotiations begin there.

// kmChildren are the children of a connection as MIGRATE sees them.
func kmChildren(c *conf.Connection) (out []migrate.Child) {
	for _, ch := range c.Children {
		if !ch.SAs() {
			continue
		}
		m := migrate.Child{Proto: 50, Mode: modeOf(ch.Mode), ReqID: ch.ReqID, ReqIDIn: ch.ReqIDIn, AnyReqID: ch.ReqID == 0 && !ch.OthersPolicies,
			Local: staticOrAny(ch.Local), Remote: staticOrAny(ch.Remote)}
		if ch.Proposals[0].Protocol == suite.ProtoAH {
			m.Proto = protoAH
		}
		out = append(out, m)
	}
	return out
}

// learnKM remembers what an event told of configured children. It tells which
// connections these are of.
func (e *Engine) learnKM(ev *migrate.Event) (conns []string) {
	if !ev.KM.Local.IsValid() {
		return nil
	}
	m := &e.migrates
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []migrate.Child
	for _, prog := range e.config.Load().order {
		if slices.ContainsFunc(prog.km, func(c migrate.Child) bool { return ev.About(&c) }) {
			list, conns = append(list, prog.km...), append(conns, prog.conf.Name)
		}
	}
	if !m.km.Learn(ev, list) {
		return nil
	}
	return conns
}

// followKM remembers what an event told by KMADDRESS, and lets negotiations begin there.
// What is being negotiated goes first: an IKE SA that is up by then moves.
func (e *Engine) followKM(ctx context.Context, ev *migrate.Event) (begin int, unused string, err error) {
	conns := e.learnKM(ev)
	if len(conns) == 0 {
		return 0, "", nil
	}
	p := e.config.Load()
	for _, name := range conns {
		if prog := p.conns[name]; prog != nil && unused == "" {
			unused = e.unusable(prog.conf, ev.KM)
		}
	}
	return len(conns), unused, e.sup.wait(ctx, func() {
		for _, name := range conns {
			e.sup.relocate(name)
		}
	})
}

// learnEnds remembers where a policy of somebody else's has the ends of its tunnel, when
// a packet met it and no manager told where IKE is: a manager tells of moves, and those
// before this daemon began are not known. No other SA would serve the policy.
func (e *Engine) learnEnds(prog *connProgram, ev *backend.Acquire) (learned bool) {
	if !ev.OuterLocal.IsValid() || e.kmAddress(prog.conf, &ev.Flow) != nil {
		return false
	}
	at := migrate.Pair{Src: ev.OuterLocal, Dst: ev.OuterRemote}
	x := migrate.Entry{Proto: 50, Mode: ev.Mode, ReqID: ev.ReqID, Old: at, New: at}
	if ev.Proto == suite.ProtoAH {
		x.Proto = protoAH
	}
	m := &e.migrates
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.km.Learn(&migrate.Event{Source: migrate.Netlink, Dir: migrate.Out, Selector: spd.KernelSelector{Src: single(ev.Flow.Local), Dst: single(ev.Flow.Remote)},
		Entries: []migrate.Entry{x}, KM: migrate.Ends{Local: ev.OuterLocal, Remote: ev.OuterRemote}}, prog.km)
}

// keepKM drops what was told of children that are not configured any more.
func (e *Engine) keepKM(p *program) {
	m := &e.migrates
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.km.Len() == 0 {
		return
	}
	var list []migrate.Child
	for _, prog := range p.order {
		list = append(list, prog.km...)
	}
	m.km.Keep(list)
}

// KMAddress is where negotiations of a connection begin, as a mobility manager told.
type KMAddress struct {
	migrate.Ends
	// Unused tells why they do not begin there; "": they do.
	Unused string
}

// kmAddress is what was told of a connection, nil: nothing. With many peers the packet
// says which one it is about; flow is nil otherwise.
func (e *Engine) kmAddress(c *conf.Connection, flow *spd.Flow) *KMAddress {
	prog := e.config.Load().conns[c.Name]
	if prog == nil || prog.conf != c || c.ManyPeers() && flow == nil {
		return nil
	}
	if !c.ManyPeers() {
		flow = nil
	}
	e.migrates.mu.Lock()
	ends, ok := e.migrates.km.Find(flow, prog.km)
	e.migrates.mu.Unlock()
	if !ok {
		return nil
	}
	return &KMAddress{Ends: ends, Unused: e.unusable(c, ends)}
}

// unusable tells why a connection does not begin between two addresses, "": it does. The
// configuration holds for a move as for a beginning.
func (e *Engine) unusable(c *conf.Connection, ends migrate.Ends) string {
	switch {
	case fit(c.RemoteAddrs, ends.Remote) == rankNone:
		return fmt.Sprintf("remote_addrs does not have %s", ends.Remote)
	case fit(c.LocalAddrs, ends.Local) == rankNone:
		return fmt.Sprintf("local_addrs does not have %s", ends.Local)
	case !e.isOwn(ends.Local):
		return fmt.Sprintf("%s is no address of this host now", ends.Local)
	}
	return ""
}

// isOwn tells whether an address is this host's, as far as that is known.
func (e *Engine) isOwn(a netip.Addr) bool {
	routes, ok := e.opt.Routes.(Addresses)
	if !ok {
		return true
	}
	list, err := routes.Own()
	return err != nil || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Addr().Unmap().WithZone("") == a })
}

// kmEnds are the ends that a negotiation begins with because a mobility manager told
// them; ports are those of the connection.
func (e *Engine) kmEnds(c *conf.Connection, flow *spd.Flow) (local, remote netip.AddrPort, ok bool) {
	k := e.kmAddress(c, flow)
	if k == nil {
		return local, remote, false
	}
	if k.Unused != "" {
		e.log(trace.Record{At: time.Now(), Level: trace.Control, Group: trace.IKE, Conn: c.Name, Warn: true,
			Msg: fmt.Sprintf("a mobility manager told that IKE of %s is from %s to %s (KMADDRESS, or its policy), which is not used: %s", c.Name, k.Local, k.Remote, k.Unused)})
		return local, remote, false
	}
	return netip.AddrPortFrom(k.Local, e.localPort(c)), netip.AddrPortFrom(k.Remote, orPort(c.RemotePort, 500)), true
}

// sayKM logs that an attempt begins where a mobility manager told.
func (e *Engine) sayKM(a *attempt, local, remote netip.AddrPort) {
	k := e.kmAddress(a.conn.prog.conf, a.flow)
	if k == nil || k.Local != local.Addr() || k.Remote != remote.Addr() {
		return
	}
	e.log(trace.Record{At: time.Now(), Level: trace.Control, Group: trace.IKE, Conn: a.conn.name, Child: a.kid,
		Msg: fmt.Sprintf("%s begins from %s to %s, as a mobility manager told (KMADDRESS, or its policy)", a.conn.name, k.Local, k.Remote)})
}

// kmEvidence is what a failed negotiation has to do with KMADDRESS, "": nothing.
func (e *Engine) kmEvidence(f *trace.Failure) string {
	prog := e.config.Load().conns[f.Conn]
	if prog == nil || !f.Initiator {
		return ""
	}
	k := e.kmAddress(prog.conf, nil)
	switch {
	case k == nil:
		return ""
	case k.Unused != "":
		return fmt.Sprintf("a mobility manager told other addresses by KMADDRESS or its policy, %s to %s, which are not used: %s", k.Local, k.Remote, k.Unused)
	}
	local, err := netip.ParseAddrPort(f.Local)
	if err != nil || local.Addr().Unmap() != k.Local {
		return ""
	}
	return fmt.Sprintf("the addresses are those that a mobility manager told by KMADDRESS or its policy: %s to %s", k.Local, k.Remote)
}

// peerFor is which of many peers a packet is for, and the own address towards it.
func (e *Engine) peerFor(c *conf.Connection, flow *spd.Flow) (local, peer netip.Addr) {
	if k := e.kmAddress(c, flow); k != nil && k.Unused == "" {
		return k.Local, k.Remote
	}
	return flow.Local, flow.Remote
}

// relocate lets the negotiations of a connection that are under way begin anew where a
// mobility manager told. One that failed and waits is tried at once. The peer's own
// negotiations are left to the peer.
func (p *supervisor) relocate(name string) {
	c := p.conns[name]
	if c == nil || p.stopped {
		return
	}
	if c.prog.conf.ManyPeers() {
		p.relocatePeers(c)
		p.tend(c)
		return
	}
	k := p.e.kmAddress(c.prog.conf, nil)
	if k == nil || k.Unused != "" || c.begun == k.Ends {
		return
	}
	switch a := c.attempt; {
	case a != nil:
		p.restart(c, a)
	case c.failures > 0:
		c.failures, c.started = 0, time.Now()
		p.tend(c)
	}
}

// restart begins an attempt anew. Its first half-open IKE SA is forgotten: the peer
// answers to an address that is gone.
func (p *supervisor) restart(c *connState, a *attempt) {
	k := p.takeBack(c, a)
	if k != nil && a.demand == nil && k.flow == nil {
		k.flow = a.flow
	}
	p.begin(c, k, a.reauthOf)
}

// takeBack ends an attempt without a failure. It gives the child that it was for.
func (p *supervisor) takeBack(c *connState, a *attempt) *kidState {
	a.end()
	k := c.kids[a.kid]
	if a.ike != 0 {
		if k != nil && k.pending == a.ike {
			k.pending = 0
		}
		p.e.startTask(a.ike, ikev2.Delete{Force: true, Why: ikev2.CloseReplaced})
	}
	if a.demand != nil {
		a.demand.begun, a.demand.ike = false, 0
	}
	return k
}

// relocatePeers does the same for packets that wait for one of many peers.
func (p *supervisor) relocatePeers(c *connState) {
	for _, ps := range c.peers {
		a := ps.attempt
		if a == nil || a.flow == nil {
			continue
		}
		if local, peer := p.e.peerFor(c.prog.conf, a.flow); peer == a.peer && (!a.local.IsValid() || a.local == local) {
			continue
		}
		p.takeBack(c, a)
		if old := p.sas[a.reauthOf]; old != nil {
			p.retryReauth(old)
		}
	}
	for _, k := range c.kids {
		for _, d := range k.demands {
			if d.ike == 0 && !d.begun {
				d.local, d.peer = p.e.peerFor(c.prog.conf, &d.flow)
			}
		}
	}
}
