package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/backend/fake"
)

// keyCase says what a key of the configuration does, in one of three ways.
type keyCase struct {
	// value is one that must change what the engine is made of.
	value string
	// with are other keys of the section that value needs.
	with string
	// refused is a value that must be an error, for a key that asks for what this
	// version has not.
	refused string
	// proof is file:test of the test that shows the effect, for a key that acts
	// outside of what is compared here. nothing: what the key is about is not done
	// by IKEv2, and the reference says so.
	proof, nothing string
}

// keyCases has every key of the reference, by section.
func keyCases() map[string]map[string]keyCase {
	v := func(s string) keyCase { return keyCase{value: s} }
	no := func(s string) keyCase { return keyCase{refused: s} }
	at := func(s string) keyCase { return keyCase{proof: s} }
	const daemon, pkiTest, confTest = "internal/daemon/options_test.go:TestOptionsFollowTheConfiguration", "internal/pki/pki_test.go:TestVerifyFailures", "conf/creds_test.go:TestCredentialDirectories"
	const kerberos, kink = "internal/engine/kink_test.go:TestKerberosFollowsTheConfiguration", "kink/compat_test.go:TestRacoon2Peer"
	const bound, confRoute = "internal/engine/route_test.go:TestBoundSA", "conf/route_test.go:TestIfIDs"
	const radiusDaemon = "internal/daemon/users_test.go:TestRadiusFollowsTheConfiguration"
	const homes = "conf/mobility_test.go:TestHomeAddresses"
	return map[string]map[string]keyCase{
		"Top level": {
			"port_kink": at(kerberos), "krb5_conf": at(kerberos), "krb5_etypes": at(kerberos), "port": v("501"), "port_nat_t": v("4501"), "backend": at("internal/daemon/choose_test.go:TestChoose"),
			"fail": v("open"), "bypass": at("internal/engine/bypass_test.go:TestBypassPolicies"), "keep_alive": v("0"), "fragment_size": v("1000"), "min_rsa_bits": v("3072"), "xauth_hook": at("internal/engine/xauth_test.go:TestUsersElsewhere"),
		},
		"connections": {
			"version": v("1"), "local_addrs": v("[192.0.2.9]"), "remote_addrs": v("[192.0.2.9]"), "local_port": v("4500"), "remote_port": v("4500"),
			"proposals": v("[aes128-sha256-modp2048]"), "vips": v("[0.0.0.0]"), "aggressive": {value: "yes", with: "version: 1"}, "aggressive_psk": {value: "yes", with: "version: 1\naggressive: yes"}, "pull": {value: "no", with: "version: 1"}, "proposal_check": {value: "exact", with: "version: 1"}, "unity": {value: "yes", with: "version: 1\nvips: [0.0.0.0]"}, "kink_compat": at(kink), "kink_user_to_user": at("internal/engine/kink_test.go:TestKINKUserToUser"), "kink_gss": no("allow"), "dscp": v("'101110'"),
			"encap": v("yes"), "mobike": v("no"), "nat_traversal": v("no"), "mobility": at("internal/engine/migrate_test.go:TestMobilityKey"), "mobility_role": {value: "agent", with: "pools: [p]"}, "dpd_delay": v("10s"), "dpd_timeout": {nothing: "IKEv1 only"},
			"fragmentation": v("no"), "childless": no("force"), "send_certreq": v("no"), "send_cert": v("always"), "ocsp": no("both"),
			"ppk_id": no("x"), "ppk_required": no("yes"), "keyingtries": at("internal/engine/keys_act_test.go:TestKeyingTries"),
			"unique": at("internal/engine/operate_test.go:TestUnique"), "reauth_time": v("1h"), "rekey_time": v("1h"), "over_time": v("9m"), "rand_time": v("3m"),
			"pools": v("[p]"), "if_id_in": at(confRoute), "if_id_out": at(confRoute), "mediation": no("yes"), "mediated_by": no("x"), "mediation_peer": no("x"),
		},
		"connections: local and remote": {
			"keytab": at(kerberos), "ccache": at(kerberos), "round": {nothing: "Order of the rounds"}, "auth": at("ikev2/features_test.go:TestAuthClass"), "id": v("other"), "certs": at("conf/creds_test.go:TestLoadCertAndKey"),
			"cacerts": at(pkiTest), "ca_id": v("'CN=x'"), "revocation": v("strict"), "cert_policy": v("[1.2.3]"), "pubkeys": no("[x]"), "groups": no("[x]"),
			"eap_id": no("x"), "aaa_id": no("x"), "xauth_id": at("ikev1/xauth_test.go:TestXAuth"), "home_addresses": at(homes),
		},
		"connections: children": {
			"start": v("on-demand"), "fail": at("internal/engine/keys_act_test.go:TestFailOfEachChild"), "ah_proposals": v("[sha256]"), "esp_proposals": v("[aes128-sha256]"), "local_ts": v("[10.9.0.0/16]"),
			"remote_ts": v("[10.9.0.0/16]"), "rekey_time": v("30m"), "life_time": v("3h"), "rand_time": v("1m"),
			"rekey_bytes": v("1g"), "life_bytes": {value: "1500m", with: "rekey_bytes: 1g"}, "rand_bytes": {value: "5m", with: "rekey_bytes: 1g"},
			"rekey_packets": v("1000"), "life_packets": {value: "1500", with: "rekey_packets: 1000"}, "rand_packets": {value: "5", with: "rekey_packets: 1000"},
			"mode": {value: "drop", with: "start_action: trap"}, "mode_required": {value: "yes", with: "mode: beet\nlocal_ts: [dynamic]\nremote_ts: [dynamic]"},
			"pfp": v("[remote_port]"), "pfp_limit": {value: "7", with: "pfp: [remote_port]"}, "policies": {value: "no", with: "reqid: 7"}, "reqid_in": at("internal/engine/others_test.go:TestOthersPolicies"), "policies_fwd_out": no("yes"), "start_action": v("trap"),
			"close_action": at("internal/engine/keys_act_test.go:TestActions"), "dpd_action": at("internal/engine/keys_act_test.go:TestActions"),
			"updown": no("x"), "hostaccess": no("yes"), "ipcomp": v("yes"), "inactivity": v("5m"), "reqid": v("77"), "priority": v("77"),
			"interface": at("internal/engine/route_test.go:TestInterfaceOfChild"), "if_id": v("7"), "mark_in": v("1"), "mark_out": v("0x10/0xf0"),
			"mark_in_sa": at(bound), "set_mark_in": at(bound), "set_mark_out": at(bound),
			"if_id_in": at(confRoute), "if_id_out": at(confRoute), "label": no("x"), "label_mode": no("selinux"), "tfc_padding": v("mtu"), "replay_window": v("0"),
			"hw_offload": at(bound), "sha256_96": v("yes"), "copy_df": v("no"), "df": v("set"), "copy_ecn": v("no"), "copy_dscp": v("in"),
			"per_cpu_sas": no("yes"), "icmp": no("yes"),
		},
		"secrets": {
			"name": {nothing: "Name, for people"}, "psk": v("another"), "id": v("[sun]"), "type": at("conf/psk_test.go:TestUserSecrets"),
			"private": at("conf/creds_test.go:TestCredentialFaults"), "passphrase": at("internal/pki/pkcs8_test.go:TestEncryptedKeys"),
		},
		"pools": {
			"addrs": at("internal/engine/more_test.go:TestPoolRunsOut"), "dns": v("[10.0.0.1]"), "address": v("[10.0.0.1]"), "nbns": v("[10.0.0.1]"), "dhcp": v("[10.0.0.1]"),
			"netmask": v("[255.0.0.0]"), "subnet": v("[10.0.0.0/8]"), "p_cscf": v("[10.0.0.1]"), "server": v("[10.0.0.1]"), "split_include": v("[10.0.0.0/8]"), "split_exclude": v("[10.0.0.0/8]"), "banner": v("hello"), "domain": v("example.org"), "home_prefix": v("['2001:db8::/64']"), "home_agent": v("['2001:db8::1']"),
		},
		"authorities": {
			"cacert": at(confTest), "file": at(confTest), "handle": no("01"), "slot": no("1"), "module": no("x"),
			"crl_uris": {nothing: "never fetched"}, "ocsp_uris": {nothing: "never asked"}, "cert_uri_base": {nothing: "never fetched"},
		},
		"radius": {
			"address": at(radiusDaemon), "auth_port": at(radiusDaemon), "secret": at(radiusDaemon), "nas_identifier": at(radiusDaemon),
			"retransmit_timeout": at(radiusDaemon), "retransmit_tries": at(radiusDaemon), "retransmit_base": at(radiusDaemon),
		},
		"home_addresses": {"id": at(homes), "addrs": at(homes)},
		"log":            {"level": at(daemon), "format": at("internal/daemon/daemon_test.go:TestLogFields")},
		"control":        {"socket": at("internal/daemon/daemon_test.go:TestControlSocket"), "owner": at(daemon), "group": at(daemon), "mode": at(daemon)},
		"datapath": {"mtu": at(daemon), "queues": at(daemon), "device": at(daemon), "table": at(daemon), "rule_priority": at(daemon), "mark": at(daemon),
			"hop_limit": at(daemon), "reassembly_memory": at(daemon), "acquire_queue": at(daemon)},
		"limits": {"half_open": at("internal/engine/strangers_test.go:TestHalfOpenFlood"), "half_open_per_source": at("internal/engine/strangers_test.go:TestHalfOpenPerSource"),
			"cookie_threshold": at("internal/engine/strangers_test.go:TestCookie"), "rate_per_source": at("internal/engine/cve_test.go:TestFloodOfRefusedRequests"),
			"half_open_timeout": v("7s"), "ike_sas": at("internal/engine/keys_act_test.go:TestMostIKESAs")},
		"retransmit": {"timeout": v("1s"), "base": v("2"), "tries": v("3"), "max": v("9s"), "jitter": v("0")},
	}
}

