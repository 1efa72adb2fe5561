package krb5

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"pgregory.net/rapid"

	"iked/internal/vectors"
	"iked/kink"
)

type keyVector struct {
	EType        int32       `json:"etype"`
	SessionKey   vectors.Hex `json:"session_key"`
	Ni           vectors.Hex `json:"ni_b"`
	Nr           vectors.Hex `json:"nr_b"`
	Protocol     byte        `json:"protocol"`
	SPI          vectors.Hex `json:"spi"`
	PRFLen       int         `json:"prf_len"`
	Keymat2      vectors.Hex `json:"keymat64_2way"`
	Keymat3      vectors.Hex `json:"keymat64_3way"`
	PRF          vectors.Hex `json:"prf_of_abc"`
	ChecksumType int32       `json:"cksum_type"`
	Input        vectors.Hex `json:"cksum_input"`
	Checksum     vectors.Hex `json:"cksum"`
	Plain        vectors.Hex `json:"encrypt_plain"`
	Cipher       vectors.Hex `json:"encrypt_cipher_usage39"`
}

func key(t testing.TB, id int32, b []byte) Key {
	t.Helper()
	k, err := NewKey(id, b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func prf(t testing.TB, k Key, form kink.PRFForm, b []byte) []byte {
	t.Helper()
	out, err := k.PRF(form, b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// keymat is RFC 4430, Section 7, from the pseudo-random function.
func keymat(t testing.TB, k Key, form kink.PRFForm, seed []byte, n int) []byte {
	t.Helper()
	var last, out []byte
	for len(out) < n {
		last = prf(t, k, form, append(bytes.Clone(last), seed...))
		out = append(out, last...)
	}
	return out[:n]
}

// Every encryption type agrees with MIT's library: pseudo-random function and KEYMAT,
// checksums and decryption with KINK's usages.
func TestKeysAgainstMIT(t *testing.T) {
	for _, v := range append(vectors.Load[keyVector](t, "kink_krb5_generated.json"), vectors.Load[keyVector](t, "des3.json")...) {
		t.Run(ETypeName(v.EType), func(t *testing.T) {
			k := key(t, v.EType, v.SessionKey)
			if got := prf(t, k, kink.PRFStandard, []byte("abc")); !bytes.Equal(got, v.PRF) {
				t.Errorf("PRF %x, expected %x", got, []byte(v.PRF))
			}
			if v.PRFLen > 0 {
				if got := prf(t, k, kink.PRFStandard, nil); len(got) != v.PRFLen {
					t.Errorf("PRF of %d octets, expected %d", len(got), v.PRFLen)
				}
				seed := append(append([]byte{v.Protocol}, v.SPI...), v.Ni...)
				if got := keymat(t, k, kink.PRFStandard, seed, 64); !bytes.Equal(got, v.Keymat2) {
					t.Errorf("KEYMAT of two messages\n%x, expected\n%x", got, []byte(v.Keymat2))
				}
				if got := keymat(t, k, kink.PRFStandard, append(seed, v.Nr...), 64); !bytes.Equal(got, v.Keymat3) {
					t.Errorf("KEYMAT of three messages\n%x, expected\n%x", got, []byte(v.Keymat3))
				}
			}
			sum, err := k.Checksum(kink.UsageChecksum, v.Input)
			if err != nil || !bytes.Equal(sum, v.Checksum) || k.ChecksumType() != v.ChecksumType {
				t.Errorf("checksum of type %d %x (%v), expected %d %x", k.ChecksumType(), sum, err, v.ChecksumType, []byte(v.Checksum))
			}
			if !k.Verify(kink.UsageChecksum, v.Input, v.Checksum) {
				t.Error("the checksum is not verified")
			}
			plain, err := k.Decrypt(kink.UsageEncrypt, v.Cipher)
			// The padding of a block cipher stays.
			if err != nil || !bytes.HasPrefix(plain, v.Plain) || len(plain) > len(v.Plain)+etypes[v.EType].block-1 {
				t.Errorf("decrypted to %x (%v), expected %x", plain, err, []byte(v.Plain))
			}
		})
	}
}

// RFC 8009, Appendix A.
func TestPRFOfRFC8009(t *testing.T) {
	for _, v := range vectors.Load[struct {
		EType           int32
		Key, Input, PRF vectors.Hex
	}](t, "rfc8009_prf.json") {
		for _, form := range []kink.PRFForm{kink.PRFStandard, kink.PRFRacoon2} {
			if got := prf(t, key(t, v.EType, v.Key), form, v.Input); !bytes.Equal(got, v.PRF) {
				t.Errorf("type %d: %x, expected %x", v.EType, got, []byte(v.PRF))
			}
		}
	}
}

// RFC 3961, Appendix A.1.
func TestNFold(t *testing.T) {
	for _, c := range []struct {
		bits    int
		in, out string
	}{
		{64, "012345", "be072631276b1955"},
		{56, "password", "78a07b6caf85fa"},
		{64, "Rough Consensus, and Running Code", "bb6ed30870b7f0e0"},
		{168, "password", "59e4a8ca7c0385c3c37b3f6d2000247cb6e6bd5b3e"},
		{192, "MASSACHVSETTS INSTITVTE OF TECHNOLOGY", "db3b0d8f0b061e603282b308a50841229ad798fab9540c1b"},
		{168, "Q", "518a54a215a8452a518a54a215a8452a518a54a215"},
		{168, "ba", "fb25d531ae8974499f52fd92ea9857c4ba24cf297e"},
		{64, "kerberos", "6b65726265726f73"},
		{128, "kerberos", "6b65726265726f737b9b5b2b93132b93"},
		{168, "kerberos", "8372c236344e5f1550cd0747e15d62ca7a5a3bcea4"},
		{256, "kerberos", "6b65726265726f737b9b5b2b93132b935c9bdcdad95c9899c4cae4dee6d6cae4"},
	} {
		if got := fmt.Sprintf("%x", nfold([]byte(c.in), c.bits/8)); got != c.out {
			t.Errorf("%d-fold(%q) = %s, expected %s", c.bits, c.in, got, c.out)
		}
	}
}

// The key derivation by hand is the library's, for any key; RFC 3961, Appendix A.3
// has the first one.
func TestDeriveKey(t *testing.T) {
	if got := key(t, DES3, vectors.Bytes(t, "dce06b1f64c857a11c3db57c51899b2cc1791008ce973b92")).derive("\x00\x00\x00\x01\x55"); fmt.Sprintf("%x", got) != "925179d04591a79b5d3192c4a7e9c289b049c71f6ee604cd" {
		t.Errorf("DK is %x", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SampledFrom([]int32{DES3, AES128, AES256}).Draw(t, "type")
		k, err := RandomKey(id)
		if err != nil {
			t.Fatal(err)
		}
		constant := rapid.StringN(1, 9, 12).Draw(t, "constant")
		e, err := crypto.GetEtype(id)
		if err != nil {
			t.Fatal(err)
		}
		want, err := e.DeriveKey(k.Reveal(), []byte(constant))
		if err != nil {
			t.Fatal(err)
		}
		if got := k.derive(constant); !bytes.Equal(got, want) {
			t.Fatalf("%x, expected %x", got, want)
		}
	})
}

// What is encrypted is decrypted, whatever its length; with one bit changed, a prefix,
// another usage or another key it is refused, as is a checksum.
func TestKeyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SampledFrom([]int32{DES3, AES128, AES256, SHA256, SHA384}).Draw(t, "type")
		plain := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "plain")
		k, _ := RandomKey(id)
		other, _ := RandomKey(id)
		c, err := k.Encrypt(39, plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.Decrypt(39, c)
		if err != nil || !bytes.HasPrefix(got, plain) || id != DES3 && len(got) != len(plain) {
			t.Fatalf("decrypted to %x (%v)", got, err)
		}
		sum, err := k.Checksum(40, plain)
		if err != nil || !k.Verify(40, plain, sum) {
			t.Fatal("checksum", err)
		}
		bit := rapid.IntRange(0, len(c)*8-1).Draw(t, "bit")
		c[bit/8] ^= 1 << (bit % 8)
		if _, err := k.Decrypt(39, c); err == nil {
			t.Fatal("a changed ciphertext is accepted")
		}
		c[bit/8] ^= 1 << (bit % 8)
		for n := range c {
			if _, err := k.Decrypt(39, c[:n]); err == nil {
				t.Fatalf("the first %d octets are accepted", n)
			}
		}
		if _, err := k.Decrypt(40, c); err == nil {
			t.Fatal("another usage is accepted")
		}
		if _, err := other.Decrypt(39, c); err == nil {
			t.Fatal("another key is accepted")
		}
		if k.Verify(39, plain, sum) || other.Verify(40, plain, sum) || k.Verify(40, plain, sum[1:]) || k.Verify(40, plain, nil) {
			t.Fatal("a checksum of another usage, of another key or cut is accepted")
		}
		sum[0] ^= 1
		if k.Verify(40, plain, sum) {
			t.Fatal("a changed checksum is accepted")
		}
	})
	if Panics() != 0 {
		t.Errorf("%d panics of the library", Panics())
	}
}

// Keys of the wrong size or of types that are weak are none; keys are not printed.
func TestKeyRefused(t *testing.T) {
	for id, size := range map[int32]int{DES3: 21, AES128: 32, AES256: 16, SHA256: 15, SHA384: 24, 23: 16, 1: 8, 0: 16, -1: 16} {
		if _, err := NewKey(id, make([]byte, size)); err == nil {
			t.Errorf("type %d with %d octets is a key", id, size)
		}
	}
	k := key(t, AES128, []byte("0123456789abcdef"))
	if s := fmt.Sprintf("%v %+v %#v", k, k, k); strings.Contains(s, "0123456789abcdef") || strings.Contains(s, "3031323334") {
		t.Errorf("printed as %s", s)
	}
	for _, k := range []Key{{}} {
		if _, err := k.Encrypt(1, nil); err == nil {
			t.Error("no key encrypts")
		}
		if _, err := k.Decrypt(1, make([]byte, 64)); err == nil {
			t.Error("no key decrypts")
		}
		if _, err := k.PRF(0, nil); err == nil {
			t.Error("no key has a PRF")
		}
		if k.Verify(1, nil, nil) {
			t.Error("no key verifies")
		}
	}
}

// A panic of the library is an error, and is counted.
func TestContain(t *testing.T) {
	before := Panics()
	defer panics.Store(before)
	err := func() (err error) {
		defer Contain(&err)
		var b []byte
		_ = b[len(b)-1:]
		return nil
	}()
	if err == nil || Panics() != before+1 {
		t.Errorf("error %v, %d panics", err, Panics()-before)
	}
}
