package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"iked/internal/testnet"
)

// These tests run the real iked on both gateways: what a user sees of it, and what
// strongSwan's userspace ESP cannot do.

// site is iked on one gateway.
type site struct {
	*Iked
	ns *testnet.Namespace
}

// twoIked starts iked on both gateways with the given YAML.
func twoIked(t *testing.T, o testnet.TopologyOptions, yamlA, yamlB func(*testnet.Topology) string) (*testnet.Topology, *site, *site) {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	bin := binaries(t)
	topo := testnet.ForTest(t, o)
	var sites []*site
	for i, ns := range []*testnet.Namespace{topo.GwA, topo.GwB} {
		d, err := NewIked(bin, topo.Path(ns.Name))
		if err != nil {
			t.Fatal(err)
		}
		yaml := []func(*testnet.Topology) string{yamlA, yamlB}[i](topo)
		if err := d.Configure(yaml); err != nil {
			t.Fatal(err)
		}
		if err := d.Start(within(t, 20*time.Second), ns); err != nil {
			t.Fatal(err)
		}
		showLog(t, d.Process)
		sites = append(sites, &site{d, ns})
	}
	return topo, sites[0], sites[1]
}

// tunnelYAML is the minimal configuration of a side, with lines added to the
// connection and to the child.
func tunnelYAML(local, remote netip.Addr, localTS, remoteTS string, conn, child []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "connections:\n  - name: office\n    local_addrs: [%q]\n    remote_addrs: [%q]\n", local, remote)
	for _, l := range conn {
		fmt.Fprintf(&b, "    %s\n", l)
	}
	fmt.Fprintf(&b, "    children:\n      - name: net\n        local_ts: [%s]\n        remote_ts: [%s]\n", localTS, remoteTS)
	for _, l := range child {
		fmt.Fprintf(&b, "        %s\n", l)
	}
	b.WriteString("secrets:\n  - {psk: \"a throw-away secret\"}\n")
	return b.String()
}

func quoted(p ...netip.Prefix) string {
	var parts []string
	for _, x := range p {
		parts = append(parts, fmt.Sprintf("%q", x))
	}
	return strings.Join(parts, ", ")
}

func plainA(conn, child []string) func(*testnet.Topology) string {
	return func(t *testnet.Topology) string {
		return tunnelYAML(t.WanA4, t.WanB4, quoted(t.NetA4, t.NetA6), quoted(t.NetB4, t.NetB6), conn, child)
	}
}

func plainB(conn, child []string) func(*testnet.Topology) string {
	return func(t *testnet.Topology) string {
		return tunnelYAML(t.WanB4, t.Seen4, quoted(t.NetB4, t.NetB6), quoted(t.NetA4, t.NetA6), conn, child)
	}
}

var passive = []string{"start: passive"}

func pingBoth(t *testing.T, topo *testnet.Topology) {
	t.Helper()
	for _, x := range []struct {
		from *testnet.Namespace
		to   netip.Addr
	}{{topo.HostA, topo.HostB4}, {topo.HostA, topo.HostB6}, {topo.HostB, topo.HostA4}, {topo.HostB, topo.HostA6}} {
		r, err := x.from.Ping(x.to, testnet.PingOptions{Count: 3, Size: 1200})
		if err != nil {
			t.Fatal(err)
		}
		if r.Lost() > 0 {
			t.Errorf("ping from %s to %v: %v", x.from.Name, x.to, r)
		}
	}
}

