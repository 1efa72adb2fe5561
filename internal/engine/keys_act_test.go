package engine

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"iked/internal/ident"
)

// keyingtries is how often an IKE SA is tried when its peer does not answer.
func TestKeyingTries(t *testing.T) {
	for _, tries := range []int{1, 3} {
		simulate(t, func(w *world) {
			w.gateway("moon", moonAddr, moonConf("    keyingtries: "+strconv.Itoa(tries), ", start_action: start"))
			w.after(2 * time.Hour)
			w.mu.Lock()
			defer w.mu.Unlock()
			attempts := make(map[string]bool)
			for _, d := range w.sent {
				attempts[string(d.Data[:8])] = true // the initiator's SPI
			}
			if len(attempts) != tries {
				t.Errorf("%d attempts, expected %d", len(attempts), tries)
			}
		})
	}
}

// close_action says what follows when the peer closes the CHILD_SA, dpd_action
// when it does not answer any more; each only that.
func TestActions(t *testing.T) {
	for actions, want := range map[string][2]int{
		"":                      {0, 0},
		", close_action: start": {1, 0},
		", dpd_action: restart": {0, 1},
	} {
		t.Run(actions, func(t *testing.T) {
			simulate(t, func(w *world) {
				sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
				moon := w.gateway("moon", moonAddr, moonConf("    dpd_delay: 10s\n    keyingtries: 0", ", start_action: start"+actions))
				up := func(n int, when string) {
					t.Helper()
					w.after(2 * time.Minute)
					if _, children := moon.up(); children != n {
						t.Errorf("%d CHILD_SAs %s, expected %d", children, when, n)
					}
				}
				w.after(2 * time.Second)
				moon.want(1, 1, "at first")
				if _, err := sun.e.Terminate(context.Background(), TerminateRequest{Selector: Selector{Child: "net"}}); err != nil {
					t.Fatal(err)
				}
				up(want[0], "after the peer closed it")
				if err := moon.e.Initiate(context.Background(), InitiateRequest{Child: "net"}); err != nil {
					t.Fatal(err)
				}
				sun.crash()
				w.after(5 * time.Minute)
				sun.start()
				up(want[1], "after the peer was away")
			})
		})
	}
}

// No more IKE SAs are made for peers than ike_sas says.
func TestMostIKESAs(t *testing.T) {
	for limit, want := range map[string]int{"0": 2, "1": 1} {
		simulate(t, func(w *world) {
			sun := w.gateway("sun", sunAddr, strings.NewReplacer("{id: moon,", "{", "["+moonAddr+"]", "['%any']").Replace(sunConf("", ", start: passive"))+"limits: {ike_sas: "+limit+"}\n")
			w.gateway("moon", moonAddr, moonConf("", ", start: always"))
			w.after(2 * time.Second)
			w.gateway("mars", "192.0.2.3", site("mars", "sun", sunAddr, "10.1.0.0/16", "10.2.0.0/16", "", ", start: always"))
			w.after(time.Minute)
			sas := sun.sas()
			if len(sas) != want {
				t.Errorf("ike_sas: %s, %d IKE SAs, expected %d", limit, len(sas), want)
			}
			if moon, _ := ident.Parse("moon"); len(sas) > 0 && !ident.Equal(sas[0].RemoteID, moon) && want == 1 {
				t.Errorf("the one that was there gave way to %s", sas[0].RemoteID)
			}
		})
	}
}

// fail: open of one child lets its traffic pass while the tunnel is down, also
// with a trap, and leaves the other child closed; a reload of the global key is
// in force at once.
func TestFailOfEachChild(t *testing.T) {
	const two = `
connections:
  - name: c
    remote_addrs: [192.0.2.2]
    local: {id: moon, auth: psk}
    remote: {id: sun, auth: psk}
    children:
      - {name: open, local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16], start: on-demand, fail: open}
      - {name: closed, local_ts: [10.1.0.0/16], remote_ts: [10.3.0.0/16], start: on-demand, fail: closed}
      - {name: global, local_ts: [10.1.0.0/16], remote_ts: [10.4.0.0/16], start: passive}
secrets: [{psk: "a-long-secret"}]
`
	simulate(t, func(w *world) {
		moon := w.gateway("moon", moonAddr, two)
		look := func(when string, want map[string]bool) {
			t.Helper()
			w.after(time.Second)
			got := make(map[string]bool)
			for _, p := range moon.back.Policies() {
				got[p.Name] = p.FailOpen
			}
			for name, open := range want {
				if o, ok := got[name]; !ok || o != open {
					t.Errorf("%s: policy of %s fails open: %v (there: %v), expected %v", when, name, o, ok, open)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%s: policies of %v, expected those of %v", when, got, want)
			}
		}
		closed := map[string]bool{"c/open": true, "c/closed": false, "c/global": false}
		look("fail: closed", closed)
		reload := func(text string) {
			t.Helper()
			moon.conf = text
			if _, err := moon.e.Reload(context.Background(), false); err != nil {
				t.Fatal(err)
			}
		}
		reload("fail: open\n" + two)
		look("fail: open", map[string]bool{"c/open": true, "c/closed": false})
		reload(two)
		look("fail: closed again", closed)
	})
}
