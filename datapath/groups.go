package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/internal/backend"
	"iked/internal/transport/batch"
	"iked/sad"
)

// A receiver of a multicast group is a member of it twice: on the interfaces on
// which protected packets may arrive, and on the device, out of which the kernel
// gets them in clear. Which interface a sender has is not known, so that the host
// joins on all of them.

// grouper is a Raw that can make the host a member of multicast groups.
type grouper interface {
	// Join makes it a member on every interface that is up, the device among them,
	// and once more on those that came since.
	Join(group netip.Addr) error
	Leave(group netip.Addr)
	// Zone names the interface that has a local address, "" if none has.
	Zone(local netip.Addr) string
}

// deliverer is a Router that can drop what arrives in clear for a group.
type deliverer interface {
	AddDelivered(group netip.Addr) error
	RemoveDelivered(group netip.Addr) error
}

// join is called for every inbound SA, with d.mu held.
func (d *Datapath) join(group netip.Addr) error {
	if !group.IsMulticast() {
		return nil
	}
	r, ok := d.io.Raw.(grouper)
	if !ok {
		return fmt.Errorf("group %v: no socket that can be a member: %w", group, backend.ErrUnsupported)
	}
	if d.groups[group] == 0 {
		// Nothing is heard in clear before the rule against it is there.
		if g, ok := d.io.Router.(deliverer); ok {
			if err := g.AddDelivered(group); err != nil {
				d.warn("%v", err)
			}
		}
		if err := r.Join(group); err != nil {
			d.undeliver(group)
			return err
		}
	}
	d.groups[group]++
	return nil
}

// leaveGroup takes back one join.
func (d *Datapath) leaveGroup(group netip.Addr) {
	if d.groups[group] == 0 {
		return
	}
	if d.groups[group]--; d.groups[group] == 0 {
		delete(d.groups, group)
		d.io.Raw.(grouper).Leave(group)
		d.undeliver(group)
	}
}

func (d *Datapath) undeliver(group netip.Addr) {
	if g, ok := d.io.Router.(deliverer); ok {
		if err := g.RemoveDelivered(group); err != nil {
			d.warn("%v", err)
		}
	}
}

// rejoin joins on interfaces that came since.
func (d *Datapath) rejoin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for g := range d.groups {
		if err := d.io.Raw.(grouper).Join(g); err != nil {
			d.warn("%v", err)
		}
	}
}

// outOf names the interface of an outbound SA of an IPv6 group in its source: which
// one a packet to a group leaves by is not in the routes (RFC 3493, Section 5.2).
func (d *Datapath) outOf(sa *sad.SA) error {
	if sa.Dir != sad.Out || !sa.Dst.IsMulticast() || sa.Dst.Is4() || sa.Src.Zone() != "" {
		return nil
	}
	r, ok := d.io.Raw.(grouper)
	if !ok {
		return nil
	}
	zone := r.Zone(sa.Src)
	if zone == "" {
		return fmt.Errorf("SA %s to group %v: no interface has its source %v: %w", sa.Name, sa.Dst, sa.Src, backend.ErrInvalid)
	}
	sa.Src = sa.Src.WithZone(zone)
	return nil
}

// member is the socket whose memberships are the host's.
func (r *rawSockets) member(group netip.Addr) *batch.Conn {
	if group.Is4() {
		return r.by[0]
	}
	return r.by[1]
}

// Join implements grouper.
func (r *rawSockets) Join(group netip.Addr) error {
	c := r.member(group)
	if c == nil {
		return fmt.Errorf("join group %v: %w", group, unix.EAFNOSUPPORT)
	}
	links, err := r.nl.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("join group %v: interfaces: %w", group, err)
	}
	n := 0
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagUp == 0 || a.Flags&net.FlagMulticast == 0 || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		if err := c.Join(group, a.Index); err != nil {
			// An interface without an address of the family, for one.
			errs = append(errs, fmt.Errorf("%s: %w", a.Name, err))
			continue
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("join group %v: no interface: %w", group, errors.Join(errs...))
	}
	return nil
}

// Leave implements grouper.
func (r *rawSockets) Leave(group netip.Addr) {
	c := r.member(group)
	links, err := r.nl.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		r.warn(fmt.Sprintf("leave group %v: interfaces: %v", group, err))
		return
	}
	for _, l := range links {
		if err := c.Leave(group, l.Attrs().Index); err != nil {
			r.warn(err.Error())
		}
	}
}

// Zone implements grouper.
func (r *rawSockets) Zone(local netip.Addr) string {
	family := netlink.FAMILY_V4
	if !local.Is4() {
		family = netlink.FAMILY_V6
	}
	list, err := r.nl.AddrList(nil, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return ""
	}
	for _, a := range list {
		if got, ok := netip.AddrFromSlice(a.IP); ok && got.Unmap() == local.WithZone("") {
			return strconv.Itoa(a.LinkIndex)
		}
	}
	return ""
}
