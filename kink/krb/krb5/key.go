// Package krb5 has the messages and keys of Kerberos 5 (RFC 4120, RFC 3961, RFC 3962,
// RFC 8009), and the files that keep keys and tickets. It is pure: bytes go in,
// values come out.
package krb5

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jcmturner/gokrb5/v8/crypto"

	"iked/internal/secret"
	"iked/kink"
)

// Encryption types.
const (
	DES3   = 16 // des3-cbc-sha1-kd
	AES128 = 17 // aes128-cts-hmac-sha1-96
	AES256 = 18 // aes256-cts-hmac-sha1-96
	SHA256 = 19 // aes128-cts-hmac-sha256-128
	SHA384 = 20 // aes256-cts-hmac-sha384-192
)

// etype is what differs between encryption types, in octets.
type etype struct {
	name string
	// key is the size of a key, confounder and mac what a ciphertext has beside the
	// text, block its unit.
	key, confounder, mac, block int
	checksum                    int32
}

// etypes: the sizes are written here as the library has a wrong one for type 20.
var etypes = map[int32]etype{
	DES3:   {"des3-cbc-sha1", 24, 8, 20, 8, 12},
	AES128: {"aes128-cts-hmac-sha1-96", 16, 16, 12, 1, 15},
	AES256: {"aes256-cts-hmac-sha1-96", 32, 16, 12, 1, 16},
	SHA256: {"aes128-cts-hmac-sha256-128", 16, 16, 16, 1, 19},
	SHA384: {"aes256-cts-hmac-sha384-192", 32, 16, 24, 1, 20},
}

// ETypeName is the name that krb5.conf uses.
func ETypeName(id int32) string {
	if e, ok := etypes[id]; ok {
		return e.name
	}
	switch id {
	case 1, 2, 3:
		return "single DES"
	case 23, 24:
		return "arcfour-hmac"
	case 25, 26:
		return "camellia"
	}
	return fmt.Sprintf("etype %d", id)
}

// panics counts faults of the library that were contained.
var panics atomic.Uint64

// Panics is how many panics of the Kerberos library were contained so far.
func Panics() uint64 { return panics.Load() }

// Contain turns a panic into an error; it is to be deferred.
func Contain(err *error) {
	if r := recover(); r != nil {
		panics.Add(1)
		*err = fmt.Errorf("a fault of the Kerberos library was contained: %v", r)
	}
}

// Key is an EncryptionKey (RFC 4120, Section 5.2.9). It fulfils kink.SessionKey.
// The zero value is no key.
type Key struct {
	etype int32
	value secret.Bytes
}

var _ kink.SessionKey = Key{}

// errIntegrity says the one thing that is known.
var errIntegrity = errors.New("the integrity check failed")

// NewKey takes the octets of a key.
func NewKey(id int32, b []byte) (Key, error) {
	e, ok := etypes[id]
	if !ok {
		return Key{}, fmt.Errorf("encryption type %d (%s) is not supported", id, ETypeName(id))
	}
	if len(b) != e.key {
		return Key{}, fmt.Errorf("a key of %s with %d octets; %d are expected", e.name, len(b), e.key)
	}
	return Key{id, secret.New(append([]byte(nil), b...))}, nil
}

// RandomKey makes a key.
func RandomKey(id int32) (Key, error) {
	e, ok := etypes[id]
	if !ok {
		return Key{}, fmt.Errorf("encryption type %d (%s) is not supported", id, ETypeName(id))
	}
	b := make([]byte, e.key)
	rand.Read(b)
	if id == DES3 {
		b = des3Key(b[:21])
	}
	return NewKey(id, b)
}

// IsZero tells that it is no key.
func (k Key) IsZero() bool { return k.etype == 0 }

// EType implements kink.SessionKey.
func (k Key) EType() int32 { return k.etype }

// Reveal returns the octets.
func (k Key) Reveal() []byte { return k.value.Reveal() }

// Equal compares in constant time.
func (k Key) Equal(o Key) bool { return k.etype == o.etype && k.value.Equal(o.value) }

// Encrypt is encrypt of RFC 3961, Section 3 with a random confounder.
func (k Key) Encrypt(usage uint32, plain []byte) (out []byte, err error) {
	defer Contain(&err)
	e, err := crypto.GetEtype(k.etype)
	if err != nil {
		return nil, err
	}
	_, out, err = e.EncryptMessage(k.value.Reveal(), plain, usage)
	return out, err
}

// Decrypt is decrypt of RFC 3961, Section 3; the integrity is checked.
func (k Key) Decrypt(usage uint32, cipher []byte) (out []byte, err error) {
	defer Contain(&err)
	// The library slices before it looks.
	d := etypes[k.etype]
	if n := len(cipher) - d.mac; k.IsZero() || n < d.confounder || n%d.block != 0 {
		return nil, errIntegrity
	}
	e, err := crypto.GetEtype(k.etype)
	if err != nil {
		return nil, err
	}
	out, err = e.DecryptMessage(k.value.Reveal(), cipher, usage)
	if err != nil {
		return nil, errIntegrity
	}
	return out, nil
}

// ChecksumType is the number of the keyed checksum that the type requires.
func (k Key) ChecksumType() int32 { return etypes[k.etype].checksum }

// Checksum is get_mic of RFC 3961, Section 3.
func (k Key) Checksum(usage uint32, b []byte) (sum []byte, err error) {
	defer Contain(&err)
	e, err := crypto.GetEtype(k.etype)
	if err != nil {
		return nil, err
	}
	return e.GetChecksumHash(k.value.Reveal(), b, usage)
}

// Verify is verify_mic of RFC 3961, Section 3, in constant time.
func (k Key) Verify(usage uint32, b, sum []byte) bool {
	want, err := k.Checksum(usage, b)
	return err == nil && len(want) > 0 && subtle.ConstantTimeCompare(want, sum) == 1
}
