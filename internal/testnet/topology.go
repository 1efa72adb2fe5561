package testnet

import (
	"errors"
	"net/netip"
)

// Between is what lies between the two gateways of a Topology.
type Between int

const (
	Direct Between = iota // one link
	Router                // a router, both gateways with public addresses
	NAT                   // a router that masquerades gateway A; needs nft
)

// NATPortBase is the first source port that the NAT of a Topology uses.
const NATPortBase = 20000

// Topology is two sites, each with a gateway and a host behind it:
//
//	host-a eth0 --- lan0 gw-a wan0 --- [a0 middle b0] --- wan0 gw-b lan0 --- eth0 host-b
//
// Gateways forward, and have default routes to the outside: what is not tunnelled
// crosses the wire in clear, and is seen there.
type Topology struct {
	*Net
	HostA, GwA, Middle, GwB, HostB *Namespace // Middle is nil if Direct
	// Addresses of hosts, inside of gateways, and outside of gateways.
	HostA4, HostA6, HostB4, HostB6 netip.Addr
	LanA4, LanA6, LanB4, LanB6     netip.Addr
	WanA4, WanA6, WanB4, WanB6     netip.Addr
	// NetA4 and so on are the networks of the sites.
	NetA4, NetA6, NetB4, NetB6 netip.Prefix
	// Seen4 and Seen6 are how gateway B sees gateway A: WanA4 and WanA6, or the
	// outside of the NAT.
	Seen4, Seen6 netip.Addr
	// Wire is the interface of gateway B towards A, the place to capture.
	Wire End
}

// TopologyOptions shapes NewTopology.
type TopologyOptions struct {
	Between Between
	// MTU of the link(s) between the gateways, in bytes; 0: 1500.
	MTU int
}

// NewTopology builds the two sites in a network of their own.
func NewTopology(o TopologyOptions) (*Topology, error) {
	n, err := Open()
	if err != nil {
		return nil, err
	}
	t := &Topology{Net: n}
	if err := t.build(o); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return t, nil
}

func (t *Topology) build(o TopologyOptions) error {
	var err error
	add := func(name string) *Namespace {
		if err != nil {
			return nil
		}
		var ns *Namespace
		ns, err = t.Namespace(name)
		return ns
	}
	t.HostA, t.GwA = add("host-a"), add("gw-a")
	if o.Between != Direct {
		t.Middle = add("middle")
	}
	t.GwB, t.HostB = add("gw-b"), add("host-b")
	if err != nil {
		return err
	}

	a := netip.MustParseAddr
	t.HostA4, t.HostA6, t.LanA4, t.LanA6 = a("10.1.0.2"), a("fd00:1::2"), a("10.1.0.1"), a("fd00:1::1")
	t.HostB4, t.HostB6, t.LanB4, t.LanB6 = a("10.2.0.2"), a("fd00:2::2"), a("10.2.0.1"), a("fd00:2::1")
	t.NetA4, t.NetA6 = netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00:1::/64")
	t.NetB4, t.NetB6 = netip.MustParsePrefix("10.2.0.0/24"), netip.MustParsePrefix("fd00:2::/64")
	t.Wire = End{t.GwB, "wan0"}

	steps := []error{
		t.Connect(End{t.HostA, "eth0"}, End{t.GwA, "lan0"}, 0),
		t.Connect(End{t.HostB, "eth0"}, End{t.GwB, "lan0"}, 0),
		t.HostA.AddAddr("eth0", "10.1.0.2/24", "fd00:1::2/64"),
		t.GwA.AddAddr("lan0", "10.1.0.1/24", "fd00:1::1/64"),
		t.HostB.AddAddr("eth0", "10.2.0.2/24", "fd00:2::2/64"),
		t.GwB.AddAddr("lan0", "10.2.0.1/24", "fd00:2::1/64"),
		t.HostA.AddRoute("default", "10.1.0.1"), t.HostA.AddRoute("default", "fd00:1::1"),
		t.HostB.AddRoute("default", "10.2.0.1"), t.HostB.AddRoute("default", "fd00:2::1"),
		t.GwA.Forward(), t.GwB.Forward(),
	}
	if err := errors.Join(steps...); err != nil {
		return err
	}
	if o.Between == Direct {
		return t.direct(o.MTU)
	}
	return t.routed(o)
}

func (t *Topology) direct(mtu int) error {
	a := netip.MustParseAddr
	t.WanA4, t.WanA6, t.WanB4, t.WanB6 = a("192.0.2.1"), a("2001:db8::1"), a("192.0.2.2"), a("2001:db8::2")
	t.Seen4, t.Seen6 = t.WanA4, t.WanA6
	if err := t.Connect(End{t.GwA, "wan0"}, End{t.GwB, "wan0"}, mtu); err != nil {
		return err
	}
	return errors.Join(
		t.GwA.AddAddr("wan0", "192.0.2.1/24", "2001:db8::1/64"),
		t.GwB.AddAddr("wan0", "192.0.2.2/24", "2001:db8::2/64"),
		t.GwA.AddRoute("default", "192.0.2.2"), t.GwA.AddRoute("default", "2001:db8::2"),
		t.GwB.AddRoute("default", "192.0.2.1"), t.GwB.AddRoute("default", "2001:db8::1"),
	)
}

func (t *Topology) routed(o TopologyOptions) error {
	a := netip.MustParseAddr
	t.WanA4, t.WanA6, t.WanB4, t.WanB6 = a("192.0.2.1"), a("2001:db8:a::1"), a("198.51.100.2"), a("2001:db8:b::2")
	t.Seen4, t.Seen6 = t.WanA4, t.WanA6
	if err := errors.Join(
		t.Connect(End{t.GwA, "wan0"}, End{t.Middle, "a0"}, o.MTU),
		t.Connect(End{t.Middle, "b0"}, End{t.GwB, "wan0"}, o.MTU),
	); err != nil {
		return err
	}
	if err := errors.Join(
		t.GwA.AddAddr("wan0", "192.0.2.1/24", "2001:db8:a::1/64"),
		t.Middle.AddAddr("a0", "192.0.2.254/24", "2001:db8:a::fe/64"),
		t.Middle.AddAddr("b0", "198.51.100.254/24", "2001:db8:b::fe/64"),
		t.GwB.AddAddr("wan0", "198.51.100.2/24", "2001:db8:b::2/64"),
		t.GwA.AddRoute("default", "192.0.2.254"), t.GwA.AddRoute("default", "2001:db8:a::fe"),
		t.GwB.AddRoute("default", "198.51.100.254"), t.GwB.AddRoute("default", "2001:db8:b::fe"),
		t.Middle.Forward(),
	); err != nil {
		return err
	}
	if o.Between == NAT {
		t.Seen4, t.Seen6 = a("198.51.100.254"), a("2001:db8:b::fe")
		return t.Middle.Masquerade("b0", NATPortBase)
	}
	return errors.Join(
		t.Middle.AddRoute("10.1.0.0/24", "192.0.2.1"), t.Middle.AddRoute("fd00:1::/64", "2001:db8:a::1"),
		t.Middle.AddRoute("10.2.0.0/24", "198.51.100.2"), t.Middle.AddRoute("fd00:2::/64", "2001:db8:b::2"),
	)
}
