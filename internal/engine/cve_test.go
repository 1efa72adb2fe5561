package engine

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"iked/ikev2"
	"iked/internal/backend/fake"
	"iked/internal/trace"
	"iked/spd"
)

// Somebody who sends requests with a peer's address does not shut that peer out:
// half of a source's share is for who returns a cookie.
func TestSpoofedSourceDoesNotLockOut(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, anyPeer+limits(50, 4, 30))
		for i := range 40 {
			sun.from(moonAddr, stranger(init, i))
			synctest.Wait()
		}
		if n := sun.e.Stats().HalfOpen; n != 2 {
			t.Errorf("%d half-open SAs of one address without a cookie, expected half of its share of 4", n)
		}
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(3 * time.Second)
		moon.want(1, 1, "although its address was used by another")
	})
}

// A flood from more sources than can be counted in a second is met with cookies,
// and a peer that returns its cookie gets in during the flood.
func TestCrowdOfSources(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, anyPeer+"limits: {half_open: 1000, cookie_threshold: 500, rate_per_source: 50}\n")
		var table rateTable
		now := time.Now()
		for i := range rateSources {
			a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			if v := table.allow(a, 50, now); v != rateOK {
				t.Fatalf("source %d: %v", i, v)
			}
			sun.e.gate.rate.allow(a, 50, now)
		}
		if v := table.allow(addr("192.0.2.99"), 50, now); v != rateCrowd || len(table.count) != rateSources {
			t.Errorf("verdict %v with %d sources", v, len(table.count))
		}
		sun.from("198.51.100.7", stranger(init, 1))
		synctest.Wait()
		if n := sun.e.Drops()["cookie-demanded"]; n != 1 {
			t.Errorf("a source in the crowd: %v", sun.e.Drops())
		}
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(100 * time.Millisecond)
		moon.want(1, 1, "in the crowd")
	})
}

// Requests that come to nothing make no half-open SA that lasts, and yet cost
// work and log: many of them make the gate demand cookies, and the log is told of
// a bounded number.
func TestFloodOfRefusedRequests(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, strings.Replace(anyPeer, "aes128gcm16-prfsha256-x25519", "aes256-sha256-modp2048", 1)+"limits: {rate_per_source: 0}\n")
		for i := range 3000 {
			sun.from(fmt.Sprintf("198.51.%d.%d", i/200, i%200+1), stranger(init, i))
			if i%50 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		d := sun.e.Drops()
		if d["cookie-demanded"] < 2500 {
			t.Errorf("%d cookies demanded of 3000 requests that came to nothing: %v", d["cookie-demanded"], d)
		}
		sun.mu.Lock()
		n := 0
		for _, r := range sun.logs {
			if r.Warn || r.Level <= trace.Control {
				n++
			}
		}
		sun.mu.Unlock()
		if n > 250 {
			t.Errorf("%d records of 3000 strangers", n)
		}
		// It is over when the flood is.
		w.after(waryTime + time.Minute)
		sun.from("198.51.100.1", stranger(init, 9999))
		synctest.Wait()
		if sun.e.Drops()["cookie-demanded"] != d["cookie-demanded"] {
			t.Error("cookies are still demanded")
		}
	})
}

// CVE-2016-5361 class: nothing that is sent to an address that is not proven is
// longer than what came from there, IKE_SA_INIT answers apart, which are counted
// (see the test of the state machine).
func TestCVE_2016_5361_StatelessAnswers(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, anyPeer+limits(50, 3, 1))
		// The first takes the place; then cookies are demanded.
		sun.from("198.51.100.1", stranger(init, 1))
		synctest.Wait()
		w.mu.Lock()
		w.sent = nil
		w.mu.Unlock()
		nonce := append([]byte{0, 0, 0, 20}, make([]byte, 16)...)
		for n := range 8 {
			// HDR, Nonce and n octets of a vendor ID: up to a real request.
			b := stranger(init, 10+n)[:28]
			b[16] = 40
			chain := append([]byte(nil), nonce...)
			if n > 0 {
				chain[0] = 43
				chain = append(chain, append([]byte{0, 0, 0, byte(4 + n)}, make([]byte, n)...)...)
			}
			b = append(b, chain...)
			b[27] = byte(len(b))
			b[26], b[25], b[24] = 0, 0, 0
			sun.from(fmt.Sprintf("198.51.100.%d", 20+n), b)
			synctest.Wait()
			w.mu.Lock()
			for _, d := range w.sent {
				if len(d.Data) > len(b) {
					t.Errorf("%d octets in answer to %d", len(d.Data), len(b))
				}
			}
			w.sent = nil
			w.mu.Unlock()
		}
		sun.from("198.51.100.99", stranger(init, 99))
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.sent) != 1 || len(w.sent[0].Data) > len(init) {
			t.Errorf("a real request: %d answers", len(w.sent))
		}
	})
}

