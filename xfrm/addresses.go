package xfrm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/spd"
)

// addresses are the virtual ones (RFC 7296, Section 2.19), on a device of their own
// that carries nothing, and the routes that make this host use them: packets to the
// remote side of a tunnel are routed to that device with the virtual address as
// their source, so that the policy matches, and leave by the way to the peer. When
// there is no policy they end in the device and not in clear.
//
// The peers themselves are excepted, or what is sealed would be routed there too.
type addresses struct {
	handle *netlink.Handle
	device string
	mark   uint32 // of packets that the rule is not for; 0: none
	made   bool
	refs   map[netip.Prefix]int
	// policies are the tunnels that may need routes, by ID.
	policies map[uint64]*policyRecord
	routes   map[routeKey]bool
}

// routeKey is one route of the table; an invalid source is an exception.
type routeKey struct {
	dst netip.Prefix
	src netip.Addr
}

// The table of the routes and the priority of the rule that leads there.
const (
	routeTable   = 5221
	rulePriority = 5221
	deviceAlias  = "iked virtual addresses"
)

func newAddresses(device string, mark uint32) (addresses, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return addresses{}, err
	}
	a := addresses{handle: h, device: device, mark: mark, refs: map[netip.Prefix]int{}, policies: map[uint64]*policyRecord{}, routes: map[routeKey]bool{}}
	// What a crashed process left: its device is told by its alias.
	if l, err := h.LinkByName(device); err == nil && l.Type() == "dummy" && l.Attrs().Alias == deviceAlias {
		if err := errors.Join(h.LinkDel(l), a.rules(false)); err != nil {
			a.close()
			return addresses{}, fmt.Errorf("device %s of a crashed process: %w", device, err)
		}
	}
	return a, nil
}

func (a *addresses) close() {
	if a.handle != nil {
		a.handle.Close()
	}
}

// AddAddress implements backend.AddressInstaller.
func (b *Backend) AddAddress(p netip.Prefix) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return err
	}
	return b.addrs.add(p)
}

// RemoveAddress implements backend.AddressInstaller.
func (b *Backend) RemoveAddress(p netip.Prefix) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.live(); err != nil {
		return err
	}
	return b.addrs.remove(p)
}

// host is the address alone: the prefix of a virtual address is no link.
func host(p netip.Prefix) *netlink.Addr {
	a := p.Addr()
	x, _ := netlink.ParseAddr(netip.PrefixFrom(a, a.BitLen()).String())
	if a.Is6() {
		x.Flags = unix.IFA_F_NODAD
	}
	return x
}

func (a *addresses) add(p netip.Prefix) error {
	if a.refs[p]++; a.refs[p] > 1 {
		return nil
	}
	err := func() error {
		l, err := a.link()
		if err != nil {
			return err
		}
		if err := a.handle.AddrReplace(l, host(p)); err != nil {
			return err
		}
		return a.sync()
	}()
	if err != nil {
		delete(a.refs, p)
		return fmt.Errorf("virtual address %v: %w", p, err)
	}
	return nil
}

func (a *addresses) remove(p netip.Prefix) error {
	if a.refs[p] == 0 {
		return nil
	}
	if a.refs[p]--; a.refs[p] > 0 {
		return nil
	}
	delete(a.refs, p)
	if len(a.refs) == 0 {
		return a.removeAll()
	}
	err := a.sync()
	l, lerr := a.handle.LinkByName(a.device)
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	if derr := a.handle.AddrDel(l, host(p)); derr != nil && !errors.Is(derr, unix.EADDRNOTAVAIL) {
		err = errors.Join(err, derr)
	}
	return err
}

// link is the device; it is made when there is none.
func (a *addresses) link() (netlink.Link, error) {
	if l, err := a.handle.LinkByName(a.device); err == nil {
		if !a.made {
			return nil, fmt.Errorf("device %s exists and is not ours; give another name (datapath.device)", a.device)
		}
		return l, nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Alias = a.device, deviceAlias
	if err := a.handle.LinkAdd(&netlink.Dummy{LinkAttrs: attrs}); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, errors.New("the kernel has no dummy devices (CONFIG_DUMMY is not set), and virtual addresses need one")
		}
		return nil, err
	}
	a.made = true
	l, err := a.handle.LinkByName(a.device)
	if err != nil {
		return nil, err
	}
	if err := a.handle.LinkSetAlias(l, deviceAlias); err != nil {
		return nil, err
	}
	if err := a.handle.LinkSetUp(l); err != nil {
		return nil, err
	}
	return l, a.rules(true)
}

