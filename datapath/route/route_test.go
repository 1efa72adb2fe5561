package route

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/internal/testnet"
	"iked/spd"
)

// A local selector is kept out of the tunnel when a wider remote one has it, and
// only then.
func TestInside(t *testing.T) {
	ts := func(list ...string) (out []spd.TS) {
		for _, s := range list {
			x, _, err := spd.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, x)
		}
		return out
	}
	for _, c := range []struct {
		local, remote []spd.TS
		want          string
	}{
		{ts("10.1.0.0/24"), ts("10.0.0.0/8"), "10.1.0.0/24"},
		{ts("10.1.0.0/24"), ts("0.0.0.0/0"), "10.1.0.0/24"},
		{ts("10.1.0.0/24"), ts("10.2.0.0/24"), ""},
		{ts("10.1.0.0/24"), ts("10.1.0.0/24"), ""},
		{ts("10.1.0.0/24"), ts("10.1.0.0/28"), ""},
		{ts("0.0.0.0/0"), ts("0.0.0.0/0"), ""},
		{ts("10.1.0.0/24", "2001:db8:1::/64"), ts("::/0"), "2001:db8:1::/64"},
	} {
		got := ""
		for _, p := range inside(c.local, spd.Prefixes(c.remote)) {
			got += p.String()
		}
		if got != c.want {
			t.Errorf("%v within %v: got %q, want %q", c.local, c.remote, got, c.want)
		}
	}
}

// world is a namespace with a device for the routes, and one for the rest.
type world struct {
	t  *testing.T
	ns *testnet.Namespace
}

func newWorld(t *testing.T) *world {
	testnet.RequireRoot(t)
	n, err := testnet.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	ns, err := n.Namespace("gw")
	if err != nil {
		t.Fatal(err)
	}
	far, err := n.Namespace("far")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ipsec0", "lan0"} {
		if err := n.Connect(testnet.End{NS: ns, If: name}, testnet.End{NS: far, If: name}, 1500); err != nil {
			t.Fatal(err)
		}
	}
	if err := ns.AddAddr("lan0", "10.1.0.1/24", "192.0.2.1/24", "2001:db8:1::1/64"); err != nil {
		t.Fatal(err)
	}
	return &world{t, ns}
}

