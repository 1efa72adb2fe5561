package integ

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"sync"
	"testing"

	"iked/crypto/suite"
	"iked/internal/vectors"
)

type macVector struct {
	TcID             int
	KeySize, TagSize int
	Key, Msg, Tag    vectors.Hex
	Valid            bool
}

// Public vectors: the ICV is the MAC cut to its length, and a changed one is
// refused.
func TestVectors(t *testing.T) {
	for _, c := range []struct {
		file string
		id   uint16
	}{
		{"wycheproof_hmac_sha1.json", suite.IntegHMACSHA1_96},
		{"wycheproof_hmac_sha1.json", suite.IntegHMACSHA1_160},
		{"wycheproof_hmac_sha256.json", suite.IntegHMACSHA256},
		{"wycheproof_hmac_sha256.json", suite.IntegHMACSHA256_96},
		{"wycheproof_hmac_sha384.json", suite.IntegHMACSHA384},
		{"wycheproof_hmac_sha512.json", suite.IntegHMACSHA512},
		{"wycheproof_aes_cmac.json", suite.IntegAESCMAC96},
	} {
		keyLen, icv, err := Lens(c.id)
		if err != nil {
			t.Fatal(err)
		}
		good, bad := 0, 0
		for _, v := range vectors.Load[macVector](t, c.file) {
			if len(v.Key) != keyLen || len(v.Tag) < icv {
				continue
			}
			m, err := New(c.id, v.Key)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, icv)
			m.Sum(got, v.Msg, nil)
			same := bytes.Equal(got, v.Tag[:icv])
			if ok := m.Verify(v.Tag[:icv], v.Msg, nil); ok != same {
				t.Errorf("%s %d: Verify says %v, Sum says %v", c.file, v.TcID, ok, same)
			}
			if v.Valid {
				good++
				if !same {
					t.Errorf("%s %d: ICV %x, want %x", c.file, v.TcID, got, v.Tag[:icv])
				}
			} else if len(v.Tag) == icv {
				bad++
				if same {
					t.Errorf("%s %d: a forged tag passed", c.file, v.TcID)
				}
			}
		}
		if good == 0 {
			t.Errorf("%s: no valid vector fits %d", c.file, c.id)
		}
		t.Logf("%s for %d: %d valid, %d forged", c.file, c.id, good, bad)
	}
}

// RFC 3566, Section 4.6, test cases 1 to 5 and 7; RFC 2403 is covered by RFC
// 2202, Section 2, test case 1 cut to 96 bits.
func TestRFCVectors(t *testing.T) {
	count := func(n int) string {
		var b []byte
		for i := range n {
			b = append(b, byte(i))
		}
		return hex.EncodeToString(b)
	}
	for _, c := range []struct {
		id            uint16
		key, msg, icv string
	}{
		{suite.IntegAESXCBC96, count(16), "", "75f0251d528ac01c4573dfd5"},
		{suite.IntegAESXCBC96, count(16), count(3), "5b376580ae2f19afe7219cee"},
		{suite.IntegAESXCBC96, count(16), count(16), "d2a246fa349b68a79998a439"},
		{suite.IntegAESXCBC96, count(16), count(20), "47f51b4564966215b8985c63"},
		{suite.IntegAESXCBC96, count(16), count(32), "f54f0ec8d2b9f3d36807734b"},
		{suite.IntegHMACMD5_96, "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", hex.EncodeToString([]byte("Hi There")), "9294727a3638bb1c13f48ef8"},
	} {
		m, err := New(c.id, vectors.Bytes(t, c.key))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, m.ICVLen())
		m.Sum(got, vectors.Bytes(t, c.msg), nil)
		if hex.EncodeToString(got) != c.icv {
			t.Errorf("%d of %s: %x, want %s", c.id, c.msg, got, c.icv)
		}
	}
}

var all = []uint16{
	suite.IntegHMACMD5_96, suite.IntegHMACSHA1_96, suite.IntegHMACSHA1_160, suite.IntegHMACSHA256,
	suite.IntegHMACSHA256_96, suite.IntegHMACSHA384, suite.IntegHMACSHA512, suite.IntegAESXCBC96, suite.IntegAESCMAC96,
}

// The tail belongs to the input (RFC 4303, Section 2.2.1), however the input is
// cut, and an ICV of a wrong length never passes.
func TestTail(t *testing.T) {
	for _, id := range all {
		keyLen, icv, err := Lens(id)
		if err != nil {
			t.Fatal(err)
		}
		m, err := New(id, bytes.Repeat([]byte{7}, keyLen))
		if err != nil {
			t.Fatal(err)
		}
		data := []byte("the quick brown fox jumps over the lazy dog")
		want := make([]byte, icv)
		m.Sum(want, data, nil)
		for i := range len(data) + 1 {
			if !m.Verify(want, data[:i], data[i:]) {
				t.Errorf("%d: cut at %d gives another ICV", id, i)
			}
		}
		for i := range icv {
			if m.Verify(want[:i], data, nil) {
				t.Errorf("%d: an ICV cut to %d octets passed", id, i)
			}
		}
		if m.Verify(append(want, 0), data, nil) {
			t.Errorf("%d: an ICV one octet too long passed", id)
		}
	}
}

// Keys have one length per algorithm (RFC 4868, Section 2.1.1), and an unknown
// algorithm is refused.
func TestKeyLength(t *testing.T) {
	for _, id := range all {
		keyLen, _, _ := Lens(id)
		for _, n := range []int{0, keyLen - 1, keyLen + 1} {
			if _, err := New(id, make([]byte, n)); err == nil {
				t.Errorf("%d: a key of %d octets was accepted", id, n)
			}
		}
	}
	for _, id := range []uint16{suite.IntegNone, 3, 4, 6, 9, 1030} {
		if _, _, err := Lens(id); err == nil {
			t.Errorf("%d: an algorithm that does not exist has lengths", id)
		}
	}
}

// One MAC serves several users at once.
func TestConcurrent(t *testing.T) {
	m, err := New(suite.IntegHMACSHA256, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		data := []byte(fmt.Sprintf("message %d", g))
		want := make([]byte, 16)
		m.Sum(want, data, nil)
		wg.Go(func() {
			for range 500 {
				if !m.Verify(want, data, nil) {
					t.Error("the ICV changed")
					return
				}
			}
		})
	}
	wg.Wait()
}
