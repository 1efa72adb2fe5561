package suite

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func list(t testing.TB, proto Protocol, items ...string) []Proposal {
	t.Helper()
	ps, err := ParseProposals(proto, items)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// with returns p with transforms added at the end.
func with(p Proposal, ts ...Transform) Proposal {
	return Proposal{p.Protocol, append(append([]Transform(nil), p.Transforms...), ts...)}
}

// without returns p without one transform type.
func without(p Proposal, tt TransformType) Proposal {
	out := Proposal{Protocol: p.Protocol}
	for _, x := range p.Transforms {
		if x.Type != tt {
			out.Transforms = append(out.Transforms, x)
		}
	}
	return out
}

// Our order wins, for proposals and within one (RFC 7296, Section 2.7, leaves
// the choice to the responder).
func TestOurOrderWins(t *testing.T) {
	ours := list(t, ProtoIKE, "aes256gcm16-prfsha384-ecp384-x25519", "aes128-aes256-sha256-modp2048")
	theirs := list(t, ProtoIKE, "aes256-aes128-sha256-modp2048", "aes128gcm16-aes256gcm16-prfsha256-prfsha384-x25519-ecp384")
	c, mm := Select(ours, theirs, Options{})
	if mm != nil {
		t.Fatal(mm)
	}
	if got := c.Proposal.String(); got != "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384" || c.OurIndex != 0 || c.TheirIndex != 1 {
		t.Errorf("chose %s of %d and %d", got, c.OurIndex, c.TheirIndex)
	}
	c, mm = Select(ours[1:], theirs, Options{})
	if mm != nil {
		t.Fatal(mm)
	}
	if got := c.Proposal.String(); got != "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048" {
		t.Errorf("chose %s", got)
	}
}

// The rules of RFC 7296, Section 3.3, one by one.
func TestSelectRules(t *testing.T) {
	gcm := parse1(t, ProtoESP, "aes128gcm16")
	gcmESN := parse1(t, ProtoESP, "aes128gcm16-esn")
	gcmPFS := parse1(t, ProtoESP, "aes128gcm16-x25519")
	gcmMaybe := parse1(t, ProtoESP, "aes128gcm16-x25519-none")
	cbc := parse1(t, ProtoESP, "aes128-sha256")
	ike := parse1(t, ProtoIKE, "aes128-sha256-x25519")
	noInteg := Transform{INTEG, IntegNone, 0}
	for _, c := range []struct {
		rule       string
		our, their Proposal
		o          Options
		want       string        // "" for a mismatch
		differs    TransformType // first type that differs
	}{
		{"an absent sequence number transform means 32 bits", gcm, without(gcm, SN), Options{}, "ESP:AES_GCM_16_128", 0},
		{"and so on our side", without(gcm, SN), gcm, Options{}, "ESP:AES_GCM_16_128/NO_EXT_SEQ", 0},
		{"an absent one is not ESN", gcmESN, without(gcm, SN), Options{}, "", SN},
		{"ESN against 32 bits", gcmESN, gcm, Options{}, "", SN},
		{"key lengths must be equal", gcm, parse1(t, ProtoESP, "aes256gcm16"), Options{}, "", ENCR},
		{"combined mode with INTEG NONE", gcm, with(gcm, noInteg), Options{}, "ESP:AES_GCM_16_128/NONE/NO_EXT_SEQ", 0},
		{"our INTEG NONE against none", with(gcm, noInteg), gcm, Options{}, "ESP:AES_GCM_16_128/NO_EXT_SEQ", 0},
		{"combined mode beside a real integrity algorithm", gcm, with(gcm, Transform{INTEG, IntegHMACSHA256, 0}), Options{}, "", INTEG},
		{"a plain cipher needs integrity", without(cbc, INTEG), without(cbc, INTEG), Options{}, "", INTEG},
		{"and NONE is none", with(without(cbc, INTEG), noInteg), with(without(cbc, INTEG), noInteg), Options{}, "", INTEG},
		{"we want PFS, they have none", gcmPFS, gcm, Options{}, "", KE},
		{"they want PFS, we have none", gcm, gcmPFS, Options{}, "", KE},
		{"PFS optional at the peer", gcm, gcmMaybe, Options{}, "ESP:AES_GCM_16_128/KE_NONE/NO_EXT_SEQ", 0},
		{"PFS optional here", gcmMaybe, gcm, Options{}, "ESP:AES_GCM_16_128/NO_EXT_SEQ", 0},
		{"PFS optional on both sides goes by our order", gcmMaybe, gcmMaybe, Options{}, "ESP:AES_GCM_16_128/CURVE_25519/NO_EXT_SEQ", 0},
		{"IKE_AUTH ignores key exchange", gcmPFS, gcm, Options{IgnoreKE: true}, "ESP:AES_GCM_16_128/NO_EXT_SEQ", 0},
		{"IKE_AUTH, the other way", gcm, gcmPFS, Options{IgnoreKE: true}, "ESP:AES_GCM_16_128/NO_EXT_SEQ", 0},
		{"an unknown algorithm is skipped", gcm, with(gcm, Transform{ENCR, 250, 128}, Transform{SN, 2, 0}), Options{}, "ESP:AES_GCM_16_128/NO_EXT_SEQ", 0},
		{"an unknown type spoils the proposal", gcm, with(gcm, Transform{7, 36, 0}), Options{}, "", 7},
		{"also on our side", with(gcm, Transform{7, 36, 0}), gcm, Options{}, "", 7},
		{"PRF is not defined for ESP", gcm, with(gcm, Transform{PRF, 5, 0}), Options{}, "", PRF},
		{"IKE needs a PRF", without(ike, PRF), without(ike, PRF), Options{}, "", PRF},
		{"IKE needs a key exchange", without(ike, KE), without(ike, KE), Options{}, "", KE},
		{"KE NONE is none", with(without(ike, KE), Transform{KE, KENone, 0}), with(without(ike, KE), Transform{KE, KENone, 0}), Options{}, "", KE},
		{"another PRF", ike, parse1(t, ProtoIKE, "aes128-sha256-prfsha512-x25519"), Options{}, "", PRF},
		{"private numbers need a known peer", parse1(t, ProtoESP, "aes128-sha256_96"), parse1(t, ProtoESP, "aes128-sha256_96"), Options{}, "", INTEG},
		{"private numbers with a known peer", parse1(t, ProtoESP, "aes128-sha256_96"), parse1(t, ProtoESP, "aes128-sha256_96"), Options{AllowPrivate: true}, "ESP:AES_CBC_128/HMAC_SHA2_256_96/NO_EXT_SEQ", 0},
		{"AH", parse1(t, ProtoAH, "sha256"), parse1(t, ProtoAH, "sha512-sha256"), Options{}, "AH:HMAC_SHA2_256_128/NO_EXT_SEQ", 0},
		{"AH needs integrity", without(parse1(t, ProtoAH, "sha256"), INTEG), without(parse1(t, ProtoAH, "sha256"), INTEG), Options{}, "", INTEG},
		{"ESP against AH", gcm, parse1(t, ProtoAH, "sha256"), Options{}, "", 0},
		{"a peer that mixes both kinds: the cipher that fits its integrity",
			Proposal{ProtoESP, append(without(gcm, SN).Transforms, cbc.Transforms...)},
			Proposal{ProtoESP, append(without(gcm, SN).Transforms, cbc.Transforms...)},
			Options{}, "ESP:AES_CBC_128/HMAC_SHA2_256_128/NO_EXT_SEQ", 0},
	} {
		got, mm := Select([]Proposal{c.our}, []Proposal{c.their}, c.o)
		switch {
		case c.want == "" && mm == nil:
			t.Errorf("%s: chose %v", c.rule, got.Proposal)
		case c.want == "" && mm.Pairs[0].Type != c.differs:
			t.Errorf("%s: differs in %v, want %v", c.rule, mm.Pairs[0].Type, c.differs)
		case c.want != "" && mm != nil:
			t.Errorf("%s: %v", c.rule, mm)
		case c.want != "" && got.Proposal.String() != c.want:
			t.Errorf("%s: chose %v, want %s", c.rule, got.Proposal, c.want)
		}
	}
}

// The sentence says which transforms differ on the closest pair, and what to
// change.
func TestMismatchSentence(t *testing.T) {
	for _, c := range []struct {
		proto        Protocol
		ours, theirs []string
		want         []string
	}{
		{ProtoESP, []string{"aes128gcm16"}, []string{"aes256gcm16"}, []string{
			"ESP encryption differs: we have AES_GCM_16_128, the peer has AES_GCM_16_256", "key lengths must be equal", "add AES_GCM_16_256 here"}},
		{ProtoIKE, []string{"aes128-sha256-x25519"}, []string{"3des-sha1-modp1024", "aes128-sha256-modp2048"}, []string{
			"IKE key exchange differs: we have CURVE_25519, the peer has MODP_2048", "add modp2048 here", "closest of 2 pairs"}},
		{ProtoESP, []string{"aes128gcm16-x25519"}, []string{"aes128gcm16"}, []string{"the peer has nothing", "forward secrecy", "(x25519)"}},
		{ProtoESP, []string{"aes128gcm16"}, []string{"aes128gcm16-ecp256-modp2048"}, []string{"we have nothing", "(ecp256 or modp2048)"}},
		{ProtoESP, []string{"aes128gcm16"}, []string{"aes128gcm16-esn"}, []string{"sequence numbers differs", "NO_EXT_SEQ", "esn, noesn"}},
		{ProtoESP, []string{"aes128-sha256_96"}, []string{"aes128-sha256_96"}, []string{"private number"}},
		{ProtoESP, nil, []string{"aes128gcm16"}, []string{"no proposal configured"}},
		{ProtoESP, []string{"aes128gcm16"}, nil, []string{"the peer sent no proposal"}},
	} {
		_, mm := Select(list(t, c.proto, c.ours...), list(t, c.proto, c.theirs...), Options{})
		if mm == nil {
			t.Errorf("%v against %v: no mismatch", c.ours, c.theirs)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(mm.String(), w) {
				t.Errorf("%q does not say %q", mm, w)
			}
		}
		if len(mm.Pairs) != len(c.ours)*len(c.theirs) {
			t.Errorf("%d pairs", len(mm.Pairs))
		}
		table := mm.Table()
		for _, p := range mm.Pairs {
			if !strings.Contains(table, p.Ours.String()) || !strings.Contains(table, p.Theirs.String()) {
				t.Errorf("the table lacks a proposal:\n%s", table)
			}
		}
	}
	esp, ah := list(t, ProtoESP, "aes128gcm16"), list(t, ProtoAH, "sha256")
	if _, mm := Select(esp, ah, Options{}); mm == nil || !strings.Contains(mm.Error(), "we have ESP, the peer has AH") {
		t.Errorf("%v", mm)
	}
	_, mm := Select(esp, []Proposal{with(esp[0], Transform{6, 35, 0})}, Options{})
	if mm == nil || !strings.Contains(mm.Error(), "peer's ESP proposal 1 contains transform type 6") {
		t.Errorf("%v", mm)
	}
}

// First hides NONE, and ESN reads the sequence number transform.
func TestChosen(t *testing.T) {
	p := Proposal{ProtoESP, []Transform{{ENCR, EncrAESGCM16, 128}, {INTEG, IntegNone, 0}, {KE, KENone, 0}, {SN, SNESN, 0}}}
	if _, ok := p.First(INTEG); ok {
		t.Error("INTEG NONE is an algorithm")
	}
	if _, ok := p.First(KE); ok {
		t.Error("KE NONE is a method")
	}
	if x, ok := p.First(ENCR); !ok || x.KeyBits != 128 {
		t.Error("no cipher")
	}
	if !p.ESN() || without(p, SN).ESN() || !p.Equal(p) || p.Equal(without(p, SN)) {
		t.Error("ESN or Equal")
	}
}

func genProposals(proto Protocol) *rapid.Generator[[]Proposal] {
	transform := rapid.Custom(func(t *rapid.T) Transform {
		tt := rapid.SampledFrom([]TransformType{ENCR, ENCR, PRF, INTEG, KE, SN, 7}).Draw(t, "type")
		x := Transform{Type: tt}
		switch tt {
		case ENCR:
			x.ID = rapid.SampledFrom([]uint16{EncrAESCBC, EncrAESGCM16, EncrChaCha20Poly1305, EncrNull, 99}).Draw(t, "id")
			if x.ID == EncrAESCBC || x.ID == EncrAESGCM16 {
				x.KeyBits = rapid.SampledFrom([]uint16{128, 256}).Draw(t, "bits")
			}
		case PRF:
			x.ID = rapid.SampledFrom([]uint16{PRFHMACSHA256, PRFHMACSHA512}).Draw(t, "id")
		case INTEG:
			x.ID = rapid.SampledFrom([]uint16{IntegNone, IntegHMACSHA256, IntegHMACSHA512, IntegHMACSHA256_96}).Draw(t, "id")
		case KE:
			x.ID = rapid.SampledFrom([]uint16{KENone, KEX25519, KEMODP2048}).Draw(t, "id")
		case SN:
			x.ID = rapid.SampledFrom([]uint16{SNNoESN, SNESN}).Draw(t, "id")
		}
		return x
	})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Proposal {
		var p Proposal
		p.Protocol = proto
		odd := rapid.IntRange(0, 4).Draw(t, "odd") == 0
		for _, x := range rapid.SliceOfN(transform, 0, 10).Draw(t, "transforms") {
			if odd || roleOf(proto, x.Type) != undefined {
				p.Transforms = append(p.Transforms, x)
			}
		}
		return p
	}), 0, 3)
}

