package interop

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// suiteCase is a protection suite of AH around ESP between two daemons.
type suiteCase struct {
	name      string
	outer     int // family: 4 or 6
	inner     int
	transport bool
	esp, ah   string
}

var suiteCases = []suiteCase{
	{"tunnel, IPv4", 4, 4, false, "aes128gcm16", "sha256"},
	{"tunnel, IPv6", 6, 6, false, "aes256-sha256-modp2048", "sha512"},
	{"transport, IPv4", 4, 4, true, "aes128-sha1-esn", "sha256-esn"},
	{"transport, IPv6", 6, 6, true, "null-sha256", "sha384"},
}

// suiteAcross is a case that the kernel cannot carry: AH in transport mode has one
// family there, also behind a tunnel.
var suiteAcross = suiteCase{"tunnel, IPv6 in IPv4", 4, 6, false, "aes128gcm16", "sha256"}

// RunSuites lets two daemons negotiate AH around ESP in one suite of IKEv1, carry
// traffic, rekey from both sides while packets flow, and end it. start runs iked in a
// namespace with a configuration, on the backend under test of that side. across adds
// the case of an inner packet of the other family.
func RunSuites(t *testing.T, across bool, start func(*testing.T, *testnet.Topology, *testnet.Namespace, string) *Iked) {
	cases := suiteCases
	if across {
		cases = append(cases[:len(cases):len(cases)], suiteAcross)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, start) })
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
	child := fmt.Sprintf("esp_proposals: [%s], ah_proposals: [%s], replay_window: 64", c.esp, c.ah)
	if c.transport {
		nets, from, to = [2]string{"dynamic", "dynamic"}, p.GwA, ends[1]
		child += ", mode: transport, mode_required: yes"
	}
	yaml := func(own int, how string) string {
		return fmt.Sprintf(`connections:
  - name: old
    version: 1
    local_addrs: ["%v"]
    remote_addrs: ["%v"]
    children: [{name: net, local_ts: ["%v"], remote_ts: ["%v"], start: %s, %s}]
secrets:
  - {psk: "a throw-away secret"}
`, ends[own], ends[1-own], nets[own], nets[1-own], how, child)
	}
	b := start(t, p, p.GwB, yaml(1, "passive"))
	wire, err := testnet.Sent(testnet.End{NS: p.GwA, If: "wan0"}, testnet.End{NS: p.GwB, If: "wan0"})
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, p, p.GwA, yaml(0, "on-demand"))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
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
	if last := c.same(ctx, t, a, b); last.AHSPIIn == first.AHSPIIn || last.SPIIn == first.SPIIn {
		t.Errorf("after two rekeyings there are %+v, before them %+v", last, first)
	}
	wire.Stop()
	c.onWire(t, wire)
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
			x.AHSPIIn != "" && x.AHSPIIn == y.AHSPIOut && x.AHSPIOut == y.AHSPIIn && x.AHIntegAlg == y.AHIntegAlg && strings.HasPrefix(x.AHIntegAlg, "HMAC_") {
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

// onWire: IKE, and AH with ESP in it; nothing else.
func (c suiteCase) onWire(t *testing.T, wire *testnet.SentCapture) {
	t.Helper()
	n := 0
	for _, x := range wire.Packets() {
		if x.Class.Housekeeping() || x.Class == testnet.IKE {
			continue
		}
		if x.Class != testnet.AH || x.Src.Is4() != (c.outer == 4) || len(x.Payload) == 0 || x.FragmentOffset == 0 && x.Payload[0] != 50 {
			t.Errorf("on the wire: %v from %v; %v in all", x.Class, x.Src, wire)
			return
		}
		n++
	}
	if n < 30 || wire.Counts()[testnet.IKE] < 9 {
		t.Errorf("on the wire: %v", wire)
	}
}
