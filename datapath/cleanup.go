package datapath

import (
	"errors"
	"fmt"
	"time"

	"iked/datapath/guard"
	"iked/datapath/route"
	"iked/internal/backend"
	"iked/internal/trace"
)

// cleanPeriod is the grain of the housekeeping of what is left, cleanAgain the pause
// after something of it could not be removed.
const (
	cleanPeriod = 100 * time.Millisecond
	cleanAgain  = 30 * time.Second
)

// CleanUp deals with what a datapath that ended without Close left in the network
// namespace of the calling thread, when another backend is to carry the traffic:
// routes that let traffic pass go at once, those that block it, the rules and the
// tables of netfilter after backend.Grace. Only o.Device, o.Table and o.Log count.
// The caller sees to it that no other process works with the table. nil: nothing is
// left. The error is something that could not be found out or removed.
func CleanUp(o Options) (*backend.Leftovers, error) { return cleanUp(o, backend.Grace) }

func cleanUp(o Options, grace time.Duration) (*backend.Leftovers, error) {
	o = o.withDefaults()
	warn := func(format string, args ...any) {
		o.Log(trace.Record{At: time.Now(), Level: trace.Control, Group: trace.KNL, Warn: true, Msg: fmt.Sprintf(format, args...)})
	}
	routes, err := route.FindLeft(o.Device, o.Table)
	if err != nil {
		return nil, err
	}
	tables, unknown := guard.FindLeft(o.Device)
	if unknown != nil {
		tables = &guard.Left{} // the routes can be dealt with all the same
	}
	if routes.Empty() && tables.Empty() {
		routes.Close()
		return nil, errors.Join(unknown, tables.Close())
	}
	if err := routes.Unused(); err != nil {
		routes.Close()
		return nil, errors.Join(err, tables.Close())
	}
	warn("routes, rules and netfilter tables of a process that ended without cleaning up block what it protected for %v", grace)
	if err := routes.Shut(); err != nil {
		warn("what a crashed process let pass in clear: %v", err)
	}
	due := time.Now().Add(grace)
	remove := func() error {
		if err := routes.Unused(); err != nil {
			return err
		}
		return errors.Join(routes.Remove(), tables.Remove())
	}
	said := false
	step := func(now time.Time) bool {
		if now.Before(due) {
			return false
		}
		err := remove()
		if errors.Is(err, route.ErrInUse) {
			warn("what a crashed process left stays: %v", err)
			return true
		}
		if err != nil && !said {
			warn("what a crashed process left stays, and is tried again every %v: %v", cleanAgain, err)
			said = true
		}
		due = now.Add(cleanAgain)
		return err == nil
	}
	end := func(all bool) (err error) {
		if all && !(routes.Empty() && tables.Empty()) {
			err = remove()
		}
		routes.Close()
		return errors.Join(err, tables.Close())
	}
	return backend.WatchLeftovers(cleanPeriod, step, end), unknown
}
