package wire

import "iked/internal/secret"

// Algorithm is one of struct xfrm_algo, xfrm_algo_auth and xfrm_algo_aead. Name is
// the kernel's, such as "hmac(sha256)". Bits is the ICV length in bits of the
// latter two. The key is printed by nothing.
type Algorithm struct {
	Name string
	Key  secret.Bytes
	Bits uint32
	// KeyBits is the length of the key in bits: eight times its octets but for a
	// kernel that hides keys from the reader.
	KeyBits uint32
}

// NewAlgorithm takes ownership of the key.
func NewAlgorithm(name string, key secret.Bytes, icvBits uint32) *Algorithm {
	return &Algorithm{Name: name, Key: key, Bits: icvBits, KeyBits: uint32(key.Len()) * 8}
}

const (
	algNameLen = 64
	maxKeyLen  = 512 // octets; the longest key of IPsec has 64
)

// withICV tells whether an attribute has the second length.
func withICV(t uint16) bool { return t == attrAlgAEAD || t == attrAlgAuthTrunc }

func appendAlgorithm(b []byte, t uint16, a *Algorithm) []byte {
	if a == nil {
		return b
	}
	n := algNameLen + 4 + a.Key.Len()
	if withICV(t) {
		n += 4
	}
	b = attrHead(b, t, n)
	name := a.Name[:min(len(a.Name), algNameLen-1)]
	b = pad(append(b, name...), algNameLen-len(name))
	b = append32(b, a.KeyBits)
	if withICV(t) {
		b = append32(b, a.Bits)
	}
	b = append(b, a.Key.Reveal()...)
	return pad(b, align(n)-n)
}

func parseAlgorithm(t uint16, v []byte) (*Algorithm, error) {
	n := algNameLen + 4
	if withICV(t) {
		n += 4
	}
	if len(v) < n {
		return nil, malformed("algorithm of %d octets, expected at least %d", len(v), n)
	}
	r := reader{b: v}
	a := &Algorithm{}
	name := r.take(algNameLen)
	end := 0
	for end < algNameLen && name[end] != 0 {
		end++
	}
	if end == algNameLen {
		return nil, malformed("the name of an algorithm has no end")
	}
	a.Name = string(name[:end])
	a.KeyBits = r.u32()
	if withICV(t) {
		a.Bits = r.u32()
	}
	// The length is in bits and the sum must not wrap.
	if want := (uint64(a.KeyBits) + 7) / 8; want != uint64(len(r.b)) || want > maxKeyLen {
		return nil, malformed("algorithm %q with a key of %d bits, found %d octets", a.Name, a.KeyBits, len(r.b))
	}
	a.Key = secret.New(append([]byte(nil), r.b...))
	return a, nil
}

// destroy overwrites the key.
func (a *Algorithm) destroy() {
	if a != nil {
		a.Key.Destroy()
	}
}
