package batch

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Join makes the host a member of a multicast group on an interface, for as long
// as the socket is open or until Leave. A membership that is there already is no
// error.
func (c *Conn) Join(group netip.Addr, ifindex int) error {
	err := c.member(group, ifindex, unix.IP_ADD_MEMBERSHIP, unix.IPV6_JOIN_GROUP)
	if err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("join group %v on interface %d: %w", group, ifindex, err)
	}
	return nil
}

// Leave ends a membership. One that is not there, with its interface or without,
// is no error.
func (c *Conn) Leave(group netip.Addr, ifindex int) error {
	err := c.member(group, ifindex, unix.IP_DROP_MEMBERSHIP, unix.IPV6_LEAVE_GROUP)
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("leave group %v on interface %d: %w", group, ifindex, err)
	}
	return nil
}

func (c *Conn) member(group netip.Addr, ifindex, opt4, opt6 int) error {
	if !group.IsMulticast() || group.Is4() == c.v6 {
		return unix.EINVAL
	}
	return c.control(func(fd int) error {
		if c.v6 {
			return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, opt6, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(ifindex)})
		}
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, opt4, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(ifindex)})
	})
}

func (c *Conn) control(f func(fd int) error) error {
	var rc syscall.RawConn = c.rc
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
