package engine

import (
	"fmt"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/trace"
	"iked/spd"
)

// startAction is what a child does when it is loaded.
func startAction(c *conf.Child) conf.Action {
	switch c.Start {
	case conf.StartAlways:
		return conf.ActionStart | c.StartAction
	case conf.StartOnDemand:
		return conf.ActionTrap | c.StartAction
	}
	return c.StartAction
}

// program brings the supervisor to a new configuration: what is gone or changed
// is undone, what is new or changed is begun, the rest is not touched.
func (p *supervisor) program(next *program) {
	p.reserve(next)
	globals := p.global != next.global
	p.global = next.global
	diffs := make(map[string]*conf.ConnChange)
	for name, c := range p.conns {
		n := next.conns[name]
		switch {
		case n == nil:
			p.undo(c)
			delete(p.conns, name)
		case n.conf != c.prog.conf:
			d := conf.DiffConnection(c.prog.conf, n.conf)
			if d.IKE {
				p.undo(c)
				delete(p.conns, name)
			}
			diffs[name] = &d
		}
	}
	for _, n := range next.order {
		c := p.conns[n.conf.Name]
		if c != nil && c.prog.conf == n.conf && !globals {
			c.prog = n // the same object: nothing changed
			continue
		}
		if c == nil {
			c = &connState{name: n.conf.Name, prog: n, kids: make(map[string]*kidState)}
			p.conns[c.name] = c
		}
		p.children(c, n, diffs[c.name], globals)
		p.tend(c)
	}
	p.reclaim()
	if err := p.e.devices.sweep(false); err != nil {
		p.e.warnf(trace.KNL, "%v", err)
	}
}

// children brings the children of a connection to their new configuration; d is
// nil when none of them differs.
func (p *supervisor) children(c *connState, n *connProgram, d *conf.ConnChange, restand bool) {
	c.prog = n
	undo := func(name string) {
		if k := c.kids[name]; k != nil {
			p.undoChild(c, k)
			delete(c.kids, name)
		}
	}
	if d != nil {
		for _, ch := range d.Removed {
			undo(ch.Name)
		}
		for _, ch := range d.Changed {
			undo(ch.Old.Name)
		}
	}
	c.order = c.order[:0]
	for _, ch := range n.conf.Children {
		c.order = append(c.order, ch.Name)
		var cfg *ikev2.ChildConfig
		for _, x := range n.ike.Children {
			if x.Name == ch.Name {
				cfg = x
			}
		}
		if k := c.kids[ch.Name]; k != nil {
			k.conf, k.ike = ch, cfg
			if restand {
				p.stand(c, k)
			}
			continue
		}
		k := &kidState{conf: ch, ike: cfg, live: make(map[uint32]*liveChild)}
		if k.perPacket = cfg != nil && n.conf.PerPacket(ch); k.perPacket {
			k.demands = make(map[spd.Flow]*demand)
		}
		c.kids[ch.Name] = k
		p.useDevice(c, k)
		k.always = ch.Start == conf.StartAlways && cfg != nil
		if cfg != nil && !k.always && startAction(ch)&conf.ActionStart != 0 {
			k.tries = keyingTries(n.conf)
		}
		p.stand(c, k)
	}
}

// undo ends what a connection began: its policies and, if a start action made
// them, its SAs.
func (p *supervisor) undo(c *connState) {
	c.stopTimer()
	for _, k := range c.kids {
		p.undoChild(c, k)
	}
	p.failOps(c.name, "", failureOf(c.name, "its configuration was removed or changed"))
	attempts := []*attempt{c.attempt}
	for _, ps := range c.peers {
		attempts = append(attempts, ps.attempt)
	}
	for _, a := range attempts {
		if a == nil {
			continue
		}
		a.end()
		if a.ike != 0 {
			p.e.startTask(a.ike, ikev2.Delete{Force: true, Why: ikev2.CloseAsked})
		}
	}
}

func failureOf(conn, why string) trace.Failure {
	return trace.Failure{At: time.Now(), Stage: trace.StageConfig, Conn: conn, Sentence: fmt.Sprintf("connection %s: %s", conn, why)}
}

// undoChild takes the policies of a child away and closes its SAs when a start
// action made them; an IKE SA that has no other child then goes as well. SAs of a
// child without start action are the peers' and survive.
func (p *supervisor) undoChild(c *connState, k *kidState) {
	p.e.devices.leave(k.conf)
	if err := p.e.policies.lay(childKey{c.name, k.conf.Name}); err != nil {
		p.e.warnf(trace.KNL, "%v", err)
	}
	if startAction(k.conf) == 0 {
		return
	}
	for _, l := range k.live {
		s := p.sas[l.ike]
		if s == nil || s.closing {
			continue
		}
		if p.others(c, k, l.ike) == 0 {
			p.closeSA(s, ikev2.Delete{Why: ikev2.CloseAsked})
		} else {
			p.e.startTask(l.ike, ikev2.DeleteChild{SPI: l.info.SPIIn})
		}
	}
}

// others counts the children of an IKE SA that are not of k.
func (p *supervisor) others(c *connState, k *kidState, ike uint32) int {
	n := 0
	for _, o := range c.kids {
		if o == k {
			continue
		}
		for _, l := range o.live {
			if l.ike == ike {
				n++
			}
		}
	}
	return n
}
