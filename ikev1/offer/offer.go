// Package offer is what phase 2 of IKEv1 offers and answers: proposals, identities
// as traffic selectors, lifetimes. KINK has the same payloads (RFC 4430, Section 6).
package offer

import (
	"encoding/binary"
	"fmt"
	"slices"

	"iked/crypto/ke"
	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/spd"
)

// Numbers of phase 2 (RFC 2407, Sections 4.4 and 4.5; RFC 4106, 4868) and of this
// product. A cipher that IKEv1 has no number for is not offered.
type (
	p2Cipher struct {
		number uint8
		id     uint16
		bits   bool // has a key length attribute
	}
	p2Integrity struct {
		number uint16 // authentication algorithm
		ah     uint8  // AH transform
		id     uint16
	}
)

var (
	p2Ciphers = [...]p2Cipher{
		{3, suite.Encr3DES, false}, {11, suite.EncrNull, false}, {12, suite.EncrAESCBC, true}, {13, suite.EncrAESCTR, true},
		{18, suite.EncrAESGCM8, true}, {19, suite.EncrAESGCM12, true}, {20, suite.EncrAESGCM16, true}, {23, suite.EncrNullAESGMAC, true},
	}
	p2Auth = [...]p2Integrity{
		{5, 5, suite.IntegHMACSHA256}, {6, 6, suite.IntegHMACSHA384}, {7, 7, suite.IntegHMACSHA512}, {2, 3, suite.IntegHMACSHA1_96}, {9, 9, suite.IntegAESXCBC96},
	}
)

// maxPhase2 bounds the transforms of one proposal of ours (RFC 2408, Section
// 3.5: the count is an octet).
const maxPhase2 = 64

// Transform is a transform of phase 2 in the words of this product.
type Transform struct {
	Proposal suite.Proposal // one transform of each type
	Encap    uint16         // 0: none was given
	Group    uint16         // 0: no perfect forward secrecy
	Seconds  uint64
	KBytes   uint64
}

// Want is what an offer of phase 2 says beside algorithms.
type Want struct {
	Encap   uint16
	Group   uint16
	Seconds uint64
	KBytes  uint64
}

func (w Want) attributes(list []message.Attribute) []message.Attribute {
	list = append(list, message.Basic(message.P2Encapsulation, w.Encap))
	if w.Group != 0 {
		list = append(list, message.Basic(message.P2Group, w.Group))
	}
	if w.Seconds != 0 {
		list = append(list, message.Basic(message.P2LifeType, message.LifeSeconds), message.Duration(message.P2LifeDuration, w.Seconds))
	}
	if w.KBytes != 0 {
		list = append(list, message.Basic(message.P2LifeType, message.LifeKilobytes), message.Duration(message.P2LifeDuration, w.KBytes))
	}
	return list
}

// GroupFor is the group of perfect forward secrecy of a configuration: the first
// that IKEv1 has. All transforms of an offer have the same (RFC 2409, Section
// 5.5).
func GroupFor(list []suite.Proposal) uint16 {
	for _, p := range list {
		for _, k := range p.List(suite.KE) {
			if GroupOfIKEv1(k.ID) {
				return k.ID
			}
		}
	}
	return 0
}

// Proposals writes the proposals: alternatives, each with its transforms.
func Proposals(list []suite.Proposal, spi uint32, w Want) []message.Proposal {
	var out []message.Proposal
	for _, p := range list {
		if kes := p.List(suite.KE); w.Group != 0 && !slices.ContainsFunc(kes, func(t suite.Transform) bool { return t.ID == w.Group }) ||
			w.Group == 0 && len(kes) > 0 && !slices.ContainsFunc(kes, func(t suite.Transform) bool { return t.ID == suite.KENone }) {
			continue
		}
		q := message.Proposal{Number: uint8(len(out) + 1), Protocol: message.Protocol(p.Protocol), SPI: binary.BigEndian.AppendUint32(nil, spi),
			Transforms: transforms(p, w, 0)}
		if len(q.Transforms) > 0 {
			out = append(out, q)
		}
	}
	return out
}

