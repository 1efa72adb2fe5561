package engine

import (
	"fmt"
	"net/netip"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/trace"
	"iked/spd"
)

// demand is a packet that waits for a CHILD_SA of its own: by the PFP flags of its
// child (RFC 4301, Section 4.4.1.2), or because its address says which of many peers
// is meant.
type demand struct {
	key    spd.Flow // what tells it from others of the child
	policy uint64
	flow   spd.Flow
	peer   netip.Addr // one of many, else invalid
	local  netip.Addr // the own address towards it
	begun  bool       // an attempt carries it
	ike    uint32     // the IKE SA that negotiates it, 0: none yet
}

// asked is the packet that a child without such flags is brought up for.
type asked struct {
	policy uint64
	flow   spd.Flow
}

// peerState is one of the many peers of a connection.
type peerState struct {
	attempt  *attempt
	failures int
	retryAt  time.Time
}

// maxPeers bounds the peers of a connection that are remembered for their failures.
const maxPeers = 1024

// packetFlags are the selectors that the SAs of a child take from a packet. A port
// says nothing without its protocol.
func packetFlags(c *conf.Connection, ch *conf.Child) spd.PFP {
	f := ch.PFP
	if f&(spd.PFPLocalPort|spd.PFPRemotePort) != 0 {
		f |= spd.PFPProtocol
	}
	if c.ManyPeers() {
		f |= spd.PFPLocalAddr | spd.PFPRemoteAddr
	}
	return f
}

// flagged is a flow without what has no flag.
func flagged(f spd.PFP, flow spd.Flow) (out spd.Flow) {
	if f&spd.PFPLocalAddr != 0 {
		out.Local = flow.Local
	}
	if f&spd.PFPRemoteAddr != 0 {
		out.Remote = flow.Remote
	}
	if f&spd.PFPProtocol != 0 {
		out.Proto = flow.Proto
	}
	if f&spd.PFPLocalPort != 0 {
		out.LocalPort, out.HasPorts = flow.LocalPort, flow.HasPorts
	}
	if f&spd.PFPRemotePort != 0 {
		out.RemotePort, out.HasPorts = flow.RemotePort, flow.HasPorts
	}
	return out
}

// idle is a demand that nothing was done for yet.
func (k *kidState) idle() *demand {
	for _, d := range k.demands {
		if d.ike == 0 && !d.begun {
			return d
		}
	}
	return nil
}

// acquire answers a packet that waits for a tunnel.
func (p *supervisor) acquire(owner childKey, policy uint64, flow spd.Flow) {
	c, k := p.kid(owner.conn, owner.child)
	now := time.Now()
	refuse := func(reason string, retry time.Duration) {
		p.e.drops.add(reason)
		p.e.acquireFailed(policy, flow, retry)
	}
	switch {
	case p.stopped:
		return
	case k == nil || k.ike == nil:
		refuse("acquire-unknown-policy", acquirePause)
		return
	case k.held:
		refuse("acquire-held", acquirePause)
		return
	}
	var d *demand
	if k.perPacket {
		many := c.prog.conf.ManyPeers()
		d = &demand{key: flagged(packetFlags(c.prog.conf, k.conf), flow), policy: policy, flow: flow}
		if k.demands[d.key] != nil {
			return // it is being answered
		}
		if many {
			d.local, d.peer = p.e.peerFor(c.prog.conf, &flow)
		}
		ps := c.peers[d.peer]
		switch {
		case many && (!d.peer.IsGlobalUnicast() || fit(c.prog.conf.RemoteAddrs, d.peer) == rankNone):
			refuse("acquire-no-peer", acquirePause)
			return
		case len(k.live)+len(k.demands) >= k.conf.PFPLimit:
			p.e.log(trace.Record{Level: trace.Detail, Group: trace.KNL, Conn: c.name, Child: owner.child, Warn: true,
				Msg: fmt.Sprintf("traffic from %s to %s gets no CHILD_SA: %s has as many as pfp_limit allows, %d", flow.Local, flow.Remote, owner.child, k.conf.PFPLimit)})
			refuse("acquire-limit", acquirePause)
			return
		case ps != nil && ps.retryAt.After(now):
			refuse("acquire-backoff", ps.retryAt.Sub(now))
			return
		}
	} else if k.pending != 0 || k.flow != nil || c.attempt != nil && c.attempt.kid == owner.child {
		return // it is being answered
	}
	if k.retryAt.After(now) {
		refuse("acquire-backoff", k.retryAt.Sub(now))
		return
	}
	if c.failures > 0 && c.started.After(now) && p.usable(c) == nil && !c.prog.conf.ManyPeers() {
		refuse("acquire-backoff", c.started.Sub(now))
		return
	}
	p.e.log(trace.Record{Level: trace.Control, Group: trace.KNL, Conn: c.name, Child: owner.child,
		Msg: fmt.Sprintf("traffic from %s to %s asks for CHILD_SA %s", flow.Local, flow.Remote, owner.child)})
	if d != nil {
		k.demands[d.key] = d
	} else {
		k.flow, k.asked = &flow, &asked{policy, flow}
	}
	p.tend(c)
}

