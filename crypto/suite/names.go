package suite

import (
	"strconv"
	"strings"
)

// String names the type in the words of the configuration.
func (t TransformType) String() string {
	switch t {
	case ENCR:
		return "encryption"
	case PRF:
		return "PRF"
	case INTEG:
		return "integrity"
	case KE:
		return "key exchange"
	case SN:
		return "sequence numbers"
	}
	return "transform type " + strconv.Itoa(int(t))
}

// String is IKE, AH, ESP, IPCOMP or NONE.
func (p Protocol) String() string {
	switch p {
	case ProtoNone:
		return "NONE"
	case ProtoIKE:
		return "IKE"
	case ProtoAH:
		return "AH"
	case ProtoESP:
		return "ESP"
	case ProtoIPComp:
		return "IPCOMP"
	}
	return "(" + strconv.Itoa(int(p)) + ")"
}

// Name is the printed name without the key length, such as AES_GCM_16. Names
// are those of the VICI control protocol. An unknown number prints as (n).
func (t Transform) Name() string {
	if s, ok := transformName(t.Type, t.ID); ok {
		return s
	}
	return "(" + strconv.Itoa(int(t.ID)) + ")"
}

// String is the printed name with the key length in bits, such as
// AES_GCM_16_128.
func (t Transform) String() string {
	if t.KeyBits == 0 {
		return t.Name()
	}
	return t.Name() + "_" + strconv.Itoa(int(t.KeyBits))
}

// String prints a proposal as in ESP:AES_GCM_16_128/NO_EXT_SEQ: encryption,
// integrity, PRF, key exchange, sequence numbers, then everything else.
func (p Proposal) String() string {
	var b strings.Builder
	b.WriteString(p.Protocol.String())
	b.WriteByte(':')
	sep := ""
	for _, tt := range [...]TransformType{ENCR, INTEG, PRF, KE, SN, 0} {
		for _, t := range p.Transforms {
			if t.Type == tt || tt == 0 && (t.Type == 0 || t.Type > SN) {
				b.WriteString(sep)
				sep = "/"
				if tt == 0 {
					b.WriteString("TYPE_" + strconv.Itoa(int(t.Type)) + "_")
				}
				b.WriteString(t.String())
			}
		}
	}
	return b.String()
}

// joinTransforms prints a list for people; an empty list is "nothing".
func joinTransforms(ts []Transform) string {
	if len(ts) == 0 {
		return "nothing"
	}
	s := make([]string, len(ts))
	for i, t := range ts {
		s[i] = t.String()
	}
	return strings.Join(s, ", ")
}

func transformName(tt TransformType, id uint16) (string, bool) {
	var s string
	switch tt {
	case ENCR:
		s = encrName(id)
	case PRF:
		s = prfName(id)
	case INTEG:
		s = integName(id)
	case KE:
		s = keName(id)
	case SN:
		switch id {
		case SNNoESN:
			s = "NO_EXT_SEQ"
		case SNESN:
			s = "EXT_SEQ"
		}
	}
	return s, s != ""
}

func encrName(id uint16) string {
	switch id {
	case 1:
		return "DES_IV64"
	case encrDES:
		return "DES_CBC"
	case Encr3DES:
		return "3DES_CBC"
	case 4:
		return "RC5_CBC"
	case 5:
		return "IDEA_CBC"
	case encrCAST:
		return "CAST_CBC"
	case encrBlowfish:
		return "BLOWFISH_CBC"
	case 8:
		return "3IDEA"
	case 9:
		return "DES_IV32"
	case EncrNull:
		return "NULL"
	case EncrAESCBC:
		return "AES_CBC"
	case EncrAESCTR:
		return "AES_CTR"
	case EncrAESCCM8:
		return "AES_CCM_8"
	case EncrAESCCM12:
		return "AES_CCM_12"
	case EncrAESCCM16:
		return "AES_CCM_16"
	case EncrAESGCM8:
		return "AES_GCM_8"
	case EncrAESGCM12:
		return "AES_GCM_12"
	case EncrAESGCM16:
		return "AES_GCM_16"
	case EncrNullAESGMAC:
		return "NULL_AES_GMAC"
	case encrCamelliaCBC:
		return "CAMELLIA_CBC"
	case encrCamelliaCTR:
		return "CAMELLIA_CTR"
	case encrCamelliaCCM8:
		return "CAMELLIA_CCM_8"
	case encrCamelliaCCM12:
		return "CAMELLIA_CCM_12"
	case encrCamelliaCCM16:
		return "CAMELLIA_CCM_16"
	case EncrChaCha20Poly1305:
		return "CHACHA20_POLY1305"
	case encrSerpent:
		return "SERPENT_CBC"
	case encrTwofish:
		return "TWOFISH_CBC"
	}
	return ""
}

