package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"iked/ikev2"
	"iked/internal/trace"
)

// InitiateRequest asks for a tunnel.
type InitiateRequest struct {
	Child string // CHILD configuration; "": the IKE SA only
	IKE   string // connection; with Child it says where that is looked for
	// Timeout: 0 waits for the result, more waits at most so long while the attempt
	// goes on, less does not wait at all.
	Timeout time.Duration
	// Log gets the records of the connection with at most Level while the call
	// lasts, on a goroutine of its own. It may be nil.
	Log   func(trace.Record)
	Level trace.Level
}

// operation waits for a tunnel.
type operation struct {
	conn, child string
	done        chan error
	once        sync.Once
}

func (o *operation) finish(err error) {
	o.once.Do(func() { o.done <- err; close(o.done) })
}

// Initiate brings a child up, or an IKE SA, and waits for it as asked. A child
// that is up already is left as it is: that is success. An operator's `down` is
// over with it. ctx ends the wait, never the attempt.
func (e *Engine) Initiate(ctx context.Context, r InitiateRequest) error {
	if r.Child == "" && r.IKE == "" {
		return errors.New("missing configuration name")
	}
	o := &operation{done: make(chan error, 1)}
	stop := func() {}
	var refused error
	start := func() {
		c, k, err := e.sup.choose(r)
		if err != nil {
			refused = err
			return
		}
		o.conn, o.child = c.name, r.Child
		stop = e.logTo(r.Log, r.Level, func(ev *Event) bool { return ev.Record.Conn == c.name })
		e.sup.initiate(c, k, o)
	}
	if err := e.sup.wait(ctx, start); err != nil {
		return err
	}
	defer func() { stop() }()
	if refused != nil || r.Timeout < 0 {
		return refused
	}
	var late <-chan time.Time
	if r.Timeout > 0 {
		t := time.NewTimer(r.Timeout)
		defer t.Stop()
		late = t.C
	}
	select {
	case err := <-o.done:
		return err
	case <-late:
		e.sup.post(func() { e.sup.forgetOp(o) })
		if r.Child == "" {
			return fmt.Errorf("IKE_SA '%s' not established after %dms", r.IKE, r.Timeout.Milliseconds())
		}
		return fmt.Errorf("CHILD_SA '%s' not established after %dms", r.Child, r.Timeout.Milliseconds())
	case <-ctx.Done():
		e.sup.post(func() { e.sup.forgetOp(o) })
		return ctx.Err()
	case <-e.ctx.Done():
		return errClosed
	}
}

