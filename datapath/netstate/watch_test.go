package netstate_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"iked/datapath/netstate"
	"iked/internal/testnet"
)

type fixture struct {
	*testing.T
	ns    *testnet.Namespace
	w     *netstate.Watch
	looks chan bool // whether there was news, of each look
}

func start(t *testing.T) *fixture {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireCommand(t, "nft", "nftables")
	n, err := testnet.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	f := &fixture{T: t, looks: make(chan bool, 1000)}
	if f.ns, err = n.Namespace("watched"); err != nil {
		t.Fatal(err)
	}
	if err := f.ns.Do(func() (err error) { f.w, err = netstate.New(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.w.Close)
	return f
}

func (f *fixture) run(command string) {
	f.Helper()
	if out, err := f.ns.Run(context.Background(), strings.Fields(command)...); err != nil {
		f.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// quiet waits until a look has no news, so that the next news is of what comes.
func (f *fixture) quiet() {
	f.Helper()
	for deadline := time.After(10 * time.Second); ; {
		select {
		case news := <-f.looks:
			if !news {
				return
			}
		case <-deadline:
			f.Fatal("there is always news")
		}
	}
}

// Each change of what a look asks for is news, a firewall's too: the look does not
// wait for its turn.
func TestChangesAreNews(t *testing.T) {
	f := start(t)
	f.w.Start(func(_ time.Time, news bool) { f.looks <- news })
	for _, command := range []string{
		"nft add table inet f",
		"nft add chain inet f i { type filter hook input priority 0 ; }",
		"nft delete chain inet f i",
		"nft delete table inet f",
		"ip link add w0 type veth peer name w1",
		"ip address add 192.0.2.1/24 dev w0",
		"ip link set w0 up",
		"ip route add 198.51.100.0/24 dev w0",
		"ip rule add fwmark 7 unreachable",
		"ip link delete w0",
	} {
		f.quiet()
		f.run(command)
		// Without news four looks in a row say so.
		heard := false
		for range 4 {
			if heard = <-f.looks; heard {
				break
			}
		}
		if !heard {
			t.Errorf("%s: no news", command)
		}
	}
}

// A chain counts for the way whose packets it sees, unless its table is the
// daemon's own.
func TestUntouched(t *testing.T) {
	f := start(t)
	f.run("ip link add w0 type veth peer name w1")
	untouched := func(way netstate.Way, own string) (ok bool) {
		t.Helper()
		// Files in /proc are those of the thread.
		if err := f.ns.Do(func() error { ok = f.w.Untouched(way, own); return nil }); err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for _, c := range []struct {
		family, chain string
		in, out       bool // whether packets of the way see it
	}{
		{"inet", "type filter hook input priority 0 ;", true, false},
		{"inet", "type filter hook prerouting priority 0 ;", true, false},
		{"inet", "type filter hook ingress device w0 priority 0 ;", true, false},
		{"inet", "type filter hook output priority 0 ;", false, true},
		{"inet", "type filter hook postrouting priority 0 ;", false, true},
		{"inet", "type filter hook forward priority 0 ;", false, false},
		{"inet", "", false, false},
		{"ip", "type nat hook prerouting priority -100 ;", true, false},
		{"ip6", "type filter hook input priority 0 ;", true, false},
		{"netdev", "type filter hook ingress device w0 priority 0 ;", true, false},
	} {
		f.run("nft add table " + c.family + " f")
		if c.chain == "" {
			f.run("nft add chain " + c.family + " f c")
		} else {
			f.run("nft add chain " + c.family + " f c { " + c.chain + " }")
		}
		if in, out := !untouched(netstate.In, "g"), !untouched(netstate.Out, ""); in != c.in || out != c.out {
			t.Errorf("%s %q: seen by incoming packets: %v, by outgoing: %v", c.family, c.chain, in, out)
		}
		if !untouched(netstate.In, "f") {
			t.Errorf("%s %q: the daemon's own table counts", c.family, c.chain)
		}
		f.run("nft delete table " + c.family + " f")
		if !untouched(netstate.In, "") || !untouched(netstate.Out, "") {
			t.Fatalf("%s %q: it counts when it is gone", c.family, c.chain)
		}
	}
}
