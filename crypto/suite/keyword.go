package suite

import (
	"sort"
	"strings"
)

// keywords returns the transform of each keyword of the proposal grammar.
func keywords() map[string]Transform {
	m := map[string]Transform{
		"null":                   {ENCR, EncrNull, 0},
		"des":                    {ENCR, encrDES, 0},
		"3des":                   {ENCR, Encr3DES, 0},
		"aes":                    {ENCR, EncrAESCBC, 128},
		"chacha20poly1305":       {ENCR, EncrChaCha20Poly1305, 0},
		"chacha20poly1305compat": {ENCR, EncrChaCha20Poly1305, 256},
		"cast128":                {ENCR, encrCAST, 128},

		"sha":          {INTEG, IntegHMACSHA1_96, 0},
		"sha1":         {INTEG, IntegHMACSHA1_96, 0},
		"sha1_160":     {INTEG, IntegHMACSHA1_160, 0},
		"sha256":       {INTEG, IntegHMACSHA256, 0},
		"sha2_256":     {INTEG, IntegHMACSHA256, 0},
		"sha384":       {INTEG, IntegHMACSHA384, 0},
		"sha2_384":     {INTEG, IntegHMACSHA384, 0},
		"sha512":       {INTEG, IntegHMACSHA512, 0},
		"sha2_512":     {INTEG, IntegHMACSHA512, 0},
		"sha256_96":    {INTEG, IntegHMACSHA256_96, 0},
		"sha2_256_96":  {INTEG, IntegHMACSHA256_96, 0},
		"md5":          {INTEG, IntegHMACMD5_96, 0},
		"md5_128":      {INTEG, integHMACMD5_128, 0},
		"aesxcbc":      {INTEG, IntegAESXCBC96, 0},
		"aescmac":      {INTEG, IntegAESCMAC96, 0},
		"camelliaxcbc": {INTEG, integCamelliaXCBC, 0},

		"prfmd5":          {PRF, PRFHMACMD5, 0},
		"prfsha1":         {PRF, PRFHMACSHA1, 0},
		"prfaesxcbc":      {PRF, PRFAESXCBC, 0},
		"prfsha256":       {PRF, PRFHMACSHA256, 0},
		"prfsha384":       {PRF, PRFHMACSHA384, 0},
		"prfsha512":       {PRF, PRFHMACSHA512, 0},
		"prfaescmac":      {PRF, PRFAESCMAC, 0},
		"prfcamelliaxcbc": {PRF, prfCamelliaXCBC, 0},

		"none":         {KE, KENone, 0},
		"modpnone":     {KE, KENone, 0},
		"modp768":      {KE, 1, 0},
		"modp1024":     {KE, KEMODP1024, 0},
		"modp1536":     {KE, KEMODP1536, 0},
		"modp2048":     {KE, KEMODP2048, 0},
		"modp3072":     {KE, KEMODP3072, 0},
		"modp4096":     {KE, KEMODP4096, 0},
		"modp6144":     {KE, KEMODP6144, 0},
		"modp8192":     {KE, KEMODP8192, 0},
		"ecp256":       {KE, KEECP256, 0},
		"ecp384":       {KE, KEECP384, 0},
		"ecp521":       {KE, KEECP521, 0},
		"modp1024s160": {KE, 22, 0},
		"modp2048s224": {KE, 23, 0},
		"modp2048s256": {KE, 24, 0},
		"ecp192":       {KE, 25, 0},
		"ecp224":       {KE, 26, 0},
		"ecp224bp":     {KE, 27, 0},
		"ecp256bp":     {KE, 28, 0},
		"ecp384bp":     {KE, 29, 0},
		"ecp512bp":     {KE, 30, 0},
		"curve25519":   {KE, KEX25519, 0},
		"x25519":       {KE, KEX25519, 0},
		"curve448":     {KE, KEX448, 0},
		"x448":         {KE, KEX448, 0},
		"modpnull":     {KE, keMODPNull, 0},
		"gost256":      {KE, 33, 0},
		"gost512":      {KE, 34, 0},
		"mlkem512":     {KE, 35, 0},
		"mlkem768":     {KE, 36, 0},
		"mlkem1024":    {KE, 37, 0},

		"esn":   {SN, SNESN, 0},
		"noesn": {SN, SNNoESN, 0},
	}
	sized := func(name, suffix string, id uint16) {
		for bits, s := range map[uint16]string{128: "128", 192: "192", 256: "256"} {
			m[name+s+suffix] = Transform{ENCR, id, bits}
		}
	}
	sized("aes", "", EncrAESCBC)
	sized("aes", "ctr", EncrAESCTR)
	sized("aes", "gmac", EncrNullAESGMAC)
	sized("camellia", "", encrCamelliaCBC)
	sized("camellia", "ctr", encrCamelliaCTR)
	sized("blowfish", "", encrBlowfish)
	sized("serpent", "", encrSerpent)
	sized("twofish", "", encrTwofish)
	for bare, id := range map[string]uint16{
		"camellia": encrCamelliaCBC, "blowfish": encrBlowfish,
		"serpent": encrSerpent, "twofish": encrTwofish,
	} {
		m[bare] = Transform{ENCR, id, 128}
	}
	// The ICV length may be written in octets or in bits; alone it is 16 octets.
	for mode, ids := range map[string][3]uint16{
		"aes ccm":      {EncrAESCCM8, EncrAESCCM12, EncrAESCCM16},
		"aes gcm":      {EncrAESGCM8, EncrAESGCM12, EncrAESGCM16},
		"camellia ccm": {encrCamelliaCCM8, encrCamelliaCCM12, encrCamelliaCCM16},
	} {
		name, suffix, _ := strings.Cut(mode, " ")
		for i, icv := range [3][2]string{{"8", "64"}, {"12", "96"}, {"16", "128"}} {
			sized(name, suffix+icv[0], ids[i])
			sized(name, suffix+icv[1], ids[i])
		}
		sized(name, suffix, ids[2])
	}
	return m
}

