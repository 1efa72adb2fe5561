package ikev1

import (
	"iked/internal/keyex"
)

// Status takes a picture of the SA.
func (sa *SA) Status() keyex.Status {
	s := keyex.Status{
		Version: 1, UniqueID: sa.uniqueID, State: sa.state, Initiator: sa.initiator, SPIi: keyex.SPI(sa.ckyI.Uint64()), SPIr: keyex.SPI(sa.ckyR.Uint64()),
		Config: sa.cfg, Local: sa.local, Remote: sa.remote, NATT: sa.natt, NATLocal: sa.nat.local, NATRemote: sa.nat.remote, NATFake: sa.nat.fake,
		LocalID: sa.localID, RemoteID: sa.remoteID, Proposal: sa.proposal, Children: append([]*keyex.Child(nil), sa.children...),
		Established: sa.established, ExpireAt: sa.timers.hard, ReauthAt: sa.timers.rekey, LastInbound: sa.lastInbound,
		LocalVIPs: sa.vipLocal, RemoteVIPs: sa.vipRemote, DNS: sa.dns,
		User: sa.user, Banner: sa.given.banner, Domain: sa.given.domain, Networks: sa.given.networks,
	}
	for _, q := range sa.waiting {
		_ = q
		s.Queued = append(s.Queued, "QUICK_MODE")
	}
	if sa.p1 != nil {
		s.Active = append(s.Active, sa.p1.x.name)
	}
	for _, x := range sa.exchanges {
		switch {
		case x.next == nil:
		case x.ours:
			s.Active = append(s.Active, x.name)
		default:
			s.Passive = append(s.Passive, x.name)
		}
	}
	return s
}

// UniqueID numbers the IKE SA.
func (sa *SA) UniqueID() uint32 { return sa.uniqueID }

// State is that of the IKE SA.
func (sa *SA) State() keyex.SAState { return sa.state }

// OwnSPI is the cookie under which the peer's messages find this SA.
func (sa *SA) OwnSPI() keyex.SPI {
	if sa.initiator {
		return keyex.SPI(sa.ckyI.Uint64())
	}
	return keyex.SPI(sa.ckyR.Uint64())
}

// Config is the configuration; in a responder nil before the first message, and
// provisional before the identity is known.
func (sa *SA) Config() *keyex.Config { return sa.cfg }

// Children are the pairs of SAs. The list is a copy, the records are not to be
// changed.
func (sa *SA) Children() []*keyex.Child { return append([]*keyex.Child(nil), sa.children...) }
