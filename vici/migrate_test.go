package vici

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/conf"
	"iked/migrate"
	"iked/spd"
	"iked/vici/wire"
)

// The words of a move are what the engine gets; what is wrong with them is said before
// anything is looked at.
func TestMigration(t *testing.T) {
	good := map[string]string{"dir": "in", "mode": "beet", "proto": "ah", "reqid": "7", "old_src": "192.0.2.1", "old_dst": "192.0.2.2", "new_src": "2001:db8::1", "new_dst": "2001:db8::2",
		"src_ts": "10.1.2.3/16", "dst_ts": "10.2.0.0/16", "ike_local": "2001:db8::2", "ike_remote": "2001:db8::1"}
	request := func(change ...string) (m wire.Message) {
		words := map[string]string{}
		for k, v := range good {
			words[k] = v
		}
		for i := 0; i < len(change); i += 2 {
			if words[change[i]] = change[i+1]; change[i+1] == "" {
				delete(words, change[i])
			}
		}
		for k, v := range words {
			m.Set(k, v)
		}
		return m
	}
	a := netip.MustParseAddr
	ev, err := migration(request())
	if err != nil {
		t.Fatal(err)
	}
	want := migrate.Entry{Proto: 51, Mode: spd.BEET, ReqID: 7, Old: migrate.Pair{Src: a("192.0.2.1"), Dst: a("192.0.2.2")}, New: migrate.Pair{Src: a("2001:db8::1"), Dst: a("2001:db8::2")}}
	if ev.Source != migrate.Control || ev.Dir != migrate.In || len(ev.Entries) != 1 || ev.Entries[0] != want || ev.KM != (migrate.Ends{Local: a("2001:db8::2"), Remote: a("2001:db8::1")}) ||
		ev.Selector.Src != netip.MustParsePrefix("10.1.0.0/16") {
		t.Errorf("read as %+v", ev)
	}
	for _, c := range []struct {
		change []string
		want   string
	}{
		{[]string{"new_src", ""}, "new_src: is missing"}, {[]string{"old_dst", "here"}, "old_dst"}, {[]string{"dir", "up"}, "dir"}, {[]string{"mode", "iptfs"}, "mode"},
		{[]string{"new_dst", "192.0.2.2"}, "families"}, {[]string{"ike_remote", ""}, "ike_remote: is missing"}, {[]string{"ike_local", ""}, "ike_local: is missing"}, {[]string{"src_ts", "10.1.0.0"}, "src_ts"}, {[]string{"new_sorc", "x"}, "unknown key"},
		{[]string{"new_src", "ff02::1"}, "hosts"},
	} {
		if _, err := migration(request(c.change...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, expected %q", c.change, err, c.want)
		}
	}
	_, client := engineServer(t)
	if m, err := client.Call(t.Context(), "migrate", request(), nil); err == nil && m.Bool("success", false) {
		t.Error("a move of SAs that are not there succeeds")
	}
}

// What of a connection is somebody else's word is told with it: whose policies its
// children have.
func TestConnectionBesideAManager(t *testing.T) {
	cfg, faults := conf.Parse("/nowhere/iked.yaml", []byte(`
connections:
  - name: c
    remote_addrs: [192.0.2.2]
    local: {id: a, auth: psk}
    remote: {id: b, auth: psk}
    children: [{name: theirs, policies: no, reqid: 7, reqid_in: 8}, {name: ours, reqid: 9}]
secrets: [{psk: "a-long-secret"}]
`), time.Now())
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	kids, _ := connSection(cfg.Connections[0]).Section("children")
	theirs, _ := kids.Section("theirs")
	ours, _ := kids.Section("ours")
	for key, want := range map[string]string{"policies": "no", "reqid": "7", "reqid-in": "8"} {
		if got, _ := theirs.Text(key); got != want {
			t.Errorf("%s is %q, expected %q", key, got, want)
		}
		if ours.Has(key) {
			t.Errorf("%s is told of a child that has its own policies", key)
		}
	}
}

// A manager without the kernel's MIGRATE tells where a connection begins before there is
// an SA, which list-conns then shows; and the keys of policies of others come by load-conn
// under the names that its clients know, and are refused where there is no kernel.
func TestManagerBeforeTheFirstSA(t *testing.T) {
	_, client := engineServer(t)
	call := func(command string, m wire.Message) error {
		_, err := client.Call(t.Context(), command, m, nil)
		return err
	}
	conn := func(policies string) (m wire.Message) {
		var auth, child, children, c wire.Message
		auth.Set("auth", "psk")
		child.SetList("local_ts", "10.1.0.0/16")
		child.SetList("remote_ts", "10.2.0.0/16")
		child.Set("policies", policies)
		child.Set("reqid", "7")
		children.SetSection("net", child)
		c.SetList("remote_addrs", "192.0.2.2")
		c.SetSection("local", auth)
		c.SetSection("remote", auth)
		c.SetSection("children", children)
		m.SetSection("office", c)
		return m
	}
	if err := call("load-conn", conn("no")); err == nil || !strings.Contains(err.Error(), "policies: no needs the kernel backend") {
		t.Errorf("policies: no in userspace: %v", err)
	}
	if err := call("load-conn", conn("yes")); err != nil {
		t.Fatal(err)
	}
	var m wire.Message
	for k, v := range map[string]string{"reqid": "7", "old_src": "192.0.2.1", "old_dst": "192.0.2.2", "new_src": "192.0.2.77", "new_dst": "192.0.2.2", "ike_local": "192.0.2.77", "ike_remote": "192.0.2.2"} {
		m.Set(k, v)
	}
	if err := call("migrate", m); err != nil {
		t.Errorf("a connection that begins elsewhere is a failure: %v", err)
	}
	var elsewhere wire.Message
	for k, v := range map[string]string{"reqid": "7", "old_src": "192.0.2.1", "old_dst": "192.0.2.3", "new_src": "192.0.2.77", "new_dst": "192.0.2.3", "ike_local": "192.0.2.77", "ike_remote": "192.0.2.3"} {
		elsewhere.Set(k, v)
	}
	if err := call("migrate", elsewhere); err == nil || !strings.Contains(err.Error(), "not used now: remote_addrs does not have 192.0.2.3") {
		t.Errorf("a place where the connection may not begin: %v", err)
	}
	if err := call("migrate", m); err != nil {
		t.Errorf("the first place again: %v", err)
	}
	var told []string
	if err := client.Stream(t.Context(), "list-conns", "list-conn", nil, func(m wire.Message) {
		c, _ := m.Section("office")
		for _, a := range c.List("kmaddress") {
			told = append(told, string(a))
		}
	}); err != nil || strings.Join(told, " ") != "192.0.2.77 192.0.2.2" {
		t.Errorf("list-conns tells %v, %v", told, err)
	}
}
