package testnet

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestSitesReachEachOtherInClear(t *testing.T) {
	tests := []struct {
		name string
		o    TopologyOptions
	}{{"direct", TopologyOptions{}}, {"router", TopologyOptions{Between: Router}}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			topo := ForTest(t, test.o)
			wire, err := topo.Wire.NS.Capture(topo.Wire.If)
			if err != nil {
				t.Fatal(err)
			}
			for _, dst := range []netip.Addr{topo.HostB4, topo.HostB6} {
				r, err := topo.HostA.Ping(dst, PingOptions{Count: 3, Size: 1200})
				if err != nil {
					t.Fatal(err)
				}
				if r.Received != 3 {
					t.Errorf("without a tunnel the topology itself must pass packets to %v: %v", dst, r)
				}
			}
			wire.Stop()
			if n := len(wire.ClearText()); n != 12 {
				t.Errorf("three echoes and replies of two families are 12 clear packets on the wire, captured: %v", wire)
			}
		})
	}
}

func TestRouterAnswersTooBig(t *testing.T) {
	topo := ForTest(t, TopologyOptions{MTU: 1400})
	for _, dst := range []netip.Addr{topo.HostB4, topo.HostB6} {
		r, err := topo.HostA.Ping(dst, PingOptions{Size: 1440, DF: true, Timeout: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Received != 0 || r.MTU != 1400 {
			t.Errorf("a packet larger than the link, not to be fragmented, is answered with its MTU 1400: %v, MTU %d", r, r.MTU)
		}
	}
}

func TestMasqueradeChangesSourceAddressAndPort(t *testing.T) {
	topo := ForTest(t, TopologyOptions{Between: NAT})
	server, err := topo.GwB.ListenPacket("udp4", "0.0.0.0:4500")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := topo.GwA.Dial("udp4", netip.AddrPortFrom(topo.WanB4, 4500).String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	source := func() netip.AddrPort {
		t.Helper()
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := server.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, from, err := server.ReadFrom(make([]byte, 8))
		if err != nil {
			t.Fatal(err)
		}
		return netip.MustParseAddrPort(from.String())
	}
	first := source()
	if first.Addr() != topo.Seen4 || first.Port() < NATPortBase {
		t.Errorf("behind the NAT gateway A is seen as %v, want %v and a port from %d on", first, topo.Seen4, NATPortBase)
	}
	if err := topo.Middle.Masquerade("b0", 30000); err != nil {
		t.Fatal(err)
	}
	if err := topo.Middle.ForgetFlows(); err != nil {
		t.Fatal(err)
	}
	if second := source(); second.Addr() != topo.Seen4 || second.Port() < 30000 {
		t.Errorf("after the NAT forgot, the mapping is %v, want %v and a port from 30000 on", second, topo.Seen4)
	}
}

func TestBlockAndUnblock(t *testing.T) {
	topo := ForTest(t, TopologyOptions{Between: Router})
	RequireCommand(t, "nft", "nftables")
	ping := func() int {
		t.Helper()
		r, err := topo.GwA.Ping(topo.WanB4, PingOptions{Timeout: 300 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return r.Received
	}
	if err := topo.Middle.Block("all"); err != nil {
		t.Fatal(err)
	}
	if ping() != 0 {
		t.Error("a blocking router passed a packet")
	}
	if err := topo.Middle.Unblock(); err != nil {
		t.Fatal(err)
	}
	if ping() != 1 {
		t.Error("an unblocked router dropped a packet")
	}
}

func TestProcessesRunInTheirNamespaceAndEndWithIt(t *testing.T) {
	RequireRoot(t)
	n, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ns, err := n.Namespace("a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := ns.RunCommand(ctx, Command{Args: []string{"sh", "-c", "cat /proc/net/dev; ls -A /run; touch /run/here; cat"}, PrivateRun: true, Stdin: strings.NewReader("fed")})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(out, ":") != 1 || !strings.Contains(out, "lo:") || !strings.HasSuffix(strings.TrimSpace(out), "fed") {
		t.Errorf("a fresh namespace has the interface lo only and an empty private /run: got %q", out)
	}
	if _, err := os.Stat("/run/here"); err == nil {
		t.Error("a private /run leaked its file to the machine")
	}
	p, err := ns.Start(Command{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if p.Alive() {
		t.Error("a process outlived its network")
	}
	if _, err := os.Stat(n.Dir()); err == nil {
		t.Errorf("%s outlived its network", n.Dir())
	}
}

func TestFailingCommandShowsItsOutput(t *testing.T) {
	RequireRoot(t)
	n, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ns, err := n.Namespace("a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = ns.Run(t.Context(), "sh", "-c", "echo the reason >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("the error of a failed command says its status and what it printed: %v", err)
	}
}

// TestInUserNamespace runs the direct topology once more as root of a user
// namespace, which is what somebody without root does.
func TestInUserNamespace(t *testing.T) {
	RequireRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestSitesReachEachOtherInClear$/^direct$", "-test.v")
	cmd.Env = append(os.Environ(), usernsEnv+"=1")
	cmd.SysProcAttr = userNSAttr()
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestSitesReachEachOtherInClear/direct") {
		t.Errorf("the topology inside a user namespace: %v\n%s", err, out)
	}
}
