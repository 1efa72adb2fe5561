package ikev1

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/isakmp"
	"iked/internal/keyex"
)

// RFC 2408, Section 4.2, and RFC 2409, Section 5: an answer in phase 1 that adds,
// removes or changes an attribute is refused; another order and another form of the
// same are not (RFC 2409, Appendix A).
func TestChangedChoice(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *message.Transform)
		good   bool
	}{
		"as it was": {func(*message.Transform) {}, true},
		"another order": {func(t *message.Transform) {
			t.Attributes = append(slices.Clone(t.Attributes[1:4:4]), append([]message.Attribute{t.Attributes[0]}, t.Attributes[4:]...)...)
		}, true},
		"another form": {func(t *message.Transform) {
			t.Attributes[0] = message.Variable(t.Attributes[0].Type, append([]byte{0, 0}, t.Attributes[0].Value...))
		}, true},
		"another key length": {func(t *message.Transform) {
			for i := range t.Attributes {
				if t.Attributes[i].Type == message.P1KeyLength {
					t.Attributes[i] = message.Basic(message.P1KeyLength, 256)
				}
			}
		}, false},
		"another lifetime": {func(t *message.Transform) {
			t.Attributes[len(t.Attributes)-1] = message.Duration(message.P1LifeDuration, 1)
		}, false},
		"one attribute more":  {func(t *message.Transform) { t.Attributes = append(t.Attributes, message.Basic(message.P1GroupType, 1)) }, false},
		"one attribute less":  {func(t *message.Transform) { t.Attributes = t.Attributes[:len(t.Attributes)-2] }, false},
		"another transform":   {func(t *message.Transform) { t.ID = 2 }, false},
		"an attribute twice":  {func(t *message.Transform) { t.Attributes = append(t.Attributes, t.Attributes[0]) }, false},
		"public-key instead":  {func(t *message.Transform) { setMethod(t, 4) }, false},
		"signatures instead":  {func(t *message.Transform) { setMethod(t, 3) }, false},
		"XAuth where is none": {func(t *message.Transform) { setMethod(t, 65001) }, false},
	} {
		p := newPair(t)
		p.filter = func(x *packet) []*packet {
			if m, err := message.Parse(x.data); err == nil && x.from.Addr() == p.b.addr {
				if s, ok := one[*message.SA](m, message.TypeSA); ok {
					s.Raw = nil
					c.change(&s.Proposals[0].Transforms[0])
					b, err := message.Append(nil, m.Header, m.Payloads)
					if err != nil {
						t.Fatal(err)
					}
					x.data = b
				}
			}
			return []*packet{x}
		}
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(5 * time.Second)
		if up := len(happened[keyex.Up](p.a)) == 1; up != c.good {
			t.Errorf("%s: up %t, expected %t: %s", name, up, c.good, why(p.a))
		}
		if !c.good && !strings.Contains(why(p.a), "not offered") {
			t.Errorf("%s: %s", name, why(p.a))
		}
	}
}

func setMethod(t *message.Transform, m uint16) {
	for i := range t.Attributes {
		if t.Attributes[i].Type == message.P1AuthMethod {
			t.Attributes[i] = message.Basic(message.P1AuthMethod, m)
		}
	}
}

