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
	{name: "BEET, IPv4 in IPv4", mode: "beet"},
	{name: "BEET, IPv6 in IPv4", mode: "beet", inner: 6, outer: 4},
	{name: "BEET, IPv4 in IPv6", mode: "beet", inner: 4, outer: 6},
	{name: "BEET, ESN, trap", mode: "beet", esp: "aes128gcm16-esn", esn: true, trap: true},
}

func TestStrongSwan(t *testing.T) {
	uml.Require(t)
	testnet.RequireCommand(t, interop.CharonPath, "strongswan-charon")
	for _, c := range negotiations {
		if c.inner == 0 {
			c.inner, c.outer = 4, 4
		}
		for _, backend := range []string{"kernel", "userspace"} {
			for _, at := range []string{"A", "B"} {
				role := map[string]string{"A": "initiator", "B": "responder"}[at]
				t.Run(c.name+"/"+backend+"/"+role, func(t *testing.T) {
					defer func() { negotiatedTable.add(c.name, backend+", "+role, !t.Failed()) }()
					c.run(t, backend, at)
				})
			}
		}
	}
}

// negotiated is a running case.
type negotiated struct {
	*testing.T
	*testnet.Topology
	negotiation
	ctx          context.Context
	backend      string
	a, b         *interop.Control
	iked         *interop.Iked
	nodeA, nodeB backendtest.Node
}

func (c negotiation) run(t *testing.T, backend, at string) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	n := &negotiated{T: t, Topology: testnet.ForTest(t, testnet.TopologyOptions{}), negotiation: c, ctx: ctx, backend: backend}
	n.nodes()
	gateways := map[string]*testnet.Namespace{"A": n.GwA, "B": n.GwB}
	before := n.system(gateways[at])
	for _, side := range []string{"B", "A"} {
		conf := n.config(side)
		var ctl *interop.Control
		if side == at {
			ctl = n.startIked(gateways[side], conf)
		} else {
			ctl = n.startCharon(gateways[side], conf)
		}
		if side == "A" {
			n.a = ctl
		} else {
			n.b = ctl
		}
	}
	wire, err := testnet.Sent(testnet.End{NS: n.GwA, If: "wan0"}, n.Wire)
	if err != nil {
		t.Fatal(err)
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
	n.end(gateways[at], before)
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
		n.nodeA = backendtest.Serve(n.T, n.GwA, pick(n.WanA4, n.WanA6))
		n.nodeB = backendtest.Serve(n.T, n.GwB, pick(n.WanB4, n.WanB6))
	case "beet":
		n.nodeA = backendtest.Serve(n.T, n.GwA, pick(n.LanA4, n.LanA6))
		n.nodeB = backendtest.Serve(n.T, n.GwB, pick(n.LanB4, n.LanB6))
	default:
		n.nodeA = backendtest.Serve(n.T, n.HostA, pick(n.HostA4, n.HostA6))
		n.nodeB = backendtest.Serve(n.T, n.HostB, pick(n.HostB4, n.HostB6))
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
	if n.trap && side == "A" {
		child.Set("start_action", "trap")
	}
	return interop.Config{
		Connections: interop.Section{{Key: "net", Value: interop.Section{
			{Key: "version", Value: "2"}, {Key: "local_addrs", Value: []string{own.String()}}, {Key: "remote_addrs", Value: []string{peer.String()}},
			{Key: "mobike", Value: "no"}, {Key: "proposals", Value: []string{"aes128-sha256-x25519"}},
			{Key: "local", Value: interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[0]}}},
			{Key: "remote", Value: interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[1]}}},
			{Key: "children", Value: interop.Section{{Key: "net", Value: child}}},
		}}},
		Secrets: []interop.Secret{{PSK: "a throw-away secret", IDs: []string{"a.example", "b.example"}}},
	}
}

// showLog prints a daemon's log and configuration when the test has failed.
func (n *negotiated) showLog(p *testnet.Process, conf string) {
	n.Cleanup(func() {
		if n.Failed() {
			log := p.Log()
			if len(log) > 20000 {
				log = "[…]\n" + log[len(log)-20000:]
			}
			n.Logf("configuration:\n%s\nlog of %s in %s:\n%s", conf, p.Name, p.NS.Name, log)
		}
	})
}

func (n *negotiated) startIked(ns *testnet.Namespace, conf interop.Config) *interop.Control {
	n.Helper()
	d, err := interop.NewIked(binaries(), n.Path("iked"))
	if err != nil {
		n.Fatal(err)
	}
	n.iked = d
	if err := d.Configure(conf.YAML()); err != nil {
		n.Fatal(err)
	}
	if err := d.Start(n.ctx, ns, "--backend", n.backend); err != nil {
		n.Fatal(err)
	}
	n.showLog(d.Process, conf.YAML())
	return &d.Control
}

func (n *negotiated) startCharon(ns *testnet.Namespace, conf interop.Config) *interop.Control {
	n.Helper()
	// strongSwan tells of itself only when asked to, and takes BEET mode only from its
	// like.
	c, err := interop.StartCharon(n.ctx, ns, n.Path("charon"), interop.CharonOptions{Kernel: true, Settings: "send_vendor_id = yes\n"})
	if err != nil {
		n.Fatal(err)
	}
	n.showLog(c.Process, conf.Swanctl())
	if err := c.Load(n.ctx, conf); err != nil {
		n.Fatal(err)
	}
	return &c.Control
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
	for _, d := range [][3]string{
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

// end terminates from A: no SA is left, and after its stop iked leaves nothing in
// the kernel.
func (n *negotiated) end(ns *testnet.Namespace, before string) {
	n.Helper()
	if _, err := n.a.Call(n.ctx, "terminate", map[string]any{"ike": "net"}); err != nil {
		n.Error(err)
	}
	none := func(sas []interop.IKESA) bool { return len(sas) == 0 }
	for who, c := range map[string]*interop.Control{"A": n.a, "B": n.b} {
		if _, err := c.Until(n.ctx, "no SA at "+who+" after terminate", none); err != nil {
			n.Error(err)
		}
	}
	if err := n.iked.Stop(); err != nil {
		n.Error(err)
	}
	if after := n.system(ns); after != before {
		n.Errorf("iked left behind:\n%s\nbefore it there was:\n%s", after, before)
	}
}

// system is what a daemon may put into the kernel.
func (n *negotiated) system(ns *testnet.Namespace) string {
	n.Helper()
	var b strings.Builder
	for _, cmd := range []string{"ip xfrm state", "ip xfrm policy", "ip -4 rule", "ip -6 rule"} {
		out, err := ns.Run(n.ctx, strings.Fields(cmd)...)
		if err != nil {
			n.Fatal(err)
		}
		fmt.Fprintf(&b, "%s:\n%s", cmd, out)
	}
	links, err := ns.Links()
	if err != nil {
		n.Fatal(err)
	}
	fmt.Fprintf(&b, "links: %v\n", links)
	return b.String()
}
