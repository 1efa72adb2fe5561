package vm

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
)

// The priorities in the kernel are those that charon computes for the same selectors,
// so both can share a kernel with what users have written for it.
func TestPrioritiesAreCharons(t *testing.T) {
	uml.Require(t)
	testnet.RequireCommand(t, interop.CharonPath, "strongswan-charon")
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var children interop.Section
	for i, c := range []struct{ local, remote, mode, start string }{
		{"10.1.0.0/16", "10.2.0.0/16", "tunnel", "trap"},
		{"10.1.0.0/16", "10.2.3.0/27", "tunnel", "trap"},
		{"10.1.0.1/32", "10.2.0.1/32", "tunnel", "trap"},
		{"10.1.0.0/16[tcp]", "10.2.0.0/16[tcp]", "tunnel", "trap"},
		{"10.1.0.0/16[tcp]", "10.2.0.0/16[tcp/443]", "tunnel", "trap"},
		{"10.1.0.0/16[udp/53]", "10.2.0.0/24[udp/1024]", "tunnel", "trap"},
		{"fd00:1::/64", "fd00:2::/48", "tunnel", "trap"},
		{"fd00:1::1/128", "fd00:2::1/128", "tunnel", "trap"},
		{"0.0.0.0/0", "10.3.0.0/16", "pass", "trap"},
		{"10.1.0.0/16[tcp]", "10.4.0.0/16[tcp/22]", "pass", "trap"},
		{"10.1.0.0/16", "10.5.0.0/16", "drop", "trap"},
		{"10.1.0.0/16[udp]", "10.5.0.0/16[udp/69]", "drop", "trap"},
	} {
		children.Set(fmt.Sprintf("c%d", i), interop.Section{
			{Key: "local_ts", Value: []string{c.local}}, {Key: "remote_ts", Value: []string{c.remote}},
			{Key: "mode", Value: c.mode}, {Key: "start_action", Value: c.start},
		})
	}
	conf := interop.Config{Connections: interop.Section{{Key: "net", Value: interop.Section{
		{Key: "version", Value: "2"}, {Key: "local_addrs", Value: []string{topo.WanA4.String()}}, {Key: "remote_addrs", Value: []string{topo.WanB4.String()}},
		{Key: "local", Value: interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: "a.example"}}},
		{Key: "remote", Value: interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: "b.example"}}},
		{Key: "children", Value: children},
	}}}}
	// The outer addresses are the same, and A has them: the two run one after the other.
	charon, err := interop.StartCharon(ctx, topo.GwA, topo.Path("charon"), interop.CharonOptions{Kernel: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := charon.Load(ctx, conf); err != nil {
		t.Fatal(err)
	}
	want := priorities(t, topo.GwA)
	if err := charon.Stop(); err != nil {
		t.Fatal(err)
	}
	if left := priorities(t, topo.GwA); len(left) > 0 {
		t.Fatalf("charon left policies: %v", left)
	}
	iked := StartIked(t, topo, topo.GwA, "bypass: none\nconnections: []\n", "kernel")
	if err := iked.Load(ctx, conf); err != nil {
		t.Fatal(err)
	}
	got := priorities(t, topo.GwA)
	if len(want) < 12 {
		t.Errorf("charon installed %d policies:\n%v", len(want), want)
	}
	for sel, p := range want {
		if got[sel] != p {
			t.Errorf("%s: priority %q, charon's is %q", sel, got[sel], p)
		}
	}
	for sel := range got {
		if want[sel] == "" {
			t.Errorf("charon has no policy %s", sel)
		}
	}
}

var policyLine = regexp.MustCompile(`^(src .*?) (?:uid \d+ )?dir (in|out|fwd) (?:action block )?.*?priority (\d+)`)

// priorities are those of the outbound and inbound policies by selector, without those
// of sockets.
func priorities(t *testing.T, ns *testnet.Namespace) map[string]string {
	t.Helper()
	m := map[string]string{}
	list := KernelList(t, ns, "policy")
	slices.Sort(list)
	for _, e := range list {
		if strings.Contains(e, " socket ") {
			continue
		}
		f := policyLine.FindStringSubmatch(e)
		if f == nil {
			t.Fatalf("ip xfrm policy lists %q", e)
		}
		if f[2] != "fwd" {
			m[f[1]+" "+f[2]] = f[3]
		}
	}
	return m
}
