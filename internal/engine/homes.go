package engine

import (
	"fmt"
	"time"

	"iked/ikev2"
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
				peer := x.m.Look().RemoteID
				had, _ := x.cfg.Permitted(peer)
				var has []spd.TS
				if next != nil {
					has, _ = next.ike.Permitted(peer)
				}
				if spd.Subset(had, has) {
					continue
				}
				s.e.log(s.record(x, trace.Record{At: time.Now(), Level: trace.Control, Group: trace.CFG,
					Msg: fmt.Sprintf("IKE_SA %s[%d] ends: home addresses were taken from %v by the new configuration", x.conn, x.id, peer)}))
				s.start(x, ikev2.Delete{Why: ikev2.CloseAsked})
			}
		})
	}
}
