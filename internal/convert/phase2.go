package convert

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"iked/crypto/suite"
)

// build makes connections of what was read.
func (c *converter) build() {
	c.checkMirrors()
	c.checkOrder()
	for _, p := range c.policies {
		if p.dir != "out" {
			continue
		}
		switch p.action {
		case "none", "discard":
			c.shunt(p)
		default:
			c.protect(p)
		}
	}
	c.unusedRemotes()
	c.unpairedSAs()
	var list []section
	for _, x := range c.conns {
		k := x.keys
		k.set("local", x.local)
		k.set("local-2", x.local2)
		k.set("remote", x.remote)
		k.set("remote-2", x.remote2)
		if len(x.children) == 0 && x.from != nil {
			c.note(x.from.stmt, true, "no policy says what this connection protects: add children with local_ts and remote_ts, or convert setkey.conf in the same run")
		}
		k.set("children", x.children)
		list = append(list, k)
	}
	c.res.doc.set("connections", list)
	if slices.ContainsFunc(c.conns, func(x *connection) bool { return has(x.keys, "pools") }) {
		c.res.doc.set("pools", []section{c.pool})
	}
	c.res.doc.set("secrets", c.secrets())
	for _, s := range c.sainfos {
		if !s.used {
			c.note(s.stmt, false, "no policy needs it; it is left out")
		}
	}
}

