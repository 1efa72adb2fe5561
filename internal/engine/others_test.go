package engine

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/backend/fake"
	"iked/sad"
	"iked/spd"
)

// kernelLike makes the backends of a world such beside which others put policies in.
func kernelLike(w *world) {
	w.setup = func(g *gateway, _ *Options) {
		info := g.back.Describe()
		info.Name = "kernel"
		g.back.SetInfo(info)
	}
}

// otherAsks is the kernel's question of a mobility manager's policy.
func otherAsks(change func(a *backend.Acquire)) backend.Acquire {
	a := backend.Acquire{ReqID: 7, Proto: suite.ProtoESP, Mode: spd.Tunnel,
		Flow: spd.Flow{Local: addr("10.1.0.5"), Remote: addr("10.2.0.6"), Proto: 17, LocalPort: 1000, RemotePort: 2000, HasPorts: true}}
	if change != nil {
		change(&a)
	}
	return a
}

// touched are the calls that a gateway made about policies.
func (g *gateway) touched() (n int) {
	for _, c := range g.back.Calls() {
		if c.Op == fake.OpApplyPolicies {
			n++
		}
	}
	return n
}

// With policies: no the SAs are all that the daemon has in the backend, from the load of
// the configuration over rekeyings and reloads to its end; the policies are somebody
// else's. A packet that meets one of them brings the child up, and the SA of each
// direction has the request id of the policy of that direction.
func TestOthersPolicies(t *testing.T) {
	simulate(t, func(w *world) {
		kernelLike(w)
		w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		conf := moonConf("", ", start: on-demand, policies: no, reqid: 7, reqid_in: 8")
		moon := w.gateway("moon", moonAddr, conf)
		w.after(time.Second)
		moon.want(0, 0, "before a packet asks")
		ask := otherAsks(nil)
		moon.back.Emit(ask)
		w.after(2 * time.Second)
		reqids := func(when string) {
			t.Helper()
			moon.want(1, 1, when)
			if c := moon.sas()[0].Children[0]; c.ReqID != 7 || c.ReqIDIn != 8 {
				t.Errorf("%s: shown with request ids %d and %d", when, c.ReqID, c.ReqIDIn)
			}
			for _, sa := range moon.back.SAs() {
				if want := map[sad.Direction]uint32{sad.Out: 7, sad.In: 8}[sa.Dir]; sa.ReqID != want {
					t.Errorf("%s: an SA of direction %v has request id %d, expected %d", when, sa.Dir, sa.ReqID, want)
				}
			}
		}
		reqids("after the packet")
		if got := moon.back.Taken(); !slices.Equal(got, []spd.Flow{ask.Flow}) {
			t.Errorf("questions that were taken: %v", got)
		}
		if _, err := moon.e.Rekey(context.Background(), Selector{Child: "net"}, false); err != nil {
			t.Fatal(err)
		}
		w.after(10 * time.Second)
		reqids("after a rekeying")
		moon.conf = "fail: open\n" + conf
		if _, err := moon.e.Reload(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		w.after(time.Second)
		reqids("after a reload")
		if err := moon.e.Install(context.Background(), "", "net"); err == nil || !strings.Contains(err.Error(), "policies: no") {
			t.Errorf("install: %v", err)
		}
		moon.conf = strings.ReplaceAll(conf, "net", "other")
		if _, err := moon.e.Reload(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		w.after(time.Second)
		moon.want(0, 0, "after the child is gone")
		back := moon.back
		moon.stop()
		if n := (&gateway{back: back}).touched(); n != 0 {
			t.Errorf("%d calls about policies, all of which are somebody else's", n)
		}
	})
}

// A question is left to others, and their note of it untouched, unless protocol, mode,
// request id and packet are those of a child that packets may bring up.
func TestQuestionsOfOthers(t *testing.T) {
	for name, change := range map[string]func(a *backend.Acquire){
		"request id": func(a *backend.Acquire) { a.ReqID = 8 }, "no request id": func(a *backend.Acquire) { a.ReqID = 0 },
		"mode": func(a *backend.Acquire) { a.Mode = spd.Transport }, "protocol": func(a *backend.Acquire) { a.Proto = suite.ProtoAH },
		"packet": func(a *backend.Acquire) { a.Flow.Remote = addr("10.3.0.6") }, "passive": nil,
		"interface": func(a *backend.Acquire) { a.IfID = 9 }, "mark": func(a *backend.Acquire) { a.Mark = spd.Mark{Value: 1, Mask: 1} },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				kernelLike(w)
				start := "on-demand"
				if change == nil {
					start = "passive"
				}
				w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
				moon := w.gateway("moon", moonAddr, moonConf("", ", start: "+start+", policies: no, reqid: 7"))
				moon.back.Emit(otherAsks(change))
				w.after(5 * time.Second)
				moon.want(0, 0, "after a question that is somebody else's")
				if n := len(moon.back.Taken()) + len(moon.back.Failed()); n != 0 {
					t.Errorf("%d answers", n)
				}
			})
		})
	}
}

