package ikev1

import (
	"encoding/binary"
	"testing"
	"time"

	"iked/ikev1/message"
	"iked/internal/keyex"
)

// dpdNumbers decrypts the DPD notifies of a packet of a's or b's.
func (p *pair) dpdOf(x *packet) (n *message.Notify) {
	h := headerOf(x)
	if message.Exchange(h.Exchange) != message.ExchangeInformational {
		return nil
	}
	k := p.saA.keys
	clear, _, err := k.open(k.firstIV(h.MessageID), x.data[28:])
	if err != nil {
		p.t.Fatal(err)
	}
	m, err := message.ParseDecrypted(h, clear)
	if err != nil {
		p.t.Fatal(err)
	}
	n, _ = one[*message.Notify](m, message.TypeNotify)
	if n != nil && n.Kind != message.RUThere && n.Kind != message.RUThereAck {
		return nil
	}
	return n
}

// RFC 3706, Sections 5.3 and 6.2: the number of R-U-THERE begins anywhere below 2^31
// and rises by one; the answer has it again, and another one is none; a number that
// went back is not answered, a repetition is. Both have the cookies as SPI.
func TestDPDNumbers(t *testing.T) {
	p := newPair(t)
	p.ca.DPDDelay = 30 * time.Second
	p.up()
	var asked, answered []uint32
	wrong, hostile := false, false
	p.filter = func(x *packet) []*packet {
		n := p.dpdOf(x)
		if n == nil {
			return []*packet{x}
		}
		if !hostile && len(n.Data) != 4 || !hostile && string(n.SPI) != string(p.saA.cookies()) || n.Protocol != message.ProtoISAKMP {
			t.Fatalf("%+v", n)
		}
		if n.Kind == message.RUThere {
			if !hostile {
				asked = append(asked, binary.BigEndian.Uint32(n.Data))
			}
			return []*packet{x}
		}
		answered = append(answered, binary.BigEndian.Uint32(n.Data))
		if wrong {
			return nil
		}
		return []*packet{x}
	}
	p.run(5 * time.Minute)
	if len(asked) < 3 || len(asked) != len(answered) {
		t.Fatalf("asked %v, answered %v", asked, answered)
	}
	for i := range asked {
		if asked[i] != answered[i] || asked[i] > 1<<31 || i > 0 && asked[i] != asked[i-1]+1 {
			t.Errorf("asked %v, answered %v", asked, answered)
		}
	}
	// A number that went back, and the last one again.
	last := asked[len(asked)-1]
	for _, c := range []struct {
		number uint32
		want   int
	}{{last - 1, 0}, {last, 1}, {last + 1, 1}, {last + 1, 1}, {last, 0}} {
		before := len(answered)
		p.informOf(&message.Notify{DOI: 1, Protocol: message.ProtoISAKMP, SPI: p.saA.cookies(), Kind: message.RUThere, Data: binary.BigEndian.AppendUint32(nil, c.number)})
		if got := len(answered) - before; got != c.want {
			t.Errorf("number %d after %d: %d answers, expected %d", c.number, last, got, c.want)
		}
	}
	for _, bad := range []*message.Notify{
		{DOI: 1, Protocol: message.ProtoISAKMP, SPI: p.saA.cookies(), Kind: message.RUThere, Data: []byte{1, 2, 3}},
		{DOI: 1, Protocol: message.ProtoISAKMP, SPI: make([]byte, 16), Kind: message.RUThere, Data: []byte{0xff, 2, 3, 4}},
	} {
		before := len(answered)
		hostile = true
		p.informOf(bad)
		hostile = false
		if len(answered) != before {
			t.Errorf("%+v is answered", bad)
		}
	}
	// Answers with another number keep nobody alive.
	wrong = true
	b := p.b.established()[0]
	for range 60 {
		p.run(5 * time.Second)
		if p.saA.closed {
			break
		}
		b.inform(p.now, &message.Notify{DOI: 1, Protocol: message.ProtoISAKMP, SPI: b.cookies(), Kind: message.RUThereAck, Data: []byte{0, 0, 0, 9}})
		p.b.drain(b)
	}
	if !p.saA.closed || p.a.closed[0].Reason != keyex.CloseTimeout {
		t.Errorf("an answer to another number counts: %s", why(p.a))
	}
}

// RFC 3706, Section 5.1: both sides send the vendor ID in phase 1; to a peer that did
// not, no R-U-THERE goes.
func TestDPDNeedsVendorID(t *testing.T) {
	for _, known := range []bool{true, false} {
		p := newPair(t)
		p.ca.DPDDelay, p.cb.DPDDelay = 10*time.Second, 10*time.Second
		dpd := 0
		p.filter = func(x *packet) []*packet {
			m, err := message.Parse(x.data)
			if err != nil {
				if p.saA != nil && p.saA.keys != nil && p.dpdOf(x) != nil {
					dpd++
				}
				return []*packet{x}
			}
			var list []message.Payload
			ids := 0
			for _, y := range m.Payloads {
				if o, ok := y.(*message.Opaque); ok && o.Kind == message.TypeVendorID && message.IsVendor(o.Data, message.VendorDPD) {
					if ids++; !known {
						continue
					}
				}
				list = append(list, y)
			}
			if saOf(m) != nil && ids != 1 {
				t.Errorf("a message with SA has the vendor ID %d times", ids)
			}
			if x.data, err = message.Append(nil, m.Header, list); err != nil {
				t.Fatal(err)
			}
			return []*packet{x}
		}
		p.up().matched(1)
		p.run(2 * time.Minute)
		if (dpd > 0) != known {
			t.Errorf("known %t: %d messages of DPD", known, dpd)
		}
		p.matched(1)
	}
}
