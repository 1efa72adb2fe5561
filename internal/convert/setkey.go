package convert

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"iked/internal/secret"
)

// policy is a line spdadd.
type policy struct {
	stmt
	src, dst         netip.Prefix
	srcPort, dstPort string
	proto            string
	dir              string // out, in, fwd
	action           string // ipsec, none, discard
	rules            []rule
	prio             bool // it has a priority
}

// rule is one protection of a policy: protocol/mode/from-to/level.
type rule struct {
	proto    string // esp, ah, ipcomp
	mode     string // tunnel, transport
	from, to netip.Addr
	level    string
}

// staticSA is a line add.
type staticSA struct {
	stmt
	src, dst           netip.Addr
	proto              string
	spi                uint32
	mode               string
	reqid              string
	encr, integ        string
	encrKey, integKey  secret.Bytes
	softTime, hardTime string
	used               bool
}

var setkeyWords = []string{"flush", "spdflush", "add", "delete", "deleteall", "get", "dump", "spdadd", "spddelete", "spddump", "spdupdate", "spdget", "exit", "quit"}

func isSetkeyWord(w string) bool { return slices.Contains(setkeyWords, w) }

// isSetkey tells by its first word whether a file is one of setkey.
func isSetkey(toks []token) bool {
	return len(toks) > 0 && !toks[0].quoted && isSetkeyWord(toks[0].text)
}

func (c *converter) setkey(name string, toks []token) error {
	list, err := c.statements(Source{Name: name}, toks, 0)
	if err != nil {
		return err
	}
	for _, s := range list {
		if s.block {
			return fmt.Errorf("%s:%d: a block in braces in setkey.conf", s.file, s.line)
		}
		switch s.word(0) {
		case "flush", "spdflush":
			// The daemon starts with what its configuration says.
		case "spdadd", "spdupdate":
			c.spdadd(s)
		case "add":
			c.add(s)
		case "dump", "spddump", "get", "spdget", "exit", "quit":
			c.note(s, false, "ikectl sas and ikectl policies show what is there; nothing to do")
		default:
			c.note(s, true, "this is no statement that sets something up; see what it is for, and remove it")
		}
	}
	return nil
}

// cursor walks over the words of a statement.
type cursor struct {
	stmt
	i int
}

func (k *cursor) next() string {
	w := k.word(k.i)
	k.i++
	return w
}

// bracket reads a part in brackets if there is one.
func (k *cursor) bracket() string {
	if w := k.word(k.i); strings.HasPrefix(w, "[") {
		k.i++
		return strings.Trim(w, "[]")
	}
	return ""
}

func (c *converter) spdadd(s stmt) {
	p := &policy{stmt: s}
	k := &cursor{s, 1}
	for strings.HasPrefix(k.word(k.i), "-") {
		k.i++ // -4, -6, -n
	}
	var err error
	if k.word(k.i) == "tagged" {
		c.note(s, true, "packets are not chosen by tags here: write the addresses of a child's local_ts and remote_ts")
		return
	}
	if p.src, err = prefix(k.next()); err != nil {
		c.note(s, true, "source: %v; write the addresses in numbers", err)
		return
	}
	p.srcPort = k.bracket()
	if p.dst, err = prefix(k.next()); err != nil {
		c.note(s, true, "destination: %v; write the addresses in numbers", err)
		return
	}
	p.dstPort = k.bracket()
	p.proto = k.next()
	if k.i < len(s.words) && !k.stmt.words[k.i].is("-P") {
		c.note(s, true, "neither ICMP types nor security contexts choose packets in this conversion: write the child by hand")
		return
	}
	if k.next() != "-P" {
		c.note(s, true, "the policy is missing: -P, direction and action")
		return
	}
	p.dir = k.next()
	if p.action = k.next(); p.action == "priority" || p.action == "prio" {
		p.prio = true
		c.note(s, false, "priorities are computed by how narrow selectors are; set priority of the child for another order")
		for k.i < len(s.words) && !slices.Contains([]string{"ipsec", "none", "discard"}, k.word(k.i)) {
			k.i++
		}
		p.action = k.next()
	}
	if !slices.Contains([]string{"in", "out", "fwd"}, p.dir) || !slices.Contains([]string{"ipsec", "none", "discard"}, p.action) {
		c.note(s, true, "expected in, out or fwd, and ipsec, none or discard behind -P")
		return
	}
	for k.i < len(s.words) {
		text := k.next()
		for k.i < len(s.words) && k.stmt.words[k.i].glued {
			text += k.next()
		}
		r, err := readRule(text)
		if err != nil {
			c.note(s, true, "%v: %v", text, err)
			return
		}
		p.rules = append(p.rules, r)
	}
	if p.action == "ipsec" && len(p.rules) == 0 {
		c.note(s, true, "no protection is named behind ipsec")
		return
	}
	c.policies = append(c.policies, p)
}

