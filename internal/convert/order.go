package convert

import (
	"net/netip"
	"slices"
)

// checkMirrors looks whether what comes in is protected as what goes out: children
// are for both ways.
func (c *converter) checkMirrors() {
	type key struct {
		a, b   netip.Prefix
		ap, bp string
		proto  string
	}
	out, mirrored := map[key]*policy{}, map[*policy]bool{}
	for _, p := range c.policies {
		if p.dir == "out" {
			out[key{p.src, p.dst, anyway(p.srcPort), anyway(p.dstPort), p.proto}] = p
		}
	}
	for _, p := range c.policies {
		if p.dir == "out" {
			continue
		}
		o := out[key{p.dst, p.src, anyway(p.dstPort), anyway(p.srcPort), p.proto}]
		mirrored[o] = true
		switch {
		case o == nil:
			c.note(p.stmt, true, "there is no policy out with the same addresses turned round, and children are for both ways: add one to convert it")
		case o.action != p.action:
			c.note(p.stmt, true, "the policy out with the same addresses says %s; children are for both ways, and that one counts", o.action)
		case !slices.EqualFunc(o.rules, p.rules, func(a, b rule) bool {
			return a.proto == b.proto && a.mode == b.mode && a.from == b.to && a.to == b.from
		}):
			c.note(p.stmt, true, "the policy out with the same addresses has another protocol, mode or tunnel; children are for both ways, and that one counts")
		}
	}
	for _, p := range c.policies {
		if p.dir == "out" && !mirrored[p] {
			c.note(p.stmt, false, "there is no policy in with the same addresses turned round; the child is for both ways, so that what comes in is treated the same")
		}
	}
}

// checkOrder looks for traffic that would pass in clear because the order of policies
// is another one here: there the first, or the one of better priority, decides, and
// here the narrower.
func (c *converter) checkOrder() {
	overlap := func(p, q *policy) bool {
		one := func(a, b string) bool { return anyway(a) == "any" || anyway(b) == "any" || a == b }
		return p.src.Overlaps(q.src) && p.dst.Overlaps(q.dst) && one(p.proto, q.proto) && one(p.srcPort, q.srcPort) && one(p.dstPort, q.dstPort)
	}
	for i, p := range c.policies {
		if p.dir != "out" || p.action != "none" {
			continue
		}
		for j, q := range c.policies {
			if q.dir == "out" && q.action != "none" && (j < i || p.prio || q.prio) && overlap(p, q) {
				c.note(p.stmt, true, "it overlaps with the policy of %s:%d, which comes first there or has a priority, and here the narrower one decides, so that traffic may pass in clear: set priority of both children", q.file, q.line)
				break
			}
		}
	}
}
