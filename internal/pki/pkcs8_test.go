package pki

import (
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iked/internal/secret"
)

// Keys that OpenSSL encrypted are opened with their passphrase, PEM or DER; a wrong
// or missing one, an old scheme and damage are errors.
func TestEncryptedKeys(t *testing.T) {
	files, _ := filepath.Glob("testdata/encrypted-*.pem")
	if len(files) != 4 {
		t.Fatalf("found %d files", len(files))
	}
	var first *Key
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParseKey(data, secret.New([]byte("test")), f)
		if strings.HasSuffix(f, "old.pem") {
			if err == nil || !strings.Contains(err.Error(), "openssl pkcs8") {
				t.Errorf("%s: %v", f, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		if first == nil {
			first = k
		}
		if k.KeyID != first.KeyID {
			t.Errorf("%s holds another key", f)
		}
		if _, err := ParseKey(data, secret.Bytes{}, f); !errors.Is(err, ErrEncrypted) {
			t.Errorf("%s without passphrase: %v", f, err)
		}
		if _, err := ParseKey(data, secret.New([]byte("wrong")), f); err == nil {
			t.Errorf("%s opened with a wrong passphrase", f)
		}
		b, _ := pem.Decode(data)
		if _, err := ParseKey(b.Bytes, secret.New([]byte("test")), f); err != nil {
			t.Errorf("%s as DER: %v", f, err)
		}
		if strings.Contains(f, "scrypt") {
			continue // slow
		}
		for n := 0; n < len(b.Bytes); n += 9 {
			if _, err := ParseKey(b.Bytes[:n], secret.New([]byte("test")), f); err == nil {
				t.Errorf("%s: a prefix of %d octets was read", f, n)
			}
		}
	}
}
