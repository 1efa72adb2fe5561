package ikev1

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

// Cisco's extensions of Mode Config, which it calls Unity: private attributes with
// a banner, a domain and the networks behind the server, for peers that both sent
// the vendor ID. No RFC has them; the layout is that of the field.
const (
	unityBanner       uint16 = 28672
	unityDomain       uint16 = 28674
	unitySplitInclude uint16 = 28676
	unityLocalLAN     uint16 = 28678
	unityFirst        uint16 = 28672
	unityLast         uint16 = 28682
)

// Bounds on what a server may make a client keep.
const (
	maxBanner   = 512 // letters
	maxNetworks = 64
)

// unityGiven is what a server gave with the extensions.
type unityGiven struct {
	banner, domain string
	networks       []netip.Prefix
}

// unity tells whether both sides have the extensions: the client where its
// configuration says so, the server where it has addresses to give.
func (sa *SA) unity() bool { return sa.vendors.unity && sa.announcesUnity() }

func (sa *SA) announcesUnity() bool {
	if len(sa.cfg.VIPs) > 0 {
		return sa.cfg.V1.Unity
	}
	return len(sa.cfg.Pools) > 0 && (sa.initiator || sa.vendors.unity)
}

// takeUnity takes the attributes of a server. Nothing of them widens what the
// configuration allows, and what cannot be read is left out with a sentence.
func (sa *SA) takeUnity(now time.Time, list []message.Attribute) {
	if !sa.unity() {
		return
	}
	given := unityGiven{}
	for _, a := range list {
		switch a.Type {
		case unityBanner:
			given.banner = shown(a.Value)
		case unityDomain:
			d := strings.TrimRight(string(a.Value), ".\x00")
			if !isDomain(d) {
				sa.log(now, trace.Control, true, "the peer gives a domain that is no domain name: %q", shown(a.Value))
				continue
			}
			given.domain = d
		case unitySplitInclude:
			nets, ok := networksOf(a.Value)
			if !ok || len(given.networks)+len(nets) > maxNetworks {
				sa.log(now, trace.Control, true, "the peer gives split networks that cannot be read, or more than %d; remote_ts counts without them", maxNetworks)
				continue
			}
			given.networks = append(given.networks, nets...)
		case unityLocalLAN:
			// A peer must not decide what leaves this host in clear.
			sa.log(now, trace.Control, false, "the peer names local networks that need no protection; they are not honoured: configure a child with mode: pass for them")
		}
	}
	sa.given = given
	if given.banner != "" {
		sa.log(now, trace.Control, false, "the peer %v says: %s", sa.remoteID, given.banner)
	}
	if len(given.networks) > 0 {
		sa.log(now, trace.Control, false, "the peer %v has the networks %v; remote_ts is narrowed to them", sa.remoteID, given.networks)
	}
}

// networksOf reads a list of networks: four octets of address and four of mask,
// with six octets behind that mean nothing, which some peers leave out.
func networksOf(b []byte) ([]netip.Prefix, bool) {
	var out []netip.Prefix
	for len(b) > 0 {
		if len(b) < 8 || len(out) == maxNetworks {
			return nil, false
		}
		mask := binary.BigEndian.Uint32(b[4:])
		n := bits.LeadingZeros32(^mask)
		if mask != ^uint32(0)<<(32-n) {
			return nil, false
		}
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), n).Masked())
		b = b[8:]
		b = b[min(6, len(b)):]
	}
	return out, len(out) > 0
}

// appendNetwork writes a network as networksOf reads it; the value is that of a
// pool's attribute, an address with its mask or alone.
func appendNetwork(b, value []byte) []byte {
	switch len(value) {
	case 4:
		b = append(append(b, value...), 0xff, 0xff, 0xff, 0xff)
	case 8:
		b = append(b, value...)
	default:
		return b // IPv6 has no form here
	}
	return append(b, make([]byte, 6)...)
}

// shown makes text of a peer's fit to be shown to people: no control characters,
// no invisible or reversed letters, a bounded length.
func shown(b []byte) string {
	var s strings.Builder
	n := 0
	for _, r := range string(b) {
		if n == maxBanner {
			s.WriteString("…")
			break
		}
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			r = '?'
		}
		s.WriteRune(r)
		n++
	}
	return strings.TrimSpace(s.String())
}

// isDomain tells whether a text is a domain name of letters, digits and hyphens
// (RFC 1123, Section 2.1).
func isDomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
				return false
			}
		}
	}
	return true
}

