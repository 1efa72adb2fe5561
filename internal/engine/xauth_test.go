package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/conf"
)

// groupServer is a server of XAuth behind one secret for all, with a pool.
func groupServer(extra string) string {
	return `
connections:
  - name: road
    version: 1
    proposals: [aes128-sha256-modp2048]
    local: {auth: psk, id: gw.example}
    remote: {auth: psk, id: road}
    remote-2: {auth: xauth}
    pools: [p]
    unique: replace
    children: [{name: net, local_ts: [10.2.0.0/16, 10.3.0.0/16], remote_ts: [dynamic]}]
pools:
  - {name: p, addrs: 10.9.0.0/28, dns: [10.2.0.53], split_include: [10.2.0.0/16, 10.3.0.0/16], banner: "hello, world", domain: example.org}
secrets:
  - {psk: group}
  - {psk: bob's, type: xauth, id: [bob]}
  - {psk: alice's, type: xauth, id: [alice]}
` + extra
}

func groupClient(user string) string {
	return fmt.Sprintf(`
connections:
  - name: gw
    version: 1
    proposals: [aes128-sha256-modp2048]
    remote_addrs: [%s]
    vips: [0.0.0.0]
    unity: yes
    local: {auth: psk, id: road}
    local-2: {auth: xauth, xauth_id: %[2]s}
    remote: {auth: psk, id: gw.example}
    children: [{name: net, local_ts: [dynamic], remote_ts: [0.0.0.0/0], start_action: start}]
secrets:
  - {psk: group}
  - {psk: "%[2]s's", type: xauth, id: [%[2]s]}
`, sunAddr, user)
}

// Users of one group, with one identity in phase 1, are peers of their own: neither
// takes the place, the address or the SAs of another one, whatever `unique` says.
// What the pool has for them arrives.
func TestUsersOfOneGroup(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, groupServer(""))
		bob := w.gateway("bob", "192.0.2.11", groupClient("bob"))
		w.after(3 * time.Second)
		alice := w.gateway("alice", "192.0.2.12", groupClient("alice"))
		w.after(15 * time.Second)
		sun.want(2, 4, "with two users")
		bob.want(1, 2, "beside another user")
		alice.want(1, 2, "beside another user")
		leases := map[string]string{}
		for _, l := range sun.e.Pools("p", true)[0].Leases {
			leases[l.Peer.String()] = l.Addr.String()
		}
		if leases["bob"] == "" || leases["alice"] == "" || leases["bob"] == leases["alice"] {
			t.Errorf("leases %v", leases)
		}
		var users []string
		for _, sa := range sun.sas() {
			users = append(users, sa.User)
		}
		slices.Sort(users)
		if !slices.Equal(users, []string{"alice", "bob"}) {
			t.Errorf("users %v", users)
		}
		sa := bob.sas()[0]
		want := []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("10.3.0.0/16")}
		if sa.Banner != "hello, world" || sa.Domain != "example.org" || !slices.Equal(sa.Networks, want) {
			t.Errorf("the client was given %q %q %v", sa.Banner, sa.Domain, sa.Networks)
		}
		// One logs off: what was its own goes, although its group is still there.
		bob.stop()
		w.after(3 * time.Second)
		sun.want(1, 2, "after one of two users left")
		if p := sun.e.Pools("p", false)[0]; p.Online != 1 || p.Offline != 1 {
			t.Errorf("%d leases online, %d offline", p.Online, p.Offline)
		}
		for _, c := range sa.Children {
			if len(c.Remote) != 1 || c.Remote[0].From != want[0].Addr() && c.Remote[0].From != want[1].Addr() {
				t.Errorf("a CHILD_SA to %v", c.Remote)
			}
		}
	})
}

// asker knows users in place of servers and programs.
type asker struct {
	grant UserGrant
	err   error
	delay time.Duration
	asked []string
}

func (a *asker) ask(ctx context.Context, who string, q UserQuery) (UserGrant, error) {
	a.asked = append(a.asked, fmt.Sprintf("%s %s %s %s %v", who, q.User, q.Password.Reveal(), q.Conn, q.Peer))
	select {
	case <-time.After(a.delay):
	case <-ctx.Done():
		return UserGrant{}, ctx.Err()
	}
	return a.grant, a.err
}

func (a *asker) Radius(ctx context.Context, servers []*conf.Radius, q UserQuery) (UserGrant, error) {
	return a.ask(ctx, servers[0].Name, q)
}

func (a *asker) Hook(ctx context.Context, path string, q UserQuery) (UserGrant, error) {
	return a.ask(ctx, path, q)
}

func (w *world) askedServer(a *asker, auth, extra string) *gateway {
	w.setup = func(g *gateway, o *Options) { o.Users = a }
	return w.gateway("sun", sunAddr, strings.Replace(groupServer(extra), "{auth: xauth}", "{auth: "+auth+"}", 1))
}

const (
	radiusServers = "radius:\n  - {name: first, address: 192.0.2.99, secret: 0123456789abcdef}\n"
	aHook         = "xauth_hook: /usr/local/sbin/check\n"
)

