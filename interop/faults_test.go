package interop

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"

	"iked/internal/testnet"
)

// These tests are about what goes wrong around a daemon: crashes, frozen peers,
// links and name servers that go away, full disks, second instances.

// quickConn and quickGlobal make dead peers noticed within seconds.
var quickConn = []string{"dpd_delay: 1s"}

const quickGlobal = "retransmit: {timeout: 300ms, base: 1.2, tries: 3}\n"

func quickly(yaml func(*testnet.Topology) string) func(*testnet.Topology) string {
	return func(t *testnet.Topology) string { return quickGlobal + yaml(t) }
}

var always = []string{"start: always"}

// traces is what a daemon leaves in a namespace: links, rules and routes.
func traces(t *testing.T, ns *testnet.Namespace) string {
	t.Helper()
	links, err := ns.Links()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := ns.Rules()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := ns.Handle().RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: 220}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("links %v, %d rules, routes %v", links, rules, routes)
}

// TestCrash: while a killed daemon is away nothing that it protected leaves in
// clear; its successor takes over what it left, the tunnel comes back, the peer
// keeps one IKE SA only, and after an orderly end nothing is left.
func TestCrash(t *testing.T) {
	t.Parallel()
	topo, a, b := twoIked(t, testnet.TopologyOptions{}, plainA(nil, always), plainB(nil, passive))
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	wire, err := topo.Wire.NS.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-a.Process.Done()
	for _, dst := range []netip.Addr{topo.HostB4, topo.HostB6} {
		if r, err := topo.HostA.Ping(dst, testnet.PingOptions{Count: 3, Timeout: 200 * time.Millisecond}); err != nil || r.Received > 0 {
			t.Errorf("ping %v while the daemon is dead: %v, %v", dst, r, err)
		}
	}
	if err := a.Start(within(t, 20*time.Second), a.ns); err != nil {
		t.Fatal(err)
	}
	showLog(t, a.Process)
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Error(err)
	}
	wire.Stop()
	for _, p := range wire.ClearText() {
		if p.Class != testnet.ICMPError { // that a port is closed may be said
			t.Errorf("clear text on the wire: %v", p)
			break
		}
	}
	if _, _, err := b.UntilInstalled(within(t, 10*time.Second), "net"); err != nil {
		t.Errorf("RFC 7296, Section 2.4: INITIAL_CONTACT removes the SAs of before the crash: %v", err)
	}
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
	fresh := testnet.ForTest(t, testnet.TopologyOptions{})
	if got, want := traces(t, a.ns), traces(t, fresh.GwA); got != want {
		t.Errorf("after kill, start and stop gw-a has %s, a fresh one %s", got, want)
	}
	if _, err := os.Stat(a.Socket); err == nil {
		t.Error("the control socket is left")
	}
}

// TestFrozenPeer: a peer that stops answering is noticed by the liveness check, and
// the tunnel is back after it goes on.
func TestFrozenPeer(t *testing.T) {
	t.Parallel()
	topo, a, b := twoIked(t, testnet.TopologyOptions{}, quickly(plainA(quickConn, always)), plainB(nil, passive))
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := b.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Process.Signal(syscall.SIGCONT) })
	ctx := within(t, 60*time.Second)
	for {
		sas, err := a.SAs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		out, err := a.Ikectl(ctx, "explain", "office")
		if err != nil {
			t.Fatal(err)
		}
		up := slices.ContainsFunc(sas, func(sa IKESA) bool { return sa.State == "ESTABLISHED" })
		if !up && strings.Contains(out, "does not answer") {
			break
		}
		if sleep(ctx, 100*time.Millisecond) != nil {
			t.Fatalf("a frozen peer is not noticed: %s; explain:\n%s", Describe(sas), out)
		}
	}
	if err := b.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 30*time.Second); err != nil {
		t.Error(err)
	}
}

// TestLinkGone: the tunnel comes back with its link, and meanwhile explain says
// that this system could not send.
func TestLinkGone(t *testing.T) {
	t.Parallel()
	topo, a, _ := twoIked(t, testnet.TopologyOptions{}, quickly(plainA(quickConn, always)), plainB(nil, passive))
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := topo.GwA.SetLink("wan0", false); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 60*time.Second)
	for {
		out, err := a.Ikectl(ctx, "explain", "office")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, "network is unreachable") && strings.Contains(out, "routes and interfaces of this system") {
			break
		}
		if sleep(ctx, 200*time.Millisecond) != nil {
			t.Fatalf("explain does not say that nothing could be sent:\n%s", out)
		}
	}
	if err := topo.GwA.SetLink("wan0", true); err != nil {
		t.Fatal(err)
	}
	if err := topo.GwA.AddRoute("default", topo.WanB4.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 30*time.Second); err != nil {
		t.Error(err)
	}
}

