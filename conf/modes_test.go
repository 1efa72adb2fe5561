package conf

import (
	"fmt"
	"strings"
	"testing"

	"iked/crypto/suite"
	"iked/spd"

	"github.com/google/go-cmp/cmp"
)

// withChild is a configuration whose one connection and child have the keys given.
func withChild(conn, child string) string {
	if !strings.Contains(conn, "remote_addrs") {
		conn += "\n    remote_addrs: [192.0.2.2]"
	}
	return fmt.Sprintf(`
connections:
  - name: c
    %s
    local: {id: a, auth: psk}
    remote: {id: b, auth: psk}
    children: [{name: n, %s}]
secrets: [{psk: "a-long-secret"}]
`, strings.TrimLeft(conn, "\n "), child)
}

// Combinations of modes, protocols and PFP that contradict themselves are faults,
// at the key that is to blame, with the way out.
func TestContradictionsOfModes(t *testing.T) {
	for _, x := range []struct{ conn, child, key, want string }{
		{"", "mode: transport, local_ts: [10.1.0.0/16]", "local_ts", "mode transport protects the traffic of the hosts themselves, and local_ts has a subnet"},
		{"", "mode: transport, remote_ts: [10.2.0.0/16]", "remote_ts", "remote_ts has a subnet that remote_addrs does not have"},
		{"remote_addrs: [10.2.0.0/24]", "mode: transport, start: on-demand, remote_ts: [10.2.0.0/16]", "remote_ts", "addresses that are no peer's"},
		{"vips: [0.0.0.0]", "mode: transport", "vips", "a virtual address needs a tunnel"},
		{"", "mode: transport, tfc_padding: mtu", "tfc_padding", "only tunnel mode pads"},
		{"", "mode: beet, local_ts: [10.1.0.0/16]", "local_ts", "mode beet has one pair of inner addresses, and local_ts has more than one"},
		{"", "mode: beet, remote_ts: ['10.2.0.1', '10.2.0.2']", "remote_ts", "mode beet has one pair of inner addresses, and remote_ts has more than one"},
		{"", "mode: beet, remote_ts: [dynamic, '10.2.0.2']", "remote_ts", "mode beet has one pair"},
		{"", "mode: transport_proxy", "mode", "mode transport_proxy, which is for Mobile IPv6, is transport with a role here"},
		{"", "mode: iptfs", "mode", "not supported by this version: mode iptfs"},
		{"", "mode: tunnel, mode_required: yes", "mode_required", "tunnel mode is what a peer falls back to"},
		{"", "mode: drop, mode_required: yes", "mode_required", "negotiates no mode"},
		{"", "ah_proposals: [sha256], esp_proposals: [aes128gcm16]", "ah_proposals", "a CHILD_SA of IKEv2 is ESP or AH, not both"},
		{"version: 1", "ah_proposals: [sha256], esp_proposals: [aes128gcm16], mode: beet", "ah_proposals", "mode beet takes them off"},
		{"version: 1", "ah_proposals: [sha256-modp2048], esp_proposals: [aes128gcm16-modp3072]", "ah_proposals", "forward secrecy of AH and ESP together"},
		{"version: 1\n    encap: yes", "ah_proposals: [sha256], esp_proposals: [aes128gcm16]", "encap", "AH has no such encapsulation"},
		{"", "ipcomp: yes, ah_proposals: [sha256]", "ipcomp", "the child has AH alone"},
		{"", "ipcomp: yes, mode: beet", "ipcomp", "tunnel and transport mode"},
		{"", "ipcomp: yes, tfc_padding: mtu", "ipcomp", "what tfc_padding hides"},
		{"version: kink", "ipcomp: yes", "ipcomp", "not by KINK"},
		{"encap: yes", "ah_proposals: [sha256]", "encap", "AH has no such encapsulation"},
		{"", "ah_proposals: [sha256], tfc_padding: 1000", "tfc_padding", "AH has no padding"},
		{"", "ah_proposals: [aes128]", "ah_proposals[0]", "AH"},
		{"version: 1\n    nat_traversal: no", "mode: tunnel", "nat_traversal", "is about IKEv2"},
		{"version: kink\n    nat_traversal: no", "mode: tunnel", "nat_traversal", "is about IKEv2"},
		{"encap: yes\n    nat_traversal: no", "mode: tunnel", "nat_traversal", "allows none"},
		{"", "policies: no", "policies", "reqid is not given"},
		{"", "policies: no, reqid: 5, mode: drop", "policies", "nothing is left of it without"},
		{"version: 1", "policies: no, reqid: 5, ah_proposals: [sha256], esp_proposals: [aes128gcm16]", "ah_proposals", "has a request id of its own"},
		{"", "policies: no, reqid: 5, ipcomp: yes", "ipcomp", "those of the child are somebody else's"},
		{"", "policies: no, reqid: 5, priority: 7", "priority", "has no policies of the daemon's"},
		{"", "policies: no, reqid: 0, fail: open", "fail", "up to who has its policies"},
		{"", "reqid: 5, reqid_in: 6", "reqid_in", "one request id for both directions"},
		{"", "pfp: [remote_port], start: always", "pfp", "start: always asks without one"},
		{"", "pfp: [remote_port], start_action: trap, close_action: start", "pfp", "asks without one"},
		{"", "pfp: [remote_port], mode: pass", "pfp", "makes no SA"},
		{"", "pfp: [remote_port], reqid: 5", "reqid", "each needs a reqid of its own"},
		{"", "pfp: [remote_port], priority: 1", "priority", "no priority is before 1"},
		{"", "pfp: [port]", "pfp[0]", "expected some of local_addr, remote_addr, protocol, local_port, remote_port"},
		{"", "pfp_limit: 0", "pfp_limit", "expected a number from 1 to 1024"},
		{"remote_addrs: ['%any']", "start: always", "start", "there is no address to reach the peer at"},
		{"remote_addrs: [10.2.0.0/24]\n    vips: [0.0.0.0]", "start: on-demand", "vips", "a virtual address comes from one peer"},
	} {
		_, faults := Parse("/nowhere/iked.yaml", []byte(withChild(x.conn, x.child)), testNow)
		ok := false
		for _, f := range faults {
			ok = ok || !f.Warning && strings.HasSuffix(f.Key, "."+x.key) && strings.Contains(f.Message, x.want)
		}
		if !ok {
			t.Errorf("%s / %s: expected a fault at %s with %q, found\n%v", x.conn, x.child, x.key, x.want, faults)
		}
	}
}

