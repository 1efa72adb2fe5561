package vici

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/vici/wire"
)

// info registers what tells about the daemon itself.
func (s *Server) info() {
	s.commands["version"] = s.version
	s.commands["stats"] = s.stats
	s.commands["get-counters"] = s.getCounters
	s.commands["reset-counters"] = func(c *call) wire.Message {
		return verdict(s.engine.ResetCounters(text(c.req, "name"), c.req.Bool("all", false)))
	}
	s.commands["get-algorithms"] = func(*call) wire.Message { return algorithms() }
	s.commands["explain"] = s.explain
	s.commands["recent-log"] = s.recentLog
	s.commands["reload"] = s.reload
	s.commands["reload-settings"] = func(*call) wire.Message {
		_, err := s.engine.Reload(s.ctx, false)
		return verdict(err)
	}
}

func (s *Server) version(*call) wire.Message {
	var m wire.Message
	m.Set("daemon", "iked")
	m.Set("version", s.engine.Version())
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		m.Set("sysname", unix.ByteSliceToString(u.Sysname[:]))
		m.Set("release", unix.ByteSliceToString(u.Release[:]))
		m.Set("machine", unix.ByteSliceToString(u.Machine[:]))
	}
	return m
}

func (s *Server) stats(*call) wire.Message {
	st := s.engine.Stats()
	var m, up, workers, queues, sas, mem, back wire.Message
	up.Set("running", running(time.Since(st.Started)))
	up.Set("since", st.Started.Local().Format("Jan 02 15:04:05 2006"))
	m.SetSection("uptime", up)
	workers.SetInt("total", int64(st.Workers))
	workers.SetInt("idle", int64(st.Workers))
	workers.SetSection("active", priorities(0))
	m.SetSection("workers", workers)
	queues = priorities(st.Queued)
	m.SetSection("queues", queues)
	m.SetInt("scheduled", int64(st.IKESAs))
	sas.SetInt("total", int64(st.IKESAs))
	sas.SetInt("half-open", int64(st.HalfOpen))
	m.SetSection("ikesas", sas)
	m.SetList("plugins", "iked")
	mem.SetUint("total", st.MemoryInUse)
	mem.SetUint("allocs", uint64(st.Goroutines))
	m.SetSection("mem", mem)
	back.Set("name", st.Backend.Name)
	if st.BackendWhy != "" {
		back.Set("why", printable(st.BackendWhy))
	}
	back.Set("detail", printable(st.Backend.Detail))
	m.SetSection("backend", back)
	return m
}

// priorities is a queue as clients expect it; there is one priority here.
func priorities(n int) wire.Message {
	var m wire.Message
	m.SetInt("critical", 0)
	m.SetInt("high", 0)
	m.SetInt("medium", int64(n))
	m.SetInt("low", 0)
	return m
}

func running(d time.Duration) string {
	n, unit := int64(d/time.Second), "second"
	switch {
	case d > 48*time.Hour:
		n, unit = int64(d/(24*time.Hour)), "day"
	case d > 2*time.Hour:
		n, unit = int64(d/time.Hour), "hour"
	case d > 2*time.Minute:
		n, unit = int64(d/time.Minute), "minute"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

func (s *Server) getCounters(c *call) wire.Message {
	sets, err := s.engine.Counters(text(c.req, "name"), c.req.Bool("all", false))
	if err != nil {
		return failure(err.Error())
	}
	var m, all, drops, path wire.Message
	for _, set := range sets {
		var v wire.Message
		for _, n := range set.Counters {
			v.SetUint(n.Name, n.Value)
		}
		all.SetSection(set.Conn, v)
	}
	m.SetSection("counters", all)
	m.Set("success", "yes")
	reasons := s.engine.Drops()
	for _, k := range slices.Sorted(maps.Keys(reasons)) {
		if name, ok := strings.CutPrefix(k, "backend."); ok {
			path.SetUint(name, reasons[k])
		} else {
			drops.SetUint(k, reasons[k])
		}
	}
	m.SetSection("drops", drops)
	m.SetSection("datapath", path)
	return m
}

// algorithms lists what is implemented, by the groups that clients know.
func algorithms() wire.Message {
	var encr, integ, aead, prf, ke wire.Message
	for _, t := range suite.Implemented() {
		switch {
		case t.Type == suite.ENCR && t.AEAD():
			aead.Set(t.Name(), "iked")
		case t.Type == suite.ENCR:
			encr.Set(t.Name(), "iked")
		case t.Type == suite.INTEG:
			integ.Set(t.Name(), "iked")
		case t.Type == suite.PRF:
			prf.Set(t.Name(), "iked")
		case t.Type == suite.KE && t.ID != suite.KENone:
			ke.Set(t.Name(), "iked")
		}
	}
	var m wire.Message
	m.SetSection("encryption", encr)
	m.SetSection("integrity", integ)
	m.SetSection("aead", aead)
	m.SetSection("prf", prf)
	m.SetSection("dh", ke)
	return m
}

func (s *Server) explain(c *call) wire.Message {
	for _, f := range s.engine.Explain(text(c.req, "peer")) {
		var m wire.Message
		m.Set("at", f.At.Format(time.RFC3339))
		m.Set("stage", string(f.Stage))
		m.SetIf("conn", f.Conn)
		m.SetIf("child", f.Child)
		m.SetIf("local", f.Local)
		m.SetIf("remote", f.Remote)
		m.SetIf("local-id", printable(f.LocalID))
		m.SetIf("remote-id", printable(f.RemoteID))
		m.SetYes("initiator", f.Initiator)
		m.Set("sentence", printable(f.Sentence))
		evidence := make([]string, len(f.Evidence))
		for i, e := range f.Evidence {
			evidence[i] = printable(e)
		}
		m.SetList("evidence", evidence...)
		m.SetIf("advice", printable(f.Advice))
		c.event(evFailure, m)
	}
	return nil
}

func (s *Server) recentLog(c *call) wire.Message {
	for _, r := range s.recent.all() {
		m := record(&r, false)
		m.Set("at", r.At.Format(time.RFC3339Nano))
		c.event(evRecentLog, m)
	}
	return nil
}

func (s *Server) reload(c *call) wire.Message {
	if c.bad != nil {
		return failure("parsing request failed")
	}
	plan, err := s.engine.Reload(s.ctx, c.req.Bool("dry-run", false))
	m := verdict(err)
	if err == nil {
		lines := make([]string, len(plan))
		for i, l := range plan {
			lines[i] = printable(l)
		}
		m.SetList("plan", lines...)
	}
	return m
}
