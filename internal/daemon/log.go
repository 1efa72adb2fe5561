package daemon

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"iked/internal/trace"
)

// logQueue is how many records wait for a slow stderr; more are dropped and
// counted, so that nobody who reads the log too slowly holds up the daemon.
const logQueue = 8192

// logger writes records with fixed fields: conn, id, child, peer, spi_i, spi_r,
// exchange, mid.
type logger struct {
	l     *logrus.Logger
	queue chan trace.Record
	lost  atomic.Uint64
	done  chan struct{}
	once  sync.Once
	mu    sync.RWMutex
	ended bool
}

func newLogger(w io.Writer, level, format string) (*logger, error) {
	lv, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level %q is not known, expected error, warn, info, debug or trace", level)
	}
	l := logrus.New()
	l.SetOutput(w)
	l.SetLevel(lv)
	switch format {
	case "json":
		l.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	case "text":
		l.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "2006-01-02T15:04:05.000Z07:00", DisableColors: true})
	default:
		return nil, fmt.Errorf("log format %q is not known, expected text or json", format)
	}
	g := &logger{l: l, queue: make(chan trace.Record, logQueue), done: make(chan struct{})}
	go g.run()
	return g, nil
}

// traceLevel is the most talkative level that the sink writes.
func (g *logger) traceLevel() trace.Level {
	switch g.l.GetLevel() {
	case logrus.TraceLevel:
		return trace.Raw
	case logrus.DebugLevel:
		return trace.Detail
	case logrus.InfoLevel:
		return trace.Control
	}
	return trace.Audit
}

// record queues a record; it never blocks.
func (g *logger) record(r trace.Record) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.ended {
		return
	}
	if r.At.IsZero() {
		r.At = time.Now()
	}
	select {
	case g.queue <- r:
	default:
		g.lost.Add(1)
	}
}

func (g *logger) info(group trace.Group, format string, args ...any) {
	g.record(trace.Record{Level: trace.Control, Group: group, Msg: fmt.Sprintf(format, args...)})
}

func (g *logger) warn(group trace.Group, format string, args ...any) {
	g.record(trace.Record{Level: trace.Control, Group: group, Warn: true, Msg: fmt.Sprintf(format, args...)})
}

func (g *logger) run() {
	defer close(g.done)
	for r := range g.queue {
		if n := g.lost.Swap(0); n > 0 {
			g.l.WithField("group", trace.DMN).Warnf("%d log records were lost: stderr is read too slowly", n)
		}
		g.write(r)
	}
}

func (g *logger) write(r trace.Record) {
	level := logrus.InfoLevel
	switch {
	case r.Warn:
		level = logrus.WarnLevel
	case r.Level >= trace.Raw:
		level = logrus.TraceLevel
	case r.Level >= trace.Detail:
		level = logrus.DebugLevel
	}
	if !g.l.IsLevelEnabled(level) {
		return
	}
	g.l.WithTime(r.At).WithFields(fields(r)).Log(level, r.Msg)
}

func fields(r trace.Record) logrus.Fields {
	f := logrus.Fields{"group": string(r.Group)}
	set := func(key, v string) {
		if v != "" {
			f[key] = v
		}
	}
	set("conn", r.Conn)
	set("child", r.Child)
	set("peer", r.Peer)
	set("exchange", r.Exchange)
	if r.UniqueID != 0 {
		f["id"] = r.UniqueID
	}
	if r.SPIi != 0 {
		f["spi_i"] = fmt.Sprintf("%016x", r.SPIi)
	}
	if r.SPIr != 0 {
		f["spi_r"] = fmt.Sprintf("%016x", r.SPIr)
	}
	if r.Exchange != "" {
		f["mid"] = r.MID
	}
	return f
}

// close writes what waits, and ends.
func (g *logger) close() {
	g.once.Do(func() {
		g.mu.Lock()
		g.ended = true
		close(g.queue)
		g.mu.Unlock()
		<-g.done
	})
}
