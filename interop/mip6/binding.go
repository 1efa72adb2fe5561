package mip6

import (
	"errors"
	"fmt"
	"net/netip"

	"iked/internal/testnet"
	"iked/xfrm/wire"
)

// Binding is what the kernels of a mobile node and of one of its peers know of the
// care-of address: packets of the home address leave with the home address option
// (RFC 6275, Section 6.3) and packets to it with a type 2 routing header (Section 6.4),
// so that SAs between the home address and the peer travel to the care-of address. The
// states, and the policies of type sub, are no IKE daemon's.
type Binding struct {
	Mobile, PeerNS *testnet.Namespace
	Peer           netip.Addr
	bound          bool
}

// Protocols of the headers that stand for states of route optimisation.
const (
	homeAddressOption uint8 = 60 // destination options
	typeTwoRouting    uint8 = 43
)

// Set says where the mobile node is. At home there is no binding, and over IPv4 there
// can be none: then nothing of the home address reaches the peer by itself.
func (b *Binding) Set(careOf netip.Addr) error {
	want := careOf.Is6() && careOf != Home
	mobile, peer := b.requests(careOf, want, wire.DirOut, wire.DirIn), b.requests(careOf, want, wire.DirIn, wire.DirOut)
	b.bound = want
	return errors.Join(ask(b.Mobile, mobile...), ask(b.PeerNS, peer...))
}

// requests are those of one side, which has the policies for what the mobile node sends
// in one direction, and for what it gets in the other.
func (b *Binding) requests(careOf netip.Addr, want bool, fromHome, toHome uint8) (list []request) {
	for _, x := range []struct {
		src, dst netip.Addr
		proto    uint8
		dir      uint8
	}{{Home, b.Peer, homeAddressOption, fromHome}, {b.Peer, Home, typeTwoRouting, toHome}} {
		src, dst, co, sub := wire.AddressOf(x.src), wire.AddressOf(x.dst), wire.AddressOf(careOf), uint8(1)
		forever := wire.Lifetime{SoftBytes: wire.Infinite, HardBytes: wire.Infinite, SoftPackets: wire.Infinite, HardPackets: wire.Infinite}
		id := wire.ID{Dst: dst, Proto: x.proto}
		sel := wire.Selector{Src: src, SrcLen: 128, Dst: dst, DstLen: 128, Family: wire.Inet6}
		state := &wire.SA{SAInfo: wire.SAInfo{ID: id, Src: src, Lifetime: forever, Family: wire.Inet6, Mode: wire.ModeRouteOptimization}, Attrs: wire.Attrs{CoAddr: &co}}
		policy := &wire.Policy{PolicyInfo: wire.PolicyInfo{Sel: sel, Lifetime: forever, Dir: x.dir}, Attrs: wire.Attrs{PolicyType: &sub,
			Templates: []wire.Template{{ID: id, Family: wire.Inet6, Src: src, Mode: wire.ModeRouteOptimization, AuthAlgs: ^uint32(0), EncrAlgs: ^uint32(0), CompAlgs: ^uint32(0)}}}}
		what := fmt.Sprintf("binding of %v, %v to %v", careOf, x.src, x.dst)
		switch {
		case want && b.bound:
			list = append(list, request{wire.UpdSA, state, what})
		case want:
			list = append(list, request{wire.NewSA, state, what}, request{wire.NewPolicy, policy, what})
		case b.bound:
			list = append(list, request{wire.DelPolicy, &wire.PolicyByID{PolicyID: wire.PolicyID{Sel: sel, Dir: x.dir}, Attrs: wire.Attrs{PolicyType: &sub}}, what},
				request{wire.DelSA, &wire.SAByID{SAID: wire.SAID{Dst: dst, Family: wire.Inet6, Proto: x.proto}, Attrs: wire.Attrs{SrcAddr: &src}}, what})
		}
	}
	return list
}
