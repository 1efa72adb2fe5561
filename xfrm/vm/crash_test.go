package vm

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/internal/trace"
	"iked/internal/uml"
	"iked/sad"
	"iked/spd"
	"iked/xfrm"
)

var (
	local  = netip.MustParseAddr("192.0.2.1")
	remote = netip.MustParseAddr("192.0.2.2")
	netL   = netip.MustParsePrefix("10.1.0.0/16")
	netR   = netip.MustParsePrefix("10.2.0.0/16")
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ip runs the command and gives what it says.
func ip(t *testing.T, ns *testnet.Namespace, args ...string) string {
	t.Helper()
	testnet.RequireCommand(t, "ip", "iproute2")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := ns.Run(ctx, append([]string{"ip"}, args...)...)
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// install puts a pair of SAs and their policy into a backend.
func install(t *testing.T, b *xfrm.Backend, spi uint32) (out *sad.SA) {
	t.Helper()
	in, out := backendtest.Pair(7, local, remote, spi, spi+1, netL, netR)
	must(t, b.AddSA(in))
	must(t, b.AddSA(out))
	must(t, b.ApplyPolicies(nil, []spd.Policy{protection()}))
	return out
}

func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// foreign are an SA and a policy of somebody else; left tells whether they are
// still there.
func foreign(t *testing.T, ns *testnet.Namespace) (left func() bool) {
	ip(t, ns, "xfrm", "state", "add", "src", "198.51.100.1", "dst", "198.51.100.2", "proto", "esp", "spi", "0x4711", "reqid", "9", "mode", "tunnel",
		"aead", "rfc4106(gcm(aes))", "0x"+strings.Repeat("ab", 20), "128")
	ip(t, ns, "xfrm", "policy", "add", "src", "172.16.0.0/12", "dst", "10.9.0.0/16", "dir", "out", "tmpl", "src", "198.51.100.1", "dst", "198.51.100.2", "proto", "esp", "reqid", "9", "mode", "tunnel")
	return func() bool {
		return strings.Contains(ip(t, ns, "xfrm", "state"), "0x00004711") && strings.Contains(ip(t, ns, "xfrm", "policy"), "172.16.0.0/12")
	}
}

// Close removes what is ours and nothing else.
func TestCloseLeavesOthersAlone(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	left := foreign(t, ns)
	b := open(t, ns, xfrm.Options{State: t.TempDir()})
	install(t, b, 0x1000)
	_, err := b.AllocSPI(3, local)
	must(t, err)
	must(t, b.Close())
	if !left() {
		t.Error("the SA or the policy of somebody else is gone")
	}
	if s := ip(t, ns, "xfrm", "state"); strings.Count(s, "proto esp") != 1 {
		t.Errorf("SAs are left:\n%s", s)
	}
	if s := ip(t, ns, "xfrm", "policy"); strings.Contains(s, "10.2.0.0/16") {
		t.Errorf("policies are left:\n%s", s)
	}
}

// leaveEnv is the folder of the state of a process that ends without Close.
const leaveEnv = "XFRM_LEAVE_BEHIND"

// compressEnv has it compress.
const compressEnv = "XFRM_LEAVE_COMPRESSION"

// leaveBehind is that process: it protects, lets something pass, and is gone.
func leaveBehind() error {
	b, err := xfrm.New(xfrm.Options{State: os.Getenv(leaveEnv)})
	if err != nil {
		return err
	}
	in, out := backendtest.Pair(7, local, remote, 0x1000, 0x1001, netL, netR)
	if os.Getenv(compressEnv) != "" {
		in.CPI, out.CPI = 0x2345, 0x1234
	}
	hole := backendtest.Policy(2, 0, netL, netip.MustParsePrefix("10.3.0.0/16"))
	hole.Action = spd.Bypass
	return errors.Join(b.AddSA(in), b.AddSA(out), b.ApplyPolicies(nil, []spd.Policy{protection(), hole}))
}

func protection() spd.Policy {
	p := backendtest.Policy(1, 7, netL, netR)
	p.OuterLocal, p.OuterRemote = local, remote
	return p
}

// crash gives the folder of a process that has ended without Close.
func crash(t *testing.T, ns *testnet.Namespace, env ...string) (state string) {
	t.Helper()
	state = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := ns.RunCommand(ctx, testnet.Command{Args: []string{os.Args[0], "-test.run=^$"}, Env: append(env, leaveEnv+"="+state)})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return state
}

// A process that starts after a crash removes the SAs of the one before, whose keys
// nobody has, and the policies that let traffic pass. Those that protect stay and
// block, and one that is claimed stays for good. What is not ours is not touched.
func TestCrash(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	left := foreign(t, ns)
	state := crash(t, ns)
	if s := ip(t, ns, "xfrm", "state"); strings.Count(s, "reqid 7") != 2 {
		t.Fatalf("nothing was left behind:\n%s", s)
	}
	b := open(t, ns, xfrm.Options{State: state})
	if s := ip(t, ns, "xfrm", "state"); strings.Contains(s, "reqid 7") {
		t.Errorf("SAs of the crashed process:\n%s", s)
	}
	s := ip(t, ns, "xfrm", "policy")
	if strings.Count(s, "10.2.0.0/16") != 3 || strings.Contains(s, "10.3.0.0/16") {
		t.Errorf("policies of the crashed process, want in, out and forward of 10.2.0.0/16 and none of 10.3.0.0/16:\n%s", s)
	}
	must(t, b.ApplyPolicies(nil, []spd.Policy{protection()}))
	must(t, b.Close())
	if s := ip(t, ns, "xfrm", "policy"); strings.Contains(s, "10.2.0.0/16") {
		t.Errorf("policies are left:\n%s", s)
	}
	if !left() {
		t.Error("the SA or the policy of somebody else is gone")
	}
}

// SAs of a crashed process that a mobility manager moved before the next one began go as
// well: the policies would go on using them, and nobody has their keys. They are known by
// SPI and request id; an SA of somebody else that has one of both stays.
func TestCrashBeforeAMove(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	state := crash(t, ns)
	add := func(dst, spi, reqid string) {
		ip(t, ns, "xfrm", "state", "add", "src", local.String(), "dst", dst, "proto", "esp", "spi", spi, "reqid", reqid, "mode", "tunnel",
			"aead", "rfc4106(gcm(aes))", "0x"+strings.Repeat("ab", 20), "128")
	}
	ip(t, ns, "xfrm", "state", "delete", "src", local.String(), "dst", remote.String(), "proto", "esp", "spi", "0x1001")
	add("192.0.2.77", "0x1001", "7")
	add("192.0.2.78", "0x1001", "9")
	add("192.0.2.79", "0x1003", "7")
	open(t, ns, xfrm.Options{State: state})
	s := ip(t, ns, "xfrm", "state")
	if strings.Contains(s, "192.0.2.77") || strings.Contains(s, "0x00001000") {
		t.Errorf("SAs of the crashed process:\n%s", s)
	}
	if !strings.Contains(s, "192.0.2.78") || !strings.Contains(s, "192.0.2.79") {
		t.Errorf("an SA of somebody else is gone:\n%s", s)
	}
}

// A journal of another boot, or of another network namespace, says nothing of this
// one.
func TestJournalOfAnotherNamespace(t *testing.T) {
	uml.Require(t)
	state := crash(t, namespace(t))
	ns := namespace(t)
	ip(t, ns, "xfrm", "state", "add", "src", remote.String(), "dst", local.String(), "proto", "esp", "spi", "0x1000", "reqid", "9", "mode", "tunnel",
		"aead", "rfc4106(gcm(aes))", "0x"+strings.Repeat("ab", 20), "128")
	open(t, ns, xfrm.Options{State: state})
	if s := ip(t, ns, "xfrm", "state"); !strings.Contains(s, "0x00001000") {
		t.Errorf("the SA of somebody else with the same SPI is gone:\n%s", s)
	}
}

// On a full disk what a crash left is dealt with all the same, and tunnels work; the
// journal is written when there is room again.
func TestFullStateFolder(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	state := t.TempDir()
	must(t, unix.Mount("none", state, "tmpfs", 0, "size=32k"))
	t.Cleanup(func() { must(t, unix.Unmount(state, 0)) })
	must(t, os.CopyFS(state, os.DirFS(crash(t, ns))))
	ballast := filepath.Join(state, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 64<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	before, err := os.ReadFile(filepath.Join(state, "journal"))
	must(t, err)
	var mu sync.Mutex
	var said []string
	b := open(t, ns, xfrm.Options{State: state, Sweep: time.Second, Log: func(r trace.Record) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, r.Msg)
	}})
	if s := ip(t, ns, "xfrm", "state"); strings.Contains(s, "reqid 7") {
		t.Errorf("SAs of the crashed process:\n%s", s)
	}
	install(t, b, 0x2000)
	mu.Lock()
	if n := strings.Count(strings.Join(said, "\n"), "journal not written"); n != 1 || !strings.Contains(strings.Join(said, "\n"), "no space left on device") {
		t.Errorf("the log: %q", said)
	}
	mu.Unlock()
	if now, err := os.ReadFile(filepath.Join(state, "journal")); err != nil || !bytes.Equal(before, now) {
		t.Errorf("the journal of before is lost: %v\n%s", err, now)
	}
	must(t, os.Remove(ballast))
	eventually(t, "the journal has the SAs of now", 10*time.Second, func() bool {
		now, err := os.ReadFile(filepath.Join(state, "journal"))
		return err == nil && strings.Contains(string(now), "00002000020032") && !strings.Contains(string(now), "00001000020032")
	})
}

// Two processes do not share a folder.
func TestStateFolderIsLocked(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	dir := t.TempDir()
	open(t, ns, xfrm.Options{State: dir})
	err := ns.Do(func() error { _, err := xfrm.New(xfrm.Options{State: dir}); return err })
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error %v", err)
	}
}