// rules adds or removes the two rules that lead to the table.
func (a *addresses) rules(add bool) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		r := netlink.NewRule()
		r.Family, r.Table, r.Priority = family, routeTable, rulePriority
		if a.mark != 0 {
			mask := ^uint32(0)
			r.Mark, r.Mask, r.Invert = a.mark, &mask, true
		}
		var err error
		if add {
			if err = a.handle.RuleAdd(r); errors.Is(err, unix.EEXIST) {
				err = nil
			}
		} else if err = a.handle.RuleDel(r); errors.Is(err, unix.ENOENT) {
			err = nil
		}
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("rule for table %d: %w", routeTable, err)
		}
	}
	return nil
}

// settle takes entries of the SPD out and others in.
func (a *addresses) settle(out, in []*policyRecord) error {
	for _, r := range out {
		delete(a.policies, r.ID)
	}
	for _, r := range in {
		if tunnels(&r.Policy) {
			a.policies[r.ID] = r
		}
	}
	if len(a.refs) == 0 {
		return nil
	}
	return a.sync()
}

// wanted are the routes that should be.
func (a *addresses) wanted() map[routeKey]bool {
	want := map[routeKey]bool{}
	for _, r := range a.policies {
		for p := range a.refs {
			if slices.ContainsFunc(r.Local, func(ts spd.TS) bool { return ts.Contains(p.Addr()) }) {
				for _, ts := range r.Remote {
					if ts.Is4() != p.Addr().Is4() {
						continue
					}
					for _, dst := range ts.AppendPrefixes(nil) {
						want[routeKey{dst, p.Addr()}] = true
					}
				}
			}
		}
		if o := r.OuterRemote; o.IsValid() {
			want[routeKey{dst: netip.PrefixFrom(o, o.BitLen())}] = true
		}
	}
	return want
}

// sync brings the table to what is wanted: exceptions come first and go last.
func (a *addresses) sync() error {
	l, err := a.handle.LinkByName(a.device)
	if err != nil {
		return err
	}
	want := a.wanted()
	var errs []error
	for _, exceptions := range []bool{true, false} {
		for k := range want {
			if !a.routes[k] && k.src.IsValid() != exceptions {
				if err := a.handle.RouteReplace(k.route(l)); err != nil {
					errs = append(errs, fmt.Errorf("route to %v: %w", k.dst, err))
					continue
				}
				a.routes[k] = true
			}
		}
	}
	for _, exceptions := range []bool{false, true} {
		for k := range a.routes {
			if !want[k] && k.src.IsValid() != exceptions {
				if err := a.handle.RouteDel(k.route(l)); err != nil && !errors.Is(err, unix.ESRCH) {
					errs = append(errs, fmt.Errorf("route to %v: %w", k.dst, err))
				}
				delete(a.routes, k)
			}
		}
	}
	return errors.Join(errs...)
}

func (k routeKey) route(l netlink.Link) *netlink.Route {
	dst := &net.IPNet{IP: k.dst.Addr().AsSlice(), Mask: net.CIDRMask(k.dst.Bits(), k.dst.Addr().BitLen())}
	r := &netlink.Route{Dst: dst, Table: routeTable}
	if !k.src.IsValid() {
		r.Type = unix.RTN_THROW
		return r
	}
	r.LinkIndex, r.Src = l.Attrs().Index, k.src.AsSlice()
	if k.src.Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

// removeAll takes away the device, and with it its addresses and routes.
func (a *addresses) removeAll() error {
	if !a.made {
		return nil
	}
	var errs []error
	for k := range a.routes {
		if !k.src.IsValid() {
			if err := a.handle.RouteDel(k.route(nil)); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, err)
			}
		}
	}
	if l, err := a.handle.LinkByName(a.device); err == nil {
		errs = append(errs, a.handle.LinkDel(l))
	}
	errs = append(errs, a.rules(false))
	a.made, a.routes, a.refs = false, map[routeKey]bool{}, map[netip.Prefix]int{}
	return errors.Join(errs...)
}
