package shortcut_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/datapath/shortcut"
	"iked/internal/testnet"
)

const mark = 0x1ced

type fixture struct {
	*testing.T
	topo *testnet.Topology
	s    *shortcut.Shortcut
	src  netip.Addr
	dst  netip.Addr
}

func start(t *testing.T) *fixture {
	t.Helper()
	testnet.RequireRoot(t)
	f := &fixture{T: t, topo: testnet.ForTest(t, testnet.TopologyOptions{})}
	f.src, f.dst = f.topo.WanA4, f.topo.WanB4
	if err := f.topo.GwA.Do(func() error {
		var err error
		f.s, err = shortcut.New(shortcut.Options{Mark: mark})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.s.Close)
	f.resolve()
	return f
}

// resolve makes the neighbour known to the kernel.
func (f *fixture) resolve() {
	f.Helper()
	if _, err := f.topo.GwA.WaitPing(f.dst, testnet.PingOptions{}, 10*time.Second); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) run(command string) {
	f.Helper()
	if out, err := f.topo.GwA.Run(context.Background(), strings.Fields(command)...); err != nil {
		f.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// until asks again until the answer is the expected one.
func (f *fixture) until(what string, ok func(*shortcut.Way) bool) *shortcut.Way {
	f.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if w := f.s.Find(f.src, f.dst); ok(w) {
			return w
		}
	}
	f.Fatalf("%s: %+v", what, f.s.Find(f.src, f.dst))
	return nil
}

func there(w *shortcut.Way) bool { return w != nil }
func none(w *shortcut.Way) bool  { return w == nil }

// A known neighbour on an Ethernet interface is reached directly, and the first
// packets still go through the stack.
func TestNeighbour(t *testing.T) {
	f := start(t)
	w := f.until("no way to a neighbour", there)
	out, err := f.topo.GwA.Run(context.Background(), "ip", "neigh", "show", f.dst.String())
	if err != nil {
		t.Fatal(err)
	}
	if mac := hardware(w); !strings.Contains(out, mac) || w.MTU != 1500 {
		t.Errorf("way to %s with MTU %d, the kernel has\n%s", mac, w.MTU, out)
	}
	// A look may have come between; every one makes a way that is not ready.
	if f.until("no way", there).Ready() && f.s.Find(f.src, f.dst) == w {
		t.Error("ready at once")
	}
	f.until("never ready", func(w *shortcut.Way) bool { return w != nil && w.Ready() })
}

func hardware(w *shortcut.Way) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i, x := range w.Hop.Addr {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteByte(digits[x>>4])
		b.WriteByte(digits[x&15])
	}
	return b.String()
}

// A neighbour that moves to another link layer address is followed.
func TestNeighbourMoves(t *testing.T) {
	f := start(t)
	f.until("no way to a neighbour", there)
	f.run("ip neigh replace " + f.dst.String() + " lladdr 02:00:00:00:00:77 nud permanent dev " + f.topo.Wire.If)
	f.until("the old address stays", func(w *shortcut.Way) bool { return w != nil && hardware(w) == "02:00:00:00:00:77" })
}

// Packets larger than the route's MTU are not for the shortcut.
func TestRouteMTU(t *testing.T) {
	f := start(t)
	f.until("no way to a neighbour", there)
	f.run("ip route add " + f.dst.String() + "/32 dev " + f.topo.Wire.If + " mtu 1300")
	f.until("the MTU of the route is not known", func(w *shortcut.Way) bool { return w != nil && w.MTU == 1300 })
}

// Where the IP stack would do something with a packet on its way out there is no
// shortcut, and it comes back when that ends.
func TestNoShortcut(t *testing.T) {
	for name, c := range map[string]struct{ begin, end string }{
		"firewall":     {"nft add table inet f && nft add chain inet f o { type filter hook output priority 0; }", "nft delete table inet f"},
		"translation":  {"nft add table ip f && nft add chain ip f p { type nat hook postrouting priority 100; }", "nft delete table ip f"},
		"blackhole":    {"ip route add blackhole DST/32", "ip route del blackhole DST/32"},
		"link":         {"ip link set IF down", "ip link set IF up"},
		"rule":         {"ip rule add fwmark 0x1ced to DST unreachable pref 10", "ip rule del pref 10"},
		"no neighbour": {"ip neigh flush dev IF && ip neigh add DST nud failed dev IF", "ip neigh del DST dev IF"},
		"kernel IPsec": {"ip xfrm policy add dst DST/32 dir out", "ip xfrm policy flush"},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			if strings.HasPrefix(c.begin, "nft") {
				testnet.RequireCommand(t, "nft", "nftables")
			}
			commands := func(s string) {
				s = strings.NewReplacer("DST", f.dst.String(), "IF", f.topo.Wire.If).Replace(s)
				for _, command := range strings.Split(s, " && ") {
					f.run(command)
				}
			}
			f.until("no way to a neighbour", there)
			commands(c.begin)
			f.until("there is still a way", none)
			commands(c.end)
			f.resolve()
			f.until("there is no way again", there)
		})
	}
}

// An address of the host itself has no shortcut.
func TestOwnAddress(t *testing.T) {
	f := start(t)
	f.until("no way to a neighbour", there)
	f.s.Find(f.src, f.src)
	// The next look sees it together with a change that tells when it was.
	f.run("ip neigh replace " + f.dst.String() + " lladdr 02:00:00:00:00:78 nud permanent dev " + f.topo.Wire.If)
	f.until("no look", func(w *shortcut.Way) bool { return w != nil && hardware(w) == "02:00:00:00:00:78" })
	if w := f.s.Find(f.src, f.src); w != nil {
		t.Errorf("a way to oneself: %+v", w)
	}
}
