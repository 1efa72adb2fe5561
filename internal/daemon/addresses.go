package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
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

// settle is how long addresses must rest before a change is told of: they come in
// groups.
const settle = 200 * time.Millisecond

// addressWatch tells when this host gets or loses addresses.
type addressWatch struct {
	done, ended chan struct{}
}

// watchAddresses calls f, in a goroutine of its own, after every change in the
// network namespace of the calling thread.
func watchAddresses(f func()) (*addressWatch, error) {
	w := &addressWatch{done: make(chan struct{}), ended: make(chan struct{})}
	updates := make(chan netlink.AddrUpdate)
	if err := netlink.AddrSubscribeWithOptions(updates, w.done, netlink.AddrSubscribeOptions{ErrorCallback: func(error) {}}); err != nil {
		return nil, err
	}
	go func() {
		defer close(w.ended)
		rest := time.NewTimer(0)
		rest.Stop()
		defer rest.Stop()
		for {
			select {
			case _, ok := <-updates:
				if !ok {
					return
				}
				rest.Reset(settle)
			case <-rest.C:
				f()
			}
		}
	}()
	return w, nil
}

// close ends it and waits for a call of f that is under way.
func (w *addressWatch) close() {
	if w == nil {
		return
	}
	close(w.done)
	<-w.ended
}
