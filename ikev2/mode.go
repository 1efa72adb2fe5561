package ikev2

import (
	"fmt"
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/trace"
	"iked/spd"
)

// Modes of CHILD_SAs: how they are asked for and confirmed (RFC 7296, Section
// 1.3.1), and the selectors of transport mode through a NAT (Section 2.23.1).

// modeNotify asks for a mode other than tunnel (RFC 7296, Section 1.3.1). BEET has
// a number of the private range, which strongSwan chose.
func modeNotify(m spd.Mode) message.NotifyType {
	switch m {
	case spd.Transport:
		return message.UseTransportMode
	case spd.BEET:
		return message.UseBEETMode
	}
	return message.NoNotify
}

func modeName(m spd.Mode) string { return [...]string{"tunnel", "transport", "BEET"}[m] }

// ahThroughNAT refuses AH where a NAT changes what it protects: the addresses (RFC
// 4302, Section 3.3.3.1). UDP encapsulation is for ESP alone (RFC 3948).
func (sa *SA) ahThroughNAT(now time.Time, cfg *ChildConfig, proto suite.Protocol) *trace.Failure {
	if proto != suite.ProtoAH || !sa.nat.any() {
		return nil
	}
	where := "before the peer"
	switch {
	case sa.nat.fake:
		where = "claimed by encap"
	case sa.nat.local && sa.nat.remote:
		where = "before both sides"
	case sa.nat.local:
		where = "before this side"
	}
	return sa.failure(now, trace.StageChild, fmt.Sprintf("child %s wants AH, which covers the addresses of its packets, and there is a NAT %s", cfg.Name, where),
		"use esp_proposals in place of ah_proposals, or take the NAT away")
}

// strongSwanVendorID is the MD5 of "strongSwan". That implementation honours
// USE_BEET_MODE from a peer that sent it and from nobody else.
const strongSwanVendorID = "\x88\x2f\xe5\x6d\x6f\xd2\x0d\xbc\x22\x51\x61\x3b\x2e\xbe\x5b\xeb"

// vendorIDs are those of IKE_SA_INIT: none, unless a child wants BEET mode.
func vendorIDs(cfgs ...*Config) []message.Payload {
	for _, cfg := range cfgs {
		for _, c := range cfg.Children {
			if c.Mode == spd.BEET {
				return []message.Payload{&message.VendorID{Data: []byte(strongSwanVendorID)}}
			}
		}
	}
	return nil
}

// hostTraffic leaves the traffic of one address: in transport mode the packets
// have the addresses of the IKE SA's own ends (RFC 4301, Section 4.1). Nothing is
// left of other traffic.
func hostTraffic(c *ChildConfig, list []spd.TS, host netip.Addr) []spd.TS {
	if c.Mode != spd.Transport {
		return list
	}
	return spd.IntersectLists([]spd.TS{spd.Host(host)}, list)
}

// oneAddress is the address that all selectors of a list have.
func oneAddress(list []spd.TS) (netip.Addr, bool) {
	for _, t := range list {
		if !t.IsHost() || t.From != list[0].From {
			return netip.Addr{}, false
		}
	}
	return list[0].From, true
}

// fitsMode tells whether a CHILD_SA with these selectors can have a mode: BEET
// needs one pair of inner addresses (draft-nikander-esp-beet-mode, Section 3),
// transport mode that of the IKE SA, which hostTraffic leaves, or one of its own.
func fitsMode(m spd.Mode, local, remote []spd.TS) bool {
	if m == spd.Tunnel {
		return true
	}
	_, l := oneAddress(local)
	_, r := oneAddress(remote)
	return l && r
}

// natSelectors are the selectors of transport mode as the peer wrote them, with
// the addresses of the IKE SA in place of those that a NAT translates; local and
// remote are the addresses that the peer wrote, for the checksums of the packets
// (RFC 7296, Section 2.23.1). They are invalid where nothing was translated. False:
// there is more than one address on a side.
func (sa *SA) natSelectors(ofLocal, ofRemote []spd.TS) (l, r []spd.TS, local, remote netip.Addr, ok bool) {
	if len(ofLocal) == 0 || len(ofRemote) == 0 {
		return nil, nil, netip.Addr{}, netip.Addr{}, false
	}
	local, ok1 := oneAddress(ofLocal)
	remote, ok2 := oneAddress(ofRemote)
	if !ok1 || !ok2 {
		return nil, nil, netip.Addr{}, netip.Addr{}, false
	}
	l, r = ofLocal, ofRemote
	if sa.nat.local {
		l = withAddress(ofLocal, sa.local.Addr())
	}
	if sa.nat.remote {
		r = withAddress(ofRemote, sa.remote.Addr())
	}
	if local == l[0].From && remote == r[0].From {
		local, remote = netip.Addr{}, netip.Addr{}
	}
	return l, r, local, remote, true
}

// withAddress are selectors with another address.
func withAddress(list []spd.TS, a netip.Addr) []spd.TS {
	out := make([]spd.TS, 0, len(list))
	for _, t := range list {
		t.From, t.To = a, a
		out = append(out, t)
	}
	return spd.Minimize(out)
}