// wrap puts a shell script around a binary that runs in a mount namespace of its
// own before the program takes its place.
func wrap(t *testing.T, dir, binary, script string) string {
	t.Helper()
	inner, outer := filepath.Join(dir, "inner.sh"), filepath.Join(dir, "wrap.sh")
	for name, text := range map[string]string{
		inner: fmt.Sprintf("#!/bin/sh\nset -e\n%s\nexec %q \"$@\"\n", script, binary),
		outer: fmt.Sprintf("#!/bin/sh\nexec unshare --mount %q \"$@\"\n", inner),
	} {
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return outer
}

// single starts nothing: it is one daemon in a namespace with its folders.
func single(t *testing.T) (*testnet.Topology, *site) {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	bin := binaries(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	d, err := NewIked(bin, topo.Path(topo.GwA.Name))
	if err != nil {
		t.Fatal(err)
	}
	return topo, &site{d, topo.GwA}
}

// nameServer answers A questions with one address, until it is closed.
func nameServer(t *testing.T, ns *testnet.Namespace, answer *atomic.Pointer[netip.Addr]) net.PacketConn {
	t.Helper()
	c, err := ns.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
					Body:   &dnsmessage.AResource{A: answer.Load().As4()},
				}}
			}
			if b, err := m.Pack(); err == nil {
				c.WriteTo(b, from)
			}
		}
	}()
	return c
}