// The answer of Quick Mode, likewise: what was not offered, and other identities
// than ours, are refused, although they are authentic (RFC 2409, Section 5.5).
func TestChangedQuickChoice(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m *message.Message)
		good   bool
	}{
		"as it was": {func(*message.Message) {}, true},
		"another key length": {func(m *message.Message) {
			for i, a := range transformOf(m).Attributes {
				if a.Type == message.P2KeyLength {
					transformOf(m).Attributes[i] = message.Basic(message.P2KeyLength, 128)
				}
			}
		}, false},
		"transport mode": {func(m *message.Message) {
			for i, a := range transformOf(m).Attributes {
				if a.Type == message.P2Encapsulation {
					transformOf(m).Attributes[i] = message.Basic(message.P2Encapsulation, message.EncapTransport)
				}
			}
		}, false},
		"an attribute more": {func(m *message.Message) {
			transformOf(m).Attributes = append(transformOf(m).Attributes, message.Basic(message.P2ESN, 1))
		}, false},
		"another protocol": {func(m *message.Message) { saOf(m).Proposals[0].Protocol = message.ProtoAH }, false},
		"two transforms": {func(m *message.Message) {
			x := &saOf(m).Proposals[0]
			x.Transforms = append(x.Transforms, x.Transforms[0])
		}, false},
		"other identities": {func(m *message.Message) {
			ids := offer.IDPair(m.Payloads)
			ids[0].Data, ids[1].Data = ids[1].Data, ids[0].Data
		}, false},
		"fewer addresses": {func(m *message.Message) { offer.IDPair(m.Payloads)[1].Data[7] = 0xff }, false},
	} {
		p := newPair(t)
		var ivs [2][]byte // of the next message, by the two sides' messages
		var ni []byte
		p.filter = func(x *packet) []*packet {
			h := headerOf(x)
			if message.Exchange(h.Exchange) != message.ExchangeQuick {
				return []*packet{x}
			}
			k := p.saA.keys
			switch {
			case x.from.Addr() == p.a.addr && ivs[0] == nil:
				clear, next, err := k.open(k.firstIV(h.MessageID), x.data[isakmp.HeaderLen:])
				if err != nil {
					t.Fatal(err)
				}
				m, err := message.ParseDecrypted(h, clear)
				if err != nil {
					t.Fatal(err)
				}
				n, _ := one[*message.Opaque](m, message.TypeNonce)
				ivs[0], ni = next, n.Data
			case x.from.Addr() == p.b.addr:
				clear, _, err := k.open(ivs[0], x.data[isakmp.HeaderLen:])
				if err != nil {
					t.Fatal(err)
				}
				m, err := message.ParseDecrypted(h, clear)
				if err != nil {
					t.Fatal(err)
				}
				saOf(m).Raw = nil
				c.change(m)
				rest, err := message.AppendPayloads(nil, m.Payloads[1:])
				if err != nil {
					t.Fatal(err)
				}
				m.Payloads[0].(*message.Opaque).Data = k.hashOf(idOctets(h.MessageID), ni, rest)
				if x.data, _, err = k.seal(ivs[0], h, m.Payloads); err != nil {
					t.Fatal(err)
				}
			}
			return []*packet{x}
		}
		p.up()
		if got := len(p.a.in) == 1; got != c.good || len(p.a.reserved) != 0 {
			t.Errorf("%s: an SA %t, expected %t, %d SPIs reserved: %s", name, got, c.good, len(p.a.reserved), why(p.a))
		}
	}
}

func saOf(m *message.Message) *message.SA {
	s, _ := one[*message.SA](m, message.TypeSA)
	return s
}

func transformOf(m *message.Message) *message.Transform { return &saOf(m).Proposals[0].Transforms[0] }

