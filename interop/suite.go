package interop

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"iked/internal/testnet"
)

// suiteCase is a protection suite between two daemons: AH around ESP, compression in
// it, or both.
type suiteCase struct {
	name      string
	version   int
	outer     int // family: 4 or 6
	inner     int
	transport bool
	esp, ah   string // no ah: there is none
	comp      bool
}

var suiteCases = []suiteCase{
	{"AH and ESP, tunnel, IPv4", 1, 4, 4, false, "aes128gcm16", "sha256", false},
	{"AH and ESP, tunnel, IPv6", 1, 6, 6, false, "aes256-sha256-modp2048", "sha512", false},
	{"AH and ESP, transport, IPv4", 1, 4, 4, true, "aes128-sha1-esn", "sha256-esn", false},
	{"AH and ESP, transport, IPv6", 1, 6, 6, true, "null-sha256", "sha384", false},
	{"IPComp, tunnel, IPv4", 2, 4, 4, false, "aes128gcm16", "", true},
	{"IPComp, tunnel, IPv6", 2, 6, 6, false, "aes128gcm16-esn", "", true},
	{"IPComp, transport, IPv4", 2, 4, 4, true, "aes256-sha256", "", true},
	{"IPComp, transport, IPv6, IKEv1", 1, 6, 6, true, "aes128gcm16", "", true},
	{"AH, ESP and IPComp, tunnel, IPv4", 1, 4, 4, false, "aes128-sha256", "sha256", true},
}

// suiteAcross are cases that the kernel cannot carry: a state in transport mode has one
// family there, also behind a tunnel, and so AH around it and ESP around compression.
var suiteAcross = []suiteCase{
	{"AH and ESP, tunnel, IPv6 in IPv4", 1, 4, 6, false, "aes128gcm16", "sha256", false},
	{"IPComp, tunnel, IPv4 in IPv6", 2, 6, 4, false, "aes128gcm16", "", true},
}

// RunSuites lets two daemons negotiate AH around ESP in one suite of IKEv1, and
// compression, carry traffic, rekey from both sides while packets flow, and end it.
// start runs iked in a namespace with a configuration, on the backend under test of that
// side. across adds the cases of inner packets of the other family; then nobody but the
// userspace datapath is there, and cases run side by side.
func RunSuites(t *testing.T, across bool, start func(*testing.T, *testnet.Topology, *testnet.Namespace, string) *Iked) {
	cases := suiteCases
	if across {
		cases = append(cases[:len(cases):len(cases)], suiteAcross...)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if across {
				t.Parallel()
			}
			c.run(t, start)
		})
	}
}

func (c suiteCase) run(t *testing.T, start func(*testing.T, *testnet.Topology, *testnet.Namespace, string) *Iked) {
	p := testnet.ForTest(t, testnet.TopologyOptions{})
	ends := [2]netip.Addr{p.WanA4, p.WanB4}
	if c.outer == 6 {
		ends = [2]netip.Addr{p.WanA6, p.WanB6}
	}
	nets := [2]string{p.NetA4.String(), p.NetB4.String()}
	from, to := p.HostA, p.HostB4
	if c.inner == 6 {
		nets, to = [2]string{p.NetA6.String(), p.NetB6.String()}, p.HostB6
	}
	child := fmt.Sprintf("esp_proposals: [%s], replay_window: 64", c.esp)
	if c.ah != "" {
		child += ", ah_proposals: [" + c.ah + "]"
	}
	if c.comp {
		child += ", ipcomp: yes"
	}
	if c.transport {
		nets, from, to = [2]string{"dynamic", "dynamic"}, p.GwA, ends[1]
		child += ", mode: transport, mode_required: yes"
	}
	yaml := func(own int, how string) string {
		return fmt.Sprintf(`connections:
  - name: old
    version: %d
    local_addrs: ["%v"]
    remote_addrs: ["%v"]
    children: [{name: net, local_ts: ["%v"], remote_ts: ["%v"], start: %s, %s}]
secrets:
  - {psk: "a throw-away secret"}
`, c.version, ends[own], ends[1-own], nets[own], nets[1-own], how, child)
	}
	b := start(t, p, p.GwB, yaml(1, "passive"))
	wire, err := testnet.Sent(testnet.End{NS: p.GwA, If: "wan0"}, testnet.End{NS: p.GwB, If: "wan0"})
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, p, p.GwA, yaml(0, "on-demand"))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	defer c.show(t, a, b)
	if _, err := from.WaitPing(to, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	c.same(ctx, t, a, b)
	for _, size := range []int{56, 1200, 1350} {
		if r, err := from.Ping(to, testnet.PingOptions{Count: 3, Size: size}); err != nil || r.Lost() > 0 && size < 1300 {
			t.Errorf("ping with %d octets: %v, %v", size, r, err)
		}
	}
	// What was deleted comes again, by the same policy.
	if _, err := b.Call(ctx, "terminate", map[string]any{"child": "net"}); err != nil {
		t.Error(err)
	}
	for _, d := range []*Iked{a, b} {
		if _, err := d.Until(ctx, "no CHILD_SA", func(sas []IKESA) bool { return len(sas) == 0 || len(sas[0].Children) == 0 }); err != nil {
			t.Error(err)
		}
	}
	if _, err := from.WaitPing(to, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Error(err)
	}
	first := c.same(ctx, t, a, b)
	for _, d := range []*Iked{a, b} {
		c.rekey(ctx, t, d, a, b, from, to)
	}
	last := c.same(ctx, t, a, b)
	if last.SPIIn == first.SPIIn || c.ah != "" && last.AHSPIIn == first.AHSPIIn || c.comp && last.CPIIn == first.CPIIn {
		t.Errorf("after two rekeyings there are %+v, before them %+v", last, first)
	}
	wire.Stop()
	c.onWire(t, wire)
}

