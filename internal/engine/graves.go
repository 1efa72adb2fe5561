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
	dscp  uint8
	until time.Time
}

type grave struct {
	spi   ikev2.SPI
	until time.Time
}

// bequeath keeps the last answer of an SA that closed.
func (s *shard) bequeath(x *ikeSA, t ikev2.Tombstone) {
	if t == nil {
		return
	}
	if x.spi == 0 {
		t.Destroy()
		return
	}
	s.e.gate.graves.dig(x.spi, stone{Tombstone: t, dscp: dscpOf(x.cfg)}, time.Now())
}

// dig keeps an answer. One that was kept of the same SPI goes.
func (g *graves) dig(spi ikev2.SPI, t stone, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		g.m = make(map[ikev2.SPI]stone)
	}
	g.sweep(now)
	if len(g.order) >= maxGraves {
		g.fill()
	}
	if len(g.order) == 0 {
		time.AfterFunc(graveTime, g.expire)
	}
	if old, ok := g.m[spi]; ok {
		old.Destroy()
	}
	t.until = now.Add(graveTime)
	g.m[spi] = t
	g.order = append(g.order, grave{spi, t.until})
}

// sweep forgets what is over.
func (g *graves) sweep(now time.Time) {
	for len(g.order) > 0 && !g.order[0].until.After(now) {
		g.fill()
	}
}

// fill forgets the oldest answer and wipes its keys, unless another one has taken its
// place meanwhile.
func (g *graves) fill() {
	o := g.order[0]
	g.order = g.order[1:]
	if t, ok := g.m[o.spi]; ok && t.until.Equal(o.until) {
		t.Destroy()
		delete(g.m, o.spi)
	}
}

// expire sweeps when the oldest is over, as long as there are any.
func (g *graves) expire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sweep(time.Now())
	if len(g.order) > 0 {
		time.AfterFunc(time.Until(g.order[0].until), g.expire)
	}
}

// clear forgets all.
func (g *graves) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sweep(time.Now().Add(2 * graveTime))
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
	list := t.Answer(d) // under the lock: its keys must not go meanwhile
	g.mu.Unlock()
	for _, out := range list {
		if err := e.opt.Transport.Send(out.Local, out.Remote, out.Data, out.NATT, dscp); err != nil {
			e.drops.add("send-error")
		}
	}
	return len(list) > 0
}
