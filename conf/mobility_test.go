package conf

import (
	"slices"
	"strings"
	"testing"

	"iked/internal/keyex"
	"iked/spd"
)

// roleConf is a connection with a role and one child.
func roleConf(conn, remote, child, top string) string {
	return `
connections:
  - name: c
    remote_addrs: ['2001:db8::1']
    ` + conn + `
    local: {id: a, auth: psk}
    remote: {id: b, auth: psk` + remote + `}
    children: [{name: n, mode: transport, ` + child + `}]
secrets: [{psk: "a-long-secret"}]
` + top
}

// Keys of Mobile IPv6 that contradict others are faults, at the key that is to blame.
func TestContradictionsOfMobility(t *testing.T) {
	const permits = ", home_addresses: ['2001:db8:1::5']"
	for _, x := range []struct{ conn, remote, child, top, key, want string }{
		{"mobility_role: router", "", "", "", "mobility_role", "expected one of none, mobile, agent, correspondent"},
		{"version: kink\n    mobility_role: mobile", "", "local_ts: ['2001:db8:1::5']", "", "mobility_role", "KINK has no peer but the one"},
		{"mobility_role: agent", "", "", "", "mobility_role", "no home address is permitted to any peer"},
		{"mobility_role: correspondent", "", "", "", "mobility_role", "no home address is permitted to any peer"},
		{"mobility_role: mobile", permits, "local_ts: ['2001:db8:1::5']", "", "home_addresses", "what a home agent or correspondent node permits its peer"},
		{"", permits, "", "", "home_addresses", "what a home agent or correspondent node permits its peer"},
		{"mobility_role: agent", ", home_addresses: [home.example.org]", "", "", "home_addresses[0]", "expected an address, a subnet or a range"},
		{"mobility_role: agent", ", home_addresses: ['%any']", "", "", "home_addresses[0]", "expected an address, a subnet or a range"},
		{"mobility_role: agent", ", home_addresses: ['ff02::1']", "", "", "home_addresses[0]", "expected addresses of hosts"},
		{"mobility_role: agent", ", home_addresses: ['::']", "", "", "home_addresses[0]", "expected addresses of hosts"},
		{"mobility_role: agent", ", home_addresses: ['fe80::1']", "", "", "home_addresses[0]", "expected addresses of hosts"},
		{"mobility_role: agent", ", home_addresses: ['ff00::/8']", "", "", "home_addresses[0]", "expected addresses of hosts"},
		{"mobility_role: agent", permits, "local_ts: ['2001:db8:1::9[135/300]']", "", "local_ts[0]", "no type of message of the mobility header"},
		{"mobility_role: mobile", "", "local_ts: [dynamic]", "", "local_ts", "dynamic stands for the care-of address"},
		{"mobility_role: mobile", "", "local_ts: ['2001:db8:1::/64']", "", "local_ts", "local_ts has a subnet"},
		{"mobility_role: mobile", "", "local_ts: ['2001:db8:1::5'], remote_ts: ['2001:db8::/64']", "", "remote_ts", "remote_ts has a subnet"},
		{"mobility_role: agent", permits, "local_ts: ['2001:db8::/64']", "", "local_ts", "local_ts has a subnet"},
		{"mobility_role: agent\n    encap: yes", permits, "", "", "encap", "between a home address and its peer"},
		{"mobility_role: agent", "", "", "home_addresses: [{id: b}]", "home_addresses[0]", "expected both id and addrs"},
		{"mobility_role: agent", "", "", "home_addresses: [{addrs: ['2001:db8:1::5']}]", "home_addresses[0]", "expected both id and addrs"},
		{"mobility_role: agent", "", "", "home_addresses: [b]", "home_addresses[0]", "expected an identity with its home addresses"},
		{"mobility_role: agent", "", "", "home_addresses: {b: x}", "home_addresses", "expected a list"},
	} {
		_, faults := Parse("/nowhere/iked.yaml", []byte(roleConf(x.conn, x.remote, x.child, x.top)), testNow)
		if !slices.ContainsFunc(faults, func(f *Fault) bool {
			return !f.Warning && (f.Key == x.key || strings.HasSuffix(f.Key, "."+x.key)) && strings.Contains(f.Message, x.want)
		}) {
			t.Errorf("%s / %s / %s / %s: expected a fault at %s with %q, found\n%v", x.conn, x.remote, x.child, x.top, x.key, x.want, faults)
		}
	}
}

