package xfrm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// saRecord is an SA as it is in the kernel, without its keys.
type saRecord struct {
	id    sad.ID
	src   netip.Addr
	name  string
	owner uint64
	reqID uint32
	mode  spd.Mode
	limit sad.Limits
	mark  spd.Mark
	ifID  uint32
	encap bool
	room  sad.Room
	// inner6: its first remote selector is of IPv6.
	inner6 bool
	added  time.Time
	// dead: the kernel has it no more; last is what was known of it then.
	dead bool
	last sad.Usage
	// mapped is the last address that a Mapping told.
	mapped   netip.AddrPort
	mappedAt time.Time
	missing  time.Time // since when the kernel does not have it
	// comp is the record of the state of compression inside of the SA, nil: none;
	// of such a record main is the SA's, and msg what made it.
	comp, main *saRecord
	msg        *wire.SA
}

func (r *saRecord) said() wire.SAID { return saID(r.id) }

func (r *saRecord) byID() *wire.SAByID {
	return &wire.SAByID{SAID: r.said(), Attrs: wire.Attrs{Mark: markOf(r.mark)}}
}

func (r *saRecord) deletion() request { return request{wire.DelSA, 0, r.byID()} }

// reservation is an SPI that was given out.
type reservation struct {
	local netip.Addr
	until time.Time
}

func (v reservation) deletion(k spiKey) request {
	return request{wire.DelSA, 0, &wire.SAByID{SAID: wire.SAID{Dst: wire.AddressOf(v.local), SPI: k.spi, Family: wire.FamilyOf(v.local), Proto: k.proto}}}
}

func inboundKey(id sad.ID) spiKey {
	k := spiKey{proto: ipProto(id.Proto), spi: id.SPI}
	if id.Dst.IsMulticast() {
		k.group = wire.AddressOf(id.Dst)
	}
	return k
}

// gone tells that something was not there.
func gone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }

// allocTries bounds how often an SPI is asked for that the kernel has free and
// that is reserved here: the kernel forgets a reservation before we do.
const allocTries = 64

// AllocSPI implements backend.SADB. The kernel keeps the reservation as an SA
// without keys for as long as net.core.xfrm_acq_expires says; the rest of the two
// minutes it is kept here.
func (b *Backend) AllocSPI(proto suite.Protocol, local netip.Addr) (uint32, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return 0, err
	}
	if proto != suite.ProtoESP && proto != suite.ProtoAH && proto != suite.ProtoIPComp || !local.IsValid() {
		return 0, fmt.Errorf("allocate an SPI for %v at %v: expected ESP, AH or IPCOMP and an address: %w", proto, local, backend.ErrInvalid)
	}
	m := &wire.SPIRequest{Min: sad.MinSPI, Max: ^uint32(0)}
	if proto == suite.ProtoIPComp {
		m.Min, m.Max = uint32(sad.MinCPI), uint32(sad.MaxCPI)
	}
	m.ID.Dst, m.ID.Proto, m.Family = wire.AddressOf(local), ipProto(proto), wire.FamilyOf(local)
	for range allocTries {
		res, err := b.req.one(wire.AllocSPI, 0, m)
		if err != nil {
			return 0, fmt.Errorf("allocate an SPI for %v at %v: %w", proto, local, err)
		}
		sa, ok := res.(*wire.SA)
		if !ok || sa.ID.SPI < sad.MinSPI {
			return 0, fmt.Errorf("allocate an SPI for %v at %v: the kernel answers %T", proto, local, res)
		}
		k := spiKey{proto: ipProto(proto), spi: sa.ID.SPI}
		if _, taken := b.larval[k]; taken || b.inbound[k] != nil {
			b.req.do([]request{reservation{local: local}.deletion(k)})
			continue
		}
		b.larval[k] = reservation{local, time.Now().Add(sad.ReservationTime)}
		return sa.ID.SPI, nil
	}
	return 0, fmt.Errorf("allocate an SPI for %v at %v: %d numbers in a row are reserved", proto, local, allocTries)
}

// FreeSPI implements backend.SADB. The SPI of an installed SA stays.
func (b *Backend) FreeSPI(proto suite.Protocol, _ netip.Addr, spi uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := spiKey{proto: ipProto(proto), spi: spi}
	if v, ok := b.larval[k]; ok && b.live() == nil {
		delete(b.larval, k)
		b.req.do([]request{v.deletion(k)})
	}
}

// lapse ends reservations.
func (b *Backend) lapse(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	for k, v := range b.larval {
		if now.After(v.until) {
			delete(b.larval, k)
			b.req.do([]request{v.deletion(k)})
		}
	}
}

