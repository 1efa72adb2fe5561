package interop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/interop/mip6"
	"iked/spd"
)

// Roaming is a mobile node with its peers, each with a daemon, their mobility managers,
// and the traffic between them.
type Roaming struct {
	*testing.T
	*mip6.Scene
	Ctx   context.Context
	Node  *Control // of the mobile node
	Peers []*Peering
	Flows mip6.Flows
	// Lag is how long after a move packets may be lost: a datapath in userspace hears of
	// links and routes a moment after the kernel knows them. 0: not at all.
	Lag time.Duration
	// Missing tells which of these SAs a namespace does not have, in words: "src A dst B
	// proto esp spi 0x…". nil: the lists of the daemons are all that there is.
	Missing func(ns *testnet.Namespace, sas []string) string
}

// Peering is what the mobile node has with one peer.
type Peering struct {
	Conn     string
	Far      *Control
	NS       *testnet.Namespace
	Addr     func(*mip6.Place) netip.Addr // of the peer; invalid: not reached from there
	Children map[string]mip6.Bond
	Carrier  mip6.Carrier
	At       *mip6.Place
}

// WithAgent and WithCorrespondent are the peerings of a mobile node at home, with all
// that they need but daemons and carriers.
func WithAgent(s *mip6.Scene) *Peering {
	return &Peering{Conn: "home", NS: s.Agent, Children: withAgent, Addr: func(p *mip6.Place) netip.Addr { return p.Agent }, At: mip6.AtHome}
}

// WithCorrespondent is that with a node which has no address of IPv4.
func WithCorrespondent(s *mip6.Scene) *Peering {
	return &Peering{Conn: "far", NS: s.Peer, Children: withCorrespondent, At: mip6.AtHome, Addr: func(p *mip6.Place) netip.Addr {
		if p.CareOf.Is4() {
			return netip.Addr{}
		}
		return mip6.Correspondent
	}}
}

// NodeConfig is the configuration of the mobile node for all its peerings.
func (r *Roaming) NodeConfig() (all Config) {
	for _, p := range r.Peers {
		c := p.Config(true)
		all.Connections, all.Secrets = append(all.Connections, c.Connections...), c.Secrets
	}
	return all
}

// Bonds are what is protected in the peering.
func (p *Peering) Bonds() (list []mip6.Bond) {
	for _, b := range p.Children {
		list = append(list, b)
	}
	return list
}

var homeOnly = netip.PrefixFrom(mip6.Home, 128)

// withAgent is what a mobile node has with its home agent: Binding Updates and
// Acknowledgements in transport mode (RFC 4877, Section 4.1), and what it exchanges with
// others in a tunnel (RFC 6275, Section 5.5).
var withAgent = map[string]mip6.Bond{
	"binding": {Mode: spd.Transport, Home: homeOnly, Peer: netip.PrefixFrom(mip6.Agent, 128), Proto: mip6.MobilityHeader, HomeType: mip6.BindingUpdate, PeerType: mip6.BindingAcknowledgement, Untyped: true},
	"payload": {Mode: spd.Tunnel, Home: homeOnly, Peer: mip6.BeyondNet, Forward: true},
}

// withCorrespondent is what it has with a node that knows its care-of address.
var withCorrespondent = map[string]mip6.Bond{
	"direct": {Mode: spd.Transport, Home: homeOnly, Peer: netip.PrefixFrom(mip6.Correspondent, 128), Proto: mip6.Experiment},
}

// Config is that of the mobile node, or of its peer.
func (p *Peering) Config(mobile bool) Config {
	ids, peer, role := [2]string{"mobile.example", p.Conn + ".example"}, p.Addr(mip6.AtHome).String(), "mobile"
	if !mobile {
		ids, peer, role = [2]string{ids[1], ids[0]}, "%any", "correspondent"
		if p.Conn == "home" {
			role = "agent"
		}
	}
	remote := Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[1]}}
	if !mobile {
		remote.Set("home_addresses", []string{mip6.Home.String()})
	}
	children := Section{}
	for name, b := range p.Children {
		ts := func(net netip.Prefix, mh uint16) []string {
			s := net.String()
			if b.Proto != 0 {
				s = net.Addr().String() + "[" + strconv.Itoa(int(b.Proto))
				if mh != 0 {
					s += "/" + strconv.Itoa(int(mh))
				}
				s += "]"
			}
			return []string{s}
		}
		local, remote := ts(b.Home, b.HomeType), ts(b.Peer, b.PeerType)
		if !mobile {
			local, remote = remote, local
		}
		child := Section{{Key: "local_ts", Value: local}, {Key: "remote_ts", Value: remote}, {Key: "esp_proposals", Value: []string{"aes128gcm16"}}}
		if b.Mode == spd.Transport {
			child.Set("mode", "transport")
		}
		children.Set(name, child)
	}
	return Config{
		Connections: Section{{Key: p.Conn, Value: Section{
			{Key: "version", Value: "2"}, {Key: "mobike", Value: "no"}, {Key: "mobility_role", Value: role}, {Key: "proposals", Value: []string{"aes128-sha256-x25519"}},
			{Key: "remote_addrs", Value: []string{peer}},
			{Key: "local", Value: Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[0]}}}, {Key: "remote", Value: remote}, {Key: "children", Value: children},
		}}},
		Secrets: []Secret{{PSK: "a throw-away secret"}},
	}
}