// Who knows the users is who the configuration says, and its word decides: also
// when it takes seconds, and over a secret of the same user.
func TestUsersElsewhere(t *testing.T) {
	for _, c := range []struct{ auth, extra, who string }{{"xauth-radius", radiusServers, "first"}, {"xauth-hook", aHook, "/usr/local/sbin/check"}, {"xauth-pam", aHook, "/usr/local/sbin/check"}} {
		for _, ok := range []bool{true, false} {
			simulate(t, func(w *world) {
				a := &asker{grant: UserGrant{OK: ok}, delay: 6 * time.Second}
				sun := w.askedServer(a, c.auth, c.extra)
				bob := w.gateway("bob", "192.0.2.11", groupClient("bob"))
				w.after(15 * time.Second)
				if want := []string{c.who + " bob bob's road 192.0.2.11"}; !slices.Equal(a.asked, want) {
					t.Errorf("%s: asked %q, expected %q", c.auth, a.asked, want)
				}
				if ok {
					sun.want(1, 2, c.auth)
					bob.want(1, 2, c.auth)
					return
				}
				sun.want(0, 0, c.auth+" refused")
				if !bob.logged("refused the user bob") || !sun.logged("is wrong") {
					t.Errorf("%s:\n%s%s", c.auth, sun.dump(), bob.dump())
				}
			})
		}
	}
}

// When nobody can tell, the user is refused, and the reason is not that it is wrong.
// A password stands in no log.
func TestUsersUnknown(t *testing.T) {
	for name, a := range map[string]*asker{
		"an error":       {err: errors.New("no RADIUS server answers")},
		"no answer":      {grant: UserGrant{OK: true}, delay: time.Hour},
		"nobody to ask":  nil,
		"a fault inside": {err: nil, delay: -1, grant: UserGrant{OK: true}},
	} {
		simulate(t, func(w *world) {
			var sun *gateway
			switch {
			case a == nil:
				sun = w.gateway("sun", sunAddr, strings.Replace(groupServer(radiusServers), "{auth: xauth}", "{auth: xauth-radius}", 1))
			case a.delay < 0:
				sun = w.askedServer(a, "xauth-radius", radiusServers)
				sun.e.config.Load().radius = nil // the asker panics
			default:
				sun = w.askedServer(a, "xauth-radius", radiusServers)
			}
			bob := w.gateway("bob", "192.0.2.11", groupClient("bob"))
			w.after(40 * time.Second)
			sun.want(0, 0, name)
			bob.want(0, 0, name)
			if name != "no answer" && !sun.logged("cannot be checked") || sun.logged("is wrong") {
				t.Errorf("%s:\n%s%s", name, sun.dump(), bob.dump())
			}
			if strings.Contains(sun.dump()+bob.dump(), "bob's") {
				t.Error("a password is in the log")
			}
			if n := sun.e.users.running.Load(); n != 0 {
				t.Errorf("%s: %d questions are still open", name, n)
			}
		})
	}
}

// Only so many questions are open at a time.
func TestMostUserChecks(t *testing.T) {
	simulate(t, func(w *world) {
		a := &asker{grant: UserGrant{OK: true}}
		sun := w.askedServer(a, "xauth-hook", aHook)
		sun.e.users.running.Store(maxUserChecks)
		w.gateway("bob", "192.0.2.11", groupClient("bob"))
		w.after(15 * time.Second)
		sun.want(0, 0, "with all slots taken")
		if len(a.asked) != 0 || sun.e.Drops()["user-checks"] == 0 || sun.e.users.running.Load() != maxUserChecks {
			t.Errorf("asked %v, drops %v, %d open", a.asked, sun.e.Drops(), sun.e.users.running.Load())
		}
	})
}

// A user has the address that who knows it says, in a pool or not; it is nobody
// else's meanwhile.
func TestAddressOfUser(t *testing.T) {
	for _, fixed := range []string{"10.9.0.7", "10.77.0.1"} {
		simulate(t, func(w *world) {
			a := &asker{grant: UserGrant{OK: true, Address: netip.MustParseAddr(fixed)}}
			sun := w.askedServer(a, "xauth-radius", radiusServers)
			bob := w.gateway("bob", "192.0.2.11", groupClient("bob"))
			w.after(15 * time.Second)
			bob.want(1, 2, fixed)
			if got := bob.back.Addresses(); len(got) != 1 || got[0].Addr().String() != fixed {
				t.Errorf("bob got %v, expected %s", got, fixed)
			}
			alice := w.gateway("alice", "192.0.2.12", groupClient("alice"))
			w.after(15 * time.Second)
			alice.want(0, 0, "with the address of another user")
			if !sun.logged("the address " + fixed + " of alice is in use by bob") {
				t.Error(sun.dump())
			}
			bob.want(1, 2, "after another user wanted its address")
			bob.stop()
			w.after(5 * time.Second)
			alice.stop()
			alice.start()
			w.after(15 * time.Second)
			alice.want(1, 2, "when the address is free")
		})
	}
}
