package convert

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// remote is a block remote of racoon.conf: what phase 1 with a peer is like.
type remote struct {
	stmt
	addr      string // empty: anonymous
	port      string
	name      string
	body      []stmt // with those that were inherited
	anonymous bool
	ph1id     string
	used      bool
}

// side is a source or destination of a sainfo: an identity of phase 2.
type side struct {
	any    bool
	client bool // the address that the client got
	prefix netip.Prefix
	port   string
	proto  string
	other  string // an identity that is no address
}

// sainfo is a block sainfo: what phase 2 of two identities is like.
type sainfo struct {
	stmt
	local, remote side
	id            string // remoteid
	used          bool
}

// readRacoon sorts the statements of racoon.conf.
func (c *converter) readRacoon(list []stmt) error {
	for _, s := range list {
		switch s.word(0) {
		case "path":
			c.paths[s.word(1)] = s.word(2)
			if s.word(1) == "pre_shared_key" {
				c.pskFrom = s
			}
		case "remote":
			if err := c.readRemote(s); err != nil {
				return err
			}
		case "sainfo":
			if err := c.readSainfo(s); err != nil {
				return err
			}
		case "listen":
			c.readListen(s)
		case "timer":
			c.readTimer(s)
		case "padding":
			for _, b := range s.body {
				c.note(b, false, "padding is as RFC 4303, Section 2.4 has it, and always checked; nothing to do")
			}
		case "mode_cfg":
			c.readModeCfg(s)
		case "log":
			if level := map[string]string{"error": "error", "warning": "warn", "notify": "warn", "info": "info", "debug": "debug", "debug2": "trace"}[s.word(1)]; level != "" {
				c.res.doc.set("log", section{{"level", level}})
			} else {
				c.note(s, false, "an unknown level; the default of the section log is taken")
			}
		case "privsep", "chroot", "complex_bundle", "gss_id_enc", "timeout":
			c.note(s, false, "nothing here corresponds to it; leave it out")
		case "radiuscfg":
			c.note(s, false, "write the section radius with these servers and their secret; accounting is not done")
		case "ldapcfg":
			c.note(s, false, "users are those of the secrets of type xauth, of RADIUS or of a program (xauth_hook): write them there")
		default:
			if isSetkeyWord(s.word(0)) {
				return fmt.Errorf("%s:%d: a statement of setkey.conf in racoon.conf", s.file, s.line)
			}
			c.note(s, true, "this is no statement of racoon.conf that is known; see whether it matters, and remove it")
		}
	}
	return nil
}

func (c *converter) readRemote(s stmt) error {
	r := &remote{stmt: s, body: s.body}
	i := 1
	switch w := s.word(i); {
	case w == "":
		return fmt.Errorf("%s:%d: remote: expected an address, a name or anonymous", s.file, s.line)
	case w == "anonymous":
		r.anonymous = true
	case s.words[i].quoted:
		r.name = w
	default:
		if _, err := netip.ParseAddr(w); err != nil {
			r.name = w
		}
		r.addr = w
	}
	i++
	if p := s.word(i); strings.HasPrefix(p, "[") {
		r.port = strings.Trim(p, "[]")
		i++
	}
	if s.word(i) == "inherit" {
		want := s.word(i + 1)
		var from *remote
		for _, x := range c.remotes {
			if x.addr == want || x.name == want || want == "anonymous" && x.anonymous {
				from = x
			}
		}
		if from == nil || want == "" {
			return fmt.Errorf("%s:%d: remote: there is no remote %q above to inherit from", s.file, s.line, want)
		}
		if c.stated += len(from.body); c.stated > maxStated {
			return fmt.Errorf("%s:%d: remote: too much is inherited", s.file, s.line)
		}
		r.body = inherit(from.body, r.body)
	} else if !s.block {
		return fmt.Errorf("%s:%d: remote: expected a block in braces", s.file, s.line)
	}
	for _, b := range r.body {
		switch b.word(0) {
		case "remote_address":
			r.addr, r.port = b.word(1), strings.Trim(b.word(2), "[]")
			r.anonymous = r.addr == "anonymous"
		case "ph1id":
			r.ph1id = b.word(1)
		}
	}
	if r.addr == "" || r.addr == "anonymous" {
		r.addr, r.anonymous = "", true
	}
	c.remotes = append(c.remotes, r)
	return nil
}