// Flow lets numbered packets pass both ways.
func (r *Roaming) Flow(name string, a, b mip6.Station, proto, mhA, mhB uint8) mip6.Flows {
	r.Helper()
	var both mip6.Flows
	for i, ends := range [][2]mip6.Station{{a, b}, {b, a}} {
		f, err := mip6.StartFlow(fmt.Sprintf("%s of %s", name, ends[0].NS.Name), ends[0], ends[1], proto, []uint8{mhA, mhB}[i], 10*time.Millisecond)
		if err != nil {
			r.Fatal(err)
		}
		both = append(both, f)
	}
	r.Flows = append(r.Flows, both...)
	return both
}

// sas are the IKE SA and the CHILD_SAs of a peering at one side, by name; wrong is what
// keeps it from having one of each.
func (r *Roaming) sas(side *Control, p *Peering) (ike *IKESA, children map[string]*ChildSA, wrong string) {
	sas, err := side.SAs(r.Ctx)
	if err != nil {
		return nil, nil, err.Error()
	}
	sas = slices.DeleteFunc(sas, func(x IKESA) bool { return x.Name != p.Conn })
	if len(sas) != 1 || sas[0].State != "ESTABLISHED" || len(sas[0].Children) != len(p.Children) {
		return nil, nil, Describe(sas)
	}
	children = map[string]*ChildSA{}
	for name := range p.Children {
		if children[name] = sas[0].Child(name, "INSTALLED"); children[name] == nil {
			return nil, nil, Describe(sas)
		}
	}
	return &sas[0], children, ""
}

// Agree waits until both sides of a peering have the same SAs, and gives those of the
// mobile node.
func (r *Roaming) Agree(p *Peering) (ike *IKESA, children map[string]*ChildSA) {
	r.Helper()
	r.Eventually(func() (wrong string) {
		if ike, children, wrong = r.sas(r.Node, p); wrong != "" {
			return "mobile node: " + wrong
		}
		far, theirs, wrong := r.sas(p.Far, p)
		if wrong != "" {
			return p.NS.Name + ": " + wrong
		}
		if ike.InitiatorSPI != far.InitiatorSPI {
			return "the sides have different IKE SAs"
		}
		for name, c := range children {
			if c.SPIIn != theirs[name].SPIOut || c.SPIOut != theirs[name].SPIIn {
				return "the sides have different SAs of " + name
			}
		}
		return ""
	})
	return ike, children
}

// Eventually waits until nothing is wrong any more.
func (r *Roaming) Eventually(wrong func() string) {
	r.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		w := wrong()
		if w == "" {
			return
		}
		if time.Now().After(end) || r.Ctx.Err() != nil {
			r.Fatal(w)
		}
	}
}

// Where wants the IKE SA and the tunnels of a peering between the care-of address and
// the peer, and the SAs in transport mode between the home address and it, at both
// sides.
func (r *Roaming) Where(p *Peering) {
	r.Helper()
	place, peer := p.At, p.Addr(p.At)
	_, children := r.Agree(p)
	r.Eventually(func() string {
		for _, x := range []struct {
			side          *Control
			ns            *testnet.Namespace
			local, remote netip.Addr
		}{{r.Node, r.Mobile, place.CareOf, peer}, {p.Far, p.NS, peer, place.CareOf}} {
			ike, _, wrong := r.sas(x.side, p)
			if wrong != "" {
				return wrong
			}
			if ike.LocalHost != x.local.String() || ike.RemoteHost != x.remote.String() {
				return fmt.Sprintf("%s: IKE of %s is between %s and %s, expected %v and %v", place.Name, x.ns.Name, ike.LocalHost, ike.RemoteHost, x.local, x.remote)
			}
			if r.Missing == nil {
				continue
			}
			var want []string
			for name, b := range p.Children {
				home, far := place.CareOf, peer
				if b.Mode == spd.Transport {
					home, far = mip6.Home, b.Peer.Addr()
				}
				want = append(want, fmt.Sprintf("src %v dst %v proto esp spi 0x%s ", home, far, children[name].SPIOut), fmt.Sprintf("src %v dst %v proto esp spi 0x%s ", far, home, children[name].SPIIn))
			}
			if wrong := r.Missing(x.ns, want); wrong != "" {
				return place.Name + ", " + x.ns.Name + ": " + wrong
			}
		}
		return ""
	})
}

