package ikev2_test

import (
	"slices"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

// RFC 7427, Section 4, and RFC 8420, Section 2: the hash algorithms are announced
// in IKE_SA_INIT, SHA-1 is not among them, Identity (for EdDSA) is; the responder
// announces them to an initiator that did.
func TestSignatureHashesAreAnnounced(t *testing.T) {
	want := []message.SignatureHash{message.HashSHA256, message.HashSHA384, message.HashSHA512, message.HashIdentity}
	p := newPair(t, 1)
	m, q := firstRequest(t, p)
	n := m.Notifies().Find(message.SignatureHashAlgorithms)
	if n == nil || !slices.Equal(n.SignatureHashes(), want) {
		t.Errorf("the initiator announces %+v", n)
	}
	r := initAnswer(t, p, q, encode(t, m))
	if n := r.Notifies().Find(message.SignatureHashAlgorithms); n == nil || !slices.Equal(n.SignatureHashes(), want) {
		t.Errorf("the responder announces %+v", n)
	}
	m.Payloads = slices.DeleteFunc(m.Payloads, func(pl message.Payload) bool {
		n, ok := pl.(*message.Notify)
		return ok && n.Kind == message.SignatureHashAlgorithms
	})
	r = initAnswer(t, p, q, encode(t, m))
	if r == nil || r.Notifies().Has(message.SignatureHashAlgorithms) {
		t.Error("the responder announces hash algorithms to an initiator that did not")
	}
}

// RFC 7427, Section 3: what signs knows which hash algorithms the peer announced,
// and that it announced none: then only the classic methods may be used.
func TestSignerKnowsThePeersHashes(t *testing.T) {
	for _, announce := range []bool{true, false} {
		p := newPair(t, 1)
		p.ca.Local.Class, p.cb.Remote.Class = ikev2.AuthPubkey, ikev2.AuthPubkey
		var sign *ikev2.Sign
		p.a.OnWork = func(w ikev2.Work) {
			if s, ok := w.(ikev2.Sign); ok {
				sign = &s
			}
		}
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			if q.Header().Exchange == message.ExchangeIKESAInit && isResponse(q) && !announce {
				m, err := message.Parse(q.Data)
				if err != nil {
					t.Fatal(err)
				}
				m.Payloads = slices.DeleteFunc(m.Payloads, func(pl message.Payload) bool {
					n, ok := pl.(*message.Notify)
					return ok && n.Kind == message.SignatureHashAlgorithms
				})
				q.Data = encode(t, m)
			}
			return ikev2test.Deliver
		}
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(time.Second)
		want := []uint16{2, 3, 4, 5}
		if !announce {
			want = nil
		}
		if sign == nil || !slices.Equal(sign.PeerHashes, want) || (sign.PeerHashes == nil) != !announce {
			t.Errorf("announced %t: %+v", announce, sign)
		}
	}
}
