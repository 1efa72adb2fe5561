package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
	"iked/internal/trace"
	"iked/migrate"
	"iked/sad"
	"iked/spd"
)

const (
	homeAddr  = "2001:db8:1::5"
	agentAddr = "2001:db8::1"
	careOf1   = "2001:db8:aa::5"
	careOf2   = "2001:db8:bb::5"
)

// mobileNode is a mobile node with the SAs of RFC 4877, Section 5: Binding Updates and
// Acknowledgements in transport mode, its traffic in a tunnel.
func mobileNode(extra, payload string) string {
	return fmt.Sprintf(`
connections:
  - name: home
    remote_addrs: ['%s']
    mobility_role: mobile
    proposals: [aes128-sha256-x25519]
    local: {id: mn.example.org, auth: psk}
    remote: {id: ha.example.org, auth: psk}
%s
    children:
      - {name: bu, mode: transport, local_ts: ['%s[135/5]'], remote_ts: ['dynamic[135/6]'], esp_proposals: [aes128-sha256], reqid: 11, start: always}
%s
secrets:
  - {psk: "correct horse battery staple"}
`, agentAddr, extra, homeAddr, payload)
}

func homeAgent(extra, homes, payload string) string {
	return fmt.Sprintf(`
connections:
  - name: nodes
    mobility_role: agent
    proposals: [aes128-sha256-x25519]
    local: {id: ha.example.org, auth: psk}
    remote: {id: '*.example.org', auth: psk}
%s
    children:
      - {name: bu, mode: transport, local_ts: ['%s[135/6]'], remote_ts: ['2001:db8:1::/64[135/5]'], esp_proposals: [aes128-sha256], start: passive}
%s
secrets:
  - {psk: "correct horse battery staple"}
%s
`, extra, agentAddr, payload, homes)
}

const homesOfMN = "home_addresses: [{id: mn.example.org, addrs: ['" + homeAddr + "']}]"

// between checks the SAs of a gateway in a mode: they are between two addresses.
func (g *gateway) between(mode spd.Mode, local, remote, when string) {
	g.w.t.Helper()
	l, r := addr(local), addr(remote)
	n := 0
	for _, s := range g.back.SAs() {
		if s.Mode != mode {
			continue
		}
		n++
		if s.Encap != nil || s.Dir == sad.Out && (s.Src != l || s.Dst != r) || s.Dir == sad.In && (s.Src != r || s.Dst != l) {
			g.w.t.Errorf("%s, %s: an SA of mode %d goes from %v to %v (encap %v), expected between %v here and %v", g.name, when, mode, s.Src, s.Dst, s.Encap, l, r)
		}
	}
	if n != 2 {
		g.w.t.Errorf("%s, %s: %d SAs of mode %d, expected 2\n%s", g.name, when, n, mode, g.dump())
	}
}

