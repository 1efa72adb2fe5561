package ikev1

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"slices"
	"strings"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/ikev1/offer"
)

// AuthMethod is an authentication method of phase 1 (RFC 2409, Appendix A; RFC
// 4754).
type AuthMethod uint16

// Authentication methods.
const (
	MethodPSK       AuthMethod = 1
	MethodDSS       AuthMethod = 2
	MethodRSA       AuthMethod = 3
	MethodRSAEncr   AuthMethod = 4
	MethodRSARevEnc AuthMethod = 5
	MethodECDSA256  AuthMethod = 9
	MethodECDSA384  AuthMethod = 10
	MethodECDSA521  AuthMethod = 11
	// The initiator is the client of XAuth; hybrid: the client proves nothing else.
	MethodHybridRSA AuthMethod = 64221
	MethodXAuthPSK  AuthMethod = 65001
	MethodXAuthRSA  AuthMethod = 65005
)

func (m AuthMethod) String() string {
	switch m {
	case MethodPSK:
		return "pre-shared key"
	case MethodDSS:
		return "DSS signatures"
	case MethodRSA:
		return "RSA signatures"
	case MethodRSAEncr, MethodRSARevEnc:
		return "RSA encryption, which is refused because its padding is an oracle"
	case MethodXAuthPSK:
		return "pre-shared key and XAuth"
	case MethodXAuthRSA:
		return "RSA signatures and XAuth"
	case MethodHybridRSA:
		return "hybrid authentication"
	case MethodECDSA256:
		return "ECDSA with P-256"
	case MethodECDSA384:
		return "ECDSA with P-384"
	case MethodECDSA521:
		return "ECDSA with P-521"
	}
	return fmt.Sprintf("authentication method %d", uint16(m))
}

// authNames prints methods for people.
func authNames(list []AuthMethod) string {
	var out []string
	for _, m := range list {
		out = append(out, m.String())
	}
	return strings.Join(out, " or ")
}

// psk tells whether SKEYID comes from a pre-shared key.
func (m AuthMethod) psk() bool { return m == MethodPSK || m == MethodXAuthPSK }

// signs tells whether a side proves itself by a signature, else by a hash.
func (m AuthMethod) signs(initiator bool) bool {
	return !m.psk() && !(m == MethodHybridRSA && initiator)
}

// signature is the number of the signature in it (RFC 2409, Appendix A).
func (m AuthMethod) signature() uint8 {
	if m == MethodXAuthRSA || m == MethodHybridRSA {
		m = MethodRSA
	}
	return uint8(m)
}

// maxPhase1 bounds the transforms of our offer: the first message is sent before
// the peer said that it takes fragments.
const maxPhase1 = 32

// p1Hash is a hash algorithm of phase 1 (RFC 2409, Appendix A; RFC 4868): IKEv1
// has one number for what IKEv2 calls PRF and integrity.
type p1Hash struct {
	number     uint16
	prf, integ uint16
	new        func() hash.Hash
}

func p1Hashes() []p1Hash {
	return []p1Hash{
		{4, suite.PRFHMACSHA256, suite.IntegHMACSHA256, sha256.New}, {5, suite.PRFHMACSHA384, suite.IntegHMACSHA384, sha512.New384},
		{6, suite.PRFHMACSHA512, suite.IntegHMACSHA512, sha512.New}, {2, suite.PRFHMACSHA1, suite.IntegHMACSHA1_96, sha1.New},
		{1, suite.PRFHMACMD5, suite.IntegHMACMD5_96, md5.New},
	}
}

type p1Cipher struct{ number, id uint16 }

// p1Ciphers are numbers of phase 1 and of this product.
var p1Ciphers = [...]p1Cipher{{7, suite.EncrAESCBC}, {5, suite.Encr3DES}}

// transform1 is a transform of phase 1 in the words of this product.
type transform1 struct {
	proposal suite.Proposal // ENCR, INTEG, PRF and KE, one each
	auth     AuthMethod
	seconds  uint64 // 0: none was given
}

// offerPhase1 writes the transforms for the combinations that IKEv1 can say, in
// the order of the proposals. Combined-mode ciphers and methods that IKEv1 has no
// number for are left out, and so is what is behind the first maxPhase1. With
// one, all have the group of the first: Aggressive Mode sends its public value
// with the offer (RFC 2409, Section 5).
func offerPhase1(list []suite.Proposal, auth []AuthMethod, seconds uint64, one bool) []message.Transform {
	var out []message.Transform
	group := uint16(0)
	add := func(e suite.Transform, cipher, hash, kex uint16, a AuthMethod) {
		attrs := []message.Attribute{message.Basic(message.P1Encryption, cipher)}
		if e.ID != suite.Encr3DES {
			attrs = append(attrs, message.Basic(message.P1KeyLength, e.KeyBits))
		}
		attrs = append(attrs, message.Basic(message.P1Hash, hash), message.Basic(message.P1Group, kex), message.Basic(message.P1AuthMethod, uint16(a)))
		if seconds != 0 {
			attrs = append(attrs, message.Basic(message.P1LifeType, message.LifeSeconds), message.Duration(message.P1LifeDuration, seconds))
		}
		out = append(out, message.Transform{Number: uint8(len(out) + 1), ID: message.KeyIKE, Attributes: attrs})
	}
	for _, p := range list {
		for _, k := range p.List(suite.KE) {
			if !offer.GroupOfIKEv1(k.ID) || one && group != 0 && k.ID != group {
				continue
			}
			for _, e := range p.List(suite.ENCR) {
				i := slices.IndexFunc(p1Ciphers[:], func(c p1Cipher) bool { return c.id == e.ID })
				if i < 0 {
					continue
				}
				for _, h := range p1Hashes() {
					if !offersHash(p, h) {
						continue
					}
					for _, a := range auth {
						if len(out) < maxPhase1 {
							group = k.ID
							add(e, p1Ciphers[i].number, h.number, k.ID, a)
						}
					}
				}
			}
		}
	}
	return out
}

