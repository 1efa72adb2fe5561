package kink

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxPrincipal bounds the text of a principal, in octets; maxComponents its parts.
const (
	maxPrincipal  = 1024
	maxComponents = 16
)

// Principal is a Kerberos principal. It is comparable; the zero value is none. The
// name type is not part of it (RFC 4120, Section 6.2).
type Principal struct {
	name  string // components, escaped, joined by "/"
	realm string // not escaped
}

// NewPrincipal makes a principal from the parts of its name, as they are in a
// PrincipalName.
func NewPrincipal(realm string, components ...string) (Principal, error) {
	if len(components) == 0 || len(components) > maxComponents {
		return Principal{}, fmt.Errorf("a principal of %d components; 1 to %d are possible", len(components), maxComponents)
	}
	if realm == "" {
		return Principal{}, fmt.Errorf("a principal without a realm")
	}
	size := len(realm)
	escaped := make([]string, len(components))
	for i, c := range components {
		if c == "" && len(components) == 1 {
			return Principal{}, fmt.Errorf("a principal with an empty name")
		}
		if err := checkText(c); err != nil {
			return Principal{}, err
		}
		size += len(c)
		escaped[i] = escape(c, "/@")
	}
	if err := checkText(realm); err != nil {
		return Principal{}, err
	}
	if size > maxPrincipal {
		return Principal{}, fmt.Errorf("a principal of %d octets; at most %d are possible", size, maxPrincipal)
	}
	return Principal{strings.Join(escaped, "/"), realm}, nil
}

// ParsePrincipal reads the text form name/instance@REALM. A backslash escapes: \n,
// \t, \b and \0 are the control characters, and any other character stands for
// itself (RFC 1964, Section 2.1.1). The realm must be there.
func ParsePrincipal(text string) (Principal, error) {
	parts, realm, err := split(text, func(r byte) string { return string(r) })
	if err != nil {
		return Principal{}, fmt.Errorf("principal %q: %w", clip(text), err)
	}
	p, err := NewPrincipal(realm, parts...)
	if err != nil {
		return Principal{}, fmt.Errorf("principal %q: %w", clip(text), err)
	}
	return p, nil
}

// split takes a principal's text apart. keep gives what an escaped character that
// has no meaning of its own becomes.
func split(text string, keep func(byte) string) (parts []string, realm string, err error) {
	// Each octet of a name may be escaped, and so have two.
	if len(text) > 2*(maxPrincipal+maxComponents) {
		return nil, "", fmt.Errorf("%d octets are too long", len(text))
	}
	if !utf8.ValidString(text) {
		return nil, "", fmt.Errorf("it is not UTF-8")
	}
	var b strings.Builder
	inRealm := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			if i++; i == len(text) {
				return nil, "", fmt.Errorf("it ends in a backslash")
			}
			switch text[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'b':
				b.WriteByte('\b')
			case '0':
				b.WriteByte(0)
			default:
				b.WriteString(keep(text[i]))
			}
		case c == '@' && inRealm:
			return nil, "", fmt.Errorf("it has more than one @")
		case c == '@':
			parts = append(parts, b.String())
			b.Reset()
			inRealm = true
		case c == '/' && !inRealm:
			parts = append(parts, b.String())
			b.Reset()
			if len(parts) > maxComponents {
				return nil, "", fmt.Errorf("it has more than %d components", maxComponents)
			}
		case c < ' ' || c == 0x7f:
			return nil, "", fmt.Errorf("it has a control character")
		default:
			b.WriteByte(c)
		}
	}
	if !inRealm {
		return nil, "", fmt.Errorf("it has no realm: name@REALM is expected")
	}
	return parts, b.String(), nil
}

// checkText refuses what no principal of a real realm has and what would disturb who
// reads it: control characters without an escape, and octets that are no UTF-8.
func checkText(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%q is not UTF-8", clip(s))
	}
	for _, r := range s {
		if (r < ' ' || r >= 0x7f && r < 0xa0) && !strings.ContainsRune("\n\t\b\x00", r) {
			return fmt.Errorf("%q has a control character", clip(s))
		}
	}
	return nil
}