// AddSA implements backend.SADB.
func (b *Backend) AddSA(sa *sad.SA) error {
	m, err := encodeSA(sa, b.report.SADir, 0)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		return errors.Join(b.live(), err)
	}
	if ok, why := b.report.carries(sa); !ok {
		return fmt.Errorf("SA %s: %s: %w", sa.Name, why, backend.ErrUnsupported)
	}
	room, err := sa.Room()
	if err != nil {
		return fmt.Errorf("SA %s, SPI 0x%08x: %w: %w", sa.Name, sa.SPI, err, backend.ErrInvalid)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return err
	}
	exists := func() error {
		return fmt.Errorf("SA %s, SPI 0x%08x: %w", sa.Name, sa.SPI, backend.ErrExists)
	}
	if b.sas[sa.ID] != nil || sa.Dir == sad.In && b.inbound[inboundKey(sa.ID)] != nil {
		return exists()
	}
	r := &saRecord{id: sa.ID, src: sa.Src, name: sa.Name, owner: sa.Owner, reqID: sa.ReqID, mode: sa.Mode, limit: sa.Limits,
		mark: sa.Mark, ifID: sa.IfID, encap: sa.Encap != nil, room: room, inner6: len(sa.Remote) > 0 && sa.Remote[0].From.Is6(), added: time.Now()}
	if b.bySAID[r.said()] != nil {
		return exists() // both directions between one address and itself
	}
	if sa.Dir == sad.Out {
		m.Seq = b.asking.seq(sa.ReqID, m.ID.Dst)
	}
	if sa.CPI != 0 {
		if q := b.asking.of(sa.ReqID, m.ID.Dst); q != nil && sa.Dir == sad.Out {
			// It was about ESP in the mode of the tunnel, and would stay beside an SA of
			// another mode.
			b.takeBack(q.acq)
			m.Seq = 0
		}
		r.comp = compRecord(r, compressed(sa, m))
		if err := b.addComp(r.comp); err != nil {
			return fmt.Errorf("SA %s, SPI 0x%08x: %w", sa.Name, sa.SPI, refused(err))
		}
	}
	b.journal.addSA(r)
	err = b.install(sa, m)
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("SA %s: %w: %w", sa.Name, err, backend.ErrExists)
	}
	if err != nil {
		b.journal.removeSA(r)
		b.removeComp(r.comp)
		return fmt.Errorf("SA %s, SPI 0x%08x: %w", sa.Name, sa.SPI, refused(err))
	}
	b.put(r)
	if sa.Dir == sad.Out {
		b.serving[r.reqID]++
		b.asking.answered(r.reqID)
		return b.reopen(r.reqID)
	}
	return nil
}

// refused marks an error that says the kernel lacks something.
func refused(err error) error {
	for _, e := range []unix.Errno{unix.EPROTONOSUPPORT, unix.ENOSYS, unix.EOPNOTSUPP, unix.EAFNOSUPPORT} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", err, backend.ErrUnsupported)
		}
	}
	return err
}

// install gives the SA to the kernel, with the device that may do its work when
// there is one.
func (b *Backend) install(sa *sad.SA, m *wire.SA) error {
	if sa.Offload.Device == "" {
		return b.addOne(sa.ID, m)
	}
	dev, err := net.InterfaceByName(sa.Offload.Device)
	if err == nil && !sa.Offload.Packet {
		m.Offload = &wire.Offload{IfIndex: int32(dev.Index)}
		if sa.Dir == sad.In {
			m.Offload.Flags = wire.OffloadInbound
		}
		if err = b.addOne(sa.ID, m); err == nil || errors.Is(err, unix.EEXIST) {
			return err
		}
	} else if err == nil {
		err = errors.New("offload of whole packets needs the policy on the device too")
	}
	if sa.Offload.Must {
		return fmt.Errorf("offload to %s: %w", sa.Offload.Device, err)
	}
	b.log(true, "SA %s, SPI 0x%08x: the device %s does not take it, the kernel does the work itself: %v", sa.Name, sa.SPI, sa.Offload.Device, err)
	m.Offload = nil
	return b.addOne(sa.ID, m)
}

// addOne completes the reservation of the SPI, or adds the SA.
func (b *Backend) addOne(id sad.ID, m *wire.SA) error {
	if id.Dir == sad.In {
		k := inboundKey(id)
		if v, ok := b.larval[k]; ok {
			if v.local == id.Dst {
				_, err := b.req.one(wire.UpdSA, 0, m)
				if err == nil {
					delete(b.larval, k)
					return nil
				}
				if !errors.Is(err, unix.ESRCH) {
					return err
				}
				// The kernel forgot the reservation.
			} else {
				b.req.do([]request{v.deletion(k)})
			}
			delete(b.larval, k)
		}
	}
	_, err := b.req.one(wire.NewSA, wire.FlagCreate|wire.FlagExcl, m)
	return err
}