// RFC 4877, Sections 3 to 5; RFC 3776: SAs of Binding Updates are between the home
// address and the home agent while IKE is between the care-of address and it; the tunnel
// of the payload is between the addresses of IKE. A mobility manager moves the tunnel
// and IKE, abroad and home, without a message of IKE, and rekeying of everything is done
// at the new place.
func TestMobileNodeAndHomeAgent(t *testing.T) {
	for _, version := range []string{"version: 2", "version: 1\n    aggressive: yes\n    aggressive_psk: yes"} {
		simulate(t, func(w *world) {
			payload := `      - {name: payload, local_ts: ['` + homeAddr + `'], remote_ts: ['2001:db8:2::/64'], esp_proposals: [aes128-sha256], reqid: 12, start: always}`
			of := `      - {name: payload, local_ts: ['2001:db8:2::/64'], remote_ts: [dynamic], esp_proposals: [aes128-sha256], start: passive}`
			extra := "    " + version + "\n    mobility: kbit\n    dpd_delay: 1h"
			ha := w.gateway("ha", agentAddr, strings.ReplaceAll(homeAgent(extra, homesOfMN, of), "x25519", "modp2048"))
			mn := w.gateway("mn", careOf1, strings.ReplaceAll(mobileNode(strings.ReplaceAll(extra, "    aggressive_psk: yes\n", ""), payload), "x25519", "modp2048"))
			w.after(5 * time.Second)
			check := func(careOf, when string) {
				t.Helper()
				mn.want(1, 2, when)
				ha.want(1, 2, when)
				mn.between(spd.Transport, homeAddr, agentAddr, when)
				ha.between(spd.Transport, agentAddr, homeAddr, when)
				mn.between(spd.Tunnel, careOf, agentAddr, when)
				ha.between(spd.Tunnel, agentAddr, careOf, when)
				if s := ha.sas()[0]; s.Remote.Addr() != addr(careOf) {
					t.Errorf("%s: the agent has IKE at %v", when, s.Remote)
				}
			}
			check(careOf1, "at first")
			var protects []string
			for _, p := range ha.back.Policies() {
				if p.Action == spd.Protect && p.Mode == spd.Transport && len(p.Remote) == 1 && p.Remote[0].IsHost() {
					protects = append(protects, fmt.Sprint(p.Local, p.Remote))
				}
			}
			if want := []string{"[2001:db8::1/128[mobility-header/6]] [2001:db8:1::5/128[mobility-header/5]]"}; !slices.Equal(protects, want) {
				t.Errorf("the agent's policies are for %v, expected %v", protects, want)
			}
			at := careOf1
			for _, to := range []string{careOf2, homeAddr, careOf1} {
				w.mu.Lock()
				w.gates[addr(to)] = mn
				delete(w.gates, addr(at))
				mn.addr = addr(to)
				messages := len(w.sent)
				w.mu.Unlock()
				for _, g := range []*gateway{mn, ha} {
					for _, ev := range movedHome(g == mn, at, to) {
						if _, err := g.e.Migrate(context.Background(), ev); err != nil {
							t.Fatal(err)
						}
					}
				}
				w.after(2 * restTime)
				w.mu.Lock()
				messages = len(w.sent) - messages
				w.mu.Unlock()
				if messages != 0 {
					t.Errorf("at %s: %d messages of IKE were exchanged", to, messages)
				}
				check(to, "at "+to)
				for _, child := range []string{"bu", "payload"} {
					for _, g := range []*gateway{mn, ha} {
						if _, err := g.e.Rekey(context.Background(), Selector{Child: child}, false); err != nil {
							t.Fatal(err)
						}
						w.after(2 * time.Minute)
						check(to, "at "+to+", "+child+" rekeyed by "+g.name)
					}
				}
				if _, err := mn.e.Rekey(context.Background(), Selector{IKE: "home"}, false); err != nil {
					t.Fatal(err)
				}
				w.after(2 * time.Minute)
				check(to, "at "+to+", IKE rekeyed")
				at = to
			}
		})
	}
}

// movedHome are the events of a mobility manager for the policies of a node that goes
// from one care-of address to another, the home address being one of them: those of
// transport mode, whose entries say that the node moved, and those of the tunnel.
func movedHome(mn bool, from, to string) (list []migrate.Event) {
	home, agent, net := netip.MustParsePrefix(homeAddr+"/128"), netip.MustParsePrefix(agentAddr+"/128"), netip.MustParsePrefix("2001:db8:2::/64")
	km := migrate.Ends{Local: addr(to), Remote: addr(agentAddr)}
	if !mn {
		km.Local, km.Remote = km.Remote, km.Local
	}
	add := func(dir migrate.Dir, up bool, src, dst netip.Prefix, mode spd.Mode) {
		x := migrate.Entry{Proto: 50, Mode: mode, Old: migrate.Pair{Src: addr(from), Dst: addr(agentAddr)}, New: migrate.Pair{Src: addr(to), Dst: addr(agentAddr)}}
		if !up {
			src, dst = dst, src
			x.Old, x.New = migrate.Pair{Src: x.Old.Dst, Dst: x.Old.Src}, migrate.Pair{Src: x.New.Dst, Dst: x.New.Src}
		}
		list = append(list, migrate.Event{Dir: dir, KM: km, Selector: spd.KernelSelector{Src: src, Dst: dst}, Entries: []migrate.Entry{x}})
	}
	for _, d := range []migrate.Dir{migrate.Out, migrate.In} {
		up := (d == migrate.Out) == mn
		add(d, up, home, agent, spd.Transport)
		add(d, up, home, net, spd.Tunnel)
	}
	return list
}

// RFC 4877, Section 6.1: who is authenticated as another node than the one that the
// address belongs to gets no SA for it; the agent says why, and what to set.
func TestHomeAddressOfAnother(t *testing.T) {
	simulate(t, func(w *world) {
		ha := w.gateway("ha", agentAddr, homeAgent("", "home_addresses: [{id: other.example.org, addrs: ['"+homeAddr+"']}, {id: '*.example.org', addrs: ['2001:db8:1::100-2001:db8:1::1ff']}]", ""))
		mn := w.gateway("mn", careOf1, mobileNode("", ""))
		w.after(5 * time.Second)
		if n := len(ha.back.SAs()) + len(mn.back.SAs()); n != 0 {
			t.Errorf("there are %d SAs", n)
		}
		found := false
		for _, f := range ha.e.Explain("") {
			found = found || strings.Contains(f.Sentence, "the peer mn.example.org may not have "+homeAddr) && strings.Contains(f.Advice, "home_addresses")
		}
		if !found {
			t.Errorf("the agent keeps no failure that says why\n%s", ha.dump())
		}
		if !mn.logged("TS_UNACCEPTABLE") {
			t.Errorf("the node is not told TS_UNACCEPTABLE\n%s", mn.dump())
		}
	})
}

