package interop

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/interop/kdc"
)

// kinkSites is a KINK in a test.
type kinkSites struct {
	*KINK
	t    *testing.T
	ctx  context.Context
	wire *testnet.SentCapture
}

func startKINK(t *testing.T, o KINKOptions) *kinkSites {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	kdc.Require(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router})
	k := &kinkSites{t: t, ctx: within(t, 3*time.Minute)}
	var err error
	k.wire, err = testnet.Sent(testnet.End{NS: topo.GwA, If: "wan0"}, testnet.End{NS: topo.GwB, If: "wan0"})
	k.must(err)
	k.KINK, err = StartKINK(k.ctx, binaries(t), topo, o)
	k.must(err)
	showLog(t, k.A.Process)
	showLog(t, k.B.Process)
	return k
}

func (k *kinkSites) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// traffic waits until packets pass.
func (k *kinkSites) traffic(when string) {
	k.t.Helper()
	from, list := k.Traffic()
	for _, to := range list {
		if _, err := from.WaitPing(to, testnet.PingOptions{}, 40*time.Second); err != nil {
			k.t.Fatalf("%s: %v", when, err)
		}
		if r, err := from.Ping(to, testnet.PingOptions{Count: 3, Size: 1200}); err != nil || r.Lost() > 0 {
			k.t.Errorf("%s: ping %v: %v, %v", when, to, r, err)
		}
	}
}

// one waits until a side lists one SA with an installed child.
func (k *kinkSites) one(d *Iked, when string) (*IKESA, *ChildSA) {
	k.t.Helper()
	ike, child, err := d.UntilInstalled(k.ctx, "net")
	if err != nil {
		k.t.Fatalf("%s: %v", when, err)
	}
	return ike, child
}

// end checks the wire: nothing but questions for the KDC left in clear.
func (k *kinkSites) end(class testnet.Class, packets int) {
	k.t.Helper()
	k.wire.Stop()
	for _, p := range k.Stray(k.wire) {
		k.t.Errorf("in clear: %v", p)
	}
	if k.wire.Counts()[class] < packets || k.wire.Counts()[testnet.KINK] < 2 {
		k.t.Errorf("on the wire: %v", k.wire)
	}
}

// The life of a tunnel between two daemons with MIT's KDC: it comes up, carries
// packets, is replaced and deleted; a daemon that is killed is noticed by its epoch;
// without the KDC what is up goes on, and what is not comes up when it is back.
func TestKINKWithMIT(t *testing.T) {
	t.Parallel()
	k := startKINK(t, KINKOptions{Down: true})
	// No KDC: it is told which, and tried again.
	explained := ""
	for !strings.Contains(explained, "192.0.2.254") {
		explained, _ = k.A.Ikectl(k.ctx, "explain")
		k.must(sleep(k.ctx, 200*time.Millisecond))
	}
	k.must(k.KDC.Restart(k.ctx))
	k.traffic("with the KDC")
	sa, child := k.one(k.A, "A")
	peer, other := k.one(k.B, "B")
	idA, idB := k.Principals()
	if sa.Version != "kink" || sa.RemoteID != idB || sa.RemotePort != "910" || peer.RemoteID != idA || child.SPIIn == "" {
		t.Errorf("A lists %+v, B %+v %+v", sa, peer, other)
	}

	if out, err := k.A.Ikectl(k.ctx, "rekey", "net"); err != nil {
		t.Fatalf("rekey: %v %s", err, out)
	}
	for rekeyed := child; rekeyed.SPIIn == child.SPIIn; {
		_, rekeyed = k.one(k.A, "A after rekeying")
		k.must(sleep(k.ctx, 100*time.Millisecond))
	}
	k.traffic("after rekeying")

	// B dies without a word. A sends on into nothing until B, when it is back, tells its
	// epoch by STATUS.
	k.must(k.B.Process.Signal(syscall.SIGKILL))
	<-k.B.Process.Done()
	k.must(k.Start(k.ctx, k.B, k.GwB))
	showLog(t, k.B.Process)
	k.traffic("after B was killed")
	if !strings.Contains(k.A.Process.Log(), "was started again") {
		t.Error("A did not notice by the epoch")
	}

	// What is up needs no KDC.
	k.must(k.KDC.Stop())
	k.traffic("without the KDC")
	if out, err := k.A.Ikectl(k.ctx, "down", "office"); err != nil {
		t.Fatalf("down: %v %s", err, out)
	}
	if _, err := k.B.Until(k.ctx, "nothing", func(list []IKESA) bool {
		for _, x := range list {
			if len(x.Children) > 0 {
				return false
			}
		}
		return true
	}); err != nil {
		t.Error(err)
	}
	k.end(testnet.ESP, 20)
}

// Every encryption type of Kerberos, over both families, in every mode, with ESP and
// with AH; across realms, and with a peer that has no keytab.
func TestKINKVariants(t *testing.T) {
	for _, test := range []struct {
		name string
		o    KINKOptions
		wire testnet.Class
	}{
		{"etype 17, tunnel", KINKOptions{ETypes: "aes128-cts-hmac-sha1-96:normal", Sessions: "aes128-cts-hmac-sha1-96"}, testnet.ESP},
		{"etype 18, tunnel over IPv6", KINKOptions{V6: true, ETypes: "aes256-cts-hmac-sha1-96:normal", Sessions: "aes256-cts-hmac-sha1-96"}, testnet.ESP},
		{"etype 19, transport", KINKOptions{Transport: true, ETypes: "aes128-cts-hmac-sha256-128:normal", Sessions: "aes128-cts-hmac-sha256-128", Child: []string{"mode: transport"}}, testnet.ESP},
		{"etype 20, transport over IPv6", KINKOptions{V6: true, Transport: true, ETypes: "aes256-cts-hmac-sha384-192:normal", Sessions: "aes256-cts-hmac-sha384-192", Child: []string{"mode: transport"}}, testnet.ESP},
		{"AH, tunnel", KINKOptions{Child: []string{"ah_proposals: [sha256]"}}, testnet.AH},
		{"AH, transport", KINKOptions{Transport: true, Child: []string{"mode: transport", "ah_proposals: [sha256]"}}, testnet.AH},
		{"forward secrecy", KINKOptions{Child: []string{"esp_proposals: [aes256gcm16-ecp256]"}}, testnet.ESP},
		{"BEET", KINKOptions{Transport: true, Child: []string{"mode: beet", "mode_required: yes"}}, testnet.ESP},
		{"AH around ESP", KINKOptions{Child: []string{"esp_proposals: [aes128gcm16]", "ah_proposals: [sha256]"}}, testnet.AH},
		{"two realms", KINKOptions{TwoRealms: true}, testnet.ESP},
		{"user-to-user", KINKOptions{UserToUser: true}, testnet.ESP},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			k := startKINK(t, test.o)
			k.traffic("up")
			k.end(test.wire, 6)
		})
	}
}
