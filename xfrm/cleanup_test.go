package xfrm

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/backend"
	"iked/internal/testnet"
	"iked/internal/trace"
	"iked/spd"
	"iked/xfrm/wire"
)

// oneHost is a namespace with one link, and a kernel that takes policies.
func oneHost(t *testing.T) *testnet.Namespace {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireCommand(t, "ip", "iproute2")
	n, err := testnet.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	ns, err := n.Namespace("host")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"link add lan0 type veth peer name lan1", "addr add 10.1.0.1/16 dev lan0", "link set lan0 up", "link set lan1 up", "route add 10.0.0.0/8 dev lan0",
		"neigh add 10.2.0.1 lladdr 02:00:00:00:00:01 dev lan0 nud permanent"} {
		ip(t, ns, line)
	}
	if out, err := ns.Run(context.Background(), strings.Fields("ip xfrm policy add src 10.9.0.0/16 dst 10.9.0.0/16 dir out action block")...); err != nil {
		testnet.LeaveOut(t, "this kernel takes no IPsec policies (CONFIG_XFRM_USER): "+out)
	}
	return ns
}

func ip(t *testing.T, ns *testnet.Namespace, line string) string {
	t.Helper()
	out, err := ns.Run(context.Background(), append([]string{"ip"}, strings.Fields(line)...)...)
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
	return out
}

// crash leaves what a backend puts into the kernel that protects 10.2.0.0/16 and lets
// 10.3.0.0/16 pass, and what it writes into its journal.
func crash(t *testing.T, ns *testnet.Namespace, state string, more ...string) {
	t.Helper()
	err := ns.Do(func() (err error) {
		b := newBackend(Options{State: state})
		defer b.release()
		if b.req, err = newSocket(); err != nil {
			return err
		}
		if b.addrs, err = newAddresses(DefaultDevice, 0); err != nil {
			return err
		}
		if b.journal, err = openJournal(state); err != nil {
			return err
		}
		for _, line := range more {
			b.journal.add(line)
		}
		policy := func(id uint64, remote string) spd.Policy {
			return spd.Policy{ID: id, Name: "test", Action: spd.Bypass, Priority: 100,
				Local: []spd.TS{spd.FromPrefix(netip.MustParsePrefix("10.1.0.0/16"))}, Remote: []spd.TS{spd.FromPrefix(netip.MustParsePrefix(remote))}}
		}
		protect, pass := policy(1, "10.2.0.0/16"), policy(2, "10.3.0.0/16")
		protect.Action, protect.ReqID = spd.Protect, 7
		protect.OuterLocal, protect.OuterRemote = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		return b.ApplyPolicies(nil, []spd.Policy{protect, pass})
	})
	if err != nil {
		t.Fatal(err)
	}
	if s := ip(t, ns, "xfrm policy"); strings.Count(s, "10.2.0.0/16") != 3 || !strings.Contains(s, "10.3.0.0/16") {
		t.Fatalf("nothing was left behind:\n%s", s)
	}
}

// sends tells whether a packet to 10.2.0.1 leaves the host. The kernel may say that it
// sent what it drops, so the link is what counts.
func sends(t *testing.T, ns *testnet.Namespace) bool {
	t.Helper()
	wire, err := testnet.Sent(testnet.End{NS: ns, If: "lan0"})
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Stop()
	if c, err := ns.Dial("udp", "10.2.0.1:9"); err == nil {
		defer c.Close()
		c.Write([]byte("clear")) // an error is a packet that is not on the link
	}
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if len(wire.ClearText()) > 0 {
			return true
		}
	}
	return false
}

func clean(t *testing.T, ns *testnet.Namespace, o Options, grace time.Duration) *backend.Leftovers {
	t.Helper()
	var l *backend.Leftovers
	if err := ns.Do(func() (err error) { l, err = cleanUp(o, grace); return err }); err != nil {
		t.Fatal(err)
	}
	return l
}

// When another backend carries the traffic, what a crashed one let pass is gone at
// once, what it protected blocks until its time is over and is gone then, and what is
// not ours is not touched.
func TestCleanUp(t *testing.T) {
	ns := oneHost(t)
	state := t.TempDir()
	if l := clean(t, ns, Options{State: state}, time.Minute); l != nil {
		t.Error("something is left before anything was there")
	}
	if list, err := os.ReadDir(state); err != nil || len(list) > 0 {
		t.Errorf("looking for a journal made %v (%v)", list, err)
	}
	crash(t, ns, state)

	// A process that fails to start leaves what blocks.
	if err := clean(t, ns, Options{State: state}, time.Minute).Leave(); err != nil {
		t.Error(err)
	}
	s := ip(t, ns, "xfrm policy")
	if strings.Count(s, "10.2.0.0/16") != 3 || strings.Contains(s, "10.3.0.0/16") {
		t.Errorf("policies, want in, out and forward of 10.2.0.0/16 and none of 10.3.0.0/16:\n%s", s)
	}

	l := clean(t, ns, Options{State: state}, 2*time.Second)
	if sends(t, ns) {
		t.Error("a packet that was protected leaves in clear")
	}
	select {
	case <-l.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the time of the leftovers is never over")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if s := ip(t, ns, "xfrm policy"); strings.Contains(s, "10.2.0.0/16") || !strings.Contains(s, "10.9.0.0/16") {
		t.Errorf("policies, want those of 10.9.0.0/16 alone:\n%s", s)
	}
	if !sends(t, ns) {
		t.Error("the packet is still blocked, or was by something else")
	}
	if hasJournal(state) {
		t.Error("the journal is left")
	}

	// The orderly end does not wait.
	crash(t, ns, state)
	if err := clean(t, ns, Options{State: state}, time.Minute).Close(); err != nil {
		t.Error(err)
	}
	if s := ip(t, ns, "xfrm policy"); strings.Contains(s, "10.2.0.0/16") || hasJournal(state) {
		t.Errorf("left at the end:\n%s", s)
	}
}

// One leftover that the kernel refuses to look at keeps nothing else from being dealt
// with; it is said once and stays in the journal, also at the end.
func TestLeftoverThatTheKernelRefuses(t *testing.T) {
	ns := oneHost(t)
	state := t.TempDir()
	odd := leftover{policy: &wire.PolicyByID{PolicyID: wire.PolicyID{Sel: wire.Selector{Family: wire.Inet}, Dir: 7}}}.line()
	crash(t, ns, state, odd)
	var mu sync.Mutex
	said := 0
	l := clean(t, ns, Options{State: state, Sweep: 50 * time.Millisecond, Log: func(r trace.Record) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(r.Msg, "stays there") {
			said++
		}
	}}, 500*time.Millisecond)
	if l == nil {
		t.Fatal("nothing is left")
	}
	for end := time.Now().Add(20 * time.Second); strings.Contains(ip(t, ns, "xfrm policy"), "10.2.0.0/16"); {
		if time.Now().After(end) {
			t.Fatal("the other leftovers stay")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := l.Close(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("error at the end: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if said != 1 {
		t.Errorf("said %d times", said)
	}
	b, err := os.ReadFile(journalPath(state))
	if err != nil || !strings.Contains(string(b), "+"+odd+"\n") || strings.Count(string(b), "\n") != 2 {
		t.Errorf("journal: %v\n%s", err, b)
	}
}
