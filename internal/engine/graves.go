package engine

import (
	"sync"
	"time"

	"iked/ikev2"
)

// graveTime is how long the last answer of a closed SA is kept: as long as a peer
// that did not get it repeats its request (RFC 7296, Section 2.1).
const graveTime = time.Minute

// maxGraves bounds how many are kept; without one a peer waits for its timeout.
const maxGraves = 4096

// graves keep the last answers of closed SAs by the SPI that they had here.
type graves struct {
	mu    sync.Mutex
	m     map[ikev2.SPI]stone
	order []grave
}

// stone is the last answer, and how it is sent.
type stone struct {
	ikev2.Tombstone
	dscp uint8
}

type grave struct {
	spi   ikev2.SPI
	until time.Time
}

// bequeath keeps the last answer of an SA that closed.
func (s *shard) bequeath(x *ikeSA, t ikev2.Tombstone) {
	if t == nil || x.spi == 0 {
		return
	}
	g := &s.e.gate.graves
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		g.m = make(map[ikev2.SPI]stone)
	}
	for len(g.order) > 0 && (len(g.order) >= maxGraves || g.order[0].until.Before(now)) {
		delete(g.m, g.order[0].spi)
		g.order = g.order[1:]
	}
	g.m[x.spi] = stone{t, dscpOf(x.cfg)}
	g.order = append(g.order, grave{x.spi, now.Add(graveTime)})
}

// answer replies to a request of a peer whose SA is closed; false when nothing
// is kept for it.
func (g *graves) answer(e *Engine, spi ikev2.SPI, d ikev2.Datagram) bool {
	g.mu.Lock()
	t, ok := g.m[spi]
	if !ok {
		g.mu.Unlock()
		return false
	}
	dscp := t.dscp
	list := t.Answer(d) // has working memory of its own: one at a time
	g.mu.Unlock()
	for _, out := range list {
		if err := e.opt.Transport.Send(out.Local, out.Remote, out.Data, out.NATT, dscp); err != nil {
			e.drops.add("send-error")
		}
	}
	return len(list) > 0
}