func (b *Backend) put(r *saRecord) {
	b.sas[r.id] = r
	for ; r != nil; r = r.comp {
		b.bySAID[r.said()] = r
		if r.id.Dir == sad.In {
			b.inbound[inboundKey(r.id)] = r
		}
	}
}

func (b *Backend) drop(r *saRecord) {
	delete(b.sas, r.id)
	for ; r != nil; r = r.comp {
		delete(b.bySAID, r.said())
		if r.id.Dir == sad.In {
			delete(b.inbound, inboundKey(r.id))
		}
	}
}

// ended counts an SA out that carries nothing any more.
func (b *Backend) ended(r *saRecord) {
	if r.dead {
		return
	}
	r.dead = true
	b.journal.removeSA(r)
	b.removeComp(r.comp)
	if r.id.Dir != sad.Out {
		return
	}
	if b.serving[r.reqID]--; b.serving[r.reqID] <= 0 {
		delete(b.serving, r.reqID)
	}
	if err := b.reopen(r.reqID); err != nil {
		b.log(true, "policies of %s: %v", r.name, err)
	}
}

func notFound(op string, id sad.ID) error {
	return fmt.Errorf("%s SA: SPI 0x%08x, destination %v: %w", op, id.SPI, id.Dst, backend.ErrNotFound)
}

// DeleteSA implements backend.SADB.
func (b *Backend) DeleteSA(id sad.ID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return err
	}
	r := b.sas[id]
	if r == nil {
		return notFound("delete", id)
	}
	if !r.dead {
		if err := b.req.do([]request{r.deletion()})[0].err; err != nil && !gone(err) {
			return fmt.Errorf("delete SA %s, SPI 0x%08x: %w", r.name, id.SPI, err)
		}
	}
	b.drop(r)
	b.ended(r)
	return nil
}

// UpdateSA implements backend.SADB. The kernel cannot change the addresses of an SA
// in place: its own migration copies the SA while the old one still sends, so that
// numbers and with them nonces are used twice. So the SA is removed, what the
// kernel tells of its last state is changed, and that is added. In between packets
// are dropped.
func (b *Backend) UpdateSA(id sad.ID, m backend.Move) (sad.ID, error) {
	if !m.Src.IsValid() || !m.Dst.IsValid() || m.Src.Is4() != m.Dst.Is4() {
		return id, fmt.Errorf("update SA: SPI 0x%08x: outer addresses %v and %v, expected two of one family: %w", id.SPI, m.Src, m.Dst, backend.ErrInvalid)
	}
	if m.Encap != nil && id.Proto == suite.ProtoAH {
		return id, fmt.Errorf("update SA: SPI 0x%08x: AH cannot be encapsulated in UDP: %w", id.SPI, backend.ErrUnsupported)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return id, err
	}
	r := b.sas[id]
	if r == nil {
		return id, notFound("update", id)
	}
	to := id
	to.Dst = m.Dst
	if to != id && (b.sas[to] != nil || b.bySAID[saID(to)] != nil) {
		return id, fmt.Errorf("update SA: SPI 0x%08x to %v: %w", id.SPI, to.Dst, backend.ErrExists)
	}
	if !r.dead {
		if err := b.move(r, to, m); err != nil {
			return id, fmt.Errorf("update SA %s, SPI 0x%08x: %w", r.name, id.SPI, err)
		}
	}
	b.drop(r)
	r.id, r.src, r.encap, r.mapped = to, m.Src, m.Encap != nil, netip.AddrPort{}
	var err error
	if r.comp != nil && !r.dead {
		if err = b.moveComp(r.comp, m); err != nil {
			b.req.do([]request{r.deletion()})
			b.lost(r, "its compression could not be moved")
		}
	}
	b.put(r)
	return to, err
}

// moved tells whether the kernel has the SA at its new addresses already: somebody
// else moved it, with MIGRATE.
func (b *Backend) moved(r *saRecord, to sad.ID, m backend.Move) bool {
	at := saRecord{id: to, mark: r.mark}
	msg, err := b.req.one(wire.GetSA, 0, at.byID())
	sa, ok := msg.(*wire.SA)
	if err != nil || !ok {
		return false
	}
	defer sa.Destroy()
	encap := m.Encap == nil && sa.Encap == nil || m.Encap != nil && sa.Encap != nil && sa.Encap.SrcPort == m.Encap.SrcPort && sa.Encap.DstPort == m.Encap.DstPort
	return encap && sa.ReqID == r.reqID && sa.Src.Addr(sa.Family) == m.Src
}

