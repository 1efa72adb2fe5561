package ident

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxRDNs bounds what is read of a distinguished name.
const maxRDNs = 64

// attribute is one AttributeTypeAndValue (RFC 5280, Section 4.1.2.4). value is
// the whole DER element.
type attribute struct {
	oid   string
	tag   cbasn1.Tag
	body  []byte
	value []byte
}

// attributeNames are the short names, the one to print first.
var attributeNames = []struct{ name, oid string }{
	{"C", "2.5.4.6"}, {"ST", "2.5.4.8"}, {"L", "2.5.4.7"}, {"O", "2.5.4.10"}, {"OU", "2.5.4.11"}, {"CN", "2.5.4.3"},
	{"E", "1.2.840.113549.1.9.1"}, {"Email", "1.2.840.113549.1.9.1"}, {"emailAddress", "1.2.840.113549.1.9.1"},
	{"DC", "0.9.2342.19200300.100.1.25"}, {"UID", "0.9.2342.19200300.100.1.1"},
	{"serialNumber", "2.5.4.5"}, {"SN", "2.5.4.5"}, {"S", "2.5.4.4"}, {"T", "2.5.4.12"}, {"D", "2.5.4.13"},
	{"N", "2.5.4.41"}, {"G", "2.5.4.42"}, {"I", "2.5.4.43"}, {"dnQualifier", "2.5.4.46"}, {"pseudonym", "2.5.4.65"},
	{"ID", "2.5.4.45"}, {"street", "2.5.4.9"}, {"postalCode", "2.5.4.17"},
	{"unstructuredName", "1.2.840.113549.1.9.2"}, {"UN", "1.2.840.113549.1.9.2"}, {"unstructuredAddress", "1.2.840.113549.1.9.8"},
	{"EN", "2.16.840.1.113730.3.1.3"}, {"ET", "2.16.840.1.113730.3.1.4"},
}

const (
	oidEmail = "1.2.840.113549.1.9.1"
	oidDC    = "0.9.2342.19200300.100.1.25"
)

// decodeDN reads a Name (RFC 5280, Section 4.1.2.4):
//
//	Name ::= SEQUENCE OF RelativeDistinguishedName
//	RelativeDistinguishedName ::= SET SIZE (1..MAX) OF SEQUENCE { type OID, value ANY }
func decodeDN(der []byte) ([][]attribute, error) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, errors.New("distinguished name: expected one DER SEQUENCE and nothing after it")
	}
	var rdns [][]attribute
	for !seq.Empty() {
		var set cryptobyte.String
		if !seq.ReadASN1(&set, cbasn1.SET) || set.Empty() {
			return nil, fmt.Errorf("distinguished name: RDN %d is not a SET with members", len(rdns)+1)
		}
		var rdn []attribute
		for !set.Empty() {
			var av, value cryptobyte.String
			var oid asn1.ObjectIdentifier
			var a attribute
			if !set.ReadASN1(&av, cbasn1.SEQUENCE) || !av.ReadASN1ObjectIdentifier(&oid) ||
				!av.ReadAnyASN1Element(&value, &a.tag) || !av.Empty() {
				return nil, fmt.Errorf("distinguished name: RDN %d is not a SET of type and value", len(rdns)+1)
			}
			a.oid, a.value = oid.String(), value
			inner := value
			var body cryptobyte.String
			if !inner.ReadAnyASN1(&body, nil) {
				return nil, fmt.Errorf("distinguished name: value of RDN %d is not DER", len(rdns)+1)
			}
			a.body = body
			rdn = append(rdn, a)
		}
		rdns = append(rdns, rdn)
		if len(rdns) > maxRDNs {
			return nil, fmt.Errorf("distinguished name: more than %d RDNs", maxRDNs)
		}
	}
	return rdns, nil
}

