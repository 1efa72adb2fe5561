package interop

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/interop/kdc"
)

const kinkRealm = "EXAMPLE.TEST"

// kinkSites are two gateways whose principals are in a realm of MIT Kerberos, whose
// KDC is on the router between them.
type kinkSites struct {
	t    *testing.T
	topo *testnet.Topology
	ctx  context.Context
	kdc  *kdc.KDC
	dir  string
	a, b *site
}

// kinkOptions shape them.
type kinkOptions struct {
	v6        bool
	transport bool
	etypes    string // of keys, as kdc.conf has them
	sessions  string // etypes that the daemons ask for
	child     []string
	down      bool // the KDC is not there at first
}

func startKINK(t *testing.T, o kinkOptions) *kinkSites {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	kdc.Require(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router})
	k := &kinkSites{t: t, topo: topo, ctx: within(t, 3*time.Minute), dir: topo.Dir()}
	var err error
	if k.kdc, err = kdc.Start(k.ctx, topo.Middle, topo.Path("realm"), kdc.Options{Realm: kinkRealm, Listen: netip.MustParseAddr("192.0.2.254"), ETypes: o.etypes}); err != nil {
		t.Fatal(err)
	}
	k.must(k.kdc.AddPrincipal(k.ctx, "", "kink/a.example.test", "kink/b.example.test"))
	k.must(os.WriteFile(topo.Path("krb5.conf"), []byte(kdc.Conf(k.kdc)), 0o644))
	if o.down {
		k.must(k.kdc.Stop())
	}
	// B first: it waits.
	k.b = k.daemon("b", "a", topo.GwB, o, "start: passive")
	k.a = k.daemon("a", "b", topo.GwA, o, "start: always")
	return k
}

func (k *kinkSites) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// yaml is the configuration of a side.
func (k *kinkSites) yaml(self, peer string, o kinkOptions, start string) string {
	x := k.topo
	local, remote := x.WanA4, x.WanB4
	if o.v6 {
		local, remote = x.WanA6, x.WanB6
	}
	netL, netR := quoted(x.NetA4, x.NetA6), quoted(x.NetB4, x.NetB6)
	if self == "b" {
		local, remote, netL, netR = remote, local, netR, netL
	}
	if o.transport {
		netL, netR = "dynamic", "dynamic"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "krb5_conf: %s\n", x.Path("krb5.conf"))
	if o.sessions != "" {
		fmt.Fprintf(&b, "krb5_etypes: [%s]\n", o.sessions)
	}
	fmt.Fprintf(&b, "connections:\n  - name: office\n    version: kink\n    local_addrs: [%q]\n    remote_addrs: [%q]\n", local, remote)
	fmt.Fprintf(&b, "    keyingtries: 0\n    local: {id: kink/%s.example.test@%s, keytab: %s}\n", self, kinkRealm, x.Path(self+".keytab"))
	fmt.Fprintf(&b, "    remote: {id: 'kink/%s.example.test@%s'}\n", map[bool]string{true: "*", false: peer}[self == "b"], kinkRealm)
	fmt.Fprintf(&b, "    children:\n      - name: net\n        local_ts: [%s]\n        remote_ts: [%s]\n        %s\n", netL, netR, start)
	for _, l := range o.child {
		fmt.Fprintf(&b, "        %s\n", l)
	}
	return b.String()
}

func (k *kinkSites) daemon(self, peer string, ns *testnet.Namespace, o kinkOptions, start string) *site {
	k.t.Helper()
	k.must(k.kdc.Keytab(k.ctx, k.topo.Path(self+".keytab"), "kink/"+self+".example.test"))
	d, err := NewIked(binaries(k.t), k.topo.Path("iked-"+self))
	k.must(err)
	k.must(d.Configure(k.yaml(self, peer, o, start)))
	k.must(d.Start(k.ctx, ns))
	showLog(k.t, d.Process)
	return &site{d, ns}
}

// traffic waits until the hosts, or in transport mode the gateways, reach each other.
func (k *kinkSites) traffic(o kinkOptions, when string) {
	k.t.Helper()
	x := k.topo
	from, list := x.HostA, []netip.Addr{x.HostB4, x.HostB6}
	if o.transport {
		from, list = x.GwA, []netip.Addr{x.WanB4}
		if o.v6 {
			list[0] = x.WanB6
		}
	}
	for _, to := range list {
		if _, err := from.WaitPing(to, testnet.PingOptions{}, 40*time.Second); err != nil {
			k.t.Fatalf("%s: %v", when, err)
		}
		if r, err := from.Ping(to, testnet.PingOptions{Count: 3, Size: 1200}); err != nil || r.Lost() > 0 {
			k.t.Errorf("%s: ping %v: %v, %v", when, to, r, err)
		}
	}
}

// one waits until a side lists one SA with one child, and gives it.
func (k *kinkSites) one(s *site, when string) (*IKESA, *ChildSA) {
	k.t.Helper()
	ike, child, err := s.UntilInstalled(k.ctx, "net")
	if err != nil {
		k.t.Fatalf("%s: %v", when, err)
	}
	return ike, child
}

// onlyKDC checks that nothing but questions for the KDC left in clear.
func (k *kinkSites) onlyKDC(wire *testnet.SentCapture) {
	k.t.Helper()
	for _, p := range wire.ClearText() {
		if p.Src != k.kdc.Listen && p.Dst != k.kdc.Listen {
			k.t.Errorf("in clear: %v", p)
		}
	}
}

