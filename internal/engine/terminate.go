package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"iked/ikev2"
)

// target is an SA that a selector chose.
type target struct {
	ike, child uint32 // child 0: the IKE SA
	conn, name string
	spi        uint32
	// replaced: its successor is up, and no word comes when it goes.
	replaced bool
}

// targets finds the SAs of a selector.
func (e *Engine) targets(ctx context.Context, sel Selector) ([]target, error) {
	sas, err := e.ListSAs(ctx, SAFilter{IKE: sel.IKE, IKEID: sel.IKEID, Child: sel.Child, ChildID: sel.ChildID})
	if err != nil {
		return nil, err
	}
	var out []target
	for _, s := range sas {
		if !sel.ofChild() {
			out = append(out, target{ike: s.UniqueID, conn: s.Conn})
			continue
		}
		for _, c := range s.Children {
			out = append(out, target{ike: s.UniqueID, child: c.UniqueID, conn: s.Conn, name: c.Name, spi: c.SPIIn, replaced: c.State == ikev2.ChildRekeyed})
		}
	}
	return out, nil
}

// termination waits for SAs to end.
type termination struct {
	ikes, children map[uint32]bool
	done           chan struct{}
	once           sync.Once
}

func (t *termination) finish() { t.once.Do(func() { close(t.done) }) }

func (t *termination) check() {
	if len(t.ikes)+len(t.children) == 0 {
		t.finish()
	}
}

func (t *termination) renumber(old, now uint32) {
	if t.ikes[old] {
		delete(t.ikes, old)
		t.ikes[now] = true
	}
}

func (p *supervisor) ikeGone(id uint32) {
	p.gone(func(t *termination) { delete(t.ikes, id) })
}

func (p *supervisor) childGone(id uint32) {
	p.gone(func(t *termination) { delete(t.children, id) })
}

func (p *supervisor) gone(f func(t *termination)) {
	p.waits = slices.DeleteFunc(p.waits, func(t *termination) bool {
		f(t)
		t.check()
		return len(t.ikes)+len(t.children) == 0
	})
}

// Terminate deletes SAs. What an operator takes down stays down until it is
// brought up again, or its configuration changes.
func (e *Engine) Terminate(ctx context.Context, r TerminateRequest) (Result, error) {
	if r.empty() {
		return Result{}, errors.New("missing terminate selector")
	}
	list, err := e.targets(ctx, r.Selector)
	if err != nil {
		return Result{}, err
	}
	if len(list) == 0 {
		return Result{}, errors.New("no matching SAs to terminate found")
	}
	t := &termination{ikes: make(map[uint32]bool), children: make(map[uint32]bool), done: make(chan struct{})}
	chosen := make(map[uint32]bool)
	for _, x := range list {
		chosen[x.ike] = true
	}
	stop := e.logTo(r.Log, r.Level, func(ev *Event) bool { return chosen[ev.Record.UniqueID] })
	defer stop()
	if err := e.sup.wait(ctx, func() { e.sup.terminate(list, t, r.Force && r.Timeout <= 0) }); err != nil {
		return Result{Matches: len(list)}, err
	}
	res := Result{Matches: len(list), Done: len(list)}
	if r.Timeout < 0 {
		return res, nil
	}
	var late <-chan time.Time
	if r.Timeout > 0 {
		timer := time.NewTimer(r.Timeout)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-t.done:
		return res, nil
	case <-late:
		if r.Force && !r.ofChild() {
			e.sup.post(func() { e.sup.forceAll(t) })
			select {
			case <-t.done:
				return res, nil
			case <-ctx.Done():
			}
		}
	case <-ctx.Done():
	case <-e.ctx.Done():
	}
	left := 0
	e.sup.wait(context.Background(), func() {
		left = len(t.ikes) + len(t.children)
		e.sup.waits = slices.DeleteFunc(e.sup.waits, func(x *termination) bool { return x == t })
	})
	res.Done -= left
	if res.Matches == 1 {
		return res, errors.New("terminating SA failed")
	}
	return res, errors.New("not all matching SAs could be terminated")
}

func (p *supervisor) terminate(list []target, t *termination, force bool) {
	for _, x := range list {
		if x.child != 0 {
			if !x.replaced {
				t.children[x.child] = true
			}
			p.hold(x.conn, x.name)
		} else {
			t.ikes[x.ike] = true
			p.hold(x.conn, "")
		}
	}
	p.waits = append(p.waits, t)
	for _, x := range list {
		if x.child != 0 {
			p.e.startTask(x.ike, ikev2.DeleteChild{SPI: x.spi})
			continue
		}
		if s := p.sas[x.ike]; s != nil {
			s.closing = true
		}
		p.e.startTask(x.ike, ikev2.Delete{Force: force, Why: ikev2.CloseAsked})
	}
	// An SA may have ended between the look and now.
	p.e.sweep(list, t)
}

// sweep takes out of t what ended before it was asked to: no shard has it. Each
// shard looks after it was given the tasks, so nothing is missed in between.
func (e *Engine) sweep(list []target, t *termination) {
	var mu sync.Mutex
	found := make(map[uint32]bool)
	left := len(e.shards)
	for _, s := range e.shards {
		s.do(func(s *shard) {
			mu.Lock()
			defer mu.Unlock()
			for _, x := range list {
				if s.sas[x.ike] != nil {
					found[x.ike] = true
				}
			}
			if left--; left == 0 {
				e.sup.post(func() { e.sup.strike(list, found, t) })
			}
		})
	}
}

// strike finishes what a termination needs not wait for.
func (p *supervisor) strike(list []target, found map[uint32]bool, t *termination) {
	for _, x := range list {
		switch {
		case x.child != 0 && p.e.children.get(uint64(x.child)) == nil && !p.lists(x):
			delete(t.children, x.child)
		case x.child == 0 && !found[x.ike]:
			delete(t.ikes, x.ike)
		}
	}
	t.check()
}

// lists tells whether the supervisor counts a child as up: then the news of its end
// is on the way, and who terminates waits for it. A later initiate would find the
// child up otherwise.
func (p *supervisor) lists(x target) bool {
	_, k := p.kid(x.conn, x.name)
	return k != nil && k.live[x.child] != nil
}

// hold keeps children down that an operator took down; "" means all of a
// connection.
func (p *supervisor) hold(conn, child string) {
	c := p.conns[conn]
	if c == nil {
		return
	}
	for name, k := range c.kids {
		if child == "" || child == name {
			k.held, k.tries = true, 0
			p.unanswered(k, acquirePause)
			p.failDemands(k, acquirePause, func(d *demand) bool { return d.ike == 0 && !d.begun })
		}
	}
}

func (p *supervisor) forceAll(t *termination) {
	for id := range t.ikes {
		p.e.startTask(id, ikev2.Delete{Force: true, Why: ikev2.CloseAsked})
	}
}