// unanswered tells that what a child was asked for does not come before retry.
func (p *supervisor) unanswered(k *kidState, retry time.Duration) {
	if k.asked != nil {
		p.e.acquireFailed(k.asked.policy, k.asked.flow, retry)
	}
	k.asked, k.flow = nil, nil
}

// failDemands gives up the demands that a test chooses.
func (p *supervisor) failDemands(k *kidState, retry time.Duration, which func(d *demand) bool) {
	for key, d := range k.demands {
		if which(d) {
			delete(k.demands, key)
			p.e.acquireFailed(d.policy, d.flow, retry)
		}
	}
}

// answered: a CHILD_SA came up, or failed, for a packet.
func (k *kidState) answered(c *conf.Connection, flow *spd.Flow) *demand {
	if flow == nil {
		return nil
	}
	key := flagged(packetFlags(c, k.conf), *flow)
	d := k.demands[key]
	delete(k.demands, key)
	return d
}

// createDemands makes the CHILD_SAs that packets wait for with an IKE SA that is up.
func (p *supervisor) createDemands(k *kidState, sa *saState, which func(d *demand) bool) {
	for _, d := range k.demands {
		if d.ike == 0 && !d.begun && which(d) {
			d.ike = sa.info.UniqueID
			p.e.startTask(d.ike, ikev2.CreateChild{Child: k.ike, Flow: &d.flow})
		}
	}
}

// tendPeers does for each of many peers what tend does for one.
func (p *supervisor) tendPeers(c *connState) {
	for _, name := range c.order {
		k := c.kids[name]
		if !k.perPacket || k.held {
			continue
		}
		for _, d := range k.demands {
			if d.ike != 0 || d.begun {
				continue
			}
			if sa := p.usableFor(c, d.peer); sa != nil {
				if sa.info.Local.Addr().Unmap() != d.local {
					p.e.drops.add("acquire-forwarded")
					p.failDemands(k, acquirePause, func(o *demand) bool { return o == d })
					continue
				}
				p.createDemands(k, sa, func(o *demand) bool { return o == d })
				continue
			}
			if ps := c.peer(d.peer); ps == nil {
				p.e.drops.add("acquire-peers")
				p.failDemands(k, acquirePause, func(o *demand) bool { return o == d })
			} else if ps.attempt == nil {
				p.beginPeer(c, name, d, ps)
			}
		}
	}
}

// usableFor is an established IKE SA with one of many peers.
func (p *supervisor) usableFor(c *connState, peer netip.Addr) *saState {
	if !p.hasSA(c.name) {
		return nil
	}
	var best *saState
	for _, s := range p.sas {
		if s.info.Conn == c.name && s.info.Remote.Addr().Unmap() == peer && !s.closing && !s.replaced && (best == nil || s.upAt.After(best.upAt)) {
			best = s
		}
	}
	return best
}

