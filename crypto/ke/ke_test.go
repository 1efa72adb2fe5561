package ke

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"testing"

	"iked/crypto/suite"
	"iked/internal/vectors"
)

var modpGroups = map[uint16]string{
	suite.KEMODP1024: prime1024, suite.KEMODP1536: prime1536, suite.KEMODP2048: prime2048,
	suite.KEMODP3072: prime3072, suite.KEMODP4096: prime4096, suite.KEMODP6144: prime6144,
	suite.KEMODP8192: prime8192,
}

var allGroups = []uint16{
	suite.KEX25519, suite.KEECP256, suite.KEECP384, suite.KEECP521,
	suite.KEMODP1024, suite.KEMODP1536, suite.KEMODP2048, suite.KEMODP3072,
	suite.KEMODP4096, suite.KEMODP6144, suite.KEMODP8192,
}

func mustGenerate(t testing.TB, group uint16) *KeyPair {
	t.Helper()
	k, err := Generate(group, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Both sides get the same secret, in the length that SKEYSEED needs, from
// public values in the length of the wire.
func TestBothSides(t *testing.T) {
	secretLen := map[uint16]int{suite.KEX25519: 32, suite.KEECP256: 32, suite.KEECP384: 48, suite.KEECP521: 66}
	for _, g := range allGroups {
		a, b := mustGenerate(t, g), mustGenerate(t, g)
		if len(a.Public()) != PublicLen(g) || !Supported(g) || a.Group() != g {
			t.Errorf("%v: public value of %d octets, expected %d", name(g), len(a.Public()), PublicLen(g))
		}
		x, err := a.Shared(b.Public())
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Shared(a.Public())
		if err != nil {
			t.Fatal(err)
		}
		want := secretLen[g]
		if want == 0 {
			want = PublicLen(g)
		}
		if !x.Equal(y) || x.Len() != want {
			t.Errorf("%v: secrets of %d and %d octets, expected %d equal ones", name(g), x.Len(), y.Len(), want)
		}
	}
}

// The groups of RFC 2409 and RFC 3526 are safe primes of their length, that
// begin and end with 64 one bits, and 2 generates the subgroup of order (p-1)/2.
func TestPrimes(t *testing.T) {
	ones := "ffffffffffffffff"
	for g, h := range modpGroups {
		p, ok := new(big.Int).SetString(h, 16)
		if !ok || p.BitLen() != PublicLen(g)*8 || h[:16] != ones || h[len(h)-16:] != ones {
			t.Errorf("%v: malformed", name(g))
			continue
		}
		q := new(big.Int).Rsh(p, 1)
		if new(big.Int).Exp(big.NewInt(2), q, p).Cmp(big.NewInt(1)) != 0 {
			t.Errorf("%v: 2^q is not 1", name(g))
		}
		if p.BitLen() <= 2048 && (!p.ProbablyPrime(2) || !q.ProbablyPrime(2)) {
			t.Errorf("%v: not a safe prime", name(g))
		}
	}
}

// MODP agrees with a plain computation by math/big, padded on the left.
func TestMODPAgainstBig(t *testing.T) {
	for g, h := range modpGroups {
		p, _ := new(big.Int).SetString(h, 16)
		k := mustGenerate(t, g)
		x := new(big.Int).SetBytes(k.modp.priv)
		want := new(big.Int).Exp(big.NewInt(2), x, p).FillBytes(make([]byte, PublicLen(g)))
		if !bytes.Equal(k.Public(), want) {
			t.Errorf("%v: public value differs", name(g))
		}
		if min := 2 * strength(g); x.BitLen() < min {
			t.Errorf("%v: exponent of %d bits, at least %d needed", name(g), x.BitLen(), min)
		}
		y := new(big.Int).Exp(big.NewInt(2), big.NewInt(123456789), p)
		s, err := k.Shared(y.FillBytes(make([]byte, PublicLen(g))))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.Reveal(), y.Exp(y, x, p).FillBytes(make([]byte, PublicLen(g)))) {
			t.Errorf("%v: secret differs", name(g))
		}
	}
}

// strength is the larger estimate of RFC 3526, Section 8, in bits.
func strength(g uint16) int {
	return map[uint16]int{
		suite.KEMODP1024: 80, suite.KEMODP1536: 120, suite.KEMODP2048: 160, suite.KEMODP3072: 210,
		suite.KEMODP4096: 240, suite.KEMODP6144: 270, suite.KEMODP8192: 310,
	}[g]
}

// RFC 7296, Section 2.14: g^ir keeps its leading zeros, and Section 3.4: so do
// public values.
func TestLeadingZeros(t *testing.T) {
	g := suite.KEMODP1024
	p, _ := new(big.Int).SetString(prime1024, 16)
	n := PublicLen(g)
	group := modpGroup(g)
	// With g = 2, an exponent below 1016 gives a public value with a zero octet.
	small, err := newMODP(g, group, []byte{0x03, 0xe8}) // 1000
	if err != nil {
		t.Fatal(err)
	}
	if len(small.Public()) != n || small.Public()[0] != 0 {
		t.Errorf("public value 2^1000 is not padded: %x", small.Public())
	}
	// A peer value whose secret starts with zero octets: y = 2, exponent 1000.
	two := make([]byte, n)
	two[n-1] = 2
	s, err := small.Shared(two)
	if err != nil {
		t.Fatal(err)
	}
	want := new(big.Int).Exp(big.NewInt(2), big.NewInt(1000), p).FillBytes(make([]byte, n))
	if s.Len() != n || !bytes.Equal(s.Reveal(), want) {
		t.Errorf("secret is not padded: %d octets", s.Len())
	}
	// ECP: search a pair whose x coordinate starts with a zero octet.
	a := mustGenerate(t, suite.KEECP256)
	for range 20000 {
		b := mustGenerate(t, suite.KEECP256)
		s, err := a.Shared(b.Public())
		if err != nil {
			t.Fatal(err)
		}
		if s.Len() != 32 {
			t.Fatalf("ECP secret of %d octets", s.Len())
		}
		if s.Reveal()[0] == 0 {
			return
		}
	}
	t.Error("no secret with a leading zero in 20000 attempts")
}

// RFC 6989, Section 2.1: 1 < y < p-1, and the length is that of the prime.
func TestMODPRefusals(t *testing.T) {
	for g, h := range modpGroups {
		p, _ := new(big.Int).SetString(h, 16)
		k := mustGenerate(t, g)
		n := PublicLen(g)
		fill := func(x *big.Int) []byte { return x.FillBytes(make([]byte, n)) }
		bad := map[string][]byte{
			"0": fill(big.NewInt(0)), "1": fill(big.NewInt(1)),
			"p-1": fill(new(big.Int).Sub(p, big.NewInt(1))), "p": fill(p),
			"p+1":          fill(new(big.Int).Add(p, big.NewInt(1))),
			"all ones":     bytes.Repeat([]byte{0xff}, n),
			"empty":        nil,
			"short":        mustGenerate(t, g).Public()[1:],
			"long":         append([]byte{0}, mustGenerate(t, g).Public()...),
			"2 in 1 octet": {2},
		}
		for what, y := range bad {
			if _, err := k.Shared(y); !errors.Is(err, ErrPublic) {
				t.Errorf("%v: %s: error %v, want ErrPublic", name(g), what, err)
			}
		}
		for what, y := range map[string][]byte{"2": fill(big.NewInt(2)), "p-2": fill(new(big.Int).Sub(p, big.NewInt(2)))} {
			if _, err := k.Shared(y); err != nil {
				t.Errorf("%v: %s refused: %v", name(g), what, err)
			}
		}
	}
}

// Points off the curve, in a wrong form, or of low order are refused.
func TestECRefusals(t *testing.T) {
	for _, g := range []uint16{suite.KEECP256, suite.KEECP384, suite.KEECP521} {
		k := mustGenerate(t, g)
		good := mustGenerate(t, g).Public()
		off := bytes.Clone(good)
		off[len(off)-1] ^= 1
		for what, y := range map[string][]byte{
			"off the curve": off, "infinity": make([]byte, len(good)), "with 0x04": append([]byte{4}, good...),
			"x only": good[:len(good)/2], "compressed": append([]byte{2}, good[:len(good)/2]...), "empty": nil,
			"ones": bytes.Repeat([]byte{0xff}, len(good)),
		} {
			if _, err := k.Shared(y); !errors.Is(err, ErrPublic) {
				t.Errorf("%v: %s: error %v, want ErrPublic", name(g), what, err)
			}
		}
	}
	// RFC 8031: the all-zero secret. u = 0 and u = 1 have low order.
	k := mustGenerate(t, suite.KEX25519)
	for _, y := range [][]byte{make([]byte, 32), append([]byte{1}, make([]byte, 31)...)} {
		if _, err := k.Shared(y); !errors.Is(err, ErrPublic) {
			t.Errorf("x25519 %x: error %v, want ErrPublic", y, err)
		}
	}
}

type wyVector struct {
	TcID                    int
	Comment, Result         string
	Public, Private, Shared vectors.Hex
}

// Wycheproof: valid points give the secret, invalid ones an error.
func TestWycheproof(t *testing.T) {
	for file, g := range map[string]uint16{
		"wycheproof_ecdh_secp256r1.json": suite.KEECP256, "wycheproof_ecdh_secp384r1.json": suite.KEECP384,
		"wycheproof_ecdh_secp521r1.json": suite.KEECP521, "wycheproof_x25519.json": suite.KEX25519,
	} {
		ran := 0
		for _, v := range vectors.Load[wyVector](t, file) {
			pub, priv := []byte(v.Public), []byte(v.Private)
			if g != suite.KEX25519 {
				// IKE carries x|y, so other encodings cannot be written in it.
				if len(pub) == 0 || pub[0] != 4 {
					continue
				}
				pub = pub[1:]
				size := PublicLen(g) / 2
				priv = new(big.Int).SetBytes(priv).FillBytes(make([]byte, size))
			}
			key, err := curveOf(g).NewPrivateKey(priv)
			if err != nil {
				t.Errorf("%s %d: private key: %v", file, v.TcID, err)
				continue
			}
			ran++
			s, err := newEC(g, key).Shared(pub)
			zero := g == suite.KEX25519 && bytes.Equal(v.Shared, make([]byte, len(v.Shared)))
			switch {
			case v.Result == "invalid" || zero:
				if !errors.Is(err, ErrPublic) {
					t.Errorf("%s %d (%s): error %v, want ErrPublic", file, v.TcID, v.Comment, err)
				}
			case err != nil || !bytes.Equal(s.Reveal(), v.Shared):
				t.Errorf("%s %d (%s): %x (%v), want %x", file, v.TcID, v.Comment, s.Reveal(), err, []byte(v.Shared))
			}
		}
		if ran < 20 {
			t.Errorf("%s: only %d cases ran", file, ran)
		}
	}
}

// RFC 5903, Section 8.1: the public value is x|y and the secret is x.
func TestRFC5903(t *testing.T) {
	key, err := curveOf(suite.KEECP256).NewPrivateKey(vectors.Bytes(t, "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433"))
	if err != nil {
		t.Fatal(err)
	}
	k := newEC(suite.KEECP256, key)
	if got := hex.EncodeToString(k.Public()); got != "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180"+
		"5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3" {
		t.Errorf("public value %s", got)
	}
	s, err := k.Shared(vectors.Bytes(t, "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63"+
		"56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab"))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(s.Reveal()); got != "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de" {
		t.Errorf("secret %s", got)
	}
}

// The same randomness gives the same key pair, so that a test can repeat an
// exchange; randomness that ends is an error.
func TestRandomness(t *testing.T) {
	for _, g := range allGroups {
		seed := bytes.Repeat([]byte{0x5a}, 2048)
		a, err := Generate(g, bytes.NewReader(seed))
		if err != nil {
			t.Fatal(err)
		}
		b, err := Generate(g, bytes.NewReader(seed))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Public(), b.Public()) {
			t.Errorf("%v: the same randomness gave two key pairs", name(g))
		}
		if _, err := Generate(g, bytes.NewReader(seed[:10])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v: short randomness: %v", name(g), err)
		}
	}
	if _, err := Generate(suite.KEECP256, bytes.NewReader(make([]byte, 1<<16))); err == nil {
		t.Error("zeros made a P-256 key")
	}
}