// text is the value as UTF-8, when its type is a string type.
func (a attribute) text() (string, bool) {
	switch a.tag {
	case cbasn1.PrintableString, cbasn1.UTF8String, cbasn1.IA5String, cbasn1.Tag(18): // NumericString
		return string(a.body), true
	case cbasn1.T61String:
		r := make([]rune, len(a.body))
		for i, b := range a.body {
			r[i] = rune(b)
		}
		return string(r), true
	case cbasn1.Tag(30): // BMPString
		if len(a.body)%2 != 0 {
			return "", false
		}
		u := make([]uint16, 0, len(a.body)/2)
		for i := 0; i < len(a.body); i += 2 {
			u = append(u, uint16(a.body[i])<<8|uint16(a.body[i+1]))
		}
		return string(utf16.Decode(u)), true
	}
	return "", false
}

func (a attribute) wildcard() bool {
	s, ok := a.text()
	return ok && s == "*"
}

// equal compares as caseIgnoreMatch does (RFC 5280, Section 7.1): case and runs
// of blanks do not count, nor the string type. Other types compare as octets.
func (a attribute) equal(b attribute) bool {
	if a.oid != b.oid {
		return false
	}
	if bytes.Equal(a.value, b.value) {
		return true
	}
	s, ok1 := a.text()
	t, ok2 := b.text()
	return ok1 && ok2 && strings.EqualFold(strings.Join(strings.Fields(s), " "), strings.Join(strings.Fields(t), " "))
}

func equalDN(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, err1 := decodeDN(a)
	y, err2 := decodeDN(b)
	if err1 != nil || err2 != nil || len(x) != len(y) {
		return false
	}
	for i := range x {
		if !slices.EqualFunc(x[i], y[i], attribute.equal) {
			return false
		}
	}
	return true
}

func matchDN(pattern, dn []byte) Rank {
	x, err1 := decodeDN(pattern)
	y, err2 := decodeDN(dn)
	if err1 != nil || err2 != nil || len(x) != len(y) {
		return None
	}
	wild := 0
	for i := range x {
		if len(x[i]) != len(y[i]) {
			return None
		}
		for j := range x[i] {
			switch {
			case x[i][j].wildcard() && x[i][j].oid == y[i][j].oid:
				wild++
			case !x[i][j].equal(y[i][j]):
				return None
			}
		}
	}
	if wild == 0 {
		return Exact
	}
	return Exact/2 - Rank(wild)
}

// FormatDN writes a DER encoded Name as "C=CH, O=Lab, CN=x", in its own order.
func FormatDN(der []byte) (string, error) {
	rdns, err := decodeDN(der)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i, rdn := range rdns {
		if i > 0 {
			b.WriteString(", ")
		}
		for j, a := range rdn {
			if j > 0 {
				b.WriteString(" + ")
			}
			b.WriteString(nameOf(a.oid) + "=")
			s, ok := a.text()
			if !ok || !printableUTF8(s) {
				b.WriteString("#" + hex.EncodeToString(a.value))
				continue
			}
			b.WriteString(escape(s))
		}
	}
	return b.String(), nil
}

func nameOf(oid string) string {
	for _, n := range attributeNames {
		if n.oid == oid {
			return n.name
		}
	}
	return oid
}

