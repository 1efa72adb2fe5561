// Package route brings packets to the datapath's device: routes for what is to
// be protected in a table of their own, and the rule that looks there for every
// packet that does not carry the daemon's own mark.
//
// Fail closed: beside each route to the device stands an "unreachable" one with
// a worse metric. It decides when the device is gone, also after a crash, until
// the next start adopts it.
package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/spd"
)

// Protocol marks what is ours in the kernel's tables: a number that no routing
// daemon has, for those sweep away what carries theirs. Other routes are never
// touched.
const Protocol = 220

// Metrics of the routes to one prefix: the lowest decides.
const (
	metricThrow       = 10   // leave the table: traffic that a policy lets pass
	metricDevice      = 50   // to the device
	metricUnreachable = 4096 // nobody is there to protect it
	metricLocal       = 8192 // leave the table: what is here though a wider selector has it
)

// Options of New.
type Options struct {
	Device   string
	MTU      int
	Table    int
	Priority int    // of the rule
	Mark     uint32 // of packets that bypass the table
	// Warn is told of what could not be set and is not vital.
	Warn func(msg string)
}

// Manager keeps the routes. All methods are safe for concurrent use.
type Manager struct {
	opt    Options
	h      *netlink.Handle
	link   netlink.Link
	mu     sync.Mutex
	routes map[netip.Prefix]*held
	throws map[netip.Prefix]bool
	locals map[netip.Prefix]int
	border border
	addrs  map[netip.Prefix]int
	hostMu sync.Mutex
	hosts  map[netip.Addr]*hostAddr // guarded by hostMu
	// orphans are unreachable routes of a process that crashed, unclaimed so far.
	orphans map[netip.Prefix]bool
	// validMark is src_valid_mark when it was set here, to be taken back; or nil.
	validMark *os.File
	noV6      bool
	closed    bool
}

type held struct {
	n int
	// closed counts those that nothing may pass in clear for: the unreachable
	// route is theirs.
	closed int
	src    netip.Addr
}

// New sets the device up, adopts what a crashed process left and adds the rules.
// It works in the network namespace of the calling thread.
func New(o Options) (*Manager, error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("routes: netlink socket: %w", err)
	}
	m := &Manager{opt: o, h: h, routes: map[netip.Prefix]*held{}, throws: map[netip.Prefix]bool{}, locals: map[netip.Prefix]int{},
		border: border{map[netip.Prefix]int{}, map[netip.Prefix]int{}},
		addrs:  map[netip.Prefix]int{}, hosts: map[netip.Addr]*hostAddr{}, orphans: map[netip.Prefix]bool{}}
	if err := m.setup(); err != nil {
		h.Close()
		return nil, err
	}
	return m, nil
}

func (m *Manager) setup() error {
	link, err := m.h.LinkByName(m.opt.Device)
	if err != nil {
		return fmt.Errorf("device %s: %w", m.opt.Device, err)
	}
	m.link = link
	// No link-local address, so no router solicitations into the tunnel.
	m.sysctl("ipv6/conf", "addr_gen_mode", "1")
	m.markedWayBack()
	if err := m.h.LinkSetMTU(link, m.opt.MTU); err != nil {
		return fmt.Errorf("device %s: set MTU %d: %w", m.opt.Device, m.opt.MTU, err)
	}
	if err := m.h.LinkSetUp(link); err != nil {
		return fmt.Errorf("device %s: set up: %w", m.opt.Device, err)
	}
	if err := m.adopt(); err != nil {
		return err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		err := m.h.RuleAdd(m.rule(family))
		switch {
		case err == nil || errors.Is(err, unix.EEXIST):
		case family == unix.AF_INET6:
			m.noV6 = true
			m.opt.Warn(fmt.Sprintf("no IPv6 routing rule (%v): IPv6 traffic is not protected and not routed by this host", err))
		default:
			return fmt.Errorf("routing rule %d to table %d: %w", m.opt.Priority, m.opt.Table, err)
		}
	}
	return nil
}

func (m *Manager) sysctl(dir, key, value string) {
	path := filepath.Join("/proc/sys/net", dir, m.opt.Device, key)
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		m.opt.Warn(fmt.Sprintf("cannot set %s to %s: %v", path, value, err))
	}
}

func (m *Manager) rule(family int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Protocol = family, m.opt.Priority, m.opt.Table, Protocol
	if m.opt.Mark != 0 {
		mask := ^uint32(0)
		r.Mark, r.Mask, r.Invert = m.opt.Mark, &mask, true
	}
	return r
}