// withKey is a configuration with one key of a section.
func withKey(section, line string) string {
	at := map[string]string{section: "\n" + line}
	indent := func(s string, n int) string {
		return strings.ReplaceAll(at[s], "\n", "\n"+strings.Repeat(" ", n))
	}
	pick := func(s, key, def string) string {
		if strings.Contains(at[s], "\n"+key+":") {
			return ""
		}
		return def
	}
	text := "connections:\n  - name: c\n" +
		pick("connections", "remote_addrs", "    remote_addrs: [192.0.2.2]\n") + pick("connections", "local_addrs", "    local_addrs: [192.0.2.1]\n") +
		"    local: {id: moon, auth: psk}\n    remote:" + pick("connections: local and remote", "auth", "\n      auth: psk") + pick("connections: local and remote", "id", "\n      id: 'sun'") +
		indent("connections: local and remote", 6) + indent("connections", 4) +
		"\n    children:\n      - name: n\n" + pick("connections: children", "local_ts", "        local_ts: [10.1.0.0/16]\n") +
		pick("connections: children", "remote_ts", "        remote_ts: [10.2.0.0/16]") + indent("connections: children", 8) +
		"\npools:\n  - name: p\n" + pick("pools", "addrs", "    addrs: 10.9.0.0/24") + indent("pools", 4) +
		"\nsecrets:\n  - " + pick("secrets", "psk", "psk: a-long-secret") + strings.TrimLeft(indent("secrets", 4), "\n ") + "\n"
	if pick("secrets", "psk", "x") != "" {
		text = strings.Replace(text, "psk: a-long-secret", "psk: a-long-secret\n    ", 1)
	}
	switch section {
	case "Top level":
		text += line + "\n"
	case "authorities":
		text += "authorities:\n  - name: a\n    " + line + "\n"
	case "log", "control", "datapath", "limits", "retransmit":
		text += section + ":\n  " + line + "\n"
	}
	return text
}