// TestIkedPairs: each way to carry the tunnel between two iked, IPv4 and IPv6
// inside it. Without a NAT nothing is encapsulated, and nothing floats to port 4500
// unless MOBIKE may need it; with one, or when it is forced, everything does both.
func TestIkedPairs(t *testing.T) {
	tests := []struct {
		name        string
		o           testnet.TopologyOptions
		family      int
		conn, child []string
		wire        testnet.Class
		floats      bool
		cipher      string
	}{
		{name: "protocol 50 over IPv4", wire: testnet.ESP},
		{name: "with MOBIKE", conn: []string{"mobike: yes"}, wire: testnet.ESP, floats: true},
		{name: "protocol 50 over IPv6", family: 6, wire: testnet.ESP},
		{name: "through a router", o: testnet.TopologyOptions{Between: testnet.Router}, wire: testnet.ESP},
		{name: "ESN", child: []string{"esp_proposals: [aes128gcm16-esn]"}, wire: testnet.ESP, cipher: "AES_GCM_16-128"},
		{name: "ESN with a separate ICV", child: []string{"esp_proposals: [aes128-sha256-esn]", "replay_window: 1024"}, wire: testnet.ESP, cipher: "AES_CBC-128/HMAC_SHA2_256_128"},
		{name: "forced encapsulation", conn: []string{"encap: true"}, wire: testnet.ESPinUDP, floats: true},
		{name: "forced encapsulation over IPv6", family: 6, conn: []string{"encap: true"}, wire: testnet.ESPinUDP, floats: true},
		{name: "behind a NAT", o: testnet.TopologyOptions{Between: testnet.NAT}, wire: testnet.ESPinUDP, floats: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			side := func(a bool) func(*testnet.Topology) string {
				return func(x *testnet.Topology) string {
					local, remote := x.WanA4, x.WanB4
					netA, netB := quoted(x.NetA4, x.NetA6), quoted(x.NetB4, x.NetB6)
					if test.family == 6 {
						local, remote = x.WanA6, x.WanB6
					}
					conn := append([]string{"local: {auth: psk, id: a.example}", "remote: {auth: psk, id: b.example}"}, test.conn...)
					if !test.floats {
						conn = append(conn, "mobike: no")
					}
					if !a {
						local, remote, netA, netB = remote, local, netB, netA
						if test.o.Between == testnet.NAT {
							remote = x.Seen4
						}
						conn[0], conn[1] = "local: {auth: psk, id: b.example}", "remote: {auth: psk, id: a.example}"
					}
					return tunnelYAML(local, remote, netA, netB, conn, append([]string{"start: passive"}, test.child...))
				}
			}
			topo, a, b := twoIked(t, test.o, side(true), side(false))
			wire, err := topo.Wire.NS.Capture(topo.Wire.If)
			if err != nil {
				t.Fatal(err)
			}
			ctx := within(t, 30*time.Second)
			if err := a.Initiate(ctx, "net"); err != nil {
				t.Fatal(err)
			}
			_, child, err := b.UntilInstalled(ctx, "net")
			if err != nil {
				t.Fatal(err)
			}
			if !contains(child.Cipher(), test.cipher) {
				t.Errorf("the CHILD SA has %s, want %s", child.Cipher(), test.cipher)
			}
			if wantESN := strings.Contains(strings.Join(test.child, " "), "esn"); (child.ESN == "1") != wantESN {
				t.Errorf("esn=%q is listed, ESN wanted: %t", child.ESN, wantESN)
			}
			pingBoth(t, topo)
			wire.Stop()
			if clear := wire.ClearText(); len(clear) > 0 {
				t.Errorf("clear text on the wire: %v", clear[0])
			}
			for _, p := range wire.Packets() {
				if protected := p.Class == testnet.ESP || p.Class == testnet.ESPinUDP; protected && p.Class != test.wire {
					t.Errorf("%v on the wire, want %v only", p, test.wire)
					break
				}
				if natt := p.SrcPort == testnet.NATTPort || p.DstPort == testnet.NATTPort; natt && !test.floats {
					t.Errorf("%v: without a NAT nothing uses port 4500", p)
					break
				}
			}
			if wire.Counts()[test.wire] < 24 {
				t.Errorf("12 echoes and replies went through the tunnel, on the wire: %v", wire)
			}
		})
	}
}

