package kink

import (
	"slices"
	"testing"

	"iked/crypto/suite"
	quick "iked/ikev1/message"
	"iked/internal/keyex"
	"iked/kink/message"
)

// racoon2's kinkd sends no identities and ignores those that come; ours take the
// configured policy then. One pair of SAs is for all selectors, and the keys come from
// its form of the pseudo-random function.
func TestRacoon2Peer(t *testing.T) {
	for _, both := range []bool{true, false} {
		p := newPair(t)
		p.cha.Remote = append(p.cha.Remote, net("10.3.0.0/16"))
		p.chb.Local = append(p.chb.Local, net("10.3.0.0/16"))
		p.ca.KINK.Racoon2, p.cb.KINK.Racoon2 = true, both
		var inner message.Body
		p.filter = func(q *packet) []*packet {
			if q.kind() == message.Create {
				m, err := message.Parse(q.data)
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range p.a.sas[0].exchanges {
					inner, err = open(x.ticket.Key(), m)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			return []*packet{q}
		}
		p.up()
		types := func() (out []quick.PayloadType) {
			for _, x := range inner.ISAKMP[0].Payloads {
				out = append(out, x.Type())
			}
			return out
		}()
		if !slices.Equal(types, []quick.PayloadType{quick.TypeSA, quick.TypeNonce}) {
			t.Errorf("the CREATE has %v, expected SA and NONCE alone", types)
		}
		if len(p.a.in) != 1 || len(p.b.in) != 1 {
			t.Fatalf("%d and %d SAs: %s %s", len(p.a.in), len(p.b.in), why(p.a), why(p.b))
		}
		a, b := p.saA.children[0], p.b.sas[0].children[0]
		if len(a.Remote) != 2 || !slices.Equal(a.Remote, b.Local) {
			t.Errorf("selectors %v and %v", a.Remote, b.Local)
		}
		if same := a.EncrIn.Equal(b.EncrOut); same != both {
			t.Errorf("both take racoon2's function: %v; the keys are the same: %v", both, same)
		}
	}
}

// The first transform that the peer offers is taken, where it is acceptable, whatever
// this side would like best: then no third message is needed, with which kinkd goes
// wrong.
func TestFirstTransformPreferred(t *testing.T) {
	p := newPair(t)
	p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256gcm16")
	p.chb.Proposals = proposals(t, suite.ProtoESP, "aes256gcm16", "aes128-sha1")
	p.up().matched(1)
	if len(p.sent) != 2 || p.saA.children[0].Encr.KeyBits != 128 {
		t.Errorf("%d messages, %v", len(p.sent), p.saA.children[0].Encr)
	}
}

// A CREATE without identities means the first child that the offer fits, and none that
// is for packets.
func TestNoIdentities(t *testing.T) {
	p := newPair(t)
	p.ca.KINK.Racoon2 = true
	other, perPacket := *p.chb, *p.chb
	other.Name, other.Proposals = "other", proposals(t, suite.ProtoESP, "aes128gcm16")
	perPacket.Name, perPacket.PFP = "pfp", 1
	p.cb.Children = []*keyex.ChildConfig{&perPacket, &other, p.chb}
	p.up()
	if len(p.b.sas) != 1 || len(p.b.sas[0].children) != 1 || p.b.sas[0].children[0].Config.Name != "net" {
		t.Errorf("%s %s", why(p.a), why(p.b))
	}
}
