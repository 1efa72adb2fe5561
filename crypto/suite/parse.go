package suite

import (
	"fmt"
	"strings"
)

// maxProposalText bounds one configured proposal, in octets.
const maxProposalText = 2047

// ParseProposals reads proposals as people write them: keywords joined by "-",
// such as "aes128gcm16-prfsha256-x25519". The order within a type is the order
// of preference. An item "default" (in any case) stands for Defaults.
//
// For IKE, PRFs that are not named follow from the integrity keywords. For ESP
// and AH, proposals without "esn" or "noesn" mean "noesn". An error names the
// item, the fault, and what to write instead.
func ParseProposals(proto Protocol, items []string) ([]Proposal, error) {
	if proto != ProtoIKE && proto != ProtoAH && proto != ProtoESP {
		return nil, fmt.Errorf("proposals for protocol %v: expected IKE, ESP or AH", proto)
	}
	table := keywords()
	var out []Proposal
	for _, item := range items {
		item = strings.TrimSpace(item)
		if strings.EqualFold(item, "default") {
			out = append(out, Defaults(proto)...)
			continue
		}
		p, err := parseProposal(proto, item, table)
		if err != nil {
			return nil, fmt.Errorf("%v proposal %q: %w", proto, clip(item), err)
		}
		out = append(out, p)
	}
	return out, nil
}

func clip(s string) string {
	if len(s) > 128 {
		return s[:128] + "..."
	}
	return s
}

func parseProposal(proto Protocol, item string, table map[string]Transform) (Proposal, error) {
	if item == "" {
		return Proposal{}, fmt.Errorf("is empty; write keywords joined by \"-\", or \"default\"")
	}
	if len(item) > maxProposalText {
		return Proposal{}, fmt.Errorf("has %d characters, at most %d are read", len(item), maxProposalText)
	}
	p := Proposal{Protocol: proto}
	for word := range strings.SplitSeq(item, "-") {
		t, err := lookUp(strings.TrimSpace(word), table)
		if err != nil {
			return Proposal{}, err
		}
		if !p.Has(t) {
			p.Transforms = append(p.Transforms, t)
		}
	}
	var err error
	switch proto {
	case ProtoIKE:
		p, err = completeIKE(p)
	case ProtoESP:
		p, err = completeESP(p)
	case ProtoAH:
		p, err = completeAH(p)
	}
	if err != nil {
		return Proposal{}, err
	}
	for _, t := range p.Transforms {
		if !t.Implemented() {
			return Proposal{}, fmt.Errorf("this build does not implement %v %v", t.Type, t)
		}
	}
	return p, nil
}

// forbidden tells of what must not be negotiated though it is implemented: HMAC-MD5
// (RFC 8247, Sections 2.2 and 2.3; RFC 8221, Section 6).
func forbidden(t Transform) bool {
	return t.Type == INTEG && t.ID == IntegHMACMD5_96 || t.Type == PRF && t.ID == PRFHMACMD5
}

// lookUp finds one keyword. An algorithm that the grammar knows and the build
// lacks is refused here, with the keyword that was written.
func lookUp(word string, table map[string]Transform) (Transform, error) {
	if word == "" {
		return Transform{}, fmt.Errorf("has an empty keyword; write keywords joined by a single \"-\"")
	}
	if t, ok := table[word]; ok {
		if forbidden(t) {
			return Transform{}, fmt.Errorf("keyword %q (%v): HMAC-MD5 must not be used any more; use \"sha256\"", word, t)
		}
		if !t.Implemented() {
			return Transform{}, fmt.Errorf("keyword %q (%v): this build does not implement it; remove it or choose another %v algorithm", word, t, t.Type)
		}
		return t, nil
	}
	if n, rest, ok := strings.Cut(word, "_"); ok && len(n) == 3 && n[:2] == "ke" && n[2] >= '1' && n[2] <= '7' {
		if t, known := table[rest]; known && t.Type == KE {
			return Transform{}, fmt.Errorf("keyword %q: this build does not implement additional key exchanges (RFC 9370); remove it", word)
		}
	}
	if strings.EqualFold(word, "default") {
		return Transform{}, fmt.Errorf("keyword %q stands alone as a proposal, not among keywords", word)
	}
	if near := nearestKeyword(word); near != "" {
		return Transform{}, fmt.Errorf("unknown keyword %q; the nearest known keyword is %q", clip(word), near)
	}
	return Transform{}, fmt.Errorf("unknown keyword %q; known are: %s", clip(word), strings.Join(Keywords(), " "))
}

