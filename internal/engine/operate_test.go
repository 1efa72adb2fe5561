package engine

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iked/ikev2"
	"iked/internal/trace"
	"iked/spd"
)

// A reload touches what changed and nothing else: an unchanged tunnel keeps its
// SPIs while another connection is added, changed and removed.
func TestReload(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		before := moon.sas()[0]
		base := moon.conf
		reload := func(text string, want ...string) {
			t.Helper()
			moon.conf = text
			plan, err := moon.e.Reload(context.Background(), true)
			if err != nil {
				t.Fatal(err)
			}
			done, err := moon.e.Reload(context.Background(), false)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(plan) != fmt.Sprint(done) {
				t.Errorf("the dry run told %v, the reload did %v", plan, done)
			}
			for i, s := range want {
				if i >= len(done) || !strings.Contains(done[i], s) {
					t.Errorf("reload did %v, expected %v", done, want)
				}
			}
			if len(want) == 0 && len(done) != 0 {
				t.Errorf("reload did %v, expected nothing", done)
			}
			w.after(5 * time.Second)
		}
		same := func(when string) {
			t.Helper()
			if s := moon.sas(); len(s) != 1 || s[0].SPIi != before.SPIi || len(s[0].Children) != 1 || s[0].Children[0].SPIIn != before.Children[0].SPIIn {
				t.Fatalf("%s: the unchanged tunnel was touched: %+v", when, s)
			}
		}
		reload("\n\n" + base)
		same("moved lines")
		other := strings.Replace(base, "secrets:", "  - {name: other, remote_addrs: [203.0.113.1], children: [{name: o, remote_ts: [10.3.0.0/16], start: on-demand}]}\nsecrets:", 1)
		reload(other, "+ connection other", "+ child other/o: is set up when traffic needs it")
		same("another added")
		reload(base, "- connection other")
		same("another removed")
		if n := len(moon.back.Policies()); n != 1 {
			t.Errorf("%d policies after the removal, expected 1", n)
		}
		reload(strings.Replace(base, "10.2.0.0/16", "10.2.0.0/24", 1), "~ child office/net: replaced, because of remote_ts")
		moon.want(1, 1, "after its child changed")
		if s := moon.sas()[0].Children[0]; s.SPIIn == before.Children[0].SPIIn || s.Remote[0].String() != "10.2.0.0/24" {
			t.Errorf("the changed child was not set up anew: %+v", s)
		}
		sun.want(1, 1, "after the peer's child changed")
		reload("connections: []\n", "- connection office")
		moon.want(0, 0, "after its connection was removed")
		sun.want(0, 0, "after the peer removed the connection")
		if n := len(moon.back.Policies()); n != 0 {
			t.Errorf("%d policies are left of a connection that was removed", n)
		}
	})
}

// A faulty configuration at reload leaves the running state as it was.
func TestFaultyReload(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		before := moon.sas()[0]
		moon.conf = strings.Replace(moon.conf, "remote_ts", "remote_tz", 1)
		for _, dry := range []bool{true, false} {
			if _, err := moon.e.Reload(context.Background(), dry); err == nil || !strings.Contains(err.Error(), "remote_tz") {
				t.Errorf("reload of a faulty configuration: %v", err)
			}
		}
		w.after(time.Minute)
		moon.want(1, 1, "after a faulty reload")
		if moon.sas()[0].SPIi != before.SPIi {
			t.Error("a faulty reload touched the tunnel")
		}
	})
}

// unique = replace ends the older IKE SA of the same identities, keep refuses the
// newer one, no and never let both live (without INITIAL_CONTACT).
func TestUnique(t *testing.T) {
	for policy, want := range map[string]int{"no": 2, "never": 2, "replace": 1, "keep": 1} {
		t.Run(policy, func(t *testing.T) {
			simulate(t, func(w *world) {
				text := strings.Replace(anyPeer, "    local:", "    unique: "+policy+"\n    local:", 1)
				sun := w.gateway("sun", sunAddr, text)
				first := w.gateway("moon", moonAddr, moonConf("    unique: never", ""))
				first.e.Initiate(context.Background(), InitiateRequest{Child: "net"})
				w.after(2 * time.Second)
				first.want(1, 1, "as the first")
				old := sun.sas()[0].SPIi
				second := w.gateway("moon2", "192.0.2.9", moonConf("    unique: never", ""))
				second.e.Initiate(context.Background(), InitiateRequest{Child: "net", Timeout: 2 * time.Second})
				w.after(5 * time.Second) // a Delete that overtakes IKE_AUTH is sent again
				list := sun.sas()
				if len(list) != want {
					t.Fatalf("%d IKE SAs, expected %d\n%s%s", len(list), want, sun.dump(), second.dump())
				}
				if policy == "replace" && list[0].SPIi == old {
					t.Error("the older IKE SA survived, expected the newer")
				}
				if policy == "keep" && list[0].SPIi != old {
					t.Error("the newer IKE SA survived, expected the older")
				}
			})
		})
	}
}

