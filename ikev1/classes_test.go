package ikev1

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"iked/ikev1/message"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/secret"
)

// Each payload of each message in clear is left out, or comes twice, in both modes
// (CVE-2013-6467 and CVE-2016-5391 classes): what remains is taken whole or not at
// all, and nothing is left of a negotiation that does not end.
func TestMissingPayloads(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		for at := range 5 {
			for which := range 12 {
				for variant := range 4 {
					twice := variant&1 != 0
					name := fmt.Sprintf("aggressive %t, message %d, payload %d, variant %d", aggressive, at, which, variant)
					p := newPair(t)
					if variant&2 != 0 {
						p.certificates(0)
					}
					p.ca.V1.Aggressive, p.cb.V1 = aggressive, keyex.V1{Aggressive: aggressive, AggressivePSK: true}
					n := -1
					p.filter = func(x *packet) []*packet {
						h := headerOf(x)
						if h.Flags&message.FlagEncryption != 0 || message.Exchange(h.Exchange) == message.ExchangeInformational {
							return []*packet{x}
						}
						if n++; n != at {
							return []*packet{x}
						}
						m, err := message.Parse(x.data)
						if err != nil {
							t.Fatal(err)
						}
						if which >= len(m.Payloads) {
							return []*packet{x}
						}
						list := slices.Delete(slices.Clone(m.Payloads), which, which+1)
						if twice {
							list = append(slices.Clone(m.Payloads), m.Payloads[which])
						}
						b, err := message.Append(nil, m.Header, list)
						if err != nil {
							return nil // nothing is left of it
						}
						return []*packet{{from: x.from, to: x.to, data: b}}
					}
					p.a.initiate(p.ca, p.b, p.cha)
					p.run(10 * time.Minute)
					if len(p.a.sas) != len(p.b.sas) || len(p.a.in) != len(p.b.in) || len(p.a.reserved)+len(p.b.reserved) != 0 {
						t.Errorf("%s: %d and %d IKE SAs, %d and %d inbound SAs: %s %s", name, len(p.a.sas), len(p.b.sas), len(p.a.in), len(p.b.in), why(p.a), why(p.b))
					}
				}
			}
		}
	}
}

// An own secret that is not there ends the attempt on both sides, however often the
// peer repeats its message (CVE-2024-2357 class).
func TestNoOwnSecret(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		for _, at := range []string{"a", "b"} {
			p := newPair(t)
			p.ca.V1.Aggressive, p.cb.V1 = aggressive, keyex.V1{Aggressive: aggressive, AggressivePSK: true}
			p.filter = func(x *packet) []*packet { return []*packet{x, x, x} }
			h := p.a
			if at == "b" {
				h = p.b
			}
			h.key = func(_, _ ident.ID) (string, bool) { return "", false }
			p.a.initiate(p.ca, p.b, p.cha)
			p.run(5 * time.Minute)
			if len(p.a.sas)+len(p.b.sas) != 0 || len(happened[keyex.Up](p.a))+len(happened[keyex.Up](p.b)) != 0 {
				t.Errorf("aggressive %t, none at %s: %d and %d are left", aggressive, at, len(p.a.sas), len(p.b.sas))
			}
		}
	}
}

// Authentic Deletes without end, of what there is and what there is not, cost no more
// than their reading (CVE-2023-38712 class).
func TestDeleteStorm(t *testing.T) {
	p := newPair(t).up()
	d := &message.Delete{Protocol: message.ProtoESP}
	for i := range uint32(2000) {
		d.SPIs = append(d.SPIs, binary.BigEndian.AppendUint32(nil, 0x5000+i))
	}
	own := p.b.in[0x2001]
	for range 3 {
		p.informOf(d, d)
	}
	p.matched(1)
	d.SPIs = [][]byte{{0, 0, 0x10, 1}, {0, 0, 0x10, 1}}
	p.informOf(d, d)
	if len(p.b.in)+len(p.b.out) != 0 || own.State != keyex.ChildDeleted || len(p.b.established()) != 1 {
		t.Errorf("%d inbound, %d outbound SAs after the Delete of one", len(p.b.in), len(p.b.out))
	}
}

// No key material without octets, and none from a secret that is gone (CVE-2024-3652
// class): see also offer.TestNoEmptyKeys.
func TestKeysAreThere(t *testing.T) {
	p := newPair(t).up()
	for _, h := range p.hosts {
		for _, c := range h.in {
			for _, k := range []secret.Bytes{c.EncrIn, c.EncrOut, c.IntegIn, c.IntegOut} {
				if k.Len() == 0 || k.Equal(secret.New(make([]byte, k.Len()))) {
					t.Errorf("%s: a key of %d octets, or of zeros", h.name, k.Len())
				}
			}
		}
	}
}