// TestFailClosed: what a tunnel protects never crosses in clear, before it was up,
// while it is down, and after the peer died.
func TestFailClosed(t *testing.T) {
	t.Parallel()
	topo, a, _ := twoIked(t, testnet.TopologyOptions{}, plainA(nil, passive), plainB(nil, passive))
	wire, err := topo.Wire.NS.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	blocked := func(when string) {
		t.Helper()
		for _, dst := range []netip.Addr{topo.HostB4, topo.HostB6} {
			r, err := topo.HostA.Ping(dst, testnet.PingOptions{Count: 3, Timeout: 200 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if r.Received > 0 {
				t.Errorf("%s: packets to %v passed", when, dst)
			}
		}
	}
	ctx := within(t, 60*time.Second)
	blocked("before the tunnel is up")
	if out, err := a.Ikectl(ctx, "up", "net"); err != nil {
		t.Fatal(out, err)
	}
	pingBoth(t, topo)
	if out, err := a.Ikectl(ctx, "down", "office"); err != nil {
		t.Fatal(out, err)
	}
	blocked("after ikectl down")
	wire.Stop()
	if clear := wire.ClearText(); len(clear) > 0 {
		t.Errorf("clear text on the wire: %v", clear[0])
	}
}

// TestStartAlways: the tunnel is there without a command, and comes back after the
// peer was killed and started again.
func TestStartAlways(t *testing.T) {
	t.Parallel()
	quick := []string{"dpd_delay: 1s"}
	a := func(x *testnet.Topology) string {
		return "retransmit: {timeout: 500ms, base: 1.2, tries: 3}\n" + plainA(quick, []string{"start: always"})(x)
	}
	topo, _, b := twoIked(t, testnet.TopologyOptions{}, a, plainB(nil, passive))
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := b.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-b.Process.Done()
	// What the killed one left behind is adopted or cleaned.
	if err := b.Start(within(t, 20*time.Second), b.ns); err != nil {
		t.Fatal(err)
	}
	showLog(t, b.Process)
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 40*time.Second); err != nil {
		t.Error(err)
	}
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
	links, err := b.ns.Links()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 3 {
		t.Errorf("after kill, start and stop gw-b has %v, want lo, lan0 and wan0", links)
	}
}

// TestStartOnDemand: the first packet brings the tunnel up.
func TestStartOnDemand(t *testing.T) {
	t.Parallel()
	topo, _, b := twoIked(t, testnet.TopologyOptions{}, plainA(nil, []string{"start: on-demand"}), plainB(nil, passive))
	ctx := within(t, 30*time.Second)
	if sas, err := b.SAs(ctx); err != nil || len(sas) != 0 {
		t.Fatalf("before any packet: %s, %v", Describe(sas), err)
	}
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Error(err)
	}
}

// TestReload: SIGHUP applies a changed file; a faulty one leaves the running state
// as it was.
func TestReload(t *testing.T) {
	t.Parallel()
	topo, a, _ := twoIked(t, testnet.TopologyOptions{}, plainA(nil, []string{"start: always"}), plainB(nil, passive))
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 30*time.Second)
	before, err := a.SAs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	good := plainA(nil, []string{"start: always"})(topo)
	if err := a.Configure(strings.Replace(good, "local_ts", "locl_ts", 1)); err != nil {
		t.Fatal(err)
	}
	if err := a.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(a.Process.Log(), "locl_ts") {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			t.Fatal("the log does not name the unknown key locl_ts after SIGHUP")
		}
	}
	if out, err := a.Ikectl(ctx, "reload"); exitCode(err) != 1 || !strings.Contains(out, "local_ts") {
		t.Errorf("ikectl reload of a faulty file ends with 1 and names the nearest key: %v\n%s", err, out)
	}
	if err := a.Configure(good + "  - {psk: \"another\", id: [someone.example]}\n"); err != nil {
		t.Fatal(err)
	}
	if out, err := a.Ikectl(ctx, "reload", "--dry-run"); err != nil {
		t.Error(out, err)
	}
	if out, err := a.Ikectl(ctx, "reload"); err != nil {
		t.Error(out, err)
	}
	after, err := a.SAs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != 1 || len(after) != 1 || before[0].UniqueID != after[0].UniqueID || before[0].InitiatorSPI != after[0].InitiatorSPI {
		t.Errorf("reloads that do not concern the connection leave it alone: before %s, after %s", Describe(before), Describe(after))
	}
	pingBoth(t, topo)
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// TestCheck: --check prints every fault with file, line and key, and ends with 1.
func TestCheck(t *testing.T) {
	bin := binaries(t)
	path := filepath.Join(t.TempDir(), "iked.yaml")
	faulty := "connections:\n  - name: office\n    remote_adrs: [192.0.2.2]\n    children: [{name: net, local_ts: [10.1.0.0/99], remote_ts: [10.2.0.0/16]}]\n"
	if err := os.WriteFile(path, []byte(faulty), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), bin.Iked, "--config", path, "--check").CombinedOutput()
	if exitCode(err) != 1 {
		t.Errorf("--check of a faulty file: %v", err)
	}
	for _, want := range []string{path, "3", "remote_adrs", "remote_addrs", "10.1.0.0/99"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("--check does not say %q:\n%s", want, out)
		}
	}
}