// transforms are those of a proposal, numbered behind the first ones that there are.
func transforms(p suite.Proposal, w Want, before int) (out []message.Transform) {
	for _, c := range combinations(p) {
		for _, esn := range esns(p) {
			if before+len(out) == maxPhase2 {
				break
			}
			t := message.Transform{Number: uint8(before + len(out) + 1), ID: c.id, Attributes: w.attributes(slices.Clone(c.attrs))}
			if esn {
				// RFC 4304.
				t.Attributes = append(t.Attributes, message.Basic(message.P2ESN, 1))
			}
			out = append(out, t)
		}
	}
	return out
}

func esns(p suite.Proposal) []bool {
	var out []bool
	for _, t := range p.List(suite.SN) {
		out = append(out, t.ID == suite.SNESN)
	}
	if len(out) == 0 {
		return []bool{false}
	}
	return out
}

// combination is a cipher with an authentication algorithm, or AH.
type combination struct {
	id    uint8
	attrs []message.Attribute
}

func combinations(p suite.Proposal) []combination {
	var out []combination
	if p.Protocol == suite.ProtoAH {
		for _, t := range p.List(suite.INTEG) {
			for _, a := range p2Auth {
				if a.id == t.ID {
					// RFC 2407, Section 4.4.3: AH names its algorithm twice.
					out = append(out, combination{a.ah, []message.Attribute{message.Basic(message.P2Auth, a.number)}})
				}
			}
		}
		return out
	}
	for _, e := range p.List(suite.ENCR) {
		i := slices.IndexFunc(p2Ciphers[:], func(c p2Cipher) bool { return c.id == e.ID })
		if i < 0 {
			continue
		}
		var attrs []message.Attribute
		if p2Ciphers[i].bits {
			attrs = append(attrs, message.Basic(message.P2KeyLength, e.KeyBits))
		}
		if e.AEAD() {
			out = append(out, combination{p2Ciphers[i].number, attrs})
			continue
		}
		for _, t := range p.List(suite.INTEG) {
			for _, a := range p2Auth {
				if a.id == t.ID {
					out = append(out, combination{p2Ciphers[i].number, append(slices.Clone(attrs), message.Basic(message.P2Auth, a.number))})
				}
			}
		}
	}
	return out
}