// readRule reads protocol/mode/from-to/level.
func readRule(s string) (r rule, err error) {
	w := strings.Split(s, "/")
	if len(w) < 2 || len(w) > 4 {
		return r, fmt.Errorf("expected protocol/mode/addresses/level")
	}
	for len(w) < 4 {
		w = append(w, "")
	}
	r = rule{proto: w[0], mode: w[1], level: w[3]}
	switch {
	case !slices.Contains([]string{"esp", "ah", "ipcomp"}, r.proto):
		return r, fmt.Errorf("expected esp, ah or ipcomp")
	case r.mode != "tunnel" && r.mode != "transport":
		return r, fmt.Errorf("expected tunnel or transport")
	}
	if r.mode == "tunnel" {
		from, to, _ := strings.Cut(w[2], "-")
		bare := func(x string) string {
			x, _, _ = strings.Cut(x, "[")
			return x
		}
		var err1, err2 error
		r.from, err1 = netip.ParseAddr(bare(from))
		r.to, err2 = netip.ParseAddr(bare(to))
		if err1 != nil || err2 != nil || r.from.Zone() != "" || r.to.Zone() != "" {
			return r, fmt.Errorf("a tunnel needs the addresses of its two ends in numbers")
		}
	}
	switch base, _, _ := strings.Cut(r.level, ":"); base {
	case "", "default", "use", "require", "unique":
	default:
		return r, fmt.Errorf("expected the level use, require or unique")
	}
	return r, nil
}

// id is the number N of unique:N.
func (r rule) id() string {
	_, n, _ := strings.Cut(r.level, ":")
	if v, err := strconv.ParseUint(n, 10, 32); err != nil || v == 0 {
		return ""
	}
	return n
}

var (
	setkeyEncr  = map[string]string{"3des-cbc": "3des", "des-cbc": "des", "rijndael-cbc": "aes", "aes-cbc": "aes", "null": "null", "simple": "null", "blowfish-cbc": "blowfish", "cast128-cbc": "cast128", "camellia-cbc": "camellia", "aes-ctr": "aesctr", "aes-gcm-16": "aesgcm"}
	setkeyInteg = map[string]string{"hmac-md5": "md5", "hmac-sha1": "sha1", "hmac-sha2-256": "sha256", "hmac-sha256": "sha256", "hmac-sha2-384": "sha384", "hmac-sha384": "sha384", "hmac-sha2-512": "sha512", "hmac-sha512": "sha512", "aes-xcbc-mac": "aesxcbc"}
)

func (c *converter) add(s stmt) {
	a := &staticSA{stmt: s}
	k := &cursor{s, 1}
	for strings.HasPrefix(k.word(k.i), "-") {
		k.i++
	}
	bad := func(advice string) { c.note(s, true, "%s", advice) }
	var err1, err2 error
	a.src, err1 = netip.ParseAddr(k.next())
	port := k.bracket()
	a.dst, err2 = netip.ParseAddr(k.next())
	port += k.bracket()
	if err1 != nil || err2 != nil || a.src.Zone()+a.dst.Zone() != "" {
		bad("expected the two addresses of the SA in numbers")
		return
	}
	if a.proto = k.next(); a.proto != "esp" && a.proto != "ah" || port != "" {
		bad("only SAs of esp and ah without UDP encapsulation are converted: write `ikectl sa add` by hand")
		return
	}
	spi, err := strconv.ParseUint(k.next(), 0, 32)
	if err != nil || spi < 256 {
		bad("expected an SPI of 256 or more")
		return
	}
	a.spi = uint32(spi)
	for k.i < len(s.words) {
		switch o := k.next(); o {
		case "-m":
			if a.mode = k.next(); a.mode == "any" {
				a.mode = "" // that of the policy
			}
		case "-u":
			a.reqid = k.next()
		case "-r":
			k.next() // a window of at least 32 packets is always kept
		case "-lh":
			a.hardTime = k.next() + "s"
		case "-ls":
			a.softTime = k.next() + "s"
		case "-f":
			k.next()
		case "-E":
			a.encr = k.next()
			a.encrKey = keyOf(k)
		case "-A":
			a.integ = k.next()
			a.integKey = keyOf(k)
		default:
			bad("an option of this SA has no counterpart: write `ikectl sa add` by hand")
			return
		}
	}
	for _, n := range []string{a.reqid, strings.TrimSuffix(a.hardTime, "s"), strings.TrimSuffix(a.softTime, "s")} {
		if n != "" {
			if _, err := strconv.ParseUint(n, 10, 31); err != nil {
				bad("an option of this SA is no number")
				return
			}
		}
	}
	if a.mode != "tunnel" && a.mode != "transport" && a.mode != "" {
		bad("expected -m tunnel or transport")
		return
	}
	c.adds = append(c.adds, a)
}

// keyOf reads a key: a quoted string or 0x and hexadecimal digits. None has length 0.
func keyOf(k *cursor) secret.Bytes {
	if k.i >= len(k.words) || !k.words[k.i].quoted && !strings.HasPrefix(k.word(k.i), "0x") {
		return secret.Bytes{}
	}
	t := k.words[k.i]
	k.i++
	if t.quoted {
		return secret.New([]byte(t.text))
	}
	return unhex(t.text[2:])
}
