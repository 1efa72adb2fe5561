package mobile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
	"iked/interop/mip6"
	"iked/interop/vm"
	"iked/spd"
)

// registration is what protects Binding Updates and Acknowledgements (RFC 4877, Section
// 4.2), ownTunnel the traffic of the mobile node, with a request id for each direction.
var (
	registration = mip6.Bond{Mode: spd.Transport, Home: netip.PrefixFrom(mip6.Home, 128), Peer: netip.PrefixFrom(mip6.Agent, 128), Proto: mip6.MobilityHeader,
		HomeType: mip6.BindingUpdate, PeerType: mip6.BindingAcknowledgement, ReqID: 3}
	ownTunnel = mip6.Bond{Mode: spd.Tunnel, Home: netip.PrefixFrom(mip6.Home, 128), Peer: netip.MustParsePrefix("::/0"), ReqID: 5, ReqIDBack: 6, Forward: true}
)

// besideYAML is the configuration beside a mobility manager, of the mobile node or of its
// home agent.
func besideYAML(mobile bool) string {
	local, remote, peer, role, homes := "mn.example", "ha.example", mip6.Agent.String(), "mobile", ""
	home, agent := mip6.Home.String(), mip6.Agent.String()
	bu := fmt.Sprintf("local_ts: ['%s[135/5]'], remote_ts: ['%s[135/6]']", home, agent)
	all := fmt.Sprintf("local_ts: ['%s'], remote_ts: ['::/0'], reqid: 5, reqid_in: 6", home)
	start := "on-demand"
	if !mobile {
		local, remote, peer, role, homes = remote, local, "%any", "agent", ", home_addresses: ['"+home+"']"
		bu = fmt.Sprintf("local_ts: ['%s[135/6]'], remote_ts: ['%s[135/5]']", agent, home)
		all = fmt.Sprintf("local_ts: ['::/0'], remote_ts: ['%s'], reqid: 6, reqid_in: 5", home)
		start = "passive"
	}
	return fmt.Sprintf(`
connections:
  - name: home
    remote_addrs: ['%s']
    mobike: no
    mobility: kbit
    mobility_role: %s
    proposals: [aes128-sha256-x25519]
    local: {id: %s, auth: psk}
    remote: {id: %s, auth: psk%s}
    children:
      - {name: bu, mode: transport, %s, reqid: 3, esp_proposals: [aes128gcm16], policies: no, start: %[7]s}
      - {name: payload, %[8]s, esp_proposals: [aes128gcm16], policies: no, start: %[7]s}
secrets: [{psk: "a throw-away secret"}]
`, peer, role, local, remote, homes, bu, start, all)
}

