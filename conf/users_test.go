package conf

import (
	"strings"
	"testing"
)

func userConf(version, local, remote2, more string) string {
	return `
connections:
  - name: road
    version: ` + version + `
    proposals: [aes128-sha256-modp2048]
    local: ` + local + `
    remote: {auth: psk, id: road}
    ` + remote2 + `
    children: [{name: n}]
secrets: [{psk: group-secret}, {psk: pw, type: xauth, id: [bob]}]
` + more
}

// Where users of XAuth are known is checked when the configuration is read, at the
// key that is to blame.
func TestWhoKnowsUsers(t *testing.T) {
	const gw = "{auth: psk, id: gw}"
	server := func(keys string) string { return "radius:\n  - {name: r, " + keys + "}\n" }
	for _, x := range []struct{ text, key, want string }{
		{userConf("1", gw, "remote-2: {auth: xauth-radius}", ""), "remote-2.auth", "there is no RADIUS server"},
		{userConf("1", gw, "remote-2: {auth: xauth-hook}", ""), "remote-2.auth", "there is no program"},
		{userConf("1", gw, "remote-2: {auth: xauth-eap}", ""), "remote-2.auth", "not supported by this version"},
		{userConf("1", gw, "local-2: {auth: xauth-radius, xauth_id: bob}", server("address: 192.0.2.9, secret: 0123456789abcdef")), "local-2.auth", "the own password is one of the secrets"},
		{userConf("2", gw, "", server("secret: 0123456789abcdef")), "radius[r]", "the RADIUS server lacks address"},
		{userConf("2", gw, "", server("address: 192.0.2.9")), "radius[r]", "the RADIUS server lacks secret"},
		{userConf("2", gw, "", server("address: radius.example.org, secret: 0123456789abcdef")), "radius[r].address", "expected an address"},
		{userConf("2", gw, "", server("address: 192.0.2.9, secret: short")), "radius[r].secret", "the secret has 5 octets"},
		{userConf("2", gw, "", server("address: 192.0.2.9, secret: 0123456789abcdef, retransmit_base: 0.5")), "radius[r].retransmit_base", "from 1 to 10"},
		{userConf("2", gw, "", server("address: 192.0.2.9, secret: 0123456789abcdef, nas_identifier: ''")), "radius[r].nas_identifier", "1 to 253"},
		{userConf("2", gw, "", "xauth_hook: check\n"), "xauth_hook", "the whole path"},
		{userConf("2", gw, "", "xauth_hook: /usr/../check\n"), "xauth_hook", "the whole path"},
		{userConf("2", gw, "", "pools: [{name: p, addrs: 10.9.0.0/24, domain: 'a b'}]\n"), "pools[p].domain", "expected a domain name"},
		{userConf("2", gw, "", "pools: [{name: p, addrs: 10.9.0.0/24, banner: ''}]\n"), "pools[p].banner", "1 to 512"},
		{strings.Replace(userConf("2", gw, "", ""), "    proposals", "    unity: yes\n    proposals", 1), "unity", "unity is about IKEv1"},
		{strings.Replace(userConf("1", gw, "", ""), "    proposals", "    unity: yes\n    proposals", 1), "unity", "asks for none"},
	} {
		_, faults := Parse("/nowhere/iked.yaml", []byte(x.text), testNow)
		found := false
		for _, f := range faults {
			found = found || strings.HasSuffix(f.Key, x.key) && strings.Contains(f.Message, x.want)
		}
		if !found {
			t.Errorf("expected a fault at %s with %q, found %v\n%s", x.key, x.want, faults, x.text)
		}
	}
	for _, text := range []string{
		userConf("1", gw, "remote-2: {auth: xauth-radius}", server("address: 2001:db8::9, secret: 0123456789abcdef")),
		userConf("1", gw, "remote-2: {auth: xauth-pam}", "xauth_hook: /usr/local/sbin/check\n"),
	} {
		if _, faults := Parse("/nowhere/iked.yaml", []byte(text), testNow); len(faults) > 0 {
			t.Errorf("%v\n%s", faults, text)
		}
	}
}

// A change of the servers is a change of the configuration, and shows no secret.
func TestRadiusDiff(t *testing.T) {
	parse := func(keys string) *Config {
		c, faults := Parse("/nowhere/iked.yaml", []byte("radius:\n  - {name: r, "+keys+"}\n"), testNow)
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		return c
	}
	a, b := parse("address: 192.0.2.9, secret: 0123456789abcdef"), parse("address: 192.0.2.9, secret: 0123456789abcdeX")
	ch := Diff(a, b)
	if got := ch.String(); got != "~ RADIUS servers" {
		t.Errorf("the plan is %q", got)
	}
	if ch = Diff(a, parse("address: 192.0.2.9, secret: 0123456789abcdef")); !ch.Empty() {
		t.Errorf("the same is %q", ch.String())
	}
}
