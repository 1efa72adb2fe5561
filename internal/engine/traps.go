package engine

import (
	"net/netip"
	"slices"
	"time"

	"iked/conf"
	"iked/internal/trace"
	"iked/spd"
)

// stand installs what a child needs in the SPD while it is configured: a shunt,
// a trap that asks for the tunnel, or the drop of its traffic while it is down.
func (p *supervisor) stand(c *connState, k *kidState) {
	if k.conf.OthersPolicies {
		return
	}
	switch k.conf.Mode {
	case conf.ModePass, conf.ModeDrop:
		if startAction(k.conf) == 0 {
			return // waits for install
		}
		p.shunt(c, k)
		return
	}
	trap := startAction(k.conf)&conf.ActionTrap != 0
	if !trap && !failClosed(&p.global, k.conf) {
		if err := p.e.policies.lay(childKey{c.name, k.conf.Name}); err != nil {
			p.e.warnf(trace.KNL, "%v", err)
		}
		return
	}
	p.trap(c, k, trap)
}

func (p *supervisor) shunt(c *connState, k *kidState) {
	w := policyWant{child: childKey{c.name, k.conf.Name}, action: spd.Bypass, priority: k.conf.Priority}
	w.bind, _ = p.e.devices.binding(k.conf) // marks only: it has no device
	if k.conf.Mode == conf.ModeDrop {
		w.action = spd.Discard
	}
	w.local, w.remote = staticOrAny(k.conf.Local), staticOrAny(k.conf.Remote)
	if err := p.e.policies.stand(w); err != nil {
		p.e.warnf(trace.KNL, "%v", err)
	}
}

// staticOrAny takes dynamic as any address: a shunt has no peer.
func staticOrAny(list []conf.TS) []spd.TS {
	var out []spd.TS
	for _, t := range list {
		if !t.Dynamic {
			out = append(out, t.TS)
			continue
		}
		for _, any := range []string{"0.0.0.0/0", "::/0"} {
			ts := spd.FromPrefix(netip.MustParsePrefix(any))
			ts.Proto, ts.PortFrom, ts.PortTo = t.Proto, t.PortFrom, t.PortTo
			out = append(out, ts)
		}
	}
	return out
}

// trap installs the Protect policy of a child. Selectors that stand for the
// hosts themselves need their addresses first; names are looked up aside.
func (p *supervisor) trap(c *connState, k *kidState, acquire bool) {
	if k.conf.OthersPolicies {
		return
	}
	w := policyWant{child: childKey{c.name, k.conf.Name}, action: spd.Protect, out: outside{mode: k.ike.Mode}, protect: protectionOf(k.conf),
		reqid: k.conf.ReqID, priority: k.conf.Priority, acquire: acquire, open: !failClosed(&p.global, k.conf)}
	var err error
	if w.bind, err = p.e.devices.binding(k.conf); err != nil {
		return // told when it could not be made, and nothing is routed to it
	}
	if k.perPacket {
		w.pfp = packetFlags(c.prog.conf, k.conf)
	}
	if acquire && c.prog.conf.ManyPeers() {
		w.out = outside{mode: k.ike.Mode}
		conn, ch := c.prog.conf, k.conf
		p.trapLater(c, k, func() (policyWant, error) {
			var err error
			w.local, w.remote, err = p.e.manyTS(conn, ch)
			return w, err
		})
		return
	}
	dynamic := slices.ContainsFunc(k.conf.Remote, func(t conf.TS) bool { return t.Dynamic }) ||
		slices.ContainsFunc(k.conf.Local, func(t conf.TS) bool { return t.Dynamic })
	if k.ike.Mode != spd.Transport {
		w.out.local, w.out.remote = onlyAddr(c.prog.conf.LocalAddrs), onlyAddr(c.prog.conf.RemoteAddrs)
		if l, r := w.out.local, w.out.remote; l.IsValid() && r.IsValid() && l.Is4() != r.Is4() {
			w.out.local, w.out.remote = netip.Addr{}, netip.Addr{}
		}
	}
	if !dynamic {
		w.local, w.remote = fixed(k.conf.Local, netip.Addr{}), fixed(k.conf.Remote, netip.Addr{})
		if err := p.e.policies.stand(w); err != nil {
			p.e.warnf(trace.KNL, "%v", err)
		}
		return
	}
	if len(c.prog.conf.VIPs) > 0 && slices.ContainsFunc(k.conf.Local, func(t conf.TS) bool { return t.Dynamic }) {
		return // the own address is known only when the peer has given it
	}
	if !acquire && slices.ContainsFunc(k.conf.Remote, func(t conf.TS) bool { return t.Dynamic }) {
		return // whoever comes: there is nothing to hold back
	}
	conn, ch := c.prog.conf, k.conf
	// Addresses that are written down need no look-up: nothing leaves in clear from
	// the moment on at which the configuration counts as loaded.
	if l, r := onlyAddr(conn.LocalAddrs), onlyAddr(conn.RemoteAddrs); l.IsValid() && r.IsValid() && l.Is4() == r.Is4() {
		w.local, w.remote = fixed(ch.Local, l), fixed(ch.Remote, r)
		if err := p.e.policies.stand(w); err != nil {
			p.e.warnf(trace.KNL, "%v", err)
		}
		return
	}
	p.trapLater(c, k, func() (policyWant, error) {
		local, remote, err := p.e.addresses(conn, 0)
		w.local, w.remote = fixed(ch.Local, local.Addr()), fixed(ch.Remote, remote.Addr())
		if w.out.mode != spd.Transport {
			w.out.local, w.out.remote = local.Addr(), remote.Addr()
		}
		return w, err
	})
}

// trapRetry is the wait before a trap whose peer has no address yet is tried
// again.
const trapRetry = 30 * time.Second

func (p *supervisor) trapLater(c *connState, k *kidState, find func() (policyWant, error)) {
	k.looks++
	look := k.looks
	go func() {
		w, err := find()
		p.post(func() {
			if p.stopped || p.conns[c.name] != c || c.kids[k.conf.Name] != k || k.looks != look {
				return
			}
			if err != nil {
				p.e.log(trace.Record{Level: trace.Detail, Group: trace.KNL, Conn: c.name, Child: k.conf.Name, Warn: true,
					Msg: "no policy for " + w.child.String() + " yet: " + err.Error()})
				time.AfterFunc(vary(trapRetry), func() {
					p.post(func() {
						if !p.stopped && p.conns[c.name] == c && c.kids[k.conf.Name] == k && k.looks == look {
							p.trapLater(c, k, find)
						}
					})
				})
				return
			}
			if err := p.e.policies.stand(w); err != nil {
				p.e.warnf(trace.KNL, "%v", err)
			}
		})
	}()
}

// fixed puts the address of a host in place of dynamic selectors.
func fixed(list []conf.TS, host netip.Addr) []spd.TS {
	out := make([]spd.TS, 0, len(list))
	for _, t := range list {
		ts := t.TS
		if t.Dynamic {
			ts.From, ts.To = host, host
		}
		out = append(out, ts)
	}
	return out
}