func escape(s string) string {
	var b strings.Builder
	last := len(s) - 1
	for i, r := range s {
		edge := r == ' ' && (i == 0 || i == last) || r == '#' && i == 0
		if edge || strings.ContainsRune(`,+"\`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// ParseDN reads "C=CH, O=Lab, CN=x" or "/C=CH/O=Lab/CN=x" and keeps the order.
// '+' joins the members of a multi-valued RDN, a backslash or double quotes
// protect special characters, "#hex" gives the DER of a value, and an attribute
// may be named by its OID.
func ParseDN(text string) ([]byte, error) {
	sep := byte(',')
	if rest, ok := strings.CutPrefix(strings.TrimSpace(text), "/"); ok {
		text, sep = rest, '/'
	}
	tokens, err := splitDN(text, sep)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(seq *cryptobyte.Builder) {
		for _, rdn := range tokens {
			var members [][]byte
			for _, av := range rdn {
				m, e := av.der()
				if e != nil {
					err = e
					return
				}
				members = append(members, m)
			}
			// X.690, Section 11.6: the members of a SET OF are in ascending order.
			slices.SortFunc(members, bytes.Compare)
			seq.AddASN1(cbasn1.SET, func(set *cryptobyte.Builder) {
				for _, m := range members {
					set.AddBytes(m)
				}
			})
		}
	})
	if err != nil {
		return nil, err
	}
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("distinguished name: %w", err)
	}
	if _, err := decodeDN(der); err != nil {
		return nil, err
	}
	return der, nil
}

// assertion is a "name=value" of the text. hex: the value was "#hex".
type assertion struct {
	name, value string
	hex         bool
}

// splitDN cuts the text into RDNs of assertions.
func splitDN(text string, sep byte) ([][]assertion, error) {
	var rdns [][]assertion
	var rdn []assertion
	for i := 0; ; {
		eq := strings.IndexByte(text[i:], '=')
		if eq < 0 {
			return nil, fmt.Errorf("distinguished name: expected NAME=value, found %q", text[i:])
		}
		a := assertion{name: strings.TrimSpace(text[i : i+eq])}
		i += eq + 1
		for i < len(text) && text[i] == ' ' {
			i++
		}
		a.hex = i < len(text) && text[i] == '#'
		if a.hex {
			i++
		}
		var v strings.Builder
		quoted, keep := false, 0 // keep: length up to the last octet that may not be trimmed
		for ; i < len(text); i++ {
			c := text[i]
			if c == '\\' && i+1 < len(text) {
				i++
				v.WriteByte(text[i])
				keep = v.Len()
				continue
			}
			if c == '"' {
				quoted = !quoted
				keep = v.Len()
				continue
			}
			if !quoted && (c == sep || c == '+') {
				break
			}
			v.WriteByte(c)
			if quoted {
				keep = v.Len()
			}
		}
		if quoted {
			return nil, errors.New("distinguished name: a double quote is never closed")
		}
		s := v.String()
		a.value = s[:keep] + strings.TrimRight(s[keep:], " ")
		rdn = append(rdn, a)
		if i >= len(text) {
			return append(rdns, rdn), nil
		}
		if text[i] != '+' {
			rdns, rdn = append(rdns, rdn), nil
		}
		if i++; strings.TrimSpace(text[i:]) == "" {
			return nil, errors.New("distinguished name: nothing follows the last separator")
		}
	}
}

func (a assertion) der() ([]byte, error) {
	oid, err := oidOf(a.name)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if a.hex {
			raw, e := hex.DecodeString(a.value)
			if e != nil {
				err = fmt.Errorf("distinguished name: %s=#%s is not hexadecimal", a.name, a.value)
				return
			}
			b.AddBytes(raw)
			return
		}
		tag := cbasn1.UTF8String
		switch {
		case oid.String() == oidEmail || oid.String() == oidDC:
			tag = cbasn1.IA5String
		case isPrintableString(a.value) || a.value == "*":
			tag = cbasn1.PrintableString
		}
		b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.value)) })
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes()
}

func oidOf(name string) (asn1.ObjectIdentifier, error) {
	dotted := name
	for _, n := range attributeNames {
		if strings.EqualFold(n.name, name) {
			dotted = n.oid
			break
		}
	}
	var oid asn1.ObjectIdentifier
	for p := range strings.SplitSeq(dotted, ".") {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("distinguished name: attribute %q is not known; use one of C ST L O OU CN E DC UID serialNumber … or its OID", name)
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 || oid[0] > 2 || oid[0] < 2 && oid[1] > 39 {
		return nil, fmt.Errorf("distinguished name: %q is not an OID", name)
	}
	return oid, nil
}

func isPrintableString(s string) bool {
	for _, r := range s {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune(" '()+,-./:=?", r):
		default:
			return false
		}
	}
	return true
}
