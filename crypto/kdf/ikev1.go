package kdf

import (
	"hash"

	"iked/crypto/prf"
	"iked/internal/secret"
)

// IKEv1Keys are the keys of an ISAKMP SA, named as in RFC 2409, Section 5, each
// of the PRF's output length.
type IKEv1Keys struct {
	SKEYID, SKEYIDd, SKEYIDa, SKEYIDe secret.Bytes
}

// Destroy overwrites all keys.
func (k *IKEv1Keys) Destroy() {
	for _, s := range []secret.Bytes{k.SKEYID, k.SKEYIDd, k.SKEYIDa, k.SKEYIDe} {
		s.Destroy()
	}
}

// SKEYIDPSK is prf(pre-shared-key, Ni_b | Nr_b) (RFC 2409, Section 5).
func SKEYIDPSK(p prf.PRF, psk secret.Bytes, ni, nr []byte) secret.Bytes {
	return secret.New(p.Sum(psk.Reveal(), ni, nr))
}

// SKEYIDSignature is prf(Ni_b | Nr_b, g^xy) (RFC 2409, Section 5), for signatures
// and for hybrid authentication.
func SKEYIDSignature(p prf.PRF, ni, nr []byte, gxy secret.Bytes) secret.Bytes {
	return secret.New(p.Sum(concat(ni, nr), gxy.Reveal()))
}

// IKEv1 derives the keys of an ISAKMP SA (RFC 2409, Section 5):
//
//	SKEYID_d = prf(SKEYID, g^xy | CKY-I | CKY-R | 0)
//	SKEYID_a = prf(SKEYID, SKEYID_d | g^xy | CKY-I | CKY-R | 1)
//	SKEYID_e = prf(SKEYID, SKEYID_a | g^xy | CKY-I | CKY-R | 2)
func IKEv1(p prf.PRF, skeyid, gxy secret.Bytes, ckyi, ckyr [8]byte) IKEv1Keys {
	k := IKEv1Keys{SKEYID: skeyid}
	next := func(last secret.Bytes, digit byte) secret.Bytes {
		return secret.New(p.Sum(skeyid.Reveal(), last.Reveal(), gxy.Reveal(), ckyi[:], ckyr[:], []byte{digit}))
	}
	k.SKEYIDd = next(secret.Bytes{}, 0)
	k.SKEYIDa = next(k.SKEYIDd, 1)
	k.SKEYIDe = next(k.SKEYIDa, 2)
	return k
}

// IKEv1Cipher is the key of the ISAKMP SA's cipher, n octets (RFC 2409, Appendix
// B): the start of SKEYID_e when that is long enough, else of
//
//	Ka = K1 | K2 | ...   K1 = prf(SKEYID_e, 0)   Kn = prf(SKEYID_e, Kn-1)
func IKEv1Cipher(p prf.PRF, skeyide secret.Bytes, n int) secret.Bytes {
	if n <= skeyide.Len() {
		return secret.New(append([]byte(nil), skeyide.Reveal()[:n]...))
	}
	return feedback(p, skeyide, n, []byte{0}, nil)
}

// IKEv1KEYMAT is the key material of one SA, n octets (RFC 2409, Section 5.5):
//
//	KEYMAT = K1 | K2 | ...
//	K1 = prf(SKEYID_d, [ g(qm)^xy | ] protocol | SPI | Ni_b | Nr_b)
//	Kn = prf(SKEYID_d, Kn-1 | [ g(qm)^xy | ] protocol | SPI | Ni_b | Nr_b)
//
// gqm is empty without perfect forward secrecy; the SPI is that of the receiver
// of the SA's packets, so the two directions have different keys.
func IKEv1KEYMAT(p prf.PRF, skeyidd, gqm secret.Bytes, protocol uint8, spi [4]byte, ni, nr []byte, n int) secret.Bytes {
	seed := append(append([]byte{protocol}, spi[:]...), concat(ni, nr)...)
	return keymat(p, skeyidd, gqm, seed, n)
}

func keymat(p prf.PRF, skeyidd, gqm secret.Bytes, seed []byte, n int) secret.Bytes {
	all := concat(gqm.Reveal(), seed)
	defer clear(all)
	return feedback(p, skeyidd, n, all, all)
}

// feedback is K1 | K2 | ..., n octets: K1 = prf(key, first), Kn = prf(key, Kn-1 |
// rest).
func feedback(p prf.PRF, key secret.Bytes, n int, first, rest []byte) secret.Bytes {
	out := make([]byte, 0, n+p.Size())
	last := p.Sum(key.Reveal(), first)
	for out = append(out, last...); len(out) < n; out = append(out, last...) {
		last = p.Sum(key.Reveal(), last, rest)
	}
	clear(out[n:])
	return secret.New(out[:n])
}

// IKEv1PhaseOne are the inputs of HASH_I and HASH_R (RFC 2409, Section 5), the
// bodies as they were sent.
type IKEv1PhaseOne struct {
	GXi, GXr   []byte // public values
	CKYi, CKYr [8]byte
	SAi        []byte // SAi_b: the initiator's whole SA payload body, DOI and all
}

// HashI is prf(SKEYID, g^xi | g^xr | CKY-I | CKY-R | SAi_b | IDii_b).
func (x *IKEv1PhaseOne) HashI(p prf.PRF, skeyid secret.Bytes, idii []byte) []byte {
	return p.Sum(skeyid.Reveal(), x.GXi, x.GXr, x.CKYi[:], x.CKYr[:], x.SAi, idii)
}

// HashR is prf(SKEYID, g^xr | g^xi | CKY-R | CKY-I | SAi_b | IDir_b).
func (x *IKEv1PhaseOne) HashR(p prf.PRF, skeyid secret.Bytes, idir []byte) []byte {
	return p.Sum(skeyid.Reveal(), x.GXr, x.GXi, x.CKYr[:], x.CKYi[:], x.SAi, idir)
}

// IKEv1PhaseOneIV is the first IV: hash(g^xi | g^xr), cut to the block (RFC 2409,
// Appendix B).
func IKEv1PhaseOneIV(h hash.Hash, gxi, gxr []byte, block int) []byte {
	return cut(h, block, gxi, gxr)
}

// IKEv1PhaseTwoIV is the first IV of an exchange behind phase 1: hash(last
// ciphertext block of phase 1 | M-ID), cut to the block (RFC 2409, Appendix B).
func IKEv1PhaseTwoIV(h hash.Hash, last []byte, messageID uint32, block int) []byte {
	id := [4]byte{byte(messageID >> 24), byte(messageID >> 16), byte(messageID >> 8), byte(messageID)}
	return cut(h, block, last, id[:])
}

func cut(h hash.Hash, block int, data ...[]byte) []byte {
	h.Reset()
	for _, d := range data {
		h.Write(d)
	}
	return h.Sum(nil)[:block]
}