// inherit puts statements over those of a parent: a keyword given anew replaces
// all of the parent's.
func inherit(parent, own []stmt) []stmt {
	given := map[string]bool{}
	for _, s := range own {
		given[s.word(0)] = true
	}
	var out []stmt
	for _, s := range parent {
		if !given[s.word(0)] {
			out = append(out, s)
		}
	}
	return append(out, own...)
}

func (c *converter) readSainfo(s stmt) error {
	if !s.block {
		return fmt.Errorf("%s:%d: sainfo: expected a block in braces", s.file, s.line)
	}
	x := &sainfo{stmt: s}
	i, err := 1, error(nil)
	if x.local, i, err = readSide(s, i); err == nil {
		x.remote = side{any: true}
		if w := s.word(i); w != "" && w != "from" && w != "group" {
			x.remote, i, err = readSide(s, i)
		}
	}
	if err != nil {
		return fmt.Errorf("%s:%d: sainfo: %w", s.file, s.line, err)
	}
	if i < len(s.words) {
		c.note(s, false, "the peer's identity or group at the end of sainfo chooses nothing here; children belong to their connection")
	}
	for _, b := range s.body {
		if b.word(0) == "remoteid" {
			x.id = b.word(1)
		}
	}
	c.sainfos = append(c.sainfos, x)
	return nil
}

// readSide reads one identity of phase 2 from the i-th word on.
func readSide(s stmt, i int) (side, int, error) {
	switch w := s.word(i); w {
	case "anonymous":
		return side{any: true}, i + 1, nil
	case "clientaddr":
		return side{client: true}, i + 1, nil
	case "address", "subnet":
		p, err := prefix(s.word(i + 1))
		if err != nil {
			return side{}, i, err
		}
		x := side{prefix: p, port: "any"}
		if i += 2; strings.HasPrefix(s.word(i), "[") {
			x.port = strings.Trim(s.word(i), "[]")
			i++
		}
		x.proto = s.word(i)
		if x.proto == "" {
			return x, i, fmt.Errorf("the protocol is missing behind the address; write any")
		}
		return x, i + 1, nil
	case "asn1dn", "fqdn", "user_fqdn", "keyid":
		return side{other: w + " " + s.word(i+1)}, i + 2, nil
	default:
		return side{}, i, fmt.Errorf("expected address, anonymous or an identity")
	}
}

// prefix reads an address or a subnet.
func prefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("expected an address or a subnet")
	}
	return p.Masked(), nil
}

func (c *converter) readListen(s stmt) {
	for _, b := range s.body {
		switch b.word(0) {
		case "isakmp", "isakmp_natt":
			port := strings.Trim(b.word(2), "[]")
			if b.word(0) == "isakmp" {
				c.listen = append(c.listen, b.word(1))
			}
			if want := map[string]string{"isakmp": "500", "isakmp_natt": "4500"}[b.word(0)]; port != "" && port != want && port != "any" {
				c.note(b, false, "the daemon has one port for all addresses: set port or port_nat_t at the top level")
			}
		case "strict_address":
			c.note(b, false, "the daemon listens on every address; local_addrs of a connection say which it uses")
		default:
			c.note(b, false, "the control socket is the section control; nothing to do")
		}
	}
}

func (c *converter) readTimer(s stmt) {
	t := section{}
	for _, b := range s.body {
		switch b.word(0) {
		case "counter":
			if n, err := strconv.Atoi(b.word(1)); err == nil && n > 0 && n <= 100 {
				t.set("tries", strconv.Itoa(n))
				continue
			}
		case "interval":
			if d, ok := duration(b, 1); ok {
				t.set("timeout", seconds(d))
				c.note(b, false, "each wait is longer than the one before by retransmit.base; set that to 1 for a fixed interval")
				continue
			}
		case "natt_keepalive":
			if d, ok := duration(b, 1); ok {
				c.res.doc.set("keep_alive", seconds(d))
				continue
			}
		}
		c.note(b, false, "the defaults of the section retransmit are taken")
	}
	c.res.doc.set("retransmit", t)
}

