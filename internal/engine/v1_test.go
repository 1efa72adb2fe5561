package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iked/crypto/suite"
	ikev1msg "iked/ikev1/message"
	"iked/ikev2"
	"iked/internal/isakmp"
	"iked/sad"
	"iked/spd"
)

const anyPeerV1 = `
connections:
  - name: old
    version: 1
    proposals: [aes128-sha256-modp2048]
    local: {auth: psk}
    remote: {auth: psk}
    children: [{name: net, local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16]}]
secrets:
  - {psk: secret}
`

// RFC 2408, Section 5.2: Base Mode and Authentication Only are refused with a
// notify, which is never longer than the request, at a bounded rate, and makes no
// state; a host that speaks no IKEv1 answers nothing.
func TestUnsupportedExchanges(t *testing.T) {
	first := func(x ikev1msg.Exchange, n int) []byte {
		b, err := ikev1msg.Append(nil, isakmp.Header{SPIi: isakmp.SPI{1}, Exchange: uint8(x)},
			[]ikev1msg.Payload{&ikev1msg.Opaque{Kind: ikev1msg.TypeVendorID, Data: make([]byte, n)}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, speaks := range []bool{true, false} {
		simulate(t, func(w *world) {
			conf := anyPeerV1
			if !speaks {
				conf = strings.Replace(conf, "version: 1", "version: 2", 1)
			}
			sun := w.gateway("sun", sunAddr, conf)
			var answers [][]byte
			w.tap = func(d ikev2.Datagram) bool { answers = append(answers, d.Data); return false }
			for _, x := range []ikev1msg.Exchange{ikev1msg.ExchangeBase, ikev1msg.ExchangeAuthOnly} {
				answers = nil
				b := first(x, 100)
				sun.from("198.51.100.1", b)
				sun.from("198.51.100.1", first(x, 2)) // a longer answer than the request is none
				synctest.Wait()
				if !speaks {
					if len(answers) != 0 {
						t.Errorf("%v: %d answers of a host that speaks no IKEv1", x, len(answers))
					}
					continue
				}
				if len(answers) != 1 {
					t.Fatalf("%v: %d answers, expected one; %v", x, len(answers), sun.e.Drops())
				}
				m, err := ikev1msg.Parse(answers[0])
				if err != nil || len(answers[0]) > len(b) {
					t.Fatalf("%v: %x: %v", x, answers[0], err)
				}
				n, ok := m.Payloads[0].(*ikev1msg.Notify)
				if !ok || n.Kind != ikev1msg.UnsupportedExchangeType || m.Header.SPIi != (isakmp.SPI{1}) || ikev1msg.Exchange(m.Header.Exchange) != ikev1msg.ExchangeInformational {
					t.Errorf("%v: answered %+v", x, m)
				}
			}
			if !speaks {
				return
			}
			if st := sun.e.Stats(); st.IKESAs != 0 || sun.e.Drops()["unsupported-exchange"] != 4 {
				t.Errorf("%d IKE SAs, drops %v", st.IKESAs, sun.e.Drops())
			}
			answers = nil
			for range 500 {
				sun.from("198.51.100.1", first(ikev1msg.ExchangeBase, 100))
			}
			synctest.Wait()
			if len(answers) == 0 || len(answers) > 100 {
				t.Errorf("%d answers to 500 requests at once", len(answers))
			}
		})
	}
}

// suiteConf is a site with AH around ESP.
func suiteConf(self, peer, peerAddr, localTS, remoteTS, child string) string {
	s := site(self, peer, peerAddr, localTS, remoteTS, "", child+", ah_proposals: [sha256]")
	s = strings.Replace(s, "aes128gcm16-x25519", "aes128gcm16", 1)
	s = strings.Replace(s, "proposals: [aes128gcm16-prfsha256-x25519]", "version: 1\n    proposals: [aes128-sha256-modp2048]", 1)
	// Main Mode finds the secret by address.
	return strings.NewReplacer("{id: "+self, "{id: "+map[string]string{"sun": sunAddr, "moon": moonAddr}[self], "{id: "+peer, "{id: "+peerAddr).Replace(s)
}

// RFC 4301, Appendix E: AH and ESP of a suite are one bundle in the backend. Its
// four SAs come together, are replaced together and go together, and the policy
// demands both.
func TestSuiteReachesTheBackend(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, suiteConf("sun", "moon", moonAddr, "10.2.0.0/16", "10.1.0.0/16", ", start: passive"))
		moon := w.gateway("moon", moonAddr, suiteConf("moon", "sun", sunAddr, "10.1.0.0/16", "10.2.0.0/16", ", start: always"))
		w.after(2 * time.Second)
		whole := func(g *gateway, pairs int) {
			t.Helper()
			p := g.back.Policies()
			if len(p) != 1 || p[0].Proto != 0 || p[0].Mode != spd.Tunnel || len(p[0].Bundle) != 1 || p[0].Bundle[0] != (spd.Template{Proto: 51, Mode: spd.Transport, ReqID: p[0].Bundle[0].ReqID}) {
				t.Fatalf("%s: the policies are %+v", g.name, p)
			}
			n := map[suite.Protocol]int{}
			for _, s := range g.back.SAs() {
				n[s.Proto]++
				mode, reqid := spd.Tunnel, p[0].ReqID
				if s.Proto == suite.ProtoAH {
					mode, reqid = spd.Transport, p[0].Bundle[0].ReqID
				}
				if s.Mode != mode || s.ReqID != reqid || s.IntegKey.Len() == 0 && s.Proto == suite.ProtoAH || s.EncrKey.Len() != 0 && s.Proto == suite.ProtoAH {
					t.Errorf("%s: %v has mode %v, reqid %d", g.name, s.ID, s.Mode, s.ReqID)
				}
			}
			if n[suite.ProtoESP] != 2*pairs || n[suite.ProtoAH] != 2*pairs {
				t.Errorf("%s: %v SAs, expected %d of each protocol", g.name, n, 2*pairs)
			}
		}
		whole(moon, 1)
		whole(sun, 1)
		// Both ends have the SAs of the other.
		for _, a := range moon.back.SAs() {
			if !slices.ContainsFunc(sun.back.SAs(), func(b sad.SA) bool {
				return a.SPI == b.SPI && a.Proto == b.Proto && a.Dir != b.Dir && a.IntegKey.Equal(b.IntegKey) && a.EncrKey.Equal(b.EncrKey)
			}) {
				t.Errorf("%v is not at the other end", a.ID)
			}
		}
		info := moon.sas()[0].Children[0]
		if info.AH == nil || info.AH.SPIIn == 0 || info.AH.Integ.ID != suite.IntegHMACSHA256 || info.Proto != suite.ProtoESP {
			t.Errorf("the CHILD_SA is shown as %+v", info)
		}
		w.after(70 * time.Minute)
		whole(moon, 1)
		whole(sun, 1)
		if now := moon.sas()[0].Children[0]; now.AH.SPIIn == info.AH.SPIIn {
			t.Error("the suite was not rekeyed")
		}
		// The hard end of one SA ends all.
		for _, s := range sun.back.SAs() {
			if s.Proto == suite.ProtoAH && s.Dir == sad.In {
				sun.back.Expire(s.ID, true, "bytes")
				break
			}
		}
		w.after(100 * time.Millisecond)
		if n := len(sun.back.SAs()); n != 0 {
			t.Errorf("%d SAs are left of a suite whose AH expired", n)
		}
		w.after(5 * time.Second)
		whole(moon, 1)
		whole(sun, 1)
	})
}

