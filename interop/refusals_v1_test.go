package interop

import (
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// What a peer of another make refuses, and what iked refuses of it: nothing comes up
// on either side, and iked's explain names the fault.
func TestIKEv1Refusals(t *testing.T) {
	secret := func(s side, _, _ *Section, c *Config) {
		if s.name == "a" {
			c.Secrets[0].PSK = "another secret"
		}
	}
	identity := func(s side, conn, _ *Section, c *Config) {
		if s.name == "a" {
			conn.Set("local", Section{{"auth", "psk"}, {"id", "stranger.example"}})
		}
		c.Secrets[0].IDs = append(c.Secrets[0].IDs, "stranger.example")
	}
	responder := func(s side, conn, _ *Section, c *Config) {
		if s.name == "b" {
			conn.Set("local", Section{{"auth", "psk"}, {"id", "stranger.example"}})
		}
		c.Secrets[0].IDs = append(c.Secrets[0].IDs, "stranger.example")
	}
	pfs := func(s side, _, child *Section, _ *Config) {
		if s.name == "a" {
			child.Set("esp_proposals", []string{"aes128-sha256-modp2048"})
		} else {
			child.Set("esp_proposals", []string{"aes128-sha256"})
		}
	}
	phase1 := func(s side, conn, _ *Section, _ *Config) {
		if s.name == "a" {
			conn.Set("proposals", []string{"aes256-sha256-modp2048"})
		}
	}
	selectors := func(s side, _, child *Section, _ *Config) {
		if s.name == "a" {
			child.Set("remote_ts", []string{"10.99.0.0/24"})
		}
	}
	for _, x := range []struct {
		name string
		edit func(s side, conn, child *Section, c *Config)
		// What iked says as initiator and as responder.
		a, b string
	}{
		{"secrets differ", secret, "the pre-shared keys differ", "the pre-shared keys differ"},
		{"identity of the initiator", identity, "refused Main Mode", "the peer is stranger.example, expected"},
		{"identity of the responder", responder, "the peer is stranger.example, expected", ""},
		{"proposals", phase1, "NO-PROPOSAL-CHOSEN", "IKE encryption differs"},
		{"perfect forward secrecy", pfs, "NO-PROPOSAL-CHOSEN", "perfect forward secrecy"},
		{"selectors", selectors, "refused Quick Mode for net", "which no child of"},
	} {
		for _, at := range []string{"A", "B"} {
			t.Run(x.name+"/iked at "+at, func(t *testing.T) {
				t.Parallel()
				requireCharon(t)
				c := v1(testCase{charon: fastRetransmit}, byAddress, x.edit)
				p := newPair(t, &c, at)
				if err := p.a.Initiate(p.ctx, "net"); err == nil {
					t.Error("it came up")
				}
				for who, ctl := range map[string]*Control{"A": p.a, "B": p.b} {
					list, err := ctl.SAs(p.ctx)
					if err != nil {
						t.Fatal(err)
					}
					for _, sa := range list {
						if sa.Child("net", "INSTALLED") != nil {
							t.Errorf("%s lists %+v", who, sa)
						}
					}
				}
				want := x.a
				if at == "B" {
					want = x.b
				}
				if want == "" {
					return // the initiator alone knows
				}
				for {
					out, err := p.iked.Ikectl(p.ctx, "explain")
					if err == nil && strings.Contains(out, want) {
						return
					}
					if sleep(p.ctx, 200*time.Millisecond) != nil {
						t.Fatalf("explain does not say %q: %v\n%s", want, err, out)
					}
				}
			})
		}
	}
}

// doubleNAT puts B behind a NAT as well: A knows it by an address of the router's.
func doubleNAT(p *pair) {
	ctx := p.ctx
	script := "table inet testdnat {\n chain pre { type nat hook prerouting priority dstnat; policy accept;\n ip daddr " + outsideB + " dnat ip to " + p.WanB4.String() + "\n }\n}\n"
	if out, err := p.Middle.RunCommand(ctx, testnet.Command{Args: []string{"nft", "-f", "-"}, Stdin: strings.NewReader(script)}); err != nil {
		p.Fatalf("%v: %s", err, out)
	}
}

// outsideB is B as A sees it through its NAT.
const outsideB = "203.0.113.2"

func behindOutside(s side, conn, _ *Section, _ *Config) {
	if s.name == "a" {
		conn.Set("remote_addrs", []string{outsideB})
	}
}

// bothBehind wants each side to know of both NATs.
func bothBehind(p *pair, first state) {
	p.Helper()
	natSeen(p, first)
	if first.ikeA.RemoteHost != outsideB || first.ikeB.LocalHost != p.WanB4.String() {
		p.Errorf("A sees B at %s, B is at %s", first.ikeA.RemoteHost, first.ikeB.LocalHost)
	}
}
