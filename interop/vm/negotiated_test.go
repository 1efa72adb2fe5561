package vm

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
)

// negotiation is a case of iked with strongSwan. A initiates.
type negotiation struct {
	name         string
	mode         string // of the configuration; "": tunnel
	inner, outer int    // families; 0: 4
	esp, ah      string // proposal; both empty: esp of AES-GCM
	esn          bool
	v1           bool // Main Mode and Quick Mode of IKEv1
	comp         bool // IPComp
	// trap brings the SAs up by a packet instead of a command.
	trap bool
	// then is what the case is about besides.
	then func(*negotiated)
}

var negotiations = []negotiation{
	{name: "tunnel, IPv4 in IPv4"},
	{name: "tunnel, IPv6 in IPv6", inner: 6, outer: 6},
	{name: "tunnel, IPv4 in IPv6", inner: 4, outer: 6},
	{name: "tunnel, IPv6 in IPv4", inner: 6, outer: 4},
	{name: "tunnel, ESN", esp: "aes128gcm16-esn", esn: true},
	{name: "tunnel, AES-CBC and SHA-256", esp: "aes256-sha256"},
	{name: "tunnel, ChaCha20-Poly1305", esp: "chacha20poly1305"},
	{name: "tunnel, CHILD SA rekeyed by both", then: func(n *negotiated) { n.rekey(n.a); n.rekey(n.b) }},
	{name: "tunnel, trap", trap: true},
	{name: "tunnel, AH", ah: "sha256"},
	{name: "tunnel, AH, IPv6 in IPv4, ESN", inner: 6, outer: 4, ah: "sha256-esn", esn: true},
	{name: "transport, IPv4", mode: "transport"},
	{name: "transport, IPv6", mode: "transport", inner: 6, outer: 6},
	{name: "transport, ESN, AES-CBC and SHA-256", mode: "transport", esp: "aes128-sha256-esn", esn: true},
	{name: "transport, trap", mode: "transport", trap: true},
	{name: "transport, rekeyed by both", mode: "transport", then: func(n *negotiated) { n.rekey(n.a); n.rekey(n.b) }},
	{name: "transport, AH", mode: "transport", ah: "sha512"},
	{name: "transport, AH, IPv6, ESN", mode: "transport", inner: 6, outer: 6, ah: "sha256-esn", esn: true},
	{name: "tunnel, IPComp, rekeyed by both", comp: true, then: func(n *negotiated) { n.rekey(n.a); n.rekey(n.b); n.shrinks() }},
	{name: "tunnel, IPComp, IPv6 in IPv6", inner: 6, outer: 6, comp: true, trap: true, then: (*negotiated).shrinks},
	{name: "transport, IPComp", mode: "transport", comp: true, then: (*negotiated).shrinks},
	{name: "transport, IPComp, IPv6, AES-CBC and SHA-256", mode: "transport", inner: 6, outer: 6, esp: "aes128-sha256", comp: true, then: (*negotiated).shrinks},
	{name: "BEET, IPv4 in IPv4", mode: "beet"},
	{name: "BEET, IPv6 in IPv4", mode: "beet", inner: 6, outer: 4},
	{name: "BEET, IPv4 in IPv6", mode: "beet", inner: 4, outer: 6},
	{name: "BEET, ESN, trap", mode: "beet", esp: "aes128gcm16-esn", esn: true, trap: true},
	{name: "IKEv1, tunnel, ESN", v1: true, esp: "aes128gcm16-esn", esn: true},
	{name: "IKEv1, tunnel, AH", v1: true, ah: "sha256"},
	{name: "IKEv1, transport, AES-CBC and SHA-256", v1: true, mode: "transport", esp: "aes128-sha256"},
	{name: "IKEv1, transport, AH, IPv6, ESN", v1: true, mode: "transport", inner: 6, outer: 6, ah: "sha256-esn", esn: true},
	{name: "IKEv1, tunnel, IPComp, rekeyed by both", v1: true, comp: true, then: func(n *negotiated) { n.rekey(n.a); n.rekey(n.b); n.shrinks() }},
	{name: "IKEv1, transport, IPComp, IPv6", v1: true, mode: "transport", inner: 6, outer: 6, comp: true, then: (*negotiated).shrinks},
}

// TestStrongSwan runs the cases one after the other between the same two daemons,
// for each backend and role: what a case leaves behind shows in the next.
func TestStrongSwan(t *testing.T) {
	uml.Require(t)
	testnet.RequireCommand(t, interop.CharonPath, "strongswan-charon")
	for _, backend := range []string{"kernel", "userspace"} {
		for _, role := range []string{"initiator", "responder"} {
			t.Run(backend+"/"+role, func(t *testing.T) {
				d := newDaemons(t, backend, role)
				for _, c := range negotiations {
					t.Run(c.name, func(t *testing.T) {
						defer func() {
							result := "pass"
							if t.Failed() {
								result = "FAIL"
							}
							negotiatedTable.Set(c.name, backend+", "+role, result)
						}()
						c.run(t, d)
					})
				}
				d.stop(t)
			})
		}
	}
}

