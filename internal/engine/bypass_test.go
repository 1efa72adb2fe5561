package engine

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/internal/backend/fake"
	"iked/spd"
)

// host is Routes of a host with addresses.
type host struct {
	*gateway
	own *[]netip.Prefix
}

func (h host) Own() ([]netip.Prefix, error) { return *h.own, nil }

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// decide is what the policies of a backend do with a flow.
func decide(t *testing.T, b *fake.Backend, local, remote string, proto uint8, lport, rport uint16) spd.Action {
	t.Helper()
	table := spd.NewTable(spd.Bypass)
	list := b.Policies()
	slices.SortStableFunc(list, func(a, b spd.Policy) int { return int(int64(a.Priority) - int64(b.Priority)) })
	if err := table.Apply(nil, list); err != nil {
		t.Fatal(err)
	}
	return table.Lookup(&spd.Flow{Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), Proto: proto, LocalPort: lport, RemotePort: rport, HasPorts: true}).Action
}

const hostConf = `
connections:
  - name: c
    remote_addrs: [192.0.2.2]
    local: {auth: psk}
    remote: {auth: psk}
    children:
      - {name: all, local_ts: ["0.0.0.0/0", "::/0"], remote_ts: ["0.0.0.0/0", "::/0"], start: on-demand}
secrets: [{psk: "a-long-secret"}]
`

// A host that protects everything, its own link included, still speaks neighbour
// discovery, IKE and DHCP in clear, and nothing else: not for hosts that it
// forwards for, and not on ports beside. The key bypass takes each away.
func TestBypassPolicies(t *testing.T) {
	type packet struct {
		name          string
		local, remote string
		proto         uint8
		lport, rport  uint16
		by            string // the protocol of bypass by which it passes, "" never
	}
	packets := []packet{
		{"neighbour solicitation", "2001:db8::1", "ff02::1:ff00:2", 58, 135 << 8, 135 << 8, "nd"},
		{"neighbour advertisement", "2001:db8::1", "2001:db8::2", 58, 136 << 8, 136 << 8, "nd"},
		{"router advertisement to all", "ff02::1", "fe80::1", 58, 134 << 8, 134 << 8, "nd"},
		{"duplicate address detection", "::", "ff02::1:ff00:1", 58, 135 << 8, 135 << 8, "nd"},
		{"listener report", "fe80::1", "ff02::16", 58, 143 << 8, 143 << 8, "nd"},
		{"listener query", "ff02::1", "fe80::1", 58, 130 << 8, 130 << 8, "nd"},
		{"node information", "2001:db8::1", "2001:db8::2", 58, 139 << 8, 139 << 8, ""},
		{"echo request", "2001:db8::1", "2001:db8::2", 58, 128 << 8, 128 << 8, ""},
		{"discovery of another host", "2001:db8::77", "2001:db8::2", 58, 135 << 8, 135 << 8, ""},
		{"IKE", "192.0.2.1", "192.0.2.2", 17, 500, 500, "ike"},
		{"IKE behind a NAT", "192.0.2.1", "198.51.100.1", 17, 4500, 33333, "ike"},
		{"IKE over IPv6", "2001:db8::1", "2001:db8:1::1", 17, 500, 500, "ike"},
		{"IKE of another host", "192.0.2.99", "198.51.100.1", 17, 500, 500, ""},
		{"from a port to IKE", "192.0.2.1", "192.0.2.2", 17, 40000, 500, ""},
		{"DHCP renewal", "192.0.2.1", "192.0.2.254", 17, 68, 67, "dhcp"},
		{"DHCPv6", "2001:db8::1", "2001:db8::3", 17, 546, 547, "dhcp"},
		{"DHCP of another host", "192.0.2.99", "192.0.2.254", 17, 68, 67, ""},
		{"DHCP server", "192.0.2.1", "192.0.2.254", 17, 67, 68, ""},
		{"name server", "192.0.2.1", "192.0.2.53", 17, 50000, 53, ""},
		{"TCP", "192.0.2.1", "192.0.2.2", 6, 500, 500, ""},
	}
	for _, bypass := range []string{"nd, ike, dhcp", "nd", "dhcp", ""} {
		simulate(t, func(w *world) {
			own := prefixes("192.0.2.1/24", "2001:db8::1/64", "127.0.0.1/8")
			w.setup = func(g *gateway, o *Options) { o.Routes = host{g, &own} }
			moon := w.gateway("moon", moonAddr, "bypass: ["+bypass+"]\n"+hostConf)
			w.after(time.Second)
			for _, p := range packets {
				want := spd.Protect
				if p.by != "" && slices.Contains(strings.Split(bypass, ", "), p.by) {
					want = spd.Bypass
				}
				if got := decide(t, moon.back, p.local, p.remote, p.proto, p.lport, p.rport); got != want {
					t.Errorf("bypass: [%s]: %s: action %d, expected %d", bypass, p.name, got, want)
				}
			}
		})
	}
}

// The entries are there only while a policy covers the own link; those of a
// gateway between two sites do not. They follow the addresses of the host and the
// configuration, and the end of the engine leaves none.
func TestBypassComesAndGoes(t *testing.T) {
	simulate(t, func(w *world) {
		own := prefixes("192.0.2.1/24", "10.1.0.1/16")
		w.setup = func(g *gateway, o *Options) { o.Routes = host{g, &own} }
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: on-demand"))
		w.after(time.Second)
		shows := func(want int, when string) {
			t.Helper()
			n := 0
			for _, p := range moon.back.Policies() {
				if p.Action == spd.Bypass {
					n++
				}
			}
			listed := 0
			for _, p := range moon.e.ListPolicies() {
				if strings.HasPrefix(p.Child, "bypass-") {
					listed++
				}
			}
			if n != want || listed != want {
				t.Errorf("%s: %d entries of housekeeping, %d are listed, expected %d: %+v", when, n, listed, want, moon.back.Policies())
			}
		}
		shows(0, "between two sites")
		moon.conf = hostConf
		if _, err := moon.e.Reload(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		shows(2, "with all protected") // IKE and DHCP; without IPv6 no neighbour discovery
		if got := decide(t, moon.back, "192.0.2.7", "192.0.2.254", 17, 68, 67); got != spd.Protect {
			t.Errorf("an address that is not there: action %d", got)
		}
		own = prefixes("192.0.2.7/24", "2001:db8::1/64")
		moon.e.NetworkChanged()
		shows(5, "with IPv6")
		if got := decide(t, moon.back, "192.0.2.7", "192.0.2.254", 17, 68, 67); got != spd.Bypass {
			t.Errorf("DHCP of a new address: action %d", got)
		}
		if got := decide(t, moon.back, "192.0.2.1", "192.0.2.254", 17, 68, 67); got != spd.Protect {
			t.Errorf("DHCP of an address that is gone: action %d", got)
		}
		moon.conf = strings.Replace(hostConf, "name: all,", "name: all, if_id: 0, ", 1)
		if _, err := moon.e.Reload(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		shows(5, "after a reload")
		moon.conf = "connections: []"
		if _, err := moon.e.Reload(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		if n := len(moon.back.Policies()); n != 0 {
			t.Errorf("%d policies are left without a configuration", n)
		}
		moon.conf = hostConf
		if _, err := moon.e.Reload(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		moon.stop()
		if n := len(moon.back.Policies()); n != 0 {
			t.Errorf("%d policies are left at the end", n)
		}
	})
}