// peer is what is known of one of many; nil: too many failed of late.
func (c *connState) peer(a netip.Addr) *peerState {
	if ps := c.peers[a]; ps != nil {
		return ps
	}
	if len(c.peers) >= maxPeers {
		now := time.Now()
		for a, ps := range c.peers {
			if ps.attempt == nil && ps.retryAt.Before(now) {
				delete(c.peers, a)
			}
		}
		if len(c.peers) >= maxPeers {
			return nil
		}
	}
	if c.peers == nil {
		c.peers = make(map[netip.Addr]*peerState)
	}
	ps := &peerState{}
	c.peers[a] = ps
	return ps
}

func (p *supervisor) beginPeer(c *connState, kid string, d *demand, ps *peerState) {
	a := &attempt{conn: c, kid: kid, flow: &d.flow, demand: d, peer: d.peer, began: time.Now()}
	ps.attempt, d.begun = a, true
	of := c.prog.conf
	go func() {
		local, remote, err := p.e.addressesOf(of, a.demand.flow)
		if err == nil && of.Version == conf.VersionKINK {
			a.kink, err = p.e.kinkPeer(of, remote.Addr())
		}
		p.post(func() { p.launch(a, local, remote, err) })
	}()
}

// addressesOf are the two ends for a packet between this host and one of many peers.
// What a router forwards is none of this host's traffic. Addresses that a mobility
// manager told for the packet come before its own.
func (e *Engine) addressesOf(c *conf.Connection, flow spd.Flow) (local, remote netip.AddrPort, err error) {
	if local, remote, ok := e.kmEnds(c, &flow); ok {
		return local, remote, nil
	}
	locals, err := e.resolve(c.LocalAddrs)
	if err != nil {
		return local, remote, fmt.Errorf("local_addrs: %w", err)
	}
	var of []netip.Addr
	for _, a := range locals {
		if a == flow.Local {
			of = append(of, a)
		}
	}
	l, err := e.localFor(c, of, flow.Remote)
	if err != nil {
		return local, remote, err
	}
	if l != flow.Local {
		return local, remote, fmt.Errorf("the packet to %s comes from %s and not from this host, whose address is %s", flow.Remote, flow.Local, l)
	}
	return netip.AddrPortFrom(l, e.localPort(c)), netip.AddrPortFrom(flow.Remote, orPort(c.RemotePort, 500)), nil
}

// current tells whether an attempt was not taken back.
func (a *attempt) current() bool {
	if a.peer.IsValid() {
		ps := a.conn.peers[a.peer]
		return ps != nil && ps.attempt == a
	}
	return a.conn.attempt == a
}

// end is the end of an attempt.
func (a *attempt) end() {
	if !a.peer.IsValid() {
		a.conn.attempt = nil
	} else if ps := a.conn.peers[a.peer]; ps != nil {
		ps.attempt = nil
	}
}

// succeeded: the IKE SA of an attempt is up.
func (a *attempt) succeeded() {
	if a.peer.IsValid() {
		delete(a.conn.peers, a.peer)
		return
	}
	a.conn.attempt, a.conn.failures = nil, 0
}

// attemptOf is the attempt that makes an IKE SA, nil: none.
func (c *connState) attemptOf(ike uint32) *attempt {
	if c.attempt != nil && c.attempt.ike == ike {
		return c.attempt
	}
	for _, ps := range c.peers {
		if ps.attempt != nil && ps.attempt.ike == ike {
			return ps.attempt
		}
	}
	return nil
}

// peerFailed: one of many peers cannot be reached.
func (p *supervisor) peerFailed(a *attempt, f trace.Failure) {
	c := a.conn
	ps := c.peers[a.peer]
	ps.attempt = nil
	ps.failures++
	wait := backoff(ps.failures)
	ps.retryAt = time.Now().Add(wait)
	for _, k := range c.kids {
		p.failDemands(k, wait, func(d *demand) bool {
			return d.peer == a.peer && (d.ike == 0 || d.ike == a.ike)
		})
	}
	p.failOps(c.name, a.kid, f)
	if old := p.sas[a.reauthOf]; old != nil {
		p.retryReauth(old)
	}
	p.tend(c)
}

