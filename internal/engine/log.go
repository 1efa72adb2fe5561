package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"iked/internal/trace"
)

// maxRecord is the longest text of a record in octets; the stack of a fault fits.
const maxRecord = 16 << 10

// log gives a record to the sink and to those who subscribed.
func (e *Engine) log(r trace.Record) {
	if r.At.IsZero() {
		r.At = time.Now()
	}
	r.Msg = clip(r.Msg, maxRecord)
	if e.opt.Log != nil && (r.Warn || uint32(r.Level) <= e.logLevel.Load()) {
		e.opt.Log(r)
	}
	if e.bus.wants(EventLog) {
		e.bus.publish(Event{Kind: EventLog, At: r.At, Record: r})
	}
}

// Note logs what the daemon around the engine has to say, so that those who
// subscribed get it as well.
func (e *Engine) Note(r trace.Record) { e.log(r) }

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

// Bounds of what is kept of one failure, in octets and lines: parts of it are what
// a stranger sent.
const (
	maxSentence = 4096
	maxEvidence = 256
	maxLine     = 512
)

// keep notes a failure for Explain; false when it is the one that was told last.
func (e *Engine) keep(f trace.Failure) bool {
	f.Sentence, f.RemoteID = clip(f.Sentence, maxSentence), clip(f.RemoteID, maxSentence)
	if len(f.Evidence) > maxEvidence {
		f.Evidence = f.Evidence[:maxEvidence]
	}
	lines := make([]string, len(f.Evidence))
	for i, l := range f.Evidence {
		lines[i] = clip(l, maxLine)
	}
	f.Evidence = lines
	if !e.failures.add(f) {
		return false
	}
	e.drops.add("negotiation-" + string(f.Stage))
	return true
}

// clip cuts a text that is longer than n octets.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// told keeps a failure whose sentence the state machine logged, and adds what to
// do about it.
func (e *Engine) told(f trace.Failure, uniqueID uint32) {
	if f.At.IsZero() {
		f.At = time.Now()
	}
	if s := e.kmEvidence(&f); s != "" {
		f.Evidence = append(slices.Clone(f.Evidence), s)
	}
	if !e.keep(f) {
		return
	}
	if f.Advice != "" {
		e.log(trace.Record{At: f.At, Level: trace.Control, Group: trace.IKE,
			Conn: f.Conn, Child: f.Child, Peer: f.Remote, UniqueID: uniqueID, Msg: "what to change: " + f.Advice})
	}
}