// daemons are iked and strongSwan on the two gateways; A initiates.
type daemons struct {
	*testnet.Topology
	a, b   *interop.Control
	iked   *interop.Iked
	charon *interop.Charon
	ikedNS *testnet.Namespace
	before string // what was in the kernel before iked
	served map[netip.Addr]backendtest.Node
}

func newDaemons(t *testing.T, backend, role string) *daemons {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	d := &daemons{Topology: testnet.ForTest(t, testnet.TopologyOptions{}), served: map[netip.Addr]backendtest.Node{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	d.iked, err = interop.NewIked(Binaries(), d.Path("iked"))
	must(err)
	must(d.iked.Configure("connections: []\n"))
	var charonNS *testnet.Namespace
	if role == "initiator" {
		d.ikedNS, charonNS = d.GwA, d.GwB
	} else {
		d.ikedNS, charonNS = d.GwB, d.GwA
	}
	d.before = System(t, d.ikedNS)
	must(d.iked.Start(ctx, d.ikedNS, "--backend", backend))
	// strongSwan tells of itself only when asked to, and takes BEET mode only from its
	// like.
	d.charon, err = interop.StartCharon(ctx, charonNS, d.Path("charon"), interop.CharonOptions{Kernel: true, Settings: "send_vendor_id = yes\n"})
	must(err)
	if role == "initiator" {
		d.a, d.b = &d.iked.Control, &d.charon.Control
	} else {
		d.a, d.b = &d.charon.Control, &d.iked.Control
	}
	for ns, addrs := range map[*testnet.Namespace][]netip.Addr{
		d.HostA: {d.HostA4, d.HostA6}, d.HostB: {d.HostB4, d.HostB6},
		d.GwA: {d.WanA4, d.WanA6, d.LanA4, d.LanA6}, d.GwB: {d.WanB4, d.WanB6, d.LanB4, d.LanB6},
	} {
		for _, a := range addrs {
			d.served[a] = backendtest.Serve(t, ns, a)
		}
	}
	return d
}

// stop ends iked, which leaves nothing in the kernel.
func (d *daemons) stop(t *testing.T) {
	t.Helper()
	if err := d.iked.Stop(); err != nil {
		t.Error(err)
	}
	if after := System(t, d.ikedNS); after != d.before {
		t.Errorf("iked left behind:\n%s\nbefore it there was:\n%s", after, d.before)
	}
}

// negotiated is a running case.
type negotiated struct {
	*testing.T
	*daemons
	negotiation
	ctx          context.Context
	nodeA, nodeB backendtest.Node
}

func (c negotiation) run(t *testing.T, d *daemons) {
	if c.inner == 0 {
		c.inner, c.outer = 4, 4
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	n := &negotiated{T: t, daemons: d, negotiation: c, ctx: ctx}
	n.nodes()
	defer n.logs(len(d.iked.Process.Log()), len(d.charon.Process.Log()))
	wire, err := testnet.Sent(testnet.End{NS: n.GwA, If: "wan0"}, n.Wire)
	if err != nil {
		t.Fatal(err)
	}
	defer n.end()
	for _, x := range []struct {
		ctl  *interop.Control
		side string
	}{{n.b, "B"}, {n.a, "A"}} {
		if err := x.ctl.Load(ctx, n.config(x.side)); err != nil {
			t.Fatal(err)
		}
	}
	if c.trap {
		if _, err := n.nodeA.NS.WaitPing(n.nodeB.Addr, testnet.PingOptions{From: n.nodeA.Addr}, 20*time.Second); err != nil {
			t.Fatal(err)
		}
	} else if err := n.a.Initiate(ctx, "net"); err != nil {
		t.Fatal(err)
	}
	n.agree()
	backendtest.Exchange(t, n.nodeA, n.nodeB)
	if c.then != nil {
		c.then(n)
		backendtest.Exchange(t, n.nodeA, n.nodeB)
	}
	n.agree()
	wire.Stop()
	n.onWire(wire)
}

// logs shows what both daemons said of a case that has failed.
func (n *negotiated) logs(fromIked, fromCharon int) {
	if !n.Failed() {
		return
	}
	n.Logf("configuration of A:\n%s\niked:\n%s\nstrongSwan:\n%s", n.config("A").YAML(),
		n.iked.Process.Log()[fromIked:], n.charon.Process.Log()[fromCharon:])
}

// end takes the connection away on both sides: no SA and no policy of it is left.
func (n *negotiated) end() {
	n.Helper()
	ctx, cancel := context.WithTimeout(n.Context(), 20*time.Second)
	defer cancel()
	for _, c := range []*interop.Control{n.a, n.b} {
		if _, err := c.Call(ctx, "unload-conn", map[string]any{"name": "net"}); err != nil {
			n.Error(err)
		}
	}
	// Unloading ends what a start action began, so there may be nothing to terminate.
	_, asked := n.a.Call(ctx, "terminate", map[string]any{"ike": "net"})
	none := func(sas []interop.IKESA) bool { return len(sas) == 0 }
	for who, c := range map[string]*interop.Control{"A": n.a, "B": n.b} {
		if _, err := c.Until(ctx, "no SA at "+who+" after terminate", none); err != nil {
			n.Errorf("%v; terminate: %v", err, asked)
		}
	}
	out, err := n.ikedNS.Run(ctx, "ip", "xfrm", "state")
	if err != nil || out != "" {
		n.Errorf("SAs are left in the kernel: %v\n%s", err, out)
	}
}

// nodes are the hosts behind the gateways in tunnel mode, else the gateways.
func (n *negotiated) nodes() {
	pick := func(v4, v6 netip.Addr) netip.Addr {
		if n.inner == 6 {
			return v6
		}
		return v4
	}
	switch n.mode {
	case "transport":
		n.nodeA, n.nodeB = n.served[pick(n.WanA4, n.WanA6)], n.served[pick(n.WanB4, n.WanB6)]
	case "beet":
		n.nodeA, n.nodeB = n.served[pick(n.LanA4, n.LanA6)], n.served[pick(n.LanB4, n.LanB6)]
	default:
		n.nodeA, n.nodeB = n.served[pick(n.HostA4, n.HostA6)], n.served[pick(n.HostB4, n.HostB6)]
	}
}

// config is that of one side, the same for both daemons.
func (n *negotiated) config(side string) interop.Config {
	own, peer := n.WanA4, n.WanB4
	if n.outer == 6 {
		own, peer = n.WanA6, n.WanB6
	}
	nets := map[int][2]netip.Prefix{4: {n.NetA4, n.NetB4}, 6: {n.NetA6, n.NetB6}}[n.inner]
	local, remote := nets[0].String(), nets[1].String()
	if n.mode == "beet" {
		local, remote = n.nodeA.Addr.String(), n.nodeB.Addr.String()
	}
	ids := [2]string{"a.example", "b.example"}
	version, proposal := "2", "aes128-sha256-x25519"
	if n.v1 {
		// Main Mode finds the secret by addresses.
		version, proposal, ids = "1", "aes128-sha256-ecp256", [2]string{own.String(), peer.String()}
	}
	secret := interop.Secret{PSK: "a throw-away secret", IDs: []string{ids[0], ids[1]}}
	if side == "B" {
		own, peer, local, remote, ids[0], ids[1] = peer, own, remote, local, ids[1], ids[0]
	}
	child := interop.Section{}
	if n.mode != "transport" {
		child.Set("local_ts", []string{local})
		child.Set("remote_ts", []string{remote})
	}
	if n.mode != "" {
		child.Set("mode", n.mode)
	}
	switch {
	case n.ah != "":
		child.Set("ah_proposals", []string{n.ah})
	case n.esp != "":
		child.Set("esp_proposals", []string{n.esp})
	default:
		child.Set("esp_proposals", []string{"aes128gcm16"})
	}
	if n.comp {
		child.Set("ipcomp", "yes")
	}
	if n.trap && side == "A" {
		child.Set("start_action", "trap")
	}
	return interop.Config{
		Connections: interop.Section{{Key: "net", Value: interop.Section{
			{Key: "version", Value: version}, {Key: "local_addrs", Value: []string{own.String()}}, {Key: "remote_addrs", Value: []string{peer.String()}},
			{Key: "mobike", Value: "no"}, {Key: "proposals", Value: []string{proposal}},
			{Key: "local", Value: interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[0]}}},
			{Key: "remote", Value: interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[1]}}},
			{Key: "children", Value: interop.Section{{Key: "net", Value: child}}},
		}}},
		Secrets: []interop.Secret{secret},
	}
}

