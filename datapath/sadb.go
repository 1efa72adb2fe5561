package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"iked/crypto/suite"
	"iked/datapath/esp"
	"iked/internal/backend"
	"iked/sad"
)

// outSA is an outbound SA.
type outSA struct {
	*esp.Outbound
	id    atomic.Pointer[sad.ID]
	name  string
	reqID uint32
	ports bool // its selectors name ports: fragments do not fit
	owner uint64
	soft  atomic.Bool // its event was emitted
	dead  atomic.Bool // carries nothing any more
}

// outSet are the outbound SAs of one ReqID, the newest first.
type outSet struct{ list atomic.Pointer[[]*outSA] }

// inSA is an inbound SA.
type inSA struct {
	*esp.Inbound
	id     atomic.Pointer[sad.ID]
	name   string
	owner  uint64
	soft   atomic.Bool
	dead   atomic.Bool
	mapped atomic.Pointer[netip.AddrPort] // last Mapping that was told
	// mappedAt is when that was, of the coarse clock.
	mappedAt atomic.Int64
	said     atomic.Int64 // time of the last InvalidSelectors
}

// defaultMTU is assumed when the kernel does not know a way to the peer yet.
const defaultMTU = 1500

func (d *Datapath) pathMTU(dst netip.Addr) int {
	if d.io.PathMTU != nil {
		if mtu, err := d.io.PathMTU(dst); err == nil && mtu > 0 {
			return min(mtu, 65535)
		}
	}
	return defaultMTU
}

// AllocSPI implements backend.SADB.
func (d *Datapath) AllocSPI(proto suite.Protocol, local netip.Addr) (uint32, error) {
	if d.closed.Load() {
		return 0, backend.ErrClosed
	}
	if proto == suite.ProtoIPComp {
		return d.spaceCPI.AllocCPI(d.io.Now())
	}
	if proto != suite.ProtoESP && proto != suite.ProtoAH {
		return 0, fmt.Errorf("allocate an SPI for protocol %d: the userspace datapath carries ESP and AH: %w", proto, backend.ErrUnsupported)
	}
	return d.space(proto).spis.Alloc(d.io.Now())
}

// FreeSPI implements backend.SADB. The SPI of an installed SA stays.
func (d *Datapath) FreeSPI(proto suite.Protocol, _ netip.Addr, spi uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if proto == suite.ProtoIPComp {
		if spi <= uint32(sad.MaxCPI) && !d.cpis.Has(uint16(spi)) {
			d.spaceCPI.Free(spi)
		}
		return
	}
	if s := d.space(proto); s.sas.Get(spi) == nil {
		s.spis.Free(spi)
	}
}

// AddSA implements backend.SADB.
func (d *Datapath) AddSA(sa *sad.SA) error {
	if err := d.check(sa); err != nil {
		return err
	}
	mtu := 0
	if sa.Dir == sad.Out {
		mtu = d.pathMTU(sa.Dst)
	}
	if err := d.addSA(sa, mtu); err != nil {
		return err
	}
	if sa.Dir == sad.Out {
		d.release(sa.ReqID)
	}
	return nil
}

func (d *Datapath) check(sa *sad.SA) error {
	if d.closed.Load() {
		return backend.ErrClosed
	}
	if err := backend.CheckSA(sa); err != nil {
		return err
	}
	if ok, why := Supports(sa.Proto, sa.Mode, sa.Encr, sa.Integ, sa.ESN); !ok {
		return fmt.Errorf("SA %s: %s: %w", sa.Name, why, backend.ErrUnsupported)
	}
	if err := unboundSA(sa); err != nil {
		return err
	}
	return d.carries(sa.Name, sa.Encap)
}

// carries tells whether there is a socket for the kind of encapsulation.
func (d *Datapath) carries(name string, encap *sad.Encap) error {
	switch {
	case encap != nil && d.io.UDP == nil:
		return fmt.Errorf("SA %s: no socket for UDP encapsulation: %w", name, backend.ErrUnsupported)
	case encap == nil && d.io.Raw == nil:
		return fmt.Errorf("SA %s: without UDP encapsulation, but there is no raw socket: %w", name, backend.ErrUnsupported)
	}
	return nil
}