// sensible is a few proposals that people write.
func sensible(proto Protocol) []Proposal {
	items := map[Protocol][]string{
		ProtoIKE: {"default", "aes128-aes256-sha256-sha512-x25519-modp2048", "aes256gcm16-aes128gcm16-prfsha512-modp2048", "aes256-sha256_96-x25519"},
		ProtoESP: {"default", "aes128-sha256-x25519-none", "null-aes256-sha512-sha256-esn-noesn", "aes256gcm16-chacha20poly1305-esn", "aes128-sha256_96"},
		ProtoAH:  {"default", "sha512-sha256-esn", "sha256_96-sha256-modp2048-none"},
	}[proto]
	ps, err := ParseProposals(proto, items)
	if err != nil {
		panic(err)
	}
	return ps
}

// Whatever two lists hold: the choice is a subset of both (an absent type being
// NONE or 32 bits), has one transform per type that the peer offered, protects
// with exactly one kind of integrity, and can be chosen again by the peer. A
// mismatch explains every pair.
func TestSelectProperty(t *testing.T) {
	chosen := 0
	rapid.Check(t, func(t *rapid.T) {
		proto := rapid.SampledFrom([]Protocol{ProtoIKE, ProtoESP, ProtoAH}).Draw(t, "protocol")
		ours := genProposals(proto).Draw(t, "ours")
		theirs := genProposals(proto).Draw(t, "theirs")
		if rapid.IntRange(0, 2).Draw(t, "related") > 0 {
			// Keywords make proposals that can fit; the peer's are shuffled and added to.
			ours = append(ours, rapid.SampledFrom(sensible(proto)).Draw(t, "sensible"))
			p := rapid.SampledFrom(sensible(proto)).Draw(t, "their sensible")
			extra := genProposals(proto).Draw(t, "extra")
			if len(extra) > 0 && rapid.Bool().Draw(t, "mix") {
				p = with(p, extra[0].Transforms...)
			}
			p.Transforms = rapid.Permutation(p.Transforms).Draw(t, "order")
			theirs = append(theirs, p)
		}
		o := Options{IgnoreKE: rapid.Bool().Draw(t, "ignoreKE"), AllowPrivate: rapid.Bool().Draw(t, "private")}
		c, mm := Select(ours, theirs, o)
		if mm != nil {
			if len(mm.Pairs) != len(ours)*len(theirs) || mm.String() == "" {
				t.Fatalf("%d pairs, %q", len(mm.Pairs), mm)
			}
			return
		}
		chosen++
		our, their, p := ours[c.OurIndex], theirs[c.TheirIndex], c.Proposal
		seen := map[TransformType]bool{}
		for _, x := range p.Transforms {
			if !their.Has(x) {
				t.Fatalf("%v was not offered by %v", x, their)
			}
			if !our.Has(x) && (x.ID != 0 || offers(our, x.Type) && x.Type != INTEG) {
				t.Fatalf("%v is not in ours, %v", x, our)
			}
			if seen[x.Type] {
				t.Fatalf("two transforms of type %v in %v", x.Type, p)
			}
			seen[x.Type] = true
			if x.ID >= firstPrivateID && !o.AllowPrivate {
				t.Fatalf("%v is private", x)
			}
		}
		for _, x := range their.Transforms {
			if !seen[x.Type] && !(x.Type == KE && o.IgnoreKE) {
				t.Fatalf("%v lacks type %v of %v", p, x.Type, their)
			}
		}
		e, hasEncr := p.First(ENCR)
		_, hasInteg := p.First(INTEG)
		if hasEncr == (proto == ProtoAH) || hasInteg == (hasEncr && e.AEAD()) {
			t.Fatalf("%v is not protected by exactly one integrity", p)
		}
		if again, mm := Select([]Proposal{p}, theirs[c.TheirIndex:c.TheirIndex+1], Options{IgnoreKE: o.IgnoreKE || proto != ProtoIKE, AllowPrivate: true}); mm != nil && !(o.IgnoreKE) {
			t.Fatalf("%v cannot be chosen again: %v", again, mm)
		}
	})
	if chosen == 0 {
		t.Error("no pair of lists fitted")
	}
	t.Logf("%d pairs of lists fitted", chosen)
}