// move replaces the SA in the kernel.
func (b *Backend) move(r *saRecord, to sad.ID, m backend.Move) error {
	if b.moved(r, to, m) {
		if to != r.id {
			there := *r
			there.id = to
			b.journal.addSA(&there)
			b.journal.removeSA(r)
		}
		return nil
	}
	if err := b.readable(r); err != nil {
		return err
	}
	last := b.heard.expect(r.said())
	defer b.heard.forget(r.said())
	if err := b.req.do([]request{r.deletion()})[0].err; err != nil {
		return err
	}
	var old *wire.SA
	select {
	case old = <-last:
	case <-time.After(answerTime):
		// Its state is lost, and without it the SA must not go on.
		b.lost(r, "the kernel did not tell the state of the removed SA")
		return errors.New("the kernel does not tell the state of the SA; it is removed and must be negotiated again")
	}
	defer old.Destroy()
	next := *old
	next.ID.Dst, next.Src, next.Family = wire.AddressOf(m.Dst), wire.AddressOf(m.Src), wire.FamilyOf(m.Dst)
	next.Encap, next.Seq = nil, 0
	if e := m.Encap; e != nil {
		next.Encap = &wire.Encap{Type: wire.EncapUDP, SrcPort: e.SrcPort, DstPort: e.DstPort}
	} else {
		next.MTimerThresh = nil
	}
	if r.mode == spd.Transport || r.comp != nil {
		// The packets have the outer addresses.
		hosts(&next.Sel, old.SAInfo, &next.SAInfo)
	}
	restorable(&next)
	moved := *r
	moved.id = to
	b.journal.addSA(&moved)
	err := b.req.do([]request{{wire.NewSA, wire.FlagCreate | wire.FlagExcl, &next}})[0].err
	if err == nil {
		if to != r.id {
			b.journal.removeSA(r)
		}
		return nil
	}
	if to != r.id {
		b.journal.removeSA(&moved)
	}
	back := *old
	back.Seq = 0
	restorable(&back)
	if again := b.req.do([]request{{wire.NewSA, wire.FlagCreate | wire.FlagExcl, &back}})[0].err; again != nil {
		b.lost(r, "it could be neither moved nor put back")
		return errors.Join(err, again)
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: %w", err, backend.ErrExists)
	}
	return err
}

// readable tells whether the kernel gives out keys: in lockdown it gives zeros in
// their place, and an SA must not go on with those.
func (b *Backend) readable(r *saRecord) error {
	msg, err := b.req.one(wire.GetSA, 0, r.byID())
	if err != nil {
		return err
	}
	sa, ok := msg.(*wire.SA)
	if !ok {
		return fmt.Errorf("the kernel answers %T", msg)
	}
	defer sa.Destroy()
	for _, a := range []*wire.Algorithm{sa.AlgAEAD, sa.AlgCrypt, sa.AlgAuthTrunc} {
		if a != nil && a.Key.Len() > 0 && !slices.ContainsFunc(a.Key.Reveal(), func(x byte) bool { return x != 0 }) {
			return errors.New("the kernel hides keys (lockdown), so the SA cannot move; rekey it")
		}
	}
	return nil
}

// hosts moves a selector that is the outer addresses themselves.
func hosts(sel *wire.Selector, old wire.SAInfo, next *wire.SAInfo) {
	if sel.Family != old.Family {
		return
	}
	if sel.Dst == old.ID.Dst {
		sel.Dst = next.ID.Dst
	}
	if sel.Src == old.Src {
		sel.Src = next.Src
	}
	sel.Family = next.Family
}

// restorable makes a message that adds an SA out of one that tells of it.
func restorable(m *wire.SA) {
	u := m.Used
	m.LifetimeVal = &u // octets, packets and the time of installation go on
	m.Used, m.Stats = wire.Used{}, wire.Stats{}
	if m.AlgAuthTrunc != nil {
		m.AlgAuth = nil // the same without the truncation
	}
	if m.ReplayESN != nil {
		m.Replay, m.ReplayWindow = nil, 0
	}
	if m.Offload != nil {
		m.Offload.Flags &^= wire.OffloadIPv6
	}
	m.LastUsed, m.SrcAddr, m.ReplayThresh, m.ETimerThresh = nil, nil, nil, nil
	m.Unknown = slices.Clone(m.Unknown[:0])
}

// lost tells that an SA is no more in the kernel, without a lifetime's end.
func (b *Backend) lost(r *saRecord, why string) {
	if r.dead {
		return
	}
	b.counts[removed]++
	b.log(true, "SA %s, SPI 0x%08x to %v is not in the kernel any more: %s", r.name, r.id.SPI, r.id.Dst, why)
	b.ended(r)
	b.events.Emit(backend.Expire{ID: r.id, Owner: r.owner, Hard: true, Why: "removed"})
}
