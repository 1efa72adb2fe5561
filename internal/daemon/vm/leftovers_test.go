package vm

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
)

// kill ends a daemon as a crash does.
func kill(t *testing.T, d *interop.Iked) {
	t.Helper()
	must(t, d.Process.Signal(syscall.SIGKILL))
	select {
	case <-d.Process.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("iked does not end")
	}
}

// What a daemon with one backend left when it crashed is found by one with the other:
// no SA with its keys stays, what was protected does not pass in clear, and nothing of
// either is left after an orderly end.
func TestLeftoversOfTheOtherBackend(t *testing.T) {
	uml.Require(t)
	testnet.RequireTUN(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	links, err := topo.GwA.Links()
	must(t, err)
	child := func(local, remote netip.Prefix, start string) string {
		return fmt.Sprintf("local_ts: [%v], remote_ts: [%v], start: %s", local, remote, start)
	}
	b := start(t, topo, topo.GwB, config(topo.WanB4, topo.WanA4, "", child(topo.NetB4, topo.NetA4, "passive")))
	run := func(backend string) *interop.Iked {
		t.Helper()
		return start(t, topo, topo.GwA, config(topo.WanA4, topo.WanB4, "", child(topo.NetA4, topo.NetB4, "on-demand")), "--backend", backend)
	}
	rules := func() string {
		t.Helper()
		s := ip(t, topo.GwA, "rule")
		for line := range strings.Lines(ip(t, topo.GwA, "route show table all")) {
			if strings.Contains(line, " table 220 ") {
				s += line
			}
		}
		return s
	}
	before := rules()
	blocked := func(when string) {
		t.Helper()
		wire := wan(t, topo)
		r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 3, Timeout: 500 * time.Millisecond})
		wire.Stop()
		if clear := wire.ClearText(); len(clear) > 0 {
			t.Errorf("%s: in clear on the wire: %v; %v %v", when, wire, r, err)
		}
	}

	a := run("kernel")
	_, err = topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second)
	must(t, err)
	kill(t, a)
	if s := ip(t, topo.GwA, "xfrm state"); !strings.Contains(s, topo.WanB4.String()) {
		t.Fatalf("the kernel backend left no SA:\n%s", s)
	}
	a = run("userspace")
	if s := ip(t, topo.GwA, "xfrm state"); strings.Contains(s, topo.WanB4.String()) {
		t.Errorf("an SA of the crashed daemon is left:\n%s", s)
	}
	if s := ip(t, topo.GwA, "xfrm policy"); !strings.Contains(s, topo.NetB4.String()) {
		t.Errorf("no policy blocks what the crashed daemon protected:\n%s", s)
	}
	blocked("kernel, then userspace")
	clean(t, a, topo.GwA, links)

	a = run("userspace")
	kill(t, a)
	if s := rules(); !strings.Contains(s, "unreachable") || !strings.Contains(s, "lookup 220") {
		t.Fatalf("the userspace backend left no route or no rule:\n%s", s)
	}
	a = run("kernel")
	if s := rules(); !strings.Contains(s, "unreachable") {
		t.Errorf("no route blocks what the crashed daemon protected:\n%s", s)
	}
	blocked("userspace, then kernel")
	clean(t, a, topo.GwA, links)
	if s := rules(); s != before {
		t.Errorf("rules and routes after the end:\n%s\nbefore it was\n%s", s, before)
	}
	must(t, b.Stop())
}