func prfName(id uint16) string {
	switch id {
	case PRFHMACMD5:
		return "PRF_HMAC_MD5"
	case PRFHMACSHA1:
		return "PRF_HMAC_SHA1"
	case 3:
		return "PRF_HMAC_TIGER"
	case PRFAESXCBC:
		return "PRF_AES128_XCBC"
	case PRFHMACSHA256:
		return "PRF_HMAC_SHA2_256"
	case PRFHMACSHA384:
		return "PRF_HMAC_SHA2_384"
	case PRFHMACSHA512:
		return "PRF_HMAC_SHA2_512"
	case PRFAESCMAC:
		return "PRF_AES128_CMAC"
	case prfCamelliaXCBC:
		return "PRF_CAMELLIA128_XCBC"
	}
	return ""
}

func integName(id uint16) string {
	switch id {
	case IntegNone:
		return "NONE"
	case IntegHMACMD5_96:
		return "HMAC_MD5_96"
	case IntegHMACSHA1_96:
		return "HMAC_SHA1_96"
	case 3:
		return "DES_MAC"
	case 4:
		return "KPDK_MD5"
	case IntegAESXCBC96:
		return "AES_XCBC_96"
	case integHMACMD5_128:
		return "HMAC_MD5_128"
	case IntegHMACSHA1_160:
		return "HMAC_SHA1_160"
	case IntegAESCMAC96:
		return "AES_CMAC_96"
	case IntegAES128GMAC:
		return "AES_128_GMAC"
	case IntegAES192GMAC:
		return "AES_192_GMAC"
	case IntegAES256GMAC:
		return "AES_256_GMAC"
	case IntegHMACSHA256:
		return "HMAC_SHA2_256_128"
	case IntegHMACSHA384:
		return "HMAC_SHA2_384_192"
	case IntegHMACSHA512:
		return "HMAC_SHA2_512_256"
	case IntegHMACSHA256_96:
		return "HMAC_SHA2_256_96"
	case integCamelliaXCBC:
		return "CAMELLIA_XCBC_96"
	}
	return ""
}

func keName(id uint16) string {
	switch id {
	case KENone:
		return "KE_NONE"
	case 1:
		return "MODP_768"
	case KEMODP1024:
		return "MODP_1024"
	case KEMODP1536:
		return "MODP_1536"
	case KEMODP2048:
		return "MODP_2048"
	case KEMODP3072:
		return "MODP_3072"
	case KEMODP4096:
		return "MODP_4096"
	case KEMODP6144:
		return "MODP_6144"
	case KEMODP8192:
		return "MODP_8192"
	case KEECP256:
		return "ECP_256"
	case KEECP384:
		return "ECP_384"
	case KEECP521:
		return "ECP_521"
	case 22:
		return "MODP_1024_160"
	case 23:
		return "MODP_2048_224"
	case 24:
		return "MODP_2048_256"
	case 25:
		return "ECP_192"
	case 26:
		return "ECP_224"
	case 27:
		return "ECP_224_BP"
	case 28:
		return "ECP_256_BP"
	case 29:
		return "ECP_384_BP"
	case 30:
		return "ECP_512_BP"
	case KEX25519:
		return "CURVE_25519"
	case KEX448:
		return "CURVE_448"
	case 33:
		return "GOST3410_256"
	case 34:
		return "GOST3410_512"
	case 35:
		return "ML_KEM_512"
	case 36:
		return "ML_KEM_768"
	case 37:
		return "ML_KEM_1024"
	case keMODPNull:
		return "MODP_NULL"
	}
	return ""
}