// RFC 4877, Section 6.1; RFC 4301, Section 4.4.3: where many nodes may have an address, it
// is that of the first as long as it has an SA for it. Another one, whose identity is
// as good, gets none and does not get in its way; nor does one node take several.
func TestHomeAddressOfManyNodes(t *testing.T) {
	for _, version := range []string{"version: 2", "version: 1\n    aggressive: yes\n    aggressive_psk: yes"} {
		simulate(t, func(w *world) {
			plain := func(s string) string { return strings.ReplaceAll(s, "x25519", "modp2048") }
			extra := "    " + version + "\n    dpd_delay: 1h"
			mine := strings.ReplaceAll(extra, "    aggressive_psk: yes\n", "")
			ha := w.gateway("ha", agentAddr, plain(homeAgent(extra, "home_addresses: [{id: '*.example.org', addrs: ['2001:db8:1::/64']}]", "")))
			mn := w.gateway("mn", careOf1, plain(mobileNode(mine, "      - {name: more, mode: transport, local_ts: ['2001:db8:1::6[135/5]'], remote_ts: ['dynamic[135/6]'], esp_proposals: [aes128-sha256], start: passive}")))
			w.after(5 * time.Second)
			mn.want(1, 1, "the first")
			thief := w.gateway("thief", careOf2, plain(strings.ReplaceAll(mobileNode(mine, ""), "id: mn.", "id: thief.")))
			w.after(5 * time.Second)
			if n := len(thief.back.SAs()); n != 0 {
				t.Errorf("the second node has %d SAs for the address of the first", n)
			}
			mn.want(1, 1, "beside the second")
			ha.between(spd.Transport, agentAddr, homeAddr, "beside the second")
			if !slices.ContainsFunc(ha.e.Explain(""), func(f trace.Failure) bool {
				return strings.Contains(f.Sentence, homeAddr+" is the home address of mn.example.org at present")
			}) {
				t.Errorf("the agent keeps no failure that says why\n%s", ha.dump())
			}
			thief.stop()
			if err := mn.e.Initiate(context.Background(), InitiateRequest{Child: "more", Timeout: time.Minute}); err == nil {
				t.Error("the first node has a second home address")
			}
			ha.want(1, 1, "after the first asked for another address")
			mn.stop()
			w.after(time.Minute)
			thief.start()
			w.after(5 * time.Second)
			thief.want(1, 1, "when the first is gone")
			if n := len(ha.e.homes.of) + len(ha.e.homes.only); n != 2 {
				t.Errorf("the agent remembers %d home addresses and nodes, expected one each", n)
			}
		})
	}
}

// ways are the routes of a host: its addresses in the order of preference, of which
// some reach a peer.
type ways struct{ own, to []netip.Addr }

func (w *ways) LocalFor(netip.Addr) (netip.Addr, error) { return w.own[0], nil }
func (w *ways) Paths(netip.Addr) ([]netip.Addr, error)  { return slices.Clone(w.to), nil }
func (w *ways) Addresses() (list []OwnAddress, err error) {
	for _, a := range w.own {
		list = append(list, OwnAddress{Addr: a, Link: 1, Leads: true})
	}
	return list, nil
}

