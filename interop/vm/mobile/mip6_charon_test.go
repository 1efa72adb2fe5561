package mobile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
	"iked/interop/mip6"
	"iked/migrate"
	"iked/spd"
)

// forCharon is a configuration in the words of strongSwan, whose transport mode between a
// home address and its peer is another mode.
func forCharon(s interop.Section) (out interop.Section) {
	for _, e := range s {
		switch v := e.Value.(type) {
		case interop.Section:
			out.Set(e.Key, forCharon(v))
		default:
			switch e.Key {
			case "mobility_role", "home_addresses":
			case "mode":
				out.Set(e.Key, "transport_proxy")
			default:
				out.Set(e.Key, v)
			}
		}
	}
	return out
}

// charonTells tells of a move, to strongSwan with the request id by which it finds the
// CHILD_SA, and of the tunnel alone: an SA of transport_proxy that it is told of it takes to
// the care-of address, selectors and all. It moves the policies of all directions itself as
// soon as it hears of the first, and may be faster than the manager.
func (r *roaming) charonTells(ns *testnet.Namespace, charon *interop.Control) mip6.Teller {
	return func(at *testnet.Namespace, events ...migrate.Event) error {
		if at != ns {
			return mip6.Netlink(at, events...)
		}
		sas, err := charon.SAs(r.Ctx)
		if err != nil || len(sas) != 1 {
			return fmt.Errorf("strongSwan has %s: %v", interop.Describe(sas), err)
		}
		for _, e := range events {
			if e.Entries[0].Mode == spd.Transport {
				continue
			}
			c := sas[0].Child("payload", "INSTALLED")
			if c == nil {
				return fmt.Errorf("strongSwan has no tunnel: %s", interop.Describe(sas))
			}
			id, err := strconv.ParseUint(c.ReqID, 10, 32)
			if err != nil {
				return err
			}
			e.Entries = slices.Clone(e.Entries)
			e.Entries[0].ReqID = uint32(id)
			if err := mip6.Netlink(at, e); err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		return nil
	}
}

// A mobile node and its home agent, of which one is strongSwan with its mode
// transport_proxy: the IKE SA follows KMADDRESS on both sides, to another foreign link and back, the
// tunnel is at the care-of address and the SA in transport mode between the home address
// and the home agent, traffic goes on in both, and rekeyings and Deletes work from the
// new addresses. strongSwan may make a CHILD_SA anew after a move. It begins abroad: of
// selectors that are the address of IKE strongSwan thinks that they move too.
func TestMobileNodeWithStrongSwan(t *testing.T) {
	uml.Require(t)
	testnet.RequireCommand(t, interop.CharonPath, interop.CharonPackages)
	for _, as := range []string{"home agent", "mobile node"} {
		t.Run("strongSwan is the "+as, func(t *testing.T) {
			r := newRoaming(t)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			p := interop.WithAgent(r.Scene)
			data := p.Children["binding"]
			data.Proto, data.HomeType, data.PeerType = mip6.Experiment, 0, 0
			p.Children = map[string]mip6.Bond{"payload": p.Children["payload"], "data": data}
			r.with(p)
			charonNS := r.Agent
			if as == "mobile node" {
				charonNS = r.Mobile
			}
			// Else it authenticates anew when it sees an address of its own come before the manager
			// speaks.
			charon, err := interop.StartCharon(r.Ctx, charonNS, r.Path("charon"), interop.CharonOptions{Kernel: true, Settings: "plugins {\n kernel-netlink {\n roam_events = no\n }\n}\n"})
			must(err)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("log of charon:\n%s", charon.Process.Log())
				}
			})
			must(r.Move(mip6.First, func(_, to *mip6.Place) error { return p.Carrier.Set(to.CareOf) }))
			p.At = mip6.First
			c := p.Config(as == "mobile node")
			c.Connections = forCharon(c.Connections)
			if as == "mobile node" {
				conn := c.Connections[0].Value.(interop.Section)
				conn.Set("local_addrs", []string{mip6.First.CareOf.String()})
				c.Connections[0].Value = conn
			}
			must(charon.LoadFile(r.Ctx, c.Swanctl()))
			if as == "mobile node" {
				r.Node, p.Far = &charon.Control, r.iked(r.Agent, p.Config(false))
			} else {
				r.Node, p.Far = r.iked(r.Mobile, p.Config(true)), &charon.Control
			}
			for name := range p.Children {
				must(r.Node.Initiate(r.Ctx, name))
			}
			home := mip6.Station{NS: r.Mobile, Addr: mip6.Home}
			r.Flow("payload", home, mip6.Station{NS: r.Router, Addr: mip6.Beyond}, mip6.UDP, 0, 0)
			r.Flow("data", home, mip6.Station{NS: r.Agent, Addr: mip6.Agent}, mip6.Experiment, 0, 0)
			must(r.Flows.Running())
			first, _ := r.Agree(p)
			for _, to := range []*mip6.Place{mip6.Second, mip6.First} {
				must(r.Flows.During("to "+to.Name, func() error {
					err := r.Move(to, func(_, to *mip6.Place) error { return r.Tell(r.charonTells(charonNS, &charon.Control), to) })
					if err == nil {
						r.Where(p)
					}
					return err
				}))
				if ike, _ := r.Agree(p); ike.InitiatorSPI != first.InitiatorSPI {
					t.Errorf("to %s: another IKE SA than before", to.Name)
				}
				if to != mip6.Second {
					continue
				}
				for _, by := range []*interop.Control{r.Node, p.Far} {
					for name := range p.Children {
						if as == "mobile node" && by == r.Node && name == "data" {
							continue // after a move it looks for its SA at the care-of address
						}
						_, was := r.Agree(p)
						_, err := by.Call(r.Ctx, "rekey", map[string]any{"child": name})
						must(err)
						r.Eventually(func() string {
							if _, now := r.Agree(p); now[name].SPIIn == was[name].SPIIn {
								return "the CHILD_SA " + name + " was not rekeyed"
							}
							return ""
						})
					}
				}
				first, _ = r.Agree(p)
			}
			summary, err := r.Flows.Stop()
			t.Log(summary)
			must(err)
			if _, err := r.Node.Call(r.Ctx, "terminate", map[string]any{"ike": p.Conn}); err != nil {
				t.Error(err)
			}
			for _, side := range []*interop.Control{r.Node, p.Far} {
				_, err := side.Until(r.Ctx, "no SA after a Delete", func(sas []interop.IKESA) bool { return len(sas) == 0 })
				must(err)
			}
		})
	}
}
