package ident

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// maxText bounds the text of an identity; an ID payload cannot hold more.
const maxText = 65535 - 8

// Parse reads the text of an identity as configurations write it. A prefix such
// as "fqdn:" names the type; the rest is taken as it is, or as hexadecimal after
// '#'. Without prefix: a text with '=' is a distinguished name, "%any", "*", an
// unspecified address or nothing is %any, an address, subnet or range is that,
// "@x" is the FQDN x, "@@x" the mail address x, "@#hex" an opaque key id, a text
// with '@' inside a mail address, one with ':' an opaque key id, and anything
// else an FQDN.
func Parse(text string) (ID, error) {
	text = strings.TrimSpace(text)
	if len(text) > maxText {
		return ID{}, fmt.Errorf("identity of %d octets, at most %d fit into an ID payload", len(text), maxText)
	}
	if id, ok, err := parsePrefixed(text); ok {
		return id, err
	}
	switch {
	case strings.Contains(text, "="):
		if der, err := ParseDN(text); err == nil {
			return ID{DERDN, string(der)}, nil
		}
		return ID{KeyID, text}, nil
	case !strings.Contains(text, "@"):
		switch text {
		case "", "%any", "%any6", "0.0.0.0", "::", "0::0", "*":
			return ID{}, nil
		}
		if id, err := parseAddress(text); err == nil {
			return id, nil
		}
		if strings.Contains(text, ":") {
			return ID{KeyID, text}, nil
		}
		return checked(ID{FQDN, text})
	case strings.HasPrefix(text, "@#"):
		b, err := parseHex(text[2:])
		return ID{KeyID, b}, err
	case strings.HasPrefix(text, "@@"):
		return checked(ID{RFC822, text[2:]})
	case strings.HasPrefix(text, "@"):
		return checked(ID{FQDN, text[1:]})
	}
	return checked(ID{RFC822, text})
}

var prefixes = []struct {
	prefix string
	typ    Type
}{
	{"ipv4:", IPv4}, {"ipv6:", IPv6}, {"ipv4net:", IPv4Subnet}, {"ipv6net:", IPv6Subnet},
	{"ipv4range:", IPv4Range}, {"ipv6range:", IPv6Range},
	{"rfc822:", RFC822}, {"email:", RFC822}, {"userfqdn:", RFC822},
	{"fqdn:", FQDN}, {"dns:", FQDN}, {"asn1dn:", DERDN}, {"asn1gn:", DERGN}, {"keyid:", KeyID},
	{"krb5:", Kerberos},
}

func parsePrefixed(text string) (id ID, ok bool, err error) {
	lower := strings.ToLower(text)
	for _, no := range []string{"xmppaddr:", "uri:"} {
		if strings.HasPrefix(lower, no) {
			return ID{}, true, fmt.Errorf("identities of type %q have no IKEv2 ID type; use fqdn:, email: or asn1dn:", strings.TrimSuffix(no, ":"))
		}
	}
	for _, p := range prefixes {
		if strings.HasPrefix(lower, p.prefix) {
			id, err = parseTyped(p.typ, text[len(p.prefix):])
			return id, true, err
		}
	}
	// {n}: names the type by number.
	if rest, found := strings.CutPrefix(text, "{"); found {
		num, rest, found := strings.Cut(rest, "}:")
		if !found {
			return ID{}, false, nil
		}
		n, err := strconv.ParseUint(num, 0, 8)
		if err != nil {
			return ID{}, true, fmt.Errorf("identity type {%s}: expected a number from 0 to 255", num)
		}
		id, err = parseTyped(Type(n), rest)
		return id, true, err
	}
	return ID{}, false, nil
}