// RFC 4877, Section 4.1: IKE is not begun at, moved to or told of the home address while
// another address leads to the peer; at home it is the address there is, and what
// local_addrs names is meant.
func TestIKEFromCareOfAddress(t *testing.T) {
	home, care := addr(homeAddr), addr(careOf1)
	for name, x := range map[string]struct {
		own, to []netip.Addr
		extra   string
		role    string
		want    netip.Addr
		told    []netip.Addr
	}{
		"abroad":            {[]netip.Addr{home, care}, []netip.Addr{home, care}, "", "mobile", care, []netip.Addr{care}},
		"at home":           {[]netip.Addr{home}, []netip.Addr{home}, "", "mobile", home, []netip.Addr{home}},
		"one way only":      {[]netip.Addr{home, care}, []netip.Addr{home}, "", "mobile", home, []netip.Addr{home, care}},
		"named":             {[]netip.Addr{care, home}, []netip.Addr{care, home}, "    local_addrs: ['" + homeAddr + "']", "mobile", home, []netip.Addr{home}},
		"another role":      {[]netip.Addr{home, care}, []netip.Addr{home, care}, "    pools: [p]", "correspondent", home, []netip.Addr{home, care}},
		"a range of allows": {[]netip.Addr{home, care}, []netip.Addr{home, care}, "    local_addrs: ['2001:db8:1::/64', '2001:db8:aa::/64']", "mobile", care, []netip.Addr{care}},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				routes := &ways{x.own, x.to}
				w.setup = func(g *gateway, o *Options) { o.Routes = routes }
				conf := strings.ReplaceAll(mobileNode(x.extra, ""), "mobility_role: mobile", "mobility_role: "+x.role) + "\npools: [{name: p, addrs: '2001:db8:9::/120'}]\n"
				mn := w.gateway("mn", careOf1, strings.ReplaceAll(conf, "start: always", "start: passive"))
				c := mn.e.config.Load().conns["home"]
				local, _, err := mn.e.addresses(c.conf, 0)
				if err != nil || local.Addr() != x.want {
					t.Errorf("IKE begins at %v (%v), expected %v", local, err, x.want)
				}
				got := mn.e.findPaths(ikev2.FindPaths{Config: c.ike, Local: x.want, Remotes: []netip.Addr{addr(agentAddr)}})
				if len(got.Paths) == 0 || got.Paths[0].Local != x.want || x.role == "mobile" && len(got.Paths) != 1 {
					t.Errorf("the paths are %v, expected one from %v", got.Paths, x.want)
				}
				if !slices.Equal(got.Own, x.told) {
					t.Errorf("the peer is told of %v, expected %v", got.Own, x.told)
				}
			})
		})
	}
}

// RFC 4301, Section 4.4.3: a home address that the configuration takes from an identity
// is its no more: the IKE SA ends with its CHILD_SAs, and gets none for it again. Others
// stay, and so does who is given more.
func TestHomeAddressIsTaken(t *testing.T) {
	simulate(t, func(w *world) {
		const other = "2001:db8:cc::5"
		homes := func(first string) string {
			return homeAgent("", "home_addresses: [{id: mn.example.org, addrs: ["+first+"]}, {id: m2.example.org, addrs: ['2001:db8:1::6']}]", "")
		}
		ha := w.gateway("ha", agentAddr, homes("'"+homeAddr+"'"))
		mn := w.gateway("mn", careOf1, mobileNode("    dpd_delay: 10s\n    keyingtries: 0", ""))
		m2 := w.gateway("m2", other, strings.NewReplacer("mn.example.org", "m2.example.org", homeAddr, "2001:db8:1::6").Replace(mobileNode("", "")))
		w.after(5 * time.Second)
		ha.want(2, 2, "at first")
		reload := func(text string) {
			t.Helper()
			ha.conf = text
			if _, err := ha.e.Reload(context.Background(), false); err != nil {
				t.Fatal(err)
			}
			w.after(time.Minute)
		}
		reload(homes("'" + homeAddr + "', '2001:db8:1::7'"))
		ha.want(2, 2, "with more")
		mn.want(1, 1, "with more")
		m2.want(1, 1, "with more")
		before := m2.sas()[0].SPIi
		reload(homes("'2001:db8:1::7'"))
		m2.want(1, 1, "the other one")
		if m2.sas()[0].SPIi != before {
			t.Error("the other node's IKE SA is another one")
		}
		for _, s := range ha.back.SAs() {
			if s.Src == addr(homeAddr) || s.Dst == addr(homeAddr) {
				t.Errorf("there is an SA of the address: %v to %v", s.Src, s.Dst)
			}
		}
		if !ha.logged("home addresses were taken from mn.example.org") {
			t.Errorf("nobody says why\n%s", ha.dump())
		}
		reload(homes("'" + homeAddr + "'"))
		w.after(5 * time.Minute)
		ha.want(2, 2, "given back")
		mn.stop()
		many := "{id: '*.example.org', addrs: ['2001:db8:1::/64']}"
		reload(homeAgent("", "home_addresses: ["+many+"]", ""))
		ha.want(1, 1, "for many")
		reload(homeAgent("", "home_addresses: ["+many+", {id: m9.example.org, addrs: ['2001:db8:1::6']}]", ""))
		for _, s := range ha.back.SAs() {
			t.Errorf("bound to another one, there is an SA %v to %v", s.Src, s.Dst)
		}
	})
}
