package interop

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iked/internal/testnet"
)

// keyring is a root and the certificates of both sides; nil where a side has none.
type keyring struct{ root, a, b *Identity }

// certificates makes a keyring, once for both roles of a case.
func certificates(t KeyType, o CertOptions, intermediate bool) func() *keyring {
	return sync.OnceValue(func() *keyring {
		must := func(id *Identity, err error) *Identity {
			if err != nil {
				panic(err) // no randomness, or a fault in this file
			}
			return id
		}
		k := &keyring{root: must(NewCA("Root", t))}
		issuer := k.root
		if intermediate {
			issuer = must(k.root.Issue("Issuing CA", t, CertOptions{CA: true}))
		}
		with := func(name string, ip string) CertOptions {
			o := o
			o.DNS = []string{name}
			o.Email = []string{"gw@" + name}
			o.IP = []net.IP{net.ParseIP(ip)}
			return o
		}
		k.a = must(issuer.Issue("a.example", t, with("a.example", "192.0.2.1")))
		k.b = must(issuer.Issue("b.example", t, with("b.example", "192.0.2.2")))
		return k
	})
}

// byCertificate makes both sides authenticate by certificate.
func byCertificate(s side, conn, _ *Section, c *Config) {
	c.Secrets = nil
	conn.Set("local", Section{{"auth", "pubkey"}, {"id", s.id}, {"certs", []string{s.name + ".pem"}}})
	conn.Set("remote", Section{{"auth", "pubkey"}, {"id", s.peerID}, {"cacerts", []string{"root.pem"}}})
}

// both sets keys of connection and child on either side.
func both(conn, child Section) func(side, *Section, *Section, *Config) {
	return func(_ side, co, ch *Section, _ *Config) {
		for _, e := range conn {
			co.Set(e.Key, e.Value)
		}
		for _, e := range child {
			ch.Set(e.Key, e.Value)
		}
	}
}

// asymmetric: A proves a PSK, B a certificate.
func asymmetric(s side, conn, _ *Section, c *Config) {
	cert := Section{{"auth", "pubkey"}, {"id", "b.example"}}
	psk := Section{{"auth", "psk"}, {"id", "a.example"}}
	if s.name == "a" {
		cert.Set("cacerts", []string{"root.pem"})
		conn.Set("local", psk)
		conn.Set("remote", cert)
	} else {
		cert.Set("certs", []string{"b.pem"})
		conn.Set("local", cert)
		conn.Set("remote", psk)
	}
}

// identities gives both sides other IDs than the usual ones.
func identities(a, b string) func(side, *Section, *Section, *Config) {
	return func(s side, conn, _ *Section, c *Config) {
		own, far := a, b
		if s.name == "b" {
			own, far = b, a
		}
		conn.Set("local", Section{{"auth", "psk"}, {"id", own}})
		conn.Set("remote", Section{{"auth", "psk"}, {"id", far}})
		c.Secrets = []Secret{{PSK: "a throw-away secret", IDs: []string{a, b}}}
	}
}

// virtualIP lets A ask for an address out of B's pool.
func virtualIP(ask, pool string) func(side, *Section, *Section, *Config) {
	return func(s side, conn, child *Section, c *Config) {
		if s.name == "a" {
			conn.Set("vips", []string{ask})
			child.Set("local_ts", []string{"dynamic"})
			return
		}
		conn.Set("pools", []string{"addresses"})
		child.Set("remote_ts", []string{"dynamic"})
		c.Pools = Section{{"addresses", Section{{"addrs", pool}}}}
	}
}

// fromVirtualIP pings from gateway A with the address that it was given.
func fromVirtualIP(dst func(*pair) netip.Addr) func(*pair) {
	return func(p *pair) {
		p.Helper()
		s := p.agree("net")
		if len(s.ikeA.LocalVIPs) != 1 || len(s.ikeB.RemoteVIPs) != 1 || s.ikeA.LocalVIPs[0] != s.ikeB.RemoteVIPs[0] {
			p.Fatalf("virtual addresses: A lists %v, B %v", s.ikeA.LocalVIPs, s.ikeB.RemoteVIPs)
		}
		from, err := netip.ParseAddr(s.ikeA.LocalVIPs[0])
		if err != nil {
			p.Fatal(err)
		}
		// The peer puts its route to the virtual address in place after its answer.
		if _, err := p.GwA.WaitPing(dst(p), testnet.PingOptions{From: from}, 3*time.Second); err != nil {
			p.Fatal(err)
		}
		p.echo(p.GwA, dst(p), testnet.PingOptions{From: from, Count: 3})
	}
}