// What a home agent permits comes from the remote section and from the list at the top,
// and a change of either replaces the connection; a role lets transport mode have a
// prefix of home addresses, or one that a pool gives.
func TestHomeAddresses(t *testing.T) {
	load := func(text string) *Config {
		t.Helper()
		c, faults := Parse("/nowhere/iked.yaml", []byte(text), testNow)
		if faults.Failed() {
			t.Fatal(faults)
		}
		return c
	}
	agent := func(top string) string {
		return roleConf("mobility_role: agent", ", home_addresses: ['2001:db8:1::5', '2001:db8:2::/64']", "remote_ts: ['2001:db8:1::/64[135/5]', dynamic]", top)
	}
	c := load(agent("home_addresses: [{id: '*.example.org', addrs: ['2001:db8:1::10-2001:db8:1::1f']}]"))
	conn := c.Connections[0]
	if conn.MobilityRole != keyex.RoleAgent || len(conn.HomeTS()) != 2 || !conn.HomeTS()[0].IsHost() || len(conn.Homes) != 1 || conn.Homes[0].Addrs[0].String() != "2001:db8:1::10/124" {
		t.Errorf("%+v", conn)
	}
	if ts := conn.Children[0].Remote[0]; ts.Proto != 135 || ts.PortFrom != 5<<8 || ts.PortTo != 5<<8 {
		t.Errorf("the selector is %v", ts)
	}
	d := Diff(c, load(agent("")))
	if len(d.Changed) != 1 || !slices.Equal(d.Changed[0].Keys, []string{"home_addresses"}) {
		t.Errorf("the plan of a reload is %v", d.Lines())
	}
	_, faults := Parse("/nowhere/iked.yaml", []byte(roleConf("", "", "", "home_addresses: [{id: b, addrs: ['2001:db8:1::5']}]")), testNow)
	if len(faults) != 1 || !faults[0].Warning || !strings.Contains(faults[0].Message, "no connection has that role") {
		t.Errorf("a list that nobody uses: %v", faults)
	}
	load(roleConf("mobility_role: mobile\n    vips: ['::']", "", "local_ts: ['dynamic[135/5]']", ""))
}

// Where many peers share a home address or what proves them, a word is due.
func TestSharedHomeAddresses(t *testing.T) {
	warned := func(remote, secret, top, want string) {
		t.Helper()
		text := strings.Replace(roleConf("mobility_role: agent", "", "", top), "{id: b, auth: psk}", remote, 1)
		text = strings.Replace(text, "{psk: \"a-long-secret\"}", secret, 1)
		_, faults := Parse("/nowhere/iked.yaml", []byte(text), testNow)
		if faults.Failed() {
			t.Fatal(faults)
		}
		n := 0
		for _, f := range faults {
			if want != "" && strings.Contains(f.Message, want) {
				n++
			}
		}
		if want != "" && n != 1 || want == "" && slices.ContainsFunc(faults, func(f *Fault) bool { return strings.Contains(f.Message, "peer") }) {
			t.Errorf("%s %s %s: expected %q, found\n%v", remote, secret, top, want, faults)
		}
	}
	const nodes, own = "{id: '*.example.org', auth: psk}", "{psk: \"a-long-secret\", id: [a, mn.example.org]}"
	const mine = "home_addresses: [{id: mn.example.org, addrs: ['2001:db8:1::5']}]"
	warned(nodes, own, mine, "")
	warned(nodes, "{psk: \"a-long-secret\"}", mine, "whoever has it can say that it is another one of c")
	warned("{id: '*.example.org', auth: psk, home_addresses: ['2001:db8:1::/64']}", own, "", "each peer of *.example.org may have any of these")
	warned(nodes, own, "home_addresses: [{id: '*.example.org', addrs: ['2001:db8:1::/64']}]", "each peer of *.example.org may have any of these")
}

