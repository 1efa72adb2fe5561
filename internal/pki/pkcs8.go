package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"

	"iked/internal/secret"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/scrypt"
)

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
)

// Bounds of the key derivation, so that a file cannot keep the daemon busy.
const (
	maxIterations = 10_000_000
	maxScryptMem  = 256 << 20
)

// isEncryptedPKCS8 tells whether DER looks like EncryptedPrivateKeyInfo: a
// SEQUENCE that begins with a SEQUENCE instead of a version.
func isEncryptedPKCS8(der []byte) bool {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	return in.ReadASN1(&seq, cbasn1.SEQUENCE) && seq.PeekASN1Tag(cbasn1.SEQUENCE)
}

// decryptPKCS8 opens an EncryptedPrivateKeyInfo (RFC 5958, Section 3) of the
// scheme PBES2 (RFC 8018, Section 6.2) with AES-CBC and PBKDF2 or scrypt.
//
//	SEQUENCE { SEQUENCE { PBES2, SEQUENCE { kdf, cipher } }, OCTET STRING }
func decryptPKCS8(der []byte, passphrase secret.Bytes) ([]byte, error) {
	in := cryptobyte.String(der)
	var outer, alg, params, kdf, enc cryptobyte.String
	var scheme, kdfOID, encOID asn1.ObjectIdentifier
	var data, iv []byte
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() ||
		!outer.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&scheme) ||
		!outer.ReadASN1Bytes(&data, cbasn1.OCTET_STRING) {
		return nil, errors.New("the encrypted private key is not DER")
	}
	if !scheme.Equal(oidPBES2) {
		return nil, fmt.Errorf("the private key is encrypted with the scheme %v; only PBES2 is supported: convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc", scheme)
	}
	if !alg.ReadASN1(&params, cbasn1.SEQUENCE) || !params.ReadASN1(&kdf, cbasn1.SEQUENCE) || !params.ReadASN1(&enc, cbasn1.SEQUENCE) ||
		!kdf.ReadASN1ObjectIdentifier(&kdfOID) || !enc.ReadASN1ObjectIdentifier(&encOID) {
		return nil, errors.New("the PBES2 parameters are not DER")
	}
	keyLen := map[string]int{"2.16.840.1.101.3.4.1.2": 16, "2.16.840.1.101.3.4.1.22": 24, "2.16.840.1.101.3.4.1.42": 32}[encOID.String()]
	if keyLen == 0 {
		return nil, fmt.Errorf("the private key is encrypted with the cipher %v; only AES-CBC is supported: convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc", encOID)
	}
	if !enc.ReadASN1Bytes(&iv, cbasn1.OCTET_STRING) || len(iv) != aes.BlockSize || len(data) == 0 || len(data)%aes.BlockSize != 0 {
		return nil, errors.New("the encrypted private key has no whole blocks")
	}
	key, err := deriveKey(kdfOID, kdf, passphrase, keyLen)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > aes.BlockSize {
		return nil, errWrongPassphrase
	}
	for _, b := range plain[len(plain)-pad:] {
		if int(b) != pad {
			return nil, errWrongPassphrase
		}
	}
	return plain[:len(plain)-pad], nil
}

var errWrongPassphrase = errors.New("the passphrase does not open the private key")

func deriveKey(oid asn1.ObjectIdentifier, params cryptobyte.String, passphrase secret.Bytes, keyLen int) ([]byte, error) {
	var p cryptobyte.String
	var salt []byte
	bad := errors.New("the parameters of the key derivation are not DER")
	if !params.ReadASN1(&p, cbasn1.SEQUENCE) || !p.ReadASN1Bytes(&salt, cbasn1.OCTET_STRING) {
		return nil, bad
	}
	switch {
	case oid.Equal(oidPBKDF2):
		var n, l int
		if !p.ReadASN1Integer(&n) || n < 1 {
			return nil, bad
		}
		if n > maxIterations {
			return nil, fmt.Errorf("the key derivation asks for %d iterations, at most %d are done", n, maxIterations)
		}
		if p.PeekASN1Tag(cbasn1.INTEGER) && (!p.ReadASN1Integer(&l) || l != keyLen) {
			return nil, bad
		}
		h := sha1.New // the default of RFC 8018, Appendix A.2
		if !p.Empty() {
			var prf cryptobyte.String
			var o asn1.ObjectIdentifier
			if !p.ReadASN1(&prf, cbasn1.SEQUENCE) || !prf.ReadASN1ObjectIdentifier(&o) {
				return nil, bad
			}
			switch o.String() {
			case "1.2.840.113549.2.7":
			case "1.2.840.113549.2.9":
				h = sha256.New
			case "1.2.840.113549.2.10":
				h = sha512.New384
			case "1.2.840.113549.2.11":
				h = sha512.New
			default:
				return nil, fmt.Errorf("the key derivation uses the PRF %v, which is not supported", o)
			}
		}
		return pbkdf2.Key[hash.Hash](h, string(passphrase.Reveal()), salt, n, keyLen)
	case oid.Equal(oidScrypt): // RFC 7914, Section 7
		var n, r, par int
		if !p.ReadASN1Integer(&n) || !p.ReadASN1Integer(&r) || !p.ReadASN1Integer(&par) || n < 2 || r < 1 || par < 1 {
			return nil, bad
		}
		if r > 1024 || par > 64 || n > maxScryptMem/128/r {
			return nil, errors.New("the key derivation (scrypt) asks for too much memory")
		}
		return scrypt.Key(passphrase.Reveal(), salt, n, r, par, keyLen)
	}
	return nil, fmt.Errorf("the key derivation %v is not supported; use PBKDF2 or scrypt", oid)
}
