// Package form has the messages by which SAs are said to have moved: XFRM_MSG_MIGRATE
// of netlink, SADB_X_MIGRATE of PF_KEY, and the packet of Mobile IPv6 that a PF_KEY
// ACQUIRE may carry.
package form

import (
	"fmt"
	"net/netip"

	"iked/migrate"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// Protocols of IPsec whose SAs are IKE's.
const (
	ipESP uint8 = 50
	ipAH  uint8 = 51
)

// policySub is XFRM_POLICY_TYPE_SUB.
const policySub = 1

// FromXFRM reads a MIGRATE of netlink. Entries that are not of ESP or AH in
// transport, tunnel or BEET mode (route optimisation, destination options) are
// nobody's here and left out. Addresses of an entry that are zero are unspecified
// ones of its family.
func FromXFRM(m *wire.Migrate) (*migrate.Event, error) {
	e := &migrate.Event{Source: migrate.Netlink, Dir: migrate.Dir(m.Dir)}
	s := &m.Sel
	src, dst := s.Src.Addr(s.Family), s.Dst.Addr(s.Family)
	if !src.IsValid() {
		return nil, fmt.Errorf("MIGRATE: selector of family %d, expected IPv4 or IPv6", s.Family)
	}
	e.Selector = spd.KernelSelector{
		Src: netip.PrefixFrom(src, int(s.SrcLen)).Masked(), Dst: netip.PrefixFrom(dst, int(s.DstLen)).Masked(), Proto: s.Proto,
		SrcPort: s.SrcPort, SrcMask: s.SrcPortMask, DstPort: s.DstPort, DstMask: s.DstPortMask,
	}
	for i := range m.Migrate {
		w := &m.Migrate[i]
		mode, ok := modeOf(w.Mode)
		if !ok || w.Proto != ipESP && w.Proto != ipAH {
			continue
		}
		e.Entries = append(e.Entries, migrate.Entry{
			Proto: w.Proto, Mode: mode, ReqID: w.ReqID,
			Old: migrate.Pair{Src: w.OldSrc.Addr(w.OldFamily), Dst: w.OldDst.Addr(w.OldFamily)},
			New: migrate.Pair{Src: w.NewSrc.Addr(w.NewFamily), Dst: w.NewDst.Addr(w.NewFamily)},
		})
	}
	if k := m.KMAddress; k != nil {
		e.KM = migrate.Ends{Local: k.Local.Addr(k.Family), Remote: k.Remote.Addr(k.Family)}
	}
	if t := m.PolicyType; t != nil {
		e.Sub = *t == policySub
	}
	if m.IfID != nil {
		e.IfID = *m.IfID
	}
	if c := m.Encap; c != nil {
		e.Encap = &sad.Encap{SrcPort: c.SrcPort, DstPort: c.DstPort}
	}
	if err := e.Check(); err != nil {
		return nil, err
	}
	return e, nil
}

// FromStateXFRM reads a MIGRATE_STATE of netlink. nil without an error: it is of a state
// that is none of ESP or AH, and so nobody's here.
func FromStateXFRM(m *wire.StateMigrate) (*migrate.Single, error) {
	if m.ID.Proto != ipESP && m.ID.Proto != ipAH {
		return nil, nil
	}
	e := &migrate.Single{Proto: m.ID.Proto, SPI: m.ID.SPI, Dst: m.ID.Dst.Addr(m.ID.Family),
		New: migrate.Pair{Src: m.NewSrc.Addr(m.NewFamily), Dst: m.NewDst.Addr(m.NewFamily)}}
	if err := e.Check(); err != nil {
		return nil, fmt.Errorf("MIGRATE_STATE: %w", err)
	}
	return e, nil
}

// ToXFRM is the request that moves the SAs and the templates of a policy.
func ToXFRM(e *migrate.Event) *wire.Migrate {
	k := &e.Selector
	m := &wire.Migrate{PolicyID: wire.PolicyID{Dir: uint8(e.Dir), Sel: wire.Selector{
		Src: wire.AddressOf(k.Src.Addr()), SrcLen: uint8(k.Src.Bits()), Dst: wire.AddressOf(k.Dst.Addr()), DstLen: uint8(k.Dst.Bits()),
		Family: wire.FamilyOf(k.Dst.Addr()), Proto: k.Proto,
		SrcPort: k.SrcPort, SrcPortMask: k.SrcMask, DstPort: k.DstPort, DstPortMask: k.DstMask,
	}}}
	for _, x := range e.Entries {
		w := wire.Migration{Proto: x.Proto, Mode: kernelMode(x.Mode), ReqID: x.ReqID,
			OldSrc: wire.AddressOf(x.Old.Src), OldDst: wire.AddressOf(x.Old.Dst), OldFamily: wire.FamilyOf(x.Old.Dst),
			NewSrc: wire.AddressOf(x.New.Src), NewDst: wire.AddressOf(x.New.Dst), NewFamily: wire.FamilyOf(x.New.Dst)}
		if w.OldFamily == 0 {
			w.OldFamily = w.NewFamily // no addresses, which still have a family
		}
		m.Migrate = append(m.Migrate, w)
	}
	if e.KM.Local.IsValid() {
		m.KMAddress = &wire.KMAddress{Local: wire.AddressOf(e.KM.Local), Remote: wire.AddressOf(e.KM.Remote), Family: wire.FamilyOf(e.KM.Local)}
	}
	if e.Sub {
		t := uint8(policySub)
		m.PolicyType = &t
	}
	if e.IfID != 0 {
		id := e.IfID
		m.IfID = &id
	}
	if c := e.Encap; c != nil {
		m.Encap = &wire.Encap{Type: wire.EncapUDP, SrcPort: c.SrcPort, DstPort: c.DstPort}
	}
	return m
}

func modeOf(m uint8) (spd.Mode, bool) {
	switch m {
	case wire.ModeTransport:
		return spd.Transport, true
	case wire.ModeTunnel:
		return spd.Tunnel, true
	case wire.ModeBEET:
		return spd.BEET, true
	}
	return 0, false
}

func kernelMode(m spd.Mode) uint8 {
	switch m {
	case spd.Transport:
		return wire.ModeTransport
	case spd.BEET:
		return wire.ModeBEET
	}
	return wire.ModeTunnel
}
