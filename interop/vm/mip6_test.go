package vm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
	"iked/interop/mip6"
	"iked/migrate"
	"iked/spd"
)

// roaming is a mobile node with its peers, each with a daemon that uses the kernel's
// SAs, their mobility managers, and the traffic between them.
type roaming struct {
	*testing.T
	*mip6.Scene
	ctx     context.Context
	mobile  *interop.Control
	peers   []*peering
	flows   mip6.Flows
	daemons []*interop.Iked
}

// peering is what the mobile node has with one peer.
type peering struct {
	conn     string
	far      *interop.Control
	ns       *testnet.Namespace
	addr     func(*mip6.Place) netip.Addr // of the peer; invalid: not reached from there
	children map[string]mip6.Bond
	binding  *mip6.Binding
	at       *mip6.Place
}

func (p *peering) bonds() (list []mip6.Bond) {
	for _, b := range p.children {
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

// newRoaming starts three ikeds at home.
func newRoaming(t *testing.T) *roaming {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	r := &roaming{T: t, Scene: mip6.ForTest(t), ctx: ctx}
	r.peers = []*peering{
		{conn: "home", ns: r.Agent, children: withAgent, addr: func(p *mip6.Place) netip.Addr { return p.Agent }},
		{conn: "far", ns: r.Peer, children: withCorrespondent, addr: func(p *mip6.Place) netip.Addr {
			if p.CareOf.Is4() {
				return netip.Addr{}
			}
			return mip6.Correspondent
		}},
	}
	var all interop.Config
	for _, p := range r.peers {
		p.at = mip6.AtHome
		p.binding = &mip6.Binding{Mobile: r.Mobile, PeerNS: p.ns, Peer: p.addr(mip6.AtHome)}
		c := p.config(true)
		all.Connections, all.Secrets = append(all.Connections, c.Connections...), c.Secrets
	}
	r.mobile = &r.iked(r.Mobile, all).Control
	for _, p := range r.peers {
		p.far = &r.iked(p.ns, p.config(false)).Control
	}
	return r
}

func (r *roaming) iked(ns *testnet.Namespace, c interop.Config) *interop.Iked {
	r.Helper()
	d := startIked(r.T, r.Scene.Net, ns, c.YAML(), "kernel")
	r.daemons = append(r.daemons, d)
	return d
}

// config is that of the mobile node, or of its peer.
func (p *peering) config(mobile bool) interop.Config {
	ids, peer, role := [2]string{"mobile.example", p.conn + ".example"}, p.addr(mip6.AtHome).String(), "mobile"
	if !mobile {
		ids, peer, role = [2]string{ids[1], ids[0]}, "%any", "correspondent"
		if p.conn == "home" {
			role = "agent"
		}
	}
	remote := interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[1]}}
	if !mobile {
		remote.Set("home_addresses", []string{mip6.Home.String()})
	}
	children := interop.Section{}
	for name, b := range p.children {
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
		child := interop.Section{{Key: "local_ts", Value: local}, {Key: "remote_ts", Value: remote}, {Key: "esp_proposals", Value: []string{"aes128gcm16"}}}
		if b.Mode == spd.Transport {
			child.Set("mode", "transport")
		}
		children.Set(name, child)
	}
	return interop.Config{
		Connections: interop.Section{{Key: p.conn, Value: interop.Section{
			{Key: "version", Value: "2"}, {Key: "mobike", Value: "no"}, {Key: "mobility_role", Value: role}, {Key: "proposals", Value: []string{"aes128-sha256-x25519"}},
			{Key: "remote_addrs", Value: []string{peer}},
			{Key: "local", Value: interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[0]}}}, {Key: "remote", Value: remote}, {Key: "children", Value: children},
		}}},
		Secrets: []interop.Secret{{PSK: "a throw-away secret"}},
	}
}

// flow lets numbered packets pass both ways.
func (r *roaming) flow(name string, a, b mip6.Station, proto, mhA, mhB uint8) mip6.Flows {
	r.Helper()
	var both mip6.Flows
	for i, ends := range [][2]mip6.Station{{a, b}, {b, a}} {
		f, err := mip6.StartFlow(fmt.Sprintf("%s of %s", name, ends[0].NS.Name), ends[0], ends[1], proto, []uint8{mhA, mhB}[i], 10*time.Millisecond)
		if err != nil {
			r.Fatal(err)
		}
		both = append(both, f)
	}
	r.flows = append(r.flows, both...)
	return both
}

