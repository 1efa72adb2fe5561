package interop

import "iked/internal/testnet"

// v1 makes a case speak IKEv1, in Main Mode; edits come on top.
func v1(c testCase, edits ...func(s side, conn, child *Section, c *Config)) testCase {
	c.group = "IKEv1"
	if c.ike == "" {
		c.ike = "aes128-sha256-modp2048"
	}
	edit := c.edit
	c.edit = func(s side, conn, child *Section, conf *Config) {
		conn.Set("version", "1")
		if edit != nil {
			edit(s, conn, child, conf)
		}
		for _, e := range edits {
			e(s, conn, child, conf)
		}
	}
	return c
}

// byAddress names the secret by addresses: Main Mode finds it before it knows
// identities.
func byAddress(s side, conn, child *Section, c *Config) {
	own, far := s.wan.String(), s.peer.String()
	conn.Set("local", Section{{"auth", "psk"}, {"id", own}})
	conn.Set("remote", Section{{"auth", "psk"}, {"id", far}})
	c.Secrets = []Secret{{PSK: "a throw-away secret", IDs: []string{own, far}}}
}

// aggressive lets both sides use Aggressive Mode.
func aggressive(s side, conn, _ *Section, _ *Config) {
	conn.Set("aggressive", "yes")
	if s.iked {
		conn.Set("aggressive_psk", "yes")
	}
}

// anySecret is one secret for everybody: behind a NAT the addresses say little.
func anySecret(s side, conn, _ *Section, c *Config) {
	conn.Set("remote", Section{{"auth", "psk"}, {"id", s.peerID}})
	c.Secrets = []Secret{{PSK: "a throw-away secret"}}
}

// user makes A a user of XAuth behind phase 1.
func user(s side, conn, _ *Section, c *Config) {
	if s.name == "a" {
		conn.Set("local-2", Section{{"auth", "xauth"}, {"xauth_id", "bob"}})
	} else {
		conn.Set("remote-2", Section{{"auth", "xauth"}})
	}
	c.Secrets = append(c.Secrets, Secret{PSK: "open sesame", IDs: []string{"bob"}, XAuth: true})
}

// isBob wants B to know the user.
func isBob(p *pair, s state) {
	p.Helper()
	if s.ikeB.XAuthID != "bob" {
		p.Errorf("B lists the user %q", s.ikeB.XAuthID)
	}
}

// hybrid: B has a certificate, A a password only.
func hybrid(s side, conn, _ *Section, c *Config) {
	c.Secrets = []Secret{{PSK: "open sesame", IDs: []string{"bob"}, XAuth: true}}
	if s.name == "a" {
		conn.Set("local", Section{{"auth", "xauth"}, {"id", "a.example"}, {"xauth_id", "bob"}})
		conn.Set("remote", Section{{"auth", "pubkey"}, {"id", s.peerID}, {"cacerts", []string{"root.pem"}}})
		return
	}
	conn.Set("local", Section{{"auth", "pubkey"}, {"id", s.id}, {"certs", []string{"b.pem"}}})
	conn.Set("remote", Section{{"auth", "xauth"}})
}

// unity gives A the networks behind B and a banner with its address; A would let
// all of IPv4 through the tunnel.
func unity(s side, conn, child *Section, c *Config) {
	if s.name == "a" {
		child.Set("remote_ts", []string{"0.0.0.0/0"})
		if s.iked {
			conn.Set("unity", "yes")
		}
		return
	}
	c.Pools = Section{{"addresses", Section{{"addrs", "10.9.0.0/28"}, {"split_include", []string{s.lan4}}, {"28672", []string{"hello there"}}}}}
}

// push lets the server send the virtual address unasked.
func push(_ side, conn, _ *Section, _ *Config) { conn.Set("pull", "no") }

// onlyNetworksOfB wants the tunnel to be for the networks of B alone, on both sides.
func onlyNetworksOfB(p *pair, s state) {
	p.Helper()
	for _, list := range [][]string{s.childA.RemoteTS, s.childB.LocalTS} {
		if len(list) != 1 || list[0] != p.NetB4.String() {
			p.Errorf("the CHILD_SA of one side is for %v, expected %v", list, p.NetB4)
		}
	}
	if p.ikedAt == "A" && !substitute() && s.ikeA.Banner != "hello there" {
		p.Errorf("the banner is %q", s.ikeA.Banner)
	}
}

const acceptsAggressivePSK = "i_dont_care_about_security_and_use_aggressive_mode_psk = yes\n"