// A mobility manager has the policies of both nodes, and the daemons have SAs alone. The
// mobile node is abroad before there is an SA: its first Binding Update asks for one, IKE
// runs from the care-of address that KMADDRESS told, and the kernel's question is answered
// by SAs between the home address and the home agent; traffic asks for the tunnel. The
// policies are those of the manager after moves, rekeyings and reloads, at the end of the
// daemon, and after it was killed and began anew.
func TestBesideAMobilityManager(t *testing.T) {
	uml.Require(t)
	r := newRoaming(t)
	ctx := r.Ctx
	peer := interop.WithAgent(r.Scene)
	peer.Children = map[string]mip6.Bond{"bu": registration, "payload": ownTunnel}
	r.with(peer)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(mip6.PutPolicies(r.Mobile, peer.Bonds(), true))
	must(mip6.PutPolicies(r.Agent, peer.Bonds(), false))
	begin := func(ns *testnet.Namespace, mobile bool) *interop.Iked {
		t.Helper()
		d, err := interop.NewIked(vm.Binaries(), r.Path(ns.Name))
		must(err)
		must(d.Configure(besideYAML(mobile)))
		must(d.Start(ctx, ns, "--backend", "kernel"))
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("log of iked in %s:\n%s", ns.Name, d.Process.Log())
			}
		})
		return d
	}
	mobile, agent := begin(r.Mobile, true), begin(r.Agent, false)
	r.Node, peer.Far = &mobile.Control, &agent.Control

	// Abroad before there is anything: the mobile node's manager tells, and its Binding
	// Update comes after.
	must(r.Move(mip6.First, func(from, to *mip6.Place) error {
		return errors.Join(mip6.Netlink(r.Mobile, mip6.Events(peer.Bonds(), true, from, to, from.Agent, to.Agent)...), peer.Carrier.Set(to.CareOf))
	}))
	r.Eventually(func() string {
		out, err := mobile.Ikectl(ctx, "connections")
		if err != nil {
			return err.Error()
		}
		if !strings.Contains(out, fmt.Sprintf("begins at: %v, %v, as a mobility manager told", mip6.First.CareOf, mip6.Agent)) {
			return "nobody shows where IKE begins:\n" + out
		}
		return ""
	})
	policies := r.policies(r.Mobile)
	home, node := mip6.Station{NS: r.Mobile, Addr: mip6.Home}, mip6.Station{NS: r.Agent, Addr: mip6.Agent}
	r.Flow("registration", home, node, mip6.MobilityHeader, mip6.BindingUpdate, mip6.BindingAcknowledgement)
	must(r.Flows.Running())
	peer.At = mip6.First
	ike, _, err := r.Node.UntilInstalled(ctx, "bu")
	must(err)
	if ike.LocalHost != mip6.First.CareOf.String() || ike.RemoteHost != mip6.Agent.String() {
		t.Errorf("IKE is between %s and %s", ike.LocalHost, ike.RemoteHost)
	}
	if !strings.Contains(mobile.Process.Log(), "as a mobility manager told (KMADDRESS, or its policy)") {
		t.Error("the log does not say where the address comes from")
	}
	// The home agent's manager has got the Binding Update.
	must(mip6.Netlink(r.Agent, mip6.Events(peer.Bonds(), false, mip6.AtHome, mip6.First, mip6.Agent, mip6.Agent)...))
	atAgent := r.policies(r.Agent)
	r.Flow("payload", home, mip6.Station{NS: r.Peer, Addr: mip6.Correspondent}, mip6.UDP, 0, 0)
	must(r.Flows.Running())
	untouched := func(when string) {
		t.Helper()
		for _, x := range []struct {
			ns   *testnet.Namespace
			want []string
		}{{r.Mobile, policies}, {r.Agent, atAgent}} {
			if got := r.policies(x.ns); !slices.Equal(got, x.want) {
				t.Fatalf("%s: the policies of %s are\n%s\nthey were\n%s", when, x.ns.Name, strings.Join(got, "\n"), strings.Join(x.want, "\n"))
			}
		}
	}
	r.serve(mip6.First)
	untouched("with SAs")

	for _, by := range []*interop.Control{r.Node, peer.Far} {
		for child := range peer.Children {
			_, before := r.Agree(peer)
			_, err := by.Call(ctx, "rekey", map[string]any{"child": child})
			must(err)
			r.Eventually(func() string {
				if _, now := r.Agree(peer); now[child].SPIIn == before[child].SPIIn {
					return child + " was not rekeyed"
				}
				return ""
			})
		}
	}
	must(mobile.Configure("fail: open\n" + besideYAML(true)))
	if out, err := mobile.Ikectl(ctx, "reload"); err != nil {
		t.Fatal(err, out)
	}
	untouched("after rekeyings and a reload")

	// On to another link: SAs and policies move with the manager, without a word of IKE.
	wire, err := r.Wire()
	must(err)
	must(r.Flows.During("to "+mip6.Second.Name, func() error {
		return r.Move(mip6.Second, func(_, to *mip6.Place) error { return r.Tell(mip6.Netlink, to) })
	}))
	r.serve(mip6.Second)
	time.Sleep(4 * time.Second) // until the tables are compared
	wire.Stop()
	if n := wire.IKE(); n != 0 {
		t.Errorf("%d messages of IKE for a move", n)
	}
	policies, atAgent = r.policies(r.Mobile), r.policies(r.Agent)
	for _, x := range []struct {
		list []string
		name string
	}{{policies, "mobile node"}, {atAgent, "home agent"}} {
		if s := strings.Join(x.list, "\n"); !strings.Contains(s, "tmpl src "+mip6.Second.CareOf.String()) || strings.Contains(s, mip6.First.CareOf.String()) {
			t.Errorf("%s: the manager's policies have not moved with it, or were put back:\n%s", x.name, s)
		}
	}

	// The end of the daemon in order, and another one.
	must(r.Flows.During("a daemon that ends and begins", func() error {
		if err := mobile.Stop(); err != nil {
			return err
		}
		untouched("after the end of the daemon")
		if left := r.states(r.Mobile); len(left) != 0 {
			return fmt.Errorf("SAs are left: %v", left)
		}
		if err := mobile.Start(ctx, r.Mobile, "--backend", "kernel"); err != nil {
			return err
		}
		r.serve(mip6.Second)
		return nil
	}))
	untouched("after a restart")

	// A crash, and another one.
	must(r.Flows.During("a daemon that is killed and begins", func() error {
		if err := mobile.Process.Signal(syscall.SIGKILL); err != nil {
			return err
		}
		<-mobile.Process.Done()
		dead := r.states(r.Mobile)
		if err := mobile.Start(ctx, r.Mobile, "--backend", "kernel"); err != nil {
			return err
		}
		r.Eventually(func() string {
			for _, s := range r.states(r.Mobile) {
				if slices.Contains(dead, s) {
					return "an SA of the daemon that was killed is still there: " + s
				}
			}
			return ""
		})
		untouched("after the leftovers were removed")
		r.serve(mip6.Second)
		return nil
	}))
	untouched("after a crash")
	summary, err := r.Flows.Stop()
	t.Log(summary)
	must(err)
	must(mobile.Stop())
	must(agent.Stop())
	untouched("at the end")
}