// RFC 2409, Sections 4 and 5; RFC 2408, Section 3.5: phase 1 has one SA payload with
// one proposal for ISAKMP, whose SPI means nothing, and every transform names
// cipher, hash, group and method. The answer has the transform and its number as
// they were offered.
func TestPhase1Offers(t *testing.T) {
	base := offerPhase1(proposals(t, suite.ProtoIKE, "aes128-sha256-ecp256"), []AuthMethod{MethodPSK}, 3600, false)
	without := func(typ uint16) []message.Transform {
		x := base[0]
		x.Attributes = slices.DeleteFunc(slices.Clone(x.Attributes), func(a message.Attribute) bool { return a.Type == typ })
		return []message.Transform{x}
	}
	isakmpWith := func(spi []byte, list []message.Transform) message.Proposal {
		return message.Proposal{Number: 1, Protocol: message.ProtoISAKMP, SPI: spi, Transforms: list}
	}
	seventh := base[0]
	seventh.Number = 7
	good := isakmpWith(nil, base)
	for name, c := range map[string]struct {
		sas  []message.Payload
		want message.NotifyType // 0: the transform is chosen
	}{
		"one":                 {[]message.Payload{&message.SA{Proposals: []message.Proposal{good}}}, 0},
		"SPI of 8 octets":     {[]message.Payload{&message.SA{Proposals: []message.Proposal{isakmpWith(make([]byte, 8), base)}}}, 0},
		"SPI of 16 octets":    {[]message.Payload{&message.SA{Proposals: []message.Proposal{isakmpWith(bytes.Repeat([]byte{7}, 16), base)}}}, 0},
		"a number of its own": {[]message.Payload{&message.SA{Proposals: []message.Proposal{isakmpWith(nil, append(without(message.P1Hash), seventh))}}}, 0},
		"two proposals":       {[]message.Payload{&message.SA{Proposals: []message.Proposal{good, good}}}, message.BadProposalSyntax},
		"for ESP":             {[]message.Payload{&message.SA{Proposals: []message.Proposal{{Number: 1, Protocol: message.ProtoESP, Transforms: base}}}}, message.BadProposalSyntax},
		"no cipher":           {[]message.Payload{&message.SA{Proposals: []message.Proposal{isakmpWith(nil, without(message.P1Encryption))}}}, message.NoProposalChosen},
		"no key length":       {[]message.Payload{&message.SA{Proposals: []message.Proposal{isakmpWith(nil, without(message.P1KeyLength))}}}, message.NoProposalChosen},
		"no hash":             {[]message.Payload{&message.SA{Proposals: []message.Proposal{isakmpWith(nil, without(message.P1Hash))}}}, message.NoProposalChosen},
		"no group":            {[]message.Payload{&message.SA{Proposals: []message.Proposal{isakmpWith(nil, without(message.P1Group))}}}, message.NoProposalChosen},
		"no method":           {[]message.Payload{&message.SA{Proposals: []message.Proposal{isakmpWith(nil, without(message.P1AuthMethod))}}}, message.NoProposalChosen},
		"two SAs":             {[]message.Payload{&message.SA{Proposals: []message.Proposal{good}}, &message.SA{Proposals: []message.Proposal{good}}}, 0xffff},
	} {
		p := newPair(t)
		var answers []*message.Message
		p.filter = func(x *packet) []*packet {
			if m, err := message.Parse(x.data); err == nil {
				answers = append(answers, m)
			}
			return nil
		}
		b, err := message.Append(nil, isakmp.Header{SPIi: isakmp.SPI{1}, Exchange: uint8(message.ExchangeMain)}, c.sas)
		if err != nil {
			t.Fatal(err)
		}
		p.b.receive(&packet{from: netip.AddrPortFrom(p.a.addr, 500), to: netip.AddrPortFrom(p.b.addr, 500), data: b})
		if c.want == 0xffff {
			if len(answers) != 0 {
				t.Errorf("%s: answered", name)
			}
			continue
		}
		if len(answers) != 1 {
			t.Fatalf("%s: %d answers", name, len(answers))
		}
		m := answers[0]
		if c.want != 0 {
			n, ok := one[*message.Notify](m, message.TypeNotify)
			if !ok || n.Kind != c.want || len(p.b.sas) != 0 || m.Header.MessageID == 0 {
				t.Errorf("%s: answered %+v, expected %s", name, m.Payloads, c.want.Name())
			}
			continue
		}
		s := saOf(m)
		last := c.sas[0].(*message.SA).Proposals[0]
		if s == nil || m.Payloads[0] != message.Payload(s) || len(s.Proposals) != 1 || len(s.Proposals[0].Transforms) != 1 || s.Proposals[0].Number != last.Number ||
			s.Proposals[0].Transforms[0].Number != last.Transforms[len(last.Transforms)-1].Number || !offer.SameTransform(&s.Proposals[0].Transforms[0], &base[0]) {
			t.Errorf("%s: chosen %+v", name, s)
		}
	}
}

// RFC 2409, Section 5: the transforms of Aggressive Mode have one group, that of the
// public value beside them; those of Quick Mode with a public value have it, all of
// them (Section 5.5).
func TestOneGroup(t *testing.T) {
	p := newPair(t)
	p.ca.Proposals = proposals(t, suite.ProtoIKE, "aes128-aes256-sha256-ecp256-modp2048", "aes128-sha1-modp2048-ecp256")
	list := offerPhase1(p.ca.Proposals, []AuthMethod{MethodPSK}, 0, true)
	if len(list) < 3 {
		t.Fatalf("%d transforms", len(list))
	}
	for _, x := range list {
		if g, _ := x.Attribute(message.P1Group); !g.Equal(message.Basic(message.P1Group, suite.KEECP256)) {
			t.Errorf("group %x", g.Value)
		}
	}
	esp := proposals(t, suite.ProtoESP, "aes128-sha256-modp2048", "aes256-sha256-modp2048-ecp256", "aes128gcm16")
	for _, x := range offer.Proposals(esp, 0x1234, offer.Want{Encap: message.EncapTunnel, Group: offer.GroupFor(esp)}) {
		for _, y := range x.Transforms {
			if g, ok := y.Attribute(message.P2Group); !ok || !g.Equal(message.Basic(message.P2Group, suite.KEMODP2048)) {
				t.Errorf("transform %d has group %x, expected that of the public value", y.ID, g.Value)
			}
		}
	}
}
