// Package kdf derives the keys of IKEv2 (RFC 7296, Sections 2.13 to 2.18) and
// the values that AUTH payloads cover.
package kdf

import (
	"fmt"

	"iked/crypto/prf"
	"iked/internal/secret"
)

// IKEKeys are the seven keys of an IKE SA, named as in RFC 7296, Section 2.14.
// SKei and SKer end with the salt of the cipher, if it has one; SKai and SKar
// are empty for combined-mode ciphers.
type IKEKeys struct {
	SKd, SKai, SKar, SKei, SKer, SKpi, SKpr secret.Bytes
}

// Destroy overwrites all keys.
func (k *IKEKeys) Destroy() {
	for _, s := range []secret.Bytes{k.SKd, k.SKai, k.SKar, k.SKei, k.SKer, k.SKpi, k.SKpr} {
		s.Destroy()
	}
}

// ChildKeys are the keys of a pair of CHILD_SAs. I is the direction from the
// initiator of the exchange that made the pair to its responder.
type ChildKeys struct {
	EncrI, IntegI, EncrR, IntegR secret.Bytes
}

// Destroy overwrites all keys.
func (k *ChildKeys) Destroy() {
	for _, s := range []secret.Bytes{k.EncrI, k.IntegI, k.EncrR, k.IntegR} {
		s.Destroy()
	}
}

// SKEYSEED is prf(Ni | Nr, g^ir). A PRF with a fixed key size takes half of the
// key from the start of each nonce (RFC 7296, Section 2.14).
func SKEYSEED(p prf.PRF, ni, nr []byte, gir secret.Bytes) secret.Bytes {
	if half := p.Size() / 2; p.FixedKey() {
		ni, nr = ni[:min(half, len(ni))], nr[:min(half, len(nr))]
	}
	return secret.New(p.Sum(concat(ni, nr), gir.Reveal()))
}

// RekeySKEYSEED is prf(SK_d (old), g^ir (new) | Ni | Nr), with the PRF of the
// old IKE SA (RFC 7296, Section 2.18).
func RekeySKEYSEED(old prf.PRF, skd, gir secret.Bytes, ni, nr []byte) secret.Bytes {
	return secret.New(old.Sum(skd.Reveal(), gir.Reveal(), ni, nr))
}

// IKE expands SKEYSEED into the keys of an IKE SA:
//
//	{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr}
//	                    = prf+ (SKEYSEED, Ni | Nr | SPIi | SPIr)
//
// p is the PRF of the new SA. The lengths are those of aead.KeyLens, in octets.
func IKE(p prf.PRF, skeyseed secret.Bytes, ni, nr []byte, spii, spir [8]byte, encrLen, integLen int) (IKEKeys, error) {
	if encrLen < 0 || integLen < 0 {
		return IKEKeys{}, fmt.Errorf("IKE keys: lengths %d and %d must not be negative", encrLen, integLen)
	}
	n := p.Size()
	m, err := p.Plus(skeyseed.Reveal(), concat(ni, nr, spii[:], spir[:]), 3*n+2*encrLen+2*integLen)
	if err != nil {
		return IKEKeys{}, fmt.Errorf("IKE keys: %w", err)
	}
	next := splitter(m)
	return IKEKeys{
		SKd:  next(n),
		SKai: next(integLen), SKar: next(integLen),
		SKei: next(encrLen), SKer: next(encrLen),
		SKpi: next(n), SKpr: next(n),
	}, nil
}

// Child expands SK_d into the keys of a pair of CHILD_SAs:
//
//	KEYMAT = prf+ (SK_d, [g^ir (new) |] Ni | Nr)
//
// (RFC 7296, Section 2.17). gir is empty without a new key exchange. The nonces
// are those of the exchange that makes the pair, for the first pair those of
// IKE_SA_INIT.
func Child(p prf.PRF, skd, gir secret.Bytes, ni, nr []byte, encrLen, integLen int) (ChildKeys, error) {
	if encrLen < 0 || integLen < 0 {
		return ChildKeys{}, fmt.Errorf("CHILD_SA keys: lengths %d and %d must not be negative", encrLen, integLen)
	}
	seed := concat(gir.Reveal(), ni, nr)
	m, err := p.Plus(skd.Reveal(), seed, 2*encrLen+2*integLen)
	clear(seed)
	if err != nil {
		return ChildKeys{}, fmt.Errorf("CHILD_SA keys: %w", err)
	}
	next := splitter(m)
	return ChildKeys{
		EncrI: next(encrLen), IntegI: next(integLen),
		EncrR: next(encrLen), IntegR: next(integLen),
	}, nil
}

// SignedOctets is what an AUTH payload covers (RFC 7296, Section 2.15): message
// is the sender's own first IKE_SA_INIT message as it was on the wire, nonce
// the other side's nonce, skp the sender's SK_pi or SK_pr, idBody the sender's
// ID payload without its generic header.
func SignedOctets(p prf.PRF, message, nonce []byte, skp secret.Bytes, idBody []byte) []byte {
	return concat(message, nonce, p.Sum(skp.Reveal(), idBody))
}

// PSKAuth is the Authentication Data of the shared key method, also for the MSK
// of EAP (RFC 7296, Sections 2.15 and 2.16).
func PSKAuth(p prf.PRF, key secret.Bytes, signedOctets []byte) []byte {
	pad := p.Sum(key.Reveal(), []byte("Key Pad for IKEv2"))
	defer clear(pad)
	return p.Sum(pad, signedOctets)
}

func concat(parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]byte, 0, n)
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// splitter hands out consecutive parts of m without copying.
func splitter(m []byte) func(int) secret.Bytes {
	return func(n int) secret.Bytes {
		part := m[:n:n]
		m = m[n:]
		return secret.New(part)
	}
}
