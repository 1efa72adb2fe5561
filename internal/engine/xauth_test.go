package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
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
		for _, c := range sa.Children {
			if len(c.Remote) != 1 || c.Remote[0].From != want[0].Addr() && c.Remote[0].From != want[1].Addr() {
				t.Errorf("a CHILD_SA to %v", c.Remote)
			}
		}
	})
}