// rebind makes the NAT forget its mappings and use other ports, and wants packets
// to pass again: B follows A (RFC 7296, Section 2.23).
func rebind(p *pair, _ state) {
	p.Helper()
	if err := p.Middle.Masquerade("b0", 30000); err != nil {
		p.Fatal(err)
	}
	if err := p.Middle.ForgetFlows(); err != nil {
		p.Fatal(err)
	}
	if _, err := p.HostA.WaitPing(p.HostB4, testnet.PingOptions{}, 30*time.Second); err != nil {
		p.Error(err)
	}
	// The capture comes behind.
	for !slices.ContainsFunc(p.wire.Packets(), func(x testnet.Packet) bool { return x.SrcPort >= 30000 || x.DstPort >= 30000 }) {
		if sleep(p.ctx, 50*time.Millisecond) != nil {
			p.Fatalf("no packet with the new ports of the NAT: %v", p.wire)
		}
	}
}

// natSeen checks the detection of a NAT on both sides, and where it is.
func natSeen(p *pair, first state) {
	p.Helper()
	// kernel-libipsec always says that there is a NAT before itself; what the NAT
	// adds is the port that B sees.
	if first.ikeB.RemoteHost != p.Seen4.String() || first.ikeB.RemotePort == "4500" || first.ikeB.RemotePort == "500" {
		p.Errorf("B sees A at %s[%s], want %v and a port of the NAT", first.ikeB.RemoteHost, first.ikeB.RemotePort, p.Seen4)
	}
	for who, c := range map[string]*ChildSA{"A": first.childA, "B": first.childB} {
		if c.Encap != "yes" {
			p.Errorf("%s lists encap=%q behind a NAT", who, c.Encap)
		}
	}
}

// outage cuts the line until iked has noticed, and wants the tunnel back by itself.
func outage(p *pair, first state) {
	p.Helper()
	if err := p.Middle.SetLink("b0", false); err != nil {
		p.Fatal(err)
	}
	// Either the dead SA is gone, or a new one is in the making.
	own := p.a
	if p.ikedAt == "B" {
		own = p.b
	}
	if _, err := own.Until(p.ctx, "the dead peer is noticed", func(sas []IKESA) bool {
		for _, sa := range sas {
			if sa.State == "ESTABLISHED" && sa.InitiatorSPI == first.ikeA.InitiatorSPI {
				return false
			}
		}
		return true
	}); err != nil {
		p.Fatal(err)
	}
	if err := p.restoreLine(); err != nil {
		p.Fatal(err)
	}
	if _, err := p.HostA.WaitPing(p.HostB4, testnet.PingOptions{}, 40*time.Second); err != nil {
		p.Error(err)
	}
}

// restoreLine brings the link back, with the IPv6 address and routes that went
// with it.
func (p *pair) restoreLine() error {
	if err := p.Middle.SetLink("b0", true); err != nil {
		return err
	}
	if err := p.Middle.AddAddr("b0", "2001:db8:b::fe/64"); err != nil && !strings.Contains(err.Error(), "exists") {
		return err
	}
	for _, r := range [][2]string{{"10.2.0.0/24", "198.51.100.2"}, {"fd00:2::/64", "2001:db8:b::2"}} {
		if err := p.Middle.AddRoute(r[0], r[1]); err != nil && !strings.Contains(err.Error(), "exists") {
			return err
		}
	}
	return nil
}

// dpd are settings that notice a dead peer in seconds.
func dpd(s side, conn, child *Section, c *Config) {
	conn.Set("dpd_delay", "1s")
	conn.Set("keyingtries", "0")
	if s.name == "a" {
		child.Set("dpd_action", "restart")
	} else {
		child.Set("dpd_action", "clear")
	}
	c.IkedGlobal = "retransmit: {timeout: 500ms, base: 1.2, tries: 3}\n"
}

const fastRetransmit = "retransmit_timeout = 0.5\nretransmit_base = 1.2\nretransmit_tries = 3\n"

