package ident

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// String is the text for people and for the control protocol. Octets of a peer
// that could harm a terminal or a log never appear as they are.
func (id ID) String() string {
	switch id.Type {
	case Any:
		return "%any"
	case NullID:
		return "%null"
	case IPv4, IPv6:
		if a, ok := netip.AddrFromSlice([]byte(id.Data)); ok && wellFormed(id) == nil {
			return a.String()
		}
	case IPv4Subnet, IPv6Subnet, IPv4Range, IPv6Range:
		if wellFormed(id) == nil {
			return id.rangeText()
		}
	case DERDN:
		if s, err := FormatDN([]byte(id.Data)); err == nil {
			return s
		}
	case FQDN, RFC822, Kerberos:
		if printable(id.Data) {
			return id.Data
		}
	case KeyID:
		if printable(id.Data) {
			return id.Data
		}
		return colonHex(id.Data)
	}
	return "{" + strconv.Itoa(int(id.Type)) + "}:#" + hex.EncodeToString([]byte(id.Data))
}

func (id ID) rangeText() string {
	n := len(id.Data) / 2
	a, _ := netip.AddrFromSlice([]byte(id.Data[:n]))
	b, _ := netip.AddrFromSlice([]byte(id.Data[n:]))
	if id.Type == IPv4Range || id.Type == IPv6Range {
		return a.String() + "-" + b.String()
	}
	bits, ok := maskBits([]byte(id.Data[n:]))
	if !ok {
		return a.String() + "/" + b.String()
	}
	return a.String() + "/" + strconv.Itoa(bits)
}

func maskBits(mask []byte) (int, bool) {
	bits, ended := 0, false
	for _, m := range mask {
		for i := 7; i >= 0; i-- {
			set := m>>i&1 == 1
			if set && ended {
				return 0, false
			}
			if set {
				bits++
			} else {
				ended = true
			}
		}
	}
	return bits, true
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return s != ""
}

// printableUTF8 is for names of people and places, which have more letters.
func printableUTF8(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func colonHex(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(hex.EncodeToString([]byte{s[i]}))
	}
	return b.String()
}
