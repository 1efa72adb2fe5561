package xfrm

import (
	"fmt"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// IP protocol numbers.
const (
	ipESP uint8 = 50
	ipAH  uint8 = 51
)

func ipProto(p suite.Protocol) uint8 {
	switch p {
	case suite.ProtoAH:
		return ipAH
	case suite.ProtoIPComp:
		return ipComp
	}
	return ipESP
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

// saID is how the kernel finds an SA.
func saID(id sad.ID) wire.SAID {
	return wire.SAID{Dst: wire.AddressOf(id.Dst), SPI: id.SPI, Family: wire.FamilyOf(id.Dst), Proto: ipProto(id.Proto)}
}

// unsupported is an SA that the kernel cannot carry as it is asked to.
func unsupported(sa *sad.SA, format string, args ...any) error {
	return fmt.Errorf("SA %s, SPI 0x%08x: %s: %w", sa.Name, sa.SPI, fmt.Sprintf(format, args...), backend.ErrUnsupported)
}

// encodeSA is the message of an SA. ifindex is that of its offload device, 0: none.
// The keys are those of sa.
func encodeSA(sa *sad.SA, dirAttr bool, ifindex int) (*wire.SA, error) {
	if err := backend.CheckSA(sa); err != nil {
		return nil, err
	}
	if err := carried(sa); err != nil {
		return nil, err
	}
	m := &wire.SA{}
	if err := algorithms(sa, &m.Attrs); err != nil {
		return nil, fmt.Errorf("SA %s, SPI 0x%08x: %w: %w", sa.Name, sa.SPI, err, backend.ErrInvalid)
	}
	m.ID = wire.ID{Dst: wire.AddressOf(sa.Dst), SPI: sa.SPI, Proto: ipProto(sa.Proto)}
	m.Src, m.Family = wire.AddressOf(sa.Src), wire.FamilyOf(sa.Dst)
	m.ReqID, m.Mode = sa.ReqID, kernelMode(sa.Mode)
	m.Lifetime = lifetime(sa.Limits)
	if err := saSelector(sa, m); err != nil {
		return nil, err
	}
	saFlags(sa, m)
	replay(sa, m, dirAttr)
	if dirAttr {
		m.SADir = ptr(map[sad.Direction]uint8{sad.In: wire.SADirIn, sad.Out: wire.SADirOut}[sa.Dir])
	}
	if e := sa.Encap; e != nil {
		m.Encap = &wire.Encap{Type: wire.EncapUDP, SrcPort: e.SrcPort, DstPort: e.DstPort}
		if sa.Dir == sad.In {
			m.MTimerThresh = ptr(uint32(1)) // one Mapping a second is enough
		}
	}
	if sa.Dir == sad.Out && sa.Mode == spd.Tunnel && sa.Proto == suite.ProtoESP && sa.TFCPadding > 0 {
		m.TFCPad = ptr(sa.TFCPadding) // the kernel pads to the path MTU at most
	}
	if sa.Mark != (spd.Mark{}) {
		m.Mark = &wire.Mark{Value: sa.Mark.Value, Mask: sa.Mark.Mask}
	}
	if sa.SetMark != (spd.Mark{}) {
		m.SetMark, m.SetMarkMask = ptr(sa.SetMark.Value), ptr(sa.SetMark.Mask)
	}
	if sa.IfID != 0 {
		m.IfID = ptr(sa.IfID)
	}
	if ifindex != 0 {
		m.Offload = &wire.Offload{IfIndex: int32(ifindex)}
		if sa.Dir == sad.In {
			m.Offload.Flags |= wire.OffloadInbound
		}
	}
	return m, nil
}

// carried refuses what the kernel would do otherwise than it is told.
func carried(sa *sad.SA) error {
	switch {
	case sa.Encap != nil && sa.Proto == suite.ProtoAH:
		// RFC 3948, Section 1: AH covers the addresses.
		return unsupported(sa, "AH cannot be encapsulated in UDP; use ESP")
	case sa.DF == sad.DFSet && sa.Mode == spd.Tunnel && sa.Dir == sad.Out:
		return unsupported(sa, "the kernel copies or clears the DF bit and cannot set it; copy it, or use the userspace backend")
	case sa.HopLimit != 0 && sa.HopLimit != 64:
		return unsupported(sa, "the kernel takes the hop limit of tunnel headers from the route; leave it out, or use the userspace backend")
	case sa.ESN && sa.Dir == sad.In && sa.ReplayWindow == 0:
		// The high half of a number is inferred from the window (RFC 4303, Appendix A2.2).
		return unsupported(sa, "extended sequence numbers need a replay window; give replay_window a value, or use noesn")
	case sa.Offload.Packet && sa.Offload.Must:
		return unsupported(sa, "offload of whole packets needs the policy on the device too; offload cryptography only")
	case sa.Sender.IsValid():
		return unsupported(sa, "the kernel finds SAs of a group by SPI and destination, whoever sends; leave out the sender, or use the userspace backend")
	case sa.Mode == spd.Transport && sa.Encap == nil && sa.Local[0].Is4() != sa.Dst.Is4():
		// The kernel gives such a state one family, also behind a tunnel of a bundle.
		return unsupported(sa, "transport mode over %v for traffic of the other family, as of AH around a tunnel; use addresses of one family, or the userspace backend", sa.Dst)
	case sa.Mode == spd.BEET && sa.Proto != suite.ProtoESP:
		return unsupported(sa, "BEET mode is for ESP alone")
	}
	return nil
}

func ptr[T any](v T) *T { return &v }

func lifetime(l sad.Limits) wire.Lifetime {
	count := func(n uint64) uint64 {
		if n == 0 {
			return wire.Infinite
		}
		return n
	}
	seconds := func(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }
	return wire.Lifetime{
		SoftBytes: count(l.SoftBytes), HardBytes: count(l.HardBytes), SoftPackets: count(l.SoftPackets), HardPackets: count(l.HardPackets),
		SoftAdd: seconds(l.SoftTime), HardAdd: seconds(l.HardTime),
	}
}

// saSelector gives the SA its selector. The kernel has room for one pair; where
// there are more the policies alone select.
func saSelector(sa *sad.SA, m *wire.SA) error {
	dir := spd.Outbound
	if sa.Dir == sad.In {
		dir = spd.Inbound
	}
	switch sa.Mode {
	case spd.BEET:
		// The selector is the inner header of what arrives.
		if len(sa.Local) != 1 || len(sa.Remote) != 1 || !sa.Local[0].IsHost() || !sa.Remote[0].IsHost() || sa.Local[0].Is4() != sa.Remote[0].Is4() {
			return unsupported(sa, "BEET mode is between one inner address here and one at the peer (draft-nikander-esp-beet-mode-09, Section 3)")
		}
		m.Sel, _ = single([]spd.TS{spd.Host(sa.Local[0].From)}, []spd.TS{spd.Host(sa.Remote[0].From)}, dir)
	case spd.Transport:
		// Behind a translator the packets have other addresses than were negotiated;
		// without a selector it is any packet between the addresses of the SA.
		if sa.Encap == nil {
			m.Sel, _ = single(sa.Local, sa.Remote, dir)
		}
	default:
		var ok bool
		if m.Sel, ok = single(sa.Local, sa.Remote, dir); !ok {
			m.Flags |= wire.FlagAFUnspec // any packet, of either family
		}
	}
	return nil
}

// saFlags are those that the kernel takes in the direction of the SA.
func saFlags(sa *sad.SA, m *wire.SA) {
	if sa.NoECN {
		m.Flags |= wire.FlagNoECN
	}
	if sa.Dir == sad.In && (sa.DSCP == sad.DSCPIn || sa.DSCP == sad.DSCPBoth) {
		m.Flags |= wire.FlagDecapDSCP
	}
	if sa.Dir == sad.Out && (sa.DSCP == sad.DSCPIn || sa.DSCP == sad.DSCPNo) {
		m.ExtraFlags = ptr(uint32(wire.XFlagNoEncap))
	}
	if sa.Dir == sad.Out && sa.DF == sad.DFClear {
		m.Flags |= wire.FlagNoPMTUDisc
	}
	if sa.Proto == suite.ProtoAH && sa.Dst.Is4() {
		// RFC 4302, Section 3.3.3.2.1: IPv4 pads AH to 32 bits; the kernel by itself to 64.
		m.Flags |= wire.FlagAlign4
	}
	if sa.ESN {
		m.Flags |= wire.FlagESN
	}
}

// replay sets the window. A kernel that knows directions wants none for what is
// sent; older ones want one with extended numbers in both.
func replay(sa *sad.SA, m *wire.SA, dirAttr bool) {
	window := min(sa.ReplayWindow, wire.MaxReplayWindow)
	if sa.Dir == sad.Out {
		window = 0
		if sa.ESN && !dirAttr {
			window = 32
		}
	}
	if !sa.ESN && window <= 32 {
		m.ReplayWindow = uint8(window)
		return
	}
	m.ReplayESN = &wire.ReplayESN{Window: window, Bitmap: make([]uint32, (window+31)/32)}
}