// duration reads a number and its unit from the i-th word on.
func duration(s stmt, i int) (time.Duration, bool) {
	if s.word(i) == "time" {
		i++
	}
	n, err := strconv.ParseUint(s.word(i), 10, 31)
	if err != nil {
		return 0, false
	}
	var unit time.Duration
	switch s.word(i + 1) {
	case "", "sec", "secs", "second", "seconds":
		unit = time.Second
	case "min", "mins", "minute", "minutes":
		unit = time.Minute
	case "hour", "hours":
		unit = time.Hour
	default:
		return 0, false
	}
	// Ten years are more than any lifetime.
	d := time.Duration(n) * unit
	return d, n > 0 && n < 1<<31/3600 && d < 10*365*24*time.Hour
}

// volumeOf reads a lifetime in octets.
func volumeOf(s stmt) (uint64, bool) {
	n, err := strconv.ParseUint(s.word(2), 10, 32)
	shift, ok := map[string]uint{"B": 0, "byte": 0, "bytes": 0, "KB": 10, "MB": 20, "GB": 30, "TB": 40}[s.word(3)]
	n <<= shift
	// Below this, keys would be replaced all the time; above, never.
	return n, err == nil && ok && n >= 1<<20 && n < 1<<50
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) + "s" }

// networks reads the list of split_network, from a word on.
func (c *converter) networks(s stmt, from int) (out []string) {
	for _, w := range s.rest(from) {
		w = strings.Trim(w, ",")
		if w == "" {
			continue
		}
		if addr, mask, ok := strings.Cut(w, "/"); ok && strings.Contains(mask, ".") {
			if m, err := netip.ParseAddr(mask); err == nil && m.Is4() {
				v := binary.BigEndian.Uint32(m.AsSlice())
				if n := bits.LeadingZeros32(^v); v == ^uint32(0)<<(32-n) {
					w = fmt.Sprintf("%s/%d", addr, n)
				}
			}
		}
		p, err := netip.ParsePrefix(w)
		if err != nil || !p.Addr().Is4() {
			c.note(s, false, "%s is no IPv4 network; it is left out", w)
			continue
		}
		out = append(out, p.Masked().String())
	}
	return out
}

// readModeCfg makes a pool of the addresses and servers that clients get.
func (c *converter) readModeCfg(s stmt) {
	var first netip.Addr
	size := uint64(0)
	p := section{}
	var dns, wins, include, exclude []string
	domain := ""
	for _, b := range s.body {
		switch b.word(0) {
		case "network4":
			first, _ = netip.ParseAddr(b.word(1))
		case "pool_size":
			size, _ = strconv.ParseUint(b.word(1), 10, 16)
		case "dns4":
			dns = append(dns, b.rest(1)...)
		case "wins4", "nbns4":
			wins = append(wins, b.rest(1)...)
		case "split_network":
			if b.word(1) == "include" {
				include = append(include, c.networks(b, 2)...)
			} else {
				exclude = append(exclude, c.networks(b, 2)...)
			}
		case "default_domain":
			domain = b.word(1)
		case "banner":
			c.note(b, false, "write the text of that file as banner of the pool")
		case "netmask4":
			// A client of one address needs none.
		case "auth_source":
			switch src := b.word(1); {
			case src == "radius":
				c.note(b, false, "set auth of remote-2 to xauth-radius, and write the section radius")
			case src == "pam":
				c.note(b, false, "set auth of remote-2 to xauth-hook, and xauth_hook to a program that asks PAM, as packaging/xauth-pam does")
			case src != "system" || c.racoon:
				c.note(b, false, "users are those of the secrets of type xauth: write them there")
			}
		default:
			c.note(b, false, "this attribute is not sent")
		}
	}
	if first.Is4() {
		if size == 0 {
			size = 255 // racoon's own
		}
		a := first.As4()
		n := uint64(a[0])<<24 | uint64(a[1])<<16 | uint64(a[2])<<8 | uint64(a[3])
		if last := n + size - 1; last < 1<<32 {
			p.set("name", "modecfg")
			p.set("addrs", fmt.Sprintf("%s-%s", first, netip.AddrFrom4([4]byte{byte(last >> 24), byte(last >> 16), byte(last >> 8), byte(last)})))
			p.set("dns", dns)
			p.set("nbns", wins)
			p.set("split_include", include)
			p.set("split_exclude", exclude)
			p.set("domain", domain)
		}
	}
	if len(p) == 0 && len(s.body) > 0 {
		c.note(s, false, "without network4 there are no addresses to give; write the section pools")
	}
	c.pool = p
}