// A policy that somebody removes or changes is put back, and said once; an SA that
// somebody removes is told as expired, since its numbers must not begin again.
func TestForeignHands(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	var mu sync.Mutex
	var said []string
	b := open(t, ns, xfrm.Options{State: t.TempDir(), Log: func(r trace.Record) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, r.Msg)
	}})
	out := install(t, b, 0x1000)
	policy := func() string { return ip(t, ns, "xfrm", "policy") }
	before := policy()
	ip(t, ns, "xfrm", "policy", "delete", "src", netL.String(), "dst", netR.String(), "dir", "out")
	eventually(t, "the policy is put back", 5*time.Second, func() bool { return strings.Count(policy(), "10.2.0.0/16") == 3 })
	ip(t, ns, "xfrm", "policy", "update", "src", netL.String(), "dst", netR.String(), "dir", "out", "action", "allow")
	eventually(t, "the policy is protection again", 5*time.Second, func() bool { return strings.Count(policy(), "tmpl") == strings.Count(before, "tmpl") })
	ip(t, ns, "xfrm", "policy", "flush")
	eventually(t, "policies come back after a flush", 5*time.Second, func() bool { return strings.Count(policy(), "10.2.0.0/16") == 3 })
	mu.Lock()
	n := 0
	for _, s := range said {
		if strings.Contains(s, "put right") {
			n++
		}
	}
	mu.Unlock()
	if n != 5 {
		t.Errorf("%d repairs were told, expected 1, 1 and 3: %q", n, said)
	}
	ip(t, ns, "xfrm", "state", "delete", "src", local.String(), "dst", remote.String(), "proto", "esp", "spi", "0x1001")
	select {
	case e := <-b.Events():
		if x, ok := e.(backend.Expire); !ok || !x.Hard || x.ID != out.ID || x.Why != "removed" {
			t.Errorf("event %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody was told of the SA")
	}
	must(t, b.DeleteSA(out.ID))
}

