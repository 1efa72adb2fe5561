package route

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrInUse says that the device of a table is there, so that a process works with it.
var ErrInUse = errors.New("in use by another process")

// Left are routes and rules of a Manager that ended without Close.
type Left struct {
	device string
	h      *netlink.Handle
	routes []netlink.Route
	rules  []netlink.Rule
	// pass are the routes that let traffic pass in clear.
	pass []netlink.Route
}

// FindLeft looks for them in the network namespace of the calling thread, and changes
// nothing.
func FindLeft(device string, table int) (*Left, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("routes: netlink socket: %w", err)
	}
	l := &Left{device: device, h: h}
	if err := l.find(table); err != nil {
		h.Close()
		return nil, err
	}
	return l, nil
}

func (l *Left) find(table int) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		filter := &netlink.Route{Table: table, Protocol: Protocol}
		routes, err := l.h.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return fmt.Errorf("list routes of table %d: %w", table, err)
		}
		for _, r := range routes {
			if r.Type == unix.RTN_THROW && r.Priority == metricThrow {
				l.pass = append(l.pass, r)
			} else {
				l.routes = append(l.routes, r)
			}
		}
		rules, err := l.h.RuleList(family)
		if err != nil {
			return fmt.Errorf("list routing rules: %w", err)
		}
		for _, r := range rules {
			if r.Protocol == Protocol && r.Table == table {
				r.Family = family
				l.rules = append(l.rules, r)
			}
		}
	}
	return nil
}

// Unused is ErrInUse when a process works with the device: the TUN device of one that
// crashed has ended with it.
func (l *Left) Unused() error {
	if d, err := l.h.LinkByName(l.device); err == nil && d.Type() == (&netlink.Tuntap{}).Type() {
		return fmt.Errorf("device %s: %w", l.device, ErrInUse)
	}
	return nil
}

// Empty tells that there is nothing.
func (l *Left) Empty() bool { return len(l.pass)+len(l.routes)+len(l.rules) == 0 }

// Shut removes the routes that let traffic pass in clear: who carries it now decides
// that. Those that keep the own networks out of wider selectors stay.
func (l *Left) Shut() error { return l.drop(&l.pass) }

// Remove removes all of them.
func (l *Left) Remove() error {
	// The rules go last: without them the routes say nothing.
	errs := []error{l.drop(&l.pass), l.drop(&l.routes)}
	var stay []netlink.Rule
	for i := range l.rules {
		if err := l.h.RuleDel(&l.rules[i]); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the routing rule %d: %w", l.rules[i].Priority, err))
			stay = append(stay, l.rules[i])
		}
	}
	l.rules = stay
	return errors.Join(errs...)
}

func (l *Left) drop(list *[]netlink.Route) error {
	var errs []error
	var stay []netlink.Route
	for i, r := range *list {
		if err := l.h.RouteDel(&(*list)[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove the route to %v: %w", r.Dst, err))
			stay = append(stay, r)
		}
	}
	*list = stay
	return errors.Join(errs...)
}

// Close ends the work with them, and leaves them where they are.
func (l *Left) Close() { l.h.Close() }
