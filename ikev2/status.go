package ikev2

import (
	"net/netip"

	"iked/internal/ident"
)

// Status takes a picture of the SA.
func (sa *SA) Status() Status {
	s := Status{
		Version: 2, UniqueID: sa.uniqueID, State: sa.state, Initiator: sa.initiator, SPIi: sa.SPIi(), SPIr: sa.SPIr(), Config: sa.cfg,
		Local: sa.local, Remote: sa.remote, NATT: sa.natt, NATLocal: sa.nat.local, NATRemote: sa.nat.remote, NATFake: sa.nat.fake,
		LocalID: sa.localID, RemoteID: sa.remoteID, Proposal: sa.proposal, LocalVIPs: sa.vipLocal, RemoteVIPs: sa.vipRemote, DNS: sa.dns, Home: sa.home,
		Children: sa.Children(), Established: sa.established, RekeyAt: sa.timers.rekey,
		ExpireAt: earliest(sa.timers.hard, sa.timers.reauthHard), ReauthAt: sa.timers.reauth, LastInbound: sa.lastInbound,
	}
	for _, q := range sa.queue {
		s.Queued = append(s.Queued, q.x.task())
	}
	if sa.active != nil {
		s.Active = append(s.Active, sa.active.task())
	}
	if a := sa.window.answering; a != nil && a.name != "" {
		s.Passive = append(s.Passive, a.name)
	}
	return s
}

// UniqueID numbers the IKE SA.
func (sa *SA) UniqueID() uint32 { return sa.uniqueID }

// State is that of the IKE SA.
func (sa *SA) State() SAState { return sa.state }

// Initiator tells whether this side is the original initiator of this IKE SA.
func (sa *SA) Initiator() bool { return sa.initiator }

// SPIi and SPIr are the IKE SPIs, 0 while unknown. The own one never changes.
func (sa *SA) SPIi() SPI { return SPI(sa.spiI.Uint64()) }

// SPIr is the responder's SPI.
func (sa *SA) SPIr() SPI { return SPI(sa.spiR.Uint64()) }

// OwnSPI is the one under which the peer's messages find this SA.
func (sa *SA) OwnSPI() SPI {
	if sa.initiator {
		return sa.SPIi()
	}
	return sa.SPIr()
}

// Config is the configuration; in a responder nil before IKE_SA_INIT, and
// provisional before IKE_AUTH.
func (sa *SA) Config() *Config { return sa.cfg }

// Local and Remote are the addresses of the IKE SA.
func (sa *SA) Local() netip.AddrPort { return sa.local }

// Remote is the peer's address.
func (sa *SA) Remote() netip.AddrPort { return sa.remote }

// LocalID and RemoteID are the identities; the peer's is proven only once the SA
// is established.
func (sa *SA) LocalID() ident.ID { return sa.localID }

// RemoteID is the peer's identity.
func (sa *SA) RemoteID() ident.ID { return sa.remoteID }

// Children are the CHILD_SAs, those that are about to go included. The list is
// a copy, the records are not to be changed.
func (sa *SA) Children() []*Child { return append([]*Child(nil), sa.children...) }
