package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"iked/internal/backend/fake"
	"iked/spd"
)

// tcp is a packet from a host behind moon to one behind sun.
func tcp(from, to string, port uint16) spd.Flow {
	return spd.Flow{Local: addr(from), Remote: addr(to), Proto: 6, LocalPort: 4001, RemotePort: port, HasPorts: true}
}

// trapOf is the policy that asks for SAs.
func (g *gateway) trapOf(name string) spd.Policy {
	g.w.t.Helper()
	for _, p := range g.back.Policies() {
		if p.Acquire && p.Name == name {
			return p
		}
	}
	g.w.t.Fatalf("no policy of %s asks for SAs: %+v\n%s", name, g.back.Policies(), g.dump())
	return spd.Policy{}
}

func (g *gateway) asks(name string, flow spd.Flow) {
	g.w.t.Helper()
	p := g.trapOf(name)
	g.back.Acquire(p.ID, p.ReqID, flow)
}

// answers counts what the backend was told to get no SA.
func (g *gateway) answers(flow spd.Flow) (n int, last fake.Failure) {
	for _, f := range g.back.Failed() {
		if f.Flow == flow {
			n, last = n+1, f
		}
	}
	return n, last
}

// RFC 4301, Section 4.4.1.2: with PFP each distinct value has an SA of its own, with
// a reqid and a narrower policy of its own, looked at before the one that asks; a
// flow over the limit gets none and is counted; what carries nothing goes, and makes
// room.
func TestPFPMakesAnSAForEachValue(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: on-demand, pfp: [remote_addr, remote_port], pfp_limit: 2, inactivity: 2m"))
		w.after(time.Second)
		trap := moon.trapOf("office/net")
		if want := spd.PFPRemoteAddr | spd.PFPRemotePort | spd.PFPProtocol; trap.PFP != want {
			t.Errorf("the policy has flags %05b, expected %05b", trap.PFP, want)
		}
		web, mail := tcp("10.1.0.5", "10.2.0.7", 80), tcp("10.1.0.5", "10.2.0.7", 25)
		// Two at once, before there is an IKE SA, and each of them twice.
		for range 2 {
			moon.asks("office/net", web)
			moon.asks("office/net", mail)
		}
		w.after(2 * time.Second)
		moon.want(1, 2, "after two values")
		sun.want(1, 2, "after two values")
		again := web
		again.Local, again.LocalPort = addr("10.1.0.6"), 5000 // not flagged: the same SA
		other := tcp("10.1.0.5", "10.2.0.7", 22)
		moon.asks("office/net", other)
		w.after(2 * time.Second)
		moon.want(1, 2, "after a third value")
		if n, f := moon.answers(other); n != 1 || f.Retry <= 0 || f.Policy != trap.ID {
			t.Errorf("the third value was answered %d times, with %+v", n, f)
		}
		if n := moon.e.drops.snapshot()["acquire-limit"]; n != 1 {
			t.Errorf("%d refusals are counted", n)
		}
		reqids := map[uint32]bool{trap.ReqID: true}
		for _, p := range moon.back.Policies() {
			if p.ID == trap.ID {
				continue
			}
			if reqids[p.ReqID] || p.PFP != 0 || p.Acquire || p.Priority >= trap.Priority || !web.Match(p.Local, p.Remote) && !mail.Match(p.Local, p.Remote) || other.Match(p.Local, p.Remote) {
				t.Errorf("policy of an SA: %+v", p)
			}
			if web.Match(p.Local, p.Remote) && !again.Match(p.Local, p.Remote) {
				t.Errorf("what is not flagged was taken from the packet: %+v", p)
			}
			reqids[p.ReqID] = true
		}
		if len(reqids) != 3 {
			t.Errorf("reqids %v, expected three", reqids)
		}
		for _, s := range moon.back.SAs() {
			if s.ReqID == trap.ReqID || !reqids[s.ReqID] {
				t.Errorf("an SA has reqid %d", s.ReqID)
			}
		}
		w.after(5 * time.Minute)
		moon.want(1, 0, "after nothing was carried")
		if p := moon.back.Policies(); len(p) != 1 || p[0].ID != trap.ID {
			t.Errorf("policies %+v, expected the one that asks", p)
		}
		moon.asks("office/net", other)
		w.after(2 * time.Second)
		moon.want(1, 1, "after a value that found no room before")
	})
}

// A packet that no SA can be had for is answered, with when to ask again; asking
// before is refused without an attempt, asking then works.
func TestAcquireThatFails(t *testing.T) {
	for name, child := range map[string]string{"the whole child": "", "one for each value": ", pfp: [remote_addr]"} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				moon := w.gateway("moon", moonAddr, moonConf("", ", start: on-demand"+child))
				w.after(time.Second)
				flow := tcp("10.1.0.5", "10.2.0.7", 80)
				moon.asks("office/net", flow)
				w.after(5 * time.Minute)
				n, f := moon.answers(flow)
				if n != 1 || f.Retry <= 0 || f.Retry > 2*retryMax {
					t.Fatalf("answered %d times, %+v\n%s", n, f, moon.dump())
				}
				w.mu.Lock()
				before := len(w.sent)
				w.mu.Unlock()
				w.after(time.Hour)
				w.mu.Lock()
				after := len(w.sent)
				w.mu.Unlock()
				if after != before {
					t.Errorf("%d datagrams were sent for a packet that was given up", after-before)
				}
				w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
				moon.asks("office/net", flow)
				w.after(2 * time.Second)
				moon.want(1, 1, "with the peer there")
			})
		})
	}
}