// agree waits until both sides list one IKE SA with one CHILD SA, the same and of
// the kind that the case is about, and returns that of A.
func (n *negotiated) agree() *interop.ChildSA {
	n.Helper()
	var problem string
	for {
		_, a, errA := n.a.UntilInstalled(n.ctx, "net")
		_, b, errB := n.b.UntilInstalled(n.ctx, "net")
		if errA != nil || errB != nil {
			n.Fatalf("A: %v, B: %v", errA, errB)
		}
		if problem = n.difference(a, b); problem == "" {
			return a
		}
		select {
		case <-n.ctx.Done():
			n.Fatalf("the sides do not agree: %s", problem)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (n *negotiated) difference(a, b *interop.ChildSA) string {
	mode, proto, esn := "TUNNEL", "ESP", ""
	if n.mode != "" {
		mode = strings.ToUpper(n.mode)
	}
	if n.ah != "" {
		proto = "AH"
	}
	if n.esn {
		esn = "1"
	}
	if comp := a.CPIIn != ""; comp != n.comp {
		return fmt.Sprintf("CPI of A: %q", a.CPIIn)
	}
	for _, d := range [][3]string{
		{"CPI to A", a.CPIIn, b.CPIOut}, {"CPI to B", a.CPIOut, b.CPIIn},
		{"SPI to A", a.SPIIn, b.SPIOut}, {"SPI to B", a.SPIOut, b.SPIIn}, {"algorithms", a.Cipher(), b.Cipher()},
		{"mode of A", a.Mode, mode}, {"mode of B", b.Mode, mode}, {"protocol of A", a.Protocol, proto}, {"protocol of B", b.Protocol, proto},
		{"ESN of A", a.ESN, esn}, {"ESN of B", b.ESN, esn}, {"UDP encapsulation of A", a.Encap, ""}, {"UDP encapsulation of B", b.Encap, ""},
	} {
		if d[1] != d[2] {
			return fmt.Sprintf("%s: %q and %q", d[0], d[1], d[2])
		}
	}
	return ""
}

// rekey rekeys the CHILD SA from one side while packets flow, of which none is
// lost.
func (n *negotiated) rekey(by *interop.Control) {
	n.Helper()
	first := n.agree()
	done := make(chan testnet.PingResult)
	stop := make(chan struct{})
	go func() {
		var sum testnet.PingResult
		for {
			select {
			case <-stop:
				done <- sum
				return
			default:
			}
			r, err := n.nodeA.NS.Ping(n.nodeB.Addr, testnet.PingOptions{From: n.nodeA.Addr, Count: 5, Timeout: 2 * time.Second})
			sum.Sent, sum.Received = sum.Sent+r.Sent, sum.Received+r.Received
			if err != nil {
				sum.Errors = append(sum.Errors, err.Error())
			}
		}
	}()
	_, err := by.Call(n.ctx, "rekey", map[string]any{"child": "net"})
	for err == nil && n.agree().SPIIn == first.SPIIn && n.ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
	close(stop)
	if r := <-done; err != nil || r.Lost() > 0 || r.Sent == 0 || len(r.Errors) > 0 {
		n.Errorf("pings while the CHILD SA was rekeyed: %v, %v", r, err)
	}
}

// shrinks wants packets of both sides that are shorter than what they carry: echo
// requests of equal octets. Some are not tried when those before did not shrink.
func (n *negotiated) shrinks() {
	n.Helper()
	wire, err := testnet.Sent(testnet.End{NS: n.GwA, If: "wan0"}, n.Wire)
	if err != nil {
		n.Fatal(err)
	}
	defer wire.Stop()
	for range 100 {
		r, err := n.nodeA.NS.Ping(n.nodeB.Addr, testnet.PingOptions{From: n.nodeA.Addr, Count: 5, Size: 1200, Interval: time.Millisecond})
		if err != nil || r.Lost() > 0 {
			n.Fatalf("pings: %v, %v", r, err)
		}
		short := map[netip.Addr]bool{}
		for _, x := range wire.Packets() {
			if x.Class == testnet.ESP && len(x.Payload) < 600 {
				short[x.Src] = true
			}
		}
		if len(short) == 2 {
			return
		}
	}
	n.Errorf("packets do not shrink: %v", wire)
}

// onWire: IKE, and the protocol of the case over the outer family; nothing else.
func (n *negotiated) onWire(wire *testnet.SentCapture) {
	n.Helper()
	want := testnet.ESP
	if n.ah != "" {
		want = testnet.AH
	}
	for _, x := range wire.Packets() {
		if x.Class.Housekeeping() || x.Class == testnet.IKE {
			continue
		}
		if x.Class != want || x.Src.Is4() != (n.outer == 4) {
			n.Errorf("on the wire: %v; %v in all", x, wire)
			return
		}
	}
	if c := wire.Counts(); c[testnet.IKE] < 4 || c[want] < 50 {
		n.Errorf("on the wire: %v; want IKE and %v", wire, want)
	}
}