// A packet that asked before the child was configured, as when the daemon has just begun,
// is answered when it is: the kernel asks no second time. What was asked longer ago than
// the kernel remembers is not.
func TestQuestionBeforeTheConfiguration(t *testing.T) {
	for wait, want := range map[time.Duration]int{5 * time.Second: 1, time.Minute: 0} {
		simulate(t, func(w *world) {
			kernelLike(w)
			w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
			theirs := ", start: on-demand, policies: no, reqid: 7"
			moon := w.gateway("moon", moonAddr, moonConf("", strings.Replace(theirs, "7", "9", 1)))
			reload := func(child string) {
				t.Helper()
				moon.conf = moonConf("", child)
				if _, err := moon.e.Reload(context.Background(), false); err != nil {
					t.Fatal(err)
				}
			}
			moon.back.Emit(otherAsks(nil))
			w.after(wait / 2)
			reload(strings.Replace(theirs, "7", "11", 1))
			w.after(wait / 2)
			moon.want(0, 0, "before the child is there")
			reload(theirs)
			w.after(2 * time.Second)
			moon.want(want, want, "when the child is there")
		})
	}
}

// A child whose policies have no request id is asked by its packets, and its SAs have
// none. When the peer is away the kernel is told that there will be no SA, so that it
// may ask again.
func TestOthersPoliciesWithoutRequestID(t *testing.T) {
	simulate(t, func(w *world) {
		kernelLike(w)
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: on-demand, policies: no, reqid: 0"))
		w.cut(sun, true)
		ask := otherAsks(func(a *backend.Acquire) { a.ReqID = 0 })
		moon.back.Emit(ask)
		w.after(10 * time.Minute)
		failed := moon.back.Failed()
		if len(failed) != 1 || failed[0].Policy != 0 || failed[0].Flow != ask.Flow {
			t.Fatalf("answers %+v, expected one that there is no SA", failed)
		}
		w.cut(sun, false)
		w.after(2 * time.Minute)
		moon.back.Emit(ask)
		w.after(2 * time.Second)
		moon.want(1, 1, "when the peer is back")
		for _, sa := range moon.back.SAs() {
			if sa.ReqID != 0 {
				t.Errorf("an SA has request id %d", sa.ReqID)
			}
		}
		// The SA is there and the kernel asks all the same: another one would not help.
		moon.back.Emit(ask)
		w.after(2 * time.Second)
		moon.want(1, 1, "when the policy has other ends")
		if !moon.logged("the addresses of its ends are others") || len(moon.back.Failed()) != 2 {
			t.Errorf("nobody says that the policy is not served: %+v", moon.back.Failed())
		}
	})
}

// The kernel asks for the next SA before it was told that the last one has ended, as when
// its hard lifetime is over: the packet gets one all the same, at once.
func TestQuestionBeforeTheEndOfAnSA(t *testing.T) {
	simulate(t, func(w *world) {
		kernelLike(w)
		w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: on-demand, policies: no, reqid: 7"))
		moon.back.Emit(otherAsks(nil))
		w.after(2 * time.Second)
		moon.want(1, 1, "after the packet")
		before := moon.back.SAs()
		moon.back.Emit(otherAsks(nil))
		w.after(100 * time.Millisecond)
		for _, sa := range before {
			moon.back.Emit(backend.Expire{ID: sa.ID, Owner: sa.Owner, Hard: true, Why: "time"})
		}
		w.after(3 * time.Second)
		moon.want(1, 1, "after the end")
		if now := moon.back.SAs(); now[0].SPI == before[0].SPI || len(moon.back.Failed()) != 0 {
			t.Errorf("the SA is %08x, it was %08x; %d packets were refused", now[0].SPI, before[0].SPI, len(moon.back.Failed()))
		}
	})
}

// A request id of the configuration is chosen for nobody else: SAs of the daemon's own
// would serve the policies of others.
func TestRequestIDsOfOthersAreKept(t *testing.T) {
	simulate(t, func(w *world) {
		kernelLike(w)
		moon := w.gateway("moon", moonAddr, strings.Replace(moonConf("", ", start: on-demand"), "      - {name: net",
			"      - {name: theirs, local_ts: [10.1.0.0/16], remote_ts: [10.9.0.0/16], policies: no, reqid: 1, reqid_in: 2}\n      - {name: net", 1))
		w.after(time.Second)
		list := moon.back.Policies()
		if len(list) != 1 || list[0].ReqID != 3 {
			t.Errorf("policies %+v, expected one with request id 3", list)
		}
		// One that is chosen already and configured later is said to be.
		moon.conf = strings.Replace(moon.conf, "reqid_in: 2", "reqid_in: 3", 1)
		if _, err := moon.e.Reload(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		if !moon.logged("request id 3 of child theirs was chosen for policies of the daemon's own") {
			t.Error("nobody says that a request id is taken")
		}
	})
}

// The userspace datapath has no policies but the daemon's.
func TestOthersPoliciesNeedTheKernel(t *testing.T) {
	simulate(t, func(w *world) {
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: passive"))
		moon.conf = moonConf("", ", policies: no, reqid: 7")
		if _, err := moon.e.Reload(context.Background(), false); err == nil || !strings.Contains(err.Error(), "policies: no needs the kernel backend") {
			t.Errorf("reload: %v", err)
		}
	})
}
