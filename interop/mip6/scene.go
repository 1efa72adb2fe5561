// Package mip6 is the scene of the tests about Mobile IPv6 (RFC 6275): a mobile node
// that changes its link, its home agent, a correspondent, the router between them, a
// small mobility manager, and traffic of which each packet has a number. It knows
// nothing of IKE: the daemons under test are told what UMIP's mip6d would tell them.
package mip6

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/internal/testnet"
)

// Addresses that do not move.
var (
	Home          = netip.MustParseAddr("2001:db8::10")  // of the mobile node
	Agent         = netip.MustParseAddr("2001:db8::1")   // of its home agent, on the home link
	Agent4        = netip.MustParseAddr("198.51.100.1")  // the same in an IPv4 network
	Correspondent = netip.MustParseAddr("2001:db8:c::2") // far from both
	Beyond        = netip.MustParseAddr("2001:db8:d::2") // the router itself, in a network of its own
	BeyondNet     = netip.MustParsePrefix("2001:db8:d::/64")
)

// Place is where a mobile node may be: a link, and its address there.
type Place struct {
	Name  string
	If    string // of the mobile node
	Addrs []string
	// Router is the next hop to everywhere, Router4 that for IPv4, when there is one.
	Router, Router4 string
	// CareOf is the care-of address, Agent where the home agent is seen from there.
	CareOf, Agent netip.Addr
}

// Places. At the last one, which is on the link of Second, there is IPv4 too, and the
// care-of address is of it.
var (
	AtHome = &Place{Name: "home", If: "home0", Addrs: []string{"2001:db8::10/64"}, Router: "2001:db8::1", CareOf: Home, Agent: Agent}
	First  = &Place{Name: "first foreign link", If: "far1", Addrs: []string{"2001:db8:1::10/64"}, Router: "2001:db8:1::fe", CareOf: netip.MustParseAddr("2001:db8:1::10"), Agent: Agent}
	Second = &Place{Name: "second foreign link", If: "far2", Addrs: []string{"2001:db8:2::10/64", "192.0.2.10/24"}, Router: "2001:db8:2::fe", Router4: "192.0.2.254",
		CareOf: netip.MustParseAddr("2001:db8:2::10"), Agent: Agent}
	Second4 = &Place{Name: "IPv4 of the second foreign link", If: Second.If, Addrs: Second.Addrs, Router: Second.Router, Router4: Second.Router4,
		CareOf: netip.MustParseAddr("192.0.2.10"), Agent: Agent4}
)

// Scene is a mobile node, its home agent, a correspondent and a router:
//
//	        home0 ------- home0 agent wan0 ---- agent0
//	mobile  far1  ----------------------------- far1    router peer0 ---- wan0 peer
//	        far2  ----------------------------- far2
//
// The home agent is the router of the home link. The mobile node is at home first. One
// of its links is up at a time, but for the moment of a move, and its home address is
// on the loopback interface always, so that sockets keep it.
type Scene struct {
	*testnet.Net
	Mobile, Agent, Router, Peer *testnet.Namespace
	At                          *Place
}

// NewScene builds the scene in a network of its own.
func NewScene() (*Scene, error) {
	n, err := testnet.Open()
	if err != nil {
		return nil, err
	}
	s := &Scene{Net: n, At: AtHome}
	if err := s.build(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return s, nil
}

// ForTest builds the scene for the time of a test; it needs root.
func ForTest(t testnet.TB) *Scene {
	t.Helper()
	testnet.RequireRoot(t)
	s, err := NewScene()
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Logf("clean up: %v", err)
		}
	})
	return s
}

func (s *Scene) build() error {
	for _, x := range []struct {
		name string
		ns   **testnet.Namespace
	}{{"mobile", &s.Mobile}, {"agent", &s.Agent}, {"router", &s.Router}, {"peer", &s.Peer}} {
		ns, err := s.Namespace(x.name)
		if err != nil {
			return err
		}
		*x.ns = ns
	}
	end := func(ns *testnet.Namespace, dev string) testnet.End { return testnet.End{NS: ns, If: dev} }
	if err := errors.Join(
		s.Connect(end(s.Mobile, "home0"), end(s.Agent, "home0"), 0),
		s.Connect(end(s.Agent, "wan0"), end(s.Router, "agent0"), 0),
		s.Connect(end(s.Mobile, "far1"), end(s.Router, "far1"), 0),
		s.Connect(end(s.Mobile, "far2"), end(s.Router, "far2"), 0),
		s.Connect(end(s.Peer, "wan0"), end(s.Router, "peer0"), 0),
	); err != nil {
		return err
	}
	return errors.Join(
		s.Agent.Forward(), s.Router.Forward(),
		s.Agent.AddAddr("home0", "2001:db8::1/64"), s.Agent.AddAddr("wan0", "2001:db8:f::1/64", "198.51.100.1/24"),
		s.Router.AddAddr("agent0", "2001:db8:f::fe/64", "198.51.100.254/24"),
		s.Router.AddAddr("far1", "2001:db8:1::fe/64"), s.Router.AddAddr("far2", "2001:db8:2::fe/64", "192.0.2.254/24"),
		s.Router.AddAddr("peer0", "2001:db8:c::fe/64"), s.Peer.AddAddr("wan0", "2001:db8:c::2/64"), s.Router.AddAddr("lo", "2001:db8:d::2/128"),
		s.Agent.AddRoute("default", "2001:db8:f::fe"), s.Agent.AddRoute("default", "198.51.100.254"),
		s.Router.AddRoute("2001:db8::/64", "2001:db8:f::1"), s.Peer.AddRoute("default", "2001:db8:c::fe"),
		s.Mobile.SetLink("far1", false), s.Mobile.SetLink("far2", false),
		s.homeAddress(), s.attach(AtHome),
	)
}

