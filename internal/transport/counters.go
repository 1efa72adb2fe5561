package transport

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/trace"
)

type counters struct {
	ikeIn, ikeOut, ikeOverflow, espIn, espOut, espUnclaimed, keepalives, runts, panics atomic.Uint64
	// Faults of sockets by kind.
	unreachable, refused, noBuffers, tooBig, linkDown, other atomic.Uint64
}

// fault counts and tells of an error of a socket.
func (t *Transport) fault(what string, err error) {
	c := &t.counters
	name, n := "other", &c.other
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EINVAL):
		name, n = "unreachable", &c.unreachable
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ECONNREFUSED):
		name, n = "refused", &c.refused
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		name, n = "no_buffers", &c.noBuffers
	case errors.Is(err, unix.EMSGSIZE):
		name, n = "too_big", &c.tooBig
	case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		name, n = "link_down", &c.linkDown
	}
	n.Add(1)
	if name != "too_big" {
		t.limiter.warn(name, fmt.Sprintf("socket: %s: %v", what, err))
	}
}

// Counters are totals by name.
func (t *Transport) Counters() map[string]uint64 {
	c := &t.counters
	return map[string]uint64{
		"ike_in": c.ikeIn.Load(), "ike_out": c.ikeOut.Load(), "ike_overflow": c.ikeOverflow.Load(),
		"udp_esp_in": c.espIn.Load(), "udp_esp_out": c.espOut.Load(), "udp_esp_unclaimed": c.espUnclaimed.Load(),
		"keepalives": c.keepalives.Load(), "udp_runts": c.runts.Load(), "handler_panics": c.panics.Load(),
		"socket_unreachable": c.unreachable.Load(), "socket_refused": c.refused.Load(),
		"socket_no_buffers": c.noBuffers.Load(), "socket_too_big": c.tooBig.Load(),
		"socket_link_down": c.linkDown.Load(), "socket_other": c.other.Load(),
	}
}

// logLimiter passes one record per subject and ten seconds.
type logLimiter struct {
	log  func(trace.Record)
	mu   sync.Mutex
	last map[string]time.Time
}

const logEvery = 10 * time.Second

func (l *logLimiter) warn(subject, msg string) {
	if l.log == nil {
		return
	}
	now := time.Now()
	l.mu.Lock()
	if l.last == nil {
		l.last = map[string]time.Time{}
	}
	quiet := now.Sub(l.last[subject]) < logEvery
	if !quiet {
		l.last[subject] = now
	}
	l.mu.Unlock()
	if !quiet {
		l.log(trace.Record{At: now, Level: trace.Control, Group: trace.NET, Warn: true, Msg: msg})
	}
}
