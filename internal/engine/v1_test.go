package engine

import (
	"strings"
	"testing"
	"testing/synctest"

	ikev1msg "iked/ikev1/message"
	"iked/ikev2"
	"iked/internal/isakmp"
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
