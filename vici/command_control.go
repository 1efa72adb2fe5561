package vici

import (
	"errors"
	"math"
	"time"

	"iked/internal/engine"
	"iked/internal/trace"
	"iked/vici/wire"
)

// control registers what steers SAs.
func (s *Server) control() {
	s.commands["initiate"] = s.initiate
	s.commands["terminate"] = s.terminate
	s.commands["rekey"] = s.rekey
	s.commands["migrate"] = s.migrate
	s.commands["install"] = func(c *call) wire.Message {
		return verdict(s.engine.Install(s.ctx, text(c.req, "ike"), text(c.req, "child")))
	}
	s.commands["uninstall"] = func(c *call) wire.Message {
		return verdict(s.engine.Uninstall(s.ctx, text(c.req, "ike"), text(c.req, "child")))
	}
}

func text(m wire.Message, key string) string {
	s, _ := m.Text(key)
	return s
}

// timeout is a number of milliseconds: 0 waits for the result, less does not
// wait.
func timeout(m wire.Message) time.Duration {
	ms := m.Int("timeout", 0)
	ms = max(min(ms, math.MaxInt64/int64(time.Millisecond)), -1)
	return time.Duration(ms) * time.Millisecond
}

// controlLog passes records of one operation on to its client, if it registered.
func (c *call) controlLog() func(trace.Record) {
	if timeout(c.req) < 0 || c.conn.registrations(evControlLog) == 0 {
		return nil
	}
	return func(r trace.Record) { c.event(evControlLog, record(&r, false)) }
}

func (c *call) logLevel() trace.Level {
	return trace.Level(max(min(c.req.Int("loglevel", 1), int64(trace.Raw)), int64(trace.Audit)))
}

// id reads a unique id; one that cannot be matches nothing.
func id(m wire.Message, key string) (uint32, error) {
	if !m.Has(key) {
		return 0, nil
	}
	v := m.Int(key, -1)
	if v <= 0 || v > math.MaxUint32 {
		return 0, errors.New("invalid " + key + ": expected a number above 0")
	}
	return uint32(v), nil
}

func selector(m wire.Message) (sel engine.Selector, err error) {
	sel.IKE, sel.Child = text(m, "ike"), text(m, "child")
	var errIKE, errChild error
	sel.IKEID, errIKE = id(m, "ike-id")
	sel.ChildID, errChild = id(m, "child-id")
	return sel, errors.Join(errIKE, errChild)
}

func (s *Server) initiate(c *call) wire.Message {
	return verdict(s.engine.Initiate(s.ctx, engine.InitiateRequest{
		Child: text(c.req, "child"), IKE: text(c.req, "ike"), Timeout: timeout(c.req),
		Log: c.controlLog(), Level: c.logLevel(),
	}))
}

func (s *Server) terminate(c *call) wire.Message {
	sel, err := selector(c.req)
	var res engine.Result
	if err == nil {
		res, err = s.engine.Terminate(s.ctx, engine.TerminateRequest{
			Selector: sel, Force: c.req.Bool("force", false), Timeout: timeout(c.req),
			Log: c.controlLog(), Level: c.logLevel(),
		})
	}
	return counted(err, func(m *wire.Message) {
		m.SetInt("matches", int64(res.Matches))
		m.SetInt("terminated", int64(res.Done))
	})
}

func (s *Server) rekey(c *call) wire.Message {
	sel, err := selector(c.req)
	var res engine.Result
	if err == nil {
		res, err = s.engine.Rekey(s.ctx, sel, c.req.Bool("reauth", false))
	}
	return counted(err, func(m *wire.Message) { m.SetInt("matches", int64(res.Matches)) })
}

// counted is a verdict with numbers between its two halves.
func counted(err error, numbers func(*wire.Message)) wire.Message {
	v := verdict(err)
	m := wire.Message{v[0]}
	numbers(&m)
	return append(m, v[1:]...)
}
