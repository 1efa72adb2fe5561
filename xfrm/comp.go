package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// Compression in an SA of ESP (RFC 3173) is a state of its own in the kernel, inside
// of ESP: it has the mode of the SA, and ESP has transport mode around what comes out
// of it. In tunnel mode the kernel adds one more by itself, of IP in IP, for packets
// that were sent as they are because they do not shrink.
//
//	transport mode   IP | ESP | IPComp | payload
//	tunnel mode      new IP | ESP | IPComp | IP | payload

// ipComp is the protocol number of IPComp. privateCPI is one that is never negotiated
// (RFC 3173, Section 3.3).
const (
	ipComp     uint8  = 108
	privateCPI uint32 = 0xffff
)

// compressed adapts the message of ESP to compression inside of it, and gives that of
// the other state.
func compressed(sa *sad.SA, m *wire.SA) *wire.SA {
	c := &wire.SA{}
	c.ID = wire.ID{Dst: m.ID.Dst, SPI: uint32(sa.CPI), Proto: ipComp}
	c.Src, c.Family, c.ReqID, c.Mode, c.Sel = m.Src, m.Family, m.ReqID, m.Mode, m.Sel
	c.Lifetime = lifetime(sad.Limits{})
	c.AlgComp = deflate()
	c.Mark, c.IfID, c.SADir = m.Mark, m.IfID, m.SADir
	if sa.Mode != spd.Tunnel {
		return c
	}
	// What is about the tunnel header goes with the tunnel.
	const ofTunnel = wire.FlagNoECN | wire.FlagDecapDSCP | wire.FlagNoPMTUDisc | wire.FlagAFUnspec
	c.Flags, m.Flags = m.Flags&ofTunnel, m.Flags&^uint8(ofTunnel)
	c.ExtraFlags, m.ExtraFlags = m.ExtraFlags, nil
	m.Mode, m.Sel, m.TFCPad = wire.ModeTransport, wire.Selector{}, nil
	return c
}

// compRecord is that of the state of compression.
func compRecord(r *saRecord, m *wire.SA) *saRecord {
	id := r.id
	id.Proto, id.SPI = suite.ProtoIPComp, m.ID.SPI
	return &saRecord{id: id, src: r.src, name: r.name, mark: r.mark, ifID: r.ifID, main: r, msg: m}
}

// addComp gives the state of compression to the kernel, before that of ESP: it is no
// use alone.
func (b *Backend) addComp(c *saRecord) error {
	if b.bySAID[c.said()] != nil || c.id.Dir == sad.In && b.inbound[inboundKey(c.id)] != nil {
		return fmt.Errorf("CPI %d: %w", c.id.SPI, backend.ErrExists)
	}
	b.journal.addSA(c)
	if err := b.addOne(c.id, c.msg); err != nil {
		b.journal.removeSA(c)
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w: %w", err, backend.ErrExists)
		}
		return fmt.Errorf("compression, CPI %d: %w", c.id.SPI, err)
	}
	return nil
}

// removeComp takes it out of the kernel.
func (b *Backend) removeComp(c *saRecord) {
	if c == nil || c.dead {
		return
	}
	c.dead = true
	if err := b.req.do([]request{c.deletion()})[0].err; err != nil && !gone(err) {
		b.log(true, "compression of SA %s, CPI %d to %v: it stays in the kernel: %v", c.name, c.id.SPI, c.id.Dst, err)
		return
	}
	b.journal.removeSA(c)
}

// moveComp changes its addresses: it has no state, so it is made anew.
func (b *Backend) moveComp(c *saRecord, m backend.Move) error {
	next := *c.msg
	next.ID.Dst, next.Src, next.Family = wire.AddressOf(m.Dst), wire.AddressOf(m.Src), wire.FamilyOf(m.Dst)
	hosts(&next.Sel, c.msg.SAInfo, &next.SAInfo)
	moved := *c
	moved.id.Dst, moved.src, moved.msg = m.Dst, m.Src, &next
	b.journal.addSA(&moved)
	for _, r := range b.req.do([]request{c.deletion(), {wire.NewSA, wire.FlagCreate | wire.FlagExcl, &next}}) {
		// It may be there already: MIGRATE of somebody else moves both states.
		if r.err != nil && !gone(r.err) && !errors.Is(r.err, unix.EEXIST) {
			return fmt.Errorf("compression, CPI %d: %w", c.id.SPI, r.err)
		}
	}
	if moved.id != c.id {
		b.journal.removeSA(c)
	}
	*c = moved
	return nil
}

// lostComp handles a state of compression that somebody else removed: without it the
// SA carries nothing.
func (b *Backend) lostComp(c *saRecord) {
	c.dead = true
	b.journal.removeSA(c)
	b.req.do([]request{c.main.deletion()})
	b.lost(c.main, "somebody else removed its state of compression")
}

// deflate is the algorithm of compression.
func deflate() *wire.Algorithm { return &wire.Algorithm{Name: "deflate"} }

// compTemplates puts the step of compression before that of ESP. A packet that came
// as it was has none.
func compTemplates(p *spd.Policy, list []spd.Template) []spd.Template {
	if !p.Compress {
		return list
	}
	comp, esp := list[0], list[0]
	comp.Proto = ipComp
	if p.Mode == spd.Tunnel {
		esp.Mode, esp.Local, esp.Remote = spd.Transport, netip.Addr{}, netip.Addr{}
	}
	return append([]spd.Template{comp, esp}, list[1:]...)
}

// compresses tells whether the kernel can do what an SA with compression asks for.
func (r *Report) compresses(sa *sad.SA) (ok bool, reason string) {
	if sa.CPI == 0 {
		return true, ""
	}
	if why := r.comp[wire.FamilyOf(sa.Dst)]; why != "" {
		return false, "compression: " + why
	}
	for _, ts := range slices.Concat(sa.Local, sa.Remote) {
		if ts.Is4() != sa.Dst.Is4() {
			return false, "compression of packets of the other family than the outer addresses: the kernel binds ESP around it to one family; set ipcomp to no, or use the userspace backend"
		}
	}
	return true, ""
}

// probeComp tries a state of compression in each family.
func (r *Report) probeComp(s *socket) {
	r.comp = map[uint16]string{}
	for _, f := range []uint16{wire.Inet, wire.Inet6} {
		addr := wire.AddressOf(loopback[f])
		m := &wire.SA{}
		m.ID, m.Src, m.Family, m.Mode = wire.ID{Dst: addr, SPI: uint32(sad.MaxCPI), Proto: ipComp}, addr, f, wire.ModeTransport
		m.Lifetime = lifetime(sad.Limits{})
		m.AlgComp = deflate()
		_, err := s.one(wire.UpdSA, wire.FlagReplace, m)
		r.comp[f] = tried(err)
	}
}
