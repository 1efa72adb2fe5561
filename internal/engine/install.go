package engine

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/internal/backend"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/sad"
	"iked/spd"
)

// childSA is one CHILD_SA as the engine sees it: what it has in the backend.
type childSA struct {
	child   *ikev2.Child
	ike     *ikeSA
	shard   *shard
	conn    string
	reqid   uint32
	reqidIn uint32 // of the inbound SA; as reqid, unless the policies are somebody else's
	policy  policyKey
	held    bool // a reference on policy
	in, out bool // installed
	inID    sad.ID
	outID   sad.ID
	around  around
	moving  moving
	homes   []netip.Addr // that it counts for
	started time.Time
	up      bool // reported as up
}

func (c *childSA) name() string {
	if c.child.Config == nil {
		return ""
	}
	return c.child.Config.Name
}

// install puts SAs of a child into the backend, and its policies with the first
// of them. The inbound SA goes first, so that nothing is sent that could not be
// answered. When a step fails, the steps before it are undone.
func (s *shard) install(x *ikeSA, w ikev2.InstallChild) error {
	s.learn(x)
	c := s.child(w.Child)
	if c == nil {
		c = &childSA{child: w.Child, ike: x, shard: s, conn: x.conn, started: time.Now()}
		if x.children == nil {
			x.children = make(map[uint32]*childSA)
		}
		x.children[w.Child.UniqueID] = c
		s.e.children.put(uint64(w.Child.UniqueID), c)
	}
	c.child = w.Child
	if err := s.installSteps(c, w); err != nil {
		s.uninstall(c, true, true)
		f := trace.Failure{At: time.Now(), Stage: trace.StageInstall, Conn: x.conn, Child: c.name(),
			Sentence: fmt.Sprintf("CHILD_SA %s cannot be installed: %v", c.name(), err),
			Advice:   keyex.InstallAdvice(err, "see the backend in `ikectl status`")}
		s.e.fail(f, x.id)
		return err
	}
	return nil
}

func (s *shard) installSteps(c *childSA, w ikev2.InstallChild) error {
	cfg := c.child.Config
	extra := childRef(cfg)
	if err := s.claimHomes(c); err != nil {
		return err
	}
	if others := extra.conf; others != nil && others.OthersPolicies {
		c.reqid, c.reqidIn = others.ReqID, cmp.Or(others.ReqIDIn, others.ReqID)
	} else if !c.held {
		bind, err := s.e.devices.binding(extra.conf)
		if err != nil {
			return err
		}
		ids, key, err := s.e.policies.hold(policyWant{
			child: childKey{c.conn, c.name()}, local: c.child.Local, remote: c.child.Remote, out: outsideOf(c.child), protect: protectedBy(c.child),
			action: spd.Protect, reqid: cfg.ReqID, priority: extra.priority,
			open: extra.conf != nil && !failClosed(&s.e.config.Load().global, extra.conf), bind: bind,
		})
		if err != nil {
			return err
		}
		c.reqid, c.reqidIn, c.around.reqid, c.policy, c.held = ids.main, ids.main, ids.around, key, true
	}
	if w.In && !c.in {
		sa := s.saOf(c, sad.In)
		if err := s.add(c, sa); err != nil {
			return err
		}
		c.in, c.inID = true, sa.ID
		if err := s.addAround(c, sad.In); err != nil {
			return err
		}
	}
	if w.Out && !c.out {
		// The outermost SA first: what ESP makes needs it.
		if err := s.addAround(c, sad.Out); err != nil {
			return err
		}
		sa := s.saOf(c, sad.Out)
		if err := s.add(c, sa); err != nil {
			return err
		}
		c.out, c.outID = true, sa.ID
	}
	return nil
}

// add gives an SA of a child to the backend.
func (s *shard) add(c *childSA, sa *sad.SA) error {
	if err := s.e.bindSA(sa, childRef(c.child.Config).conf); err != nil {
		return err
	}
	return s.e.opt.Backend.AddSA(sa)
}

// outsideOf is what policies say of a child's SAs.
func outsideOf(ch *ikev2.Child) outside {
	o := outside{mode: ch.Mode, compress: ch.CPIIn != 0}
	if ch.Mode != spd.Transport {
		o.local, o.remote = ch.LocalAddr.Addr().Unmap(), ch.RemoteAddr.Addr().Unmap()
	}
	return o
}

