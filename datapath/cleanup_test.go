package datapath

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/datapath/guard"
	"iked/datapath/route"
	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/testnet"
	"iked/spd"
)

// When another backend carries the traffic, what a crashed datapath let pass leaves
// the table at once, what it protected is unreachable until its time is over, and then
// routes, rules and tables of netfilter are gone. What is not ours, or belongs to a
// process that lives, is not touched.
func TestCleanUp(t *testing.T) {
	testnet.RequireTUN(t)
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
	ip := func(line string) string {
		t.Helper()
		out, err := ns.Run(context.Background(), append([]string{"ip"}, strings.Fields(line)...)...)
		if err != nil {
			t.Fatalf("ip %s: %v\n%s", line, err, out)
		}
		return out
	}
	do := func(fn func() error) {
		t.Helper()
		if err := ns.Do(fn); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{"link add lan0 type veth peer name lan1", "addr add 10.1.0.1/16 dev lan0", "addr add 2001:db8:1::1/64 dev lan0 nodad", "link set lan0 up", "link set lan1 up",
		"route add 10.0.0.0/8 dev lan0", "route add 2001:db8::/32 dev lan0",
		// Of somebody else, in the same table.
		"route add 10.9.0.0/16 dev lan0 table 5220", "rule add priority 5219 from 10.9.0.1 lookup 5220"} {
		ip(line)
	}
	var foreign *guard.Guard
	do(func() (err error) { foreign, err = guard.New("other0", nil, 0); return err })
	defer foreign.Close()

	o := Options{Device: "ipsec0"}.withDefaults()
	prefixes := func(list ...string) (out []netip.Prefix, ts []spd.TS) {
		for _, s := range list {
			p := netip.MustParsePrefix(s)
			out, ts = append(out, p), append(ts, spd.FromPrefix(p))
		}
		return out, ts
	}
	// crash leaves what a datapath with a mark leaves that protects some networks and
	// lets one pass: everything but the device.
	crash := func() (dev *tun.Linux) {
		t.Helper()
		do(func() (err error) {
			if dev, err = tun.Open(tun.Options{Name: o.Device, Queues: 1, MTU: o.MTU}); err != nil {
				return err
			}
			r, err := route.New(route.Options{Device: o.Device, MTU: o.MTU, Table: o.Table, Priority: o.Priority, Mark: 0x1ced})
			if err != nil {
				return err
			}
			t.Cleanup(func() { r.Close() })
			g, err := guard.New(o.Device, []uint16{500}, 0x1ced)
			if err != nil {
				return err
			}
			t.Cleanup(func() { g.Close() })
			remote, _ := prefixes("10.2.0.0/16", "2001:db8:2::/64")
			pass, _ := prefixes("10.2.3.0/24")
			_, local := prefixes("10.1.0.0/16", "2001:db8:1::/64")
			return errors.Join(r.Add(remote, local, false), r.SetThrows(pass), g.Add(local))
		})
		return dev
	}
	// way is where a packet goes: a device, or "unreachable".
	way := func(dst string) string {
		t.Helper()
		out, err := ns.Run(context.Background(), "ip", "route", "get", dst)
		if err != nil {
			return "unreachable"
		}
		_, dev, _ := strings.Cut(out, " dev ")
		return strings.Fields(dev)[0]
	}
	expect := func(when string, want map[string]string) {
		t.Helper()
		for dst, w := range want {
			if got := way(dst); got != w {
				t.Errorf("%s: %s goes to %s, want %s", when, dst, got, w)
			}
		}
	}
	tables := func() (empty bool) {
		t.Helper()
		do(func() error {
			l, err := guard.FindLeft(o.Device)
			if err != nil {
				return err
			}
			empty = l.Empty()
			return l.Close()
		})
		return empty
	}
	clean := func(grace time.Duration) (l *backend.Leftovers, err error) {
		do(func() error { l, err = cleanUp(o, grace); return nil })
		return l, err
	}
	gone := func(when string) {
		t.Helper()
		expect(when, map[string]string{"10.2.0.1": "lan0", "10.2.3.1": "lan0", "2001:db8:2::1": "lan0"})
		if s := ip("rule") + ip("-6 rule"); strings.Contains(s, "5220:") || !strings.Contains(s, "5219:") {
			t.Errorf("%s: rules:\n%s", when, s)
		}
		if s := ip("route show table 5220"); !strings.Contains(s, "10.9.0.0/16") || strings.Count(s, "\n") != 1 {
			t.Errorf("%s: routes:\n%s", when, s)
		}
		if !tables() {
			t.Errorf("%s: a netfilter table is left", when)
		}
	}

	if l, err := clean(time.Minute); l != nil || err != nil {
		t.Errorf("before anything was there: %v, %v", l, err)
	}
	dev := crash()
	alive := map[string]string{"10.2.0.1": "ipsec0", "10.2.3.1": "lan0", "2001:db8:2::1": "ipsec0"}
	expect("alive", alive)
	if l, err := clean(0); l != nil || !errors.Is(err, route.ErrInUse) {
		t.Errorf("of a process that lives: %v, %v", l, err)
	}
	expect("still alive", alive)
	dev.Close()

	l, err := clean(2 * time.Second)
	if err != nil || l == nil {
		t.Fatal(l, err)
	}
	blocked := map[string]string{"10.2.0.1": "unreachable", "10.2.3.1": "unreachable", "2001:db8:2::1": "unreachable"}
	expect("after the crash", blocked)
	if tables() {
		t.Error("the netfilter table did not wait")
	}
	select {
	case <-l.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the time of the leftovers is never over")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	gone("after the time")

	crash().Close()
	if l, err = clean(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := l.Leave(); err != nil {
		t.Error(err)
	}
	expect("left by a process that failed to start", blocked)
	if l, err = clean(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	gone("after an orderly end")

	do(func() error {
		l, err := guard.FindLeft("other0")
		if err != nil {
			return err
		}
		defer l.Close()
		if l.Empty() {
			return errors.New("the netfilter table of another device is gone")
		}
		return nil
	})
}
