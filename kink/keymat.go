package kink

import (
	"encoding/binary"
	"fmt"
	"slices"

	"iked/crypto/aead"
	"iked/crypto/integ"
	"iked/crypto/suite"
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
	var el, il int
	var err error
	if c.Proto == suite.ProtoAH {
		il, _, err = integ.Lens(c.Integ.ID)
	} else {
		el, il, err = aead.KeyLens(c.Encr, c.Integ)
	}
	if err != nil {
		return err
	}
	split := func(proto suite.Protocol, spi uint32, el, il int, encr, integrity *secret.Bytes) error {
		if spi == 0 || encr.Len()+integrity.Len() > 0 {
			return nil
		}
		all, err := KeyMat(k.key, form, k.gqm, uint8(proto), spi, k.ni, k.nr, el+il)
		if err != nil {
			return err
		}
		defer all.Destroy()
		*encr, *integrity = secret.New(slices.Clone(all.Reveal()[:el])), secret.New(slices.Clone(all.Reveal()[el:]))
		return nil
	}
	short := func(t *suite.Transform) {
		if c.Config.SHA256_96 && t.ID == suite.IntegHMACSHA256 {
			t.ID = suite.IntegHMACSHA256_96
		}
	}
	if err := split(c.Proto, c.SPIIn, el, il, &c.EncrIn, &c.IntegIn); err != nil {
		return err
	}
	if err := split(c.Proto, c.SPIOut, el, il, &c.EncrOut, &c.IntegOut); err != nil {
		return err
	}
	short(&c.Integ)
	if a := c.AH; a != nil {
		if il, _, err = integ.Lens(a.Integ.ID); err != nil {
			return err
		}
		var none secret.Bytes
		if err := split(suite.ProtoAH, a.SPIIn, 0, il, &none, &a.IntegIn); err != nil {
			return err
		}
		if err := split(suite.ProtoAH, a.SPIOut, 0, il, &none, &a.IntegOut); err != nil {
			return err
		}
		short(&a.Integ)
	}
	return nil
}
