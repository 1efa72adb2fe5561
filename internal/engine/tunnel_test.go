package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"iked/internal/backend"
	"iked/spd"
)

// `start: always` brings a tunnel up without being asked, on both gateways with
// equal selectors, and a graceful stop takes all of it away on both.
func TestAlwaysComesUpAndGoes(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		moon.want(1, 1, "after the start")
		sun.want(1, 1, "after the start")
		a, b := moon.sas()[0], sun.sas()[0]
		if a.SPIi != b.SPIi || a.SPIr != b.SPIr || !a.Initiator || b.Initiator {
			t.Errorf("the two ends disagree on the IKE SA: %+v and %+v", a, b)
		}
		if a.Children[0].SPIIn != b.Children[0].SPIOut || a.Children[0].SPIOut != b.Children[0].SPIIn {
			t.Error("the two ends disagree on the SPIs of the CHILD_SA")
		}
		moon.stop()
		w.after(time.Second)
		sun.want(0, 0, "after the peer stopped")
		if n := len(moon.back.Policies()); n != 0 {
			t.Errorf("%d policies are left after the stop, expected none", n)
		}
	})
}

// Both ends with `start: always` end up with one IKE SA and one CHILD_SA, however
// their attempts cross.
func TestBothAlways(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: always"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(20 * time.Second)
		moon.want(1, 1, "after crossing attempts")
		sun.want(1, 1, "after crossing attempts")
	})
}

// A gateway whose peer crashed and came back has its tunnel again by itself, and
// no SA of the old one is left.
func TestPeerRestarts(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("    dpd_delay: 10s", ", start: always"))
		w.after(2 * time.Second)
		moon.want(1, 1, "at first")
		sun.crash()
		w.after(5 * time.Minute)
		moon.want(0, 0, "while the peer is away")
		if p := moon.back.Policies(); len(p) == 0 || p[0].Action != spd.Protect {
			t.Errorf("while the tunnel is down its traffic must be held back, policies are %v", p)
		}
		sun.start()
		w.after(3 * time.Minute)
		moon.want(1, 1, "after the peer came back")
		sun.want(1, 1, "after the peer came back")
	})
}

// INITIAL_CONTACT (RFC 7296, Section 2.4): the gateway that did not notice the
// crash of its peer drops the old SA when the peer connects anew.
func TestInitialContact(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		sun.want(1, 1, "at first")
		moon.crash()
		moon.start()
		w.after(5 * time.Second)
		sun.want(1, 1, "after the peer's crash and restart")
		moon.want(1, 1, "after its own crash and restart")
	})
}

// A tunnel whose link was away for an hour is back within two minutes of the
// link.
func TestLinkAwayAndBack(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("    dpd_delay: 10s", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("    dpd_delay: 10s", ", start: always"))
		w.after(2 * time.Second)
		w.cut(moon, true)
		w.after(time.Hour)
		moon.want(0, 0, "without a link")
		sun.want(0, 0, "without a link")
		w.cut(moon, false)
		w.after(3 * time.Minute)
		moon.want(1, 1, "with the link again")
		sun.want(1, 1, "with the link again")
	})
}

// Names are resolved at every attempt: a tunnel comes up when the name server is
// back, and goes to the new address when the name moved.
func TestNameServerAwayAndBack(t *testing.T) {
	simulate(t, func(w *world) {
		text := site("moon", "sun", "sun.example.org", "10.1.0.0/16", "10.2.0.0/16", "    dpd_delay: 10s", ", start: always")
		moon := w.gateway("moon", moonAddr, text)
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		w.after(10 * time.Minute)
		moon.want(0, 0, "without a name server")
		if f := moon.e.Explain("office"); len(f) == 0 || f[0].Stage != "reach-peer" {
			t.Errorf("explain does not tell that the name cannot be resolved: %v", f)
		}
		w.name("sun.example.org", sunAddr)
		w.after(2 * time.Minute)
		moon.want(1, 1, "with the name server back")
		sun.want(1, 1, "with the name server back")
		sun.crash()
		const other = "192.0.2.77"
		w.name("sun.example.org", other)
		next := w.gateway("sun2", other, sunConf("", ", start: passive"))
		w.after(6 * time.Minute)
		moon.want(1, 1, "after the peer moved")
		next.want(1, 1, "after the peer moved")
	})
}