// TestIkectl: every command, its JSON and its exit codes.
func TestIkectl(t *testing.T) {
	t.Parallel()
	topo, a, b := twoIked(t, testnet.TopologyOptions{}, plainA(nil, passive), plainB(nil, passive))
	ctx := within(t, 60*time.Second)
	for _, args := range [][]string{{"up", "net"}, {"status"}, {"sas"}, {"policies"}, {"connections"}, {"counters"}, {"version"}, {"explain"}, {"rekey", "net"}} {
		if out, err := a.Ikectl(ctx, args...); err != nil || len(strings.TrimSpace(out)) == 0 {
			t.Errorf("ikectl %v: %v\n%s", args, err, out)
		}
		if args[0] == "up" || args[0] == "rekey" {
			if _, _, err := a.UntilInstalled(ctx, "net"); err != nil {
				t.Error(err)
			}
			continue
		}
		out, err := a.Ikectl(ctx, append([]string{"-o", "json"}, args...)...)
		var doc struct {
			SchemaVersion int `json:"schema_version"`
		}
		if err != nil || json.Unmarshal([]byte(out), &doc) != nil || doc.SchemaVersion == 0 {
			t.Errorf("ikectl -o json %v is JSON with a schema_version: %v\n%s", args, err, out)
		}
	}
	pingBoth(t, topo)
	if out, err := a.Ikectl(ctx, "down", "office"); err != nil {
		t.Error(out, err)
	}
	for _, d := range []*site{a, b} {
		if _, err := d.Until(ctx, "no SA", func(s []IKESA) bool { return len(s) == 0 }); err != nil {
			t.Error(err)
		}
	}
	for _, x := range []struct {
		want int
		args []string
	}{{1, []string{"up", "nowhere"}}, {2, []string{"up"}}, {2, []string{"dance"}}, {3, []string{"--control", "unix:///nonexistent/iked.vici", "status"}}} {
		if out, err := a.Ikectl(ctx, x.args...); exitCode(err) != x.want {
			t.Errorf("ikectl %v ends with %d, want %d: %s", x.args, exitCode(err), x.want, out)
		}
	}
}

// TestExplain: after a refused negotiation both sides tell which transform differs.
func TestExplain(t *testing.T) {
	t.Parallel()
	_, a, b := twoIked(t, testnet.TopologyOptions{},
		plainA([]string{"proposals: [aes128-sha256-x25519]"}, passive),
		plainB([]string{"proposals: [aes128-sha256-ecp384]"}, passive))
	ctx := within(t, 30*time.Second)
	if out, err := a.Ikectl(ctx, "up", "net"); exitCode(err) != 1 {
		t.Errorf("up of a refused proposal ends with 1: %v\n%s", err, out)
	}
	out, err := b.Ikectl(ctx, "explain")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CURVE_25519", "ECP_384"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain on the responder does not name %s:\n%s", want, out)
		}
	}
	if out, err := a.Ikectl(ctx, "explain"); err != nil || !strings.Contains(out, "NO_PROPOSAL_CHOSEN") {
		t.Errorf("explain on the initiator names what the peer said: %v\n%s", err, out)
	}
}