// Tell lets the mobility managers of all nodes tell of a move.
func (r *Roaming) Tell(how mip6.Teller, to *mip6.Place) error {
	for _, p := range r.Peers {
		peer := p.Addr(to)
		if !peer.IsValid() {
			continue
		}
		bonds, from := p.Bonds(), p.At
		if err := errors.Join(
			how(r.Mobile, mip6.Events(bonds, true, from, to, p.Addr(from), peer)...),
			how(p.NS, mip6.Events(bonds, false, from, to, p.Addr(from), peer)...),
			p.Carrier.Set(to.CareOf),
		); err != nil {
			return err
		}
		p.At = to
	}
	return nil
}

// GoTo takes the mobile node to a place. Under the K bit nobody says a word of IKE (RFC
// 6275, Section 6.1.7), and the SAs are what they were.
func (r *Roaming) GoTo(to *mip6.Place, how mip6.Teller, flows mip6.Flows) {
	r.Helper()
	was := r.Held()
	wire, err := r.Wire()
	if err != nil {
		r.Fatal(err)
	}
	defer wire.Stop()
	if err := flows.During("to "+to.Name, func() error {
		err := r.Move(to, func(_, to *mip6.Place) error { return r.Tell(how, to) })
		time.Sleep(r.Lag)
		return err
	}); err != nil {
		r.Fatal(err)
	}
	for _, p := range r.Peers {
		r.Where(p)
	}
	// What the daemons do once all events are there is over by then.
	time.Sleep(700 * time.Millisecond)
	wire.Stop()
	if n := wire.IKE(); n != 0 {
		r.Errorf("to %s: %d messages of IKE", to.Name, n)
	}
	if clear := wire.Clear(); len(clear) != 0 {
		r.Errorf("to %s: %d packets in clear, the first of them %v", to.Name, len(clear), clear[0])
	}
	for p, now := range r.Held() {
		for name, c := range now.children {
			if b := was[p].children[name]; c.SPIIn != b.SPIIn || c.SPIOut != b.SPIOut || now.ike.InitiatorSPI != was[p].ike.InitiatorSPI {
				r.Errorf("to %s: other SAs of %s than before", to.Name, name)
			}
		}
	}
}

// Held are the SAs of a peering at one time.
type Held struct {
	ike      *IKESA
	children map[string]*ChildSA
}

func (r *Roaming) Held() map[*Peering]Held {
	r.Helper()
	all := map[*Peering]Held{}
	for _, p := range r.Peers {
		ike, children := r.Agree(p)
		all[p] = Held{ike, children}
	}
	return all
}

// Rekeyed lets the mobile node or its peers rekey all SAs, at which no packet is lost.
func (r *Roaming) Rekeyed(mobile bool) {
	r.Helper()
	was := r.Held()
	rekey := func(p *Peering, kind, name string) {
		by := p.Far
		if mobile {
			by = r.Node
		}
		if _, err := by.Call(r.Ctx, "rekey", map[string]any{kind: name}); err != nil {
			r.Fatal(err)
		}
	}
	for _, p := range r.Peers {
		for name := range p.Children {
			rekey(p, "child", name)
		}
	}
	r.Eventually(func() string {
		for p, h := range r.Held() {
			for name, c := range h.children {
				if c.SPIIn == was[p].children[name].SPIIn {
					return "the CHILD_SA " + name + " was not rekeyed"
				}
			}
		}
		return ""
	})
	for _, p := range r.Peers {
		rekey(p, "ike", p.Conn)
	}
	r.Eventually(func() string {
		for p, h := range r.Held() {
			if h.ike.InitiatorSPI == was[p].ike.InitiatorSPI {
				return "the IKE SA " + p.Conn + " was not rekeyed"
			}
		}
		return ""
	})
}
