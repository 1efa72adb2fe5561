package conf

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"iked/internal/ident"
	"iked/internal/secret"

	"github.com/google/go-cmp/cmp"
)

func sprint(v any) string { return fmt.Sprintf("%v %+v %#v %s", v, v, v, v) }

func kv(k, v string) Item                { return Item{Kind: KeyValue, Key: k, Value: v} }
func list(k string, v ...string) Item    { return Item{Kind: List, Key: k, List: v} }
func section(k string, it ...Item) Item  { return Item{Kind: Section, Key: k, Tree: &Tree{Items: it}} }
func message(it ...Item) *Tree           { return &Tree{Items: it} }
func conn(name string, it ...Item) *Tree { return message(section(name, it...)) }

// What swanctl sends for a connection is taken as it means it.
func TestLoadConnLikeSwanctl(t *testing.T) {
	got, err := LoadConns(conn("gw-gw",
		kv("version", "2"), list("local_addrs", "192.0.2.1"), list("remote_addrs", "192.0.2.2", "198.51.100.0/24"),
		list("proposals", "aes128-sha256-x25519", "default"), kv("rekey_time", "4h"), kv("over_time", "10m"), kv("dpd_delay", "30s"), kv("unique", "replace"),
		section("local", kv("auth", "psk"), kv("id", "a.lab.test")),
		section("remote", kv("auth", "psk"), kv("id", "b.lab.test"), kv("revocation", "ifuri")),
		section("children", section("net-net", list("local_ts", "10.1.0.0/24", "10.1.5.1-10.1.5.9[tcp/80]"), list("remote_ts", "10.2.0.0/24[udp/1000-2000]"),
			kv("rekey_time", "1h"), kv("rekey_bytes", "500M"), kv("start_action", "none"), kv("dpd_action", "restart"), kv("close_action", "trap|start")))))
	if err != nil {
		t.Fatal(err)
	}
	c := got[0]
	ch := c.Children[0]
	if c.Name != "gw-gw" || c.RekeyTime != 4*time.Hour || c.OverTime != 10*time.Minute || c.DPDDelay != 30*time.Second || c.Unique != UniqueReplace || c.Local[0].Class != AuthPSK {
		t.Errorf("%+v", c)
	}
	if ch.Bytes.Rekey != 500<<20 || ch.DPDAction != ActionStart || ch.CloseAction != ActionTrap|ActionStart || len(ch.Local) != 2 || ch.Local[1].Proto != 6 {
		t.Errorf("%+v", ch)
	}
	if ch.CloseAction.String() != "trap | start" {
		t.Error(ch.CloseAction)
	}
}

// The refusals are worded as clients of the control protocol know them.
func TestLoadConnErrors(t *testing.T) {
	for _, x := range []struct {
		tree *Tree
		want string
	}{
		{conn("a", kv("no_such", "1")), "unknown option: no_such, config discarded"},
		{conn("a", list("version", "2")), "unknown option: version, config discarded"},
		{conn("a", kv("local_addrs", "10.0.0.1")), "unknown option: local_addrs, config discarded"},
		{conn("a", kv("start", "always")), "unknown option: start, config discarded"},
		{conn("a", kv("rekey_time", "1x")), "invalid value for: rekey_time, config discarded"},
		{conn("a", kv("rekey_time", "10%")), "invalid value for: rekey_time, config discarded"},
		{conn("a", kv("dscp", "46")), "invalid value for: dscp, config discarded"},
		{conn("a", kv("encap", "maybe")), "invalid value for: encap, config discarded"},
		{conn("a", kv("encap", "ye\x00s")), "invalid value for: encap, config discarded"},
		{conn("a", list("proposals", "AES128-sha256-x25519")), "invalid value for: proposals, config discarded"},
		{conn("a", section("bogus")), "invalid section: bogus"},
		{conn("a", section("local", kv("auth", "any"))), "invalid value for: auth, config discarded"},
		{conn("a", section("local", section("cert1"))), "handle or file path missing: cert1"},
		{conn("a", section("local", section("cert1", kv("file", "/x"), kv("handle", "01")))), "handle and file path given: cert1"},
		{conn("a", section("local", section("cert1", kv("file", "/nonexistent")))), "unable to load certificate: cert1"},
		{conn("a", section("local", list("certs", "junk"))), "invalid value for: certs, config discarded"},
		{conn("a", section("children", section("c", list("local_ts", "www.example.org")))), "invalid value for: local_ts, config discarded"},
		{conn("a", section("children", section("c", kv("start_action", "hold")))), "invalid value for: start_action, config discarded"},
		{conn("a", kv("version", "3")), "invalid value for: version, config discarded"},
	} {
		_, err := LoadConns(x.tree)
		if err == nil || err.Error() != x.want {
			t.Errorf("want %q\n got %v", x.want, err)
		}
		if e, ok := errors.AsType[*LoadError](err); !ok || !e.Faults.Failed() {
			t.Errorf("%q: no details for the log", x.want)
		}
	}
}

