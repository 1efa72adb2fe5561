package offer

import (
	"encoding/binary"
	"slices"

	"iked/crypto/aead"
	"iked/crypto/integ"
	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/secret"
)

// ChildKeys puts the keys of all SAs of a pair into it (RFC 2409, Section 5.5; RFC
// 4430, Section 7): those of each direction and protocol come from the SPI of who
// receives it. derive gives n octets for one of them. A direction whose SPI is not known
// yet, or that has its keys, is left out.
func ChildKeys(c *keyex.Child, derive func(proto suite.Protocol, spi uint32, n int) (secret.Bytes, error)) error {
	split := func(proto suite.Protocol, spi uint32, el, il int, encr, integrity *secret.Bytes) error {
		if spi == 0 || encr.Len()+integrity.Len() > 0 {
			return nil
		}
		all, err := derive(proto, spi, el+il)
		if err != nil {
			return err
		}
		defer all.Destroy()
		*encr, *integrity = secret.New(slices.Clone(all.Reveal()[:el])), secret.New(slices.Clone(all.Reveal()[el:]))
		return nil
	}
	both := func(proto suite.Protocol, t *suite.Transform, el, il int, in, out uint32, keys [4]*secret.Bytes) error {
		if err := split(proto, in, el, il, keys[0], keys[1]); err != nil {
			return err
		}
		if c.Config.SHA256_96 && t.ID == suite.IntegHMACSHA256 {
			t.ID = suite.IntegHMACSHA256_96 // of the same key
		}
		return split(proto, out, el, il, keys[2], keys[3])
	}
	var el, il int
	var err error
	if c.Proto == suite.ProtoAH {
		il, _, err = integ.Lens(c.Integ.ID)
	} else {
		el, il, err = aead.KeyLens(c.Encr, c.Integ)
	}
	if err == nil {
		err = both(c.Proto, &c.Integ, el, il, c.SPIIn, c.SPIOut, [4]*secret.Bytes{&c.EncrIn, &c.IntegIn, &c.EncrOut, &c.IntegOut})
	}
	if a := c.AH; err == nil && a != nil {
		if il, _, err = integ.Lens(a.Integ.ID); err == nil {
			var none secret.Bytes
			err = both(suite.ProtoAH, &a.Integ, 0, il, a.SPIIn, a.SPIOut, [4]*secret.Bytes{&none, &a.IntegIn, &none, &a.IntegOut})
		}
	}
	return err
}

// Deletes are the Delete payloads of pairs, one for each protocol. The SPIs are those of
// our inbound SAs (RFC 2408, Section 3.15; RFC 4430, Section 3.3).
func Deletes(list []*keyex.Child) (out []message.Payload) {
	for _, proto := range [...]suite.Protocol{suite.ProtoESP, suite.ProtoAH} {
		d := &message.Delete{Protocol: message.Protocol(proto)}
		for _, c := range list {
			for _, p := range c.Protocols() {
				if p.Proto == proto {
					d.SPIs = append(d.SPIs, binary.BigEndian.AppendUint32(nil, p.SPIIn))
				}
			}
		}
		if len(d.SPIs) > 0 {
			out = append(out, d)
		}
	}
	return out
}
