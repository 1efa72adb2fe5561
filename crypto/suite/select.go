package suite

// Options adjust Select. The zero value is for an ordinary exchange with a
// peer of unknown make.
type Options struct {
	// IgnoreKE leaves key exchange methods out of the comparison and of the
	// result: for the CHILD_SA that IKE_AUTH makes (RFC 7296, Section 1.2).
	IgnoreKE bool
	// AllowPrivate lets algorithms of the private range be chosen; their
	// meaning is only known with a peer of known make.
	AllowPrivate bool
}

// Choice is one proposal out of two lists. Proposal holds exactly one
// transform for each type that occurs in the peer's proposal (without KE under
// IgnoreKE), as the answer must (RFC 7296, Section 3.3). An offered NONE is
// kept; First hides it.
type Choice struct {
	OurIndex, TheirIndex int
	Proposal             Proposal
}

// Select chooses by the rules of RFC 7296, Sections 2.7 and 3.3. The first of
// ours that fits any of theirs wins, and within it our order of algorithms.
//
// A proposal with a transform type that its protocol does not define is
// skipped, and so is each algorithm that only one side knows. Key lengths must
// be equal. Absent INTEG and KE equal NONE; absent SN means 32-bit sequence
// numbers. On failure the Mismatch says for each pair what differs first.
func Select(ours, theirs []Proposal, o Options) (Choice, *Mismatch) {
	mm := &Mismatch{Ours: ours, Theirs: theirs}
	for i, our := range ours {
		for j, their := range theirs {
			ts, diff := match(our, their, o)
			if diff == nil {
				return Choice{i, j, Proposal{our.Protocol, ts}}, nil
			}
			diff.OurIndex, diff.TheirIndex = i, j
			diff.Ours, diff.Theirs = our, their
			mm.Pairs = append(mm.Pairs, *diff)
		}
	}
	return Choice{}, mm
}

// role says how a proposal of one protocol treats a transform type.
type role uint8

const (
	undefined role = iota
	optional       // absent means NONE, or 32-bit sequence numbers
	mandatory
)

// roleOf is the table of RFC 7296, Section 3.3.3. INTEG is optional here
// because combined-mode ciphers exclude it.
func roleOf(p Protocol, tt TransformType) role {
	switch tt {
	case ENCR:
		if p == ProtoIKE || p == ProtoESP {
			return mandatory
		}
	case PRF:
		if p == ProtoIKE {
			return mandatory
		}
	case INTEG:
		if p == ProtoAH {
			return mandatory
		}
		return optional
	case KE:
		if p == ProtoIKE {
			return mandatory
		}
		return optional
	case SN:
		if p == ProtoESP || p == ProtoAH {
			return optional
		}
	}
	return undefined
}

// match compares one pair; a nil PairMismatch means that ts was agreed on.
func match(our, their Proposal, o Options) (ts []Transform, diff *PairMismatch) {
	if our.Protocol != their.Protocol {
		return nil, &PairMismatch{Reason: DifferentProtocol}
	}
	for i, p := range [...]Proposal{our, their} {
		for _, t := range p.Transforms {
			if roleOf(p.Protocol, t.Type) == undefined {
				// RFC 7296, Section 3.3.6: a type that is not understood makes the
				// whole proposal unacceptable.
				return nil, &PairMismatch{Reason: UnknownType, Type: t.Type, InOurs: i == 0}
			}
		}
	}
	ts, diff = matchCipher(our, their, o)
	if diff != nil {
		return nil, diff
	}
	for _, tt := range [...]TransformType{PRF, KE, SN} {
		r := roleOf(our.Protocol, tt)
		if r == undefined || tt == KE && o.IgnoreKE {
			continue
		}
		t, ok := common(our, their, tt, o)
		if !ok || r == mandatory && (tt == KE && t.ID == KENone || !offers(our, tt) || !offers(their, tt)) {
			return nil, differ(our, their, tt, len(ts))
		}
		if offers(their, tt) {
			ts = append(ts, t)
		}
	}
	return ts, nil
}

// matchCipher chooses ENCR and INTEG together: a combined-mode cipher goes with
// no integrity algorithm or NONE, every other one with a real one (RFC 7296,
// Section 3.3).
func matchCipher(our, their Proposal, o Options) ([]Transform, *PairMismatch) {
	if roleOf(our.Protocol, ENCR) == undefined {
		integ, ok := realInteg(our, their, o)
		if !ok {
			return nil, differ(our, their, INTEG, 0)
		}
		return []Transform{integ}, nil
	}
	found := false
	for _, e := range our.List(ENCR) {
		if !their.Has(e) || refused(e, o) {
			continue
		}
		found = true
		none := Transform{INTEG, IntegNone, 0}
		switch {
		case !e.AEAD():
			if integ, ok := realInteg(our, their, o); ok {
				return []Transform{e, integ}, nil
			}
		case acceptsNone(our) && !offers(their, INTEG):
			return []Transform{e}, nil
		case acceptsNone(our) && their.Has(none):
			return []Transform{e, none}, nil
		}
	}
	if found {
		return nil, differ(our, their, INTEG, 1)
	}
	return nil, differ(our, their, ENCR, 0)
}

func acceptsNone(p Proposal) bool {
	return !offers(p, INTEG) || p.Has(Transform{INTEG, IntegNone, 0})
}

func realInteg(our, their Proposal, o Options) (Transform, bool) {
	for _, t := range our.List(INTEG) {
		if t.ID != IntegNone && their.Has(t) && !refused(t, o) {
			return t, true
		}
	}
	return Transform{}, false
}

// common is our first alternative of a type that they have too.
func common(our, their Proposal, tt TransformType, o Options) (Transform, bool) {
	theirs := effective(their, tt)
	for _, t := range effective(our, tt) {
		if refused(t, o) {
			continue
		}
		for _, x := range theirs {
			if x == t {
				return t, true
			}
		}
	}
	return Transform{}, false
}

// effective puts in what an absent KE or SN means.
func effective(p Proposal, tt TransformType) []Transform {
	l := p.List(tt)
	if len(l) == 0 && roleOf(p.Protocol, tt) == optional {
		return []Transform{{tt, 0, 0}}
	}
	return l
}

func offers(p Proposal, tt TransformType) bool {
	for _, t := range p.Transforms {
		if t.Type == tt {
			return true
		}
	}
	return false
}

func refused(t Transform, o Options) bool {
	return t.ID >= firstPrivateID && !o.AllowPrivate
}

func differ(our, their Proposal, tt TransformType, matched int) *PairMismatch {
	return &PairMismatch{
		Reason: NoCommonTransform, Type: tt, matched: matched,
		OurList: our.List(tt), TheirList: their.List(tt),
	}
}
