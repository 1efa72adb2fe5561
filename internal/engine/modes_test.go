package engine

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/internal/backend"
	"iked/internal/backend/fake"
	"iked/sad"
	"iked/spd"
)

// hosts is a configuration of one host with another.
func hosts(self, peer, peerAddr, extra, child string) string {
	return site(self, peer, peerAddr, "dynamic", "dynamic", extra, child)
}

// The SAs and policies of a child have its mode, protocol and addresses in the
// backend: outer ones in tunnel and BEET mode, none in transport mode.
func TestModesReachTheBackend(t *testing.T) {
	for keys, want := range map[string]struct {
		mode  spd.Mode
		proto suite.Protocol
		outer bool
	}{
		"":                         {spd.Tunnel, suite.ProtoESP, true},
		", mode: transport":        {spd.Transport, suite.ProtoESP, false},
		", mode: beet":             {spd.BEET, suite.ProtoESP, true},
		", ah_proposals: [sha256]": {spd.Tunnel, suite.ProtoAH, true},
		", mode: transport, ah_proposals: [sha256-esn]": {spd.Transport, suite.ProtoAH, false},
	} {
		t.Run(keys, func(t *testing.T) {
			simulate(t, func(w *world) {
				esp := func(s string) string {
					if want.proto == suite.ProtoAH {
						return withoutESP(s)
					}
					return s
				}
				sun := w.gateway("sun", sunAddr, esp(hosts("sun", "moon", moonAddr, "", ", start: passive"+keys)))
				moon := w.gateway("moon", moonAddr, esp(hosts("moon", "sun", sunAddr, "", ", start: always"+keys)))
				w.after(2 * time.Second)
				moon.want(1, 1, "after the start")
				sun.want(1, 1, "after the start")
				for _, s := range moon.back.SAs() {
					if s.Mode != want.mode || s.Proto != want.proto {
						t.Errorf("an SA has mode %v and protocol %v", s.Mode, s.Proto)
					}
				}
				p := moon.back.Policies()
				if len(p) != 1 {
					t.Fatalf("policies %+v, expected one", p)
				}
				local, remote := addr(moonAddr), addr(sunAddr)
				if !want.outer {
					local, remote = netip.Addr{}, netip.Addr{}
				}
				ah := want.proto == suite.ProtoAH
				if p[0].Mode != want.mode || p[0].OuterLocal != local || p[0].OuterRemote != remote || (p[0].Proto == 51) != ah {
					t.Errorf("the policy is %+v", p[0])
				}
			})
		})
	}
}

func withoutESP(s string) string {
	const key = ", esp_proposals: [aes128gcm16-x25519]"
	i := len(s)
	for j := range s {
		if len(s)-j >= len(key) && s[j:j+len(key)] == key {
			i = j
		}
	}
	return s[:i] + s[i+len(key):]
}

// A peer that falls back to tunnel mode serves the policy that stands for transport
// mode, which says so while it does.
func TestFallbackServesTheStandingPolicy(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, hosts("sun", "moon", moonAddr, "", ", start: passive"))
		moon := w.gateway("moon", moonAddr, hosts("moon", "sun", sunAddr, "", ", start: always, mode: transport"))
		w.after(2 * time.Second)
		moon.want(1, 1, "after the start")
		p := moon.back.Policies()
		if len(p) != 1 || p[0].Mode != spd.Tunnel || p[0].OuterRemote != addr(sunAddr) || p[0].ReqID != moon.back.SAs()[0].ReqID {
			t.Errorf("with the tunnel up the policies are %+v, the SA has reqid %d", p, moon.back.SAs()[0].ReqID)
		}
		id := p[0].ID
		moon.e.Terminate(context.Background(), TerminateRequest{Selector: Selector{IKE: "office"}})
		w.after(2 * time.Second)
		if p := moon.back.Policies(); len(p) != 1 || p[0].Mode != spd.Transport || p[0].OuterRemote.IsValid() || p[0].ID != id {
			t.Errorf("with the tunnel down the policies are %+v, expected the transport one again", p)
		}
	})
}

// Policies follow the outer addresses of the SA that was added last, keep their
// numbers, so that packets that wait for them are not lost, and go back to what is
// configured when the SA goes.
func TestPoliciesFollowTheirSAs(t *testing.T) {
	back := fake.New()
	p := newPolicies(back)
	l, r := spd.FromPrefix(netip.MustParsePrefix("10.1.0.0/16")), spd.FromPrefix(netip.MustParsePrefix("10.2.0.0/16"))
	w := policyWant{child: childKey{"a", "b"}, local: []spd.TS{l}, remote: []spd.TS{r}, action: spd.Protect, acquire: true}
	if err := p.stand(w); err != nil {
		t.Fatal(err)
	}
	id := back.Policies()[0].ID
	is := func(when string, remote netip.Addr) {
		t.Helper()
		q := back.Policies()
		if len(q) != 1 || q[0].OuterRemote != remote || q[0].ID != id || !q[0].Acquire {
			t.Errorf("%s: %+v, expected one entry for %v", when, q, remote)
		}
	}
	is("standing", netip.Addr{})
	w.out = outside{local: addr("192.0.2.1"), remote: addr("192.0.2.2")}
	_, key, err := p.hold(w)
	if err != nil {
		t.Fatal(err)
	}
	is("held", addr("192.0.2.2"))
	if err := p.move(key, outside{local: addr("192.0.2.1"), remote: addr("192.0.2.3")}); err != nil {
		t.Fatal(err)
	}
	is("moved", addr("192.0.2.3"))
	if err := p.release(key); err != nil {
		t.Fatal(err)
	}
	is("released", netip.Addr{})
	// When the backend refuses, what is in force stays known.
	back.FailNext(fake.OpApplyPolicies, backend.ErrInvalid)
	if _, _, err := p.hold(w); err == nil {
		t.Error("a change that the backend refused was taken for done")
	}
	is("refused", netip.Addr{})
}