// A policy without SA that nothing puts in force is worth a word: who writes mode: drop
// believes that something is dropped.
func TestShuntThatNothingStarts(t *testing.T) {
	for child, want := range map[string]bool{
		"mode: drop": true, "mode: pass": true, "mode: drop, start: always": false, "mode: drop, start_action: trap": false, "mode: pass, start: passive": false, "mode: tunnel": false,
	} {
		_, faults := Parse("/nowhere/iked.yaml", []byte(withChild("", child)), testNow)
		got := len(faults) == 1 && faults[0].Warning && strings.Contains(faults[0].Message, "nothing starts")
		if got != want || !want && len(faults) > 0 {
			t.Errorf("%s: %v", child, faults)
		}
	}
}

// What each key of a mode says reaches the model, in YAML as in TOML.
func TestModesAreRead(t *testing.T) {
	one := func(conn, child string) (*Connection, *Child) {
		t.Helper()
		c, faults := Parse("/nowhere/iked.yaml", []byte(withChild(conn, child)), testNow)
		if len(faults) > 0 {
			t.Fatalf("%s: %v", child, faults)
		}
		return c.Connections[0], c.Connections[0].Children[0]
	}
	if _, ch := one("", "mode: transport, mode_required: yes"); ch.Mode != ModeTransport || !ch.ModeRequired {
		t.Errorf("transport: %+v", ch)
	}
	if _, ch := one("", "mode: beet, local_ts: ['10.1.0.1[tcp]', '10.1.0.1[udp]'], remote_ts: ['10.9.0.1']"); ch.Mode != ModeBEET || len(ch.Local) != 2 {
		t.Errorf("beet: %+v", ch)
	}
	if _, ch := one("", "ah_proposals: [sha256-esn-x25519]"); ch.Proposals[0].Protocol != suite.ProtoAH || !ch.Proposals[0].ESN() {
		t.Errorf("AH: %+v", ch.Proposals)
	}
	if _, ch := one("version: 1", "ah_proposals: [sha256-modp2048], esp_proposals: [aes128-sha1-modp2048]"); ch.Proposals[0].Protocol != suite.ProtoESP || len(ch.AH) != 1 || ch.AH[0].Protocol != suite.ProtoAH {
		t.Errorf("AH around ESP: %+v %+v", ch.Proposals, ch.AH)
	}
	if _, ch := one("", "ipcomp: yes"); !ch.IPComp {
		t.Errorf("ipcomp: %+v", ch)
	}
	if _, ch := one("version: 1", "ipcomp: yes, ah_proposals: [sha256], esp_proposals: [aes128-sha1]"); !ch.IPComp || len(ch.AH) != 1 {
		t.Errorf("ipcomp with AH around ESP: %+v", ch)
	}
	if _, ch := one("", "local_ts: [dynamic]"); ch.Proposals[0].Protocol != suite.ProtoESP || ch.Inactivity != 0 {
		t.Errorf("default: %+v", ch)
	}
	c, ch := one("", "pfp: [local_addr, remote_addr, protocol, local_port, remote_port], start: on-demand, pfp_limit: 3")
	all := spd.PFPLocalAddr | spd.PFPRemoteAddr | spd.PFPProtocol | spd.PFPLocalPort | spd.PFPRemotePort
	if ch.PFP != all || ch.PFPLimit != 3 || ch.Inactivity != defaultPFPIdle || !c.PerPacket(ch) || c.ManyPeers() {
		t.Errorf("pfp: %+v", ch)
	}
	if d := cmp.Diff(pfpNames, PFPNames(all)); d != "" {
		t.Error(d)
	}
	if _, ch := one("", "pfp: [remote_port], start: passive, inactivity: 0"); ch.Inactivity != 0 {
		t.Errorf("an inactivity that was given: %v", ch.Inactivity)
	}
	// An end node that protects all traffic to a subnet, whoever is there.
	for addrs, ts := range map[string]string{"10.0.0.0/24": "dynamic", "10.0.0.0/16": "10.0.0.0/24", "'%any'": "10.0.0.0/24"} {
		c, ch := one("remote_addrs: ["+addrs+"]", "mode: transport, start: on-demand, remote_ts: ["+ts+"]")
		if !c.ManyPeers() || !c.PerPacket(ch) || ch.Inactivity != defaultPFPIdle {
			t.Errorf("many peers: %+v %+v", c, ch)
		}
	}
	if c, ch := one("remote_addrs: ['%any']", "mode: transport, start: passive"); c.PerPacket(ch) || ch.Inactivity != 0 {
		t.Errorf("a passive child of many peers: %+v", ch)
	}
}

