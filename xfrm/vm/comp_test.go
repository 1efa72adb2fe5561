package vm

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/uml"
	"iked/sad"
	"iked/spd"
	"iked/xfrm"
)

// compressing installs a pair of SAs with compression.
func compressing(t *testing.T, b *xfrm.Backend, p spd.Policy) (in, out *sad.SA) {
	t.Helper()
	cpi, err := b.AllocSPI(suite.ProtoIPComp, local)
	must(t, err)
	in, out = backendtest.Pair(p.ReqID, local, remote, 0x1000, 0x1001, netL, netR)
	in.CPI, out.CPI = uint16(cpi), 0x1234
	in.Mode, out.Mode = p.Mode, p.Mode
	must(t, b.AddSA(in))
	must(t, b.AddSA(out))
	return in, out
}

// RFC 3173 in the kernel: a state of compression in the mode of the SA, ESP in transport
// mode around it, and a policy that demands both outwards and takes what came without
// compression inwards. All of it moves and goes with the SA, also what the kernel added.
func TestCompressionInTheKernel(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	b := open(t, ns, xfrm.Options{State: t.TempDir()})
	p := protection()
	p.Compress, p.OuterLocal, p.OuterRemote = true, local, remote
	must(t, b.ApplyPolicies(nil, []spd.Policy{p}))
	in, out := compressing(t, b, p)
	line := func(what ...string) string {
		return strings.Join(strings.Fields(ip(t, ns, append([]string{"xfrm"}, what...)...)), " ")
	}
	for _, want := range []string{
		"src 192.0.2.1 dst 192.0.2.2 proto comp spi 0x00001234 reqid 7 mode tunnel", "comp deflate",
		"src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x00001001 reqid 7 mode transport", "proto esp spi 0x00001000 reqid 7 mode transport",
	} {
		if s := line("state"); !strings.Contains(s, want) {
			t.Errorf("ip does not say %q:\n%s", want, s)
		}
	}
	const tunnel, esp = "tmpl src 192.0.2.1 dst 192.0.2.2 proto comp reqid 7 mode tunnel", "tmpl src 0.0.0.0 dst 0.0.0.0 proto esp reqid 7 mode transport"
	if s := line("policy", "list", "dir", "out"); !strings.Contains(s, tunnel+" "+esp) {
		t.Errorf("the policy outwards:\n%s", s)
	}
	if s := line("policy", "list", "dir", "in"); !strings.Contains(s, "proto comp reqid 7 mode tunnel level use "+esp) || strings.Count(s, "level use") != 1 {
		t.Errorf("the policy inwards:\n%s", s)
	}
	// Compression, ESP, and the kernel's own state for what came as it was.
	id, err := b.UpdateSA(out.ID, backend.Move{Src: local, Dst: remote.Next()})
	must(t, err)
	if s := line("state"); strings.Contains(s, "dst 192.0.2.2 ") || strings.Count(s, "dst 192.0.2.3 ") != 3 {
		t.Errorf("after a move:\n%s", s)
	}
	if _, err := b.QuerySA(id); err != nil {
		t.Error(err)
	}
	v6 := backend.Move{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2")}
	if _, err := b.UpdateSA(id, v6); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("a move to the other family: %v", err)
	}
	must(t, b.DeleteSA(id))
	must(t, b.DeleteSA(in.ID))
	if s := line("state"); s != "" {
		t.Errorf("left in the kernel:\n%s", s)
	}
}

// Without its state of compression an SA carries nothing: when somebody removes that,
// the SA is over, and nothing of it stays.
func TestCompressionTakenAway(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	b := open(t, ns, xfrm.Options{})
	_, out := compressing(t, b, protection())
	ip(t, ns, "xfrm", "state", "delete", "src", local.String(), "dst", remote.String(), "proto", "comp", "spi", "0x1234")
	select {
	case e := <-b.Events():
		if x, ok := e.(backend.Expire); !ok || !x.Hard || x.ID != out.ID || x.Why != "removed" {
			t.Errorf("event %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told of the SA")
	}
	if s := ip(t, ns, "xfrm", "state"); strings.Contains(s, "0x00001001") {
		t.Errorf("left in the kernel:\n%s", s)
	}
	must(t, b.DeleteSA(out.ID))
}

// While a question is open the policy changes to compression and back, as it does with
// the SAs that it gets: the kernel asked twice, and what it asked first does not keep it
// from asking again when the SAs are gone.
func TestAskingAcrossCompression(t *testing.T) {
	uml.Require(t)
	ns := routed(t)
	b := open(t, ns, xfrm.Options{})
	plain := protection()
	plain.Acquire, plain.OuterLocal, plain.OuterRemote = true, local, remote
	packed := plain
	packed.Compress = true
	for _, between := range []bool{false, true} {
		must(t, b.ApplyPolicies(nil, []spd.Policy{plain}))
		if _, ok := asked(t, ns, b, 5*time.Second); !ok {
			t.Fatalf("between %t: the kernel does not ask", between)
		}
		must(t, b.ApplyPolicies(nil, []spd.Policy{packed}))
		if between {
			// A packet before there are SAs: a question about compression.
			knock(t, ns)
			time.Sleep(200 * time.Millisecond)
		}
		in, out := compressing(t, b, packed)
		knock(t, ns)
		must(t, b.DeleteSA(out.ID))
		must(t, b.DeleteSA(in.ID))
		must(t, b.ApplyPolicies(nil, []spd.Policy{plain}))
		a, ok := asked(t, ns, b, 5*time.Second)
		if !ok {
			t.Fatalf("between %t: the kernel does not ask again:\n%s", between, ip(t, ns, "xfrm", "state"))
		}
		b.AcquireFailed(a.Policy, a.Flow, time.Second)
		time.Sleep(1200 * time.Millisecond)
	}
}

// What a crashed process left of compression goes with its SAs.
func TestCrashWithCompression(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	state := crash(t, ns, compressEnv+"=1")
	if s := ip(t, ns, "xfrm", "state"); strings.Count(s, "reqid 7") != 4 || strings.Count(s, "proto comp") != 2 {
		t.Fatalf("nothing was left behind:\n%s", s)
	}
	open(t, ns, xfrm.Options{State: state})
	if s := ip(t, ns, "xfrm", "state"); s != "" {
		t.Errorf("SAs of the crashed process:\n%s", s)
	}
}
