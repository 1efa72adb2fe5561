package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"iked/internal/testnet"
)

// scene is the network of one mode: two systems that run iked, and who talks
// through them.
type scene struct {
	net *testnet.Net
	// title and drawing tell what is built; between is what the wire is between.
	title, drawing, between string
	// a brings the connection up, b waits for it.
	a, b side
	// from pings to; fromName and toName are their names with addresses.
	from             *testnet.Namespace
	to               netip.Addr
	fromName, toName string
	// wire are the ends of the link between the two.
	wire [2]testnet.End
}

// side is one system that runs iked, as its configuration says it.
type side struct {
	ns            *testnet.Namespace
	local, remote netip.Addr
	child         string // keys of the child
}

// modes are what -mode takes, with what makes their networks.
var modes = []struct {
	name  string
	build func() (*scene, error)
}{
	{"tunnel", func() (*scene, error) { return sites(false) }},
	{"inter-family", func() (*scene, error) { return sites(true) }},
	{"transport", func() (*scene, error) { return hosts("transport") }},
	{"beet", func() (*scene, error) { return hosts("beet") }},
}

func modeNames() string {
	var names []string
	for _, m := range modes {
		names = append(names, m.name)
	}
	return strings.Join(names, ", ")
}

func newScene(mode string) (*scene, error) {
	for _, m := range modes {
		if m.name == mode {
			return m.build()
		}
	}
	return nil, fmt.Errorf("there is no mode %q; choose one of %s", mode, modeNames())
}

// sites are two networks of IPv4, each behind its gateway. With v6outside the
// gateways know each other by IPv6 only.
func sites(v6outside bool) (*scene, error) {
	t, err := testnet.NewTopology(testnet.TopologyOptions{})
	if err != nil {
		return nil, err
	}
	s := &scene{
		net: t.Net, title: "Two sites in network namespaces, an iked on each gateway", between: "the gateways",
		drawing: `
  host-a            gw-a                            gw-b            host-b
  10.1.0.2 -------- 10.1.0.1 | 192.0.2.1 ========== 192.0.2.2 | 10.2.0.1 -------- 10.2.0.2
`,
		from: t.HostA, to: t.HostB4, fromName: "host-a (10.1.0.2)", toName: "host-b (10.2.0.2)", wire: [2]testnet.End{{NS: t.GwA, If: "wan0"}, {NS: t.GwB, If: "wan0"}},
		a: side{t.GwA, t.WanA4, t.WanB4, fmt.Sprintf("local_ts: [%v], remote_ts: [%v]", t.NetA4, t.NetB4)},
		b: side{t.GwB, t.WanB4, t.WanA4, fmt.Sprintf("local_ts: [%v], remote_ts: [%v]", t.NetB4, t.NetA4)},
	}
	if v6outside {
		s.title += "; IPv4 inside, IPv6 outside"
		s.drawing = `
  host-a            gw-a                                gw-b            host-b
  10.1.0.2 -------- 10.1.0.1 | 2001:db8::1 ========== 2001:db8::2 | 10.2.0.1 -------- 10.2.0.2
`
		s.a.local, s.a.remote, s.b.local, s.b.remote = t.WanA6, t.WanB6, t.WanB6, t.WanA6
		// Without IPv4 outside nothing of the sites can cross in clear by accident, and
		// nothing but the tunnel can carry it.
		err := errors.Join(t.GwA.DelAddr("wan0", "192.0.2.1/24"), t.GwB.DelAddr("wan0", "192.0.2.2/24"),
			// A kernel forwards only what it has a route for; the policies come after.
			out(t.GwA, "wan0", t.NetB4), out(t.GwB, "wan0", t.NetA4))
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	return s, nil
}

// out routes a network to a device, without a gateway.
func out(ns *testnet.Namespace, device string, p netip.Prefix) error {
	dev, err := ns.Handle().LinkByName(device)
	if err != nil {
		return fmt.Errorf("%s: %w", ns.Name, err)
	}
	dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	return ns.Handle().RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: dst})
}

// hosts are two hosts on one link, without gateways. In BEET mode each has an inner
// address, by which the other knows it.
func hosts(mode string) (*scene, error) {
	n, err := testnet.Open()
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*scene, error) { return nil, errors.Join(err, n.Close()) }
	var ns [2]*testnet.Namespace
	for i, name := range []string{"host-a", "host-b"} {
		if ns[i], err = n.Namespace(name); err != nil {
			return fail(err)
		}
	}
	err = n.Connect(testnet.End{NS: ns[0], If: "eth0"}, testnet.End{NS: ns[1], If: "eth0"}, 0)
	if err == nil {
		err = errors.Join(ns[0].AddAddr("eth0", "192.0.2.1/24"), ns[1].AddAddr("eth0", "192.0.2.2/24"))
	}
	if err != nil {
		return fail(err)
	}
	outer := [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	s := &scene{
		net: n, title: "Two hosts in network namespaces, an iked on each; their own traffic is protected in transport mode", between: "the hosts",
		drawing: `
  host-a                host-b
  192.0.2.1 ==========  192.0.2.2
`,
		from: ns[0], to: outer[1], fromName: "host-a (192.0.2.1)", toName: "host-b (192.0.2.2)", wire: [2]testnet.End{{NS: ns[0], If: "eth0"}, {NS: ns[1], If: "eth0"}},
		a: side{ns[0], outer[0], outer[1], "mode: transport"}, b: side{ns[1], outer[1], outer[0], "mode: transport"},
	}
	if mode == "beet" {
		inner := [2]netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")}
		s.title = "Two hosts in network namespaces, an iked on each; BEET mode carries their inner addresses"
		s.drawing = `
  host-a                            host-b
  10.9.0.1 | 192.0.2.1 ==========  192.0.2.2 | 10.9.0.2
`
		s.to, s.fromName, s.toName = inner[1], "host-a (10.9.0.1)", "host-b (10.9.0.2)"
		for i, x := range []*side{&s.a, &s.b} {
			x.child = fmt.Sprintf("mode: beet, local_ts: [%v/32], remote_ts: [%v/32]", inner[i], inner[1-i])
			if err := ns[i].AddAddr("lo", inner[i].String()+"/32"); err != nil {
				return fail(err)
			}
			// The inner address is the source of what goes to the other's.
			_, all, _ := net.ParseCIDR(inner[1-i].String() + "/32")
			if err := ns[i].Handle().RouteAdd(&netlink.Route{Dst: all, Gw: outer[1-i].AsSlice(), Src: inner[i].AsSlice()}); err != nil {
				return fail(fmt.Errorf("%s: route to %v: %w", ns[i].Name, inner[1-i], err))
			}
		}
	}
	return s, nil
}