// Keyword is the shortest keyword of a transform that a proposal may have, "" when
// there is none.
func (t Transform) Keyword() string {
	best := ""
	for k, x := range keywords() {
		if x == t && x.Implemented() && (best == "" || len(k) < len(best) || len(k) == len(best) && k < best) {
			best = k
		}
	}
	return best
}

// Keywords lists every keyword that a proposal may have in this build, sorted.
func Keywords() []string {
	var out []string
	for k, t := range keywords() {
		if t.Implemented() && !forbidden(t) {
			out = append(out, k)
		}
	}
	sort.Strings(out)
	return out
}

// Implemented lists every algorithm that a proposal may have in this build, once,
// without key lengths, by type and number.
func Implemented() []Transform {
	seen := map[Transform]bool{}
	var out []Transform
	for _, t := range keywords() {
		if !t.Implemented() || forbidden(t) {
			continue
		}
		t.KeyBits = 0
		if !seen[t] {
			seen[t] = true
			out = append(out, t)
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Type != out[j].Type {
			return out[i].Type < out[j].Type
		}
		return out[i].ID < out[j].ID
	})
	return out
}

// nearestKeyword is the implemented keyword with the smallest edit distance,
// or "" if none is close.
func nearestKeyword(word string) string {
	if len(word) > 64 {
		return ""
	}
	best, dist := "", max(2, len(word)/2)+1
	for _, k := range Keywords() {
		if d := editDistance(strings.ToLower(word), k); d < dist {
			best, dist = k, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours.
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := last[j]
			if a[i] != b[j] {
				cost++
			}
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				cost = min(cost, before[j-1]+1)
			}
			row[j+1] = min(cost, row[j]+1, last[j+1]+1)
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