// The life of a tunnel between two daemons with MIT's KDC: it comes up, carries
// packets, is replaced and deleted; a daemon that is killed is noticed by its epoch;
// without the KDC what is up goes on, and what is not comes up when it is back.
func TestKINKWithMIT(t *testing.T) {
	t.Parallel()
	o := kinkOptions{down: true}
	k := startKINK(t, o)
	wire, err := testnet.Sent(testnet.End{NS: k.topo.GwA, If: "wan0"}, testnet.End{NS: k.topo.GwB, If: "wan0"})
	k.must(err)
	// No KDC: it is told which, and tried again.
	explained := ""
	for !strings.Contains(explained, "192.0.2.254") {
		explained, _ = k.a.Ikectl(k.ctx, "explain")
		k.must(sleep(k.ctx, 200*time.Millisecond))
	}
	k.must(k.kdc.Restart(k.ctx))
	k.traffic(o, "with the KDC")
	sa, child := k.one(k.a, "A")
	peer, other := k.one(k.b, "B")
	if sa.Version != "kink" || sa.RemoteID != "kink/b.example.test@"+kinkRealm || sa.RemotePort != "910" || peer.RemoteID != "kink/a.example.test@"+kinkRealm || child.SPIIn != other.SPIOut || child.SPIOut != other.SPIIn {
		t.Errorf("A lists %+v, B %+v", sa, peer)
	}

	if out, err := k.a.Ikectl(k.ctx, "rekey", "net"); err != nil {
		t.Fatalf("rekey: %v %s", err, out)
	}
	for rekeyed := child; rekeyed.SPIIn == child.SPIIn; {
		_, rekeyed = k.one(k.a, "A after rekeying")
		k.must(sleep(k.ctx, 100*time.Millisecond))
	}
	k.traffic(o, "after rekeying")

	// B dies without a word. A sends on into nothing until B, when it is back, tells its
	// epoch: in its answer to STATUS at the latest.
	k.must(k.b.Process.Signal(syscall.SIGKILL))
	<-k.b.Process.Done()
	k.must(k.b.Start(k.ctx, k.topo.GwB))
	showLog(t, k.b.Process)
	k.traffic(o, "after B was killed")
	if log := k.a.Process.Log(); !strings.Contains(log, "was started again") {
		t.Error("A did not notice by the epoch")
	}

	// What is up needs no KDC, and tickets outlive it.
	k.must(k.kdc.Stop())
	k.traffic(o, "without the KDC")
	if out, err := k.a.Ikectl(k.ctx, "down", "office"); err != nil {
		t.Fatalf("down: %v %s", err, out)
	}
	if _, err := k.b.Until(k.ctx, "nothing", func(list []IKESA) bool {
		for _, x := range list {
			if len(x.Children) > 0 {
				return false
			}
		}
		return true
	}); err != nil {
		t.Error(err)
	}
	wire.Stop()
	k.onlyKDC(wire)
	if n := wire.Counts()[testnet.KINK]; n < 8 {
		t.Errorf("%d messages of KINK", n)
	}
}

// Every encryption type of Kerberos, over both families, in every mode, with ESP and
// with AH.
func TestKINKVariants(t *testing.T) {
	for _, test := range []struct {
		name string
		o    kinkOptions
		wire testnet.Class
	}{
		{"etype 17, tunnel", kinkOptions{etypes: "aes128-cts-hmac-sha1-96:normal", sessions: "aes128-cts-hmac-sha1-96"}, testnet.ESP},
		{"etype 18, tunnel over IPv6", kinkOptions{v6: true, etypes: "aes256-cts-hmac-sha1-96:normal", sessions: "aes256-cts-hmac-sha1-96"}, testnet.ESP},
		{"etype 19, transport", kinkOptions{transport: true, etypes: "aes128-cts-hmac-sha256-128:normal", sessions: "aes128-cts-hmac-sha256-128", child: []string{"mode: transport"}}, testnet.ESP},
		{"etype 20, transport over IPv6", kinkOptions{v6: true, transport: true, etypes: "aes256-cts-hmac-sha384-192:normal", sessions: "aes256-cts-hmac-sha384-192", child: []string{"mode: transport"}}, testnet.ESP},
		{"AH, tunnel", kinkOptions{child: []string{"ah_proposals: [sha256]"}}, testnet.AH},
		{"AH, transport", kinkOptions{transport: true, child: []string{"mode: transport", "ah_proposals: [sha256]"}}, testnet.AH},
		{"forward secrecy", kinkOptions{child: []string{"esp_proposals: [aes256gcm16-ecp256]"}}, testnet.ESP},
		{"BEET", kinkOptions{transport: true, child: []string{"mode: beet", "mode_required: yes"}}, testnet.ESP},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			k := startKINK(t, test.o)
			wire, err := testnet.Sent(testnet.End{NS: k.topo.GwA, If: "wan0"}, testnet.End{NS: k.topo.GwB, If: "wan0"})
			k.must(err)
			k.traffic(test.o, "up")
			wire.Stop()
			k.onlyKDC(wire)
			if wire.Counts()[test.wire] < 6 {
				t.Errorf("on the wire: %v", wire)
			}
		})
	}
}
