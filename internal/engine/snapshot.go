package engine

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/spd"
)

// SAInfo is what an IKE SA was at one moment. Zero values mean "not known yet"
// or "none".
type SAInfo struct {
	Version  uint8 // of IKE
	UniqueID uint32
	Conn     string
	State    ikev2.SAState
	Local    netip.AddrPort
	Remote   netip.AddrPort
	LocalID  ident.ID
	RemoteID ident.ID
	// Initiator tells whether this system initiated the SA.
	Initiator  bool
	SPIi, SPIr ikev2.SPI
	// NATLocal and NATRemote: a NAT was detected there (RFC 7296, Section 2.23).
	// NATFake: encapsulation was forced by the configuration.
	NATLocal, NATRemote, NATFake bool
	// Transforms; Encr.Type is 0 before a proposal was chosen, Integ.Type is 0
	// with a combined-mode cipher.
	Encr, Integ, PRF, KE  suite.Transform
	Established           time.Time
	RekeyAt, ReauthAt     time.Time
	LocalVIPs, RemoteVIPs []netip.Addr
	// User is whom XAuth authenticated. Banner, Domain and Networks are what the peer
	// gave with Cisco's extensions of Mode Config.
	User, Banner, Domain string
	Networks             []netip.Prefix
	// Home is the home link that a home agent told of.
	Home keyex.HomeLink
	// Tasks by state, in the names of the control protocol.
	Queued, Active, Passive []string
	Children                []ChildInfo
}

// ChildInfo is what a CHILD_SA was at one moment.
type ChildInfo struct {
	flow            *spd.Flow // the packet that asked for it, nil: none
	Name            string
	UniqueID        uint32
	ReqID           uint32
	ReqIDIn         uint32 // of the inbound SA
	State           ikev2.ChildState
	Mode            spd.Mode
	Proto           suite.Protocol
	Encap           bool
	SPIIn, SPIOut   uint32
	CPIIn, CPIOut   uint16          // of compression; 0: there is none
	Encr, Integ, KE suite.Transform // KE.Type is 0 when no key exchange was done for it
	ESN             bool
	// AH is what stands around ESP; nil: nothing.
	AH                *AHInfo
	In, Out           Traffic
	Installed         time.Time
	RekeyAt, ExpireAt time.Time
	Local, Remote     []spd.TS
	// Initiator tells whether this system initiated the exchange that made it.
	Initiator bool
	// MTU is the largest inner packet that fits without fragmentation; 0 unknown.
	MTU int
	// Replayed and BadICV count what of the peer was refused by the replay window
	// and by the integrity check.
	Replayed, BadICV uint64
	// IfID, MarkIn and MarkOut are what its SAs are bound to; 0: none.
	IfID            uint32
	MarkIn, MarkOut spd.Mark
}

// AHInfo is the AH around the ESP of a CHILD_SA.
type AHInfo struct {
	SPIIn, SPIOut    uint32
	Integ            suite.Transform
	ESN              bool
	Replayed, BadICV uint64 // as those of ChildInfo
}

// Traffic counts what one direction of a CHILD_SA carried. LastUsed is zero when
// it carried nothing.
type Traffic struct {
	Bytes, Packets uint64
	LastUsed       time.Time
}

// look takes the state of an SA, without its children.
func (s *shard) look(x *ikeSA) SAInfo {
	info := x.m.Look()
	info.UniqueID, info.Conn = x.id, x.conn
	x.last = info
	return info
}

// lookWith takes the state of an SA with one child.
func (s *shard) lookWith(x *ikeSA, c *childSA) (*SAInfo, ChildInfo) {
	var info SAInfo
	if x.closed {
		info = x.last
	} else {
		info = s.look(x)
	}
	child := s.childInfo(c)
	info.Children = []ChildInfo{child}
	return &info, child
}

func (s *shard) childInfo(c *childSA) ChildInfo {
	ch := c.child
	info := ChildInfo{
		flow: ch.Flow,
		Name: c.name(), UniqueID: ch.UniqueID, ReqID: c.reqid, ReqIDIn: c.reqidIn, State: ch.State, Mode: ch.Mode, Proto: ch.Proto,
		Encap: ch.Encap, SPIIn: ch.SPIIn, SPIOut: ch.SPIOut, CPIIn: ch.CPIIn, CPIOut: ch.CPIOut, Encr: ch.Encr, Integ: ch.Integ, KE: ch.KE, ESN: ch.ESN,
		Initiator: ch.Initiator, Installed: ch.Installed, RekeyAt: ch.RekeyAt, ExpireAt: ch.ExpireAt,
		Local: slices.Clone(ch.Local), Remote: slices.Clone(ch.Remote),
	}
	info.AH = s.ahInfo(c)
	// A device that is gone binds nothing any more.
	if b, err := s.e.devices.binding(childRef(ch.Config).conf); err == nil {
		info.IfID, info.MarkIn, info.MarkOut = b.ifID, b.markIn, b.mark
	}
	if c.in {
		if u, err := s.e.opt.Backend.QuerySA(c.inID); err == nil {
			info.In = Traffic{u.Bytes, u.Packets, u.LastUsed}
			info.Replayed, info.BadICV = u.Replayed, u.BadICV
		}
	}
	if c.out {
		if u, err := s.e.opt.Backend.QuerySA(c.outID); err == nil {
			info.Out = Traffic{u.Bytes, u.Packets, u.LastUsed}
			info.MTU = u.MTU
		}
	}
	return info
}

// SAFilter chooses SAs. Zero values choose all. The child fields choose which
// children an SA is shown with; the SA itself is listed all the same.
type SAFilter struct {
	IKE     string
	IKEID   uint32
	Child   string
	ChildID uint32
}

func (f *SAFilter) ike(x *ikeSA) bool {
	return (f.IKE == "" || f.IKE == x.conn) && (f.IKEID == 0 || f.IKEID == x.id)
}

func (f *SAFilter) child(c *childSA) bool {
	return (f.Child == "" || f.Child == c.name()) && (f.ChildID == 0 || f.ChildID == c.child.UniqueID)
}

// ListSAs takes the state of the IKE SAs, by unique id, with their children. A
// shard that does not answer until ctx ends is left out, and the error tells so.
func (e *Engine) ListSAs(ctx context.Context, f SAFilter) ([]SAInfo, error) {
	var all []SAInfo
	for _, s := range e.shards {
		var part []SAInfo
		err := s.wait(ctx, func(s *shard) {
			for _, x := range s.sas {
				if !f.ike(x) {
					continue
				}
				info := s.look(x)
				for _, c := range x.children {
					if f.child(c) {
						info.Children = append(info.Children, s.childInfo(c))
					}
				}
				slices.SortFunc(info.Children, func(a, b ChildInfo) int { return int(int64(a.UniqueID) - int64(b.UniqueID)) })
				part = append(part, info)
			}
		})
		if err != nil {
			return all, err
		}
		all = append(all, part...)
	}
	slices.SortFunc(all, func(a, b SAInfo) int { return int(int64(a.UniqueID) - int64(b.UniqueID)) })
	return all, nil
}
