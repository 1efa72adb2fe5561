package interop

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// daemon is iked or strongSwan in one place of a pair.
type daemon interface {
	AddIdentity(name string, id *Identity) error
	AddCA(name string, ca *Identity) error
}

// pair is two gateways with a daemon each: A initiates, B responds.
type pair struct {
	*testing.T
	*testnet.Topology
	ctx    context.Context
	family int // of the outside: 4 or 6

	ikedAt     string // "A" or "B"
	iked       *Iked  // nil when substituted
	a, b       *Control
	stop       func() error // stops what stands in iked's place
	ikedNS     *testnet.Namespace
	linksFirst []string
	rulesFirst int
	wire       *testnet.Capture
	moving     bool // addresses of gateways come and go
}

// side tells one end of a pair from the other when a case writes configuration.
type side struct {
	name                    string // "a" or "b"
	id, peerID              string
	wan, peer               netip.Addr // outside; peer as this side sees it
	lan4, lan6, far4, far6  string     // own and far networks
	initiator, iked, behind bool       // behind a NAT
}

func newPair(t *testing.T, c *testCase, ikedAt string) *pair {
	t.Helper()
	requireCharon(t)
	p := &pair{T: t, ctx: within(t, 90*time.Second), ikedAt: ikedAt, family: c.outer}
	if p.family == 0 {
		p.family = 4
	}
	p.Topology = testnet.ForTest(t, testnet.TopologyOptions{Between: c.between, MTU: c.mtu})
	if c.setup != nil {
		c.setup(p)
	}
	p.ikedNS = p.GwA
	if ikedAt == "B" {
		p.ikedNS = p.GwB
	}
	var err error
	if p.linksFirst, err = p.ikedNS.Links(); err != nil {
		t.Fatal(err)
	}
	if p.rulesFirst, err = p.ikedNS.Rules(); err != nil {
		t.Fatal(err)
	}
	if c.before != nil {
		c.before(p)
	}
	p.start(c)
	if p.wire, err = p.Wire.NS.Capture(p.Wire.If); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) sides() (a, b side) {
	a = side{
		name: "a", id: "a.example", peerID: "b.example", wan: p.WanA4, peer: p.WanB4,
		lan4: p.NetA4.String(), lan6: p.NetA6.String(), far4: p.NetB4.String(), far6: p.NetB6.String(),
		initiator: true, iked: p.ikedAt == "A" && !substitute(), behind: p.Middle != nil && p.Seen4 != p.WanA4,
	}
	b = side{
		name: "b", id: "b.example", peerID: "a.example", wan: p.WanB4, peer: p.Seen4,
		lan4: a.far4, lan6: a.far6, far4: a.lan4, far6: a.lan6, iked: p.ikedAt == "B" && !substitute(),
	}
	if p.family == 6 {
		a.wan, a.peer, b.wan, b.peer = p.WanA6, p.WanB6, p.WanB6, p.Seen6
	}
	return a, b
}

// start configures and starts both daemons.
func (p *pair) start(c *testCase) {
	p.Helper()
	a, b := p.sides()
	for _, s := range []side{b, a} {
		ns := p.GwA
		if s.name == "b" {
			ns = p.GwB
		}
		conf := c.config(s)
		place := (p.ikedAt == "A") == (s.name == "a") // iked's, or its substitute's
		var ctl *Control
		if s.iked {
			ctl = p.startIked(c, s, ns, conf)
		} else {
			ctl = p.startStrongSwan(c, s, ns, conf, place)
		}
		if s.name == "a" {
			p.a = ctl
		} else {
			p.b = ctl
		}
	}
}

func (p *pair) startIked(c *testCase, s side, ns *testnet.Namespace, conf Config) *Control {
	p.Helper()
	d, err := NewIked(binaries(p.T), p.Path("iked-"+s.name))
	if err != nil {
		p.Fatal(err)
	}
	p.iked, p.stop = d, d.Stop
	p.credentials(c, s, d)
	yaml := conf.YAML()
	p.Cleanup(func() {
		if p.Failed() {
			p.Logf("iked.yaml:\n%s", yaml)
		}
	})
	if err := d.Configure(yaml); err != nil {
		p.Fatal(err)
	}
	if err := d.Start(p.ctx, ns); err != nil {
		p.Fatal(err)
	}
	showLog(p.T, d.Process)
	return &d.Control
}