// logTo passes records on to a function, and returns how to end that. What the
// function does not take fast enough is lost, and it is told so.
func (e *Engine) logTo(f func(trace.Record), level trace.Level, filter func(*Event) bool) func() {
	if f == nil {
		return func() {}
	}
	sub := e.bus.add(EventLog, 1024, func(ev *Event) bool { return ev.Record.Level <= level && filter(ev) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev := range sub.C {
			if ev.Lost > 0 {
				f(trace.Record{At: ev.At, Level: trace.Audit, Group: trace.MGR, Conn: ev.Record.Conn,
					Msg: fmt.Sprintf("%d messages were lost here", ev.Lost)})
			}
			f(ev.Record)
		}
	}()
	return func() { sub.Close(); <-done }
}

// choose finds what an initiation is about.
func (p *supervisor) choose(r InitiateRequest) (*connState, *kidState, error) {
	if r.Child == "" {
		if c := p.conns[r.IKE]; c != nil {
			return c, nil, nil
		}
		return nil, nil, fmt.Errorf("IKE_SA config '%s' not found", r.IKE)
	}
	for _, prog := range p.e.config.Load().order {
		if r.IKE != "" && prog.conf.Name != r.IKE {
			continue
		}
		if c, k := p.kid(prog.conf.Name, r.Child); k != nil {
			if k.ike == nil {
				return nil, nil, fmt.Errorf("child '%s' is a shunt: it has policies, no SA; use install", r.Child)
			}
			return c, k, nil
		}
	}
	return nil, nil, fmt.Errorf("CHILD_SA config '%s' not found", r.Child)
}

func (p *supervisor) initiate(c *connState, k *kidState, o *operation) {
	if k == nil {
		if p.usable(c) != nil {
			o.finish(nil)
			return
		}
		p.ops = append(p.ops, o)
		c.ikeOnly = true
	} else {
		k.held = false
		if len(k.live) > 0 {
			o.finish(nil)
			return
		}
		p.ops = append(p.ops, o)
		if !k.always && k.tries == 0 {
			k.tries = keyingTries(c.prog.conf)
		}
		k.retryAt = time.Time{}
	}
	c.failures = 0 // an operator does not wait for the back-off
	p.tend(c)
}

func (p *supervisor) forgetOp(o *operation) {
	p.ops = slices.DeleteFunc(p.ops, func(x *operation) bool { return x == o })
}

// ops finishes the operations that a test chooses.
func (p *supervisor) finishOps(err error, which func(o *operation) bool) {
	p.ops = slices.DeleteFunc(p.ops, func(o *operation) bool {
		if !which(o) {
			return false
		}
		o.finish(err)
		return true
	})
}

// ikeOps: an IKE SA of the connection is up.
func (p *supervisor) ikeOps(conn string) {
	p.finishOps(nil, func(o *operation) bool { return o.conn == conn && o.child == "" })
}

// childOps: a child is up, or failed.
func (p *supervisor) childOps(conn, child string, err error) {
	p.finishOps(err, func(o *operation) bool { return o.conn == conn && o.child == child })
}

// failOps: an IKE SA could not be set up.
func (p *supervisor) failOps(conn, child string, f trace.Failure) {
	p.ops = slices.DeleteFunc(p.ops, func(o *operation) bool {
		if o.conn != conn || (o.child != "" && o.child != child && child != "") {
			return false
		}
		if o.child == "" {
			o.finish(fmt.Errorf("establishing IKE_SA '%s' failed: %s", conn, f.Sentence))
		} else {
			o.finish(fmt.Errorf("establishing CHILD_SA '%s' failed: %s", o.child, f.Sentence))
		}
		return true
	})
}

// Selector chooses SAs to end or rekey. With Child or ChildID it chooses
// CHILD_SAs, narrowed by the other two; else IKE SAs.
type Selector struct {
	IKE     string
	IKEID   uint32
	Child   string
	ChildID uint32
}

func (s Selector) empty() bool { return s == Selector{} }

func (s Selector) ofChild() bool { return s.Child != "" || s.ChildID != 0 }

// TerminateRequest asks for the end of SAs.
type TerminateRequest struct {
	Selector
	// Force (IKE SAs only) does not wait for the peer's answer; with a positive
	// Timeout only when that is over.
	Force   bool
	Timeout time.Duration // as in InitiateRequest
	Log     func(trace.Record)
	Level   trace.Level
}

// Result counts the SAs that a request was about.
type Result struct{ Matches, Done int }

// Rekey starts rekeying of SAs and does not wait for it. reauth, of IKE SAs,
// authenticates anew.
func (e *Engine) Rekey(ctx context.Context, sel Selector, reauth bool) (Result, error) {
	if sel.empty() {
		return Result{}, errors.New("missing rekey selector")
	}
	list, err := e.targets(ctx, sel)
	if err != nil {
		return Result{}, err
	}
	if len(list) == 0 {
		return Result{}, errors.New("no matching SAs to rekey found")
	}
	for _, x := range list {
		switch {
		case x.child != 0:
			e.startTask(x.ike, ikev2.RekeyChild{SPI: x.spi})
		case reauth:
			e.sup.post(func() {
				if s := e.sup.sas[x.ike]; s != nil {
					e.sup.reauthDue(s.info)
				}
			})
		default:
			e.startTask(x.ike, ikev2.RekeyIKE{})
		}
	}
	return Result{Matches: len(list), Done: len(list)}, nil
}

// Install puts the trap of a child, or its shunt, into the SPD.
func (e *Engine) Install(ctx context.Context, ike, child string) error {
	if child == "" {
		return errors.New("missing configuration name")
	}
	err := errors.New("configuration name not found")
	werr := e.sup.wait(ctx, func() {
		for _, prog := range e.config.Load().order {
			if ike != "" && prog.conf.Name != ike {
				continue
			}
			if c, k := e.sup.kid(prog.conf.Name, child); k != nil {
				switch {
				case k.conf.OthersPolicies:
					err = fmt.Errorf("child %s/%s has policies: no; who has its policies puts them in", c.name, child)
					return
				case k.ike == nil:
					e.sup.shunt(c, k)
				default:
					k.held = false // an operator's down is over with it
					e.sup.trap(c, k, true)
				}
				err = nil
				return
			}
		}
	})
	return errors.Join(werr, err)
}

// Uninstall takes it out again. The drop of a tunnel that is down stays, if the
// configuration wants it.
func (e *Engine) Uninstall(ctx context.Context, ike, child string) error {
	err := fmt.Errorf("policy '%s' not found", child)
	werr := e.sup.wait(ctx, func() {
		for name, c := range e.sup.conns {
			k := c.kids[child]
			if (ike != "" && name != ike) || k == nil || !e.policies.stands(childKey{name, child}) {
				continue
			}
			err = e.policies.lay(childKey{name, child})
			if k.ike != nil && failClosed(&e.config.Load().global, k.conf) {
				e.sup.trap(c, k, false)
			}
			return
		}
	})
	return errors.Join(werr, err)
}