func (w *world) manager(o Options) *Manager {
	w.t.Helper()
	o.Device, o.MTU, o.Table, o.Priority, o.Mark = "ipsec0", 1400, 220, 220, 0x1ced
	o.Warn = func(s string) { w.t.Log("warning:", s) }
	var m *Manager
	if err := w.ns.Do(func() (err error) { m, err = New(o); return err }); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// oif asks the kernel where a packet goes: a device, "unreachable", or "".
func (w *world) oif(dst string, mark uint32) string {
	w.t.Helper()
	list, err := w.ns.Handle().RouteGetWithOptions(netip.MustParseAddr(dst).AsSlice(), &netlink.RouteGetOptions{Mark: mark})
	if err == unix.EHOSTUNREACH {
		return "unreachable"
	}
	if err != nil || len(list) == 0 {
		return ""
	}
	l, err := w.ns.Handle().LinkByIndex(list[0].LinkIndex)
	if err != nil {
		w.t.Fatal(err)
	}
	return l.Attrs().Name
}

func (w *world) expect(what string, want map[string]string) {
	w.t.Helper()
	got := map[string]string{}
	for dst := range want {
		got[dst] = w.oif(dst, 0)
	}
	if d := cmp.Diff(want, got); d != "" {
		w.t.Errorf("%s:\n%s", what, d)
	}
}

func selectors(t *testing.T, text string) []spd.TS {
	t.Helper()
	ts, _, err := spd.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return []spd.TS{ts}
}

// What is protected goes to the device, what is local does not, marked packets
// bypass the table, and nothing is left after Close.
func TestRoutes(t *testing.T) {
	w := newWorld(t)
	before, err := w.ns.Rules()
	if err != nil {
		t.Fatal(err)
	}
	m := w.manager(Options{})
	local, wide, other := selectors(t, "10.1.0.0/24"), selectors(t, "10.0.0.0/8"), selectors(t, "2001:db8:2::/64")
	for _, remote := range [][]spd.TS{wide, other} {
		if err := m.Add(spd.Prefixes(remote), local, false); err != nil {
			t.Fatal(err)
		}
	}
	w.expect("a wide remote selector", map[string]string{
		"10.2.0.1": "ipsec0", "10.1.0.7": "lan0", "192.0.2.9": "lan0", "2001:db8:2::1": "ipsec0", "2001:db8:1::9": "lan0",
	})
	if got := w.oif("10.2.0.1", 0x1ced); got != "" {
		t.Errorf("a packet of the daemon goes to %q", got)
	}

	// The same again, for a second policy: one removal does not take the other's.
	if err := m.Add(spd.Prefixes(wide), local, false); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(spd.Prefixes(wide), local, false); err != nil {
		t.Fatal(err)
	}
	w.expect("one of two policies removed", map[string]string{"10.2.0.1": "ipsec0", "10.1.0.7": "lan0"})

	// What another policy protects is not let out by a local selector.
	if err := m.Add(spd.Prefixes(local), selectors(t, "10.3.0.0/24"), false); err != nil {
		t.Fatal(err)
	}
	w.expect("a policy protects what is local to another", map[string]string{"10.1.0.7": "ipsec0"})
	if err := m.Remove(spd.Prefixes(local), selectors(t, "10.3.0.0/24"), false); err != nil {
		t.Fatal(err)
	}

	// What is discarded everywhere does not take the near side along, in whichever order
	// it is told.
	everything := spd.Prefixes(selectors(t, "0.0.0.0/0"))
	lan := selectors(t, "10.4.0.0/16")
	before0 := map[string]string{"10.4.0.7": "ipsec0"} // of the wide selector
	w.expect("before", before0)
	for _, nearFirst := range []bool{true, false} {
		steps := []func(on bool) error{
			func(on bool) error { return m.SetNear(lan, on) },
			func(on bool) error { return m.SetDiscard(everything, on) },
		}
		if !nearFirst {
			slices.Reverse(steps)
		}
		for _, step := range steps {
			if err := step(true); err != nil {
				t.Fatal(err)
			}
		}
		w.expect("near, though everything is discarded", map[string]string{"10.4.0.7": "", "10.5.0.7": "ipsec0"})
		for _, step := range steps {
			if err := step(false); err != nil {
				t.Fatal(err)
			}
		}
		w.expect("as before", before0)
	}

	// The device goes down: fail closed.
	if err := w.ns.SetLink("ipsec0", false); err != nil {
		t.Fatal(err)
	}
	w.expect("device down", map[string]string{"10.2.0.1": "unreachable", "10.1.0.7": "lan0"})

	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.expect("closed", map[string]string{"10.2.0.1": "", "10.1.0.7": "lan0"})
	left, err := w.ns.Handle().RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{Table: 220}, netlink.RT_FILTER_TABLE)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
	after, err := w.ns.Rules()
	if err != nil || after != before {
		t.Errorf("%d rules before, %d after (%v)", before, after, err)
	}
}

