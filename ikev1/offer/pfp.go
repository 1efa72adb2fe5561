package offer

import (
	"fmt"

	"iked/internal/keyex"
	"iked/spd"
)

// SAs that take selectors from a packet (RFC 4301, Section 4.4.1.2). IKEv1 says
// them as the identities of Quick Mode: those of the packet where the flag is set,
// those of the policy where it is not. Both sides have the same (RFC 2409, Section
// 5.5), so that the responder's policy must have the flag as well, or cover them.

// Populated are the selectors of the SA that a packet asks for, of a child whose
// selectors are local and remote.
func Populated(cfg *keyex.ChildConfig, local, remote []spd.TS, flow *spd.Flow) ([][2]spd.TS, error) {
	if flow == nil {
		return nil, fmt.Errorf("the SAs of %s take selectors from packets, and no packet asks for one", cfg.Name)
	}
	p := &spd.Policy{Name: cfg.Name, Local: local, Remote: remote, PFP: cfg.PFP}
	local, remote, err := spd.Populate(p, flow)
	if err != nil {
		return nil, err
	}
	for _, l := range local {
		for _, r := range remote {
			if flow.Match([]spd.TS{l}, []spd.TS{r}) {
				return [][2]spd.TS{{l, r}}, nil
			}
		}
	}
	return nil, fmt.Errorf("no selectors of %s have the packet %v === %v", cfg.Name, flow.LocalTS(), flow.RemoteTS())
}

// PerPacket tells whether selectors of a peer are those of one packet, as a policy
// with PFP flags demands.
func PerPacket(cfg *keyex.ChildConfig, policyLocal, policyRemote []spd.TS, local, remote spd.TS) bool {
	if cfg.PFP == 0 {
		return true
	}
	proto := max(local.Proto, remote.Proto)
	f := &spd.Flow{Local: local.From, Remote: remote.From, Proto: proto, LocalPort: local.PortFrom, RemotePort: remote.PortFrom,
		HasPorts: proto != 0 && !(local.AnyPort() && remote.AnyPort())}
	l, r, err := spd.Populate(&spd.Policy{Name: cfg.Name, Local: policyLocal, Remote: policyRemote, PFP: cfg.PFP}, f)
	return err == nil && spd.Subset([]spd.TS{local}, l) && spd.Subset([]spd.TS{remote}, r)
}
