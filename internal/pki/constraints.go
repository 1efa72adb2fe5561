package pki

import (
	"crypto"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// DefaultMinRSA is the smallest RSA key in bits that is accepted unless a
// constraint or an option says otherwise.
const DefaultMinRSA = 2048

// ParseConstraints reads the part of an auth text that limits keys and
// signatures: "pubkey", "rsa-2048", "ecdsa-384-sha384", "rsa/pss-sha256",
// "pubkey-ed25519", "pubkey-sha256-sha384", and the same after "ike:", where the
// hashes apply to the AUTH signature only. Keywords are joined by '-'.
func ParseConstraints(text string) (Constraints, error) {
	var c Constraints
	rest, ikeOnly := strings.CutPrefix(text, "ike:")
	var hashes []uint16
	for i, word := range strings.Split(rest, "-") {
		last := len(c.Keys) - 1
		switch w := strings.ToLower(word); w {
		case "pubkey":
			if i != 0 {
				return c, fmt.Errorf("%q: pubkey can only be the first word", text)
			}
		case "rsa":
			c.Keys = append(c.Keys, KeyConstraint{Kind: KindRSA})
		case "rsa/pss":
			c.Keys = append(c.Keys, KeyConstraint{Kind: KindRSA})
			c.PSS = true
		case "ecdsa":
			c.Keys = append(c.Keys, KeyConstraint{Kind: KindECDSA})
		case "ed25519":
			c.Keys = append(c.Keys, KeyConstraint{Kind: KindEd25519})
		case "sha1":
			hashes = append(hashes, HashSHA1)
		case "sha256", "sha2_256":
			hashes = append(hashes, HashSHA256)
		case "sha384", "sha2_384":
			hashes = append(hashes, HashSHA384)
		case "sha512", "sha2_512":
			hashes = append(hashes, HashSHA512)
		case "identity":
			hashes = append(hashes, HashIdentity)
		default:
			n, err := strconv.ParseUint(w, 10, 16)
			if err != nil || last < 0 || c.Keys[last].Kind == KindEd25519 || n == 0 {
				return c, fmt.Errorf("%q in %q is not known: expected rsa, rsa/pss, ecdsa, ed25519, a size after one of them, sha256, sha384 or sha512", word, text)
			}
			c.Keys[last].Bits = int(n)
		}
	}
	c.Hashes = hashes
	if !ikeOnly {
		c.ChainHashes = slices.Clone(hashes)
	}
	return c, nil
}

// checkKey refuses a public key that the constraints or the minimum exclude.
func (c Constraints) checkKey(pub crypto.PublicKey, minRSA int) error {
	kind, bits, err := kindOf(pub)
	if err != nil {
		return err
	}
	limit := 0
	if kind == KindRSA {
		limit = minRSA
		if limit == 0 {
			limit = DefaultMinRSA
		}
	}
	if len(c.Keys) > 0 {
		found := false
		for _, k := range c.Keys {
			if k.Kind == kind {
				found = true
				if k.Bits != 0 {
					limit = k.Bits
				}
			}
		}
		if !found {
			return fmt.Errorf("an %s key is not among the kinds that auth allows", kind)
		}
	}
	if bits < limit {
		return fmt.Errorf("the %s key has %d bits, at least %d are required", kind, bits, limit)
	}
	return nil
}