func (d *Datapath) addSA(sa *sad.SA, mtu int) error {
	c := *sa
	c.Local, c.Remote = slices.Clone(sa.Local), slices.Clone(sa.Remote)
	c.HopLimit = d.opt.HopLimit
	if err := d.outOf(&c); err != nil {
		return err
	}
	id := c.ID
	now := d.io.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sas[id] != nil {
		return fmt.Errorf("SA %s, SPI 0x%08x: %w", sa.Name, sa.SPI, backend.ErrExists)
	}
	if sa.Dir == sad.In {
		in, err := esp.NewInbound(&c, now)
		if err != nil {
			return fmt.Errorf("%w: %w", err, backend.ErrInvalid)
		}
		in.SetCPIs(&d.cpis) // before a worker can see it
		x := &inSA{Inbound: in, name: c.Name, owner: c.Owner}
		x.id.Store(&id)
		space := d.space(c.Proto)
		if !c.Dst.IsMulticast() && space.sas.Get(c.SPI) != nil {
			return fmt.Errorf("SA %s, SPI 0x%08x: %w", sa.Name, sa.SPI, backend.ErrExists)
		}
		if err := d.join(c.Dst); err != nil {
			return fmt.Errorf("SA %s: %w", sa.Name, err)
		}
		if err := d.useCPI(&c); err != nil {
			d.leaveGroup(c.Dst)
			return err
		}
		if err := space.add(id, x); err != nil {
			d.freeCPI(c.CPI)
			d.leaveGroup(c.Dst)
			return err
		}
		d.sas[id] = x
		d.take(x, id)
		return nil
	}
	out, err := esp.NewOutbound(&c, mtu, now)
	if err != nil {
		return fmt.Errorf("%w: %w", err, backend.ErrInvalid)
	}
	x := &outSA{Outbound: out, name: c.Name, reqID: c.ReqID, ports: named(c.Local) || named(c.Remote), owner: c.Owner}
	x.id.Store(&id)
	d.sas[id] = x
	set := d.outbound.Get(c.ReqID)
	if set == nil {
		set = &outSet{}
		set.list.Store(&[]*outSA{x})
		if err := d.outbound.Put(c.ReqID, set); err != nil {
			delete(d.sas, id)
			return err
		}
	} else {
		list := append([]*outSA{x}, *set.list.Load()...)
		set.list.Store(&list)
	}
	d.gen.Add(1)
	return nil
}

// useCPI takes the CPI of an inbound SA.
func (d *Datapath) useCPI(sa *sad.SA) error {
	if sa.CPI == 0 {
		return nil
	}
	if d.cpis.Has(sa.CPI) {
		return fmt.Errorf("SA %s, CPI %d: %w", sa.Name, sa.CPI, backend.ErrExists)
	}
	if err := d.spaceCPI.Use(uint32(sa.CPI)); err != nil {
		return err
	}
	d.cpis.Set(sa.CPI)
	return nil
}

func (d *Datapath) freeCPI(cpi uint16) {
	if cpi != 0 {
		d.cpis.Clear(cpi)
		d.spaceCPI.Free(uint32(cpi))
	}
}

func notFound(op string, id sad.ID) error {
	return fmt.Errorf("%s SA: SPI 0x%08x, destination %v: %w", op, id.SPI, id.Dst, backend.ErrNotFound)
}

// UpdateSA implements backend.SADB.
func (d *Datapath) UpdateSA(id sad.ID, m backend.Move) (sad.ID, error) {
	if !m.Src.IsValid() || !m.Dst.IsValid() || m.Src.Is4() != m.Dst.Is4() {
		return id, fmt.Errorf("update SA: SPI 0x%08x: outer addresses %v and %v, expected two of one family: %w", id.SPI, m.Src, m.Dst, backend.ErrInvalid)
	}
	if err := d.carries("", m.Encap); err != nil {
		return id, err
	}
	if m.Encap != nil && id.Proto == suite.ProtoAH {
		return id, fmt.Errorf("update SA: SPI 0x%08x: AH cannot pass a NAT, use ESP: %w", id.SPI, backend.ErrUnsupported)
	}
	if id.Dst.IsMulticast() && m.Dst != id.Dst || !id.Dst.IsMulticast() && m.Dst.IsMulticast() {
		return id, fmt.Errorf("update SA: SPI 0x%08x from %v to %v: an SA of a group stays there, add another one: %w", id.SPI, id.Dst, m.Dst, backend.ErrUnsupported)
	}
	var encap *sad.Encap
	if m.Encap != nil {
		e := *m.Encap
		encap = &e
	}
	mtu := 0
	if id.Dir == sad.Out {
		mtu = d.pathMTU(m.Dst)
	}
	to := id
	to.Dst = m.Dst
	d.mu.Lock()
	defer d.mu.Unlock()
	x := d.sas[id]
	if x == nil {
		return id, notFound("update", id)
	}
	if to != id && d.sas[to] != nil {
		return id, fmt.Errorf("update SA: SPI 0x%08x to %v: %w", id.SPI, to.Dst, backend.ErrExists)
	}
	p := esp.Path{Src: m.Src, Dst: m.Dst, Encap: encap, MTU: mtu}
	switch x := x.(type) {
	case *outSA:
		x.SetPath(p)
		x.id.Store(&to)
	case *inSA:
		x.SetPath(p)
		x.id.Store(&to)
		d.follow(x, id, to)
		x.mapped.Store(nil)
	}
	delete(d.sas, id)
	d.sas[to] = x
	return to, nil
}

