package conf

import (
	"slices"
	"strings"
	"testing"
	"time"

	"iked/internal/ident"
)

func kinkConf(conn, child string) string {
	return `
connections:
  - name: a
    version: kink
    remote_addrs: [b.example.org]
    local: {id: kink/a.example.org@EXAMPLE.ORG, keytab: a.keytab}
    remote: {id: 'kink/*.example.org@EXAMPLE.ORG'}
` + conn + `
    children: [{name: net` + child + `}]
`
}

// A connection of KINK has principals as identities, its own port, and no need of other
// credentials.
func TestKINKConnection(t *testing.T) {
	c, faults := Parse("/etc/iked/iked.yaml", []byte(kinkConf("    kink_compat: racoon2\n    kink_user_to_user: yes\n    kink_gss: never", ", start: always")), time.Now())
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	conn := c.Connections[0]
	if conn.Version != VersionKINK || conn.RemotePort != 910 || c.PortKINK != 910 || !conn.Racoon2 || !conn.UserToUser || conn.RekeyTime != 0 {
		t.Errorf("%+v", conn)
	}
	if l := conn.Local[0]; l.ID != (ident.ID{Type: ident.Kerberos, Data: "kink/a.example.org@EXAMPLE.ORG"}) || l.Keytab != "/etc/iked/a.keytab" || l.Class != AuthAny {
		t.Errorf("local %+v", l)
	}
	if r := conn.Remote[0]; r.ID.Type != ident.Kerberos || !r.ID.IsPattern() || conn.Local[0].ID.IsPattern() {
		t.Errorf("remote %+v", r)
	}
	// A star that is escaped is a character.
	if id := (ident.ID{Type: ident.Kerberos, Data: `kink/\*@R`}); id.IsPattern() {
		t.Error("an escaped star is a pattern")
	}
}

// What KINK cannot do is refused in words that say what to write instead, and what is
// KINK's alone is refused elsewhere.
func TestKINKFaults(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{kinkConf("    proposals: [aes128-sha256-x25519]", ""), "proposals is about IKE"},
		{kinkConf("    vips: [0.0.0.0]", ""), "vips is about IKE"},
		{kinkConf("    encap: yes", ""), "encap is about IKE"},
		{kinkConf("    reauth_time: 1h", ""), "reauth_time is about IKE"},
		{kinkConf("    kink_gss: always", ""), "not supported"},
		{kinkConf("    kink_compat: heimdal", ""), "expected one of none, racoon2"},
		{strings.Replace(kinkConf("", ""), "local: {id: kink/a.example.org@EXAMPLE.ORG, ", "local: {", 1), "local.id is not there"},
		{strings.Replace(kinkConf("", ""), "remote: {id: 'kink/*.example.org@EXAMPLE.ORG'}", "remote: {}", 1), "remote.id is not there"},
		{strings.Replace(kinkConf("", ""), "kink/a.example.org@EXAMPLE.ORG", "kink/a.example.org", 1), "no realm"},
		{strings.Replace(kinkConf("", ""), "kink/a.example.org@EXAMPLE.ORG", "'kink/*.example.org@EXAMPLE.ORG'", 1), "matches more than one"},
		{strings.Replace(kinkConf("", ""), "keytab: a.keytab", "keytab: a.keytab, ccache: b", 1), "not from both"},
		{strings.Replace(kinkConf("", ""), "keytab: a.keytab", "auth: psk", 1), "Kerberos alone"},
		{strings.Replace(kinkConf("", ""), "remote: {", "remote: {keytab: x, ", 1), "keeps its keytab to itself"},
		{strings.Replace(kinkConf("", ", start: always"), "[b.example.org]", "[192.0.2.1]", 1), "does not say which principal"},
		{"port_kink: 500\n", "is a port of IKE"},
		{strings.Replace(kinkConf("", ""), "version: kink", "version: 2", 1), "about KINK"},
		{"connections:\n  - name: a\n    kink_compat: racoon2\n    children: [{name: net}]\n", "about KINK"},
		{"connections:\n  - name: a\n    local: {id: 'krb5:kink/a@R'}\n    children: [{name: net}]\n", "no identities of Kerberos"},
		{"connections:\n  - name: a\n    version: krb\n", "set version to 2, 1 or kink"},
	} {
		_, faults := Parse("/etc/iked/iked.yaml", []byte(c.text), time.Now())
		if !slices.ContainsFunc(faults, func(f *Fault) bool { return !f.Warning && strings.Contains(f.Error(), c.want) }) {
			t.Errorf("expected a fault with %q for\n%s\n%v", c.want, c.text, faults)
		}
	}
}

// The port is opened once, and the userspace datapath lets that one pass: another one is
// for the next start, and the plan says so.
func TestKINKPortWantsARestart(t *testing.T) {
	parse := func(text string) *Config {
		c, faults := Parse("/etc/iked/iked.yaml", []byte(text), time.Now())
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		return c
	}
	d := Diff(parse(kinkConf("", "")), parse("port_kink: 911\n"+kinkConf("", "")))
	if !strings.Contains(d.String(), "~ port_kink: takes effect when the daemon is restarted") {
		t.Errorf("the plan is\n%s", d.String())
	}
}