// sas are the IKE SA and the CHILD_SAs of a peering at one side, by name; wrong is what
// keeps it from having one of each.
func (r *roaming) sas(side *interop.Control, p *peering) (ike *interop.IKESA, children map[string]*interop.ChildSA, wrong string) {
	sas, err := side.SAs(r.ctx)
	if err != nil {
		return nil, nil, err.Error()
	}
	sas = slices.DeleteFunc(sas, func(x interop.IKESA) bool { return x.Name != p.conn })
	if len(sas) != 1 || sas[0].State != "ESTABLISHED" || len(sas[0].Children) != len(p.children) {
		return nil, nil, interop.Describe(sas)
	}
	children = map[string]*interop.ChildSA{}
	for name := range p.children {
		if children[name] = sas[0].Child(name, "INSTALLED"); children[name] == nil {
			return nil, nil, interop.Describe(sas)
		}
	}
	return &sas[0], children, ""
}

// agree waits until both sides of a peering have the same SAs, and gives those of the
// mobile node.
func (r *roaming) agree(p *peering) (ike *interop.IKESA, children map[string]*interop.ChildSA) {
	r.Helper()
	r.eventually(func() (wrong string) {
		if ike, children, wrong = r.sas(r.mobile, p); wrong != "" {
			return "mobile node: " + wrong
		}
		far, theirs, wrong := r.sas(p.far, p)
		if wrong != "" {
			return p.ns.Name + ": " + wrong
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

// eventually waits until nothing is wrong any more.
func (r *roaming) eventually(wrong func() string) {
	r.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		w := wrong()
		if w == "" {
			return
		}
		if time.Now().After(end) || r.ctx.Err() != nil {
			r.Fatal(w)
		}
	}
}

// where wants the IKE SA and the tunnels of a peering between the care-of address and
// the peer, and the SAs in transport mode between the home address and it, at both sides
// and in both kernels.
func (r *roaming) where(p *peering) {
	r.Helper()
	place, peer := p.at, p.addr(p.at)
	_, children := r.agree(p)
	r.eventually(func() string {
		for _, x := range []struct {
			side          *interop.Control
			ns            *testnet.Namespace
			local, remote netip.Addr
		}{{r.mobile, r.Mobile, place.CareOf, peer}, {p.far, p.ns, peer, place.CareOf}} {
			ike, _, wrong := r.sas(x.side, p)
			if wrong != "" {
				return wrong
			}
			if ike.LocalHost != x.local.String() || ike.RemoteHost != x.remote.String() {
				return fmt.Sprintf("%s: IKE of %s is between %s and %s, expected %v and %v", place.Name, x.ns.Name, ike.LocalHost, ike.RemoteHost, x.local, x.remote)
			}
			list := strings.Join(kernelList(r.T, x.ns, "state"), "\n")
			for name, b := range p.children {
				home, far := place.CareOf, peer
				if b.Mode == spd.Transport {
					home, far = mip6.Home, b.Peer.Addr()
				}
				for _, want := range []string{fmt.Sprintf("src %v dst %v proto esp spi 0x%s ", home, far, children[name].SPIOut), fmt.Sprintf("src %v dst %v proto esp spi 0x%s ", far, home, children[name].SPIIn)} {
					if !strings.Contains(list, want) {
						return fmt.Sprintf("%s, %s: no state %sof %s in\n%s", place.Name, x.ns.Name, want, name, list)
					}
				}
			}
		}
		return ""
	})
}

// tell lets the mobility managers of all nodes tell of a move.
func (r *roaming) tell(how mip6.Teller, to *mip6.Place) error {
	for _, p := range r.peers {
		peer := p.addr(to)
		if !peer.IsValid() {
			continue
		}
		bonds, from := p.bonds(), p.at
		if err := errors.Join(
			how(r.Mobile, mip6.Events(bonds, true, from, to, p.addr(from), peer)...),
			how(p.ns, mip6.Events(bonds, false, from, to, p.addr(from), peer)...),
			p.binding.Set(to.CareOf),
		); err != nil {
			return err
		}
		p.at = to
	}
	return nil
}

// move takes the mobile node to a place. Under the K bit nobody says a word of IKE (RFC
// 6275, Section 6.1.7), and the SAs are what they were.
func (r *roaming) move(to *mip6.Place, how mip6.Teller, flows mip6.Flows) {
	r.Helper()
	was := r.held()
	wire, err := r.Wire()
	if err != nil {
		r.Fatal(err)
	}
	defer wire.Stop()
	if err := flows.During("to "+to.Name, func() error {
		return r.Move(to, func(_, to *mip6.Place) error { return r.tell(how, to) })
	}); err != nil {
		r.Fatal(err)
	}
	for _, p := range r.peers {
		r.where(p)
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
	for p, now := range r.held() {
		for name, c := range now.children {
			if b := was[p].children[name]; c.SPIIn != b.SPIIn || c.SPIOut != b.SPIOut || now.ike.InitiatorSPI != was[p].ike.InitiatorSPI {
				r.Errorf("to %s: other SAs of %s than before", to.Name, name)
			}
		}
	}
}

// held are the SAs of a peering at one time.
type held struct {
	ike      *interop.IKESA
	children map[string]*interop.ChildSA
}

func (r *roaming) held() map[*peering]held {
	r.Helper()
	all := map[*peering]held{}
	for _, p := range r.peers {
		ike, children := r.agree(p)
		all[p] = held{ike, children}
	}
	return all
}

// rekeyed lets the mobile node or its peers rekey all SAs, at which no packet is lost.
func (r *roaming) rekeyed(mobile bool) {
	r.Helper()
	was := r.held()
	rekey := func(p *peering, kind, name string) {
		by := p.far
		if mobile {
			by = r.mobile
		}
		if _, err := by.Call(r.ctx, "rekey", map[string]any{kind: name}); err != nil {
			r.Fatal(err)
		}
	}
	for _, p := range r.peers {
		for name := range p.children {
			rekey(p, "child", name)
		}
	}
	r.eventually(func() string {
		for p, h := range r.held() {
			for name, c := range h.children {
				if c.SPIIn == was[p].children[name].SPIIn {
					return "the CHILD_SA " + name + " was not rekeyed"
				}
			}
		}
		return ""
	})
	for _, p := range r.peers {
		rekey(p, "ike", p.conn)
	}
	r.eventually(func() string {
		for p, h := range r.held() {
			if h.ike.InitiatorSPI == was[p].ike.InitiatorSPI {
				return "the IKE SA " + p.conn + " was not rekeyed"
			}
		}
		return ""
	})
}

// foreignID is the request id of an SA that is not IKE's.
const foreignID = 4711

// amongOthers tells of a tunnel among five others in one event, that are not IKE's.
func (r *roaming) amongOthers(ns *testnet.Namespace, events ...migrate.Event) error {
	for i := range events {
		own := events[i].Entries[0]
		if own.Mode != spd.Tunnel {
			continue
		}
		if ns == r.Mobile {
			_, children := r.agree(r.peers[0])
			id, err := strconv.ParseUint(children["payload"].ReqID, 10, 32)
			if err != nil {
				return err
			}
			own.ReqID = uint32(id)
		}
		events[i].Entries = nil
		for j := range uint32(migrate.MaxEntries - 1) {
			other := own
			other.ReqID = foreignID + j
			events[i].Entries = append(events[i].Entries, other)
		}
		events[i].Entries = append(events[i].Entries, own)
	}
	return mip6.Netlink(ns, events...)
}

// A mobile node is at home, on a foreign link, on another one, in IPv4, at home again
// and abroad again, and its mobility manager and those of its home agent and of a
// correspondent tell of each move, by netlink or by PF_KEY. The tunnel to the home agent
// and the SAs in transport mode between the home address and both peers go on: nothing
// is lost but what was on its way in a move, no message of IKE is needed for it, a
// rekeying at the same time moves too, and rekeyings and Deletes work from each new
// address.
func TestMobileNode(t *testing.T) {
	uml.Require(t)
	r := newRoaming(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range r.peers {
		for name := range p.children {
			must(r.mobile.Initiate(r.ctx, name))
		}
	}
	home, agent, far, beyond := mip6.Station{NS: r.Mobile, Addr: mip6.Home}, mip6.Station{NS: r.Agent, Addr: mip6.Agent}, mip6.Station{NS: r.Peer, Addr: mip6.Correspondent}, mip6.Station{NS: r.Peer, Addr: mip6.Beyond}
	payload := r.flow("payload", home, beyond, mip6.UDP, 0, 0)
	binding := r.flow("binding", home, agent, mip6.MobilityHeader, mip6.BindingUpdate, mip6.BindingAcknowledgement)
	r.flow("direct", home, far, mip6.Experiment, 0, 0)
	must(r.flows.Running())
	for _, p := range r.peers {
		r.where(p)
	}
	r.move(mip6.First, mip6.Netlink, r.flows)
	r.rekeyed(true)
	r.move(mip6.Second, mip6.PFKey, r.flows)
	r.rekeyed(false)
	// Neither the home address option nor the routing header is there in IPv4.
	over := binding.Interrupt("in IPv4")
	r.move(mip6.Second4, mip6.Netlink, payload)
	r.rekeyed(false)
	r.move(mip6.AtHome, mip6.PFKey, r.flows)
	must(over())
	r.rekeyed(true)

	_, err := r.Mobile.Run(r.ctx, "ip", "xfrm", "state", "add", "src", mip6.Home.String(), "dst", mip6.Agent.String(), "proto", "esp", "spi", "0x4711",
		"reqid", strconv.Itoa(foreignID), "mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x"+strings.Repeat("47", 20), "128")
	must(err)
	r.move(mip6.First, r.amongOthers, r.flows)
	foreign := func() string {
		want := fmt.Sprintf("src %v dst %v proto esp spi 0x00004711 reqid %d", mip6.First.CareOf, mip6.Agent, foreignID)
		list := strings.Join(kernelList(t, r.Mobile, "state"), "\n")
		if strings.Contains(list, want) {
			return ""
		}
		return "the SA that is not IKE's: no " + want + " in\n" + list
	}
	r.eventually(foreign)

	must(r.flows.During("rekeyings by both sides in a move", func() error {
		for _, p := range r.peers {
			for name := range p.children {
				for _, side := range []*interop.Control{r.mobile, p.far} {
					if _, err := side.Call(r.ctx, "rekey", map[string]any{"child": name}); err != nil {
						return err
					}
				}
			}
		}
		// An SA that comes into being meanwhile may have to be moved when it is there.
		err := r.Move(mip6.Second, func(_, to *mip6.Place) error { return r.tell(mip6.Netlink, to) })
		for _, p := range r.peers {
			r.where(p)
		}
		return err
	}))
	r.rekeyed(true)

	if !strings.Contains(strings.Join(kernelList(t, r.Mobile, "state"), "\n"), "spi 0x00004711") {
		t.Error("the SA that is not IKE's is gone")
	}
	summary, err := r.flows.Stop()
	t.Log(summary)
	must(err)
	for i, d := range r.daemons {
		if log := d.Process.Log(); strings.Contains(log, "put right") || strings.Contains(log, "not in the kernel any more") {
			t.Errorf("daemon %d found something to put right after the moves", i)
		}
	}
	for _, p := range r.peers {
		if _, err := r.mobile.Call(r.ctx, "terminate", map[string]any{"ike": p.conn}); err != nil {
			t.Error(err)
		}
		for _, side := range []*interop.Control{r.mobile, p.far} {
			_, err := side.Until(r.ctx, "no SA after a Delete from abroad", func(sas []interop.IKESA) bool {
				return !slices.ContainsFunc(sas, func(x interop.IKESA) bool { return x.Name == p.conn })
			})
			must(err)
		}
	}
	for i, d := range r.daemons {
		must(d.Stop())
		for _, left := range kernelList(t, []*testnet.Namespace{r.Mobile, r.Agent, r.Peer}[i], "state") {
			if strings.Contains(left, "proto esp") && !strings.Contains(left, "0x00004711") {
				t.Errorf("daemon %d has left in the kernel: %s", i, left)
			}
		}
	}
}
