package vm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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

// roaming is a mobile node with its home agent, each with a daemon that uses the
// kernel's SAs, and the traffic between them.
type roaming struct {
	*testing.T
	*mip6.Scene
	ctx           context.Context
	mobile, agent *interop.Control
	bonds         []mip6.Bond
	binding       *mip6.Binding
	flows         mip6.Flows
	daemons       []*interop.Iked
}

// payload is everything that the mobile node sends and gets, in a tunnel to its home
// agent (RFC 6275, Section 5.5).
var payload = mip6.Bond{Mode: spd.Tunnel, Home: netip.PrefixFrom(mip6.Home, 128), Peer: netip.MustParsePrefix("::/0"), Forward: true}

// newRoaming starts two ikeds.
func newRoaming(t *testing.T) *roaming {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	t.Cleanup(cancel)
	r := &roaming{T: t, Scene: mip6.ForTest(t), ctx: ctx, bonds: []mip6.Bond{payload}}
	r.binding = &mip6.Binding{Mobile: r.Mobile, PeerNS: r.Agent, Peer: mip6.Agent}
	r.mobile = &r.iked(r.Mobile, r.config(true)).Control
	r.agent = &r.iked(r.Agent, r.config(false)).Control
	return r
}

func (r *roaming) iked(ns *testnet.Namespace, c interop.Config) *interop.Iked {
	r.Helper()
	d, err := interop.NewIked(binaries(), r.Path(ns.Name))
	if err == nil {
		err = d.Configure(c.YAML())
	}
	if err == nil {
		err = d.Start(r.ctx, ns, "--backend", "kernel")
	}
	if err != nil {
		r.Fatal(err)
	}
	r.daemons = append(r.daemons, d)
	r.Cleanup(func() {
		if r.Failed() {
			r.Logf("log of iked in %s:\n%s", ns.Name, d.Process.Log())
		}
	})
	return d
}

// config is that of the mobile node or of its home agent.
func (r *roaming) config(mobile bool) interop.Config {
	ids := [2]string{"mobile.example", "agent.example"}
	local, remote, peer := mip6.Home.String()+"/128", "::/0", mip6.Agent.String()
	if !mobile {
		local, remote, peer, ids[0], ids[1] = remote, local, "%any", ids[1], ids[0]
	}
	conn := interop.Section{{Key: "version", Value: "2"}, {Key: "mobike", Value: "no"}, {Key: "proposals", Value: []string{"aes128-sha256-x25519"}}}
	conn.Set("remote_addrs", []string{peer})
	conn.Set("local", interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[0]}})
	conn.Set("remote", interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[1]}})
	conn.Set("children", interop.Section{{Key: "payload", Value: interop.Section{
		{Key: "local_ts", Value: []string{local}}, {Key: "remote_ts", Value: []string{remote}}, {Key: "esp_proposals", Value: []string{"aes128gcm16"}}}}})
	return interop.Config{Connections: interop.Section{{Key: "home", Value: conn}}, Secrets: []interop.Secret{{PSK: "a throw-away secret", IDs: ids[:]}}}
}

// flow lets numbered packets pass both ways.
func (r *roaming) flow(name string, a, b mip6.Station, proto, mhA, mhB uint8) {
	r.Helper()
	for i, ends := range [][2]mip6.Station{{a, b}, {b, a}} {
		f, err := mip6.StartFlow(fmt.Sprintf("%s of %s", name, ends[0].NS.Name), ends[0], ends[1], proto, []uint8{mhA, mhB}[i], 4*time.Millisecond)
		if err != nil {
			r.Fatal(err)
		}
		r.flows = append(r.flows, f)
	}
}