// Who terminates a child does not wait for the SAs that rekeying has replaced, whose
// end nobody is told of.
func TestTerminateAfterRekey(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, suiteConf("sun", "moon", moonAddr, "10.2.0.0/16", "10.1.0.0/16", ", start: passive"))
		moon := w.gateway("moon", moonAddr, suiteConf("moon", "sun", sunAddr, "10.1.0.0/16", "10.2.0.0/16", ", start: always"))
		w.after(2 * time.Second)
		if _, err := moon.e.Rekey(context.Background(), Selector{Child: "net"}, false); err != nil {
			t.Fatal(err)
		}
		w.after(time.Second)
		if n := len(moon.sas()[0].Children); n != 2 {
			t.Fatalf("%d CHILD_SAs, expected the new one and the one that it replaced", n)
		}
		at := time.Now()
		if res, err := moon.e.Terminate(context.Background(), TerminateRequest{Selector: Selector{Child: "net"}, Timeout: time.Minute}); err != nil || time.Since(at) > 5*time.Second {
			t.Errorf("%+v, %v after %v", res, err, time.Since(at))
		}
	})
}

// RFC 2407, Section 4.6.3.3: a peer that was started anew says that it has no other
// SA. In either mode nothing of its former life is left.
func TestInitialContactV1(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		simulate(t, func(w *world) {
			text := func(s string) string {
				return strings.Replace(s, "version: 1", fmt.Sprintf("version: 1\n    aggressive: %t\n    aggressive_psk: %[1]t", aggressive), 1)
			}
			old := func(self, peer, addr, l, r, child string) string {
				s := site(self, peer, addr, l, r, "", child)
				s = strings.Replace(s, "aes128gcm16-x25519", "aes128gcm16", 1)
				s = strings.Replace(s, "proposals: [aes128gcm16-prfsha256-x25519]", "version: 1\n    proposals: [aes128-sha256-modp2048]", 1)
				return text(strings.NewReplacer("{id: "+self, "{id: "+map[string]string{"sun": sunAddr, "moon": moonAddr}[self], "{id: "+peer, "{id: "+addr).Replace(s))
			}
			sun := w.gateway("sun", sunAddr, old("sun", "moon", moonAddr, "10.2.0.0/16", "10.1.0.0/16", ", start: passive"))
			moon := w.gateway("moon", moonAddr, old("moon", "sun", sunAddr, "10.1.0.0/16", "10.2.0.0/16", ", start: always"))
			w.after(3 * time.Second)
			sun.want(1, 1, "at first")
			moon.crash()
			moon.start()
			w.after(5 * time.Second)
			moon.want(1, 1, fmt.Sprintf("started anew, aggressive %t", aggressive))
			sun.want(1, 1, fmt.Sprintf("after the peer was started anew, aggressive %t", aggressive))
		})
	}
}

