package mobile

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
	"iked/interop/mip6"
	"iked/interop/vm"
	"iked/migrate"
	"iked/spd"
)

// roaming is a mobile node with peers whose SAs are the kernel's.
type roaming struct {
	*interop.Roaming
	daemons []*interop.Iked
}

func newRoaming(t *testing.T) *roaming {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return &roaming{Roaming: &interop.Roaming{T: t, Scene: mip6.ForTest(t), Ctx: ctx, Missing: func(ns *testnet.Namespace, sas []string) string {
		list := strings.Join(vm.KernelList(t, ns, "state"), "\n")
		for _, sa := range sas {
			if !strings.Contains(list, sa) {
				return "no state " + sa + "in\n" + list
			}
		}
		return ""
	}}}
}

// with adds a peering, whose packets the kernel's Mobile IPv6 carries.
func (r *roaming) with(p *interop.Peering) *interop.Peering {
	p.Carrier = &mip6.Binding{Mobile: r.Mobile, PeerNS: p.NS, Peer: p.Addr(mip6.AtHome)}
	r.Peers = append(r.Peers, p)
	return p
}

// iked starts one.
func (r *roaming) iked(ns *testnet.Namespace, c interop.Config) *interop.Control {
	r.Helper()
	d := vm.StartIked(r.T, r.Scene.Net, ns, c.YAML(), "kernel")
	r.daemons = append(r.daemons, d)
	return &d.Control
}

// foreignID is the request id of an SA that is not IKE's.
const foreignID = 4711

// amongOthers tells of a tunnel, whose request id at the mobile node is given, among five
// others in one event, that are not IKE's.
func (r *roaming) amongOthers(id uint32) mip6.Teller {
	return func(ns *testnet.Namespace, events ...migrate.Event) error {
		for i := range events {
			own := events[i].Entries[0]
			if own.Mode != spd.Tunnel {
				continue
			}
			if ns == r.Mobile {
				own.ReqID = id
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
	r.with(interop.WithAgent(r.Scene))
	r.with(interop.WithCorrespondent(r.Scene))
	r.Node = r.iked(r.Mobile, r.NodeConfig())
	for _, p := range r.Peers {
		p.Far = r.iked(p.NS, p.Config(false))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range r.Peers {
		for name := range p.Children {
			must(r.Node.Initiate(r.Ctx, name))
		}
	}
	home, agent, far, beyond := mip6.Station{NS: r.Mobile, Addr: mip6.Home}, mip6.Station{NS: r.Agent, Addr: mip6.Agent}, mip6.Station{NS: r.Peer, Addr: mip6.Correspondent}, mip6.Station{NS: r.Router, Addr: mip6.Beyond}
	payload := r.Flow("payload", home, beyond, mip6.UDP, 0, 0)
	binding := r.Flow("binding", home, agent, mip6.MobilityHeader, mip6.BindingUpdate, mip6.BindingAcknowledgement)
	r.Flow("direct", home, far, mip6.Experiment, 0, 0)
	must(r.Flows.Running())
	for _, p := range r.Peers {
		r.Where(p)
	}
	r.GoTo(mip6.First, mip6.Netlink, r.Flows)
	r.Rekeyed(true)
	r.GoTo(mip6.Second, mip6.PFKey, r.Flows)
	r.Rekeyed(false)
	// Neither the home address option nor the routing header is there in IPv4.
	over := binding.Interrupt("in IPv4")
	r.GoTo(mip6.Second4, mip6.Netlink, payload)
	r.Rekeyed(false)
	r.GoTo(mip6.AtHome, mip6.PFKey, r.Flows)
	must(over())
	r.Rekeyed(true)

	_, err := r.Mobile.Run(r.Ctx, "ip", "xfrm", "state", "add", "src", mip6.Home.String(), "dst", mip6.Agent.String(), "proto", "esp", "spi", "0x4711",
		"reqid", strconv.Itoa(foreignID), "mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x"+strings.Repeat("47", 20), "128")
	must(err)
	_, children := r.Agree(r.Peers[0])
	id, err := strconv.ParseUint(children["payload"].ReqID, 10, 32)
	must(err)
	r.GoTo(mip6.First, r.amongOthers(uint32(id)), r.Flows)
	foreign := func() string {
		want := fmt.Sprintf("src %v dst %v proto esp spi 0x00004711 reqid %d", mip6.First.CareOf, mip6.Agent, foreignID)
		list := strings.Join(vm.KernelList(t, r.Mobile, "state"), "\n")
		if strings.Contains(list, want) {
			return ""
		}
		return "the SA that is not IKE's: no " + want + " in\n" + list
	}
	r.Eventually(foreign)

	must(r.Flows.During("rekeyings by both sides in a move", func() error {
		for _, p := range r.Peers {
			for name := range p.Children {
				for _, side := range []*interop.Control{r.Node, p.Far} {
					if _, err := side.Call(r.Ctx, "rekey", map[string]any{"child": name}); err != nil {
						return err
					}
				}
			}
		}
		// An SA that comes into being meanwhile may have to be moved when it is there.
		err := r.Move(mip6.Second, func(_, to *mip6.Place) error { return r.Tell(mip6.Netlink, to) })
		for _, p := range r.Peers {
			r.Where(p)
		}
		return err
	}))
	r.Rekeyed(true)

	if !strings.Contains(strings.Join(vm.KernelList(t, r.Mobile, "state"), "\n"), "spi 0x00004711") {
		t.Error("the SA that is not IKE's is gone")
	}
	summary, err := r.Flows.Stop()
	t.Log(summary)
	if err != nil {
		t.Error(err)
	}
	for i, d := range r.daemons {
		if log := d.Process.Log(); strings.Contains(log, "put right") || strings.Contains(log, "not in the kernel any more") {
			t.Errorf("daemon %d found something to put right after the moves", i)
		}
	}
	for _, p := range r.Peers {
		if _, err := r.Node.Call(r.Ctx, "terminate", map[string]any{"ike": p.Conn}); err != nil {
			t.Error(err)
		}
		for _, side := range []*interop.Control{r.Node, p.Far} {
			_, err := side.Until(r.Ctx, "no SA after a Delete from abroad", func(sas []interop.IKESA) bool {
				return !slices.ContainsFunc(sas, func(x interop.IKESA) bool { return x.Name == p.Conn })
			})
			must(err)
		}
	}
	for i, d := range r.daemons {
		must(d.Stop())
		for _, left := range vm.KernelList(t, []*testnet.Namespace{r.Mobile, r.Agent, r.Peer}[i], "state") {
			if strings.Contains(left, "proto esp") && !strings.Contains(left, "0x00004711") {
				t.Errorf("daemon %d has left in the kernel: %s", i, left)
			}
		}
	}
}
