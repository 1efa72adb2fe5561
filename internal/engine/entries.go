package engine

import (
	"math/bits"
	"net/netip"
	"slices"

	"iked/spd"
)

// Bases of the priority computation; the numbers are those of charon, which Linux users'
// scripts know: shunts that pass before tunnels, tunnels before drops.
const (
	prioPass    = 200000
	prioProtect = 400000
	prioDrop    = 600000
)

// weight is what one selector takes off the priority of its policy: the
// narrower, the more, so that it is looked at first.
type weight struct {
	v6    bool
	proto uint8
	less  uint32
}

// expand turns the selector lists of a set into SPD entries: one for each pair
// of groups of equal narrowness, so that every entry has its exact priority.
func expand(set *policySet) []spd.Policy {
	locals, remotes := group(set.local), group(set.remote)
	var proto uint8 // ESP
	var bundle []spd.Template
	switch set.key.protect {
	case byAH:
		proto = protoAH
	case byBoth:
		bundle = []spd.Template{{Proto: protoAH, Mode: spd.Transport, ReqID: set.around}}
	}
	var out []spd.Policy
	for _, l := range locals {
		for _, r := range remotes {
			if l.w.v6 != r.w.v6 || (l.w.proto != 0 && r.w.proto != 0 && l.w.proto != r.w.proto) {
				continue // no packet can match both
			}
			out = append(out, spd.Policy{
				Name: set.owner.String(), Action: set.action, Local: l.ts, Remote: r.ts,
				Priority: priority(set, l.w, r.w), ReqID: set.reqid, Mode: set.now.mode, Proto: proto, Acquire: set.acquire, FailOpen: set.open,
				OuterLocal: set.now.local, OuterRemote: set.now.remote, PFP: set.key.pfp, Bundle: bundle, Compress: set.now.compress,
				IfID: set.key.bind.ifID, Mark: set.key.bind.mark, MarkIn: set.key.bind.markIn,
			})
		}
	}
	return out
}

func priority(set *policySet, l, r weight) uint32 {
	// What an SA alone brought is looked at before what stands and asks for SAs: the
	// peer may have narrowed it by less than the computation sees.
	var before uint32
	if !set.standing && set.action == spd.Protect {
		before = 1
	}
	if set.priority > before {
		return set.priority - before
	} else if set.priority != 0 {
		return set.priority
	}
	// Charon has everything but traps one before.
	if set.action != spd.Protect {
		before = 1
	}
	base := uint32(prioProtect)
	switch set.action {
	case spd.Bypass:
		base = prioPass
	case spd.Discard:
		base = prioDrop
	}
	base -= l.less + r.less
	if l.proto != 0 || r.proto != 0 {
		base -= 256
	}
	return base - before
}

type tsGroup struct {
	w  weight
	ts []spd.TS
}

func group(list []spd.TS) []tsGroup {
	var out []tsGroup
	for _, t := range list {
		w := weight{v6: t.From.Is6(), proto: t.Proto, less: 512*prefixLen(t.From, t.To) + 4*portBits(t.PortFrom, t.PortTo)}
		i := slices.IndexFunc(out, func(g tsGroup) bool { return g.w == w })
		if i < 0 {
			i = len(out)
			out = append(out, tsGroup{w: w})
		}
		out[i].ts = append(out[i].ts, t)
	}
	return out
}

// prefixLen is how many leading bits all addresses of a range share.
func prefixLen(from, to netip.Addr) uint32 {
	a, b := from.AsSlice(), to.AsSlice()
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return uint32(i*8 + bits.LeadingZeros8(x))
		}
	}
	return uint32(len(a) * 8)
}

// portBits is how many leading bits all ports of a range share.
func portBits(from, to uint16) uint32 {
	if from > to { // OPAQUE
		return 16
	}
	return uint32(bits.LeadingZeros16(from ^ to))
}
