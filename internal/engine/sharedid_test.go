package engine

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
)

// Two peers that share an identity, as `unique: never` allows, and an address, behind
// one NAT: the newer one is no new phase 1 of the older one and takes nothing of it.
func TestSharedIdentityBehindNAT(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, `
connections:
  - name: road
    version: 1
    proposals: [aes128-sha256-modp2048]
    unique: never
    local: {auth: psk, id: gw.example}
    remote: {auth: psk, id: road}
    children: [{name: net, esp_proposals: [aes128gcm16], local_ts: [10.2.0.0/16], remote_ts: [10.11.0.0/16, 10.12.0.0/16]}]
secrets:
  - {psk: group}
`)
		outside := netip.MustParseAddr("203.0.113.1")
		port := func(inside netip.AddrPort) uint16 {
			return uint16(inside.Addr().As4()[3])*1000 + inside.Port()%1000 + 10000
		}
		inside := map[uint16]netip.AddrPort{}
		w.tap = func(d ikev2.Datagram) bool {
			var to *gateway
			switch from := d.Remote; {
			case d.Local.Addr() == sun.addr:
				inside[port(from)] = from
				d.Remote = netip.AddrPortFrom(outside, port(from))
				to = sun
			case d.Local.Addr() == outside:
				d.Local = inside[d.Local.Port()]
				to = w.gates[d.Local.Addr()]
			}
			if to != nil && to.e != nil {
				e := to.e
				time.AfterFunc(delay, func() { e.Receive(d) })
			}
			return false
		}
		var moons []*gateway
		for i := range 2 {
			moons = append(moons, w.gateway(fmt.Sprintf("moon%d", i), fmt.Sprintf("192.0.2.1%d", i+1), fmt.Sprintf(`
connections:
  - name: gw
    version: 1
    proposals: [aes128-sha256-modp2048]
    remote_addrs: [%s]
    unique: never
    local: {auth: psk, id: road}
    remote: {auth: psk, id: gw.example}
    children: [{name: net, esp_proposals: [aes128gcm16], local_ts: [10.1%d.0.0/16], remote_ts: [10.2.0.0/16], start: always}]
secrets:
  - {psk: group}
`, sunAddr, i+1)))
			w.after(30 * time.Second)
			for _, m := range moons {
				m.want(1, 1, "behind one NAT")
			}
			sun.want(i+1, i+1, "with peers behind one NAT")
		}
	})
}

// A peer that speaks the other version than the connection for it is told of, when
// the connection names its address.
func TestOtherVersion(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		simulate(t, func(w *world) {
			conf := func(peer, v, start string) string {
				c := fmt.Sprintf(`
connections:
  - name: old
    version: %s
    remote_addrs: [%s]
    local: {auth: psk}
    remote: {auth: psk}
    children: [{name: net, local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16], start: %s}]
secrets:
  - {psk: secret}
`, v, peer, start)
				return c
			}
			other := map[string]string{"1": "2", "2": "1"}[version]
			sun := w.gateway("sun", sunAddr, conf(moonAddr, version, "passive"))
			w.gateway("moon", moonAddr, conf(sunAddr, other, "always"))
			w.after(10 * time.Second)
			if !sun.logged("the peer at " + moonAddr + " speaks IKEv" + other + ", and old is a connection of version " + version) {
				t.Error(sun.dump())
			}
			// At a bounded rate: anybody can use that address.
			if n := strings.Count(sun.dump(), "speaks IKEv"); n > 12 {
				t.Errorf("told %d times", n)
			}
		})
	}
}