// policies are those of the kernel, but for those of sockets.
func (r *roaming) policies(ns *testnet.Namespace) []string {
	r.Helper()
	out, err := ns.Run(r.Context(), "ip", "xfrm", "policy", "list", "nosock")
	if err != nil {
		r.Fatal(err, out)
	}
	var list []string
	for _, e := range strings.Split("\n"+out, "\nsrc ")[1:] {
		list = append(list, "src "+strings.Join(strings.Fields(e), " "))
	}
	slices.Sort(list)
	return list
}

// states are the kernel's SAs of ESP that are no questions, by what tells them apart.
func (r *roaming) states(ns *testnet.Namespace) (list []string) {
	r.Helper()
	for _, s := range vm.KernelList(r.T, ns, "state") {
		if strings.Contains(s, "proto esp") && !strings.Contains(s, "spi 0x00000000") {
			s, _, _ = strings.Cut(s, " mode ")
			list = append(list, s)
		}
	}
	return list
}

// serve waits until both kernels have the SAs that the policies of the managers ask for,
// when the mobile node is at a place, and no question of the mobile node's is open.
func (r *roaming) serve(at *mip6.Place) {
	r.Helper()
	for _, x := range []struct {
		from, to netip.Addr
		reqid    uint32
	}{{mip6.Home, mip6.Agent, 3}, {mip6.Agent, mip6.Home, 3}, {at.CareOf, at.Agent, 5}, {at.Agent, at.CareOf, 6}} {
		for _, ns := range []*testnet.Namespace{r.Mobile, r.Agent} {
			r.Eventually(func() string {
				for _, s := range r.states(ns) {
					if strings.HasPrefix(s, fmt.Sprintf("src %v dst %v proto esp spi 0x", x.from, x.to)) && strings.HasSuffix(s, fmt.Sprintf(" reqid %d", x.reqid)) {
						return ""
					}
				}
				return fmt.Sprintf("%s: no SA from %v to %v with request id %d, but\n%s", ns.Name, x.from, x.to, x.reqid, strings.Join(vm.KernelList(r.T, ns, "state"), "\n"))
			})
		}
	}
	r.Eventually(func() string {
		for _, s := range vm.KernelList(r.T, r.Mobile, "state") {
			if strings.Contains(s, "spi 0x00000000") && strings.Contains(s, "proto esp") {
				return "a question of the kernel is open: " + s
			}
		}
		return ""
	})
}
