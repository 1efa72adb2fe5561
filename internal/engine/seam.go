package engine

import (
	"net/netip"

	"iked/crypto/suite"
	"iked/ikev1"
	"iked/ikev2"
	"iked/internal/keyex"
)

// makers make state machines. Tests put scripted ones in their place.
type makers struct {
	initiator func(e *Engine, cfg *ikev2.Config, local, remote netip.AddrPort) machine
	responder func(e *Engine, local, remote netip.AddrPort, natt bool) machine
}

func realMakers() makers {
	return makers{
		initiator: func(e *Engine, cfg *ikev2.Config, local, remote netip.AddrPort) machine {
			return ikev2SA{ikev2.NewInitiator(env{e, 2}, cfg, local, remote)}
		},
		responder: func(e *Engine, local, remote netip.AddrPort, natt bool) machine {
			return ikev2SA{ikev2.NewResponder(env{e, 2}, local, remote, natt)}
		},
	}
}

func (e *Engine) newInitiator(cfg *ikev2.Config, local, remote netip.AddrPort) machine {
	if cfg.Version == 1 {
		return e.newInitiatorV1(cfg, local, remote)
	}
	return e.make.initiator(e, cfg, local, remote)
}

func (e *Engine) newResponder(local, remote netip.AddrPort, natt bool) machine {
	return e.make.responder(e, local, remote, natt)
}

// machineOf wraps the successor that a state machine made.
func (e *Engine) machineOf(m keyex.Machine) machine {
	if known, ok := m.(machine); ok {
		return known
	}
	if sa, ok := m.(*ikev1.SA); ok {
		return ikev1SA{sa}
	}
	return ikev2SA{m.(*ikev2.SA)}
}

// ikev2SA lets the engine drive an ikev2.SA.
type ikev2SA struct{ *ikev2.SA }

// Identify implements facts.
func (m ikev2SA) Identify() identity { return identity{ID: m.UniqueID(), SPI: m.OwnSPI()} }

// Look implements facts.
func (m ikev2SA) Look() SAInfo { return lookOf(m.Status()) }

// lookOf is the picture of an SA for the engine's tables.
func lookOf(st keyex.Status) SAInfo {
	info := SAInfo{
		Version: st.Version, UniqueID: st.UniqueID, State: st.State, Local: st.Local, Remote: st.Remote, LocalID: st.LocalID, RemoteID: st.RemoteID,
		Initiator: st.Initiator, SPIi: st.SPIi, SPIr: st.SPIr, NATLocal: st.NATLocal, NATRemote: st.NATRemote, NATFake: st.NATFake,
		Established: st.Established, RekeyAt: st.RekeyAt, ReauthAt: st.ReauthAt,
		Queued: st.Queued, Active: st.Active, Passive: st.Passive,
		User: st.User, Banner: st.Banner, Domain: st.Domain, Networks: st.Networks, Home: st.Home,
	}
	for _, t := range st.Proposal.Transforms {
		switch t.Type {
		case suite.ENCR:
			info.Encr = t
		case suite.INTEG:
			info.Integ = t
		case suite.PRF:
			info.PRF = t
		case suite.KE:
			info.KE = t
		}
	}
	for _, p := range st.LocalVIPs {
		info.LocalVIPs = append(info.LocalVIPs, p.Addr())
	}
	for _, p := range st.RemoteVIPs {
		info.RemoteVIPs = append(info.RemoteVIPs, p.Addr())
	}
	return info
}