// The control protocol takes the role and the addresses as a file does.
func TestHomeAddressesByControl(t *testing.T) {
	got, err := LoadConns(conn("ha", kv("mobility_role", "agent"), section("local", kv("auth", "psk")),
		section("remote", kv("auth", "psk"), kv("id", "*.example.org"), list("home_addresses", "2001:db8:1::/64")),
		section("children", section("bu", kv("mode", "transport"), list("local_ts", "2001:db8::1[135/6]"), list("remote_ts", "2001:db8:1::/64[135/5]")))))
	if err != nil {
		t.Fatal(err)
	}
	if c := got[0]; c.MobilityRole != keyex.RoleAgent || len(c.HomeTS()) != 1 || c.HomeTS()[0] != spd.FromPrefix(c.HomeTS()[0].AppendPrefixes(nil)[0]) {
		t.Errorf("%+v", c)
	}
	if _, err := LoadConns(conn("ha", kv("mobility_role", "agent"), section("remote", kv("auth", "psk")))); err == nil {
		t.Error("a home agent that permits nothing is taken")
	}
}

// RFC 5026, Section 5.2, and 3GPP TS 24.302: what a pool tells mobile nodes of their home
// link, as attributes of the configuration payload.
func TestHomeLinkOfPool(t *testing.T) {
	pool := func(keys string) (*Pool, Faults) {
		c, faults := Parse("/nowhere/iked.yaml", []byte("pools: [{name: p, addrs: '2001:db8:1::/120', "+keys+"}]"), testNow)
		if c == nil {
			return nil, faults
		}
		return c.Pools[0], faults
	}
	p, faults := pool("home_prefix: ['2001:db8:1::5/64'], home_agent: ['2001:db8::1', 192.0.2.1]")
	if faults.Failed() {
		t.Fatal(faults)
	}
	want := []Attr{
		{16, []byte("\xff\xff\xff\xff\x20\x01\x0d\xb8\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40")},
		{19, []byte("\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xc0\x00\x02\x01")},
	}
	if len(p.Attrs) != 2 || p.Attrs[0].Type != 16 || string(p.Attrs[0].Value) != string(want[0].Value) || p.Attrs[1].Type != 19 || string(p.Attrs[1].Value) != string(want[1].Value) {
		t.Errorf("attributes %x, expected %x", p.Attrs, want)
	}
	for _, bad := range []string{"home_prefix: ['10.0.0.0/8']", "home_prefix: ['2001:db8::1']", "home_prefix: ['ff02::/16']", "home_agent: [192.0.2.1]", "home_agent: ['2001:db8::1', '2001:db8::2']", "home_agent: ['2001:db8::1', 192.0.2.1, 192.0.2.2]", "home_agent: ['::']"} {
		if _, faults := pool(bad); !faults.Failed() {
			t.Errorf("%s is taken", bad)
		}
	}
}

// A home link that no home agent tells of is a warning, not silence.
func TestHomeLinkOfNobody(t *testing.T) {
	pools := "pools: [{name: p, addrs: '2001:db8:1::/120', %}]"
	for key, text := range map[string]string{
		"home_prefix": roleConf("", "", "", strings.Replace(pools, "%", "home_prefix: ['2001:db8:1::/64']", 1)),
		"home_agent":  roleConf("mobility_role: correspondent\n    pools: [p]", "", "", strings.Replace(pools, "%", "home_agent: ['2001:db8::1']", 1)),
		"":            roleConf("mobility_role: agent\n    pools: [p]", "", "", strings.Replace(pools, "%", "home_agent: ['2001:db8::1'], home_prefix: ['2001:db8:1::/64']", 1)),
	} {
		_, faults := Parse("/nowhere/iked.yaml", []byte(text), testNow)
		if faults.Failed() {
			t.Fatal(faults)
		}
		found := ""
		for _, f := range faults {
			if strings.Contains(f.Message, "home agents tell of their home link") {
				found = f.Key[strings.LastIndex(f.Key, ".")+1:]
			}
		}
		if found != key {
			t.Errorf("a warning at %q, expected one at %q, of\n%s", found, key, text)
		}
	}
}
