package interop

import (
	"context"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"iked/internal/testnet"
)

// requireCharon skips, or under CI fails, without Debian's strongSwan.
func requireCharon(t *testing.T) {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	testnet.RequireCommand(t, CharonPath, "strongswan-charon")
	testnet.RequireCommand(t, "swanctl", "strongswan-swanctl")
	testnet.RequireCommand(t, "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so", "libcharon-extra-plugins")
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// showLog prints a daemon's log when the test has failed.
func showLog(t *testing.T, p *testnet.Process) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s in %s:\n%s", p.Name, p.NS.Name, tail(p.Log(), 20000))
		}
	})
}

func tail(s string, n int) string {
	if len(s) > n {
		return "[…]\n" + s[len(s)-n:]
	}
	return s
}

func startCharon(t *testing.T, n *testnet.Net, ns *testnet.Namespace, o CharonOptions) *Charon {
	t.Helper()
	c, err := StartCharon(within(t, 20*time.Second), ns, n.Path("charon-"+ns.Name), o)
	if err != nil {
		t.Fatal(err)
	}
	showLog(t, c.Process)
	return c
}

// TestHarnessStrongSwanWithItself proves the harness, not iked: two strongSwan
// daemons bring up a PSK tunnel, packets pass, and the wire shows IKE and ESP only.
func TestHarnessStrongSwanWithItself(t *testing.T) {
	requireCharon(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	a, b := startCharon(t, topo.Net, topo.GwA, CharonOptions{}), startCharon(t, topo.Net, topo.GwB, CharonOptions{})
	conf := func(local, remote, localTS, remoteTS string) string {
		return fmt.Sprintf(`connections { net {
  version = 2
  local_addrs = %s
  remote_addrs = %s
  proposals = aes128-sha256-x25519
  local { auth = psk
    id = %[1]s }
  remote { auth = psk
    id = %[2]s }
  children { net { local_ts = %s
    remote_ts = %s
    esp_proposals = aes128gcm16 } }
} }
secrets { ike-1 { secret = "throw-away" } }
`, local, remote, localTS, remoteTS)
	}
	ctx := within(t, 30*time.Second)
	for _, err := range []error{
		a.LoadFile(ctx, conf(topo.WanA4.String(), topo.WanB4.String(), topo.NetA4.String(), topo.NetB4.String())),
		b.LoadFile(ctx, conf(topo.WanB4.String(), topo.WanA4.String(), topo.NetB4.String(), topo.NetA4.String())),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	wire, err := topo.Wire.NS.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Initiate(ctx, "net"); err != nil {
		t.Fatal(err)
	}
	sa, child, err := b.UntilInstalled(ctx, "net")
	if err != nil {
		t.Fatal(err)
	}
	if sa.Cipher() != "AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/CURVE_25519" || child.Cipher() != "AES_GCM_16-128" || sa.Initiator != "" {
		t.Errorf("the responder lists IKE %s, child %s, initiator=%q", sa.Cipher(), child.Cipher(), sa.Initiator)
	}
	r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 3})
	if err != nil || r.Received != 3 {
		t.Errorf("ping through the tunnel: %v, %v", r, err)
	}
	wire.Stop()
	if clear := wire.ClearText(); len(clear) != 0 || wire.Counts()[testnet.ESPinUDP] != 6 {
		t.Errorf("on the wire: %v; clear text: %v", wire, clear)
	}
}

func TestThrowAwayCertificates(t *testing.T) {
	for _, kt := range []KeyType{RSA2048, ECDSA256, ECDSA384, ECDSA521, Ed25519} {
		root, err := NewCA("Root", kt)
		if err != nil {
			t.Fatal(err)
		}
		middle, err := root.Issue("Middle", kt, CertOptions{CA: true})
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := middle.Issue("gw.example", kt, CertOptions{DNS: []string{"gw.example"}, Padding: 3000})
		if err != nil {
			t.Fatal(err)
		}
		if len(root.Chain) != 0 || len(middle.Chain) != 0 || len(leaf.Chain) != 1 || leaf.Chain[0] != middle.Cert {
			t.Errorf("%s: a chain holds what lies between a certificate and its root", kt)
		}
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(root.Cert)
		between.AddCert(middle.Cert)
		if _, err := leaf.Cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "gw.example"}); err != nil {
			t.Errorf("%s: the chain must verify: %v", kt, err)
		}
		if len(leaf.Cert.Raw) < 3000 {
			t.Errorf("%s: a padded certificate has %d bytes", kt, len(leaf.Cert.Raw))
		}
		if pem, err := leaf.KeyPEM(); err != nil || len(pem) == 0 {
			t.Errorf("%s: private key: %v", kt, err)
		}
	}
}
