package ikev1

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"fmt"
	"hash"

	"iked/crypto/kdf"
	"iked/crypto/prf"
	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/isakmp"
	"iked/internal/secret"
)

// keys are those of an ISAKMP SA with its cipher (RFC 2409, Section 5 and
// Appendix B).
type keys struct {
	prf   prf.PRF
	hash  func() hash.Hash
	all   kdf.IKEv1Keys
	block cipher.Block
	// last is the last ciphertext block of phase 1, from which the IVs of all later
	// exchanges come.
	last []byte
}

// newKeys derives the keys from SKEYID, which it takes over.
func newKeys(p suite.Proposal, f prf.PRF, h func() hash.Hash, skeyid, gxy secret.Bytes, ckyI, ckyR isakmp.SPI) (*keys, error) {
	k := &keys{prf: f, hash: h, all: kdf.IKEv1(f, skeyid, gxy, ckyI, ckyR)}
	e, _ := p.First(suite.ENCR)
	n := int(e.KeyBits) / 8
	if e.ID == suite.Encr3DES {
		n = 24
	}
	key := kdf.IKEv1Cipher(f, k.all.SKEYIDe, n)
	defer key.Destroy()
	var err error
	switch e.ID {
	case suite.EncrAESCBC:
		k.block, err = aes.NewCipher(key.Reveal())
	case suite.Encr3DES:
		k.block, err = des.NewTripleDESCipher(key.Reveal())
	default:
		err = fmt.Errorf("%v is no cipher of IKEv1", e)
	}
	if err != nil {
		k.destroy()
		return nil, err
	}
	return k, nil
}

func (k *keys) destroy() { k.all.Destroy() }

// forgetSKEYID destroys what phase 1 alone needs.
func (k *keys) forgetSKEYID() {
	k.all.SKEYID.Destroy()
	k.all.SKEYIDe.Destroy()
}

// firstIV is the IV of the first message with a message ID behind phase 1 (RFC
// 2409, Appendix B).
func (k *keys) firstIV(id uint32) []byte { return k.ivAfter(k.last, id) }

// ivAfter is the same behind another last block of phase 1.
func (k *keys) ivAfter(last []byte, id uint32) []byte {
	return kdf.IKEv1PhaseTwoIV(k.hash(), last, id, k.block.BlockSize())
}

// open decrypts what stands behind a header; next is the IV after it.
func (k *keys) open(iv, b []byte) (clear, next []byte, err error) {
	n := k.block.BlockSize()
	if len(b) == 0 || len(b)%n != 0 {
		return nil, nil, fmt.Errorf("%d octets are encrypted, expected whole blocks of %d", len(b), n)
	}
	clear = make([]byte, len(b))
	cipher.NewCBCDecrypter(k.block, iv).CryptBlocks(clear, b)
	return clear, append([]byte(nil), b[len(b)-n:]...), nil
}

// seal writes an encrypted message; next is the IV after it. The padding is
// zeros, and the length in the header counts it (RFC 2409, Appendix B).
func (k *keys) seal(iv []byte, h isakmp.Header, list []message.Payload) (b, next []byte, err error) {
	h.Version, h.NextPayload, h.Flags = message.Version, message.First(list), h.Flags|message.FlagEncryption
	if b, err = message.AppendPayloads(h.Append(nil), list); err != nil {
		return nil, nil, err
	}
	n := k.block.BlockSize()
	for (len(b)-isakmp.HeaderLen)%n != 0 {
		b = append(b, 0)
	}
	isakmp.PutLength(b, len(b))
	body := b[isakmp.HeaderLen:]
	cipher.NewCBCEncrypter(k.block, iv).CryptBlocks(body, body)
	return b, append([]byte(nil), body[len(body)-n:]...), nil
}

// hashOf is the HASH of a message behind phase 1: prf(SKEYID_a, parts) (RFC 2409,
// Sections 5.5 and 5.7).
func (k *keys) hashOf(parts ...[]byte) []byte { return k.prf.Sum(k.all.SKEYIDa.Reveal(), parts...) }

func idOctets(id uint32) []byte {
	return []byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
}
