package conf

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"iked/spd"
)

// quote shows a value in a message, cut when it is long.
func quote(s string) string {
	if len(s) > 60 {
		return strconv.QuoteToASCII(s[:57]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

// parseBool reads yes, true, enabled, 1 and no, false, disabled, 0.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "yes", "true", "enabled", "1":
		return true, nil
	case "no", "false", "disabled", "0":
		return false, nil
	}
	return false, fmt.Errorf("expected yes or no, found %s", quote(s))
}

// parseUint reads decimal, 0x hexadecimal or 0 octal digits.
func parseUint(s string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(s, 0, bits)
	if err != nil || strings.Contains(s, "_") {
		return 0, fmt.Errorf("expected a number from 0 to %d, found %s", uint64(math.MaxUint64)>>(64-bits), quote(s))
	}
	return n, nil
}

// maxTime bounds a time so that sums of a few cannot overflow: 100 years.
const maxTime = 100 * 365 * 24 * time.Hour

// ParseTime reads a whole number with one of the units d, h, m, s, ms; without
// unit, seconds. Blanks between are allowed, and nothing at all is 0.
func ParseTime(s string) (time.Duration, error) {
	digits := strings.TrimLeft(s, "0123456789")
	num, unit := s[:len(s)-len(digits)], strings.ToLower(strings.TrimSpace(digits))
	if s == "" {
		return 0, nil
	}
	per, ok := map[string]time.Duration{"": time.Second, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "ms": time.Millisecond}[unit]
	n, err := strconv.ParseUint(num, 10, 63)
	if err != nil || !ok {
		return 0, fmt.Errorf("expected a time such as 30s, 5m, 4h or 1d, found %s", quote(s))
	}
	if n > uint64(maxTime/per) {
		return 0, fmt.Errorf("%s is longer than 100 years", quote(s))
	}
	return time.Duration(n) * per, nil
}

// ParseBytes reads a whole number with one of the units k, m, g (powers of
// 1024); without unit, octets.
func ParseBytes(s string) (uint64, error) {
	rest := strings.TrimLeft(s, "0123456789")
	num, unit := s[:len(s)-len(rest)], strings.ToLower(strings.TrimSpace(rest))
	if s == "" {
		return 0, nil
	}
	shift, ok := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30}[unit]
	n, err := strconv.ParseUint(num, 10, 64)
	if err != nil || !ok || n > math.MaxUint64>>shift {
		return 0, fmt.Errorf("expected a size such as 1400, 500M or 2G, found %s", quote(s))
	}
	return n << shift, nil
}

// parseDSCP reads up to six binary digits.
func parseDSCP(s string) (uint8, error) {
	n, err := strconv.ParseUint(s, 2, 6)
	if err != nil || len(s) > 6 {
		return 0, fmt.Errorf("expected six binary digits such as 101110, found %s", quote(s))
	}
	return uint8(n), nil
}

// parseAction reads none, trap, start and their combination with '|'; clear,
// route and restart are the old names.
func parseAction(s string) (Action, error) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "none", "clear":
		return 0, nil
	case "trap", "route":
		return ActionTrap, nil
	case "start", "restart":
		return ActionStart, nil
	}
	var a Action
	for w := range strings.SplitSeq(s, "|") {
		switch strings.ToLower(strings.TrimSpace(w)) {
		case "none":
		case "trap":
			a |= ActionTrap
		case "start":
			a |= ActionStart
		default:
			return 0, fmt.Errorf("expected none, trap, start or trap|start, found %s", quote(s))
		}
	}
	return a, nil
}

// String is the text of an action as the control protocol prints it.
func (a Action) String() string {
	switch a {
	case ActionTrap:
		return "trap"
	case ActionStart:
		return "start"
	case ActionTrap | ActionStart:
		return "trap | start"
	}
	return "none"
}

// ParseHost reads an entry of local_addrs or remote_addrs.
func ParseHost(s string) (Host, error) {
	h := Host{Text: s}
	switch s {
	case "%any", "*":
		return h, nil
	case "%any4", "0.0.0.0":
		h.From, h.To = netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255})
		return h, nil
	case "%any6", "::":
		h.From, h.To = netip.IPv6Unspecified(), lastOf(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
		return h, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		h.From, h.To = a.Unmap(), a.Unmap()
		return h, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		p = p.Masked()
		h.From, h.To = p.Addr(), lastOf(p)
		return h, nil
	}
	if from, to, ok := strings.Cut(s, "-"); ok {
		a, err1 := netip.ParseAddr(strings.TrimSpace(from))
		b, err2 := netip.ParseAddr(strings.TrimSpace(to))
		if err1 == nil || err2 == nil {
			if err1 != nil || err2 != nil || a.BitLen() != b.BitLen() || b.Less(a) {
				return Host{}, fmt.Errorf("expected a range from a lower to a higher address of one family, found %s", quote(s))
			}
			h.From, h.To = a, b
			return h, nil
		}
	}
	if !isHostName(s) {
		return Host{}, fmt.Errorf("expected an address, a subnet, a range, a DNS name or %%any, found %s", quote(s))
	}
	h.Name = s
	return h, nil
}

func isHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	onlyDigits := true
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			switch {
			case '0' <= r && r <= '9':
			case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', r == '-', r == '_':
				onlyDigits = false
			default:
				return false
			}
		}
	}
	return !onlyDigits // 10.1.2 is a mistyped address
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// ParseTS reads a traffic selector such as 10.1.0.0/16[tcp/80] or dynamic.
func ParseTS(s string) (TS, error) {
	ts, dynamic, err := spd.Parse(s)
	return TS{TS: ts, Dynamic: dynamic}, err
}

// decodeSecret reads the text of a secret: 0x hexadecimal, 0s base64, or the
// text itself.
func decodeSecret(s string) ([]byte, error) {
	if h, ok := strings.CutPrefix(s, "0x"); ok {
		b, err := hex.DecodeString(h)
		if err != nil {
			return nil, fmt.Errorf("expected pairs of hexadecimal digits after 0x")
		}
		return b, nil
	}
	if t, ok := strings.CutPrefix(s, "0s"); ok {
		b, err := base64.StdEncoding.DecodeString(t)
		if err != nil {
			b, err = base64.RawStdEncoding.DecodeString(t)
		}
		if err != nil {
			return nil, fmt.Errorf("expected base64 after 0s")
		}
		return b, nil
	}
	return []byte(s), nil
}

// editDistance is the number of single letter changes between two words.
func editDistance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur := make([]int, len(b)+1)
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(prev[j+1]+1, cur[j]+1, prev[j]+cost)
		}
		prev = cur
	}
	return prev[len(b)]
}

// nearest is the known word closest to an unknown one, "" when none is close.
func nearest(word string, known []string) string {
	if len(word) > 64 {
		return ""
	}
	best, dist := "", max(2, len(word)/3)+1
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), k); d < dist {
			best, dist = k, d
		}
	}
	return best
}
