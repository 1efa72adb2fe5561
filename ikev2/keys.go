package ikev2

import (
	"fmt"

	"iked/crypto/aead"
	"iked/crypto/integ"
	"iked/crypto/kdf"
	"iked/crypto/prf"
	"iked/crypto/suite"
	"iked/internal/isakmp"
	"iked/internal/secret"
)

// nonceLen is that of every nonce of ours: at least half the key size of every
// PRF (RFC 7296, Section 2.10).
const nonceLen = 32

// ikeKeys are the keys of an IKE SA that stay. skp are SK_pi and SK_pr, needed
// until IKE_AUTH is done.
type ikeKeys struct {
	prf      prf.PRF
	skd      secret.Bytes
	skpi     secret.Bytes
	skpr     secret.Bytes
	in, out  *sealer
	material kdf.IKEKeys
}

func (k *ikeKeys) destroy() {
	k.material.Destroy()
	k.in.destroy()
	k.out.destroy()
}

// forgetHandshake destroys what only IKE_AUTH needs and what the sealers have
// copied.
func (k *ikeKeys) forgetHandshake() {
	m := &k.material
	for _, s := range []secret.Bytes{m.SKai, m.SKar, m.SKei, m.SKer, m.SKpi, m.SKpr} {
		s.Destroy()
	}
	k.skpi, k.skpr = secret.Bytes{}, secret.Bytes{}
	skd := m.SKd.Clone()
	m.SKd.Destroy()
	*m = kdf.IKEKeys{SKd: skd}
	k.skd = skd
}

// deriveIKE makes the keys of an IKE SA from SKEYSEED (RFC 7296, Section 2.14).
func deriveIKE(p suite.Proposal, f prf.PRF, seed secret.Bytes, ni, nr []byte, spii, spir isakmp.SPI, initiator bool, random func([]byte)) (*ikeKeys, error) {
	encr, _ := p.First(suite.ENCR)
	integrity, _ := p.First(suite.INTEG)
	el, il, err := aead.KeyLens(encr, integrity)
	if err != nil {
		return nil, err
	}
	m, err := kdf.IKE(f, seed, ni, nr, spii, spir, el, il)
	if err != nil {
		return nil, err
	}
	iv, icv, block, err := aead.Sizes(encr, integrity)
	if err != nil {
		return nil, err
	}
	k := &ikeKeys{prf: f, skd: m.SKd, skpi: m.SKpi, skpr: m.SKpr, material: m}
	one := sealer{encr: encr, integ: integrity, iv: iv, icv: icv, block: block, random: random}
	i, r := one, one
	i.encrKey, i.integKey = m.SKei.Clone(), m.SKai.Clone()
	r.encrKey, r.integKey = m.SKer.Clone(), m.SKar.Clone()
	k.in, k.out = &i, &r
	if initiator {
		k.in, k.out = k.out, k.in
	}
	return k, nil
}

func proposalPRF(p suite.Proposal) (prf.PRF, error) {
	t, ok := p.First(suite.PRF)
	if !ok {
		return prf.PRF{}, fmt.Errorf("the IKE proposal %v has no PRF", p)
	}
	return prf.New(t.ID)
}

// sealer protects one direction; it is a message.Sealer. An IKE SA has messages
// seldom, and expanded keys take a kilobyte in each direction, so they are made for
// each message.
type sealer struct {
	encr, integ       suite.Transform
	encrKey, integKey secret.Bytes
	iv, icv, block    int // octets
	counter           uint64
	random            func([]byte)
}

func (s *sealer) destroy() {
	s.encrKey.Destroy()
	s.integKey.Destroy()
}

// clone is one with keys of its own.
func (s *sealer) clone() *sealer {
	c := *s
	c.encrKey, c.integKey = s.encrKey.Clone(), s.integKey.Clone()
	return &c
}

func (s *sealer) IVLen() int  { return s.iv }
func (s *sealer) ICVLen() int { return s.icv }
func (s *sealer) Block() int  { return s.block }

func (s *sealer) cipher() (*aead.Cipher, error) {
	return aead.New(s.encr, s.integ, s.encrKey.Reveal(), s.integKey.Reveal())
}

func (s *sealer) Seal(b []byte, hdr int) error {
	c, err := s.cipher()
	if err != nil {
		return err
	}
	iv := b[hdr : hdr+s.iv]
	if c.RandomIV() {
		s.random(iv)
	} else {
		s.counter++
		aead.PutIV(iv, s.counter)
	}
	c.Seal(new(aead.Scratch), b, hdr, 0, false)
	return nil
}

func (s *sealer) Open(b []byte, hdr int) ([]byte, error) {
	c, err := s.cipher()
	if err != nil {
		return nil, err
	}
	return c.Open(new(aead.Scratch), b, hdr, 0, false)
}

// childKeys makes the keys of a CHILD_SA (RFC 7296, Section 2.17) and puts them
// into it, seen from this system.
func (sa *SA) childKeys(c *Child, gir secret.Bytes, ni, nr []byte) error {
	el, il, err := childKeyLens(c.Proto, c.Encr, c.Integ)
	if err != nil {
		return err
	}
	k, err := kdf.Child(sa.keys.prf, sa.keys.skd, gir, ni, nr, el, il)
	if err != nil {
		return err
	}
	c.EncrIn, c.IntegIn, c.EncrOut, c.IntegOut = k.EncrI, k.IntegI, k.EncrR, k.IntegR
	if c.Initiator {
		c.EncrIn, c.IntegIn, c.EncrOut, c.IntegOut = k.EncrR, k.IntegR, k.EncrI, k.IntegI
	}
	return nil
}

func (sa *SA) nonce() []byte {
	n := make([]byte, nonceLen)
	sa.env.Random(n)
	return n
}

// childKeyLens are the lengths of the key material; AH has no cipher.
func childKeyLens(proto suite.Protocol, encr, integrity suite.Transform) (el, il int, err error) {
	if proto == suite.ProtoAH {
		il, _, err = integ.LensAH(integrity.ID)
		return 0, il, err
	}
	return aead.KeyLens(encr, integrity)
}
