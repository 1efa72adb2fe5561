package ident

import (
	"bytes"
	"net/netip"
	"strings"
)

// Rank says how well a pattern matches; a higher one wins. 0 is no match.
type Rank int

// Ranks. Patterns lie between Weak and Exact: the more a pattern says, the higher.
const (
	None  Rank = 0
	Weak  Rank = 1 // %any
	Exact Rank = 1000
)

// Match holds an identity against a pattern. Only the pattern may have
// wildcards; an asterisk that a peer sends is an asterisk.
//
// FQDN and mail addresses compare without regard to case, and a leading '*' in
// the pattern stands for any beginning. A distinguished name must have the same
// RDNs in the same order; an RDN value "*" in the pattern stands for any value.
// Subnets and ranges match addresses of their family.
func Match(pattern, id ID) Rank {
	if pattern.Type == Any {
		return Weak
	}
	if pattern == id {
		return Exact
	}
	switch pattern.Type {
	case FQDN, RFC822:
		if id.Type != pattern.Type {
			return None
		}
		return matchName(pattern.Data, id.Data)
	case DERDN:
		if id.Type != DERDN {
			return None
		}
		return matchDN([]byte(pattern.Data), []byte(id.Data))
	case IPv4Subnet, IPv6Subnet, IPv4Range, IPv6Range:
		return matchAddress(pattern, id)
	}
	return None
}

// Equal compares two identities as the same thing: names without regard to case,
// distinguished names without regard to the string types of their values.
func Equal(a, b ID) bool {
	if a == b {
		return true
	}
	if a.Type != b.Type {
		return false
	}
	switch a.Type {
	case FQDN, RFC822:
		return strings.EqualFold(a.Data, b.Data)
	case DERDN:
		return equalDN([]byte(a.Data), []byte(b.Data))
	}
	return false
}

func wildcard(name string) bool { return strings.HasPrefix(name, "*") }

func matchName(pattern, name string) Rank {
	if isRegexp(pattern) {
		if re, err := compile(pattern); err == nil && re.MatchString(name) {
			return 100
		}
		return None
	}
	if strings.EqualFold(pattern, name) {
		return Exact
	}
	if !wildcard(pattern) {
		return None
	}
	suffix := pattern[1:]
	if len(name) < len(suffix) || !strings.EqualFold(name[len(name)-len(suffix):], suffix) {
		return None
	}
	return 100 + Rank(min(len(suffix), 255))
}

func matchAddress(pattern, id ID) Rank {
	if wellFormed(pattern) != nil || wellFormed(id) != nil {
		return None
	}
	want := IPv4
	if pattern.Type == IPv6Subnet || pattern.Type == IPv6Range {
		want = IPv6
	}
	if id.Type != want {
		return None
	}
	n := len(pattern.Data) / 2
	a, b := []byte(pattern.Data[:n]), []byte(pattern.Data[n:])
	addr := []byte(id.Data)
	if pattern.Type == IPv4Range || pattern.Type == IPv6Range {
		if bytes.Compare(a, addr) <= 0 && bytes.Compare(addr, b) <= 0 {
			return 100
		}
		return None
	}
	for i := range addr {
		if (addr[i]^a[i])&b[i] != 0 {
			return None
		}
	}
	bits, _ := maskBits(b)
	return 100 + Rank(bits)
}

// Addr is the address of an IPv4 or IPv6 identity.
func (id ID) Addr() (netip.Addr, bool) {
	if id.Type != IPv4 && id.Type != IPv6 || wellFormed(id) != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice([]byte(id.Data))
}