// agree is the CHILD_SA of a name at the mobile node when both sides list the same one.
func (r *roaming) agree(child string) (*interop.IKESA, *interop.ChildSA) {
	r.Helper()
	for {
		ike, a, errA := r.mobile.UntilInstalled(r.ctx, child)
		far, b, errB := r.agent.UntilInstalled(r.ctx, child)
		if errA != nil || errB != nil {
			r.Fatalf("mobile node: %v, home agent: %v", errA, errB)
		}
		if a.SPIIn == b.SPIOut && a.SPIOut == b.SPIIn && ike.InitiatorSPI == far.InitiatorSPI {
			return ike, a
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// single tells what keeps both sides from having one CHILD_SA, the same.
func (r *roaming) single() string {
	_, c := r.agree("payload")
	for _, side := range []*interop.Control{r.mobile, r.agent} {
		sas, err := side.SAs(r.ctx)
		if err != nil || len(sas) != 1 || len(sas[0].Children) != 1 {
			return fmt.Sprintf("%s, %v", interop.Describe(sas), err)
		}
		if x := sas[0].Children[0]; x.SPIIn != c.SPIIn && x.SPIIn != c.SPIOut {
			return interop.Describe(sas)
		}
	}
	return ""
}

// at wants the IKE SA and the SAs of the tunnel to be between a place and the home
// agent, at both sides and in both kernels.
func (r *roaming) at(p *mip6.Place) {
	r.Helper()
	is := func(local, remote netip.Addr) func([]interop.IKESA) bool {
		return func(sas []interop.IKESA) bool {
			return len(sas) == 1 && sas[0].LocalHost == local.String() && sas[0].RemoteHost == remote.String()
		}
	}
	if _, err := r.mobile.Until(r.ctx, "IKE of the mobile node is at "+p.Name, is(p.CareOf, p.Agent)); err != nil {
		r.Fatal(err)
	}
	if _, err := r.agent.Until(r.ctx, "IKE of the home agent has the mobile node at "+p.Name, is(p.Agent, p.CareOf)); err != nil {
		r.Fatal(err)
	}
	_, c := r.agree("payload")
	for _, ns := range []*testnet.Namespace{r.Mobile, r.Agent} {
		want := []string{fmt.Sprintf("src %v dst %v proto esp spi 0x%s ", p.CareOf, p.Agent, c.SPIOut), fmt.Sprintf("src %v dst %v proto esp spi 0x%s ", p.Agent, p.CareOf, c.SPIIn)}
		r.eventually(func() string {
			list := strings.Join(kernelList(r.T, ns, "state"), "\n")
			for _, w := range want {
				if !strings.Contains(list, w) {
					return fmt.Sprintf("%s, %s: no state %s in\n%s", p.Name, ns.Name, w, list)
				}
			}
			return ""
		})
	}
}

// eventually waits until nothing is wrong any more.
func (r *roaming) eventually(wrong func() string) {
	r.Helper()
	for {
		w := wrong()
		if w == "" {
			return
		}
		select {
		case <-r.ctx.Done():
			r.Fatal(w)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tell lets both mobility managers tell of a move.
func (r *roaming) tell(how mip6.Teller, from, to *mip6.Place) error {
	return errors.Join(
		how(r.Mobile, mip6.Events(r.bonds, true, from, to, from.Agent, to.Agent)...),
		how(r.Agent, mip6.Events(r.bonds, false, from, to, from.Agent, to.Agent)...),
		r.binding.Set(to.CareOf),
	)
}

// move takes the mobile node to a place. Under the K bit nobody says a word of IKE (RFC
// 6275, Section 6.1.7), and the SAs are what they were.
func (r *roaming) move(to *mip6.Place, tell func(from, to *mip6.Place) error) {
	r.Helper()
	ike, before := r.agree("payload")
	wire, err := r.Wire()
	if err != nil {
		r.Fatal(err)
	}
	defer wire.Stop()
	if err := r.flows.During("to "+to.Name, func() error { return r.Move(to, tell) }); err != nil {
		r.Fatal(err)
	}
	r.at(to)
	// What the daemons do once all events are there is over by then.
	time.Sleep(time.Second)
	wire.Stop()
	if n := wire.IKE(); n != 0 {
		r.Errorf("to %s: %d messages of IKE", to.Name, n)
	}
	if clear := wire.Clear(); len(clear) != 0 {
		r.Errorf("to %s: %d packets in clear, the first of them %v", to.Name, len(clear), clear[0])
	}
	after, now := r.agree("payload")
	if now.SPIIn != before.SPIIn || now.SPIOut != before.SPIOut || after.InitiatorSPI != ike.InitiatorSPI {
		r.Errorf("to %s: other SAs than before", to.Name)
	}
}

// rekeyed lets one side rekey the CHILD_SAs and the IKE SA, of which no packet is lost.
func (r *roaming) rekeyed(by *interop.Control) {
	r.Helper()
	ike, child := r.agree("payload")
	if _, err := by.Call(r.ctx, "rekey", map[string]any{"child": "payload"}); err != nil {
		r.Fatal(err)
	}
	r.eventually(func() string {
		if _, c := r.agree("payload"); c.SPIIn == child.SPIIn {
			return "the CHILD_SA was not rekeyed"
		}
		return ""
	})
	if _, err := by.Call(r.ctx, "rekey", map[string]any{"ike": "home"}); err != nil {
		r.Fatal(err)
	}
	r.eventually(func() string {
		if i, _ := r.agree("payload"); i.InitiatorSPI == ike.InitiatorSPI {
			return "the IKE SA was not rekeyed"
		}
		return ""
	})
}

// sixEntries tells of the tunnel among five others of one event, that are not IKE's.
func (r *roaming) sixEntries(from, to *mip6.Place) error {
	_, c := r.agree("payload")
	id, err := strconv.ParseUint(c.ReqID, 10, 32)
	if err != nil {
		return err
	}
	return r.tell(func(ns *testnet.Namespace, events ...migrate.Event) error {
		for i := range events {
			own := events[i].Entries[0]
			if ns == r.Mobile {
				own.ReqID = uint32(id)
			}
			for j := range uint32(migrate.MaxEntries - 1) {
				other := own
				other.ReqID = foreignID + j
				events[i].Entries = append([]migrate.Entry{other}, events[i].Entries...)
			}
			events[i].Entries[migrate.MaxEntries-1] = own
		}
		return mip6.Netlink(ns, events...)
	}, from, to)
}

// foreignID is the request id of an SA that is not IKE's.
const foreignID = 4711

// A mobile node is at home, on a foreign link, on another one, in IPv4, at home again
// and abroad again, and its mobility manager and that of its home agent tell of each
// move, by netlink or by PF_KEY. Tunnels go on: nothing is lost but what was on its way
// in a move, no message of IKE is needed for it, a rekeying at the same time moves too,
// and rekeyings and Deletes work from each new address.
func TestMobileNode(t *testing.T) {
	uml.Require(t)
	r := newRoaming(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.mobile.Initiate(r.ctx, "payload"))
	r.flow("payload", mip6.Station{NS: r.Mobile, Addr: mip6.Home}, mip6.Station{NS: r.Peer, Addr: mip6.Correspondent}, mip6.UDP, 0, 0)
	must(r.flows.Running())
	r.at(mip6.AtHome)
	by := func(how mip6.Teller) func(from, to *mip6.Place) error {
		return func(from, to *mip6.Place) error { return r.tell(how, from, to) }
	}
	r.move(mip6.First, by(mip6.Netlink))
	r.rekeyed(r.mobile)
	r.move(mip6.Second, by(mip6.PFKey))
	r.rekeyed(r.agent)
	r.move(mip6.Second4, by(mip6.Netlink))
	r.rekeyed(r.agent)
	r.move(mip6.AtHome, by(mip6.PFKey))
	r.rekeyed(r.mobile)

	_, err := r.Mobile.Run(r.ctx, "ip", "xfrm", "state", "add", "src", mip6.Home.String(), "dst", mip6.Agent.String(), "proto", "esp", "spi", "0x4711",
		"reqid", strconv.Itoa(foreignID), "mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x"+strings.Repeat("47", 20), "128")
	must(err)
	r.move(mip6.First, r.sixEntries)
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
		for _, side := range []*interop.Control{r.mobile, r.agent} {
			if _, err := side.Call(r.ctx, "rekey", map[string]any{"child": "payload"}); err != nil {
				return err
			}
		}
		// An SA that comes into being meanwhile may have to be moved when it is there.
		err := r.Move(mip6.Second, by(mip6.Netlink))
		r.eventually(r.single)
		r.at(mip6.Second)
		return err
	}))
	r.rekeyed(r.mobile)

	if wrong := foreign(); !strings.Contains(strings.Join(kernelList(t, r.Mobile, "state"), "\n"), "spi 0x00004711") {
		t.Error(wrong)
	}
	summary, err := r.flows.Stop()
	t.Log(summary)
	must(err)
	for i, d := range r.daemons {
		if log := d.Process.Log(); strings.Contains(log, "put right") || strings.Contains(log, "not in the kernel any more") {
			t.Errorf("daemon %d found something to put right after the moves", i)
		}
	}
	if _, err := r.mobile.Call(r.ctx, "terminate", map[string]any{"ike": "home"}); err != nil {
		t.Error(err)
	}
	for _, side := range []*interop.Control{r.mobile, r.agent} {
		_, err := side.Until(r.ctx, "no SA after a Delete from abroad", func(sas []interop.IKESA) bool { return len(sas) == 0 })
		must(err)
	}
	for i, d := range r.daemons {
		must(d.Stop())
		for _, left := range kernelList(t, []*testnet.Namespace{r.Mobile, r.Agent}[i], "state") {
			if strings.Contains(left, "proto esp") && !strings.Contains(left, "0x00004711") {
				t.Errorf("daemon %d has left in the kernel: %s", i, left)
			}
		}
	}
}