var v1Cases = []testCase{
	v1(testCase{name: "Main Mode, PSK", wantIKE: "AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048"}, byAddress),
	v1(testCase{name: "Main Mode, PSK, AES-256, SHA-384, P-384", ike: "aes256-sha384-ecp384"}, byAddress),
	v1(testCase{name: "Main Mode, PSK, 3DES, SHA-1, MODP 1024", ike: "3des-sha1-modp1024", esp: "3des-sha1"}, byAddress),
	v1(testCase{name: "Main Mode, PSK, defaults of both", default_: true}, byAddress),
	v1(testCase{name: "Main Mode, PSK over IPv6", outer: 6}, byAddress),
	v1(testCase{name: "Main Mode, RSA", pki: certificates(RSA2048, CertOptions{}, false)}, byCertificate),
	v1(testCase{name: "Main Mode, RSA with intermediate CA", pki: certificates(RSA3072, CertOptions{}, true)}, byCertificate),
	v1(testCase{name: "Main Mode, ECDSA P-256", pki: certificates(ECDSA256, CertOptions{}, false)}, byCertificate),
	v1(testCase{name: "Main Mode, ECDSA P-384", pki: certificates(ECDSA384, CertOptions{}, false)}, byCertificate),
	v1(testCase{name: "Main Mode, ECDSA P-521", pki: certificates(ECDSA521, CertOptions{}, false)}, byCertificate),
	v1(testCase{name: "Aggressive Mode, PSK", charon: acceptsAggressivePSK}, aggressive),
	v1(testCase{name: "Aggressive Mode, RSA", pki: certificates(RSA2048, CertOptions{}, false)}, byCertificate, func(_ side, conn, _ *Section, _ *Config) { conn.Set("aggressive", "yes") }),
	v1(testCase{name: "Main Mode, PSK and XAuth", then: isBob}, byAddress, user),
	v1(testCase{name: "Aggressive Mode, PSK and XAuth", charon: acceptsAggressivePSK}, aggressive, user),
	v1(testCase{name: "Main Mode, RSA and XAuth", pki: certificates(RSA2048, CertOptions{}, false)}, byCertificate, user),
	v1(testCase{name: "Main Mode, hybrid", pki: func() func() *keyring {
		full := certificates(RSA2048, CertOptions{}, false)
		return func() *keyring { k := *full(); k.a = nil; return &k }
	}()}, hybrid),
	v1(testCase{name: "Mode Config, pulled", ping: fromVirtualIP(hostB4)}, byAddress, virtualIP("0.0.0.0", "10.9.0.0/28")),
	v1(testCase{name: "Mode Config, pushed", ping: fromVirtualIP(hostB4)}, byAddress, virtualIP("0.0.0.0", "10.9.0.0/28"), push),
	v1(testCase{name: "Mode Config, pulled behind XAuth", ping: fromVirtualIP(hostB4)}, byAddress, user, virtualIP("0.0.0.0", "10.9.0.0/28")),
	v1(testCase{name: "Mode Config with Unity, pulled", ping: fromVirtualIP(hostB4), plugins: "unity", charon: "cisco_unity = yes\n", then: onlyNetworksOfB}, byAddress, virtualIP("0.0.0.0", "10.9.0.0/28"), unity),
	v1(testCase{name: "Mode Config with Unity, pushed", ping: fromVirtualIP(hostB4), plugins: "unity", charon: "cisco_unity = yes\n", then: onlyNetworksOfB}, byAddress, virtualIP("0.0.0.0", "10.9.0.0/28"), unity, push),
	v1(testCase{name: "Quick Mode with MODP 2048", esp: "aes128-sha256-modp2048"}, byAddress),
	v1(testCase{name: "Quick Mode with P-256, AES-GCM", esp: "aes256gcm16-ecp256"}, byAddress),
	v1(testCase{name: "AES-CBC, SHA-1", esp: "aes128-sha1"}, byAddress),
	v1(testCase{name: "NULL, SHA-256", esp: "null-sha256"}, byAddress),
	v1(testCase{name: "CHILD SA rekeyed by A", then: rekey("A", "child")}, byAddress),
	v1(testCase{name: "CHILD SA rekeyed by B", then: rekey("B", "child")}, byAddress),
	v1(testCase{name: "IKE SA rekeyed by A", then: rekey("A", "ike")}, byAddress),
	v1(testCase{name: "A masqueraded, PSK", between: testnet.NAT, then: natSeen}, anySecret),
	v1(testCase{name: "A masqueraded, RSA", between: testnet.NAT, pki: certificates(RSA2048, CertOptions{}, false), then: natSeen}, byCertificate),
	v1(testCase{name: "both behind a NAT, PSK", between: testnet.NAT, setup: doubleNAT, then: bothBehind}, anySecret, behindOutside),
	v1(testCase{name: "dead peer detection and restart by A", between: testnet.Router, charon: fastRetransmit, then: outage}, byAddress, dpd),
	v1(testCase{name: "large certificates in fragments", pki: certificates(RSA3072, CertOptions{Padding: 4000}, false), then: fragmented}, byCertificate),
	v1(testCase{name: "IPv6 in IPv4", inner: []int{6}}, byAddress),
}