// selector writes a prefix with protocol and port in the words of a traffic selector.
func selector(p netip.Prefix, proto, port string) (string, error) {
	s := p.String()
	if p.IsSingleIP() {
		s = p.Addr().String()
	}
	clean := func(w string) bool {
		return w != "" && strings.Trim(w, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
	}
	port = anyway(port)
	switch proto {
	case "icmp6":
		proto = "ipv6-icmp"
	case "ip4":
		proto = "4" // IP in IP
	case "ip6":
		proto = "41"
	}
	switch {
	case !clean(proto) || !clean(port):
		return "", fmt.Errorf("expected a protocol and a port")
	case proto == "ip":
		return "", fmt.Errorf("the protocol ip says nothing: write any")
	case proto == "any":
		if port != "any" {
			return "", fmt.Errorf("ports without a protocol are not converted: name tcp or udp")
		}
		return s, nil
	case port == "any":
		return s + "[" + proto + "]", nil
	}
	return s + "[" + proto + "/" + port + "]", nil
}

func (c *converter) selectors(p *policy) (local, remote string, ok bool) {
	local, err1 := selector(p.src, p.proto, p.srcPort)
	remote, err2 := selector(p.dst, p.proto, p.dstPort)
	if err1 == nil {
		err1 = err2
	}
	if err1 == nil && p.src.Addr().Is4() != p.dst.Addr().Is4() {
		err1 = fmt.Errorf("the addresses are of two families")
	}
	if err1 != nil {
		c.note(p.stmt, true, "%v; write the child by hand", err1)
		return "", "", false
	}
	return local, remote, true
}

// shunt is a policy that passes or drops: a child without SA.
func (c *converter) shunt(p *policy) {
	local, remote, ok := c.selectors(p)
	if !ok {
		return
	}
	i := slices.IndexFunc(c.conns, func(x *connection) bool { return x.shunts })
	if i < 0 {
		x := &connection{name: c.unique("", "policies"), shunts: true}
		x.scope = x.name
		x.keys.set("name", x.name)
		c.conns = append(c.conns, x)
		i = len(c.conns) - 1
	}
	mode := map[string]string{"none": "pass", "discard": "drop"}[p.action]
	x := c.conns[i]
	var child section
	child.set("name", c.unique(x.scope, mode))
	child.set("mode", mode)
	child.set("local_ts", []string{local})
	child.set("remote_ts", []string{remote})
	child.set("start", "on-demand")
	x.children = append(x.children, child)
}

// protection is what the rules of a policy ask for, from the inside outwards: ESP or
// AH; around is AH around ESP, comp compression inside of it.
type protection struct {
	rule
	around, comp bool
}

func (c *converter) protection(p *policy) (protection, bool) {
	var r protection
	var packs *rule
	n := 0
	for i, x := range p.rules {
		switch {
		case x.proto == "ipcomp" && n == 0 && packs == nil:
			packs = &p.rules[i]
			continue
		case x.proto == "ipcomp":
			c.note(p.stmt, true, "compression is first, before what it is protected by")
			return r, false
		}
		if n++; n == 1 {
			r.rule = x
			continue
		}
		if n > 2 || r.proto != "esp" || x.proto != "ah" || x.mode != "transport" {
			c.note(p.stmt, true, "of several protections of one packet AH around ESP is negotiated, and the child is left out: write esp/MODE/…/require ah/transport//require, in this order, on both sides")
			return r, false
		}
		r.around = true
	}
	switch {
	case n == 0:
		c.note(p.stmt, true, "compression protects nothing: name esp")
		return r, false
	case packs != nil && r.proto != "esp":
		c.note(p.stmt, false, "compression is for esp: remove ipcomp on the peer, too")
	case packs != nil && packs.mode != r.mode:
		c.note(p.stmt, true, "ipcomp has %s mode and esp %s mode, and the child is left out: give both the same on both sides", packs.mode, r.mode)
		return r, false
	}
	r.comp = packs != nil && r.proto == "esp"
	if level, _, _ := strings.Cut(r.level, ":"); level == "use" {
		c.note(p.stmt, false, "use lets packets pass in clear while there is no SA; here they wait or are dropped (set fail to open for what it did)")
	} else if level == "" || level == "default" {
		c.note(p.stmt, false, "the level is the kernel's default; here packets never pass in clear, as with require")
	}
	return r, true
}

// protect makes the child of a policy, of the connection with its peer, or the
// commands where its SAs are keyed by hand.
func (c *converter) protect(p *policy) {
	r, ok := c.protection(p)
	if !ok {
		return
	}
	local, remote, ok := c.selectors(p)
	if !ok {
		return
	}
	from, to := r.from, r.to
	if r.mode == "transport" {
		if !p.src.IsSingleIP() || !p.dst.IsSingleIP() {
			if len(c.matching(p)) == 0 {
				c.note(p.stmt, true, "transport mode is for the traffic of two hosts, and this policy has a subnet: write a policy for each host, or use tunnel mode")
				return
			}
		} else {
			from, to = p.src.Addr(), p.dst.Addr()
		}
	}
	if (r.around || r.comp) && len(c.matching(p)) > 0 {
		c.note(p.stmt, true, "SAs keyed by hand with more than one protection of a packet are not converted: use ikectl sa add, and ikectl policy add with bundle")
		return
	}
	if c.static(p, r.rule, from, to, local, remote) {
		return
	}
	addr := ""
	if !to.IsUnspecified() {
		addr = to.String()
	}
	x := c.peer(p.stmt, addr)
	if !c.room(p.stmt) {
		return
	}
	if from.IsValid() && !from.IsUnspecified() && !has(x.keys, "local_addrs") {
		x.keys.set("local_addrs", []string{from.String()})
	}
	var child section
	child.set("name", c.unique(x.scope, "net"))
	if r.mode == "transport" {
		child.set("mode", "transport")
		child.set("mode_required", "yes")
	}
	child.set("local_ts", []string{local})
	child.set("remote_ts", []string{remote})
	if info := c.sainfo(x, p); info != nil {
		c.phase2(&child, info, r)
	} else {
		if c.racoon {
			c.note(p.stmt, false, "no sainfo fits this policy, without which racoon negotiates nothing; the default proposals are offered")
		}
		if r.around {
			child.set("esp_proposals", []string{"aes256-sha256"})
		}
		if r.proto == "ah" || r.around {
			child.set("ah_proposals", []string{"sha256"})
		}
	}
	if r.comp {
		child.set("ipcomp", "yes")
	}
	child.set("reqid", r.id())
	if x.passive {
		child.set("start", "passive")
	} else {
		child.set("start", "on-demand")
	}
	x.children = append(x.children, child)
}

// room bounds the children of the output. What has none is said once, of the first.
func (c *converter) room(at stmt) bool {
	if c.children++; c.children == maxOutput+1 {
		c.note(at, true, "there are %d children already, and this one and all behind it are left out: convert the file in parts", maxOutput)
	}
	return c.children <= maxOutput
}

// peer is the connection with a peer, made of its remote or of the anonymous one.
func (c *converter) peer(at stmt, addr string) *connection {
	for _, x := range c.conns {
		if x.peer == addr && !x.shunts {
			return x
		}
	}
	var best *remote
	for _, r := range c.remotes {
		if same(r.addr, addr) {
			best = r
			break
		}
		if r.anonymous && best == nil {
			best = r
		}
	}
	if best == nil {
		c.note(at, false, "no remote says how to negotiate with %s: version 1, a pre-shared key and the default proposals are taken; convert racoon.conf in the same run", addr)
	}
	return c.connect(best, addr)
}

// same tells whether the address of a remote is the peer's.
func same(r, addr string) bool {
	a, err := netip.ParseAddr(r)
	return err == nil && a.String() == addr
}

// sainfo is the one that fits a policy best: both sides named, then one, then none;
// of equals the first.
func (c *converter) sainfo(x *connection, p *policy) *sainfo {
	var best *sainfo
	rank := -1
	for _, s := range c.sainfos {
		if s.id != "" && (x.from == nil || s.id != x.from.ph1id) {
			continue
		}
		n := 0
		if s.id != "" {
			n++
		}
		for _, side := range []struct {
			is     side
			prefix netip.Prefix
			port   string
		}{{s.local, p.src, p.srcPort}, {s.remote, p.dst, p.dstPort}} {
			switch {
			case side.is.any:
			case side.is.prefix == side.prefix && anyway(side.is.port) == anyway(side.port) && anyway(side.is.proto) == anyway(p.proto):
				n += 2
			default:
				n = -100
			}
		}
		if n > rank {
			best, rank = s, n
		}
	}
	return best
}

func anyway(s string) string {
	if s == "" || s == "0" {
		return "any"
	}
	return s
}

// phase2 writes the proposals and lifetimes of a sainfo into a child.
func (c *converter) phase2(child *section, s *sainfo, r protection) {
	first := !s.used // notes are said once
	s.used = true
	say := func(b stmt, format string, a ...any) {
		if first {
			c.note(b, false, format, a...)
		}
	}
	var encr, auth []string
	dh, life, volume := "", time.Duration(0), uint64(0)
	for _, b := range s.body {
		switch b.word(0) {
		case "pfs_group":
			if dh = group(b.word(1)); dh != "" {
				if _, err := suite.ParseProposals(suite.ProtoESP, []string{"aes256-sha256-" + dh}); err != nil {
					say(b, "the group is not there, and modp2048 is taken in its place: set the peer to it (%v)", err)
					dh = "modp2048"
				}
			}
		case "lifetime":
			if d, ok := duration(b, 2); ok && b.word(1) == "time" {
				life = d
			} else if n, ok := volumeOf(b); ok && b.word(1) == "byte" {
				volume = n
			} else {
				say(b, "expected lifetime time, a number and sec, min or hour, or lifetime byte, a number and KB, MB or GB; the default is taken")
			}
		case "encryption_algorithm":
			encr = c.algorithms(b, suite.ProtoESP, first)
		case "authentication_algorithm":
			auth = c.algorithms(b, suite.ProtoAH, first)
		case "compression_algorithm":
			// racoon demands it of every sainfo; a policy says whether there is compression.
			if !slices.Equal(lists(b), []string{"deflate"}) {
				say(b, "compression is by deflate alone")
			}
		case "remoteid":
		case "my_identifier":
			say(b, "the identity of phase 2 is local_ts")
		default:
			say(b, "this statement of sainfo is not known; see whether it matters, and remove it")
		}
	}
	join := func(parts ...string) string {
		return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "-")
	}
	hashes := strings.Join(auth, "-")
	var list []string
	if r.proto == "ah" || r.around {
		ah := hashes
		if len(auth) == 0 {
			say(s.stmt, "no authentication algorithm is left: sha256 is taken, set the peer to it")
			ah = "sha256"
		}
		if !r.around {
			ah = join(ah, dh) // else forward secrecy is that of esp_proposals
		}
		child.set("ah_proposals", []string{ah})
	}
	if r.proto != "ah" {
		var plain []string
		for _, e := range encr {
			switch {
			case strings.Contains(e, "gcm"):
				list = append(list, join(e, dh))
			case len(auth) == 0:
				say(s.stmt, "%s without an authentication algorithm protects nothing against forgery; name hmac_sha256", e)
			case e == "null":
				list = append(list, join(e, hashes, dh))
			default:
				plain = append(plain, e)
			}
		}
		if len(plain) > 0 {
			list = append([]string{join(strings.Join(plain, "-"), hashes, dh)}, list...)
		}
		list = slices.DeleteFunc(list, func(p string) bool {
			_, err := suite.ParseProposals(suite.ProtoESP, []string{p})
			if err != nil {
				say(s.stmt, "a proposal is left out: %v", err)
			}
			return err != nil
		})
		if len(list) == 0 {
			say(s.stmt, "no algorithm is left: aes256 and sha256 are taken, set the peer to them")
			list = []string{join("aes256-sha256", dh)}
		}
		child.set("esp_proposals", list)
	}
	if life > 0 {
		child.set("rekey_time", seconds(max(life*9/10, time.Second)))
		child.set("life_time", seconds(max(life, 2*time.Second)))
	}
	if volume > 0 {
		child.set("rekey_bytes", strconv.FormatUint(volume/10*9, 10))
		child.set("life_bytes", strconv.FormatUint(volume, 10))
	}
}

// algorithms reads a list of ciphers or hashes, without those that are not there.
func (c *converter) algorithms(b stmt, proto suite.Protocol, say bool) []string {
	var out []string
	drop := func(name, why string) {
		if say {
			c.note(b, false, "%s is left out: %s", name, why)
		}
	}
	for _, alg := range strings.Split(strings.Join(lists(b), "\n"), "\n") {
		name, bits, _ := strings.Cut(alg, " ")
		test, key := "", ""
		if proto == suite.ProtoAH {
			if name == "non_auth" {
				drop(name, "packets are always authenticated; name hmac_sha256")
				continue
			}
			key = integ(name)
			test = key
		} else if key = cipher(name, bits); strings.Contains(key, "gcm") {
			test = key
		} else {
			test = key + "-sha256"
		}
		if _, err := suite.ParseProposals(proto, []string{test}); err != nil {
			drop(alg, err.Error())
		} else if !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	return out
}

// lists cuts the words behind the first at commas.
func lists(s stmt) []string {
	var out []string
	item := ""
	for _, w := range s.words[min(1, len(s.words)):] {
		if w.is(",") {
			out, item = append(out, item), ""
			continue
		}
		item = strings.TrimPrefix(item+" "+w.text, " ")
	}
	return append(out, item)
}