// Read reads a transform of phase 2; why says in words why it cannot be
// chosen (RFC 2407, Section 4.5: an attribute that is not understood refuses it).
func Read(proto message.Protocol, t *message.Transform) (p Transform, why string) {
	v := map[uint16]uint64{}
	life := uint64(0)
	for _, a := range t.Attributes {
		n, ok := a.Uint()
		switch {
		case a.Type == 0 || a.Type > message.P2ESN || !ok:
			return p, fmt.Sprintf("attribute %d is not understood", a.Type)
		case a.Type == message.P2LifeType:
			life = n
		case a.Type == message.P2LifeDuration:
			switch life {
			case uint64(message.LifeSeconds):
				p.Seconds = n
			case uint64(message.LifeKilobytes):
				p.KBytes = n
			default:
				return p, "a life duration has no life type before it"
			}
		case n > 0xffff:
			return p, fmt.Sprintf("attribute %d has the value %d", a.Type, n)
		default:
			if _, twice := v[a.Type]; twice {
				return p, fmt.Sprintf("attribute %d stands twice", a.Type)
			}
			v[a.Type] = n
		}
	}
	p.Encap, p.Group = uint16(v[message.P2Encapsulation]), uint16(v[message.P2Group])
	p.Proposal.Protocol = suite.Protocol(proto)
	add := func(tt suite.TransformType, id, bits uint16) {
		p.Proposal.Transforms = append(p.Proposal.Transforms, suite.Transform{Type: tt, ID: id, KeyBits: bits})
	}
	auth := v[message.P2Auth]
	switch proto {
	case message.ProtoAH:
		i := slices.IndexFunc(p2Auth[:], func(a p2Integrity) bool { return a.ah == t.ID && uint64(a.number) == auth })
		if i < 0 {
			return p, fmt.Sprintf("AH transform %d with authentication algorithm %d is not implemented", t.ID, auth)
		}
		add(suite.INTEG, p2Auth[i].id, 0)
	case message.ProtoESP:
		i := slices.IndexFunc(p2Ciphers[:], func(c p2Cipher) bool { return c.number == t.ID })
		bits := v[message.P2KeyLength]
		switch {
		case i < 0:
			return p, fmt.Sprintf("ESP transform %d is not implemented", t.ID)
		case p2Ciphers[i].bits && bits != 128 && bits != 192 && bits != 256:
			return p, fmt.Sprintf("AES needs a key length of 128, 192 or 256 bits, found %d", bits)
		case !p2Ciphers[i].bits && bits != 0:
			return p, "a cipher with one key length has none to give, yet one is given"
		}
		add(suite.ENCR, p2Ciphers[i].id, uint16(bits))
		j := slices.IndexFunc(p2Auth[:], func(a p2Integrity) bool { return uint64(a.number) == auth })
		aead := p.Proposal.Transforms[0].AEAD()
		switch {
		case aead && auth != 0:
			return p, "a combined-mode cipher has no authentication algorithm beside it, yet one is given"
		case !aead && j < 0:
			// ESP without integrity is refused whatever the peer thinks of it.
			return p, fmt.Sprintf("authentication algorithm %d is not implemented, or there is none", auth)
		case !aead:
			add(suite.INTEG, p2Auth[j].id, 0)
		}
	case message.ProtoIPComp:
		if t.ID != message.CompDeflate {
			return p, fmt.Sprintf("IPCOMP transform %d is not implemented, expected DEFLATE, %d", t.ID, message.CompDeflate)
		}
		return p, ""
	default:
		return p, proto.String() + " is not spoken here"
	}
	if p.Group != 0 {
		add(suite.KE, p.Group, 0)
	}
	sn := suite.SNNoESN
	if v[message.P2ESN] == 1 {
		sn = suite.SNESN
	}
	add(suite.SN, sn, 0)
	return p, ""
}

// ModeOf is the mode that an encapsulation attribute means, and whether it says
// UDP (RFC 3947, Section 5.1; the drafts' numbers too). None given is tunnel mode,
// as old gateways mean it.
func ModeOf(encap uint16) (m spd.Mode, udp, ok bool) {
	switch encap {
	case 0, message.EncapTunnel:
		return spd.Tunnel, false, true
	case message.EncapTransport:
		return spd.Transport, false, true
	case message.EncapUDPTunnel, message.EncapUDPTunnelDraft:
		return spd.Tunnel, true, true
	case message.EncapUDPTransport, message.EncapUDPTransportDraft:
		return spd.Transport, true, true
	case message.EncapBEET:
		return spd.BEET, false, true
	case message.EncapUDPBEET:
		return spd.BEET, true, true
	}
	return 0, false, false
}

// EncapWords is an encapsulation mode for people.
func EncapWords(encap uint16) string {
	m, udp, ok := ModeOf(encap)
	switch {
	case !ok:
		return fmt.Sprintf("encapsulation mode %d, which is not known", encap)
	case udp:
		return "mode " + ModeName(m) + " in UDP"
	}
	return "mode " + ModeName(m)
}

// GroupOfIKEv1 tells whether a key exchange method is a group of IKEv1: MODP and
// ECP groups have the same numbers. X25519 has none by any RFC; strongSwan uses
// that of IKEv2, 31, and so does this.
func GroupOfIKEv1(id uint16) bool {
	return id != 0 && (id <= 30 || id == suite.KEX25519) && ke.Supported(id)
}

// SameTransform compares the attributes; their order and form do not count. A type
// may stand more than once, as that of a lifetime does.
func SameTransform(a, b *message.Transform) bool {
	if a.ID != b.ID || len(a.Attributes) != len(b.Attributes) {
		return false
	}
	count := func(list []message.Attribute, x message.Attribute) (n int) {
		for _, y := range list {
			if x.Type == y.Type && x.Equal(y) {
				n++
			}
		}
		return n
	}
	for _, x := range a.Attributes {
		if count(a.Attributes, x) != count(b.Attributes, x) {
			return false
		}
	}
	return true
}