// While no SA serves an entry that fails open its packets may pass in clear; with
// the SA they may not, and when it goes they may again. Inbound, protection is
// optional.
func TestFailOpen(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	b := open(t, ns, xfrm.Options{})
	p := protection()
	p.FailOpen = true
	must(t, b.ApplyPolicies(nil, []spd.Policy{p}))
	templates := func(dir string) int {
		return strings.Count(ip(t, ns, "xfrm", "policy", "list", "dir", dir), "tmpl")
	}
	if n := templates("out"); n != 0 {
		t.Errorf("without an SA the outbound policy has %d templates", n)
	}
	if s := ip(t, ns, "-d", "xfrm", "policy", "list", "dir", "in"); strings.Count(s, "level use") != 1 {
		t.Errorf("inbound:\n%s", s)
	}
	_, out := backendtest.Pair(7, local, remote, 0x1000, 0x2000, netL, netR)
	must(t, b.AddSA(out))
	if n := templates("out"); n != 1 {
		t.Errorf("with an SA the outbound policy has %d templates", n)
	}
	must(t, b.DeleteSA(out.ID))
	if n := templates("out"); n != 0 {
		t.Errorf("after the SA the outbound policy has %d templates", n)
	}
}

// Two entries with one selector of the kernel: the one that comes first in the SPD
// is there, and when it goes the other one is.
func TestEntriesOfOneSelector(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	b := open(t, ns, xfrm.Options{})
	second := backendtest.Policy(1, 7, netL, netR)
	second.Priority = 200
	first := backendtest.Policy(2, 0, netL, netR)
	first.Action = spd.Discard
	must(t, b.ApplyPolicies(nil, []spd.Policy{second, first}))
	out := func() string { return ip(t, ns, "xfrm", "policy", "list", "dir", "out") }
	if s := out(); !strings.Contains(s, "block") || strings.Count(s, "src 10.1.0.0/16 dst 10.2.0.0/16") != 1 {
		t.Errorf("want the drop alone on the way out:\n%s", s)
	}
	must(t, b.ApplyPolicies([]uint64{2}, nil))
	if s := out(); strings.Contains(s, "block") || !strings.Contains(s, "reqid 7") {
		t.Errorf("want the protection:\n%s", s)
	}
	must(t, b.ApplyPolicies([]uint64{1}, nil))
	if s := out(); s != "" {
		t.Errorf("want nothing:\n%s", s)
	}
}

