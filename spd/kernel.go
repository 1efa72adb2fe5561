package spd

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
)

// KernelSelector is what the selector of a kernel's policy can say: a prefix on
// each side, one protocol or all, and a value and a mask for each port. The
// kernel takes the type of an ICMP message or of a mobility header as the source
// port and the code of an ICMP message as the destination port.
//
// What the kernel cannot say: it takes a port that is not there (a fragment that
// it forwards, a protocol without ports) for port 0. So a selector that has port
// 0, ICMP type 0 with code 0 or mobility header type 0 has such packets as well.
type KernelSelector struct {
	Src, Dst         netip.Prefix
	Proto            uint8 // 0: all
	SrcPort, SrcMask uint16
	DstPort, DstMask uint16
}

// ErrKernelOpaque: the selectors have packets without ports only, which a kernel
// cannot tell from port 0.
var ErrKernelOpaque = errors.New("OPAQUE ports cannot be told from port 0 by the kernel; use the userspace backend, or leave the ports open")

// KernelSelectors are the selectors that together have what a policy has of the
// packets of one direction, Outbound or Inbound: ranges of addresses and ports are
// cut into prefixes, and a list of ports of any protocol stands for the protocols
// that have ports. A policy that selects nothing, or nothing in that direction,
// has none. More than most selectors are an error.
func KernelSelectors(p *Policy, dir Dirs, most int) ([]KernelSelector, error) {
	if p.Dirs != Both && p.Dirs&dir == 0 {
		return nil, nil
	}
	x := expansion{dir: dir, most: most, seen: map[KernelSelector]bool{}}
	for i := range p.Local {
		for j := range p.Remote {
			if err := x.pair(p.Local[i], p.Remote[j]); err != nil {
				return nil, fmt.Errorf("policy %s: selectors %v === %v: %w", p.Name, p.Local[i], p.Remote[j], err)
			}
		}
	}
	return x.out, nil
}

type expansion struct {
	dir  Dirs
	most int
	out  []KernelSelector
	seen map[KernelSelector]bool
}

// portProtocols are those with two ports that the kernel looks at.
var portProtocols = [...]uint8{6, 17, 33, 132, 136}

func hasPorts(proto uint8) bool {
	for _, p := range portProtocols {
		if p == proto {
			return true
		}
	}
	return false
}

// pair expands one selector of each side.
func (x *expansion) pair(l, r TS) error {
	if l.Is4() != r.Is4() || l.Dynamic() || r.Dynamic() || l.Proto != 0 && r.Proto != 0 && l.Proto != r.Proto {
		return nil
	}
	proto := max(l.Proto, r.Proto)
	if proto == 0 && (l.limited() || r.limited()) {
		if l.Opaque() || r.Opaque() {
			return nil // one wants ports, the other none
		}
		for _, proto := range portProtocols {
			l.Proto, r.Proto = proto, proto
			if err := x.pair(l, r); err != nil {
				return err
			}
		}
		return nil
	}
	if typed(proto) && (l.limited() || r.limited()) {
		return nil
	}
	src, dst := l, r
	if x.dir == Inbound {
		src, dst = r, l
	}
	sp, dp := blocks(src.PortFrom, src.PortTo), blocks(dst.PortFrom, dst.PortTo)
	switch {
	case proto == protoMH:
		// The sender's selector has the type; the other one is about the other direction.
		if src.Opaque() {
			return ErrKernelOpaque
		}
		sp, dp = typeBlocks(src.PortFrom, src.PortTo), blocks(0, 65535)
	case l.Opaque() || r.Opaque():
		if !l.Opaque() && !l.AnyPort() || !r.Opaque() && !r.AnyPort() {
			return nil
		}
		if proto == 0 || hasPorts(proto) || typed(proto) {
			return ErrKernelOpaque
		}
		// A protocol without ports has nothing else.
		sp, dp = blocks(0, 65535), blocks(0, 65535)
	case typed(proto):
		return x.icmp(src, dst, proto)
	case proto != 0 && !hasPorts(proto) && (!l.AnyPort() || !r.AnyPort()):
		return nil // ports of a protocol that has none
	}
	return x.add(src, dst, proto, sp, dp)
}

// icmp expands type<<8|code, which both sides must have, into two ports; of sides that
// are apart, the sender's.
func (x *expansion) icmp(src, dst TS, proto uint8) error {
	from, to := max(src.PortFrom, dst.PortFrom), min(src.PortTo, dst.PortTo)
	if Apart(src, dst) {
		from, to = src.PortFrom, src.PortTo
	}
	if to < from {
		return nil
	}
	for _, b := range blocks(from, to) {
		sp := block{b.value >> 8, b.mask >> 8}
		if sp.mask != 0 {
			sp.mask |= 0xff00
		}
		dp := block{b.value & 0xff, b.mask & 0xff}
		if dp.mask != 0 {
			dp.mask |= 0xff00
		}
		if err := x.add(src, dst, proto, []block{sp}, []block{dp}); err != nil {
			return err
		}
	}
	return nil
}

func (x *expansion) add(src, dst TS, proto uint8, sp, dp []block) error {
	for _, s := range src.AppendPrefixes(nil) {
		for _, d := range dst.AppendPrefixes(nil) {
			for _, a := range sp {
				for _, b := range dp {
					k := KernelSelector{Src: s, Dst: d, Proto: proto, SrcPort: a.value, SrcMask: a.mask, DstPort: b.value, DstMask: b.mask}
					if x.seen[k] {
						continue
					}
					if len(x.out) >= x.most {
						return fmt.Errorf("more than %d kernel policies would be needed; write ranges of addresses and ports that are prefixes, or fewer of them", x.most)
					}
					x.seen[k] = true
					x.out = append(x.out, k)
				}
			}
		}
	}
	return nil
}

// block is the values whose bits under mask are those of value.
type block struct{ value, mask uint16 }

// blocks are the fewest blocks of high bits that make up a range; OPAQUE has none.
func blocks(from, to uint16) (out []block) {
	for next, end := uint32(from), uint32(to); next <= end; {
		// The largest block that starts here and does not pass the end.
		n := min(bits.TrailingZeros32(next|1<<16), bits.Len32(end-next+1)-1)
		out = append(out, block{uint16(next), uint16(0xffff << n)})
		next += 1 << n
	}
	return out
}

// typeBlocks are the blocks of mobility header types of a range of type<<8.
func typeBlocks(from, to uint16) []block {
	first := (uint32(from) + 0xff) >> 8
	last := uint32(to) >> 8
	if first > last {
		return nil
	}
	if first == 0 && last == 0xff {
		return blocks(0, 65535)
	}
	return blocks(uint16(first), uint16(last))
}

// Match tells whether a kernel takes a packet for one that is selected: the slow
// truth that tests hold backends against.
func (k *KernelSelector) Match(f *Flow) bool {
	src, dst, sp, dp := f.Local, f.Remote, f.LocalPort, f.RemotePort
	if f.Inbound {
		src, dst, sp, dp = dst, src, dp, sp
	}
	switch {
	case !f.HasPorts:
		sp, dp = 0, 0
	case f.Proto == protoMH:
		sp, dp = f.LocalPort>>8, 0
	case typed(f.Proto):
		sp, dp = f.LocalPort>>8, f.LocalPort&0xff
	}
	return k.Src.Contains(src) && k.Dst.Contains(dst) && (k.Proto == 0 || k.Proto == f.Proto) &&
		(sp^k.SrcPort)&k.SrcMask == 0 && (dp^k.DstPort)&k.DstMask == 0
}