// What an SA brought is looked at before the entry that asks for SAs, also where the
// peer narrowed it by less than the width of a prefix, and where the priority is
// configured.
func TestNarrowedPolicyComesFirst(t *testing.T) {
	for _, priority := range []uint32{0, 77} {
		back := fake.New()
		p := newPolicies(back)
		l, r := spd.FromPrefix(netip.MustParsePrefix("10.1.0.0/16")), spd.FromPrefix(netip.MustParsePrefix("10.2.0.0/16"))
		w := policyWant{child: childKey{"a", "b"}, local: []spd.TS{l}, remote: []spd.TS{r}, action: spd.Protect, acquire: true, priority: priority}
		if err := p.stand(w); err != nil {
			t.Fatal(err)
		}
		r.To = r.To.Prev()
		w.remote, w.acquire = []spd.TS{r}, false
		if _, _, err := p.hold(w); err != nil {
			t.Fatal(err)
		}
		q := back.Policies()
		if len(q) != 2 || q[0].Acquire || !q[1].Acquire || q[0].Priority >= q[1].Priority || priority != 0 && q[1].Priority != priority {
			t.Errorf("priority %d: looked at in the order %+v", priority, q)
		}
	}
}

// The addresses before translation reach the SAs of transport mode, with which
// checksums are put right (RFC 7296, Section 2.23.1).
func TestNATAddressesReachTheSA(t *testing.T) {
	ch := &ikev2.Child{Config: &ikev2.ChildConfig{TFCPadding: 100}, Mode: spd.Transport, NATLocal: addr("192.0.2.9"), NATRemote: addr("10.9.0.5"),
		LocalAddr: netip.MustParseAddrPort("192.0.2.1:4500"), RemoteAddr: netip.MustParseAddrPort("192.0.2.8:4500"), Encap: true}
	s := &shard{}
	for _, dir := range []sad.Direction{sad.In, sad.Out} {
		sa := s.saOf(&childSA{child: ch}, dir)
		if sa.NATLocal != ch.NATLocal || sa.NATRemote != ch.NATRemote || sa.Encap == nil || sa.TFCPadding != 0 {
			t.Errorf("direction %v: %+v", dir, sa)
		}
	}
}

// An entry that must not ask for SAs is told so: a kernel asks whenever it has none.
func TestAcquireOfWhatIsNotOnDemand(t *testing.T) {
	simulate(t, func(w *world) {
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: passive"))
		w.after(time.Second)
		p := moon.back.Policies()[0]
		flow := spd.Flow{Local: addr("10.1.0.5"), Remote: addr("10.2.0.7"), Proto: 17}
		moon.back.Acquire(p.ID, p.ReqID, flow)
		moon.back.Acquire(4711, 1, flow)
		w.after(time.Minute)
		if n := len(w.sent); n != 0 {
			t.Errorf("%d datagrams were sent for a passive child", n)
		}
		for _, reason := range []string{"acquire-not-on-demand", "acquire-unknown-policy"} {
			if moon.e.drops.snapshot()[reason] != 1 {
				t.Errorf("%s is counted %d times", reason, moon.e.drops.snapshot()[reason])
			}
		}
		if f := moon.back.Failed(); len(f) != 2 || !slices.ContainsFunc(f, func(x fake.Failure) bool { return x.Policy == p.ID && x.Flow == flow && x.Retry > 0 }) {
			t.Errorf("the backend was told %+v", f)
		}
	})
}

// SAs and policies of a child that both sides compress say so, with the numbers of each
// side; where one side does not want it neither does, whatever stands.
func TestCompressionReachesTheBackend(t *testing.T) {
	for _, c := range []struct{ moon, sun, want bool }{{true, true, true}, {true, false, false}, {false, true, false}} {
		simulate(t, func(w *world) {
			ipcomp := map[bool]string{true: ", ipcomp: yes", false: ""}
			sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"+ipcomp[c.sun]))
			moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"+ipcomp[c.moon]))
			w.after(2 * time.Second)
			moon.want(1, 1, "after the start")
			sun.want(1, 1, "after the start")
			cpis := map[sad.Direction]uint16{}
			for _, s := range moon.back.SAs() {
				cpis[s.Dir] = s.CPI
			}
			for _, s := range sun.back.SAs() {
				if other := map[sad.Direction]sad.Direction{sad.In: sad.Out, sad.Out: sad.In}[s.Dir]; (s.CPI != 0) != c.want || s.CPI != cpis[other] {
					t.Errorf("%+v: an SA of sun has CPI %d, those of moon have %v", c, s.CPI, cpis)
				}
			}
			if info := moon.sas()[0].Children[0]; info.CPIIn != cpis[sad.In] || info.CPIOut != cpis[sad.Out] {
				t.Errorf("%+v: the CHILD_SA is shown with %d and %d", c, info.CPIIn, info.CPIOut)
			}
			for _, g := range []*gateway{moon, sun} {
				if p := g.back.Policies(); len(p) != 1 || p[0].Compress != c.want {
					t.Errorf("%+v: the policies of %s are %+v", c, g.name, p)
				}
				if n := g.back.Reserved(); n != 0 {
					t.Errorf("%+v: %s has %d reserved numbers", c, g.name, n)
				}
			}
			moon.e.Terminate(context.Background(), TerminateRequest{Selector: Selector{IKE: "office"}})
			w.after(2 * time.Second)
			if p := moon.back.Policies(); len(p) != 1 || p[0].Compress {
				t.Errorf("%+v: with the tunnel down the policies are %+v", c, p)
			}
		})
	}
}