// reauthPeer makes an IKE SA with one of many peers anew. One whose CHILD_SAs the
// peer asked for is left to the peer.
func (p *supervisor) reauthPeer(c *connState, s *saState) {
	for _, l := range s.live {
		if l.info.flow == nil {
			continue
		}
		ps := c.peer(s.info.Remote.Addr().Unmap())
		if ps == nil || ps.attempt != nil {
			p.retryReauth(s)
			return
		}
		a := &attempt{conn: c, kid: l.info.Name, flow: l.info.flow, peer: s.info.Remote.Addr().Unmap(), reauthOf: s.info.UniqueID, began: time.Now()}
		ps.attempt = a
		conf := c.prog.conf
		go func() {
			local, remote, err := p.e.addressesOf(conf, *a.flow)
			p.post(func() { p.launch(a, local, remote, err) })
		}()
		return
	}
}

// remake makes the CHILD_SAs that packets asked for with a reauthenticated IKE SA,
// but that which came with it. False: there is none to make.
func (p *supervisor) remake(k *kidState, s, old *saState, came *spd.Flow) (made bool) {
	for _, l := range old.live {
		if f := l.info.flow; f != nil && k.live[l.info.UniqueID] == l && (came == nil || *f != *came) {
			made = true
			p.e.startTask(s.info.UniqueID, ikev2.CreateChild{Child: k.ike, Flow: f})
		}
	}
	return made
}

// idleSA closes an IKE SA that packets made with one of many peers when its last
// CHILD_SA is gone.
func (p *supervisor) idleSA(c *connState, s *saState) {
	if s == nil || s.closing || s.replaced || len(s.live) > 0 || !s.info.Initiator || !c.prog.conf.ManyPeers() {
		return
	}
	for _, k := range c.kids {
		for _, d := range k.demands {
			if d.ike == s.info.UniqueID {
				return
			}
		}
	}
	p.closeSA(s, ikev2.Delete{Why: ikev2.CloseAsked})
}

// manyTS are the selectors of a trap for many peers: what remote_addrs have, and
// the own addresses on the way there.
func (e *Engine) manyTS(c *conf.Connection, ch *conf.Child) (local, remote []spd.TS, err error) {
	locals, err := e.resolve(c.LocalAddrs)
	if err != nil {
		return nil, nil, fmt.Errorf("local_addrs: %w", err)
	}
	found := len(locals) == 0 && e.opt.Routes != nil
	for _, h := range c.RemoteAddrs {
		if h.IsAny() || !found {
			found = false
			continue
		}
		if l, err := e.opt.Routes.LocalFor(h.To); err != nil {
			return nil, nil, fmt.Errorf("no route to %s: %w", h.Text, err)
		} else if l.IsValid() {
			locals = append(locals, l.Unmap())
		}
	}
	for _, t := range ch.Remote {
		if !t.Dynamic {
			remote = append(remote, t.TS)
			continue
		}
		for _, h := range c.RemoteAddrs {
			if h.IsAny() {
				remote = append(remote, staticOrAny([]conf.TS{t})...)
				continue
			}
			ts := t.TS
			ts.From, ts.To = h.From, h.To
			remote = append(remote, ts)
		}
	}
	for _, t := range ch.Local {
		switch {
		case !t.Dynamic:
			local = append(local, t.TS)
		case len(locals) == 0:
			local = append(local, staticOrAny([]conf.TS{t})...)
		default:
			for _, a := range locals {
				ts := t.TS
				ts.From, ts.To = a, a
				local = append(local, ts)
			}
		}
	}
	return spd.Minimize(local), spd.Minimize(remote), nil
}
