package daemon

import (
	"iked/internal/engine"
	"iked/internal/trace"
	"iked/vici"
)

// newControl is the server of the control protocol.
func newControl(e *engine.Engine, l *logger) ControlServer {
	return vici.New(e, func(warn bool, format string, args ...any) {
		if warn {
			l.warn(trace.CFG, format, args...)
			return
		}
		l.info(trace.CFG, format, args...)
	})
}
