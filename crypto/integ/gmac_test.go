package integ

import (
	"bytes"
	"slices"
	"testing"

	"iked/crypto/suite"
	"iked/internal/vectors"
)

// Public vectors: nonce is salt | IV (RFC 4543, Section 3.2), however the input is
// cut; a forged tag is refused.
func TestGMACVectors(t *testing.T) {
	ids := map[int]uint16{128: suite.IntegAES128GMAC, 192: suite.IntegAES192GMAC, 256: suite.IntegAES256GMAC}
	good, bad := map[int]int{}, 0
	for _, v := range vectors.Load[struct {
		TcID              int
		KeySize           int
		Key, IV, Msg, Tag vectors.Hex
		Valid             bool
	}](t, "wycheproof_aes_gmac.json") {
		g, err := NewGMAC(ids[v.KeySize], slices.Concat(v.Key, v.IV[:4]))
		if err != nil {
			t.Fatal(err)
		}
		icv := slices.Concat(v.IV[4:], v.Tag)
		half := len(v.Msg) / 2
		if g.Verify(icv, v.Msg) != v.Valid || g.Verify(icv, v.Msg[:half], v.Msg[half:], nil) != v.Valid {
			t.Errorf("%d: Verify says %v", v.TcID, !v.Valid)
		}
		got := slices.Concat(v.IV[4:], make([]byte, 16))
		g.Sum(got, v.Msg)
		if bytes.Equal(got, icv) != v.Valid {
			t.Errorf("%d: %x, the vector has %x", v.TcID, got, icv)
		}
		if v.Valid {
			good[v.KeySize]++
		} else {
			bad++
		}
		for n := range icv {
			if g.Verify(icv[:n], v.Msg) {
				t.Errorf("%d: an ICV cut to %d octets passed", v.TcID, n)
			}
		}
	}
	if len(good) != 3 || bad == 0 {
		t.Errorf("vectors: %v valid by key size, %d forged", good, bad)
	}
}

// Keys have one length, and neither ESP nor IKE takes a GMAC for a MAC: it would
// be without IV.
func TestGMACIsForAHOnly(t *testing.T) {
	for _, id := range []uint16{suite.IntegAES128GMAC, suite.IntegAES192GMAC, suite.IntegAES256GMAC} {
		n, _, ok := GMACLens(id)
		if !ok {
			t.Fatalf("%d is no GMAC", id)
		}
		for _, wrong := range []int{0, n - 4, n - 1, n + 1} {
			if _, err := NewGMAC(id, make([]byte, wrong)); err == nil {
				t.Errorf("%d: a key of %d octets was accepted", id, wrong)
			}
		}
		if _, _, err := Lens(id); err == nil {
			t.Errorf("%d has lengths as a MAC", id)
		}
	}
	if _, err := NewGMAC(suite.IntegHMACSHA256, make([]byte, 32)); err == nil {
		t.Error("HMAC-SHA2-256 was taken for a GMAC")
	}
}
