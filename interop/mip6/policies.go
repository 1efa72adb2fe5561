package mip6

import (
	"fmt"

	"iked/internal/testnet"
	"iked/migrate"
	"iked/spd"
	"iked/xfrm/wire"
)

// PutPolicies puts the policies of one side into the kernel, as mip6d does before
// anything moves: tunnels have the home address for their end, transport mode has no
// addresses, and what has a protocol comes before what has none.
func PutPolicies(ns *testnet.Namespace, bonds []Bond, mobile bool) error {
	var list []request
	forever := wire.Lifetime{SoftBytes: wire.Infinite, HardBytes: wire.Infinite, SoftPackets: wire.Infinite, HardPackets: wire.Infinite}
	for i := range bonds {
		b := &bonds[i]
		for _, d := range []migrate.Dir{migrate.Out, migrate.In, migrate.Fwd} {
			if d == migrate.Fwd && !b.Forward {
				continue
			}
			fromHome := mobile == (d == migrate.Out)
			k := b.selector(fromHome, d)
			t := wire.Template{ID: wire.ID{Proto: 50}, Family: wire.Inet6, ReqID: b.reqid(fromHome), Mode: wire.ModeTransport, AuthAlgs: ^uint32(0), EncrAlgs: ^uint32(0), CompAlgs: ^uint32(0)}
			if b.Mode == spd.Tunnel {
				src, dst := Home, Agent
				if !fromHome {
					src, dst = dst, src
				}
				t.Mode, t.Src, t.ID.Dst = wire.ModeTunnel, wire.AddressOf(src), wire.AddressOf(dst)
			}
			p := &wire.Policy{PolicyInfo: wire.PolicyInfo{Lifetime: forever, Dir: uint8(d), Priority: 10, Sel: wire.Selector{
				Src: wire.AddressOf(k.Src.Addr()), SrcLen: uint8(k.Src.Bits()), Dst: wire.AddressOf(k.Dst.Addr()), DstLen: uint8(k.Dst.Bits()),
				Family: wire.Inet6, Proto: k.Proto, SrcPort: k.SrcPort, SrcPortMask: k.SrcMask,
			}}, Attrs: wire.Attrs{Templates: []wire.Template{t}}}
			if b.Proto != 0 {
				p.Priority = 1
			}
			list = append(list, request{wire.NewPolicy, p, fmt.Sprintf("policy of direction %v, %v to %v", d, k.Src, k.Dst)})
		}
	}
	return ask(ns, list...)
}
