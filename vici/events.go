package vici

import (
	"runtime/debug"
	"time"

	"iked/internal/engine"
	"iked/internal/trace"
	"iked/vici/wire"
)

// Names of events; the list-* ones, failure and recent-log are streams of a
// command, the others go to everyone who registered.
const (
	evLog         = "log"
	evControlLog  = "control-log"
	evIKEUpDown   = "ike-updown"
	evIKERekey    = "ike-rekey"
	evIKEUpdate   = "ike-update"
	evChildUpDown = "child-updown"
	evChildRekey  = "child-rekey"
	evListSA      = "list-sa"
	evListConn    = "list-conn"
	evListPolicy  = "list-policy"
	evListCert    = "list-cert"
	evListAuth    = "list-authority"
	evFailure     = "failure"
	evRecentLog   = "recent-log"

	evStaticSA     = "static-sa"
	evStaticPolicy = "static-policy"
)

func eventNames() []string {
	return []string{
		evLog, evControlLog, evIKEUpDown, evIKERekey, evIKEUpdate, evChildUpDown, evChildRekey,
		evListSA, evListConn, evListPolicy, evListCert, evListAuth, evFailure, evRecentLog, evStaticSA, evStaticPolicy,
	}
}

// forward broadcasts what the engine reports, until the subscription ends.
func (s *Server) forward(sub *engine.Subscription) {
	for ev := range sub.C {
		s.publish(&ev)
	}
}

// publish broadcasts one event. A fault in it costs that event.
func (s *Server) publish(ev *engine.Event) {
	defer func() {
		if r := recover(); r != nil {
			s.Panics.Add(1)
			s.logf(true, "control: an event was lost by a fault inside: %v\n%s", r, debug.Stack())
		}
	}()
	now := ev.At
	switch ev.Kind {
	case engine.EventLog:
		s.recent.add(ev.Record)
		if ev.Record.Level <= trace.Control {
			s.broadcast(evLog, func() wire.Message { return record(&ev.Record, true) })
		}
	case engine.EventIKEUpDown:
		s.broadcast(evIKEUpDown, func() wire.Message {
			return updown(ev.Up, ev.SA.Conn, ikeSection(ev.SA, now))
		})
	case engine.EventChildUpDown:
		s.broadcast(evChildUpDown, func() wire.Message {
			return updown(ev.Up, ev.SA.Conn, withChildren(ikeSection(ev.SA, now), ev.SA.Children, now))
		})
	case engine.EventIKERekey:
		s.broadcast(evIKERekey, func() wire.Message { return ikeRekey(ev, now) })
	case engine.EventChildRekey:
		s.broadcast(evChildRekey, func() wire.Message { return childRekey(ev, now) })
	case engine.EventIKEUpdate:
		s.broadcast(evIKEUpdate, func() wire.Message { return ikeUpdate(ev, now) })
	}
}

func updown(up bool, conn string, sa wire.Message) wire.Message {
	var m wire.Message
	m.SetYes("up", up)
	m.SetSection(conn, sa)
	return m
}

func ikeRekey(ev *engine.Event, now time.Time) wire.Message {
	var m, pair wire.Message
	pair.SetSection("old", ikeSection(ev.SA, now))
	pair.SetSection("new", ikeSection(ev.New, now))
	m.SetSection(ev.SA.Conn, pair)
	return m
}

func childRekey(ev *engine.Event, now time.Time) wire.Message {
	var m, kids, pair wire.Message
	pair.SetSection("old", childSection(ev.OldChild, now))
	pair.SetSection("new", childSection(ev.NewChild, now))
	kids.SetSection(ev.OldChild.Name, pair)
	sa := ikeSection(ev.SA, now)
	sa.SetSection("child-sas", kids)
	m.SetSection(ev.SA.Conn, sa)
	return m
}

func ikeUpdate(ev *engine.Event, now time.Time) wire.Message {
	var m wire.Message
	m.Set("local-host", ev.New.Local.Addr().Unmap().String())
	m.SetUint("local-port", uint64(ev.New.Local.Port()))
	m.Set("remote-host", ev.New.Remote.Addr().Unmap().String())
	m.SetUint("remote-port", uint64(ev.New.Remote.Port()))
	m.SetSection(ev.SA.Conn, ikeSection(ev.SA, now))
	return m
}

// record is one log line. thread is a field of the log event alone; there are no
// threads here that a client could tell apart.
func record(r *trace.Record, thread bool) wire.Message {
	var m wire.Message
	m.Set("group", string(r.Group))
	m.SetUint("level", uint64(r.Level))
	if thread {
		m.Set("thread", "1")
	}
	if r.Conn != "" && r.UniqueID != 0 {
		m.Set("ikesa-name", r.Conn)
		m.SetUint("ikesa-uniqueid", uint64(r.UniqueID))
	}
	m.SetBytes("msg", []byte(r.Msg))
	return m
}