// TestSwanctl: Debian's swanctl loads, steers and lists two iked that have no file.
func TestSwanctl(t *testing.T) {
	t.Parallel()
	testnet.RequireCommand(t, "swanctl", "strongswan-swanctl")
	none := func(*testnet.Topology) string { return "" }
	topo, a, b := twoIked(t, testnet.TopologyOptions{}, none, none)
	ctx := within(t, 60*time.Second)
	ca, err := NewCA("Root", ECDSA256)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]*Identity{}
	for _, name := range []string{"a.example", "b.example"} {
		if ids[name], err = ca.Issue(name, ECDSA256, CertOptions{DNS: []string{name}}); err != nil {
			t.Fatal(err)
		}
	}
	swanctl := func(s *site, args ...string) string {
		t.Helper()
		out, err := Swanctl(ctx, s.ns, s.Socket, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	load := func(s *site, local, remote string, wan, peer netip.Addr, localTS, remoteTS netip.Prefix) {
		t.Helper()
		dir := topo.Path("swanctl-" + local)
		files := &Charon{Dir: dir} // only its folders
		for _, sub := range swanctlFolders {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for _, err := range []error{files.AddCA("root", ca), files.AddIdentity(local, ids[local])} {
			if err != nil {
				t.Fatal(err)
			}
		}
		c := Config{
			Connections: Section{{"net", Section{
				{"version", "2"}, {"local_addrs", []string{wan.String()}}, {"remote_addrs", []string{peer.String()}},
				{"local", Section{{"auth", "pubkey"}, {"id", local}, {"certs", []string{local + ".pem"}}}},
				{"remote", Section{{"auth", "pubkey"}, {"id", remote}}},
				{"pools", []string{"addresses"}},
				{"children", Section{{"net", Section{{"local_ts", []string{localTS.String()}}, {"remote_ts", []string{remoteTS.String()}}}}}},
			}}},
			Pools:   Section{{"addresses", Section{{"addrs", "10.9.0.0/28"}}}},
			Secrets: []Secret{{PSK: "unused here", IDs: []string{"someone.example"}}},
		}
		conf := filepath.Join(dir, "swanctl.conf")
		if err := os.WriteFile(conf, []byte(c.Swanctl()), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time replaces what the first one loaded
			if out := swanctl(s, "--load-all", "--noprompt", "--file", conf); strings.Contains(out, "failed") {
				t.Fatalf("swanctl --load-all: %s", out)
			}
		}
	}
	load(a, "a.example", "b.example", topo.WanA4, topo.WanB4, topo.NetA4, topo.NetB4)
	load(b, "b.example", "a.example", topo.WanB4, topo.WanA4, topo.NetB4, topo.NetA4)
	swanctl(a, "--initiate", "--child", "net")
	if _, _, err := b.UntilInstalled(ctx, "net"); err != nil {
		t.Fatal(err)
	}
	if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 3}); err != nil || r.Lost() > 0 {
		t.Errorf("ping through the tunnel: %v, %v", r, err)
	}
	for _, x := range []struct {
		args []string
		want []string
	}{
		{[]string{"--list-conns"}, []string{"net: IKEv2", "local public key authentication", "id: a.example", "net: TUNNEL", "10.2.0.0/24"}},
		{[]string{"--list-sas"}, []string{"net: #1, ESTABLISHED, IKEv2", "'a.example' @ 192.0.2.1", "INSTALLED, TUNNEL, ESP:"}},
		{[]string{"--list-sas", "--raw"}, []string{"version=2 state=ESTABLISHED local-host=192.0.2.1", "local-ts=[10.1.0.0/24] remote-ts=[10.2.0.0/24]"}},
		{[]string{"--list-certs"}, []string{"CN=a.example", "has private key"}},
		{[]string{"--list-pols"}, nil},
		{[]string{"--list-pools"}, []string{"addresses", "0 / 0 / 14"}},
		{[]string{"--stats"}, []string{"IKE_SAs: 1 total, 0 half-open"}},
		{[]string{"--counters"}, []string{"ike-init-out-req"}},
		{[]string{"--version", "--daemon"}, []string{"iked"}},
		{[]string{"--rekey", "--child", "net"}, []string{"rekey completed successfully"}},
	} {
		out := swanctl(a, x.args...)
		for _, want := range x.want {
			if !strings.Contains(out, want) {
				t.Errorf("swanctl %v does not show %q:\n%s", x.args, want, out)
			}
		}
	}
	if _, _, err := a.UntilInstalled(ctx, "net"); err != nil {
		t.Error(err)
	}
	swanctl(a, "--terminate", "--ike", "net")
	if _, err := b.Until(ctx, "no SA", func(s []IKESA) bool { return len(s) == 0 }); err != nil {
		t.Error(err)
	}
}

// TestControlClientsCannotBlock: clients that hang, talk nonsense or die do not
// keep others from their answers.
func TestControlClientsCannotBlock(t *testing.T) {
	t.Parallel()
	topo, a, _ := twoIked(t, testnet.TopologyOptions{}, plainA(nil, passive), plainB(nil, passive))
	ctx := within(t, 30*time.Second)
	for _, bytes := range []string{"", "\x00", "\xff\xff\xff\xff", "\x00\x00\x00\x05\x00\x07ver", "\x00\x00\x00\x01\x09", strings.Repeat("\x00\x00\x00\x09\x00\x07version", 20)} {
		c, err := topo.GwA.Dial("unix", a.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close() // hangs until the end of the test
		if _, err := c.Write([]byte(bytes)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Call(ctx, "stats", nil); err != nil {
		t.Error(err)
	}
	if err := a.Initiate(ctx, "net"); err != nil {
		t.Error(err)
	}
}