// homeAddress marks the home address as one: the kernel takes a type 2 routing header
// for it (RFC 6275, Section 6.4).
func (s *Scene) homeAddress() error {
	lo, err := s.Mobile.Handle().LinkByName("lo")
	if err != nil {
		return err
	}
	return s.Mobile.Handle().AddrAdd(lo, &netlink.Addr{
		IPNet: &net.IPNet{IP: Home.AsSlice(), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS,
	})
}

// attach lets the mobile node be on a link, and send all that it sends there.
func (s *Scene) attach(p *Place) error {
	if err := s.Mobile.SetLink(p.If, true); err != nil {
		return err
	}
	if err := s.Mobile.AddAddr(p.If, p.Addrs...); err != nil {
		return err
	}
	for _, r := range []string{p.Router, p.Router4} {
		if r == "" {
			continue
		}
		via := netip.MustParseAddr(r)
		all := &net.IPNet{IP: make(net.IP, via.BitLen()/8), Mask: net.CIDRMask(0, via.BitLen())}
		if err := s.Mobile.Handle().RouteReplace(&netlink.Route{Dst: all, Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("mip6: route by %v: %w", via, err)
		}
	}
	return s.introduce(p)
}

// introduce lets the mobile node and the router of a link know each other, as a Router
// Advertisement (RFC 4861, Section 4.2) and the Neighbor Advertisement of a node that comes
// home (RFC 6275, Section 11.5.5) do: a solicitation that is lost on a link that is just
// coming up is repeated after a second, and costs packets meanwhile.
func (s *Scene) introduce(p *Place) error {
	other := s.Router
	if p == AtHome {
		other = s.Agent
	}
	own, err1 := s.Mobile.Handle().LinkByName(p.If)
	there, err2 := other.Handle().LinkByName(p.If)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	know := func(ns *testnet.Namespace, at, whom netlink.Link, addr netip.Addr) error {
		family := unix.AF_INET6
		if addr.Is4() {
			family = unix.AF_INET
		}
		return ns.Handle().NeighSet(&netlink.Neigh{LinkIndex: at.Attrs().Index, Family: family, State: netlink.NUD_REACHABLE, IP: addr.AsSlice(), HardwareAddr: whom.Attrs().HardwareAddr})
	}
	var all error
	for _, r := range []string{p.Router, p.Router4} {
		if r != "" {
			all = errors.Join(all, know(s.Mobile, own, there, netip.MustParseAddr(r)))
		}
	}
	for _, a := range p.Addrs {
		all = errors.Join(all, know(other, there, own, netip.MustParsePrefix(a).Addr()))
	}
	return all
}

// detach takes the mobile node off a link. Nobody there finds it any more.
func (s *Scene) detach(p *Place) error {
	return errors.Join(s.Mobile.DelAddr(p.If, p.Addrs...), s.Mobile.SetLink(p.If, false))
}

// Move takes the mobile node to another place: it is on the new link, tell makes that
// known, and the old link is gone.
func (s *Scene) Move(to *Place, tell func(from, to *Place) error) error {
	from := s.At
	same := from.If == to.If
	if !same {
		if err := s.attach(to); err != nil {
			return err
		}
	}
	if err := tell(from, to); err != nil {
		return err
	}
	s.At = to
	if same {
		return nil
	}
	return s.detach(from)
}

// Wire is what left the mobile node, the home agent and the correspondent, on whatever
// link.
type Wire struct{ mobile, agent, peer *testnet.SentCapture }

// Wire begins to record.
func (s *Scene) Wire() (*Wire, error) {
	mobile, err1 := testnet.Sent(testnet.End{NS: s.Mobile, If: "home0"}, testnet.End{NS: s.Mobile, If: "far1"}, testnet.End{NS: s.Mobile, If: "far2"})
	agent, err2 := testnet.Sent(testnet.End{NS: s.Agent, If: "home0"}, testnet.End{NS: s.Agent, If: "wan0"})
	peer, err3 := testnet.Sent(testnet.End{NS: s.Peer, If: "wan0"})
	return &Wire{mobile, agent, peer}, errors.Join(err1, err2, err3)
}

// Stop ends the recording.
func (w *Wire) Stop() {
	for _, c := range []*testnet.SentCapture{w.mobile, w.agent, w.peer} {
		c.Stop()
	}
}

// IKE is how many messages of IKE were sent.
func (w *Wire) IKE() (n int) {
	for _, c := range []*testnet.SentCapture{w.mobile, w.agent, w.peer} {
		n += c.Counts()[testnet.IKE]
	}
	return n
}

// Clear is what the mobile node has sent in clear from its home address, and its home
// agent to it.
func (w *Wire) Clear() (list []testnet.Packet) {
	for _, p := range w.mobile.ClearText() {
		if p.Src == Home {
			list = append(list, p)
		}
	}
	for _, p := range w.agent.ClearText() {
		if p.Dst == Home {
			list = append(list, p)
		}
	}
	return list
}