// An empty message succeeds, key/values at the top are ignored, and connections
// before a bad one stay.
func TestLoadConnSeveral(t *testing.T) {
	if got, err := LoadConns(message(kv("x", "y"))); err != nil || got != nil {
		t.Error(got, err)
	}
	got, err := LoadConns(message(section("a"), section("b", kv("x", "1")), section("c")))
	if len(got) != 1 || got[0].Name != "a" || err == nil {
		t.Error(got, err)
	}
	// Without auth sections this side uses pubkey, the peer any class.
	if got[0].Local[0].Class != AuthPubkey || got[0].Remote[0].Class != AuthAny {
		t.Errorf("%+v %+v", got[0].Local[0], got[0].Remote[0])
	}
}

// Pools give the addresses that the field's own daemon gives.
func TestPools(t *testing.T) {
	for _, x := range []struct {
		addrs, base string
		size        uint64
	}{
		{"10.9.0.0/28", "10.9.0.1", 14}, {"10.0.0.5/24", "10.0.0.5", 250}, {"10.0.0.1-10.0.0.9", "10.0.0.1", 9},
		{"10.0.0.1/32", "10.0.0.1", 1}, {"10.0.0.0/31", "10.0.0.0", 2}, {"fd00::/120", "fd00::1", 254}, {"fd00::/64", "fd00::1", 1 << 31},
	} {
		p, err := LoadPools(conn("p", kv("addrs", x.addrs)))
		if err != nil || p[0].Base.String() != x.base || p[0].Size != x.size {
			t.Errorf("%s: %+v %v", x.addrs, p, err)
		}
	}
	p, err := LoadPools(conn("p", kv("addrs", "10.9.0.0/28"), list("dns", "10.9.0.1", "2001:db8::1"), list("subnet", "10.1.0.0/16"), list("28683", "hello")))
	if err != nil {
		t.Fatal(err)
	}
	want := []Attr{{28683, []byte("hello")}, {3, []byte{10, 9, 0, 1}}, {10, append([]byte{0x20, 1, 0xd, 0xb8}, append(make([]byte, 11), 1)...)}, {13, []byte{10, 1, 0, 0, 255, 255, 0, 0}}}
	if d := cmp.Diff(want, p[0].Attrs); d != "" {
		t.Error(d)
	}
	for _, x := range []struct {
		tree *Tree
		want string
	}{
		{conn("p"), "missing addrs for pool 'p'"},
		{conn("p", kv("addrs", "x")), "invalid addrs value: x"},
		{conn("p", kv("addrs", "10.0.0.9-10.0.0.1")), "invalid addrs value: 10.0.0.9-10.0.0.1"},
		{conn("p", kv("addrs", "10.0.0.0/24"), list("nope", "1")), "invalid attribute: nope"},
		{conn("p", kv("addrs", "10.0.0.0/24"), list("dns", "x")), "invalid attribute value for dns"},
	} {
		if _, err := LoadPools(x.tree); err == nil || err.Error() != x.want {
			t.Errorf("want %q, got %v", x.want, err)
		}
	}
	if _, err := LoadAuthorities(conn("x", list("crl_uris", "http://a"))); err == nil || err.Error() != "CA certificate missing: x" {
		t.Error(err)
	}
	if _, err := LoadAuthorities(conn("x", kv("what", "1"))); err == nil || err.Error() != "unknown option: what, authority discarded" {
		t.Error(err)
	}
}

// A secret that names another peer is never used for this one; the better match
// of the peer wins.
func TestFindPSK(t *testing.T) {
	id := func(s string) ident.ID { i, _ := ident.Parse(s); return i }
	mk := func(name string, owners ...string) *Secret {
		s := &Secret{Name: name, Type: SecretIKE, Data: secret.New([]byte(name))}
		for _, o := range owners {
			s.Owners = append(s.Owners, id(o))
		}
		return s
	}
	all := []*Secret{mk("any"), mk("pair", "moon", "sun"), mk("net", "192.0.2.0/24"), mk("wild", "moon", "*.example.org"), mk("exact", "a.example.org"), mk("self", "venus")}
	for _, x := range []struct{ me, peer, want string }{
		{"moon", "sun", "pair"}, {"moon", "mars", "any"}, {"moon", "192.0.2.7", "net"}, {"moon", "b.example.org", "wild"},
		{"moon", "A.EXAMPLE.org", "exact"}, {"venus", "mars", "self"}, {"moon", "192.0.3.7", "any"},
	} {
		s, ok := NewPSKs(all).Find(id(x.me), id(x.peer))
		if !ok || s.Name != x.want {
			t.Errorf("%s and %s: got %v, want %s", x.me, x.peer, s, x.want)
		}
	}
	if s, ok := NewPSKs([]*Secret{mk("pair", "moon", "sun")}).Find(id("moon"), id("mars")); ok {
		t.Errorf("the secret of another peer was used: %s", s.Name)
	}
	if _, ok := NewPSKs([]*Secret{{Type: SecretEAP, Data: secret.New([]byte("x"))}}).Find(id("a"), id("b")); ok {
		t.Error("a secret for EAP was used for IKE")
	}
}