// CVE-2026-33824 class: the answers of closed SAs are read by many at once.
func TestCVE_2026_33824_GravesAtOnce(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ""))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(time.Second)
		moon.want(1, 1, "at first")
		var last ikev2.Datagram
		w.mu.Lock()
		w.tap = func(d ikev2.Datagram) bool {
			if d.Local.Addr() == sun.addr {
				last = d
			}
			return true
		}
		w.mu.Unlock()
		moon.stop()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					d := last
					d.Data = append([]byte(nil), last.Data...)
					sun.e.Receive(d)
				}
			})
		}
		wg.Wait()
		if n := sun.e.Drops()["panic"]; n != 0 {
			t.Errorf("%d panics", n)
		}
	})
}

// CVE-2023-30570 and CVE-2009-0790 class: the SPIs of an IKE SA that was refused
// or has expired lead nowhere; what comes for them is answered INVALID_IKE_SPI at
// most, at a bounded rate, and makes no state.
func TestCVE_2023_30570_DeadSPIs(t *testing.T) {
	simulate(t, func(w *world) {
		init := captureInit(w)
		sun := w.gateway("sun", sunAddr, anyPeer+limits(50, 3, 0))
		sun.from("198.51.100.1", stranger(init, 1))
		synctest.Wait()
		w.mu.Lock()
		answer := w.sent[len(w.sent)-1].Data
		w.mu.Unlock()
		w.after(2 * time.Minute)
		for x := range 256 {
			b := append([]byte(nil), answer[:28]...)
			b[16], b[18], b[19], b[23], b[27], b[26] = 0, byte(x), 0x08, 1, 28, 0
			sun.from("198.51.100.1", b)
			synctest.Wait()
		}
		st := sun.e.Stats()
		if st.IKESAs != 0 || st.HalfOpen != 0 {
			t.Errorf("%d IKE SAs, %d half-open", st.IKESAs, st.HalfOpen)
		}
		if n := sun.e.Drops()["panic"]; n != 0 {
			t.Errorf("%d panics", n)
		}
	})
}

// What is kept of a failure is bounded, whatever a stranger sent.
func TestFailuresAreBounded(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, anyPeer)
		huge := strings.Repeat("A", 1<<20)
		lines := make([]string, 5000)
		for i := range lines {
			lines[i] = huge
		}
		for i := range 200 {
			sun.e.told(trace.Failure{At: time.Now().Add(time.Duration(i)), Conn: "any", Stage: trace.StageAuth, Sentence: huge, RemoteID: huge, Evidence: lines}, 1)
			sun.e.log(trace.Record{Msg: huge})
		}
		size := 0
		for _, f := range sun.e.Explain("") {
			size += len(f.Sentence) + len(f.RemoteID)
			for _, l := range f.Evidence {
				size += len(l)
			}
		}
		if size == 0 || size > 2<<20 {
			t.Errorf("%d octets are kept", size)
		}
		sun.mu.Lock()
		defer sun.mu.Unlock()
		for _, r := range sun.logs {
			if len(r.Msg) > maxRecord+8 {
				t.Errorf("a record of %d octets", len(r.Msg))
			}
		}
	})
}

// A peer chooses its selectors: many widths on both sides must not make tens of
// thousands of policies.
func TestEntriesOfOneChildAreBounded(t *testing.T) {
	p := newPolicies(fake.New())
	widths := func(n int) (list []spd.TS) {
		for i := range n {
			ts := spd.FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 32-i%16).Masked())
			ts.Proto, ts.PortTo = 17, uint16(1)<<(i%16)-1+uint16(i/16)
			list = append(list, ts)
		}
		return list
	}
	w := policyWant{child: childKey{"a", "b"}, local: widths(200), remote: widths(200), action: spd.Protect}
	if _, _, err := p.hold(w); err == nil || len(p.byPol) != 0 || len(p.inUse) != 0 {
		t.Errorf("error %v, %d entries", err, len(p.byPol))
	}
	w.local, w.remote = widths(20), widths(20)
	if _, _, err := p.hold(w); err != nil {
		t.Error(err)
	}
}

// One identity that is authenticated makes IKE SAs up to a bound; then its oldest
// goes.
func TestSAsOfOneIdentityAreBounded(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, anyPeer+limits(1000, 1000, 0))
		for i := range maxPerPeer + 20 {
			// A peer that forgets, as one that starts again and again, without
			// INITIAL_CONTACT.
			moon := w.gateway("moon", fmt.Sprintf("198.51.%d.%d", i/200, i%200+1), moonConf("    unique: never", ", start: always"))
			w.after(50 * time.Millisecond)
			w.cut(moon, true)
			moon.crash()
		}
		w.after(100 * time.Millisecond)
		n := 0
		for _, s := range sun.sas() {
			if s.State == ikev2.Established {
				n++
			}
		}
		if n > maxPerPeer {
			t.Errorf("one identity has %d IKE SAs, at most %d are let", n, maxPerPeer)
		}
		if n < maxPerPeer-1 {
			t.Errorf("%d IKE SAs are left", n)
		}
	})
}
