package engine

import (
	"fmt"
	"net/netip"
	"time"

	"iked/ikev2"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

// homesTaken ends the IKE SAs whose peers may not have all home addresses any more that
// they had when these were made (RFC 4301, Section 4.4.3): they would go on under the old
// word. A peer that comes again is held against the new one.
func (e *Engine) homesTaken(p *program) {
	for _, s := range e.shards {
		s.do(func(s *shard) {
			for _, x := range s.all() {
				next := p.conns[x.conn]
				if !x.up || x.closed || x.cfg == nil || !x.cfg.ChecksHomes() || next != nil && next.ike == x.cfg {
					continue
				}
				info := x.m.Look()
				peer := info.RemoteID
				if next != nil && x.keepsHomes(next.ike, &info) {
					continue
				}
				s.e.log(s.record(x, trace.Record{At: time.Now(), Level: trace.Control, Group: trace.CFG,
					Msg: fmt.Sprintf("IKE_SA %s[%d] ends: home addresses were taken from %v by the new configuration", x.conn, x.id, peer)}))
				s.start(x, ikev2.Delete{Why: ikev2.CloseAsked})
			}
		})
	}
}

// keepsHomes tells whether a peer may have by another configuration what it may by that
// of its IKE SA, and all that its CHILD_SAs are for: an address may be bound to somebody
// else now, although many may have it.
func (x *ikeSA) keepsHomes(next *keyex.Config, info *SAInfo) bool {
	had, _ := x.cfg.Permitted(info.RemoteID)
	has, _ := next.Permitted(info.RemoteID)
	if !spd.Subset(had, has) {
		return false
	}
	var leased []netip.Prefix
	for _, a := range info.RemoteVIPs {
		leased = append(leased, netip.PrefixFrom(a, a.BitLen()))
	}
	for _, c := range x.children {
		if !next.MayHave(c.child.Remote, info.RemoteID, leased) {
			return false
		}
	}
	return true
}