// explain tells at both ends why a negotiation failed, with what to change, and
// the log has the same sentence.
func TestExplain(t *testing.T) {
	cases := map[string]struct {
		stage  trace.Stage
		break_ func(moon string) string
	}{
		"proposal": {trace.StageProposal, func(c string) string {
			return strings.Replace(c, "aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-ecp384", 1)
		}},
		"secret":    {trace.StageAuth, func(c string) string { return strings.Replace(c, "battery", "capacitor", 1) }},
		"selectors": {trace.StageSelectors, func(c string) string { return strings.Replace(c, "10.2.0.0/16", "10.99.0.0/16", 1) }},
		"child":     {trace.StageChild, func(c string) string { return strings.Replace(c, "[aes128gcm16-x25519]", "[chacha20poly1305]", 1) }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
				moon := w.gateway("moon", moonAddr, c.break_(moonConf("", "")))
				err := moon.e.Initiate(context.Background(), InitiateRequest{Child: "net", Timeout: time.Minute})
				if err == nil {
					t.Fatal("the negotiation succeeded")
				}
				synctest.Wait()
				f := sun.e.Explain(moonAddr)
				if len(f) == 0 {
					t.Fatalf("the responder explains nothing\n%s", sun.dump())
				}
				if f[0].Stage != c.stage || f[0].Sentence == "" {
					t.Errorf("the responder explains %+v, expected stage %s", f[0], c.stage)
				}
				if !sun.logged(f[0].Sentence) {
					t.Errorf("the log lacks the sentence %q", f[0].Sentence)
				}
				if g := moon.e.Explain("office"); len(g) == 0 || !strings.Contains(err.Error(), g[0].Sentence) {
					t.Errorf("initiate failed with %v, explain has %+v", err, g)
				}
			})
		})
	}
}

// A subscriber that does not read loses events, is told how many, and holds up
// nobody.
func TestSlowSubscriber(t *testing.T) {
	simulate(t, func(w *world) {
		moon := w.gateway("moon", moonAddr, moonConf("", ""))
		slow := moon.e.Subscribe(EventLog, 4)
		defer slow.Close()
		for range 100 {
			moon.e.infof(trace.MGR, "a line")
		}
		if n := slow.Lost(); n != 96 {
			t.Errorf("%d events were lost, expected 96", n)
		}
		for range 4 {
			if ev := <-slow.C; ev.Lost != 0 {
				t.Errorf("an event before the gap tells of %d lost", ev.Lost)
			}
		}
		moon.e.infof(trace.MGR, "the next")
		if ev := <-slow.C; ev.Lost != 96 || ev.Record.Msg != "the next" {
			t.Errorf("the event after the gap is %+v, expected to be told of 96 lost", ev)
		}
	})
}

// bomb is a state machine that panics when it is told to.
type bomb struct {
	machine
	armed *bool
}

func (b bomb) Start(now time.Time, t ikev2.Task) {
	if _, rekey := t.(ikev2.RekeyIKE); rekey && *b.armed {
		panic("a fault for the test")
	}
	b.machine.Start(now, t)
}

func (b bomb) Outputs() iter.Seq[ikev2.Output] { return b.machine.Outputs() }

// A panic while one SA is processed closes that SA, is logged with its stack and
// counted; the other SAs go on, and the tunnel comes back.
func TestPanicIsContained(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("    dpd_delay: 5s", ", start: passive"))
		armed := true
		mk := realMakers()
		real := mk.initiator
		mk.initiator = func(e *Engine, cfg *ikev2.Config, l, r netip.AddrPort) machine {
			return bomb{real(e, cfg, l, r), &armed}
		}
		moon := w.gatewayOf("moon", moonAddr, moonConf("", ", start: always"), &mk)
		w.after(time.Second)
		moon.want(1, 1, "before the fault")
		if _, err := moon.e.Rekey(context.Background(), Selector{IKE: "office"}, false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		moon.want(0, 0, "right after the fault")
		if n := moon.e.Drops()["panic"]; n != 1 {
			t.Errorf("%d panics counted, expected 1", n)
		}
		if !moon.logged("a fault for the test") || !moon.logged("operate_test.go") {
			t.Error("the log lacks the panic with its stack")
		}
		w.after(10 * time.Second)
		moon.want(1, 1, "some seconds after the fault")
		sun.want(1, 1, "some seconds after the peer's fault")
	})
}

