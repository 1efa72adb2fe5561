package suite

// Numbers that people may write in a proposal but that no algorithm here
// implements; they exist so that the refusal and the printed name are exact.
const (
	encrDES           uint16 = 2
	encrCAST          uint16 = 6
	encrBlowfish      uint16 = 7
	encrCamelliaCBC   uint16 = 23
	encrCamelliaCTR   uint16 = 24
	encrCamelliaCCM8  uint16 = 25
	encrCamelliaCCM12 uint16 = 26
	encrCamelliaCCM16 uint16 = 27
	encrSerpent       uint16 = 1026
	encrTwofish       uint16 = 1027

	prfCamelliaXCBC uint16 = 1028

	integHMACMD5_128  uint16 = 6
	integCamelliaXCBC uint16 = 1030

	keMODPNull uint16 = 1024
)

// firstPrivateID begins the "Private Use" range of every transform type
// (RFC 7296, Section 3.3.2).
const firstPrivateID uint16 = 1024

// AEAD says whether t is a combined-mode cipher, which excludes an integrity
// transform (RFC 7296, Section 3.3). AES-GMAC counts: it
// authenticates on its own.
func (t Transform) AEAD() bool {
	if t.Type != ENCR {
		return false
	}
	switch t.ID {
	case EncrAESCCM8, EncrAESCCM12, EncrAESCCM16,
		EncrAESGCM8, EncrAESGCM12, EncrAESGCM16,
		EncrNullAESGMAC, EncrChaCha20Poly1305,
		encrCamelliaCCM8, encrCamelliaCCM12, encrCamelliaCCM16:
		return true
	}
	return false
}

// Implemented says whether this build has the algorithm.
func (t Transform) Implemented() bool {
	switch t.Type {
	case ENCR:
		switch t.ID {
		case EncrAESCBC, EncrAESCTR, EncrAESGCM8, EncrAESGCM12, EncrAESGCM16, EncrNullAESGMAC:
			return t.KeyBits == 128 || t.KeyBits == 192 || t.KeyBits == 256
		case EncrChaCha20Poly1305:
			return t.KeyBits == 0 || t.KeyBits == 256
		case Encr3DES, EncrNull:
			return t.KeyBits == 0
		}
	case PRF:
		switch t.ID {
		case PRFHMACMD5, PRFHMACSHA1, PRFAESXCBC, PRFHMACSHA256, PRFHMACSHA384, PRFHMACSHA512, PRFAESCMAC:
			return t.KeyBits == 0
		}
	case INTEG:
		switch t.ID {
		case IntegNone, IntegHMACMD5_96, IntegHMACSHA1_96, IntegAESXCBC96, IntegHMACSHA1_160,
			IntegAESCMAC96, IntegAES128GMAC, IntegAES192GMAC, IntegAES256GMAC, IntegHMACSHA256, IntegHMACSHA384, IntegHMACSHA512, IntegHMACSHA256_96:
			return t.KeyBits == 0
		}
	case KE:
		switch t.ID {
		case KENone, KEMODP1024, KEMODP1536, KEMODP2048, KEMODP3072, KEMODP4096, KEMODP6144,
			KEMODP8192, KEECP256, KEECP384, KEECP521, KEX25519:
			return t.KeyBits == 0
		}
	case SN:
		return t.ID <= SNESN && t.KeyBits == 0
	}
	return false
}

// List returns the alternatives of one type in order of preference.
func (p Proposal) List(tt TransformType) []Transform {
	var out []Transform
	for _, t := range p.Transforms {
		if t.Type == tt {
			out = append(out, t)
		}
	}
	return out
}

// First returns the first transform of type tt. It is meant for a chosen
// proposal, which has at most one. INTEG NONE and KE NONE count as absent.
func (p Proposal) First(tt TransformType) (Transform, bool) {
	for _, t := range p.Transforms {
		if t.Type != tt {
			continue
		}
		if (tt == INTEG || tt == KE) && t.ID == 0 {
			return Transform{}, false
		}
		return t, true
	}
	return Transform{}, false
}

// ESN says whether a chosen proposal uses 64-bit sequence numbers. Without a
// sequence number transform it does not.
func (p Proposal) ESN() bool {
	t, ok := p.First(SN)
	return ok && t.ID == SNESN
}

// Has says whether t is one of the alternatives.
func (p Proposal) Has(t Transform) bool {
	for _, x := range p.Transforms {
		if x == t {
			return true
		}
	}
	return false
}

// Equal compares the protocol and the transforms in order.
func (p Proposal) Equal(o Proposal) bool {
	if p.Protocol != o.Protocol || len(p.Transforms) != len(o.Transforms) {
		return false
	}
	for i, t := range p.Transforms {
		if t != o.Transforms[i] {
			return false
		}
	}
	return true
}
