package ikev2_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

// established is a pair at rest.
func established(t testing.TB) (p *pair, a, b *ikev2.SA) {
	p = newPair(t, 1)
	a = p.up(t)
	return p, a, p.b.SA()
}

// Octets of a stranger, whatever they are, have no effect on an SA that is
// established, or on one that begins: nothing is sent and no state changes.
func FuzzReceive(f *testing.F) {
	_, a, _ := established(f)
	genuine := ikev2.SealForTest(a, message.ExchangeInformational, 2, false, &message.Delete{Protocol: suite.ProtoIKE}).Data
	f.Add(genuine[:len(genuine)-1])
	f.Add(genuine[:28])
	first := newPair(f, 1)
	first.a.Initiate(first.ca, first.b.Addr, first.cha)
	f.Add(first.net.Flying[0].Data)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, b := established(t)
		before := b.Status()
		// The fuzzer may know the SPIs, yet no key.
		for range 2 {
			b.Receive(time.Unix(0, 0), ikev2.Datagram{Local: b.Local(), Remote: b.Remote(), Data: bytes.Clone(data)})
			if n := outputs(b); n != 0 {
				t.Fatalf("%d outputs for a stranger", n)
			}
			if len(data) >= 16 {
				i, r := spiOf(b.SPIi()), spiOf(b.SPIr())
				copy(data, i[:])
				copy(data[8:], r[:])
			}
		}
		if after := b.Status(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Fatalf("the SA changed from %+v to %+v", before, after)
		}
		// As a first message it makes a responder at most answer.
		p := newPair(t, 1)
		r := ikev2.NewResponder(p.b, b.Local(), b.Remote(), false)
		r.Receive(p.net.Now, ikev2.Datagram{Local: b.Local(), Remote: b.Remote(), Data: data})
		if n := outputs(r); n > 2 {
			t.Fatalf("%d outputs for a first message", n)
		}
		if s := r.State(); s == ikev2.Established {
			t.Fatal("established without IKE_AUTH")
		}
	})
}

// A peer that has the keys and says anything never makes the SA panic, leak or
// contradict itself: when it is over it is wholly over, else it goes on.
//
// kind: exchange type offset (bits 0-1), response (bit 2), begun by us: nothing,
// child rekeying, IKE rekeying, delete (bits 3-4), half-way (bit 5), MOBIKE agreed (bit
// 6), from another address (bit 7).
func FuzzAuthenticated(f *testing.F) {
	chain := func(ps ...message.Payload) []byte {
		b, err := message.AppendPayloads(nil, ps)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	del := &message.Delete{Protocol: suite.ProtoESP, SPIs: []uint32{0x1001}}
	f.Add(byte(2), byte(message.TypeDelete), chain(del, &message.Delete{Protocol: suite.ProtoIKE}))
	f.Add(byte(2), byte(message.TypeNotify), chain(message.NewNotify(message.AuthenticationFailed, nil)))
	ts := &message.TrafficSelectors{TS: []message.TS{{Type: message.TSIPv4, EndPort: 65535, Start: addrA, End: addrB}}}
	tsr := &message.TrafficSelectors{Responder: true, TS: ts.TS}
	esp := &message.SA{Proposals: []message.Proposal{{Number: 1, SPI: []byte{0, 0, 9, 9}, Proposal: proposals(f, suite.ProtoESP, "aes128gcm16")[0]}}}
	ike := &message.SA{Proposals: []message.Proposal{{Number: 1, SPI: []byte{1, 2, 3, 4, 5, 6, 7, 8}, Proposal: proposals(f, suite.ProtoIKE, "aes128gcm16-prfsha256-x25519")[0]}}}
	nonce, ke := &message.Nonce{Data: make([]byte, 32)}, &message.KE{Group: suite.KEX25519, Data: bytes.Repeat([]byte{9}, 32)}
	for kind := byte(1); kind < 32; kind += 4 {
		f.Add(kind, byte(message.TypeSA), chain(esp, nonce, ts, tsr))
		f.Add(kind, byte(message.TypeSA), chain(ike, nonce, ke))
		f.Add(kind, byte(message.TypeNotify), chain(message.NewChildNotify(message.RekeySA, suite.ProtoESP, 0x1001), esp, nonce, ts, tsr))
		f.Add(kind, byte(message.TypeNotify), chain(message.NewNotify(message.TemporaryFailure, nil)))
	}
	f.Add(byte(0x20), byte(message.TypeIDi), chain(&message.ID{Value: fqdn("a.example")}, &message.Auth{Method: 2, Data: make([]byte, 32)}, esp, ts, tsr))
	hash := make([]byte, 20)
	moves := []message.Payload{message.NewNotify(message.UpdateSAAddresses, nil), message.NewNotify(message.NATDetectionSourceIP, hash), message.NewNotify(message.NATDetectionDestinationIP, hash),
		message.NewNotify(message.Cookie2, hash), message.NewNotify(message.NoNATsAllowed, hash[:12]), message.NewNotify(message.AdditionalIP4Address, []byte{203, 0, 113, 5}),
		message.NewNotify(message.AdditionalIP6Address, hash[:16]), message.NewNotify(message.NoAdditionalAddresses, nil), message.NewNotify(message.UnacceptableAddresses, nil)}
	for i := range moves {
		for kind := byte(0xc2); kind >= 0xc2; kind += 8 {
			f.Add(kind, byte(message.TypeNotify), chain(moves[i:]...))
		}
	}
	f.Fuzz(func(t *testing.T, kind, first byte, plain []byte) {
		if len(plain) > 60000 {
			return
		}
		var p *pair
		var a, b *ikev2.SA
		id := uint32(2)
		exchange := message.ExchangeIKEAuth + kind&3
		if kind&0x20 != 0 {
			p, b = halfway(t)
			a, id = p.a.SAs[0], 1
		} else {
			p, a, b = established(t)
			if kind&0x40 != 0 {
				p = newMobile(t, 1)
				a = p.up(t)
				b = p.b.SA()
			}
			p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict { return ikev2test.Lose }
			switch kind >> 3 & 3 {
			case 1:
				rekeyChild(p.b)
			case 2:
				rekeyIKE(p.b)
			case 3:
				deleteChild(p.b)
			}
			if kind&4 != 0 {
				id = 0
			}
		}
		d := ikev2.SealChainForTest(a, exchange, id, kind&4 != 0, message.PayloadType(first), plain)
		if kind&0x80 != 0 {
			d.Remote = netip.MustParseAddrPort("203.0.113.9:4500")
		}
		p.b.Feed(b, d)
		p.net.Run(10 * time.Minute)
		alive := 0
		for _, sa := range p.b.SAs {
			alive += len(sa.Children())
			if s := sa.State(); s == ikev2.Destroying {
				t.Fatal("an SA that is over is still in the table")
			}
		}
		if len(p.b.SAs) == 0 && len(p.b.In)+len(p.b.Out)+len(p.b.Reserved) != 0 {
			t.Fatalf("%d inbound, %d outbound SAs and %d SPIs outlive the IKE SA", len(p.b.In), len(p.b.Out), len(p.b.Reserved))
		}
		if len(p.b.In) > alive {
			t.Fatalf("%d inbound SAs for %d children", len(p.b.In), alive)
		}
		if err := told(p.b); err != nil {
			t.Fatal(err)
		}
	})
}
