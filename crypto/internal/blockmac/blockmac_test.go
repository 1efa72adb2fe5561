package blockmac

import (
	"bytes"
	"hash"
	"testing"

	"iked/internal/vectors"
)

// RFC 4493, Section 4 and RFC 3566, Section 4.6, whole MACs of empty, partial,
// one-block and longer messages.
func TestVectors(t *testing.T) {
	const m = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
	const to32 = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	cases := []struct {
		name          string
		mac           func([]byte) (hash.Hash, error)
		key, msg, out string
	}{
		{"CMAC", NewCMAC, "2b7e151628aed2a6abf7158809cf4f3c", "", "bb1d6929e95937287fa37d129b756746"},
		{"CMAC", NewCMAC, "2b7e151628aed2a6abf7158809cf4f3c", m[:32], "070a16b46b4d4144f79bdd9dd04a287c"},
		{"CMAC", NewCMAC, "2b7e151628aed2a6abf7158809cf4f3c", m[:80], "dfa66747de9ae63030ca32611497c827"},
		{"CMAC", NewCMAC, "2b7e151628aed2a6abf7158809cf4f3c", m, "51f0bebf7e3b9d92fc49741779363cfe"},
		{"XCBC", NewXCBC, to32[:32], "", "75f0251d528ac01c4573dfd584d79f29"},
		{"XCBC", NewXCBC, to32[:32], to32[:6], "5b376580ae2f19afe7219ceef172756f"},
		{"XCBC", NewXCBC, to32[:32], to32[:32], "d2a246fa349b68a79998a4394ff7a263"},
		{"XCBC", NewXCBC, to32[:32], to32[:40], "47f51b4564966215b8985c63055ed308"},
		{"XCBC", NewXCBC, to32[:32], to32, "f54f0ec8d2b9f3d36807734bd5283fd4"},
	}
	for _, c := range cases {
		h, err := c.mac(vectors.Bytes(t, c.key))
		if err != nil {
			t.Fatal(err)
		}
		msg := vectors.Bytes(t, c.msg)
		for cut := range len(msg) + 1 {
			h.Reset()
			h.Write(msg[:cut])
			h.Sum(nil) // Sum leaves the state as it was
			h.Write(msg[cut:])
			if got := h.Sum([]byte{1}); !bytes.Equal(got[1:], vectors.Bytes(t, c.out)) || got[0] != 1 {
				t.Fatalf("%s of %s, cut at %d: %x, want %s", c.name, c.msg, cut, got, c.out)
			}
		}
	}
}

// Keys of other lengths are refused.
func TestKeyLength(t *testing.T) {
	for _, n := range []int{0, 15, 17} {
		if _, err := NewCMAC(make([]byte, n)); err == nil {
			t.Errorf("CMAC took a key of %d octets", n)
		}
		if _, err := NewXCBC(make([]byte, n)); err == nil {
			t.Errorf("XCBC took a key of %d octets", n)
		}
	}
	if _, err := NewXCBC(make([]byte, 32)); err == nil {
		t.Error("XCBC took a key of 32 octets")
	}
}