// offersHash tells whether a proposal has a hash, as integrity algorithm and as
// PRF.
func offersHash(p suite.Proposal, h p1Hash) bool {
	integ, prfs := p.List(suite.INTEG), p.List(suite.PRF)
	return slices.ContainsFunc(integ, func(t suite.Transform) bool { return t.ID == h.integ }) &&
		(len(prfs) == 0 || slices.ContainsFunc(prfs, func(t suite.Transform) bool { return t.ID == h.prf }))
}

// readPhase1 reads a transform of phase 1; why says in words why it cannot be
// chosen.
func readPhase1(t *message.Transform) (p transform1, why string) {
	if t.ID != message.KeyIKE {
		return p, "it is not KEY_IKE"
	}
	v := map[uint16]uint64{}
	life := uint64(0)
	for _, a := range t.Attributes {
		n, ok := a.Uint()
		switch {
		case a.Type == message.P1GroupType:
			continue // redundant beside a number
		case a.Type > message.P1GroupOrder || a.Type > message.P1Group && a.Type < message.P1LifeType || a.Type == message.P1PRF:
			return p, fmt.Sprintf("attribute %d is not understood", a.Type)
		case !ok:
			return p, fmt.Sprintf("attribute %d has no number", a.Type)
		case a.Type == message.P1LifeType:
			life = n
		case a.Type == message.P1LifeDuration:
			// The duration belongs to the type before it (RFC 2409, Appendix A).
			if life == uint64(message.LifeSeconds) {
				p.seconds = n
			}
		default:
			if _, twice := v[a.Type]; twice {
				return p, fmt.Sprintf("attribute %d stands twice", a.Type)
			}
			v[a.Type] = n
		}
	}
	c := slices.IndexFunc(p1Ciphers[:], func(c p1Cipher) bool { return uint64(c.number) == v[message.P1Encryption] })
	h := slices.IndexFunc(p1Hashes(), func(h p1Hash) bool { return uint64(h.number) == v[message.P1Hash] })
	bits := v[message.P1KeyLength]
	switch {
	case c < 0:
		return p, fmt.Sprintf("encryption algorithm %d is not implemented", v[message.P1Encryption])
	case h < 0:
		return p, fmt.Sprintf("hash algorithm %d is not implemented", v[message.P1Hash])
	case v[message.P1Group] > 0xffff || !offer.GroupOfIKEv1(uint16(v[message.P1Group])):
		return p, fmt.Sprintf("group %d is not implemented", v[message.P1Group])
	case v[message.P1AuthMethod] > 0xffff:
		return p, fmt.Sprintf("authentication method %d is not known", v[message.P1AuthMethod])
	case p1Ciphers[c].id == suite.Encr3DES && bits != 0:
		return p, "3DES has no key length, yet one is given"
	case p1Ciphers[c].id == suite.EncrAESCBC && bits != 128 && bits != 192 && bits != 256:
		// RFC 3602, Section 5.2: the attribute must be there.
		return p, fmt.Sprintf("AES needs a key length of 128, 192 or 256 bits, found %d", bits)
	}
	hh := p1Hashes()[h]
	p.auth = AuthMethod(v[message.P1AuthMethod])
	p.proposal = suite.Proposal{Protocol: suite.ProtoIKE, Transforms: []suite.Transform{
		{Type: suite.ENCR, ID: p1Ciphers[c].id, KeyBits: uint16(bits)}, {Type: suite.INTEG, ID: hh.integ},
		{Type: suite.PRF, ID: hh.prf}, {Type: suite.KE, ID: uint16(v[message.P1Group])},
	}}
	return p, ""
}

// hashOf is the hash algorithm of a chosen proposal.
func hashOf(p suite.Proposal) (p1Hash, error) {
	t, _ := p.First(suite.PRF)
	for _, h := range p1Hashes() {
		if h.prf == t.ID {
			return h, nil
		}
	}
	return p1Hash{}, fmt.Errorf("%v is no hash of IKEv1", t)
}

// choosePhase1 chooses among the peer's transforms: our order of proposals
// decides, the method must be one of auth, and life must not object to the lifetime. It gives the index of the
// transform in theirs. On failure the mismatch tells what differs, or why says
// it where no comparison of algorithms can.
func choosePhase1(ours []suite.Proposal, auth []AuthMethod, theirs []message.Transform, life func(transform1) string) (chosen transform1, index int, m *suite.Mismatch, why string) {
	var read []transform1
	var where []int
	var list []suite.Proposal
	why = "the peer offers no transform"
	for i := range theirs {
		p, no := readPhase1(&theirs[i])
		switch {
		case no != "" && i == 0:
			why = "none of the peer's transforms can be used; of the first one: " + no
		case no != "":
		case !slices.Contains(auth, p.auth):
			why = fmt.Sprintf("the peer wants authentication by %v, and this connection by %s", p.auth, authNames(auth))
		case life(p) != "":
			why = life(p)
		default:
			read, where, list = append(read, p), append(where, i), append(list, p.proposal)
		}
	}
	if len(list) == 0 {
		return transform1{}, 0, nil, why
	}
	c, m := suite.Select(ours, list, suite.Options{})
	if m != nil {
		return transform1{}, 0, m, ""
	}
	return read[c.TheirIndex], where[c.TheirIndex], nil, ""
}