// adopt takes over the routes of ours that are there, drops those that make no
// sense any more, and removes stale rules.
func (m *Manager) adopt() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		filter := &netlink.Route{Table: m.opt.Table, Protocol: Protocol}
		list, err := m.h.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return fmt.Errorf("list routes of table %d: %w", m.opt.Table, err)
		}
		for i := range list {
			if p, ok := prefix(list[i].Dst, family); ok && list[i].Type == unix.RTN_UNREACHABLE {
				m.orphans[p] = true
				continue
			}
			if err := m.h.RouteDel(&list[i]); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove the stale route %v: %w", list[i], err)
			}
		}
		rules, err := m.h.RuleList(family)
		if err != nil {
			return fmt.Errorf("list routing rules: %w", err)
		}
		for i := range rules {
			r := &rules[i]
			if r.Protocol == Protocol && r.Table == m.opt.Table && (r.Priority != m.opt.Priority || r.Mark != m.opt.Mark) {
				r.Family = family
				if err := m.h.RuleDel(r); err != nil {
					m.opt.Warn(fmt.Sprintf("cannot remove the stale routing rule %d: %v", r.Priority, err))
				}
			}
		}
	}
	return nil
}

func prefix(n *net.IPNet, family int) (netip.Prefix, bool) {
	if n == nil {
		if family == unix.AF_INET {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits), ok
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// kinds of route.
const (
	throwRoute = iota
	deviceRoute
	localRoute
	unreachableRoute
)

func (m *Manager) route(p netip.Prefix, kind int, src netip.Addr) *netlink.Route {
	r := &netlink.Route{Dst: ipNet(p), Table: m.opt.Table, Protocol: Protocol}
	switch kind {
	case throwRoute:
		r.Type, r.Priority = unix.RTN_THROW, metricThrow
	case localRoute:
		r.Type, r.Priority = unix.RTN_THROW, metricLocal
	case deviceRoute:
		r.Type, r.Priority, r.LinkIndex, r.Scope = unix.RTN_UNICAST, metricDevice, m.link.Attrs().Index, unix.RT_SCOPE_LINK
		if p.Addr().Is6() {
			r.Scope = unix.RT_SCOPE_UNIVERSE
		}
		if src.IsValid() {
			r.Src = src.AsSlice()
		}
	case unreachableRoute:
		r.Type, r.Priority = unix.RTN_UNREACHABLE, metricUnreachable
	}
	return r
}

// Add routes the traffic of a policy to the device. Each Add needs a Remove.
// local are the policy's local selectors: an address of this host among them
// becomes the preferred source. open leaves the unreachable routes out.
func (m *Manager) Add(remote []netip.Prefix, local []spd.TS, open bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var src [2]netip.Addr
	found := [2]bool{}
	// Before the routes to the device, so that no local packet sees those alone.
	errs := []error{m.keepLocal(inside(local, remote))}
	for _, p := range remote {
		closed := 1
		if open {
			closed = 0
		}
		if h := m.routes[p]; h != nil {
			h.n++
			if h.closed += closed; h.closed == 1 && closed == 1 {
				errs = append(errs, m.shut(p))
			}
			continue
		}
		v6 := 0
		if p.Addr().Is6() {
			v6 = 1
		}
		if !found[v6] {
			src[v6], found[v6] = m.source(v6 == 1, local), true
		}
		m.routes[p] = &held{n: 1, closed: closed, src: src[v6]}
		errs = append(errs, m.install(p, src[v6], closed > 0))
	}
	return errors.Join(errs...)
}

// install puts the unreachable route first, so that there is no moment without.
func (m *Manager) install(p netip.Prefix, src netip.Addr, closed bool) error {
	if p.Addr().Is6() && m.noV6 {
		return fmt.Errorf("route to %v: this host has no IPv6 policy routing", p)
	}
	if closed {
		if err := m.shut(p); err != nil {
			return err
		}
	}
	err := m.h.RouteReplace(m.route(p, deviceRoute, src))
	if err != nil && src.IsValid() {
		// The address may be tentative or just gone.
		m.opt.Warn(fmt.Sprintf("route to %v: preferred source %v is not accepted: %v", p, src, err))
		err = m.h.RouteReplace(m.route(p, deviceRoute, netip.Addr{}))
	}
	if err != nil {
		return fmt.Errorf("route to %v through %s: %w", p, m.opt.Device, err)
	}
	return nil
}

// shut adds the unreachable route.
func (m *Manager) shut(p netip.Prefix) error {
	if p.Addr().Is6() && m.noV6 {
		return nil
	}
	if err := m.h.RouteReplace(m.route(p, unreachableRoute, netip.Addr{})); err != nil {
		return fmt.Errorf("unreachable route to %v: %w", p, err)
	}
	delete(m.orphans, p)
	return nil
}

// source is the first address of this host that the selectors have.
func (m *Manager) source(v6 bool, local []spd.TS) netip.Addr {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	// A selector that has everything says nothing about the address to use.
	list, err := m.h.AddrList(nil, family)
	if err != nil {
		m.opt.Warn(fmt.Sprintf("list addresses: %v", err))
		return netip.Addr{}
	}
	for _, ts := range local {
		if len(ts.AppendPrefixes(nil)) == 1 && ts.AppendPrefixes(nil)[0].Bits() == 0 {
			continue
		}
		for i := range list {
			a, ok := netip.AddrFromSlice(list[i].IP)
			a = a.Unmap()
			if ok && ts.Contains(a) && !a.IsLinkLocalUnicast() && !a.IsLoopback() {
				return a
			}
		}
	}
	return netip.Addr{}
}

// Remove takes back one Add of the same selectors.
func (m *Manager) Remove(remote []netip.Prefix, local []spd.TS, open bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, p := range remote {
		h := m.routes[p]
		if h == nil {
			continue
		}
		h.n--
		if !open {
			if h.closed--; h.closed == 0 && h.n > 0 {
				errs = append(errs, m.del(m.route(p, unreachableRoute, netip.Addr{})))
			}
		}
		if h.n > 0 {
			continue
		}
		delete(m.routes, p)
		errs = append(errs, m.uninstall(p, !open))
	}
	errs = append(errs, m.dropLocal(inside(local, remote)))
	return errors.Join(errs...)
}

func (m *Manager) uninstall(p netip.Prefix, closed bool) error {
	var errs []error
	errs = append(errs, m.del(m.route(p, deviceRoute, netip.Addr{})))
	if closed {
		errs = append(errs, m.del(m.route(p, unreachableRoute, netip.Addr{})))
	}
	return errors.Join(errs...)
}

func (m *Manager) del(r *netlink.Route) error {
	if err := m.h.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the route to %v: %w", r.Dst, err)
	}
	return nil
}

// SetThrows replaces the set of prefixes whose traffic leaves the table, so
// that it is routed as if there were no tunnel.
func (m *Manager) SetThrows(list []netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, p := range list {
		if !m.throws[p] && !(p.Addr().Is6() && m.noV6) {
			if err := m.h.RouteReplace(m.route(p, throwRoute, netip.Addr{})); err != nil {
				errs = append(errs, fmt.Errorf("route for the bypass of %v: %w", p, err))
				continue
			}
			m.throws[p] = true
		}
	}
	for p := range m.throws {
		if !slices.Contains(list, p) {
			delete(m.throws, p)
			errs = append(errs, m.del(m.route(p, throwRoute, netip.Addr{})))
		}
	}
	return errors.Join(errs...)
}

// Adopted is the number of prefixes that are blocked only because a process
// crashed while it protected them.
func (m *Manager) Adopted() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.orphans)
}