// A responder that refuses the CHILD_SA of one value leaves those of the others.
func TestPFPRefusedValue(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, strings.Replace(sunConf("", ", start: passive"), "local_ts: [10.2.0.0/16]", "local_ts: [10.2.0.0/24]", 1))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: on-demand, pfp: [remote_addr]"))
		w.after(time.Second)
		bad, good := tcp("10.1.0.5", "10.2.9.7", 80), tcp("10.1.0.5", "10.2.0.7", 80)
		for _, f := range []spd.Flow{bad, good} {
			moon.asks("office/net", f)
		}
		w.after(3 * time.Second)
		moon.want(1, 1, "after a value that is refused")
		if n, _ := moon.answers(bad); n != 1 {
			t.Errorf("the refused one was answered %d times", n)
		}
		if n, _ := moon.answers(good); n != 0 {
			t.Errorf("the other was answered with a failure")
		}
		if f := moon.e.Explain("office"); len(f) == 0 || !strings.Contains(f[0].Sentence, "TS_UNACCEPTABLE") {
			t.Errorf("explain says %+v", f)
		}
	})
}

// Several children of one peer that are asked for at once share one IKE SA.
func TestTrapsOfOnePeerAtOnce(t *testing.T) {
	more := func(s, local, remote string) string {
		return strings.Replace(s, "secrets:", fmt.Sprintf("      - {name: two, local_ts: [%s], remote_ts: [%s], start: on-demand}\nsecrets:", local, remote), 1)
	}
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, strings.Replace(more(sunConf("", ", start: passive"), "10.4.0.0/16", "10.3.0.0/16"), "on-demand", "passive", 1))
		moon := w.gateway("moon", moonAddr, more(moonConf("", ", start: on-demand"), "10.3.0.0/16", "10.4.0.0/16"))
		w.after(time.Second)
		moon.asks("office/net", tcp("10.1.0.5", "10.2.0.7", 80))
		moon.asks("office/two", tcp("10.3.0.5", "10.4.0.7", 80))
		w.after(2 * time.Second)
		moon.want(1, 2, "after both were asked for")
	})
}

// Reauthentication makes the CHILD_SAs of packets again, each for its packet.
func TestPFPReauthentication(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: on-demand, pfp: [remote_port]"))
		w.after(time.Second)
		for _, port := range []uint16{80, 25} {
			moon.asks("office/net", tcp("10.1.0.5", "10.2.0.7", port))
		}
		w.after(2 * time.Second)
		moon.want(1, 2, "at first")
		before := moon.sas()[0].SPIi
		if _, err := moon.e.Rekey(context.Background(), Selector{IKE: "office"}, true); err != nil {
			t.Fatal(err)
		}
		w.after(20 * time.Second)
		moon.want(1, 2, "after reauthentication")
		sun.want(1, 2, "after reauthentication")
		if moon.sas()[0].SPIi == before {
			t.Error("the IKE SA is still the old one")
		}
	})
}

// manyPeers is a host that protects its traffic to a whole subnet, whoever is there.
func manyPeers(self string, start string) string {
	return strings.NewReplacer("["+sunAddr+"]", "[192.0.2.0/24]", "id: other,", "id: '%any',").Replace(
		hosts(self, "other", sunAddr, "", ", mode: transport, start: "+start))
}

