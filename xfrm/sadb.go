package xfrm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/migrate"
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
	added time.Time
	// dead: the kernel has it no more; last is what was known of it then.
	dead bool
	last sad.Usage
	// mapped is the last address that a Mapping told.
	mapped   netip.AddrPort
	mappedAt time.Time
	missing  time.Time // since when the kernel does not have it
	// next is where somebody else has moved it, if the kernel does not have it at its
	// place; invalid: nowhere. searched: it was found so.
	next     migrate.Pair
	searched bool
	// comp is the record of the state of compression inside of the SA, nil: none;
	// of such a record main is the SA's, and msg what made it.
	comp, main *saRecord
	sel        wire.Selector // zero: the policies alone select
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
		sel: m.Sel, mark: sa.Mark, ifID: sa.IfID, encap: sa.Encap != nil, room: room, added: time.Now()}
	if b.bySAID[r.said()] != nil {
		return exists() // both directions between one address and itself
	}
	if sa.Dir == sad.Out {
		if q := b.asking.of(m); q != nil && sa.CPI != 0 {
			// It was about ESP in the mode of the tunnel, and would stay beside an SA of
			// another mode.
			b.takeBack(q.acq)
		} else if q != nil {
			m.Seq = q.acq.Seq
		}
	}
	if sa.CPI != 0 {
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
	b.catchUp(r)
	if sa.Dir == sad.Out {
		b.serving[r.reqID]++
		b.asking.answered(m)
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
	b.forgetNext(r)
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
		err := b.req.do([]request{r.deletion()})[0].err
		if gone(err) {
			b.removeNext(r)
			b.bury(r)
		} else if err != nil {
			return fmt.Errorf("delete SA %s, SPI 0x%08x: %w", r.name, id.SPI, err)
		}
	}
	b.drop(r)
	b.ended(r)
	return nil
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
