package interop

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/interop/mip6"
	"iked/migrate"
	"iked/spd"
)

// ikectlTells tells of moves by the control protocol, at the daemon of each namespace.
func ikectlTells(r *Roaming, daemons map[*testnet.Namespace]*Iked) mip6.Teller {
	return func(ns *testnet.Namespace, events ...migrate.Event) error {
		for _, e := range events {
			if e.Dir == migrate.Fwd {
				continue // policies alone
			}
			x := e.Entries[0]
			words := map[string]any{"dir": e.Dir.String(), "mode": "tunnel", "old_src": x.Old.Src.String(), "old_dst": x.Old.Dst.String(), "new_src": x.New.Src.String(), "new_dst": x.New.Dst.String(),
				"ike_local": e.KM.Local.String(), "ike_remote": e.KM.Remote.String(), "src_ts": e.Selector.Src.String(), "dst_ts": e.Selector.Dst.String()}
			if x.Mode == spd.Transport {
				words["mode"] = "transport"
			}
			// What is at its new place already by the event before is said to be.
			if _, err := daemons[ns].Call(r.Ctx, "migrate", words); err != nil && !(x.Mode == spd.Transport || e.Dir != firstDir(ns == r.Mobile)) {
				return fmt.Errorf("%s: %w", ns.Name, err)
			}
		}
		return nil
	}
}

// firstDir is the direction that a manager tells of first: both SAs of a tunnel move then.
func firstDir(mobile bool) migrate.Dir {
	if mobile {
		return migrate.Out
	}
	return migrate.In
}

// The mobile node of RFC 4877 with a home agent and, while it is abroad, a correspondent,
// all in userspace: mobility managers tell by the control protocol that it is on a foreign
// link, on another one, in IPv4 and at home. The tunnel for all its traffic and the SAs in
// transport mode go on, nothing is lost but what was on its way in a move or sent a moment after it, nobody says a
// word of IKE for it, a rekeying at the same time moves too, and rekeyings and Deletes
// work from each new address. The kernel here has no Mobile IPv6, so that the routers know
// the way to the home address.
func TestMobileNodeInUserspace(t *testing.T) {
	t.Parallel()
	testnet.RequireTUN(t)
	bin := binaries(t)
	r := &Roaming{T: t, Scene: mip6.ForTest(t), Ctx: within(t, 4*time.Minute), Lag: time.Second}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	agent, far := WithAgent(r.Scene), WithCorrespondent(r.Scene)
	all := agent.Children["payload"]
	all.Peer = netip.MustParsePrefix("::/0")
	agent.Children = map[string]mip6.Bond{"binding": agent.Children["binding"], "payload": all}
	agent.Carrier, far.Carrier = mip6.Routes{Scene: r.Scene}, mip6.Routes{Scene: r.Scene}
	r.Peers = []*Peering{agent, far}
	daemons := map[*testnet.Namespace]*Iked{}
	begin := func(ns *testnet.Namespace, c Config) *Control {
		d, err := NewIked(bin, r.Path(ns.Name))
		must(err)
		must(d.Configure(c.YAML()))
		must(d.Start(r.Ctx, ns))
		showLog(t, d.Process)
		daemons[ns] = d
		return &d.Control
	}
	r.Node = begin(r.Mobile, r.NodeConfig())
	for _, p := range r.Peers {
		p.Far = begin(p.NS, p.Config(false))
	}
	up := func(p *Peering) {
		t.Helper()
		for name := range p.Children {
			must(r.Node.Initiate(r.Ctx, name))
		}
		r.Where(p)
	}
	down := func(p *Peering) {
		t.Helper()
		if _, err := r.Node.Call(r.Ctx, "terminate", map[string]any{"ike": p.Conn}); err != nil {
			t.Error(err)
		}
		for _, side := range []*Control{r.Node, p.Far} {
			_, err := side.Until(r.Ctx, "no SA after a Delete from abroad", func(sas []IKESA) bool {
				return !slices.ContainsFunc(sas, func(x IKESA) bool { return x.Name == p.Conn })
			})
			must(err)
		}
	}
	stop := func(flows mip6.Flows) {
		t.Helper()
		summary, err := flows.Stop()
		t.Log(summary)
		must(err)
	}
	home := mip6.Station{NS: r.Mobile, Addr: mip6.Home}
	tell := ikectlTells(r, daemons)

	r.Peers = []*Peering{agent}
	up(agent)
	r.Flow("payload", home, mip6.Station{NS: r.Router, Addr: mip6.Beyond}, mip6.UDP, 0, 0)
	r.Flow("binding", home, mip6.Station{NS: r.Agent, Addr: mip6.Agent}, mip6.MobilityHeader, mip6.BindingUpdate, mip6.BindingAcknowledgement)
	must(r.Flows.Running())
	r.GoTo(mip6.First, tell, r.Flows)
	r.Rekeyed(true)

	r.Peers, far.At = []*Peering{agent, far}, mip6.First
	up(far)
	direct := r.Flow("direct", home, mip6.Station{NS: r.Peer, Addr: mip6.Correspondent}, mip6.Experiment, 0, 0)
	must(direct.Running())
	r.GoTo(mip6.Second, tell, r.Flows)
	r.GoTo(mip6.Second4, tell, r.Flows)
	r.Rekeyed(false)
	must(r.Flows.During("rekeyings by both sides in a move", func() error {
		for _, p := range r.Peers {
			for name := range p.Children {
				for _, side := range []*Control{r.Node, p.Far} {
					if _, err := side.Call(r.Ctx, "rekey", map[string]any{"child": name}); err != nil {
						return err
					}
				}
			}
		}
		err := r.Move(mip6.First, func(_, to *mip6.Place) error { return r.Tell(tell, to) })
		for _, p := range r.Peers {
			r.Where(p)
		}
		return err
	}))
	stop(direct)
	down(far)

	r.Peers, r.Flows = []*Peering{agent}, r.Flows[:2]
	r.GoTo(mip6.AtHome, tell, r.Flows)
	r.Rekeyed(false)
	r.GoTo(mip6.Second, tell, r.Flows)
	stop(r.Flows)
	down(agent)
}