// saOf is the record of one direction of a child.
func (s *shard) saOf(c *childSA, dir sad.Direction) *sad.SA {
	ch, cfg := c.child, c.child.Config
	sa := &sad.SA{
		ReqID: c.reqid, Mode: ch.Mode, Local: ch.Local, Remote: ch.Remote,
		Encr: ch.Encr, Integ: ch.Integ, ESN: ch.ESN,
		DF: cfg.DF, DSCP: cfg.DSCP, NoECN: cfg.NoECN, NATLocal: ch.NATLocal, NATRemote: ch.NATRemote,
		Name: c.conn + "/" + c.name(), Owner: uint64(ch.UniqueID),
		Limits: sad.Limits{
			SoftBytes:   jitter(cfg.SoftBytes, cfg.BytesJitter),
			HardBytes:   cfg.HardBytes,
			SoftPackets: jitter(cfg.SoftPackets, cfg.PacketsJitter),
			HardPackets: cfg.HardPackets,
		},
	}
	if h := ch.HardBytes; h != 0 {
		// The soft limit leaves time for a new pair, as that of the configuration does.
		sa.Limits.HardBytes = h
		if soft := h - h/5; sa.Limits.SoftBytes == 0 || sa.Limits.SoftBytes > soft {
			sa.Limits.SoftBytes = soft
		}
	}
	sa.Dir, sa.Proto = dir, ch.Proto
	src, dst := ch.LocalAddr, ch.RemoteAddr
	sa.SPI, sa.EncrKey, sa.IntegKey = ch.SPIOut, ch.EncrOut, ch.IntegOut
	sa.CPI = ch.CPIOut
	if dir == sad.In {
		src, dst = dst, src
		sa.ReqID = c.reqidIn
		sa.CPI = ch.CPIIn
		sa.SPI, sa.EncrKey, sa.IntegKey = ch.SPIIn, ch.EncrIn, ch.IntegIn
		sa.ReplayWindow = cfg.ReplayWindow
	} else if !ch.NoTFC && ch.Mode == spd.Tunnel && ch.Proto == suite.ProtoESP {
		// RFC 7296, Section 3.10.1: ESP_TFC_PADDING_NOT_SUPPORTED.
		sa.TFCPadding = cfg.TFCPadding
	}
	sa.Src, sa.Dst = src.Addr().Unmap(), dst.Addr().Unmap()
	if ch.Encap {
		sa.Encap = &sad.Encap{SrcPort: src.Port(), DstPort: dst.Port()}
	}
	return sa
}

// jitter takes a random part of spread off a limit, so that both ends do not
// rekey at once.
func jitter(limit, spread uint64) uint64 {
	if limit == 0 || spread == 0 {
		return limit
	}
	if spread >= limit {
		spread = limit - 1
	}
	return limit - rand.Uint64N(spread+1)
}

// uninstall takes SAs of a child out of the backend. When none is left its
// policies go, unless something else needs them.
func (s *shard) uninstall(c *childSA, in, out bool) {
	if out && c.out {
		c.out = false
		s.remove(c, c.outID)
	}
	if in && c.in {
		c.in = false
		s.remove(c, c.inID)
	}
	s.removeAround(c, in, out)
	if c.in || c.out {
		return
	}
	// Nothing carries packets with these keys any more.
	for _, k := range []secret.Bytes{c.child.EncrIn, c.child.IntegIn, c.child.EncrOut, c.child.IntegOut} {
		k.Destroy()
	}
	if a := c.child.AH; a != nil {
		a.IntegIn.Destroy()
		a.IntegOut.Destroy()
	}
	if c.held {
		c.held = false
		if err := s.e.policies.release(c.policy); err != nil {
			s.e.warnf(trace.KNL, "%v", err)
		}
	}
	s.e.homes.release(c.homes)
	c.homes = nil
	if !c.up {
		s.forget(c)
	}
}

// forget drops a child from the tables.
func (s *shard) forget(c *childSA) {
	s.e.children.remove(uint64(c.child.UniqueID))
	if c.ike != nil {
		delete(c.ike.children, c.child.UniqueID)
	}
}

func (s *shard) remove(c *childSA, id sad.ID) {
	err := s.e.opt.Backend.DeleteSA(id)
	if err != nil && !errors.Is(err, backend.ErrNotFound) {
		s.e.warnf(trace.KNL, "an SA of %s/%s cannot be removed: %v", c.conn, c.name(), err)
	}
}