func (p *pair) startStrongSwan(c *testCase, s side, ns *testnet.Namespace, conf Config, place bool) *Control {
	p.Helper()
	d := startCharon(p.T, p.Net, ns, CharonOptions{Settings: c.charon, Plugins: c.plugins})
	if place {
		p.stop = d.Stop
	}
	p.credentials(c, s, d)
	text := conf.Swanctl()
	p.Cleanup(func() {
		if p.Failed() {
			p.Logf("swanctl.conf:\n%s", text)
		}
	})
	if err := d.LoadFile(p.ctx, text); err != nil {
		p.Fatal(err)
	}
	return &d.Control
}

func (p *pair) credentials(c *testCase, s side, d daemon) {
	p.Helper()
	if c.pki == nil {
		return
	}
	k := c.pki()
	if err := d.AddCA("root", k.root); err != nil {
		p.Fatal(err)
	}
	own := k.a
	if s.name == "b" {
		own = k.b
	}
	if own == nil {
		return
	}
	if err := d.AddIdentity(s.name, own); err != nil {
		p.Fatal(err)
	}
}

// state is what both sides list when one SA of each kind is up.
type state struct {
	ikeA, ikeB     *IKESA
	childA, childB *ChildSA
}

// agree waits until both sides list one IKE SA and one installed CHILD SA, and
// checks that they are the same.
func (p *pair) agree(child string) state {
	p.Helper()
	var s state
	var problem string
	// Both are polled until they agree: one side ends an exchange before the other.
	for {
		var err error
		if s.ikeA, s.childA, err = p.a.UntilInstalled(p.ctx, child); err != nil {
			p.Fatalf("A: %v", err)
		}
		if s.ikeB, s.childB, err = p.b.UntilInstalled(p.ctx, child); err != nil {
			p.Fatalf("B: %v", err)
		}
		if problem = s.difference(); problem == "" {
			return s
		}
		if sleep(p.ctx, 50*time.Millisecond) != nil {
			p.Fatalf("the sides do not agree: %s", problem)
		}
	}
}

func (s state) difference() string {
	for _, d := range []struct{ what, a, b string }{
		{"initiator's SPI", s.ikeA.InitiatorSPI, s.ikeB.InitiatorSPI},
		{"responder's SPI", s.ikeA.ResponderSPI, s.ikeB.ResponderSPI},
		{"IKE algorithms", s.ikeA.Cipher(), s.ikeB.Cipher()},
		{"identity of A", s.ikeA.LocalID, s.ikeB.RemoteID},
		{"identity of B", s.ikeA.RemoteID, s.ikeB.LocalID},
		{"SPI to A", s.childA.SPIIn, s.childB.SPIOut},
		{"SPI to B", s.childA.SPIOut, s.childB.SPIIn},
		{"child algorithms", s.childA.Cipher(), s.childB.Cipher()},
		{"mode", s.childA.Mode, s.childB.Mode},
		{"selectors of A", strings.Join(s.childA.LocalTS, " "), strings.Join(s.childB.RemoteTS, " ")},
		{"selectors of B", strings.Join(s.childA.RemoteTS, " "), strings.Join(s.childB.LocalTS, " ")},
	} {
		if d.a != d.b {
			return fmt.Sprintf("%s: A lists %q, B %q", d.what, d.a, d.b)
		}
	}
	return ""
}

// traffic pings host to host, both ways, in the inner families of the case.
func (p *pair) traffic(c *testCase) {
	p.Helper()
	if c.ping != nil {
		c.ping(p)
		return
	}
	for _, family := range c.families() {
		fromA, fromB := p.HostB4, p.HostA4
		if family == 6 {
			fromA, fromB = p.HostB6, p.HostA6
		}
		p.echo(p.HostA, fromA, testnet.PingOptions{Count: 3})
		p.echo(p.HostB, fromB, testnet.PingOptions{Count: 3, Size: 1200})
	}
}

// echo wants a reply to every request.
func (p *pair) echo(ns *testnet.Namespace, dst netip.Addr, o testnet.PingOptions) {
	p.Helper()
	r, err := ns.Ping(dst, o)
	if err != nil {
		p.Fatal(err)
	}
	if r.Lost() != 0 {
		p.Errorf("ping from %s to %v, %d bytes: %v", ns.Name, dst, o.Size, r)
	}
}