// RFC 2408, Section 2.5.3: IKEv1 makes state before an address is proven, so that it
// gets half of the budget for that, in all and of one source, and the rest is left to
// who can prove its own. A first message that comes again is no other one; cookies
// of ours are random and never zero.
func TestHalfOpenV1(t *testing.T) {
	first := func(n int) []byte {
		p, err := suite.ParseProposals(suite.ProtoIKE, []string{"aes128-sha256-modp2048"})
		if err != nil || len(p) != 1 {
			t.Fatal(err)
		}
		b := ikev1msg.Basic
		b2, err := ikev1msg.Append(nil, isakmp.Header{SPIi: isakmp.SPIFromUint64(uint64(n) + 1), Exchange: uint8(ikev1msg.ExchangeMain)}, []ikev1msg.Payload{
			&ikev1msg.SA{Proposals: []ikev1msg.Proposal{{Number: 1, Protocol: ikev1msg.ProtoISAKMP, Transforms: []ikev1msg.Transform{{Number: 1, ID: ikev1msg.KeyIKE, Attributes: []ikev1msg.Attribute{
				b(ikev1msg.P1Encryption, 7), b(ikev1msg.P1KeyLength, 128), b(ikev1msg.P1Hash, 4), b(ikev1msg.P1Group, 14), b(ikev1msg.P1AuthMethod, 1)}}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		return b2
	}
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, anyPeerV1+limits(50, 6, 0))
		cookies := map[isakmp.SPI]bool{}
		w.tap = func(d ikev2.Datagram) bool {
			if h, err := isakmp.ParseHeader(d.Data); err == nil {
				if h.SPIr.IsZero() {
					t.Error("a cookie of zero")
				}
				cookies[h.SPIr] = true
			}
			return false
		}
		for i := range 10 {
			sun.from("198.51.100.1", first(i))
			sun.from("198.51.100.1", first(i))
		}
		synctest.Wait()
		if st := sun.e.Stats(); st.HalfOpen != 3 || sun.e.Drops()["half-open-per-source"] != 14 {
			t.Errorf("%d half-open SAs of one source, expected 3 of 6; %v", st.HalfOpen, sun.e.Drops())
		}
		for i := range 500 {
			sun.from(fmt.Sprintf("203.0.%d.%d", i/200, i%200+1), first(100+i))
			if i%50 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if st := sun.e.Stats(); st.HalfOpen != 25 || len(cookies) != 25 {
			t.Errorf("%d half-open SAs with %d cookies, expected 25 of 50", st.HalfOpen, len(cookies))
		}
		w.after(2 * time.Minute)
		if st := sun.e.Stats(); st.HalfOpen != 0 || st.IKESAs != 0 {
			t.Errorf("%d half-open SAs are left after their time", st.HalfOpen)
		}
	})
}
