package prf

import (
	"bytes"
	"encoding/hex"
	"testing"

	"iked/crypto/suite"
	"iked/internal/vectors"
)

// Known answers, among them keys shorter and longer than the fixed key size of
// the AES PRFs (RFC 4434, Section 2; RFC 4615, Section 3).
func TestSum(t *testing.T) {
	hi := hex.EncodeToString([]byte("Hi There"))
	const b20 = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"
	const to20 = "000102030405060708090a0b0c0d0e0f10111213"
	for _, c := range []struct {
		source         string
		id             uint16
		key, data, out string
	}{
		{"RFC 2202, 2", suite.PRFHMACMD5, b20[:32], hi, "9294727a3638bb1c13f48ef8158bfc9d"},
		{"RFC 2202, 3", suite.PRFHMACSHA1, b20, hi, "b617318655057264e28bc0b6fb378c8ef146be00"},
		{"RFC 4231, 4.2", suite.PRFHMACSHA256, b20, hi, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
		{"RFC 4231, 4.2", suite.PRFHMACSHA384, b20, hi, "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6"},
		{"RFC 4231, 4.2", suite.PRFHMACSHA512, b20, hi, "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"},
		{"RFC 4434, 2.1", suite.PRFAESXCBC, to20[:32], to20, "47f51b4564966215b8985c63055ed308"},
		{"RFC 4434, 2.1", suite.PRFAESXCBC, to20[:20], to20, "0fa087af7d866e7653434e602fdde835"},
		{"RFC 4434, 2.1", suite.PRFAESXCBC, to20[:32] + "edcb", to20, "8cd3c93ae598a9803006ffb67c40e9e4"},
		{"RFC 4493, 4", suite.PRFAESCMAC, "2b7e151628aed2a6abf7158809cf4f3c", "", "bb1d6929e95937287fa37d129b756746"},
		{"RFC 4493, 4", suite.PRFAESCMAC, "2b7e151628aed2a6abf7158809cf4f3c", "6bc1bee22e409f96e93d7e117393172a", "070a16b46b4d4144f79bdd9dd04a287c"},
		{"RFC 4615, 4", suite.PRFAESCMAC, to20[:32] + "edcb", to20, "84a348a4a45d235babfffc0d2b4da09a"},
		{"RFC 4615, 4", suite.PRFAESCMAC, to20[:32], to20, "980ae87b5f4c9c5214f5b6a8455e4c2d"},
		{"RFC 4615, 4", suite.PRFAESCMAC, to20[:20], to20, "290d9e112edb09ee141fcf64c0b72f3d"},
	} {
		p, err := New(c.id)
		if err != nil {
			t.Fatal(err)
		}
		data := vectors.Bytes(t, c.data)
		if got := hex.EncodeToString(p.Sum(vectors.Bytes(t, c.key), data)); got != c.out {
			t.Errorf("%s: PRF %d: %s, want %s", c.source, c.id, got, c.out)
		}
		if p.Size() != len(c.out)/2 {
			t.Errorf("PRF %d: size %d, output %d", c.id, p.Size(), len(c.out)/2)
		}
		// Several parts are one string.
		for i := range len(data) + 1 {
			if got := p.Sum(vectors.Bytes(t, c.key), data[:i], nil, data[i:]); hex.EncodeToString(got) != c.out {
				t.Errorf("PRF %d: cut at %d gives another output", c.id, i)
			}
		}
	}
}

// RFC 7296, Section 2.13: T1 = prf(K, S|1), Tn = prf(K, Tn-1|S|n), at most 255
// blocks.
func TestPlus(t *testing.T) {
	key, seed := []byte("0123456789abcdef"), []byte("seed")
	for _, id := range []uint16{suite.PRFHMACMD5, suite.PRFHMACSHA1, suite.PRFHMACSHA256, suite.PRFHMACSHA384, suite.PRFHMACSHA512, suite.PRFAESXCBC, suite.PRFAESCMAC} {
		p, err := New(id)
		if err != nil {
			t.Fatal(err)
		}
		var want, last []byte
		for i := 1; i <= 255; i++ {
			last = p.Sum(key, last, seed, []byte{byte(i)})
			want = append(want, last...)
		}
		for _, n := range []int{0, 1, p.Size() - 1, p.Size(), p.Size() + 1, 255*p.Size() - 1, 255 * p.Size()} {
			got, err := p.Plus(key, seed, n)
			if err != nil || !bytes.Equal(got, want[:n]) {
				t.Errorf("PRF %d: prf+ of %d octets differs (%v)", id, n, err)
			}
		}
		for _, n := range []int{-1, 255*p.Size() + 1, 1 << 40} {
			if _, err := p.Plus(key, seed, n); err == nil {
				t.Errorf("PRF %d: prf+ gave %d octets", id, n)
			}
		}
	}
}

// A number that is not a PRF of this build is refused.
func TestUnknown(t *testing.T) {
	for _, id := range []uint16{0, 3, 9, 1028, 65535} {
		if _, err := New(id); err == nil {
			t.Errorf("PRF %d exists", id)
		}
	}
}
