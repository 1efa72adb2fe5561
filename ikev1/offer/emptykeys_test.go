package offer

import (
	"testing"

	"iked/crypto/aead"
	"iked/crypto/integ"
	"iked/crypto/suite"
	"iked/ikev1/message"
)

// Every transform of ESP and AH with every integrity algorithm and many key lengths
// (CVE-2024-3652 and CVE-2016-3071 classes): what is read has keys, and ESP has
// integrity.
func TestNoEmptyKeys(t *testing.T) {
	taken := 0
	for _, proto := range []message.Protocol{message.ProtoESP, message.ProtoAH} {
		for id := range 256 {
			for auth := range uint16(20) {
				for _, bits := range []uint16{0, 1, 64, 128, 192, 256, 65535} {
					var attrs []message.Attribute
					if auth != 0 {
						attrs = append(attrs, message.Basic(message.P2Auth, auth))
					}
					if bits != 0 {
						attrs = append(attrs, message.Basic(message.P2KeyLength, bits))
					}
					p, why := Read(proto, &message.Transform{ID: uint8(id), Attributes: attrs})
					if why != "" {
						continue
					}
					taken++
					encr, _ := p.Proposal.First(suite.ENCR)
					in, _ := p.Proposal.First(suite.INTEG)
					if proto == message.ProtoAH {
						if n, _, err := integ.Lens(in.ID); err != nil || n == 0 {
							t.Errorf("AH %d with %d: a key of %d octets, %v", id, auth, n, err)
						}
						continue
					}
					e, i, err := aead.KeyLens(encr, in)
					if err != nil || e+i == 0 || i == 0 && in.ID != 0 {
						t.Errorf("ESP %d with %d, %d bits: keys of %d and %d octets, %v", id, auth, bits, e, i, err)
					}
				}
			}
		}
	}
	if taken < 10 {
		t.Errorf("only %d combinations were taken", taken)
	}
}