// On demand with remote_addrs that stand for many peers: the packet says who the
// peer is. Each has one IKE SA and one pair of SAs for the two hosts; one that does
// not answer holds up nobody else; what carries nothing goes with its IKE SA.
func TestOnDemandOfManyPeers(t *testing.T) {
	const marsAddr = "192.0.2.3"
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, manyPeers("sun", "on-demand"))
		mars := w.gateway("mars", marsAddr, manyPeers("mars", "passive"))
		moon := w.gateway("moon", moonAddr, manyPeers("moon", "on-demand"))
		w.after(time.Second)
		trap := moon.trapOf("office/net")
		if trap.Mode != spd.Transport || trap.PFP != spd.PFPLocalAddr|spd.PFPRemoteAddr || trap.OuterRemote.IsValid() ||
			len(trap.Remote) != 1 || trap.Remote[0].From != addr("192.0.2.0") || len(trap.Local) != 1 || trap.Local[0] != spd.Host(addr(moonAddr)) {
			t.Errorf("the policy that asks is %+v", trap)
		}
		dead := tcp(moonAddr, "192.0.2.50", 80)
		moon.asks("office/net", dead)
		moon.asks("office/net", tcp(moonAddr, sunAddr, 80))
		moon.asks("office/net", tcp(moonAddr, sunAddr, 25)) // the same pair
		moon.asks("office/net", tcp(moonAddr, marsAddr, 80))
		w.after(3 * time.Second)
		if i, c := moon.up(); i != 2 || c != 2 {
			t.Fatalf("%d IKE SAs with %d CHILD_SAs, expected one of each with two peers\n%s", i, c, moon.dump())
		}
		sun.want(1, 1, "with moon")
		mars.want(1, 1, "with moon")
		for _, p := range moon.back.Policies() {
			if p.ID != trap.ID && (p.Priority >= trap.Priority || p.Acquire || len(p.Remote) != 1 || !p.Remote[0].IsHost() || p.Remote[0].From != addr(sunAddr) && p.Remote[0].From != addr(marsAddr)) {
				t.Errorf("policy of a pair: %+v", p)
			}
		}
		// sun has the IKE SA already and asks for nothing more.
		forwarded := tcp("10.7.0.1", sunAddr, 80)
		moon.asks("office/net", forwarded)
		group := tcp(moonAddr, "224.0.0.251", 80)
		moon.asks("office/net", group)
		w.after(4 * time.Minute)
		for what, f := range map[string]spd.Flow{"nobody": dead, "a forwarded packet": forwarded, "a group": group} {
			if n, x := moon.answers(f); n != 1 || x.Retry <= 0 {
				t.Errorf("%s: answered %d times, %+v\n%s", what, n, x, moon.dump())
			}
		}
		if f := moon.e.Explain("office"); len(f) == 0 {
			t.Error("explain says nothing of the peer that does not answer")
		}
		w.after(20 * time.Minute)
		moon.want(0, 0, "after nothing was carried")
		if p := moon.back.Policies(); len(p) != 1 || p[0].ID != trap.ID {
			t.Errorf("policies %+v, expected the one that asks", p)
		}
		moon.asks("office/net", tcp(moonAddr, sunAddr, 80))
		w.after(3 * time.Second)
		moon.want(1, 1, "after it was asked again")
	})
}

// Both hosts ask at the same time, and one IKE SA stays.
func TestManyPeersAtOnce(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, manyPeers("sun", "on-demand"))
		moon := w.gateway("moon", moonAddr, manyPeers("moon", "on-demand"))
		w.after(time.Second)
		moon.asks("office/net", tcp(moonAddr, sunAddr, 80))
		sun.asks("office/net", tcp(sunAddr, moonAddr, 80))
		w.after(30 * time.Second)
		moon.want(1, 1, "after both asked")
		sun.want(1, 1, "after both asked")
	})
}

// Reauthentication with one of many peers makes before it breaks.
func TestManyPeersReauthentication(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, manyPeers("sun", "passive"))
		moon := w.gateway("moon", moonAddr, manyPeers("moon", "on-demand"))
		w.after(time.Second)
		moon.asks("office/net", tcp(moonAddr, sunAddr, 80))
		w.after(3 * time.Second)
		before := moon.sas()[0].SPIi
		if _, err := moon.e.Rekey(context.Background(), Selector{IKE: "office"}, true); err != nil {
			t.Fatal(err)
		}
		w.after(20 * time.Second)
		moon.want(1, 1, "after reauthentication")
		sun.want(1, 1, "after reauthentication")
		if moon.sas()[0].SPIi == before {
			t.Error("the IKE SA is still the old one")
		}
	})
}

// A child that is taken down answers what waits, and what comes then.
func TestAcquireOfWhatIsHeldDown(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: on-demand, pfp: [remote_port]"))
		w.after(time.Second)
		moon.asks("office/net", tcp("10.1.0.5", "10.2.0.7", 80))
		w.after(2 * time.Second)
		moon.want(1, 1, "at first")
		if _, err := moon.e.Terminate(context.Background(), TerminateRequest{Selector: Selector{IKE: "office"}}); err != nil {
			t.Fatal(err)
		}
		flow := tcp("10.1.0.5", "10.2.0.7", 25)
		moon.asks("office/net", flow)
		w.after(2 * time.Second)
		moon.want(0, 0, "held down")
		if n, _ := moon.answers(flow); n != 1 {
			t.Errorf("answered %d times", n)
		}
	})
}

// RFC 4301, Section 4.4.1: what is to be protected does not leave in clear from the
// moment on at which a configuration is loaded, also where its selectors are the two
// hosts themselves: their addresses are written down.
func TestTrapStandsWhenLoaded(t *testing.T) {
	simulate(t, func(w *world) {
		text := moonConf("    local_addrs: ["+moonAddr+"]", ", start: on-demand, mode: transport")
		text = strings.NewReplacer("[10.1.0.0/16]", "[dynamic]", "[10.2.0.0/16]", "[dynamic]").Replace(text)
		moon := w.gateway("moon", moonAddr, text)
		p := moon.trapOf("office/net")
		if len(p.Local) != 1 || p.Local[0] != spd.Host(addr(moonAddr)) || len(p.Remote) != 1 || p.Remote[0] != spd.Host(addr(sunAddr)) {
			t.Errorf("the policy is for %v and %v", p.Local, p.Remote)
		}
	})
}