// fragmented checks that IKE messages were split (RFC 7383) and IP packets not.
func fragmented(p *pair, _ state) {
	p.Helper()
	for {
		n, largest := 0, 0
		for _, x := range p.wire.Packets() {
			if x.Class == testnet.IKE {
				n, largest = n+1, max(largest, len(x.Data)-14)
				if x.Fragment {
					p.Fatalf("an IKE message was fragmented by IP: %v", x)
				}
			}
		}
		if n >= 8 && largest <= 1500 {
			return
		}
		// The capture comes behind.
		if largest > 1500 || sleep(p.ctx, 50*time.Millisecond) != nil {
			p.Fatalf("%d IKE packets, the largest of %d bytes; certificates of 4,000 bytes need 8 or more", n, largest)
		}
	}
}

// narrowed: A asks for more than B gives (RFC 7296, Section 2.9).
func narrowed(p *pair, first state) {
	p.Helper()
	if got := strings.Join(first.childA.RemoteTS, " "); got != p.NetB4.String() {
		p.Errorf("A asked for 10.0.0.0/8 and B has %v only: A lists %s", p.NetB4, got)
	}
}

func split(s, usual string) []string {
	if s == "" {
		s = usual
	}
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

func contains(s, part string) bool { return part == "" || strings.Contains(s, part) }

func hostB4(p *pair) netip.Addr { return p.HostB4 }
func hostB6(p *pair) netip.Addr { return p.HostB6 }

var cases = []testCase{
	{group: "Authentication", name: "PSK", wantIKE: "AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/CURVE_25519", wantESP: "AES_GCM_16-128"},
	{group: "Authentication", name: "RSA 2048", pki: certificates(RSA2048, CertOptions{}, false), edit: byCertificate},
	{group: "Authentication", name: "RSA 3072 with intermediate CA", pki: certificates(RSA3072, CertOptions{}, true), edit: byCertificate},
	{group: "Authentication", name: "RSA-PSS", pki: certificates(RSA2048, CertOptions{}, false), charon: "rsa_pss = yes\n",
		edit: func(s side, conn, child *Section, c *Config) {
			byCertificate(s, conn, child, c)
			conn.Set("local", Section{{"auth", "rsa/pss-sha256"}, {"id", s.id}, {"certs", []string{s.name + ".pem"}}})
			conn.Set("remote", Section{{"auth", "ike:rsa/pss-sha256"}, {"id", s.peerID}, {"cacerts", []string{"root.pem"}}})
		}},
	{group: "Authentication", name: "RSA, classic signature", pki: certificates(RSA2048, CertOptions{}, false), charon: "signature_authentication = no\n", edit: byCertificate},
	{group: "Authentication", name: "ECDSA P-256", pki: certificates(ECDSA256, CertOptions{}, false), edit: byCertificate},
	{group: "Authentication", name: "ECDSA P-384 with intermediate CA", pki: certificates(ECDSA384, CertOptions{}, true), edit: byCertificate},
	{group: "Authentication", name: "ECDSA P-521", pki: certificates(ECDSA521, CertOptions{}, false), edit: byCertificate},
	{group: "Authentication", name: "ECDSA P-256, classic signature", pki: certificates(ECDSA256, CertOptions{}, false), charon: "signature_authentication = no\n", edit: byCertificate},
	{group: "Authentication", name: "Ed25519", pki: certificates(Ed25519, CertOptions{}, false), edit: byCertificate},
	{group: "Authentication", name: "PSK one way, RSA the other", pki: func() func() *keyring {
		full := certificates(RSA2048, CertOptions{}, false)
		return func() *keyring { k := *full(); k.a = nil; return &k }
	}(), edit: asymmetric},

	{group: "Identities", name: "e-mail", edit: identities("alice@example.org", "bob@example.org")},
	{group: "Identities", name: "addresses", edit: identities("192.0.2.1", "192.0.2.2")},
	{group: "Identities", name: "IPv6 addresses", outer: 6, edit: identities("2001:db8::1", "2001:db8::2")},
	{group: "Identities", name: "key IDs", edit: identities("keyid:site-a", "keyid:site-b")},
	{group: "Identities", name: "distinguished names", pki: certificates(ECDSA256, CertOptions{}, false), edit: func(s side, conn, child *Section, c *Config) {
		byCertificate(s, conn, child, c)
		conn.Set("local", Section{{"auth", "pubkey"}, {"certs", []string{s.name + ".pem"}}})
		conn.Set("remote", Section{{"auth", "pubkey"}, {"id", "C=CH, O=Interop, CN=" + s.peerID}, {"cacerts", []string{"root.pem"}}})
	}},

	{group: "IKE algorithms", name: "defaults of both", default_: true},
	{group: "IKE algorithms", name: "AES-256, SHA-384, P-384", ike: "aes256-sha384-ecp384", wantIKE: "AES_CBC-256/HMAC_SHA2_384_192/PRF_HMAC_SHA2_384/ECP_384"},
	{group: "IKE algorithms", name: "AES-192, SHA-512, P-521", ike: "aes192-sha512-ecp521", wantIKE: "AES_CBC-192/HMAC_SHA2_512_256/PRF_HMAC_SHA2_512/ECP_521"},
	{group: "IKE algorithms", name: "AES-GCM-128, P-256", ike: "aes128gcm16-prfsha256-ecp256", wantIKE: "AES_GCM_16-128/PRF_HMAC_SHA2_256/ECP_256"},
	{group: "IKE algorithms", name: "AES-GCM-256, x25519", ike: "aes256gcm16-prfsha512-x25519", wantIKE: "AES_GCM_16-256/PRF_HMAC_SHA2_512/CURVE_25519"},
	{group: "IKE algorithms", name: "ChaCha20-Poly1305", ike: "chacha20poly1305-prfsha256-x25519", wantIKE: "CHACHA20_POLY1305/PRF_HMAC_SHA2_256"},
	{group: "IKE algorithms", name: "AES-CTR, MODP 2048", ike: "aes128ctr-sha256-modp2048", wantIKE: "AES_CTR-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048"},
	{group: "IKE algorithms", name: "MODP 3072", ike: "aes128-sha256-modp3072", wantIKE: "MODP_3072"},
	{group: "IKE algorithms", name: "MODP 4096", ike: "aes128-sha256-modp4096", wantIKE: "MODP_4096"},
	{group: "IKE algorithms", name: "MODP 6144", ike: "aes128-sha256-modp6144", wantIKE: "MODP_6144"},
	{group: "IKE algorithms", name: "MODP 8192", ike: "aes128-sha256-modp8192", wantIKE: "MODP_8192"},
	{group: "IKE algorithms", name: "old: 3DES, SHA-1, MODP 1024", ike: "3des-sha1-modp1024", esp: "3des-sha1", wantIKE: "3DES_CBC/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1024", wantESP: "3DES_CBC/HMAC_SHA1_96"},
	{group: "IKE algorithms", name: "INVALID_KE_PAYLOAD", wantIKE: "ECP_256", edit: func(s side, conn, _ *Section, _ *Config) {
		if s.name == "a" {
			conn.Set("proposals", []string{"aes128-sha256-x25519-ecp256"})
		} else {
			conn.Set("proposals", []string{"aes128-sha256-ecp256"})
		}
	}},

	{group: "ESP algorithms", name: "AES-GCM-128", esp: "aes128gcm16", wantESP: "AES_GCM_16-128"},
	{group: "ESP algorithms", name: "AES-GCM-256", esp: "aes256gcm16", wantESP: "AES_GCM_16-256"},
	{group: "ESP algorithms", name: "ChaCha20-Poly1305", esp: "chacha20poly1305", wantESP: "CHACHA20_POLY1305"},
	{group: "ESP algorithms", name: "AES-CBC-128, SHA-256", esp: "aes128-sha256", wantESP: "AES_CBC-128/HMAC_SHA2_256_128"},
	{group: "ESP algorithms", name: "AES-CBC-192, SHA-384", esp: "aes192-sha384", wantESP: "AES_CBC-192/HMAC_SHA2_384_192"},
	{group: "ESP algorithms", name: "AES-CBC-256, SHA-512", esp: "aes256-sha512", wantESP: "AES_CBC-256/HMAC_SHA2_512_256"},
	{group: "ESP algorithms", name: "AES-CTR-128, SHA-256", esp: "aes128ctr-sha256", wantESP: "AES_CTR-128/HMAC_SHA2_256_128"},
	{group: "ESP algorithms", name: "AES-CBC-128, SHA-1", esp: "aes128-sha1", wantESP: "AES_CBC-128/HMAC_SHA1_96"},
	{group: "ESP algorithms", name: "NULL, SHA-256", esp: "null-sha256", wantESP: "NULL/HMAC_SHA2_256_128"},

	{group: "Rekeying", name: "CHILD SA by A", then: rekey("A", "child")},
	{group: "Rekeying", name: "CHILD SA by B", then: rekey("B", "child")},
	{group: "Rekeying", name: "CHILD SA by A, with key exchange", esp: "aes128gcm16-ecp256", then: rekey("A", "child")},
	{group: "Rekeying", name: "CHILD SA by B, with key exchange", esp: "aes128gcm16-x25519", then: rekey("B", "child")},
	{group: "Rekeying", name: "IKE SA by A", then: rekey("A", "ike")},
	{group: "Rekeying", name: "IKE SA by B", then: rekey("B", "ike")},
	{group: "Rekeying", name: "IKE SA, then CHILD SA", then: func(p *pair, first state) {
		rekey("A", "ike")(p, first)
		rekey("B", "child")(p, p.agree("net"))
		rekey("B", "ike")(p, p.agree("net"))
		rekey("A", "child")(p, p.agree("net"))
	}},
	{group: "Rekeying", name: "by time", edit: both(Section{{"rekey_time", "6s"}, {"over_time", "5s"}, {"rand_time", "1s"}}, Section{{"rekey_time", "3s"}, {"life_time", "10s"}, {"rand_time", "1s"}}),
		then: func(p *pair, first state) {
			p.rekeyed(first, false)
			p.rekeyed(first, true)
		}},

	{group: "NAT", name: "A masqueraded, PSK", between: testnet.NAT, then: natSeen},
	{group: "NAT", name: "A masqueraded, certificates", between: testnet.NAT, pki: certificates(ECDSA256, CertOptions{}, false), edit: byCertificate, then: natSeen},
	{group: "NAT", name: "A masqueraded, CHILD SA rekeyed by B", between: testnet.NAT, then: rekey("B", "child")},
	{group: "NAT", name: "A masqueraded, IKE SA rekeyed by B", between: testnet.NAT, then: rekey("B", "ike")},
	{group: "NAT", name: "A masqueraded, the NAT forgets", between: testnet.NAT, edit: both(Section{{"dpd_delay", "2s"}}, nil), charon: "keep_alive = 1s\n", then: rebind},

	{group: "Dead peer", name: "liveness and restart by A", between: testnet.Router, edit: dpd, charon: fastRetransmit, then: outage},

	{group: "Families", name: "IPv4 in IPv6", outer: 6, inner: []int{4}},
	{group: "Families", name: "IPv6 in IPv4", outer: 4, inner: []int{6}},
	{group: "Families", name: "IPv6 in IPv6", outer: 6, inner: []int{6}},
	{group: "Families", name: "both in IPv4", outer: 4, inner: []int{4, 6}},
	{group: "Families", name: "both in IPv6", outer: 6, inner: []int{4, 6}},

	{group: "Selectors", name: "narrowing by B", edit: func(s side, _, child *Section, _ *Config) {
		if s.name == "a" {
			child.Set("remote_ts", []string{"10.0.0.0/8"})
		}
	}, then: narrowed},
	{group: "Selectors", name: "ICMP only", edit: func(s side, _, child *Section, _ *Config) {
		child.Set("local_ts", []string{s.lan4 + "[icmp]"})
		child.Set("remote_ts", []string{s.far4 + "[icmp]"})
	}},

	{group: "Virtual addresses", name: "IPv4", edit: virtualIP("0.0.0.0", "10.9.0.0/28"), ping: fromVirtualIP(hostB4)},
	{group: "Virtual addresses", name: "IPv6", inner: []int{6}, edit: virtualIP("::", "fd00:9::/120"), ping: fromVirtualIP(hostB6)},

	{group: "Fragmentation", name: "large certificates", pki: certificates(RSA3072, CertOptions{Padding: 4000}, false), edit: byCertificate, then: fragmented},
	{group: "Fragmentation", name: "large certificates over IPv6", outer: 6, pki: certificates(ECDSA256, CertOptions{Padding: 4000}, false), edit: byCertificate, then: fragmented},
}

func TestCasesHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range slices.Concat(cases, v1Cases) {
		if seen[c.group+"/"+c.name] {
			t.Errorf("two lines of the matrix are called %s/%s", c.group, c.name)
		}
		seen[c.group+"/"+c.name] = true
	}
}
