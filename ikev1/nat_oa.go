package ikev1

import (
	"net/netip"
	"slices"

	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/spd"
)

// Transport mode through a NAT (RFC 3947, Section 5.2): both sides tell the
// addresses of the two ends as they see them. Selectors are those of the IKE SA,
// whatever addresses the identities show, and what the peer told corrects the
// checksums of its packets.

// translates tells whether SAs of a mode cross a NAT that changes what they carry.
func (sa *SA) translates(m spd.Mode) bool {
	return m == spd.Transport && sa.nat.any() && !sa.cfg.OwnEnds(m)
}

// originals are NAT-OAi and NAT-OAr of a message of ours; none where nothing is
// translated.
func (sa *SA) originals(m spd.Mode, initiator bool) []message.Payload {
	if !sa.translates(m) {
		return nil
	}
	i, r := sa.local.Addr(), sa.remote.Addr()
	if !initiator {
		i, r = r, i
	}
	draft := sa.vendors.nattDraft
	return []message.Payload{&message.NATOA{Draft: draft, Addr: i}, &message.NATOA{Draft: draft, Addr: r}}
}

// tellChecksums notes the addresses that the peer's checksums are made with: what
// its message says, then the identities of one address in it, then those of the
// IKE SA. initiator tells whether the peer began the exchange. The values touch
// checksums alone: what is let through is decided by the selectors.
func (sa *SA) tellChecksums(c *keyex.Child, m *message.Message, initiator bool) {
	if !sa.translates(c.Mode) {
		return
	}
	local, remote := sa.local.Addr(), sa.remote.Addr()
	if ids := offer.IDPair(m.Payloads); ids != nil && initiator {
		// A responder may repeat the initiator's identities, which tell nothing.
		if t, err := offer.TSOf(ids[0]); err == nil && t.From == t.To && t.Is4() == remote.Is4() {
			remote = t.From
		}
		if t, err := offer.TSOf(ids[1]); err == nil && t.From == t.To && t.Is4() == local.Is4() {
			local = t.From
		}
	}
	var list []netip.Addr
	for _, p := range m.Payloads {
		if o, ok := p.(*message.NATOA); ok {
			list = append(list, o.Addr)
		}
	}
	switch {
	case slices.ContainsFunc(list, func(a netip.Addr) bool { return a.Is4() != remote.Is4() }):
		// Addresses of the other family correct nothing here (RFC 3947, Section 7).
	case len(list) == 1:
		remote = list[0] // draft-ietf-ipsec-nat-t-ike-02, Section 5.2: the sender's alone
	case len(list) == 2:
		if !initiator {
			slices.Reverse(list)
		}
		remote, local = list[0], list[1]
	}
	if local != sa.local.Addr() || remote != sa.remote.Addr() {
		c.NATLocal, c.NATRemote = local, remote
	}
}

// asSeen are the selectors of a pair in transport mode with the addresses of the
// IKE SA, where a NAT translates them. False: one of them is no single address.
func (sa *SA) asSeen(local, remote spd.TS) (l, r spd.TS, ok bool) {
	if local.From != local.To || remote.From != remote.To || local.Is4() != sa.local.Addr().Is4() || remote.Is4() != sa.remote.Addr().Is4() {
		return local, remote, false
	}
	if sa.nat.local {
		local.From, local.To = sa.local.Addr(), sa.local.Addr()
	}
	if sa.nat.remote {
		remote.From, remote.To = sa.remote.Addr(), sa.remote.Addr()
	}
	return local, remote, true
}

// sameButAddresses tells whether the answer's selectors are ours: a peer behind a
// NAT may write the addresses as it sees them.
func sameButAddresses(a, b spd.TS) bool {
	return a.From == a.To && b.From == b.To && a.Is4() == b.Is4() && a.Proto == b.Proto && a.PortFrom == b.PortFrom && a.PortTo == b.PortTo
}

// offersTransport tells whether some transform of an offer is of transport mode.
func offersTransport(theirs *message.SA) bool {
	for i := range theirs.Proposals {
		for j := range theirs.Proposals[i].Transforms {
			p := &theirs.Proposals[i]
			t, why := offer.Read(p.Protocol, &p.Transforms[j])
			if m, _, ok := offer.ModeOf(t.Encap); why == "" && ok && m == spd.Transport {
				return true
			}
		}
	}
	return false
}