// duringTraffic pings without a pause while f runs and a little longer, and
// returns the result.
func (p *pair) duringTraffic(f func()) testnet.PingResult {
	p.Helper()
	stop := make(chan struct{})
	type outcome struct {
		r   testnet.PingResult
		err error
	}
	done := make(chan outcome)
	go func() {
		var sum outcome
		for {
			select {
			case <-stop:
				done <- sum
				return
			default:
			}
			r, err := p.HostA.Ping(p.HostB4, testnet.PingOptions{Count: 10, Interval: 5 * time.Millisecond, Timeout: 2 * time.Second})
			sum.r.Sent += r.Sent
			sum.r.Received += r.Received
			sum.r.Errors = append(sum.r.Errors, r.Errors...)
			if err != nil {
				sum.err = err
			}
		}
	}()
	f()
	time.Sleep(200 * time.Millisecond)
	close(stop)
	got := <-done
	if got.err != nil {
		p.Fatal(got.err)
	}
	return got.r
}

// onWire checks that only IKE and protected traffic crossed between the gateways.
func (p *pair) onWire() {
	p.Helper()
	// The peer does not hold traffic back while it restarts its tunnel; what its own
	// host sends through it then is the peer's matter, not iked's.
	peer4, peer6 := p.HostB4, p.HostB6
	if p.ikedAt == "B" {
		peer4, peer6 = p.HostA4, p.HostA6
	}
	var clear []testnet.Packet
	for _, x := range p.wire.ClearText() {
		if x.Src == peer4 || x.Src == peer6 {
			p.Logf("the peer let out in clear: %v", x)
			continue
		}
		// What is said of a packet that did not arrive at an address that is gone carries
		// a part of that packet, which was protected.
		if q := quoted4(x); p.moving && q.Is4() && q != p.HostA4 && q != p.HostB4 {
			continue
		}
		// What the router between says for itself carries nothing of the sites.
		if x.Class != testnet.ICMPError || p.Middle == nil || x.Src != p.Seen4 && x.Src != p.Seen6 {
			clear = append(clear, x)
		}
	}
	if len(clear) > 0 {
		p.Errorf("clear text between the gateways (%v), the first: %v", p.wire, clear[0])
	}
	counts := p.wire.Counts()
	if counts[testnet.IKE] < 4 || counts[testnet.ESP]+counts[testnet.ESPinUDP] == 0 {
		p.Errorf("between the gateways: %v; want IKE and ESP", p.wire)
	}
}

// quoted4 is the source of the IPv4 packet that an ICMP error is about; invalid: it is
// none.
func quoted4(x testnet.Packet) netip.Addr {
	const at = 14 + 20 + 8 + 12
	if x.Class != testnet.ICMPError || len(x.Data) < at+4 || x.Data[12] != 8 || x.Data[13] != 0 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(x.Data[at : at+4]))
}

// counted checks that a side counted the packets of its child.
func (p *pair) counted(who string, c *ChildSA) {
	p.Helper()
	for name, v := range map[string]string{"packets-in": c.PacketsIn, "packets-out": c.PacketsOut, "bytes-in": c.BytesIn, "bytes-out": c.BytesOut} {
		if n, err := strconv.Atoi(v); err != nil || n == 0 {
			p.Errorf("%s lists %s=%q after traffic", who, name, v)
		}
	}
}

// end terminates from A and checks that nothing is left: no SA on either side, and
// after its stop none of iked's devices and rules.
func (p *pair) end() {
	p.Helper()
	if _, err := p.a.Call(p.ctx, "terminate", map[string]any{"ike": "net"}); err != nil {
		p.Error(err)
	}
	none := func(sas []IKESA) bool { return len(sas) == 0 }
	if _, err := p.a.Until(p.ctx, "no SA at A after terminate", none); err != nil {
		p.Error(err)
	}
	if _, err := p.b.Until(p.ctx, "no SA at B after terminate", none); err != nil {
		p.Error(err)
	}
	if err := p.stop(); err != nil {
		p.Error(err)
	}
	links, err := p.ikedNS.Links()
	if err != nil {
		p.Fatal(err)
	}
	rules, err := p.ikedNS.Rules()
	if err != nil {
		p.Fatal(err)
	}
	if len(links) != len(p.linksFirst) || rules != p.rulesFirst {
		p.Errorf("after the stop there are links %v and %d rules, before the start %v and %d", links, rules, p.linksFirst, p.rulesFirst)
	}
}