// A reload changes only what differs: a child alone, or the whole connection.
func TestDiff(t *testing.T) {
	base := `
connections:
  - name: office
    remote_addrs: [192.0.2.1]
    children:
      - {name: a, remote_ts: [10.2.0.0/16]}
      - {name: b, remote_ts: [10.3.0.0/16], start: on-demand}
  - {name: gone}
secrets: [{psk: one}]
pools: [{name: p, addrs: 10.9.0.0/24}]
`
	old := load(t, map[string]string{"iked.yaml": base})
	same := load(t, map[string]string{"iked.yaml": "\n# moved by two lines\n" + base})
	if d := Diff(old, same); d.String() != "" || len(d.Same) != 2 {
		t.Errorf("no difference expected:\n%s", d.String())
	}
	changed := load(t, map[string]string{"iked.yaml": `
port: 501
fail: open
connections:
  - name: office
    remote_addrs: [192.0.2.1]
    children:
      - {name: b, remote_ts: [10.3.0.0/16, 10.4.0.0/16], start: on-demand, inactivity: 5m}
      - {name: c, remote_ts: [10.5.0.0/16], start: always}
  - {name: new}
secrets: [{psk: two, id: sun}, {psk: three}]
pools: [{name: p, addrs: 10.9.0.0/24, dns: [10.9.0.1]}]
`})
	d := Diff(old, changed)
	want := `~ port: takes effect when the daemon is restarted
~ fail
- connection gone: unloaded, what it started is undone
- child office/a: what it started is undone
~ child office/b: replaced, because of remote_ts, inactivity
+ child office/c: is set up now
+ connection new
- secret of everybody
+ secret of sun
+ secret of everybody
~ pool p: attributes
`
	if x := cmp.Diff(want, d.String()+"\n"); x != "" {
		t.Error(x)
	}
	replaced := load(t, map[string]string{"iked.yaml": `
connections:
  - {name: office, remote_addrs: [192.0.2.2], dpd_delay: 30s}
  - {name: gone}
secrets: [{psk: one}]
`})
	d = Diff(old, replaced)
	if len(d.Changed) != 1 || !d.Changed[0].IKE || !cmp.Equal(d.Changed[0].Keys, []string{"remote_addrs", "dpd_delay"}) {
		t.Errorf("%s", d.String())
	}
}

// Times and sizes have the grammar of the field, and do not overflow.
func TestTimesAndSizes(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 0, "5": 5 * time.Second, "30s": 30 * time.Second, "2 m": 2 * time.Minute, "4H": 4 * time.Hour, "1d": 24 * time.Hour, "250ms": 250 * time.Millisecond} {
		if got, err := ParseTime(in); err != nil || got != want {
			t.Errorf("%q: %v %v", in, got, err)
		}
	}
	for _, in := range []string{"1x", "10%", "-1", "s", "1h30m", "99999999999999999999s", "999999999d", "1.5h"} {
		if got, err := ParseTime(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
	for in, want := range map[string]uint64{"": 0, "12": 12, "500M": 500 << 20, "2 g": 2 << 30, "1k": 1024} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("%q: %v %v", in, got, err)
		}
	}
	for _, in := range []string{"1T", "k", "-1", "99999999999G"} {
		if got, err := ParseBytes(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func FuzzValues(f *testing.F) {
	for _, s := range []string{"4h", "500M", "10.1.0.0/16[tcp/80]", "10.0.0.1-10.0.0.9", "dynamic[icmp/8]", "sun.example.org", "trap|start", "0sAAAA", "fd00::/64", "%any"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseTime(s); err == nil && (d < 0 || d > maxTime) {
			t.Errorf("time %v", d)
		}
		_, _ = ParseBytes(s)
		_, _ = ParseTS(s)
		_, _ = parseAction(s)
		_, _ = decodeSecret(s)
		if h, err := ParseHost(s); err == nil && h.From.IsValid() && (h.To.Less(h.From) || !h.Contains(h.From) || !h.Contains(h.To)) {
			t.Errorf("%q: %+v", s, h)
		}
	})
}
