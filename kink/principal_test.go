package kink

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The text form is the one of RFC 1964, Section 2.1.1.
func TestPrincipalText(t *testing.T) {
	for _, c := range []struct {
		text, canonical string
		realm           string
		parts           []string
	}{
		{"kink/a.example.org@EXAMPLE.ORG", "", "EXAMPLE.ORG", []string{"kink", "a.example.org"}},
		{"alice@EXAMPLE.ORG", "", "EXAMPLE.ORG", []string{"alice"}},
		{`a\/b/c\@d\\e@R`, "", "R", []string{"a/b", `c@d\e`}},
		{`a\n\t\b\0@R`, "", "R", []string{"a\n\t\b\x00"}},
		{`\a\.b@R`, "a.b@R", "R", []string{"a.b"}},
		{`a@R\@S`, "", "R@S", []string{"a"}},
		{"a@/X.500/realm", "", "/X.500/realm", []string{"a"}},
		{"a/@R", "", "R", []string{"a", ""}},
		{"käse@KÄSE.DE", "", "KÄSE.DE", []string{"käse"}},
	} {
		p, err := ParsePrincipal(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if c.canonical == "" {
			c.canonical = c.text
		}
		if p.String() != c.canonical || p.Realm() != c.realm || strings.Join(p.Components(), "|") != strings.Join(c.parts, "|") {
			t.Errorf("%s: %s, realm %q, components %q", c.text, p, p.Realm(), p.Components())
		}
		if q, err := NewPrincipal(c.realm, c.parts...); err != nil || q != p {
			t.Errorf("%s from its parts is %s (%v)", c.text, q, err)
		}
	}
}

// What is no principal is refused.
func TestPrincipalRefused(t *testing.T) {
	for _, text := range []string{
		"", "@", "@R", "a", "a/b", "a@", "a@R@S", `a@R\`, "a\n@R", "a\x7f@R", "a\x1b[2J@R", "a\u0085@R", "\xff@R", "a@R\xfe", "a@R\x00", "/@", `\`,
		strings.Repeat("a/", maxComponents) + "b@R", strings.Repeat("a", maxPrincipal) + "@R", strings.Repeat("a", 1<<20) + "@R", "a@" + strings.Repeat("R", maxPrincipal),
	} {
		if p, err := ParsePrincipal(text); err == nil {
			t.Errorf("%q is %s", clip(text), clip(p.String()))
		} else if len(err.Error()) > 400 {
			t.Errorf("an error of %d octets", len(err.Error()))
		}
	}
	if (Principal{}).String() != "" || (Principal{}).Components() != nil || !(Principal{}).IsZero() {
		t.Error("the zero value is no principal")
	}
}

// A star stands for at least one character of one component, nothing else does.
func TestPatternMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"kink/*.example.org@EXAMPLE.ORG", "kink/a.example.org@EXAMPLE.ORG", true},
		{"kink/*.example.org@EXAMPLE.ORG", "kink/a.b.example.org@EXAMPLE.ORG", true},
		{"kink/*.example.org@EXAMPLE.ORG", "kink/.example.org@EXAMPLE.ORG", false},
		{"kink/*.example.org@EXAMPLE.ORG", "kink/aXexample.org@EXAMPLE.ORG", false},
		{"kink/*.example.org@EXAMPLE.ORG", "kink/a.example.org.evil.org@EXAMPLE.ORG", false},
		{"kink/*.example.org@EXAMPLE.ORG", "kink/a.example.org@EVIL.ORG", false},
		{"kink/*.example.org@EXAMPLE.ORG", "kink/a.example.org@EXAMPLE.ORG.EVIL", false},
		{"kink/*.example.org@EXAMPLE.ORG", "host/a.example.org@EXAMPLE.ORG", false},
		{"kink/*.example.org@EXAMPLE.ORG", "kink/A.EXAMPLE.ORG@EXAMPLE.ORG", false},
		{"kink/*@R", "kink/a/b@R", false},
		{"kink/*@R", `kink/a\/b@R`, true},
		{"kink/*@R", "kink@R", false},
		{"kink/*@R", "kink/@R", false},
		{"*@R", "kink/a@R", false},
		{"kink/a@*", "kink/a@ANY.WHERE", true},
		{"kink/a@*.ORG", "kink/a@B.ORG", true},
		{`kink/\*@R`, "kink/a@R", false},
		{`kink/\*@R`, "kink/*@R", true},
		{"kink/*a*b*@R", "kink/xaxbx@R", true},
		{"kink/*a*b*@R", "kink/abx@R", false},
		{"kink/a@R", "kink/a@R", true},
		{"kink/a@R", "kink/aa@R", false},
	} {
		pt, err := ParsePattern(c.pattern)
		if err != nil {
			t.Fatalf("%s: %v", c.pattern, err)
		}
		p, err := ParsePrincipal(c.name)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := p.Match(pt); got != c.want {
			t.Errorf("%s against %s: %v", c.name, c.pattern, got)
		}
	}
	any, _ := ParsePattern("*@*")
	if (Principal{}).Match(any) || (Principal{}).Match(Pattern{}) {
		t.Error("no principal matches")
	}
	p, _ := ParsePrincipal("a@R")
	if p.Match(Pattern{}) {
		t.Error("no pattern matches")
	}
	for pattern, exact := range map[string]string{"kink/a@R": "kink/a@R", `kink/\*@R`: "kink/*@R", "kink/*@R": "", "kink/a@*": ""} {
		pt, err := ParsePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := pt.Exact(); got.String() != exact || ok != (exact != "") || pt.String() != pattern {
			t.Errorf("the one principal of %s: %s", pattern, got)
		}
	}
	for _, bad := range []string{"", "*", "kink/*", "\xff@R", "a@\xff", "a@"} {
		if _, err := ParsePattern(bad); err == nil {
			t.Errorf("%q is a pattern", bad)
		}
	}
}

// A pattern with many stars costs no more than the product of the lengths.
func TestPatternCost(t *testing.T) {
	pt, err := ParsePattern("kink/" + strings.Repeat("*a", 200) + "b@R")
	if err != nil {
		t.Fatal(err)
	}
	p, _ := NewPrincipal("R", "kink", strings.Repeat("a", 900))
	if p.Match(pt) {
		t.Error("it matches")
	}
}

// Any principal survives its text; as its own pattern, with its stars escaped, it
// matches itself.
func TestPrincipalRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringOfN(rapid.RuneFrom([]rune("ab*/@\\\n\t\b\x00ü.")), 1, 8, -1)
		parts := rapid.SliceOfN(part, 1, 4).Draw(t, "parts")
		realm := part.Draw(t, "realm")
		p, err := NewPrincipal(realm, parts...)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParsePrincipal(p.String())
		if err != nil || q != p || strings.Join(q.Components(), "|") != strings.Join(parts, "|") || q.Realm() != realm {
			t.Fatalf("%q came back as %q: %v", p, q, err)
		}
		pt, err := ParsePattern(strings.ReplaceAll(p.String(), "*", `\*`))
		if err != nil || !p.Match(pt) {
			t.Fatalf("%q does not match itself: %v", p, err)
		}
		if pt, err := ParsePattern(p.String()); err != nil || !p.Match(pt) {
			t.Fatalf("%q does not match itself as a pattern: %v", p, err)
		}
	})
}

// What is read as a principal is written as text that is read as the same.
func FuzzParsePrincipal(f *testing.F) {
	for _, s := range []string{"kink/a.example.org@EXAMPLE.ORG", `a\/b\@\\@R\@`, `\n\0@R`, "*@*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePrincipal(s)
		if err != nil {
			return
		}
		if q, err := ParsePrincipal(p.String()); err != nil || q != p {
			t.Fatalf("%q became %q: %v", p, q, err)
		}
		if pt, err := ParsePattern(s); err != nil || !p.Match(pt) {
			t.Fatalf("%q as a pattern: %v", s, err)
		}
	})
}