// TestNameServer: a peer's name is resolved at every attempt. Without a name server
// that is said; with it the tunnel comes up, and it follows the name to another
// address.
func TestNameServer(t *testing.T) {
	t.Parallel()
	topo, a := single(t)
	resolv := topo.Path("resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a.Binaries.Iked = wrap(t, topo.Dir(), a.Binaries.Iked, fmt.Sprintf("mount --bind %q /etc/resolv.conf", resolv))
	yaml := strings.Replace(quickly(plainA(append([]string{"local: {auth: psk, id: a.example}", "remote: {auth: psk, id: b.example}"}, quickConn...), always))(topo),
		fmt.Sprintf("remote_addrs: [%q]", topo.WanB4), "remote_addrs: [sun.example.org]", 1)
	if err := a.Configure(yaml); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 90*time.Second)
	moved := netip.MustParseAddr("192.0.2.3")
	b, err := NewIked(a.Binaries, topo.Path("gw-b"))
	if err != nil {
		t.Fatal(err)
	}
	b.Binaries = binaries(t)
	peer := plainB([]string{"local: {auth: psk, id: b.example}", "remote: {auth: psk, id: a.example}"}, passive)(topo)
	peer = strings.Replace(peer, fmt.Sprintf("local_addrs: [%q]", topo.WanB4), fmt.Sprintf("local_addrs: [%q, %q]", topo.WanB4, moved), 1)
	if err := b.Configure(peer); err != nil {
		t.Fatal(err)
	}
	for d, ns := range map[*Iked]*testnet.Namespace{a.Iked: topo.GwA, b: topo.GwB} {
		if err := d.Start(ctx, ns); err != nil {
			t.Fatal(err)
		}
		showLog(t, d.Process)
	}
	for {
		out, err := a.Ikectl(ctx, "explain", "office")
		if err == nil && strings.Contains(out, "sun.example.org") {
			break
		}
		if sleep(ctx, 100*time.Millisecond) != nil {
			t.Fatalf("explain does not name what cannot be resolved: %v\n%s", err, out)
		}
	}
	var answer atomic.Pointer[netip.Addr]
	answer.Store(&topo.WanB4)
	nameServer(t, topo.GwA, &answer)
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 40*time.Second); err != nil {
		t.Fatal(err)
	}
	answer.Store(&moved)
	if err := errors.Join(topo.GwB.DelAddr("wan0", topo.WanB4.String()+"/24"), topo.GwB.AddAddr("wan0", moved.String()+"/24")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Until(ctx, "an IKE SA with the new address of the peer", func(sas []IKESA) bool {
		return len(sas) == 1 && sas[0].State == "ESTABLISHED" && sas[0].RemoteHost == moved.String()
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Error(err)
	}
}

// TestStateDirectory: a daemon whose state directory cannot be written, is full or
// is none says so and serves.
func TestStateDirectory(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ name, script, want string }{
		{"full", "mount -t tmpfs -o size=4k,nr_inodes=1 none STATE", "no space left on device"},
		{"read-only", "mount -t tmpfs -o ro none STATE", "read-only file system"},
		{"a file", "umount STATE 2>/dev/null || true; mount --bind /etc/hostname STATE-is-a-file", "not a directory"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			_, a := single(t)
			state := filepath.Join(a.Dir, "state")
			if x.name == "a file" {
				if err := os.Remove(state); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(state, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			} else {
				a.Binaries.Iked = wrap(t, a.Dir, a.Binaries.Iked, strings.ReplaceAll(x.script, "STATE", state))
			}
			if err := a.Configure(""); err != nil {
				t.Fatal(err)
			}
			if err := a.Start(within(t, 20*time.Second), a.ns); err != nil {
				t.Fatal(err)
			}
			if log := a.Process.Log(); !strings.Contains(log, "nothing is kept over a restart") || !strings.Contains(log, x.want) {
				t.Errorf("the log does not say %q:\n%s", x.want, log)
			}
			if err := a.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// refused runs a daemon that must not start, and returns what it says.
func refused(t *testing.T, d *site, env []string, args ...string) string {
	t.Helper()
	out, err := d.ns.RunCommand(within(t, 15*time.Second), testnet.Command{Env: env, Args: args})
	if exitCode(err) != 1 {
		t.Errorf("%v ends with %d (%v), want 1", args, exitCode(err), err)
	}
	return out
}

// TestSecondInstance: what one daemon has, a second is refused, with who has it;
// and the first goes on as if nothing had been.
func TestSecondInstance(t *testing.T) {
	t.Parallel()
	topo, a, _ := twoIked(t, testnet.TopologyOptions{}, plainA(nil, always), plainB(nil, passive))
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(a.Process.PID())
	conf := topo.Path("second.yaml")
	for _, x := range []struct {
		what, yaml, socket, state, want string
		ns                              *testnet.Namespace
	}{
		{"state directory", "", "second", filepath.Join(a.Dir, "state"), "state directory", topo.GwA},
		{"control socket", "", a.Socket, topo.Path("second"), "control socket", topo.HostA},
		{"ports", "", "second", topo.Path("second"), "port 500 is held by iked", topo.GwA},
		{"routing table", "port: 1500\nport_nat_t: 5500\ndatapath: {device: ipsec9}\n", "second", topo.Path("second"), "routing table 220 is used", topo.GwA},
		{"device", "port: 1500\nport_nat_t: 5500\ndatapath: {table: 4711, rule_priority: 4711}\n", "second", topo.Path("second"), "device", topo.GwA},
	} {
		if err := os.WriteFile(conf, []byte(x.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if x.socket == "second" {
			x.socket = topo.Path("second.vici")
		}
		out := refused(t, &site{a.Iked, x.ns}, nil, a.Binaries.Iked, "--config", conf, "--control", "unix://"+x.socket, "--state", x.state)
		if !strings.Contains(out, x.want) || x.what != "device" && !strings.Contains(out, pid) {
			t.Errorf("a second daemon on the same %s must be told %q and the process %s:\n%s", x.what, x.want, pid, out)
		}
	}
	pingBoth(t, topo)
}

// TestMissingRights: without /dev/net/tun, and without root, the daemon says what
// is missing and what to do.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	_, a := single(t)
	if err := a.Configure(""); err != nil {
		t.Fatal(err)
	}
	args := []string{"--control", "unix://" + a.Socket, "--state", filepath.Join(a.Dir, "state"), "--config", filepath.Join(a.Dir, "iked.yaml")}
	out := refused(t, a, nil, append([]string{wrap(t, a.Dir, a.Binaries.Iked, "mount -t tmpfs none /dev/net")}, args...)...)
	if !strings.Contains(out, "modprobe tun") {
		t.Errorf("without /dev/net/tun:\n%s", out)
	}
	// Nobody can read the test's files, but may run the program.
	public, err := os.MkdirTemp("", "iked-public-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(public) })
	program, err := os.ReadFile(a.Binaries.Iked)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(public, "iked")
	if err := os.WriteFile(copied, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(public, 0o777); err != nil {
		t.Fatal(err)
	}
	out = refused(t, a, nil, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", copied,
		"--control", "unix://"+filepath.Join(public, "c"), "--state", filepath.Join(public, "s"))
	if !strings.Contains(out, "root") {
		t.Errorf("without root:\n%s", out)
	}
}

// TestServiceManager: systemd is told READY, RELOADING with the time and READY
// again, and STOPPING.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	_, a := single(t)
	socket := filepath.Join(a.Dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.Binaries.Iked = wrap(t, a.Dir, a.Binaries.Iked, fmt.Sprintf("export NOTIFY_SOCKET=%q", socket))
	if err := a.Configure(""); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(within(t, 20*time.Second), a.ns); err != nil {
		t.Fatal(err)
	}
	showLog(t, a.Process)
	next := func(want ...string) {
		t.Helper()
		buf := make([]byte, 4096)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("no message, want %q: %v", want, err)
		}
		for _, w := range want {
			if !strings.Contains(string(buf[:n]), w) {
				t.Errorf("told %q, want %q", buf[:n], w)
			}
		}
	}
	next("READY=1")
	if err := a.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	next("RELOADING=1", "MONOTONIC_USEC=")
	next("READY=1")
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
	next("STOPPING=1")
}

// descriptors counts the open files of a process.
func descriptors(t *testing.T, p *testnet.Process) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestNoLeaks: two hundred tunnels that came and went, forty of them with their IKE
// SA, and two thousand datagrams of noise leave neither goroutines nor descriptors
// behind, and the daemon works.
func TestNoLeaks(t *testing.T) {
	t.Parallel()
	topo, a, b := twoIked(t, testnet.TopologyOptions{}, plainA(nil, passive), plainB(nil, passive))
	ctx := within(t, 120*time.Second)
	goroutines := func(d *site) int {
		m, err := d.Call(ctx, "stats", nil)
		if err != nil {
			t.Fatal(err)
		}
		mem, ok := m.Get("mem").(interface{ Get(string) any })
		if !ok {
			t.Fatalf("stats has no section mem: %v", m)
		}
		n, err := strconv.Atoi(mem.Get("allocs").(string))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	cycle := func(what map[string]any) {
		t.Helper()
		if err := a.Initiate(ctx, "net"); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Call(ctx, "terminate", what); err != nil {
			t.Fatal(err)
		}
	}
	none := func(sas []IKESA) bool { return len(sas) == 0 }
	whole, child := map[string]any{"ike": "office"}, map[string]any{"child": "net"}
	cycle(whole)
	if _, err := b.Until(ctx, "no SA", none); err != nil {
		t.Fatal(err)
	}
	type state struct{ goroutines, files int }
	look := func(d *site) state { return state{goroutines(d), descriptors(t, d.Process)} }
	before := [2]state{look(a), look(b)}

	// From an address of its own: what a stranger may send is bounded by source.
	if err := topo.GwA.AddAddr("wan0", "192.0.2.99/24"); err != nil {
		t.Fatal(err)
	}
	noise, err := topo.GwA.ListenPacket("udp", "192.0.2.99:0")
	if err != nil {
		t.Fatal(err)
	}
	defer noise.Close()
	ike, natt := net.UDPAddrFromAddrPort(netip.AddrPortFrom(topo.WanB4, 500)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(topo.WanB4, 4500))
	for i := range 200 {
		if i%5 == 4 {
			cycle(whole)
		} else {
			cycle(child)
		}
		for j := range 5 {
			d := make([]byte, 1+(i*37+j*211)%1400)
			rand.Read(d)
			if len(d) > 28 && j%2 == 0 { // with the header of a first request
				copy(d[8:], make([]byte, 8))
				d[16], d[17], d[18], d[19] = 33, 0x20, 34, 0x08
				copy(d[20:], []byte{0, 0, 0, 0, 0, 0, byte(len(d) >> 8), byte(len(d))})
			}
			if _, err := noise.WriteTo(d, ike); err != nil {
				t.Fatal(err)
			}
			if _, err := noise.WriteTo(append(make([]byte, 4), d...), natt); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, d := range []*site{a, b} {
		if _, err := d.Until(ctx, "no SA", none); err != nil {
			t.Fatal(err)
		}
		// What ends by itself, such as half-open SAs of noise, gets its time.
		var now state
		patience := within(t, 40*time.Second)
		for {
			if now = look(d); now.goroutines <= before[i].goroutines+3 && now.files <= before[i].files+2 {
				break
			}
			if sleep(patience, 500*time.Millisecond) != nil {
				t.Fatalf("%s: before %+v, after 200 tunnels %+v", d.ns.Name, before[i], now)
			}
		}
	}
	if err := a.Initiate(ctx, "net"); err != nil {
		t.Error(err)
	}
	pingBoth(t, topo)
}

// TestDryRun: reload --dry-run says what would change and changes nothing; without
// it the same is done.
func TestDryRun(t *testing.T) {
	t.Parallel()
	topo, a := single(t)
	yaml := plainA(nil, passive)(topo)
	if err := a.Configure(yaml); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 30*time.Second)
	if err := a.Start(ctx, a.ns); err != nil {
		t.Fatal(err)
	}
	showLog(t, a.Process)
	second := "  - name: branch\n    remote_addrs: [192.0.2.77]\n    children: [{name: lan, local_ts: [10.1.0.0/24], remote_ts: [10.77.0.0/24], start: passive}]\n"
	if err := a.Configure(strings.Replace(yaml, "secrets:\n", second+"secrets:\n", 1)); err != nil {
		t.Fatal(err)
	}
	names := func() string {
		out, err := a.Ikectl(ctx, "connections")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, x := range []struct {
		args []string
		want bool
	}{{[]string{"reload", "--dry-run"}, false}, {[]string{"reload"}, true}} {
		if out, err := a.Ikectl(ctx, x.args...); err != nil || !strings.Contains(out, "branch") {
			t.Errorf("ikectl %v does not name the connection that comes: %v\n%s", x.args, err, out)
		}
		if got := strings.Contains(names(), "branch"); got != x.want {
			t.Errorf("after ikectl %v the connection is there: %t", x.args, got)
		}
	}
	if out, err := a.Ikectl(ctx, "reload", "--dry-run"); err != nil || !strings.Contains(out, "nothing would change") {
		t.Errorf("a second dry run: %v\n%s", err, out)
	}
	// The result of SIGHUP is in the log that ikectl shows.
	if err := a.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for {
		out, err := a.Ikectl(ctx, "log")
		if err == nil && strings.Contains(out, "reload: nothing changed") {
			break
		}
		if sleep(ctx, 50*time.Millisecond) != nil {
			t.Fatalf("ikectl log after SIGHUP: %v\n%s", err, out)
		}
	}
	// Each fault refuses the whole and leaves the state.
	for fault, want := range map[string]string{
		strings.Replace(yaml, "psk: \"a throw-away secret\"", "psk: \"file:gone.psk\"", 1): "gone.psk",
		strings.Replace(yaml, "start: passive", "start: pasive", 1):                        "always, on-demand, passive",
		"\tconnections:\n": "tab",
		"[]\n":             "connections",
	} {
		if err := a.Configure(fault); err != nil {
			t.Fatal(err)
		}
		if out, err := a.Ikectl(ctx, "reload"); exitCode(err) != 1 || !strings.Contains(out, want) {
			t.Errorf("reload of a faulty file ends with 1 and says %q: %v\n%s", want, err, out)
		}
		if !strings.Contains(names(), "branch") {
			t.Errorf("a faulty reload changed the state:\n%s", names())
		}
	}
}

// TestInstall: uninstall takes the trap away and not the protection; install after a
// down makes traffic bring the tunnel up again.
func TestInstall(t *testing.T) {
	t.Parallel()
	topo, a, _ := twoIked(t, testnet.TopologyOptions{}, plainA(nil, []string{"start: on-demand"}), plainB(nil, passive))
	wire, err := topo.Wire.NS.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 60*time.Second)
	if err := a.Initiate(ctx, "net"); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"uninstall", "terminate"} {
		if _, err := a.Call(ctx, command, map[string]any{"child": "net"}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 3, Timeout: 200 * time.Millisecond}); err != nil || r.Received > 0 {
		t.Errorf("after uninstall and terminate: %v, %v", r, err)
	}
	if _, err := a.Call(ctx, "install", map[string]any{"child": "net"}); err != nil {
		t.Fatal(err)
	}
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Error(err)
	}
	wire.Stop()
	if clear := wire.ClearText(); len(clear) > 0 {
		t.Errorf("clear text on the wire: %v", clear[0])
	}
}

// TestLogFollows: ikectl log -f goes on over a restart of the daemon and says so.
func TestLogFollows(t *testing.T) {
	t.Parallel()
	topo, a, _ := twoIked(t, testnet.TopologyOptions{}, plainA(nil, passive), plainB(nil, passive))
	ctx := within(t, 60*time.Second)
	follow, err := topo.GwA.Start(testnet.Command{Name: "follow", Args: []string{a.Binaries.Ikectl, "--control", "unix://" + a.Socket, "log", "-f"}})
	if err != nil {
		t.Fatal(err)
	}
	until := func(what string, step func()) {
		t.Helper()
		for !strings.Contains(follow.Log(), what) {
			step()
			if sleep(ctx, 100*time.Millisecond) != nil {
				t.Fatalf("log -f does not show %q:\n%s", what, follow.Log())
			}
		}
	}
	// It is not known when the subscription stands: so again until it is seen.
	again := func() {
		if _, err := a.Ikectl(ctx, "up", "net"); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Ikectl(ctx, "down", "office"); err != nil {
			t.Fatal(err)
		}
	}
	until("established", again)
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	until("the daemon ended; waiting", func() {})
	if err := a.Start(ctx, a.ns); err != nil {
		t.Fatal(err)
	}
	until("connected again", func() {})
	seen := strings.Count(follow.Log(), "established")
	for strings.Count(follow.Log(), "established") == seen {
		again()
	}
	if err := follow.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := follow.Wait(); err != nil {
		t.Errorf("log -f ends with 0 when it is interrupted: %v", err)
	}
}

// TestSwanctlWatches: swanctl's log and monitor show what happens in iked.
func TestSwanctlWatches(t *testing.T) {
	t.Parallel()
	testnet.RequireCommand(t, "swanctl", "strongswan-swanctl")
	topo, a, _ := twoIked(t, testnet.TopologyOptions{}, plainA(nil, passive), plainB(nil, passive))
	ctx := within(t, 60*time.Second)
	settings := topo.Path("swanctl-settings.conf")
	if err := os.WriteFile(settings, []byte("# The defaults.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	watch := map[string]*testnet.Process{}
	for _, what := range []string{"--log", "--monitor-sa"} {
		p, err := topo.GwA.Start(testnet.Command{Name: "swanctl", Args: []string{"stdbuf", "-oL", "swanctl", what, "--uri", "unix://" + a.Socket}, Env: []string{"STRONGSWAN_CONF=" + settings}})
		if err != nil {
			t.Fatal(err)
		}
		watch[what] = p
	}
	for what, want := range map[string]string{"--log": "CHILD_SA net", "--monitor-sa": "INSTALLED, TUNNEL"} {
		for !strings.Contains(watch[what].Log(), want) {
			if err := a.Initiate(ctx, "net"); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Call(ctx, "terminate", map[string]any{"ike": "office"}); err != nil {
				t.Fatal(err)
			}
			if sleep(ctx, 100*time.Millisecond) != nil {
				t.Fatalf("swanctl %s does not show %q:\n%s", what, want, watch[what].Log())
			}
		}
	}
}

// TestIkectlJSON: whatever happens, standard output of -o json is one document with
// a schema version, and the exit code says what kind of end it was.
func TestIkectlJSON(t *testing.T) {
	t.Parallel()
	_, a, _ := twoIked(t, testnet.TopologyOptions{}, plainA(nil, passive), plainB(nil, passive))
	ctx := within(t, 60*time.Second)
	for _, x := range []struct {
		want int
		args []string
	}{
		{0, []string{"up", "net"}}, {0, []string{"up", "office/net"}}, {0, []string{"rekey", "office"}}, {0, []string{"rekey", "net"}},
		{0, []string{"reload", "--dry-run"}}, {0, []string{"reload"}}, {0, []string{"explain", "nobody"}},
		{0, []string{"down", "office"}}, {1, []string{"down", "office"}}, {1, []string{"down", "nowhere"}}, {1, []string{"down", "#4711"}},
		{1, []string{"rekey", "office"}}, {1, []string{"up", "nowhere"}}, {1, []string{"up", "office/nowhere"}},
		{2, []string{"up", "net", "--timeout", "0"}}, {2, []string{"down", "#x"}}, {2, []string{"status", "extra"}},
	} {
		cmd := exec.CommandContext(ctx, a.Binaries.Ikectl, append([]string{"--control", "unix://" + a.Socket, "-o", "json"}, x.args...)...)
		out, err := cmd.Output() // the socket is a file: no namespace is needed
		if exitCode(err) != x.want {
			t.Errorf("ikectl %v ends with %d, want %d", x.args, exitCode(err), x.want)
		}
		var doc struct {
			SchemaVersion int `json:"schema_version"`
		}
		if err := json.Unmarshal(out, &doc); err != nil || doc.SchemaVersion != 1 {
			t.Errorf("ikectl -o json %v is no document with schema_version 1: %v\n%s", x.args, err, out)
		}
	}
}
