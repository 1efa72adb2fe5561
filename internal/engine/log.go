package engine

import (
	"fmt"
	"time"

	"iked/internal/trace"
)

// log gives a record to the sink and to those who subscribed.
func (e *Engine) log(r trace.Record) {
	if r.At.IsZero() {
		r.At = time.Now()
	}
	if e.opt.Log != nil && (r.Warn || uint32(r.Level) <= e.logLevel.Load()) {
		e.opt.Log(r)
	}
	if e.bus.wants(EventLog) {
		e.bus.publish(Event{Kind: EventLog, At: r.At, Record: r})
	}
}

// SetLogLevel changes the most talkative level that the sink gets.
func (e *Engine) SetLogLevel(l trace.Level) { e.logLevel.Store(uint32(l)) }

func (e *Engine) warnf(g trace.Group, format string, args ...any) {
	e.log(trace.Record{Level: trace.Control, Group: g, Warn: true, Msg: fmt.Sprintf(format, args...)})
}

func (e *Engine) infof(g trace.Group, format string, args ...any) {
	e.log(trace.Record{Level: trace.Control, Group: g, Msg: fmt.Sprintf(format, args...)})
}

// fail keeps a failure for Explain and logs its sentence, which is the same in
// both places.
func (e *Engine) fail(f trace.Failure, uniqueID uint32) {
	if f.At.IsZero() {
		f.At = time.Now()
	}
	e.log(trace.Record{At: f.At, Level: trace.Control, Group: trace.IKE, Warn: true,
		Conn: f.Conn, Child: f.Child, Peer: f.Remote, UniqueID: uniqueID, Msg: f.Sentence})
	e.told(f, uniqueID)
}

// told keeps a failure whose sentence the state machine logged, and adds what to
// do about it.
func (e *Engine) told(f trace.Failure, uniqueID uint32) {
	if f.At.IsZero() {
		f.At = time.Now()
	}
	if !e.failures.add(f) {
		return
	}
	e.drops.add("negotiation-" + string(f.Stage))
	if f.Advice != "" {
		e.log(trace.Record{At: f.At, Level: trace.Control, Group: trace.IKE,
			Conn: f.Conn, Child: f.Child, Peer: f.Remote, UniqueID: uniqueID, Msg: "what to change: " + f.Advice})
	}
}