// completeIKE checks the mandatory types (RFC 7296, Section 3.3.3) and derives
// the PRFs that were left out.
func completeIKE(p Proposal) (Proposal, error) {
	encr, aead, err := checkEncr(p)
	if err != nil {
		return p, err
	}
	for _, t := range encr {
		// The registry of RFC 7296, Section 3.3.2, lists both as not allowed in IKE.
		if t.ID == EncrNull || t.ID == EncrNullAESGMAC {
			return p, fmt.Errorf("%v does not encrypt and is for ESP only; choose another encryption algorithm", t)
		}
	}
	integ, prf := p.List(INTEG), p.List(PRF)
	if len(prf) == 0 {
		prf = prfsFromInteg(integ)
	}
	if aead {
		// RFC 7296, Section 3.3: no integrity algorithm beside a combined-mode cipher.
		integ = nil
	} else if len(integ) == 0 {
		return p, fmt.Errorf("has no integrity algorithm, which %v needs; add one such as \"sha256\"", encr[0])
	}
	if len(prf) == 0 {
		return p, fmt.Errorf("has no PRF; add one such as \"prfsha256\"")
	}
	var ke []Transform
	for _, t := range p.List(KE) {
		if t.ID != KENone {
			ke = append(ke, t)
		}
	}
	if len(ke) == 0 {
		return p, fmt.Errorf("has no key exchange method; add one such as \"x25519\" or \"modp3072\"")
	}
	p.Transforms = join(encr, integ, prf, ke)
	return p, nil
}

// completeESP drops PRFs and puts in "noesn" where nothing was said.
func completeESP(p Proposal) (Proposal, error) {
	encr, aead, err := checkEncr(p)
	if err != nil {
		return p, err
	}
	integ := p.List(INTEG)
	if aead {
		integ = nil // RFC 7296, Section 3.3
	} else if len(integ) == 0 {
		// RFC 8221, Section 4: encryption must be authenticated.
		return p, fmt.Errorf("encrypts with %v but has no integrity algorithm, which leaves packets forgeable; add one such as \"sha256\" or use \"aes128gcm16\"", encr[0])
	}
	p.Transforms = join(encr, integ, p.List(KE), snOrDefault(p))
	return p, nil
}

// completeAH drops encryption and PRFs. AES-GMAC is an integrity algorithm of AH,
// one for each length of the key (RFC 4543, Section 5.2).
func completeAH(p Proposal) (Proposal, error) {
	integ := p.List(INTEG)
	for _, t := range p.List(ENCR) {
		if t.ID == EncrNullAESGMAC {
			integ = append(integ, Transform{INTEG, map[uint16]uint16{128: IntegAES128GMAC, 192: IntegAES192GMAC, 256: IntegAES256GMAC}[t.KeyBits], 0})
		}
	}
	if len(integ) == 0 {
		return p, fmt.Errorf("has no integrity algorithm; add one such as \"sha256\"")
	}
	p.Transforms = join(integ, p.List(KE), snOrDefault(p))
	return p, nil
}

func snOrDefault(p Proposal) []Transform {
	if sn := p.List(SN); len(sn) > 0 {
		return sn
	}
	return []Transform{{SN, SNNoESN, 0}}
}

// checkEncr demands encryption algorithms that are all combined-mode, or none
// of them (RFC 7296, Section 3.3).
func checkEncr(p Proposal) (encr []Transform, aead bool, err error) {
	encr = p.List(ENCR)
	if len(encr) == 0 {
		return nil, false, fmt.Errorf("has no encryption algorithm; add one such as \"aes128gcm16\"")
	}
	for _, t := range encr[1:] {
		if t.AEAD() != encr[0].AEAD() {
			return nil, false, fmt.Errorf("mixes %v and %v: combined-mode ciphers carry their own integrity; write two proposals", encr[0], t)
		}
	}
	return encr, encr[0].AEAD(), nil
}

// prfsFromInteg gives each integrity algorithm's hash as a PRF.
func prfsFromInteg(integ []Transform) []Transform {
	var out []Transform
	for _, t := range integ {
		var id uint16
		switch t.ID {
		case IntegHMACMD5_96, integHMACMD5_128:
			id = PRFHMACMD5
		case IntegHMACSHA1_96, IntegHMACSHA1_160:
			id = PRFHMACSHA1
		case IntegHMACSHA256, IntegHMACSHA256_96:
			id = PRFHMACSHA256
		case IntegHMACSHA384:
			id = PRFHMACSHA384
		case IntegHMACSHA512:
			id = PRFHMACSHA512
		case IntegAESXCBC96:
			id = PRFAESXCBC
		case IntegAESCMAC96:
			id = PRFAESCMAC
		case integCamelliaXCBC:
			id = prfCamelliaXCBC
		default:
			continue
		}
		out = appendNew(out, Transform{PRF, id, 0})
	}
	return out
}

func appendNew(ts []Transform, t Transform) []Transform {
	for _, x := range ts {
		if x == t {
			return ts
		}
	}
	return append(ts, t)
}

func join(lists ...[]Transform) []Transform {
	var out []Transform
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}
