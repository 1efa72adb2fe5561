package xfrm

import (
	"fmt"

	"iked/crypto/aead"
	"iked/crypto/integ"
	"iked/crypto/suite"
	"iked/internal/secret"
	"iked/sad"
	"iked/xfrm/wire"
)

// encrName is the kernel's name of a cipher. icv is the length of the integrity
// check value in bits of a combined-mode one, 0 for the others.
func encrName(t suite.Transform) (name string, icv uint32, ok bool) {
	switch t.ID {
	case suite.EncrAESCBC:
		return "cbc(aes)", 0, true
	case suite.EncrAESCTR:
		return "rfc3686(ctr(aes))", 0, true
	case suite.Encr3DES:
		return "cbc(des3_ede)", 0, true
	case suite.EncrNull:
		return "ecb(cipher_null)", 0, true
	case suite.EncrAESGCM8:
		return "rfc4106(gcm(aes))", 64, true
	case suite.EncrAESGCM12:
		return "rfc4106(gcm(aes))", 96, true
	case suite.EncrAESGCM16:
		return "rfc4106(gcm(aes))", 128, true
	case suite.EncrAESCCM8:
		return "rfc4309(ccm(aes))", 64, true
	case suite.EncrAESCCM12:
		return "rfc4309(ccm(aes))", 96, true
	case suite.EncrAESCCM16:
		return "rfc4309(ccm(aes))", 128, true
	case suite.EncrNullAESGMAC:
		return "rfc4543(gcm(aes))", 128, true
	case suite.EncrChaCha20Poly1305:
		return "rfc7539esp(chacha20,poly1305)", 128, true
	}
	return "", 0, false
}

// integName is the kernel's name of an integrity algorithm. The truncation is
// always given to the kernel: its own default for HMAC-SHA2-256 is 96 bits, and
// RFC 4868 wants 128.
func integName(t suite.Transform) (name string, trunc uint32, ok bool) {
	switch t.ID {
	case suite.IntegHMACMD5_96:
		return "hmac(md5)", 96, true
	case suite.IntegHMACSHA1_96:
		return "hmac(sha1)", 96, true
	case suite.IntegHMACSHA1_160:
		return "hmac(sha1)", 160, true
	case suite.IntegAESXCBC96:
		return "xcbc(aes)", 96, true
	case suite.IntegAESCMAC96:
		return "cmac(aes)", 96, true
	case suite.IntegHMACSHA256_96:
		return "hmac(sha256)", 96, true
	case suite.IntegHMACSHA256:
		return "hmac(sha256)", 128, true
	case suite.IntegHMACSHA384:
		return "hmac(sha384)", 192, true
	case suite.IntegHMACSHA512:
		return "hmac(sha512)", 256, true
	}
	return "", 0, false
}

// keyLens are the octets of both keys.
func keyLens(encr, integrity suite.Transform, proto suite.Protocol) (e, i int, err error) {
	if proto == suite.ProtoAH {
		i, _, err = integ.Lens(integrity.ID)
		return 0, i, err
	}
	switch encr.ID {
	case suite.EncrAESCCM8, suite.EncrAESCCM12, suite.EncrAESCCM16:
		// RFC 4309, Section 7.1: three octets of salt behind the key.
		if encr.KeyBits != 128 && encr.KeyBits != 192 && encr.KeyBits != 256 || integrity.ID != suite.IntegNone {
			return 0, 0, fmt.Errorf("%v with %v is no combination", encr, integrity)
		}
		return int(encr.KeyBits)/8 + 3, 0, nil
	}
	return aead.KeyLens(encr, integrity)
}

// algorithms puts the algorithms and keys of an SA into attributes. The keys are
// those of the SA, not copies.
func algorithms(sa *sad.SA, a *wire.Attrs) error {
	el, il, err := keyLens(sa.Encr, sa.Integ, sa.Proto)
	if err != nil {
		return err
	}
	if sa.EncrKey.Len() != el || sa.IntegKey.Len() != il {
		return fmt.Errorf("keys of %d and %d octets, expected %d and %d", sa.EncrKey.Len(), sa.IntegKey.Len(), el, il)
	}
	return named(sa.Proto, sa.Encr, sa.Integ, sa.EncrKey, sa.IntegKey, a)
}

func named(proto suite.Protocol, encr, integrity suite.Transform, encrKey, integKey secret.Bytes, a *wire.Attrs) error {
	if proto == suite.ProtoESP {
		name, icv, ok := encrName(encr)
		switch {
		case !ok:
			return fmt.Errorf("the kernel has no name for %v", encr)
		case icv > 0:
			a.AlgAEAD = wire.NewAlgorithm(name, encrKey, icv)
			return nil
		}
		a.AlgCrypt = wire.NewAlgorithm(name, encrKey, 0)
	}
	name, trunc, ok := integName(integrity)
	if !ok {
		return fmt.Errorf("the kernel has no name for %v", integrity)
	}
	a.AlgAuthTrunc = wire.NewAlgorithm(name, integKey, trunc)
	return nil
}