// withinNetworks narrows selectors of the server's side to the networks that it
// gave. IPv6, for which the extensions have no form, stays as it is.
func (sa *SA) withinNetworks(list []spd.TS) []spd.TS {
	if len(sa.given.networks) == 0 {
		return list
	}
	nets := make([]spd.TS, 0, len(sa.given.networks))
	for _, p := range sa.given.networks {
		nets = append(nets, spd.FromPrefix(p))
	}
	var out []spd.TS
	for _, t := range list {
		if !t.Is4() {
			out = append(out, t)
			continue
		}
		out = append(out, spd.IntersectLists([]spd.TS{t}, nets)...)
	}
	return out
}

// askUnity are the attributes that a client asks for.
func (sa *SA) askUnity() (out []message.Attribute) {
	if sa.unity() {
		for _, t := range []uint16{unityBanner, unityDomain, unitySplitInclude} {
			out = append(out, message.Variable(t, nil))
		}
	}
	return out
}

// Attributes of pools that are numbers of IKEv2 alone (RFC 5026, Section 5.2; 3GPP TS 24.302).
const (
	mip6HomePrefix   = 16
	homeAgentAddress = 19
)

// extras are the attributes of the pools, beside addresses and name servers, for a
// client that asked for some types; nil: for one that is given them unasked.
// Networks stand in one attribute, since some clients read only one.
func (sa *SA) extras(asked []message.Attribute) (out []message.Attribute) {
	networks := map[uint16][]byte{}
	for _, o := range sa.attrs {
		_, wanted := find(asked, o.Type)
		unity := o.Type >= unityFirst && o.Type <= unityLast
		switch {
		case o.Type == mip6HomePrefix || o.Type == homeAgentAddress:
		case unity && !sa.unity() && !wanted, !unity && asked != nil && !wanted:
		case o.Type == unitySplitInclude || o.Type == unityLocalLAN:
			networks[o.Type] = appendNetwork(networks[o.Type], o.Value)
		default:
			out = append(out, message.Variable(o.Type, o.Value))
		}
	}
	for _, t := range []uint16{unitySplitInclude, unityLocalLAN} {
		if len(networks[t]) > 0 {
			out = append(out, message.Variable(t, networks[t]))
		}
	}
	return out
}

// Clients with the extensions ask for all of IPv4 in Quick Mode, whatever they are
// told, and use the networks that they were given. The identities then say
// everything, and both sides keep to less.

var everything = spd.FromPrefix(netip.MustParsePrefix("0.0.0.0/0"))

// childOfUnity finds the child for a client that asks for all of IPv4: the first
// that fits on the client's side.
func (sa *SA) childOfUnity(local, remote spd.TS) *keyex.ChildConfig {
	if local != everything || !sa.unity() || len(sa.cfg.Pools) == 0 {
		return nil
	}
	for _, cfg := range sa.cfg.Children {
		if cfg.PFP == 0 && cfg.Mode == spd.Tunnel && slices.ContainsFunc(sa.localTS(cfg), spd.TS.Is4) && spd.Subset([]spd.TS{remote}, sa.remoteTS(cfg)) {
			return cfg
		}
	}
	return nil
}

// kept are the selectors of this side that a pair of SAs gets: those of Quick Mode,
// or fewer where the peer asked for everything.
func (sa *SA) kept(cfg *keyex.ChildConfig, local spd.TS) []spd.TS {
	own := sa.localTS(cfg)
	if local != everything || spd.Subset([]spd.TS{local}, own) {
		return []spd.TS{local}
	}
	return spd.IntersectLists([]spd.TS{local}, own)
}

// outside is why a packet gets no SA: it goes to no network that the server gave.
func (sa *SA) outside(now time.Time, cfg *keyex.ChildConfig, flow *spd.Flow) *trace.Failure {
	if len(sa.given.networks) == 0 {
		return nil
	}
	remote := sa.remoteTS(cfg)
	switch {
	case len(remote) == 0:
		return sa.failure(now, trace.StageSelectors, fmt.Sprintf("the peer has the networks %v, and remote_ts of %s has nothing in common with them", sa.given.networks, cfg.Name), "widen remote_ts, or set unity: no")
	case flow != nil && !spd.Subset([]spd.TS{spd.Host(flow.Remote)}, addressesOf(remote)):
		return sa.failure(now, trace.StageSelectors, fmt.Sprintf("a packet to %v is for none of the networks %v that the peer has", flow.Remote, sa.given.networks),
			"narrow remote_ts of "+cfg.Name+" to what the tunnel is for: what it names never leaves in clear")
	}
	return nil
}

// addressesOf are selectors without their protocols and ports.
func addressesOf(list []spd.TS) (out []spd.TS) {
	for _, t := range list {
		out = append(out, spd.TS{From: t.From, To: t.To, PortTo: 65535})
	}
	return out
}
