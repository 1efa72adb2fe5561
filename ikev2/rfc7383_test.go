package ikev2_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

// long makes the IKE_AUTH messages of a pair longer than a fragment.
func (p *pair) long() {
	for i := range 30 {
		n := net4(fmt.Sprintf("10.1.%d.0/24", 2*i))
		p.cha.Local = append(p.cha.Local, n)
		p.chb.Remote = append(p.chb.Remote, n)
	}
	p.cha.Local, p.chb.Remote = p.cha.Local[1:], p.chb.Remote[1:]
}

func isFragment(q *ikev2test.Packet) bool {
	return !q.KeepAlive && message.PayloadType(q.Data[16]) == message.TypeSKF
}

// RFC 7383, Section 2.3: fragments are sent only when both sides announced that
// they take them; the responder announces it only to an initiator that did.
func TestFragmentationIsNegotiated(t *testing.T) {
	for _, c := range []struct {
		a, b                    ikev2.Fragmentation
		fragsA, fragsB, replies bool
	}{
		{ikev2.FragYes, ikev2.FragYes, true, true, true},
		{ikev2.FragNo, ikev2.FragYes, false, false, false},
		{ikev2.FragYes, ikev2.FragNo, false, false, false},
		{ikev2.FragYes, ikev2.FragAccept, true, false, true},
		{ikev2.FragAccept, ikev2.FragYes, false, true, true},
	} {
		p := newPair(t, 1)
		p.long()
		p.ca.Fragmentation, p.cb.Fragmentation = c.a, c.b
		var frags [2]bool
		announced := false
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			if q.Header().Exchange == message.ExchangeIKESAInit {
				if isFragment(q) {
					t.Error("IKE_SA_INIT in fragments")
				}
				if m, err := message.Parse(q.Data); err == nil && isResponse(q) {
					announced = m.Notifies().Has(message.FragmentationSupported)
				}
			}
			side := 0
			if q.From.Addr() == addrB {
				side = 1
			}
			frags[side] = frags[side] || isFragment(q)
			return ikev2test.Deliver
		}
		p.up(t)
		if frags != [2]bool{c.fragsA, c.fragsB} || announced != c.replies {
			t.Errorf("%v and %v: fragments %v, announced by the responder: %t", c.a, c.b, frags, announced)
		}
	}
}

// RFC 7383, Section 2.3: a fragment that comes although nothing was negotiated is
// ignored.
func TestFragmentWithoutNegotiation(t *testing.T) {
	p := newPair(t, 1)
	p.ca.Fragmentation = ikev2.FragNo
	a := p.up(t)
	for _, d := range ikev2.SealFragmentsForTest(a, message.ExchangeInformational, 2, 300, &message.VendorID{Data: make([]byte, 900)}) {
		if m := p.inject(t, a, d); m != nil {
			t.Errorf("answered with %v", types(m))
		}
	}
	if m := p.ask(t, a, message.ExchangeInformational, 2); m == nil {
		t.Error("the next whole message is not answered")
	}
}

// RFC 7383, Sections 2.6 and 2.6.1: all fragments of a request are sent again when
// the response does not come, and the whole response again for the first fragment
// of the request only.
//
//	a                                   b
//	SKF 1/n … SKF n/n   -->
//	                    x-- SKF 1/m … SKF m/m
//	SKF 1/n … SKF n/n   -->
//	                    <-- SKF 1/m … SKF m/m
func TestFragmentsAreRepeatedTogether(t *testing.T) {
	p := newPair(t, 1)
	p.long()
	var requests, responses [][]byte
	start := p.net.Now
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.Header().Exchange != message.ExchangeIKEAuth {
			return ikev2test.Deliver
		}
		if !isResponse(q) {
			requests = append(requests, bytes.Clone(q.Data))
			return ikev2test.Deliver
		}
		responses = append(responses, bytes.Clone(q.Data))
		if p.net.Now.Sub(start) < time.Second {
			return ikev2test.Lose
		}
		return ikev2test.Deliver
	}
	p.up(t)
	for what, all := range map[string][][]byte{"requests": requests, "responses": responses} {
		n := len(all) / 2
		if n < 2 || len(all) != 2*n {
			t.Fatalf("%d fragments of %s, expected two rounds", len(all), what)
		}
		for i := range n {
			if !bytes.Equal(all[i], all[n+i]) {
				t.Errorf("fragment %d of the %s is another one in the second round", i+1, what)
			}
		}
	}
}

// RFC 7383, Section 2.6: a fragment that is not authentic neither counts nor
// harms those that are there; duplicates and any order are fine.
func TestForgedFragmentHarmsNothing(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	ds := ikev2.SealFragmentsForTest(a, message.ExchangeInformational, 2, 300, &message.VendorID{Data: make([]byte, 900)})
	if len(ds) < 3 {
		t.Fatalf("%d fragments", len(ds))
	}
	for i := len(ds) - 1; i > 0; i-- {
		bad := ds[i]
		bad.Data = bytes.Clone(bad.Data)
		bad.Data[len(bad.Data)-1] ^= 1
		for _, d := range []ikev2.Datagram{bad, ds[i], clone(ds[i]), bad} {
			if m := p.inject(t, a, clone(d)); m != nil {
				t.Fatalf("answered before all fragments were there: %v", types(m))
			}
		}
	}
	if m := p.inject(t, a, clone(ds[0])); m == nil {
		t.Error("the complete message is not answered")
	}
	for i := range ds {
		if m := p.inject(t, a, clone(ds[i])); (m != nil) != (i == 0) {
			t.Errorf("fragment %d again: answered %t", i+1, m != nil)
		}
	}
}

func clone(d ikev2.Datagram) ikev2.Datagram {
	d.Data = bytes.Clone(d.Data)
	return d
}
