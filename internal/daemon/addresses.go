package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/datapath/route"
	"iked/internal/engine"
)

// Own implements engine.Addresses: the addresses of this host with the prefixes
// of their links.
func (markedRoutes) Own() ([]netip.Prefix, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	var out []netip.Prefix
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		bits, size := n.Mask.Size()
		if ip = ip.Unmap(); ok && size == ip.BitLen() {
			out = append(out, netip.PrefixFrom(ip, bits))
		}
	}
	return out, nil
}

// DeviceOf implements engine.Offloads: the device that has an address.
func (markedRoutes) DeviceOf(local netip.Addr) (string, error) {
	devices, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("device of %v: %w", local, err)
	}
	for _, dev := range devices {
		addrs, err := dev.Addrs()
		if err != nil {
			continue // it is just going
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == local.WithZone("") {
				return dev.Name, nil
			}
		}
	}
	return "", fmt.Errorf("no device has the address %v", local)
}

// Addresses implements engine.Paths.
func (markedRoutes) Addresses() ([]engine.OwnAddress, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	// A default route may be in any table: with several uplinks each has its own.
	leads := map[int]int{} // link to families
	for family, bit := range map[int]int{netlink.FAMILY_V4: 1, netlink.FAMILY_V6: 2} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("routes of this host: %w", err)
		}
		for _, r := range routes {
			if r.Protocol == route.Protocol || r.Type != unix.RTN_UNICAST || r.Dst != nil && !r.Dst.IP.IsUnspecified() {
				continue
			}
			leads[r.LinkIndex] |= bit
			for _, hop := range r.MultiPath {
				leads[hop.LinkIndex] |= bit
			}
		}
	}
	var out []engine.OwnAddress
	for _, a := range addrs {
		own, ok := netip.AddrFromSlice(a.IP)
		if own = own.Unmap(); !ok || a.Flags&unix.IFA_F_TENTATIVE != 0 {
			continue
		}
		bit := 2
		if own.Is4() {
			bit = 1
		}
		out = append(out, engine.OwnAddress{Addr: own, Link: a.LinkIndex, Leads: leads[a.LinkIndex]&bit != 0})
	}
	return out, nil
}

// Paths implements engine.Paths: the own addresses from which packets reach a peer,
// by the routes that the daemon's own packets take. First the one that the kernel
// would choose, then others whose packets leave by the link that has them.
func (r markedRoutes) Paths(remote netip.Addr) ([]netip.Addr, error) {
	look := func(src net.IP) (netlink.Route, error) {
		list, err := netlink.RouteGetWithOptions(remote.AsSlice(), &netlink.RouteGetOptions{SrcAddr: src, Mark: r.mark})
		if err != nil {
			return netlink.Route{}, err
		}
		if len(list) == 0 || list[0].Type != unix.RTN_UNICAST && list[0].Type != unix.RTN_LOCAL {
			return netlink.Route{}, unix.ENETUNREACH
		}
		return list[0], nil
	}
	var out []netip.Addr
	first, err := look(nil)
	if err == nil {
		if a, ok := netip.AddrFromSlice(first.Src); ok {
			out = append(out, a.Unmap())
		}
	}
	links, lerr := net.Interfaces()
	if lerr != nil {
		return out, lerr
	}
	for _, l := range links {
		if l.Flags&net.FlagUp == 0 || l.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue // it is just going
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			own, ok := netip.AddrFromSlice(n.IP)
			if own = own.Unmap(); !ok || own.Is4() != remote.Is4() || !own.IsGlobalUnicast() || slices.Contains(out, own) {
				continue
			}
			if way, err := look(own.AsSlice()); err == nil && way.LinkIndex == l.Index {
				out = append(out, own)
			}
		}
	}
	if len(out) == 0 {
		return nil, err
	}
	return out, nil
}

// settle is how long addresses and routes must rest before a change is told of: they
// come in groups. When they never rest it is told of after patience all the same.
const (
	settle   = 50 * time.Millisecond
	patience = 2 * time.Second
)

// networkWatch tells when this host has other addresses or routes.
type networkWatch struct {
	done, ended chan struct{}
}

// watchNetwork calls f, in a goroutine of its own, after changes in the network
// namespace of the calling thread. Routes that this daemon made are no change.
func watchNetwork(f func()) (*networkWatch, error) {
	w := &networkWatch{done: make(chan struct{}), ended: make(chan struct{})}
	addrs, routes, links := make(chan netlink.AddrUpdate), make(chan netlink.RouteUpdate), make(chan netlink.LinkUpdate)
	lost := func(error) {}
	err := netlink.AddrSubscribeWithOptions(addrs, w.done, netlink.AddrSubscribeOptions{ErrorCallback: lost})
	if err == nil {
		err = netlink.RouteSubscribeWithOptions(routes, w.done, netlink.RouteSubscribeOptions{ErrorCallback: lost})
	}
	if err == nil {
		err = netlink.LinkSubscribeWithOptions(links, w.done, netlink.LinkSubscribeOptions{ErrorCallback: lost})
	}
	if err != nil {
		close(w.done)
		return nil, err
	}
	go func() {
		defer close(w.ended)
		rest := time.NewTimer(0)
		rest.Stop()
		defer rest.Stop()
		var since time.Time // of the first change that was not told of
		change := func() {
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			rest.Reset(min(settle, max(0, patience-now.Sub(since))))
		}
		for {
			select {
			case _, ok := <-addrs:
				if !ok {
					return
				}
				change()
			case r, ok := <-routes:
				if !ok {
					return
				}
				if r.Protocol != route.Protocol {
					change()
				}
			case _, ok := <-links:
				if !ok {
					return
				}
				change()
			case <-rest.C:
				since = time.Time{}
				f()
			}
		}
	}()
	return w, nil
}

// close ends it and waits for a call of f that is under way.
func (w *networkWatch) close() {
	if w == nil {
		return
	}
	close(w.done)
	<-w.ended
}
