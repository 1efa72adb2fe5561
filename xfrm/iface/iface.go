// Package iface makes the network devices of route-based tunnels: what is routed
// to such a device is handed to the kernel's policies that are bound to it, and
// what those open comes out of it. There are two kinds: XFRM interfaces, which
// policies and SAs name by a number, and VTI, whose packets carry a mark.
package iface

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/spd"
)

// alias marks a device as this daemon's, so that one which a crashed process left
// is known again, and no other is ever touched.
const alias = "iked"

// links is what is needed of the kernel; *netlink.Handle has it.
type links interface {
	LinkByName(string) (netlink.Link, error)
	LinkAdd(netlink.Link) error
	LinkDel(netlink.Link) error
	LinkSetUp(netlink.Link) error
	LinkSetAlias(netlink.Link, string) error
}

// Kind is a kind of device.
type Kind uint8

// Kinds of device, the better first.
const (
	XFRM Kind = iota
	VTI
)

// Manager makes and removes devices. All methods are safe for concurrent use.
type Manager struct {
	mu    sync.Mutex
	h     links
	found sync.Once
	kind  Kind
	can   error
	// close ends the netlink socket.
	close func()
}

// New makes a manager of devices in the network namespace of the calling thread.
// Which kinds there are it finds out by trying, when that is first needed.
func New() (*Manager, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("devices of route-based tunnels: netlink socket: %w", err)
	}
	return &Manager{h: h, close: h.Close}, nil
}

// probeName is a device that lives for a moment.
const probeName = "iked-probe"

// probe makes a device of either kind and removes it.
func (m *Manager) probe() {
	for _, k := range []Kind{XFRM, VTI} {
		l := device(k, probeName, 0x1ced, netip.Addr{}, netip.Addr{})
		err := m.h.LinkAdd(l)
		if err == nil || errors.Is(err, unix.EEXIST) {
			if old, err := m.h.LinkByName(probeName); err == nil {
				_ = m.h.LinkDel(old) // it stays down and without use otherwise
			}
			m.kind = k
			return
		}
		if errors.Is(err, unix.EPERM) {
			m.can = fmt.Errorf("making devices needs CAP_NET_ADMIN: %w", err)
			return
		}
	}
	m.can = errors.New("the kernel has neither XFRM interfaces (CONFIG_XFRM_INTERFACE is not set) nor VTI (CONFIG_NET_IPVTI is not set)")
}

// Can is why no device can be made, nil when one can.
func (m *Manager) Can() error {
	m.found.Do(m.probe)
	return m.can
}

// Describe says in words which devices there are.
func (m *Manager) Describe() string {
	switch {
	case m.Can() != nil:
		return "no route-based tunnels: " + m.can.Error()
	case m.kind == VTI:
		return "route-based tunnels by VTI, because the kernel has no XFRM interfaces (CONFIG_XFRM_INTERFACE is not set)"
	}
	return "route-based tunnels by XFRM interfaces"
}

// device is what a link of a kind looks like. The end of a VTI that is not known
// is any address; it is of the family of the other.
func device(k Kind, name string, id uint32, local, remote netip.Addr) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if k == XFRM {
		return &netlink.Xfrmi{LinkAttrs: attrs, Ifid: id}
	}
	end := func(a netip.Addr) net.IP {
		switch {
		case a.IsValid():
			return a.AsSlice()
		case local.Is6() || remote.Is6():
			return net.IPv6zero
		}
		return net.IPv4zero
	}
	return &netlink.Vti{LinkAttrs: attrs, IKey: id, OKey: id, Local: end(local), Remote: end(remote)}
}

// Open makes a device and sets it up. Policies are bound to it by the number that
// is returned, or by the mark. One that this daemon left behind is taken over, or
// made anew when it differs; one of others is an error.
func (m *Manager) Open(name string, id uint32, local, remote netip.Addr) (uint32, spd.Mark, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fail := func(err error) (uint32, spd.Mark, error) {
		return 0, spd.Mark{}, fmt.Errorf("interface %s: %w", name, err)
	}
	if err := m.Can(); err != nil {
		return fail(err)
	}
	want := device(m.kind, name, id, local, remote)
	if m.kind == VTI && !local.IsValid() && !remote.IsValid() {
		// The kernel has one VTI without ends, which is its own.
		return fail(errors.New("a VTI needs a known end, and the kernel has no XFRM interfaces (CONFIG_XFRM_INTERFACE is not set); " +
			"write one address in local_addrs or remote_addrs of the connection"))
	}
	old, err := m.h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
	case err != nil:
		return fail(err)
	case old.Attrs().Alias != alias:
		return fail(errors.New("there is one that is not this daemon's; remove it, choose another name, or leave the key interface out and write the if_id of that one"))
	case same(old, want):
		return m.up(old, id)
	default:
		if err := m.h.LinkDel(old); err != nil {
			return fail(err)
		}
	}
	if err := m.h.LinkAdd(want); err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("another device has if_id %d, or the same ends: %w", id, err)
		}
		return fail(err)
	}
	made, err := m.h.LinkByName(name)
	if err == nil {
		err = m.h.LinkSetAlias(made, alias)
	}
	if err != nil {
		return fail(errors.Join(err, m.h.LinkDel(want)))
	}
	return m.up(made, id)
}

func (m *Manager) up(l netlink.Link, id uint32) (uint32, spd.Mark, error) {
	if err := m.h.LinkSetUp(l); err != nil {
		return 0, spd.Mark{}, fmt.Errorf("interface %s: set up: %w", l.Attrs().Name, errors.Join(err, m.h.LinkDel(l)))
	}
	if m.kind == VTI {
		return 0, spd.Mark{Value: id, Mask: ^uint32(0)}, nil
	}
	return id, spd.Mark{}, nil
}

// same tells whether a link is what it should be.
func same(a, b netlink.Link) bool {
	switch a := a.(type) {
	case *netlink.Xfrmi:
		b, ok := b.(*netlink.Xfrmi)
		return ok && a.Ifid == b.Ifid
	case *netlink.Vti:
		b, ok := b.(*netlink.Vti)
		return ok && a.IKey == b.IKey && a.OKey == b.OKey && a.Local.Equal(b.Local) && a.Remote.Equal(b.Remote)
	}
	return false
}

// Close removes a device, if it is this daemon's.
func (m *Manager) Close(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.Attrs().Alias != alias {
		return errors.New("it is not this daemon's any more, and stays")
	}
	return m.h.LinkDel(l)
}

// End closes the socket to the kernel; devices stay.
func (m *Manager) End() {
	if m.close != nil {
		m.close()
	}
}