// `start: on-demand`: traffic that has no SA asks for the tunnel; a failed
// attempt is not repeated for every packet.
func TestOnDemand(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: on-demand"))
		w.after(time.Minute)
		moon.want(0, 0, "before traffic")
		p := moon.back.Policies()
		if len(p) != 1 || !p[0].Acquire {
			t.Fatalf("expected one policy that asks for the tunnel, got %v", p)
		}
		flow := spd.Flow{Local: addr("10.1.0.5"), Remote: addr("10.2.0.7"), Proto: 6, LocalPort: 1, RemotePort: 80, HasPorts: true}
		for range 3 {
			moon.back.Acquire(p[0].ID, p[0].ReqID, flow)
		}
		w.after(2 * time.Second)
		moon.want(1, 1, "after traffic")
		sun.want(1, 1, "after traffic")
	})
}

// Rekeying of both kinds by request and by the backend's soft limit replaces the
// SAs and leaves no old one behind.
func TestRekey(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		sub := moon.e.Subscribe(EventIKERekey|EventChildRekey, 16)
		defer sub.Close()
		before := moon.sas()[0]
		if _, err := moon.e.Rekey(context.Background(), Selector{IKE: "office"}, false); err != nil {
			t.Fatal(err)
		}
		w.after(time.Minute)
		after := moon.sas()[0]
		if before.SPIi == after.SPIi || before.UniqueID == after.UniqueID {
			t.Error("the IKE SA was not rekeyed")
		}
		if _, err := sun.e.Rekey(context.Background(), Selector{Child: "net"}, false); err != nil {
			t.Fatal(err)
		}
		w.after(time.Minute)
		again := moon.sas()[0]
		if again.Children[0].SPIIn == after.Children[0].SPIIn {
			t.Error("the CHILD_SA was not rekeyed by the peer")
		}
		for _, s := range moon.back.SAs() {
			moon.back.Expire(s.ID, false, "bytes")
		}
		w.after(time.Minute)
		last := moon.sas()[0]
		if last.Children[0].SPIIn == again.Children[0].SPIIn {
			t.Error("the CHILD_SA was not rekeyed at its soft limit")
		}
		moon.want(1, 1, "after rekeying")
		sun.want(1, 1, "after rekeying")
		if n := len(moon.back.Policies()); n != 1 {
			t.Errorf("%d policies after rekeying, expected one", n)
		}
		kinds := map[EventKind]int{}
		for len(sub.C) > 0 {
			kinds[(<-sub.C).Kind]++
		}
		if kinds[EventIKERekey] != 1 || kinds[EventChildRekey] != 2 {
			t.Errorf("rekey events: %v, expected 1 of the IKE SA and 2 of the CHILD_SA", kinds)
		}
	})
}

// What an operator takes down stays down, though it is `always`, until it is
// brought up again; operations tell their result.
func TestDownHoldsUntilUp(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		r, err := moon.e.Terminate(context.Background(), TerminateRequest{Selector: Selector{IKE: "office"}})
		if err != nil || r.Matches != 1 || r.Done != 1 {
			t.Fatalf("terminate: %+v, %v", r, err)
		}
		w.after(10 * time.Minute)
		moon.want(0, 0, "after down")
		sun.want(0, 0, "after down")
		if err := moon.e.Initiate(context.Background(), InitiateRequest{Child: "net"}); err != nil {
			t.Fatal(err)
		}
		moon.want(1, 1, "after up")
		if err := moon.e.Initiate(context.Background(), InitiateRequest{Child: "net"}); err != nil {
			t.Fatal(err)
		}
		moon.want(1, 1, "after a second up, which makes no duplicate")
		r, err = moon.e.Terminate(context.Background(), TerminateRequest{Selector: Selector{Child: "net"}})
		if err != nil || r.Done != 1 {
			t.Fatalf("terminate child: %+v, %v", r, err)
		}
		w.after(time.Minute)
		moon.want(1, 0, "after the child was taken down")
		if err := moon.e.Initiate(context.Background(), InitiateRequest{Child: "nothing"}); err == nil || err.Error() != "CHILD_SA config 'nothing' not found" {
			t.Errorf("unknown child: %v", err)
		}
	})
}

// A hard limit that the backend reports deletes the CHILD_SA, and `always` makes
// a new one.
func TestHardExpiry(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		old := moon.sas()[0].Children[0]
		for _, s := range moon.back.SAs() {
			moon.back.Emit(backend.Expire{ID: s.ID, Owner: s.Owner, Hard: true, Why: "packets"})
		}
		w.after(10 * time.Second)
		moon.want(1, 1, "after the hard limit")
		sun.want(1, 1, "after the hard limit")
		if moon.sas()[0].Children[0].SPIIn == old.SPIIn {
			t.Error("the expired CHILD_SA is still there")
		}
		synctest.Wait()
	})
}