// made is what the engine makes of a configuration, as text: the configuration of
// the state machine, policies, addresses, credentials and pools.
func made(t *testing.T, text string) string {
	t.Helper()
	cfg, faults := conf.Parse("/nowhere/iked.yaml", []byte(text), time.Now())
	if err := faults.Err(); err != nil && faults.Failed() {
		t.Fatalf("%v\n%s", err, text)
	}
	back := fake.New()
	info := back.Describe()
	info.Name = "kernel" // which has all keys
	back.SetInfo(info)
	e, err := New(Options{Backend: back, Transport: wire{}, Shards: 1, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(context.Background())
	e.sup.stop() // nothing is to be initiated
	if _, err := e.Apply(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	c := cfg.Connections[0]
	ike := *e.config.Load().conns["c"].ike
	remote, own := demands(authOf(ike.Remote)), e.store.own(&ike, nil)
	dscp := dscpOf(&ike)
	ike.Ref, ike.Local.Ref, ike.Remote.Ref = nil, nil, nil
	children := ike.Children
	ike.Children = nil
	out, err := json.Marshal(ike)
	if err != nil {
		t.Fatal(err)
	}
	text = string(out)
	for _, ch := range children {
		x := *ch
		x.Ref = nil
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		text += "\n" + string(b)
	}
	for _, p := range back.Policies() {
		text += fmt.Sprintf("\n%+v", p)
	}
	local, peer, err := e.addresses(c, 0)
	text += fmt.Sprintf("\n%v %v %v dscp %d rsa %d\n%+v\n%+v", local, peer, err, dscp, e.credentialSet().MinRSA, remote, own.Constraints)
	if x, ok := e.store.psk(c.Local[0].ID, c.Remote[0].ID); ok {
		text += fmt.Sprintf("\npsk %x", x.Reveal())
	}
	text += fmt.Sprintf("\nsecrets of %v", cfg.Secrets[0].Owners)
	r := e.pools.assign(1, ikev2.AssignAddress{Config: &ikev2.Config{Pools: []string{"p"}}, Wanted: anyV4})
	return text + fmt.Sprintf("\n%+v", r)
}

// Every key of the reference acts: changing it changes what the engine is made
// of, or a named test shows its effect elsewhere, or a value that cannot be
// honoured is refused. A new key without an entry here fails.
func TestEveryKeyActs(t *testing.T) {
	reference, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	cases := keyCases()
	base := made(t, withKey("", ""))
	if made(t, withKey("", "")) != base {
		t.Fatal("the same configuration makes different things")
	}
	section, seen := "", 0
	for line := range strings.Lines(string(reference)) {
		if s, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.TrimSpace(s)
		}
		key, ok := strings.CutPrefix(line, "| `")
		if !ok || section == "" {
			continue
		}
		key, doc, _ := strings.Cut(key, "`")
		seen++
		t.Run(section+"/"+key, func(t *testing.T) {
			c, ok := cases[section][key]
			switch {
			case !ok:
				t.Fatal("nobody says what this key does")
			case c.nothing != "":
				if !strings.Contains(doc, c.nothing) {
					t.Errorf("the key does nothing, and the reference does not say %q", c.nothing)
				}
			case c.proof != "":
				file, name, _ := strings.Cut(c.proof, ":")
				src, err := os.ReadFile(filepath.Join("../..", file))
				if err != nil || !strings.Contains(string(src), "func "+name+"(") {
					t.Errorf("there is no test %s in %s: %v", name, file, err)
				}
			case c.refused != "":
				_, faults := conf.Parse("/nowhere/iked.yaml", []byte(withKey(section, key+": "+c.refused)), time.Now())
				if !faults.Failed() || !strings.Contains(faults.Err().Error(), "not supported") {
					t.Errorf("%s: %s was accepted: %v", key, c.refused, faults)
				}
			default:
				before := base
				line := key + ": " + c.value
				if c.with != "" {
					before = made(t, withKey(section, c.with))
					line += "\n" + c.with
				}
				if made(t, withKey(section, line)) == before {
					t.Errorf("%s: %s changes nothing", key, c.value)
				}
			}
		})
	}
	total := 0
	for _, s := range cases {
		total += len(s)
	}
	if seen != total {
		t.Errorf("the reference has %d keys, the table here %d", seen, total)
	}
}