// show tells what is in the backends when a case has failed.
func (c suiteCase) show(t *testing.T, daemons ...*Iked) {
	if !t.Failed() {
		return
	}
	for _, d := range daemons {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		counters, err := d.Ikectl(ctx, "counters")
		t.Logf("%s: %v\n%s", d.Process.NS.Name, err, counters)
		for _, what := range []string{"policy", "state"} {
			out, err := d.Process.NS.Run(ctx, "ip", "-s", "xfrm", what)
			t.Logf("%s: %v\n%s", what, err, out)
		}
		cancel()
	}
}

// same waits until both sides have the same suite; it returns that of A.
func (c suiteCase) same(ctx context.Context, t *testing.T, a, b *Iked) *ChildSA {
	t.Helper()
	mode := "TUNNEL"
	if c.transport {
		mode = "TRANSPORT"
	}
	for {
		_, x, errA := a.UntilInstalled(ctx, "net")
		_, y, errB := b.UntilInstalled(ctx, "net")
		if errA != nil || errB != nil {
			t.Fatalf("A: %v, B: %v", errA, errB)
		}
		if x.Protocol == "ESP" && y.Protocol == "ESP" && x.Mode == mode && y.Mode == mode && x.SPIIn == y.SPIOut && x.SPIOut == y.SPIIn &&
			(x.AHSPIIn != "") == (c.ah != "") && x.AHSPIIn == y.AHSPIOut && x.AHSPIOut == y.AHSPIIn && x.AHIntegAlg == y.AHIntegAlg &&
			(x.CPIIn != "") == c.comp && x.CPIIn == y.CPIOut && x.CPIOut == y.CPIIn {
			return x
		}
		if sleep(ctx, 50*time.Millisecond) != nil {
			t.Fatalf("the sides do not agree: %+v and %+v", x, y)
		}
	}
}

// rekey rekeys the suite from one side while packets flow, of which none is lost.
func (c suiteCase) rekey(ctx context.Context, t *testing.T, by, a, b *Iked, from *testnet.Namespace, to netip.Addr) {
	t.Helper()
	first := c.same(ctx, t, a, b)
	stop, done := make(chan struct{}), make(chan testnet.PingResult)
	go func() {
		var sum testnet.PingResult
		for {
			select {
			case <-stop:
				done <- sum
				return
			default:
			}
			r, err := from.Ping(to, testnet.PingOptions{Count: 5, Timeout: 2 * time.Second})
			sum.Sent, sum.Received = sum.Sent+r.Sent, sum.Received+r.Received
			if err != nil {
				sum.Errors = append(sum.Errors, err.Error())
			}
		}
	}()
	_, err := by.Call(ctx, "rekey", map[string]any{"child": "net"})
	for err == nil && c.same(ctx, t, a, b).SPIIn == first.SPIIn && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond) // the initiator sends on the new one by now
	close(stop)
	if r := <-done; err != nil || r.Lost() > 0 || r.Sent == 0 || len(r.Errors) > 0 {
		t.Errorf("pings while the suite was rekeyed: %v, %v", r, err)
	}
}

// onWire: IKE, and ESP, in AH where the case has it; nothing else. Compressed, echo
// requests of 1200 octets, which are equal, are short, and so are the answers, but for
// some that were not tried after others that did not shrink.
func (c suiteCase) onWire(t *testing.T, wire *testnet.SentCapture) {
	t.Helper()
	want := testnet.ESP
	if c.ah != "" {
		want = testnet.AH
	}
	n, long := 0, 0
	for _, x := range wire.Packets() {
		if x.Class.Housekeeping() || x.Class == testnet.IKE {
			continue
		}
		if x.Class != want || x.Src.Is4() != (c.outer == 4) || len(x.Payload) == 0 || c.ah != "" && x.FragmentOffset == 0 && x.Payload[0] != 50 {
			t.Errorf("on the wire: %v from %v; %v in all", x.Class, x.Src, wire)
			return
		}
		n++
		if len(x.Payload) > 600 {
			long++
		}
	}
	if n < 30 || wire.Counts()[testnet.IKE] < 8 {
		t.Errorf("on the wire: %v", wire)
	}
	if few := long < 6; few != c.comp {
		t.Errorf("%d packets on the wire are long", long)
	}
}