// Policies keep their reqid over rekeying, are not doubled by a second SA of the
// same child, and have the priorities that people know: narrower first.
func TestPolicies(t *testing.T) {
	var db recorder
	p := newPolicies(&db)
	ts := func(s ...string) (out []spd.TS) {
		for _, x := range s {
			out = append(out, spd.FromPrefix(netip.MustParsePrefix(x)))
		}
		return out
	}
	w := policyWant{child: childKey{"c", "n"}, local: ts("10.1.0.0/16"), remote: ts("10.2.0.0/16"), action: spd.Protect}
	trap := w
	trap.acquire = true
	if err := p.stand(trap); err != nil {
		t.Fatal(err)
	}
	r1, k1, _ := p.hold(w)
	r2, k2, _ := p.hold(w)
	if r1.main != 1 || r2.main != 1 || len(db.have) != 1 {
		t.Errorf("reqids %d and %d, %d policies, expected 1, 1 and 1", r1.main, r2.main, len(db.have))
	}
	for _, pol := range db.have {
		// 400000 - 512*(16+16)
		if pol.Priority != 383616 || !pol.Acquire {
			t.Errorf("priority %d, expected 383616 as the field knows it", pol.Priority)
		}
	}
	narrow := w
	narrow.remote = ts("10.2.3.0/24", "2001:db8::/32")
	r3, k3, _ := p.hold(narrow)
	if r3.main != 2 || len(db.have) != 2 {
		t.Errorf("a narrower CHILD_SA has reqid %d and there are %d policies, expected 2 and 2 (no mixed families)", r3.main, len(db.have))
	}
	p.release(k1)
	p.release(k2)
	p.release(k3)
	if len(db.have) != 1 {
		t.Errorf("%d policies after all SAs went, expected the standing one", len(db.have))
	}
	p.lay(w.child)
	if len(db.have) != 0 || len(p.inUse) != 0 {
		t.Errorf("%d policies and %d reqids are left", len(db.have), len(p.inUse))
	}
}

// An entry says of which protocol its SAs are: a backend takes no SA of ESP for an
// entry of AH, nor the other way round, nor one without AH for an entry of both. The
// same selectors with each are sets of their own, and no two share a reqid.
func TestPoliciesNameTheirProtocol(t *testing.T) {
	var db recorder
	p := newPolicies(&db)
	net := func(s string) []spd.TS { return []spd.TS{spd.FromPrefix(netip.MustParsePrefix(s))} }
	w := policyWant{child: childKey{"c", "n"}, local: net("10.1.0.0/16"), remote: net("10.2.0.0/16"), action: spd.Protect}
	// A configured number in the way of the ones that are chosen.
	w.reqid = 3
	both := w
	both.protect = byBoth
	b, keyB, err := p.hold(both)
	if err != nil {
		t.Fatal(err)
	}
	w.reqid = 0
	esp, keyE, err := p.hold(w)
	if err != nil {
		t.Fatal(err)
	}
	w.protect = byAH
	ah, keyA, err := p.hold(w)
	if err != nil {
		t.Fatal(err)
	}
	if b != (reqids{3, 1}) || esp != (reqids{main: 2}) || ah != (reqids{main: 4}) || len(db.have) != 3 {
		t.Fatalf("reqids %v, %v and %v, %d policies", b, esp, ah, len(db.have))
	}
	for _, pol := range db.have {
		if want := map[uint32]uint8{ah.main: 51}[pol.ReqID]; pol.Proto != want {
			t.Errorf("reqid %d: protocol %d, expected %d", pol.ReqID, pol.Proto, want)
		}
		around := []spd.Template(nil)
		if pol.ReqID == b.main {
			around = []spd.Template{{Proto: 51, Mode: spd.Transport, ReqID: b.around}}
		}
		if !slices.Equal(pol.Bundle, around) {
			t.Errorf("reqid %d: around it is %+v", pol.ReqID, pol.Bundle)
		}
	}
	for _, k := range []policyKey{keyB, keyE, keyA} {
		if err := p.release(k); err != nil {
			t.Fatal(err)
		}
	}
	if len(db.have)+len(p.inUse) != 0 {
		t.Errorf("%d policies and the reqids %v are left", len(db.have), p.inUse)
	}
}

type recorder struct{ have map[uint64]spd.Policy }

func (r *recorder) ApplyPolicies(remove []uint64, add []spd.Policy) error {
	if r.have == nil {
		r.have = map[uint64]spd.Policy{}
	}
	for _, id := range remove {
		delete(r.have, id)
	}
	for _, p := range add {
		r.have[p.ID] = p
	}
	return nil
}
