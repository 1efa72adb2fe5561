package vm

import (
	"testing"
	"time"

	"iked/internal/backend"
	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/spd"
	"iked/xfrm"
)

// knock sends a datagram from the local side to the remote one and ignores what
// becomes of it.
func knock(t *testing.T, ns *testnet.Namespace) {
	t.Helper()
	if c, err := ns.Dial("udp", "10.2.0.1:9"); err == nil {
		_, _ = c.Write([]byte("x"))
		c.Close()
	}
}

// routed is a namespace in which packets to the remote side leave by a device.
func routed(t *testing.T) *testnet.Namespace {
	ns := namespace(t)
	ip(t, ns, "link", "add", "eth0", "type", "dummy")
	ip(t, ns, "addr", "add", "10.1.0.1/16", "dev", "eth0")
	ip(t, ns, "addr", "add", "192.0.2.1/24", "dev", "eth0")
	ip(t, ns, "link", "set", "eth0", "up")
	ip(t, ns, "route", "add", "10.2.0.0/16", "dev", "eth0", "src", "10.1.0.1")
	return ns
}

// asked knocks until the kernel's question comes through.
func asked(t *testing.T, ns *testnet.Namespace, b *xfrm.Backend, within time.Duration) (backend.Acquire, bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); {
		knock(t, ns)
		select {
		case e := <-b.Events():
			if a, ok := e.(backend.Acquire); ok {
				return a, true
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
	return backend.Acquire{}, false
}

// When no SA can be had the policy is silent until it is time to try again, and
// then asks at once, although the kernel alone would wait for its own time.
func TestFailedAcquireAsksAgain(t *testing.T) {
	uml.Require(t)
	ns := routed(t)
	b := open(t, ns, xfrm.Options{})
	p := protection()
	p.Acquire = true
	must(t, b.ApplyPolicies(nil, []spd.Policy{p}))
	a, ok := asked(t, ns, b, 5*time.Second)
	if !ok || a.Policy != p.ID || a.Flow.Proto != 17 || a.Flow.RemotePort != 9 {
		t.Fatalf("event %+v, %v", a, ok)
	}
	b.AcquireFailed(a.Policy, a.Flow, 2*time.Second)
	if a, ok := asked(t, ns, b, time.Second); ok {
		t.Errorf("asked before the time: %+v", a)
	}
	if _, ok := asked(t, ns, b, 4*time.Second); !ok {
		t.Error("does not ask again")
	}
}

// An entry that fails open lets its packets pass, and still asks.
func TestOpenEntryAsks(t *testing.T) {
	uml.Require(t)
	ns := routed(t)
	b := open(t, ns, xfrm.Options{})
	p := protection()
	p.Acquire, p.FailOpen = true, true
	must(t, b.ApplyPolicies(nil, []spd.Policy{p}))
	if a, ok := asked(t, ns, b, 5*time.Second); !ok || a.Policy != p.ID || a.ReqID != p.ReqID {
		t.Errorf("event %+v, %v", a, ok)
	}
}