// What a crashed daemon protected stays blocked until it is claimed or dropped.
func TestAdopt(t *testing.T) {
	w := newWorld(t)
	local, remote := selectors(t, "10.1.0.0/24"), selectors(t, "10.2.0.0/16")
	crashed := w.manager(Options{})
	if err := crashed.Add(spd.Prefixes(remote), local, false); err != nil {
		t.Fatal(err)
	}
	crashed.h.Close() // and nothing else: as kill -9 does
	m := w.manager(Options{})
	if m.Adopted() != 1 {
		t.Errorf("%d prefixes adopted, want 1", m.Adopted())
	}
	w.expect("after the crash", map[string]string{"10.2.0.1": "unreachable"})
	if err := m.Add(spd.Prefixes(remote), local, false); err != nil {
		t.Fatal(err)
	}
	w.expect("claimed", map[string]string{"10.2.0.1": "ipsec0"})
	if m.Adopted() != 0 {
		t.Errorf("%d prefixes adopted after the claim", m.Adopted())
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.expect("closed", map[string]string{"10.2.0.1": ""})
}

// A bypass leaves the table, and a preferred source is an address of the local
// selector.
func TestBypassAndSource(t *testing.T) {
	w := newWorld(t)
	m := w.manager(Options{})
	defer m.Close()
	remote := selectors(t, "0.0.0.0/0")
	if err := m.Add(spd.Prefixes(remote), selectors(t, "10.1.0.0/24"), false); err != nil {
		t.Fatal(err)
	}
	if err := m.SetThrows([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}); err != nil {
		t.Fatal(err)
	}
	w.expect("with a bypass", map[string]string{"192.0.2.9": "lan0", "198.51.100.1": "ipsec0"})
	list, err := w.ns.Handle().RouteGet(netip.MustParseAddr("198.51.100.1").AsSlice())
	if err != nil || len(list) != 1 || list[0].Src.String() != "10.1.0.1" {
		t.Errorf("source: %v (%v)", list, err)
	}
	if err := m.SetThrows(nil); err != nil {
		t.Fatal(err)
	}
	w.expect("without", map[string]string{"192.0.2.9": "ipsec0"})
}

// An address that a policy needs is put on the device when no interface has it,
// once for all policies, and goes with the last of them; a route prefers it.
func TestHostAddresses(t *testing.T) {
	w := newWorld(t)
	m := w.manager(Options{})
	defer m.Close()
	where := func(a string) (name string) {
		t.Helper()
		list, err := w.ns.Handle().AddrList(nil, unix.AF_UNSPEC)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list {
			if x.IP.Equal(netip.MustParseAddr(a).AsSlice()) {
				l, err := w.ns.Handle().LinkByIndex(x.LinkIndex)
				if err != nil {
					t.Fatal(err)
				}
				name += l.Attrs().Name
			}
		}
		return name
	}
	for _, a := range []string{"10.77.0.1", "2001:20::1", "10.1.0.1", "10.77.0.1"} {
		if err := m.AddHost(netip.MustParseAddr(a)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Add(spd.Prefixes(selectors(t, "10.77.0.2/32")), selectors(t, "10.77.0.1/32"), false); err != nil {
		t.Fatal(err)
	}
	list, err := w.ns.Handle().RouteGet(netip.MustParseAddr("10.77.0.2").AsSlice())
	if err != nil || len(list) != 1 || list[0].Src.String() != "10.77.0.1" {
		t.Errorf("source: %v (%v)", list, err)
	}
	for step, want := range []map[string]string{
		{"10.77.0.1": "ipsec0", "2001:20::1": "ipsec0", "10.1.0.1": "lan0"},
		{"10.77.0.1": "ipsec0", "2001:20::1": "", "10.1.0.1": "lan0"}, // one of two gone
		{"10.77.0.1": "", "2001:20::1": "", "10.1.0.1": "lan0"},
	} {
		for a, name := range want {
			if got := where(a); got != name {
				t.Errorf("step %d: %s is on %q, expected %q", step, a, got, name)
			}
		}
		for _, a := range []string{"10.77.0.1", "2001:20::1", "10.1.0.1"} {
			if err := m.RemoveHost(netip.MustParseAddr(a)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Marked packets are held against the routes of marked packets while the routes
// are there, and what that was before is restored.
func TestMarkedWayBack(t *testing.T) {
	w := newWorld(t)
	read := func() (v string) {
		t.Helper()
		if err := w.ns.Do(func() error {
			b, err := os.ReadFile(srcValidMark)
			v = strings.TrimSpace(string(b))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, before := range []string{"0", "1"} {
		if err := w.ns.Sysctl("net.ipv4.conf.all.src_valid_mark", before); err != nil {
			t.Fatal(err)
		}
		m := w.manager(Options{})
		if read() != "1" {
			t.Error("src_valid_mark is not set")
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if v := read(); v != before {
			t.Errorf("src_valid_mark is %s, was %s", v, before)
		}
	}
}

// A policy that fails open has no unreachable route behind it, unless another
// policy for the same prefix fails closed.
func TestFailOpenRoutes(t *testing.T) {
	w := newWorld(t)
	m := w.manager(Options{})
	local, remote, other := selectors(t, "10.1.0.0/24"), selectors(t, "10.2.0.0/16"), selectors(t, "10.3.0.0/16")
	step := func(do func([]netip.Prefix, []spd.TS, bool) error, what []spd.TS, open bool) {
		t.Helper()
		if err := do(spd.Prefixes(what), local, open); err != nil {
			t.Fatal(err)
		}
	}
	blocked := func(when string, want int) {
		t.Helper()
		list, err := w.ns.Handle().RouteListFiltered(unix.AF_INET, &netlink.Route{Table: m.opt.Table, Type: unix.RTN_UNREACHABLE}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		if err != nil || len(list) != want {
			t.Errorf("%s: unreachable routes %v, %v, expected %d", when, list, err, want)
		}
	}
	step(m.Add, remote, true)
	blocked("one open", 0)
	step(m.Add, other, false)
	blocked("another closed", 1)
	step(m.Add, remote, false)
	blocked("the same prefix open and closed", 2)
	step(m.Remove, remote, true)
	blocked("the closed one is left", 2)
	step(m.Add, remote, true)
	step(m.Remove, remote, false)
	blocked("the open one is left", 1)
	w.expect("open and closed", map[string]string{"10.2.0.1": "ipsec0", "10.3.0.1": "ipsec0"})
	step(m.Remove, remote, true)
	step(m.Remove, other, false)
	blocked("all removed", 0)
}
