package spd

import (
	"fmt"
	"net/netip"
)

// Region is a part of an SPD without overlap with any other part: a range of each
// selector (RFC 4301, Appendix B). Flows of a region all have the same entry, so
// the order of regions does not matter.
type Region struct {
	// Entry is the index of the policy in the list that was decorrelated.
	Entry int
	box   box5
}

// box5 is a range in each of the five dimensions of a flow of one direction. Ports
// run to 65535, and noPort stands for a value that is not available.
type box5 struct {
	local, remote       addrRange
	proto, lport, rport span
}

type addrRange struct{ from, to netip.Addr }

type span struct{ from, to uint32 }

const noPort = 65536

// Decorrelate turns an ordered list of policies, the first that matches decides,
// into regions for flows of one direction, Outbound or Inbound, that do not
// overlap (RFC 4301, Appendix B): each entry is cut by those before it. What no
// region has belongs to the default entry. The number of regions may grow with a
// power of the number of entries; more than most are an error.
func Decorrelate(list []Policy, dir Dirs, most int) ([]Region, error) {
	var out []Region
	for i := range list {
		p := &list[i]
		if p.Dirs != Both && p.Dirs&dir == 0 {
			continue
		}
		for _, l := range p.Local {
			for _, r := range p.Remote {
				for _, b := range boxes(l, r, dir) {
					parts := []box5{b}
					for j := range out {
						if parts = without(parts, out[j].box); len(parts) > most {
							break
						}
					}
					if len(out)+len(parts) > most {
						return nil, fmt.Errorf("policy %q and the %d before it fall into more than %d regions without overlap; name fewer different ranges, or order them so that the narrow ones do not cut the wide ones", p.Name, i, most)
					}
					for _, b := range parts {
						out = append(out, Region{i, b})
					}
				}
			}
		}
	}
	return out, nil
}

// Has tells whether a flow is in the region; it must be of the direction that was
// decorrelated.
func (r *Region) Has(f *Flow) bool {
	b := &r.box
	lp, rp := uint32(f.LocalPort), uint32(f.RemotePort)
	if !f.HasPorts {
		lp, rp = noPort, noPort
	}
	return b.local.has(f.Local) && b.remote.has(f.Remote) && b.proto.has(uint32(f.Proto)) && b.lport.has(lp) && b.rport.has(rp)
}

func (a addrRange) has(x netip.Addr) bool {
	return a.from.Is4() == x.Is4() && x.IsValid() && a.from.Compare(x) <= 0 && x.Compare(a.to) <= 0
}

func (s span) has(x uint32) bool { return s.from <= x && x <= s.to }

// Shadowed are the indexes of entries that decide about no packet, because those
// before them have all that they select. The error is that of Decorrelate.
func Shadowed(list []Policy, most int) ([]int, error) {
	used := make([]bool, len(list))
	for _, dir := range [...]Dirs{Outbound, Inbound} {
		regions, err := Decorrelate(list, dir, most)
		if err != nil {
			return nil, err
		}
		for i := range regions {
			used[regions[i].Entry] = true
		}
	}
	var out []int
	for i, u := range used {
		if !u {
			out = append(out, i)
		}
	}
	return out, nil
}

// segments are all protocols, those with message types apart.
var segments = [...]span{{0, 0}, {protoICMP, protoICMP}, {2, protoICMPv6 - 1}, {protoICMPv6, protoICMPv6}, {protoICMPv6 + 1, protoMH - 1}, {protoMH, protoMH}, {protoMH + 1, 255}}

// boxes are what one selector of each side has, as TS.match says it.
func boxes(l, r TS, dir Dirs) (out []box5) {
	if l.Is4() != r.Is4() || l.Dynamic() || r.Dynamic() {
		return nil
	}
	for _, s := range segments {
		ok := true
		for _, t := range [...]TS{l, r} {
			if t.Proto != 0 {
				if !s.has(uint32(t.Proto)) {
					ok = false
				}
				s = span{uint32(t.Proto), uint32(t.Proto)}
			}
			if t.limited() && typed(uint8(s.from)) {
				ok = false
			}
		}
		if !ok {
			continue
		}
		// The type of a mobility header is its sender's (RFC 4301, Section 4.4.1.1), and
		// so are types of ICMP that differ.
		mh := s.from == protoMH || Apart(l, r)
		out = append(out, box5{
			local: addrRange{l.From, l.To}, remote: addrRange{r.From, r.To}, proto: s,
			lport: l.portSpan(mh && dir == Inbound), rport: r.portSpan(mh && dir == Outbound),
		})
	}
	return out
}

func (t TS) portSpan(foreign bool) span {
	switch {
	case foreign || t.AnyPort():
		return span{0, noPort}
	case t.Opaque():
		return span{noPort, noPort}
	}
	return span{uint32(t.PortFrom), uint32(t.PortTo)}
}

// without takes a box out of a list of boxes that do not overlap.
func without(list []box5, u box5) []box5 {
	var out []box5
	for _, b := range list {
		out = b.minus(out, u)
	}
	return out
}

// minus appends what u leaves of b: for each dimension what is below and above of
// u there, within u in the dimensions before.
func (b box5) minus(out []box5, u box5) []box5 {
	if !b.local.meets(u.local) || !b.remote.meets(u.remote) || !b.proto.meets(u.proto) || !b.lport.meets(u.lport) || !b.rport.meets(u.rport) {
		return append(out, b)
	}
	for _, dim := range [...]func(*box5) *addrRange{func(x *box5) *addrRange { return &x.local }, func(x *box5) *addrRange { return &x.remote }} {
		mine, cut := dim(&b), *dim(&u)
		if mine.from.Less(cut.from) {
			c := b
			*dim(&c) = addrRange{mine.from, cut.from.Prev()}
			out = append(out, c)
			mine.from = cut.from
		}
		if cut.to.Less(mine.to) {
			c := b
			*dim(&c) = addrRange{cut.to.Next(), mine.to}
			out = append(out, c)
			mine.to = cut.to
		}
	}
	for _, dim := range [...]func(*box5) *span{func(x *box5) *span { return &x.proto }, func(x *box5) *span { return &x.lport }, func(x *box5) *span { return &x.rport }} {
		mine, cut := dim(&b), *dim(&u)
		if mine.from < cut.from {
			c := b
			*dim(&c) = span{mine.from, cut.from - 1}
			out = append(out, c)
			mine.from = cut.from
		}
		if cut.to < mine.to {
			c := b
			*dim(&c) = span{cut.to + 1, mine.to}
			out = append(out, c)
			mine.to = cut.to
		}
	}
	return out
}

func (a addrRange) meets(o addrRange) bool {
	return a.from.Is4() == o.from.Is4() && a.from.Compare(o.to) <= 0 && o.from.Compare(a.to) <= 0
}

func (s span) meets(o span) bool { return s.from <= o.to && o.from <= s.to }