func parseTyped(t Type, text string) (ID, error) {
	if h, ok := strings.CutPrefix(text, "#"); ok {
		b, err := parseHex(h)
		if err != nil {
			return ID{}, err
		}
		return ID{t, b}, wellFormed(ID{t, b})
	}
	switch t {
	case Any:
		if text != "" {
			return ID{}, fmt.Errorf("identity type 0 is %%any and takes no value, found %q", text)
		}
		return ID{}, nil
	case IPv4, IPv6, IPv4Subnet, IPv6Subnet, IPv4Range, IPv6Range:
		id, err := parseAddress(text)
		if err != nil {
			return ID{}, err
		}
		// A single address is also a subnet of itself.
		if id.Type == IPv4 && t == IPv4Subnet || id.Type == IPv6 && t == IPv6Subnet {
			a, _ := netip.AddrFromSlice([]byte(id.Data))
			return subnetID(netip.PrefixFrom(a, a.BitLen())), nil
		}
		if id.Type != t {
			return ID{}, fmt.Errorf("%q is not of the type that its prefix names", text)
		}
		return id, nil
	case DERDN:
		der, err := ParseDN(text)
		return ID{DERDN, string(der)}, err
	case DERGN:
		return ID{}, fmt.Errorf("a general name must be given as hexadecimal DER: asn1gn:#30…")
	}
	return checked(ID{t, text})
}

func parseHex(h string) (string, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(h, ":", ""))
	if err != nil {
		return "", fmt.Errorf("expected hexadecimal digits after #, found %q", h)
	}
	return string(b), nil
}

// checked refuses an unusable expression and an empty name.
func checked(id ID) (ID, error) {
	if id.Data == "" && (id.Type == FQDN || id.Type == RFC822 || id.Type == KeyID || id.Type == Kerberos) {
		return ID{}, fmt.Errorf("empty identity; for any identity write %%any")
	}
	if (id.Type == FQDN || id.Type == RFC822) && isRegexp(id.Data) {
		if _, err := compile(id.Data); err != nil {
			return ID{}, fmt.Errorf("identity %q: %w", id.Data, err)
		}
	}
	return id, nil
}

// isRegexp tells whether a name pattern is a regular expression, "^…$".
func isRegexp(s string) bool {
	return len(s) >= 2 && s[0] == '^' && s[len(s)-1] == '$'
}

func compile(s string) (*regexp.Regexp, error) { return regexp.Compile("(?i)^(?:" + s + ")$") }

// parseAddress reads an address, a subnet "a/n" or a range "a-b".
func parseAddress(text string) (ID, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return subnetID(p.Masked()), nil
	}
	if from, to, ok := strings.Cut(text, "-"); ok {
		a, err1 := netip.ParseAddr(strings.TrimSpace(from))
		b, err2 := netip.ParseAddr(strings.TrimSpace(to))
		if err1 == nil && err2 == nil && a.BitLen() == b.BitLen() && a.Zone() == "" && b.Zone() == "" && !b.Less(a) {
			t := IPv6Range
			if a.Is4() {
				t = IPv4Range
			}
			return ID{t, string(a.AsSlice()) + string(b.AsSlice())}, nil
		}
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return ID{}, fmt.Errorf("expected an address, a subnet or a range, found %q", text)
	}
	return FromAddr(a), nil
}

// FromAddr is the identity of an address.
func FromAddr(a netip.Addr) ID {
	a = a.Unmap().WithZone("")
	switch {
	case a.Is4():
		return ID{IPv4, string(a.AsSlice())}
	case a.Is6():
		return ID{IPv6, string(a.AsSlice())}
	}
	return ID{}
}

func subnetID(p netip.Prefix) ID {
	n := p.Addr().BitLen() / 8
	mask := make([]byte, n)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	t := IPv6Subnet
	if n == 4 {
		t = IPv4Subnet
	}
	return ID{t, string(p.Addr().AsSlice()) + string(mask)}
}

// FromDN is the identity of a DER encoded distinguished name.
func FromDN(der []byte) ID { return ID{DERDN, string(der)} }

func wellFormed(id ID) error {
	size := map[Type]int{IPv4: 4, IPv6: 16, IPv4Subnet: 8, IPv6Subnet: 32, IPv4Range: 8, IPv6Range: 32, NullID: 0, Any: 0}
	if want, ok := size[id.Type]; ok && want != len(id.Data) {
		return fmt.Errorf("identity of type %d: expected %d octets, found %d", id.Type, want, len(id.Data))
	}
	switch id.Type {
	case FQDN, RFC822, KeyID:
		if id.Data == "" {
			return fmt.Errorf("identity of type %d is empty", id.Type)
		}
	case DERDN:
		if _, err := decodeDN([]byte(id.Data)); err != nil {
			return err
		}
	}
	return nil
}