// DropOrphans removes them.
func (m *Manager) DropOrphans() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for p := range m.orphans {
		errs = append(errs, m.del(m.route(p, unreachableRoute, netip.Addr{})))
	}
	clear(m.orphans)
	return errors.Join(errs...)
}

// AddAddress puts an address on the device; each call needs a RemoveAddress.
func (m *Manager) AddAddress(p netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.addrs[p]++; m.addrs[p] > 1 {
		return nil
	}
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := m.h.AddrReplace(m.link, a); err != nil {
		delete(m.addrs, p)
		return fmt.Errorf("address %v on %s: %w", p, m.opt.Device, err)
	}
	return nil
}

// RemoveAddress takes back one AddAddress. Routes that preferred the address
// go on without.
func (m *Manager) RemoveAddress(p netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.addrs[p] == 0 {
		return nil
	}
	if m.addrs[p]--; m.addrs[p] > 0 {
		return nil
	}
	delete(m.addrs, p)
	var errs []error
	if err := m.h.AddrDel(m.link, &netlink.Addr{IPNet: ipNet(p)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		errs = append(errs, fmt.Errorf("remove address %v from %s: %w", p, m.opt.Device, err))
	}
	// The kernel removes routes together with their preferred source.
	for q, h := range m.routes {
		if h.src == p.Addr() {
			h.src = netip.Addr{}
			errs = append(errs, m.install(q, h.src, h.closed > 0))
		}
	}
	return errors.Join(errs...)
}

// Close removes all routes, addresses and rules.
func (m *Manager) Close() error {
	err := errors.Join(m.SetThrows(nil), m.DropOrphans(), m.unmarkedWayBack())
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	for p, h := range m.routes {
		err = errors.Join(err, m.uninstall(p, h.closed > 0))
	}
	for p := range m.locals {
		err = errors.Join(err, m.del(m.route(p, localRoute, netip.Addr{})))
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if family == unix.AF_INET6 && m.noV6 {
			continue
		}
		if e := m.h.RuleDel(m.rule(family)); e != nil && !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("remove routing rule %d: %w", m.opt.Priority, e))
		}
	}
	for p := range m.addrs {
		if e := m.h.AddrDel(m.link, &netlink.Addr{IPNet: ipNet(p)}); e != nil && !errors.Is(e, unix.EADDRNOTAVAIL) {
			err = errors.Join(err, e)
		}
	}
	m.h.Close()
	return err
}
