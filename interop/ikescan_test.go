package interop

import (
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// What ike-scan sees of a host that speaks IKEv1: a handshake for a transform that
// the connection accepts, a refusal for another, and Aggressive Mode with a
// pre-shared key only where the configuration consents to it.
func TestIKEScan(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	testnet.RequireCommand(t, "ike-scan", "ike-scan")
	const (
		good   = "(1=7,14=128,2=4,3=1,4=14)" // AES-CBC-128, SHA-256, PSK, MODP 2048
		bad    = "(1=5,2=2,3=1,4=2)"         // 3DES, SHA-1, PSK, MODP 1024
		method = "(1=7,14=128,2=4,3=4,4=14)" // RSA encryption
	)
	for _, site := range []struct {
		name, keys string
		version2   bool
		want       map[string]string // of an option's transform; "": no answer
	}{
		{"Main Mode only", "", false, map[string]string{"main " + good: "Main Mode Handshake returned", "main " + bad: "NO-PROPOSAL-CHOSEN", "main " + method: "NO-PROPOSAL-CHOSEN", "aggressive " + good: "notify"}},
		{"Aggressive Mode without consent", "aggressive: yes", false, map[string]string{"main " + good: "Main Mode Handshake returned", "aggressive " + good: "notify"}},
		{"Aggressive Mode with consent", "aggressive: yes\n    aggressive_psk: yes", false, map[string]string{"aggressive " + good: "Aggressive Mode Handshake returned", "aggressive " + bad: "notify"}},
		{"no IKEv1", "", true, map[string]string{"main " + good: "", "aggressive " + good: ""}},
	} {
		t.Run(site.name, func(t *testing.T) {
			t.Parallel()
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			d, err := NewIked(binaries(t), topo.Path("iked"))
			if err != nil {
				t.Fatal(err)
			}
			conn := []string{"version: 1", "proposals: [aes128-sha256-modp2048]", "remote: {auth: psk}"}
			if site.version2 {
				conn[0] = "version: 2"
			}
			if site.keys != "" {
				conn = append(conn, site.keys)
			}
			if err := d.Configure(tunnelYAML(topo.WanB4, topo.WanA4, quoted(topo.NetB4), quoted(topo.NetA4), conn, nil)); err != nil {
				t.Fatal(err)
			}
			if err := d.Start(within(t, 20*time.Second), topo.GwB); err != nil {
				t.Fatal(err)
			}
			showLog(t, d.Process)
			for probe, want := range site.want {
				mode, trans, _ := strings.Cut(probe, " ")
				args := []string{"ike-scan", "--nodns", "--retry=1", "--timeout=1500", "--trans=" + trans}
				if mode == "aggressive" {
					args = append(args, "--aggressive", "--id=scan.example", "--dhgroup=14")
				}
				out, err := topo.GwA.Run(within(t, 20*time.Second), append(args, topo.WanB4.String())...)
				if err != nil {
					t.Fatalf("%s: %v\n%s", probe, err, out)
				}
				handshake, notify := strings.Count(out, "Handshake returned"), strings.Count(out, "Notify message")
				switch {
				case want == "":
					if handshake+notify != 0 {
						t.Errorf("%s is answered:\n%s", probe, out)
					}
				case want == "notify":
					if handshake != 0 || notify > 1 {
						t.Errorf("%s has an answer that is no refusal:\n%s", probe, out)
					}
				case !strings.Contains(out, want) || handshake+notify != 1:
					t.Errorf("%s: expected one answer, %s:\n%s", probe, want, out)
				}
			}
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