// A virtual address is on the device, packets to the far side of the tunnel have it
// as their source, and with it everything goes.
func TestVirtualAddress(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	ip(t, ns, "link", "set", "lo", "up")
	b := open(t, ns, xfrm.Options{Device: "vip0", Mark: 77})
	vip := netip.MustParsePrefix("10.1.0.77/32")
	must(t, b.AddAddress(vip))
	must(t, b.AddAddress(vip))
	p := protection()
	must(t, b.ApplyPolicies(nil, []spd.Policy{p}))
	if s := ip(t, ns, "route", "get", "10.2.0.9"); !strings.Contains(s, "dev vip0") || !strings.Contains(s, "src 10.1.0.77") {
		t.Errorf("route: %s", s)
	}
	// What IKE sends has the mark, and finds another address of the peer beside the tunnel.
	if s, _ := ns.Run(t.Context(), "ip", "route", "get", "10.2.0.9", "mark", "77"); strings.Contains(s, "vip0") {
		t.Errorf("route of packets of IKE: %s", s)
	}
	if s := ip(t, ns, "route", "show", "table", "5221"); !strings.Contains(s, "throw 192.0.2.2") {
		t.Errorf("the peer has no exception:\n%s", s)
	}
	must(t, b.RemoveAddress(vip))
	if s := ip(t, ns, "addr", "show", "dev", "vip0"); !strings.Contains(s, "10.1.0.77") {
		t.Errorf("the address was taken away although it was added twice:\n%s", s)
	}
	must(t, b.RemoveAddress(vip))
	if s := ip(t, ns, "link"); strings.Contains(s, "vip0") {
		t.Errorf("the device is left:\n%s", s)
	}
	if s := ip(t, ns, "rule"); strings.Contains(s, "5221") {
		t.Errorf("a rule is left:\n%s", s)
	}
}
