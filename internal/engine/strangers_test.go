package engine

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iked/ikev2"
)

// inits records an IKE_SA_INIT request of a real peer to make strangers' of.
func captureInit(w *world) []byte {
	var first []byte
	w.tap = func(d ikev2.Datagram) bool {
		if first == nil && d.Data[18] == 34 && d.Data[19]&0x20 == 0 {
			first = append([]byte(nil), d.Data...)
		}
		return true
	}
	moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
	w.after(100 * time.Millisecond)
	moon.crash()
	w.mu.Lock()
	w.tap, w.sent = nil, nil
	w.mu.Unlock()
	return first
}

// stranger is a copy of a request with an SPI of its own.
func stranger(init []byte, n int) []byte {
	b := append([]byte(nil), init...)
	binary.BigEndian.PutUint64(b, 0xabcd000000000000+uint64(n))
	return b
}

func (g *gateway) from(ip string, data []byte) {
	g.e.Receive(ikev2.Datagram{Local: netip.AddrPortFrom(g.addr, 500), Remote: netip.AddrPortFrom(addr(ip), 500), Data: data})
}

func limits(n, perSource, cookie int) string {
	return fmt.Sprintf("limits: {half_open: %d, half_open_per_source: %d, cookie_threshold: %d, rate_per_source: 0}\n", n, perSource, cookie)
}

// A flood of IKE_SA_INIT requests from many addresses never makes more half-open
// SAs than the budget, costs the others nothing but a counter, and all are gone
// when their time is over (RFC 7296, Section 2.4).
func TestHalfOpenFlood(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, anyPeer+limits(50, 3, 0))
		for i := range 2000 {
			sun.from(fmt.Sprintf("198.51.%d.%d", i/200, i%200+1), stranger(init, i))
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		st := sun.e.Stats()
		if st.HalfOpen != 50 || st.IKESAs != 50 {
			t.Errorf("%d half-open of %d IKE SAs, expected exactly the budget of 50", st.HalfOpen, st.IKESAs)
		}
		if n := sun.e.Drops()["half-open-limit"]; n != 1950 {
			t.Errorf("%d requests counted as over the limit, expected 1950: %v", n, sun.e.Drops())
		}
		w.after(2 * time.Minute)
		if st := sun.e.Stats(); st.HalfOpen != 0 || st.IKESAs != 0 {
			t.Errorf("%d half-open SAs of %d are left after their time", st.HalfOpen, st.IKESAs)
		}
		if r := sun.back.Reserved(); r != 0 {
			t.Errorf("%d SPIs are reserved for peers that never came", r)
		}
	})
}

// One source gets only its share, an IPv6 /64 counts as one source, and another
// source still gets in.
func TestHalfOpenPerSource(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, anyPeer+limits(50, 3, 0))
		for i := range 20 {
			sun.from("198.51.100.1", stranger(init, i))
		}
		synctest.Wait()
		if n := sun.e.Stats().HalfOpen; n != 3 {
			t.Errorf("one source has %d half-open SAs, expected its share of 3", n)
		}
		sun.from("198.51.100.2", stranger(init, 100))
		synctest.Wait()
		if n := sun.e.Stats().HalfOpen; n != 4 {
			t.Errorf("%d half-open SAs, expected 4: another source must still get in", n)
		}
		if a, b := source(addr("2001:db8::1")), source(addr("2001:db8::ffff:1")); a != b {
			t.Errorf("%v and %v are two sources, expected one /64", a, b)
		}
	})
}

// A request that is sent again finds its SA and makes no second one (RFC 7296,
// Section 2.1).
func TestRetransmittedInit(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, anyPeer+limits(50, 3, 0))
		for range 10 {
			sun.from("198.51.100.1", stranger(init, 7))
			synctest.Wait()
		}
		if n := sun.e.Stats().IKESAs; n != 1 {
			t.Errorf("%d IKE SAs of one request, expected 1", n)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.sent); n != 10 {
			t.Errorf("%d answers to 10 copies of a request, expected 10", n)
		}
	})
}

// Above the threshold a stranger gets a cookie and no state (RFC 7296, Section
// 2.6); a peer that returns it gets its tunnel.
func TestCookie(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, anyPeer+limits(50, 3, 2))
		for i := range 30 {
			sun.from(fmt.Sprintf("198.51.100.%d", i+1), stranger(init, i))
			synctest.Wait()
		}
		if n := sun.e.Stats().HalfOpen; n != 2 {
			t.Errorf("%d half-open SAs with a threshold of 2", n)
		}
		if n := sun.e.Drops()["cookie-demanded"]; n != 28 {
			t.Errorf("%d cookies demanded, expected 28", n)
		}
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		moon.want(1, 1, "through a gateway that demands cookies")
		if n := sun.e.Drops()["cookie-demanded"]; n != 29 {
			t.Errorf("the real peer was not asked for a cookie: %d", n)
		}
	})
}

// What is no IKE message, or for no IKE SA, changes nothing, is counted with its
// reason, and is answered at a bounded rate only.
func TestGarbage(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, anyPeer)
		change := func(f func(b []byte) []byte) []byte { return f(stranger(init, 1)) }
		cases := map[string][]byte{
			"truncated-header": init[:27],
			"length-mismatch":  init[:len(init)-1],
			"version-1":        change(func(b []byte) []byte { b[17] = 0x10; return b }),
			"major-version":    change(func(b []byte) []byte { b[17] = 0x30; return b }),
			"zero-spi":         change(func(b []byte) []byte { clear(b[:8]); return b }),
			"bad-ike-sa-init":  change(func(b []byte) []byte { b[23] = 1; return b }),
			"unknown-ike-spi":  change(func(b []byte) []byte { b[15] = 1; b[18] = 37; return b }),
		}
		for reason, b := range cases {
			before := sun.e.Drops()[reason]
			sun.from("198.51.100.1", b)
			synctest.Wait()
			if n := sun.e.Drops()[reason]; n != before+1 {
				t.Errorf("%s was counted %d times, expected %d", reason, n, before+1)
			}
		}
		if n := sun.e.Stats().IKESAs; n != 0 {
			t.Errorf("garbage made %d IKE SAs", n)
		}
		w.mu.Lock()
		w.sent = nil
		w.mu.Unlock()
		for i := range 1000 {
			b := stranger(init, i)
			b[15], b[18] = 1, 37
			sun.from("198.51.100.1", b)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.sent); n > 40 {
			t.Errorf("%d answers to 1000 requests for unknown IKE SAs within no time, expected at most 40", n)
		}
	})
}

// A peer for which no connection is configured gets no state; explain tells what
// to add.
func TestUnknownPeer(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		for i := range 200 {
			sun.from("203.0.113.9", stranger(init, i))
		}
		synctest.Wait()
		if n := sun.e.Stats().IKESAs; n != 0 {
			t.Errorf("%d IKE SAs for a peer without a connection", n)
		}
		f := sun.e.Explain("203.0.113.9")
		if len(f) == 0 || len(f) > failuresUnknown || !strings.Contains(f[0].Advice, "remote_addrs") {
			t.Errorf("explain has %d failures: %+v", len(f), f)
		}
	})
}

// anyPeer answers everybody.
const anyPeer = `
connections:
  - name: any
    local: {id: sun, auth: psk}
    remote: {id: moon, auth: psk}
    proposals: [aes128gcm16-prfsha256-x25519]
    children: [{name: net, local_ts: [10.2.0.0/16], remote_ts: [10.1.0.0/16], esp_proposals: [aes128gcm16-x25519]}]
secrets: [{psk: "correct horse battery staple"}]
`
