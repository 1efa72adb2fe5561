// Package vectors reads test vectors, for tests: JSON files in a package's
// testdata, octets as hexadecimal text.
package vectors

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Hex are octets that are written as hexadecimal text.
type Hex []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}

// Load reads the list "vectors" of a file in testdata. A file without any fails
// the test, which would otherwise pass by checking nothing.
func Load[T any](t testing.TB, file string) []T {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return Parse[T](t, raw)
}

// Parse is Load for what was read already.
func Parse[T any](t testing.TB, raw []byte) []T {
	t.Helper()
	var d struct{ Vectors []T }
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Vectors) == 0 {
		t.Fatal("no vectors")
	}
	return d.Vectors
}

// Bytes are the octets of hexadecimal text.
func Bytes(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