// escape writes a component or realm as RFC 1964, Section 2.1.1 does.
func escape(s, also string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\b':
			b.WriteString(`\b`)
		case c == 0:
			b.WriteString(`\0`)
		case c == '\\' || strings.IndexByte(also, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// String is the text form; "" for none. ParsePrincipal reads it back.
func (p Principal) String() string {
	if p.IsZero() {
		return ""
	}
	return p.name + "@" + escape(p.realm, "@")
}

// IsZero tells that it is no principal.
func (p Principal) IsZero() bool { return p == Principal{} }

// Realm is the realm, without escapes.
func (p Principal) Realm() string { return p.realm }

// Components are the parts of the name, without escapes.
func (p Principal) Components() []string {
	if p.IsZero() {
		return nil
	}
	parts, _, _ := split(p.name+"@", func(r byte) string { return string(r) })
	return parts
}

// Pattern is a principal in which * stands for any characters of one component, at
// least one, or of the realm: kink/*.example.org@EXAMPLE.ORG. Upper and lower case
// differ, as in Kerberos. The zero value matches nothing.
type Pattern struct {
	text  string
	parts []string // an escaped star is star
	realm string
}

// star stands for an escaped * within a pattern; a principal cannot have it, as it
// is no UTF-8.
const star = "\xff"

// ParsePattern reads a pattern; \* is the character itself.
func ParsePattern(text string) (Pattern, error) {
	parts, realm, err := split(text, func(r byte) string {
		if r == '*' {
			return star
		}
		return string(r)
	})
	if err == nil {
		plain := make([]string, len(parts))
		for i, p := range parts {
			plain[i] = strings.ReplaceAll(p, star, "*")
		}
		_, err = NewPrincipal(strings.ReplaceAll(realm, star, "*"), plain...)
	}
	if err != nil {
		return Pattern{}, fmt.Errorf("pattern %q: %w", clip(text), err)
	}
	return Pattern{text, parts, realm}, nil
}

// String is the text as it was given.
func (pt Pattern) String() string { return pt.text }

// Exact is the one principal that a pattern without a star matches.
func (pt Pattern) Exact() (Principal, bool) {
	parts := make([]string, len(pt.parts))
	for i, s := range append(pt.parts, pt.realm) {
		if strings.Contains(s, "*") {
			return Principal{}, false
		}
		if i < len(parts) {
			parts[i] = strings.ReplaceAll(s, star, "*")
		}
	}
	p, err := NewPrincipal(strings.ReplaceAll(pt.realm, star, "*"), parts...)
	return p, err == nil
}

// Realm is the realm of all its principals; false: it has a star.
func (pt Pattern) Realm() (string, bool) {
	if pt.realm == "" || strings.Contains(pt.realm, "*") {
		return "", false
	}
	return strings.ReplaceAll(pt.realm, star, "*"), true
}

// Match tells whether the principal is one of the pattern's.
func (p Principal) Match(pt Pattern) bool {
	if p.IsZero() || len(pt.parts) == 0 {
		return false
	}
	have := p.Components()
	if len(have) != len(pt.parts) || !glob(pt.realm, p.realm) {
		return false
	}
	for i := range have {
		if !glob(pt.parts[i], have[i]) {
			return false
		}
	}
	return true
}

// glob matches a text against a pattern with stars, in time of their product at
// most: the last star alone is tried again.
func glob(pattern, s string) bool {
	i, j, back, from := 0, 0, -1, 0
	for j < len(s) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			// At least one character.
			back, from = i+1, j+1
			i, j = back, from
		case i < len(pattern) && (pattern[i] == s[j] || pattern[i] == star[0] && s[j] == '*'):
			i, j = i+1, j+1
		case back >= 0 && from < len(s):
			from++
			i, j = back, from
		default:
			return false
		}
	}
	return i == len(pattern)
}