// The control protocol has the keys that other implementations know, and refuses
// the same contradictions.
func TestModesOverTheControlProtocol(t *testing.T) {
	load := func(items ...Item) (*Child, error) {
		c, err := LoadConns(conn("a", list("remote_addrs", "192.0.2.2"), section("children", section("c", items...))))
		if err != nil {
			return nil, err
		}
		return c[0].Children[0], nil
	}
	if ch, err := load(kv("mode", "transport")); err != nil || ch.Mode != ModeTransport {
		t.Error(ch, err)
	}
	if ch, err := load(kv("mode", "beet")); err != nil || ch.Mode != ModeBEET {
		t.Error(ch, err)
	}
	if ch, err := load(list("ah_proposals", "sha256-modp2048")); err != nil || ch.Proposals[0].Protocol != suite.ProtoAH {
		t.Error(ch, err)
	}
	for want, items := range map[string][]Item{
		"invalid value for: mode, config discarded":      {kv("mode", "transport_proxy")},
		"unknown option: pfp, config discarded":          {list("pfp", "remote_port")},
		"a CHILD_SA of IKEv2 is ESP or AH, not both":     {list("ah_proposals", "sha256"), list("esp_proposals", "aes128gcm16")},
		"mode transport protects the traffic of the hos": {kv("mode", "transport"), list("local_ts", "10.1.0.0/16")},
	} {
		if _, err := load(items...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
