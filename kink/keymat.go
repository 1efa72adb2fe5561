package kink

import (
	"encoding/binary"
	"fmt"
	"slices"

	"iked/crypto/suite"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/secret"
)

// KeyMat is the key material of one SA, n octets (RFC 4430, Section 7):
//
//	KEYMAT = K1 | K2 | ...
//	K1 = prf(SKEYID_d, [ g(qm)^xy | ] protocol | SPI | Ni_b [ | Nr_b ])
//	Kn = prf(SKEYID_d, Kn-1 | [ g(qm)^xy | ] protocol | SPI | Ni_b [ | Nr_b ])
//
// SKEYID_d is the session key of the ticket, and prf the pseudo-random function of
// its encryption type. nr is nil when the responder contributes nothing; the SPI is
// that of the receiver of the SA's packets.
func KeyMat(key SessionKey, form PRFForm, gqm secret.Bytes, proto uint8, spi uint32, ni, nr []byte, n int) (secret.Bytes, error) {
	seed := slices.Clone(gqm.Reveal())
	seed = append(seed, proto)
	seed = binary.BigEndian.AppendUint32(seed, spi)
	seed = append(append(seed, ni...), nr...)
	defer clear(seed)
	var out, last []byte
	for len(out) < n {
		in := slices.Concat(last, seed)
		k, err := key.PRF(form, in)
		clear(in)
		if err == nil && len(k) == 0 {
			err = fmt.Errorf("the pseudo-random function of encryption type %d gives nothing", key.EType())
		}
		if err != nil {
			clear(out)
			return secret.Bytes{}, err
		}
		last = k
		out = append(out, k...)
	}
	clear(out[n:])
	return secret.New(out[:n]), nil
}

// keying is what the keys of a pair come from.
type keying struct {
	key    SessionKey
	gqm    secret.Bytes
	ni, nr []byte
}

// childKeys makes the keys of the directions of a pair whose SPIs are known.
func (sa *SA) childKeys(c *keyex.Child, k keying) error {
	form := PRFStandard
	if sa.cfg.KINK.Racoon2 {
		form = PRFRacoon2
	}
	return offer.ChildKeys(c, func(proto suite.Protocol, spi uint32, n int) (secret.Bytes, error) {
		return KeyMat(k.key, form, k.gqm, uint8(proto), spi, k.ni, k.nr, n)
	})
}