// What is not implemented is refused.
func TestUnsupported(t *testing.T) {
	for _, g := range []uint16{0, 1, 22, 23, 24, 25, 28, 32, 36, 1024, 65535} {
		if Supported(g) || PublicLen(g) != 0 {
			t.Errorf("group %d is supported", g)
		}
		if _, err := Generate(g, rand.Reader); err == nil {
			t.Errorf("group %d made a key", g)
		}
	}
}

// After Destroy there is no secret to be had.
func TestDestroy(t *testing.T) {
	for _, g := range []uint16{suite.KEX25519, suite.KEECP256, suite.KEMODP2048} {
		k, peer := mustGenerate(t, g), mustGenerate(t, g)
		k.Destroy()
		if _, err := k.Shared(peer.Public()); err == nil || errors.Is(err, ErrPublic) {
			t.Errorf("%v: Shared after Destroy: %v", name(g), err)
		}
	}
}

// Whatever a peer sends, Shared returns an error or a secret of the right
// length, and never panics.
func FuzzShared(f *testing.F) {
	keys := map[uint16]*KeyPair{}
	for _, g := range []uint16{suite.KEX25519, suite.KEECP256, suite.KEECP384, suite.KEECP521, suite.KEMODP1024} {
		keys[g] = mustGenerate(f, g)
		f.Add(g, keys[g].Public())
		f.Add(g, make([]byte, PublicLen(g)))
		f.Add(g, []byte{})
	}
	f.Fuzz(func(t *testing.T, g uint16, peer []byte) {
		k := keys[g]
		if k == nil {
			return
		}
		if s, err := k.Shared(peer); err == nil && s.Len() != PublicLen(g) && s.Len() != PublicLen(g)/2 {
			t.Errorf("%v: secret of %d octets", name(g), s.Len())
		}
	})
}

func BenchmarkExchange(b *testing.B) {
	for _, g := range allGroups {
		b.Run(name(g).String(), func(b *testing.B) {
			peer := mustGenerate(b, g).Public()
			for b.Loop() {
				if _, err := mustGenerate(b, g).Shared(peer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