// DeleteSA implements backend.SADB.
func (d *Datapath) DeleteSA(id sad.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.deleteSA(id) {
		return notFound("delete", id)
	}
	return nil
}

func (d *Datapath) deleteSA(id sad.ID) bool {
	switch x := d.sas[id].(type) {
	case *outSA:
		x.dead.Store(true)
		if set := d.outbound.Get(x.reqID); set != nil {
			list := slices.DeleteFunc(slices.Clone(*set.list.Load()), func(o *outSA) bool { return o == x })
			set.list.Store(&list)
			if len(list) == 0 {
				d.outbound.Delete(x.reqID)
			}
		}
		d.gen.Add(1)
	case *inSA:
		x.dead.Store(true)
		d.space(id.Proto).remove(id)
		d.freeCPI(x.SA().CPI)
		d.leaveGroup(id.Dst)
		d.leave(id, 0)
	default:
		return false
	}
	delete(d.sas, id)
	return true
}

// QuerySA implements backend.SADB.
func (d *Datapath) QuerySA(id sad.ID) (sad.Usage, error) {
	d.mu.Lock()
	x := d.sas[id]
	d.mu.Unlock()
	switch x := x.(type) {
	case *outSA:
		u := x.Usage()
		u.MTU = min(u.MTU, d.io.Device.MTU()) // the kernel hands over no more
		return u, nil
	case *inSA:
		return x.Usage(), nil
	}
	return sad.Usage{}, notFound("query", id)
}

// expired tells of a lifetime; a hard one ends the SA's traffic.
func (d *Datapath) expired(id sad.ID, owner uint64, soft, dead *atomic.Bool, e sad.Expiry) {
	switch {
	case e == sad.Alive:
	case e.Hard():
		if !dead.Swap(true) {
			d.gen.Add(1)
			d.events.Emit(backend.Expire{ID: id, Owner: owner, Hard: true, Why: e.Why()})
		}
	case !soft.Load() && !soft.Swap(true) && !dead.Load():
		d.events.Emit(backend.Expire{ID: id, Owner: owner, Why: e.Why()})
	}
}

// lifetimes looks at the clock for all SAs.
func (d *Datapath) lifetimes(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.sas {
		switch x := x.(type) {
		case *outSA:
			d.expired(*x.id.Load(), x.owner, &x.soft, &x.dead, x.CheckTime(now))
		case *inSA:
			d.expired(*x.id.Load(), x.owner, &x.soft, &x.dead, x.CheckTime(now))
		}
	}
}

// paths asks for the path MTU of every peer again.
func (d *Datapath) paths() {
	d.mu.Lock()
	var outs []*outSA
	for _, x := range d.sas {
		if o, ok := x.(*outSA); ok {
			outs = append(outs, o)
		}
	}
	d.mu.Unlock()
	known := map[netip.Addr]int{}
	for _, o := range outs {
		dst := o.Path().Dst
		mtu, ok := known[dst]
		if !ok {
			mtu = d.pathMTU(dst)
			known[dst] = mtu
		}
		d.mu.Lock()
		// It may have moved or been deleted meanwhile.
		if p := o.Path(); p.Dst == dst && p.MTU != mtu && !o.dead.Load() {
			n := *p
			n.MTU = mtu
			o.SetPath(n)
		}
		d.mu.Unlock()
	}
}

// Periods of the housekeeping.
const (
	tickPeriod = 100 * time.Millisecond
	lifePeriod = 500 * time.Millisecond
	pathPeriod = 5 * time.Second
)

// tick is the housekeeping: the coarse clock, lifetimes, what waits in vain,
// path MTUs.
func (d *Datapath) tick() {
	t := time.NewTicker(tickPeriod)
	defer t.Stop()
	var life, path time.Time
	for {
		kicked := false
		select {
		case <-d.done:
			return
		case <-t.C:
		case <-d.kick:
			kicked = true
		}
		now := d.io.Now()
		d.clock.Store(now.UnixNano())
		if now.Sub(life) >= lifePeriod {
			life = now
			d.lifetimes(now)
			d.events.Retry()
			d.lost(d.acquires.expire(now))
			d.sweep(now)
			if !d.orphans.IsZero() && now.After(d.orphans) {
				d.orphans = time.Time{}
				if err := d.io.Router.DropOrphans(); err != nil {
					d.warn("routes of a crashed process: %v", err)
				}
			}
		}
		if kicked || now.Sub(path) >= pathPeriod {
			path = now
			d.paths()
			d.rejoin()
		}
	}
}

func (d *Datapath) lost(n int) {
	if n > 0 {
		d.slow.c.n[outHeldLost].Add(uint64(n))
	}
}