// move changes the outer addresses of a child (RFC 7296, Section 2.23).
func (s *shard) move(ch *ikev2.Child) {
	c := s.child(ch)
	if c == nil {
		return
	}
	c.child = ch
	var in, out backend.Move
	in.Src, in.Dst = ch.RemoteAddr.Addr().Unmap(), ch.LocalAddr.Addr().Unmap()
	out.Src, out.Dst = in.Dst, in.Src
	if ch.Encap {
		in.Encap = &sad.Encap{SrcPort: ch.RemoteAddr.Port(), DstPort: ch.LocalAddr.Port()}
		out.Encap = &sad.Encap{SrcPort: ch.LocalAddr.Port(), DstPort: ch.RemoteAddr.Port()}
	}
	if c.in {
		if id, err := s.e.opt.Backend.UpdateSA(c.inID, in); err != nil {
			s.e.warnf(trace.KNL, "the inbound SA of %s/%s cannot be moved: %v", c.conn, c.name(), err)
		} else {
			c.inID = id
		}
	}
	if c.out {
		if id, err := s.e.opt.Backend.UpdateSA(c.outID, out); err != nil {
			s.e.warnf(trace.KNL, "the outbound SA of %s/%s cannot be moved: %v", c.conn, c.name(), err)
		} else {
			c.outID = id
		}
	}
	s.moveAround(c, in, out)
	if c.held {
		if err := s.e.policies.move(c.policy, outsideOf(ch)); err != nil {
			s.e.warnf(trace.KNL, "%v", err)
		}
	}
}

func (s *shard) childUp(x *ikeSA, ch *ikev2.Child) {
	c := s.child(ch)
	if c == nil {
		return
	}
	c.child, c.up = ch, true
	info, child := s.lookWith(x, c)
	s.e.bus.publish(Event{Kind: EventChildUpDown, At: time.Now(), Up: true, SA: info})
	s.e.sup.post(func() { s.e.sup.childUp(*info, child) })
}

func (s *shard) childDown(x *ikeSA, c *childSA, byPeer bool) {
	if !c.up {
		if !c.in && !c.out {
			s.forget(c)
		}
		return
	}
	_, child := s.lookWith(x, c)
	c.up = false
	if !c.in && !c.out {
		s.forget(c)
	}
	// Told when the step is over: the end of the IKE SA, if that is why, goes first.
	x.downs = append(x.downs, down{child, byPeer})
}

// tellDowns reports the children that went during a step.
func (s *shard) tellDowns(x *ikeSA) {
	if len(x.downs) == 0 {
		return
	}
	list := x.downs
	x.downs = nil
	info := x.last
	for _, d := range list {
		with := info
		with.Children = []ChildInfo{d.child}
		by := "closed"
		if d.byPeer {
			by = "closed by the peer"
		}
		s.e.log(s.record(x, trace.Record{Level: trace.Control, Group: trace.CHD, Child: d.child.Name, Peer: info.Remote.String(),
			SPIi: uint64(info.SPIi), SPIr: uint64(info.SPIr),
			Msg: fmt.Sprintf("CHILD_SA %s{%d} with SPIs %08x_i %08x_o %s", d.child.Name, d.child.UniqueID, d.child.SPIIn, d.child.SPIOut, by)}))
		s.e.bus.publish(Event{Kind: EventChildUpDown, At: time.Now(), SA: &with})
		if !x.closed {
			s.e.sup.post(func() { s.e.sup.childDown(info, d) })
		}
	}
}

func (s *shard) childReplaced(x *ikeSA, ev ikev2.ChildReplaced) {
	old, now := s.child(ev.Old), s.child(ev.New)
	if old == nil || now == nil {
		return
	}
	now.child, now.up = ev.New, true
	s.e.countConn(x.conn, cChildRekey)
	info := s.look(x)
	before, after := s.childInfo(old), s.childInfo(now)
	// The old one goes without a word: its successor is up.
	old.up = false
	if !old.in && !old.out {
		s.forget(old)
	}
	s.e.bus.publish(Event{Kind: EventChildRekey, At: time.Now(), SA: &info, OldChild: &before, NewChild: &after})
	s.e.sup.post(func() { s.e.sup.childRekeyed(info, before, after) })
}

// child finds the record of a child, whichever IKE SA holds it now.
func (s *shard) child(ch *ikev2.Child) *childSA {
	c := s.e.children.get(uint64(ch.UniqueID))
	if c == nil || c.shard != s {
		return nil
	}
	return c
}
