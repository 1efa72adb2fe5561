package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is an interface of a namespace.
type End struct {
	NS *Namespace
	If string
}

// Connect joins two namespaces with a pair of virtual Ethernet interfaces, both
// up. mtu 0 is the default of 1500.
func (n *Net) Connect(a, b End, mtu int) error {
	if mtu == 0 {
		mtu = 1500
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.If, mtu
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.If, PeerNamespace: netlink.NsFd(b.NS.fd), PeerMTU: uint32(mtu)}
	if err := a.NS.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("testnet: link %s/%s with %s/%s: %w", a.NS.Name, a.If, b.NS.Name, b.If, err)
	}
	return errors.Join(a.NS.SetMTU(a.If, mtu), b.NS.SetMTU(b.If, mtu), a.NS.SetLink(a.If, true), b.NS.SetLink(b.If, true))
}

// SetLink takes an interface up or down.
func (ns *Namespace) SetLink(ifname string, up bool) error {
	link, err := ns.link(ifname)
	if err != nil {
		return err
	}
	if up {
		err = ns.handle.LinkSetUp(link)
	} else {
		err = ns.handle.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("testnet: %s: set %s up=%t: %w", ns.Name, ifname, up, err)
	}
	return nil
}

// SetMTU changes the MTU of an interface, in bytes.
func (ns *Namespace) SetMTU(ifname string, mtu int) error {
	link, err := ns.link(ifname)
	if err != nil {
		return err
	}
	if err := ns.handle.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("testnet: %s: set MTU of %s to %d: %w", ns.Name, ifname, mtu, err)
	}
	return nil
}

// AddAddr gives an interface addresses, written like "10.1.0.1/24".
func (ns *Namespace) AddAddr(ifname string, prefixes ...string) error {
	return ns.eachAddr(ifname, prefixes, "add", ns.handle.AddrAdd)
}

// DelAddr takes addresses away again.
func (ns *Namespace) DelAddr(ifname string, prefixes ...string) error {
	return ns.eachAddr(ifname, prefixes, "delete", ns.handle.AddrDel)
}

func (ns *Namespace) eachAddr(ifname string, prefixes []string, verb string, do func(netlink.Link, *netlink.Addr) error) error {
	link, err := ns.link(ifname)
	if err != nil {
		return err
	}
	for _, p := range prefixes {
		addr, err := netlink.ParseAddr(p)
		if err != nil {
			return fmt.Errorf("testnet: %s: %s address %q: %w", ns.Name, verb, p, err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := do(link, addr); err != nil {
			return fmt.Errorf("testnet: %s: %s address %s on %s: %w", ns.Name, verb, p, ifname, err)
		}
	}
	return nil
}

// AddRoute adds a route. dst is a prefix, or "default" for everything of via's
// family; via is the address of the next hop.
func (ns *Namespace) AddRoute(dst, via string) error {
	r, err := parseRoute(dst, via)
	if err == nil {
		err = ns.handle.RouteAdd(r)
	}
	if err != nil {
		return fmt.Errorf("testnet: %s: route to %s via %s: %w", ns.Name, dst, via, err)
	}
	return nil
}

// DelRoute removes what AddRoute with the same arguments added.
func (ns *Namespace) DelRoute(dst, via string) error {
	r, err := parseRoute(dst, via)
	if err == nil {
		err = ns.handle.RouteDel(r)
	}
	if err != nil {
		return fmt.Errorf("testnet: %s: delete route to %s via %s: %w", ns.Name, dst, via, err)
	}
	return nil
}

func parseRoute(dst, via string) (*netlink.Route, error) {
	gw, err := netip.ParseAddr(via)
	if err != nil {
		return nil, err
	}
	if dst == "default" {
		dst = "0.0.0.0/0"
		if gw.Is6() {
			dst = "::/0"
		}
	}
	p, err := netip.ParsePrefix(dst)
	if err != nil {
		return nil, err
	}
	return &netlink.Route{
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Gw:  gw.AsSlice(),
	}, nil
}

// Sysctl sets a parameter of the namespace, such as "net.ipv4.ip_forward".
func (ns *Namespace) Sysctl(key, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	return ns.Do(func() error {
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("testnet: %s: set %s=%s: %w", ns.Name, key, value, err)
		}
		return nil
	})
}

// Forward makes the namespace a router for IPv4 and IPv6.
func (ns *Namespace) Forward() error {
	return errors.Join(ns.Sysctl("net.ipv4.ip_forward", "1"), ns.Sysctl("net.ipv6.conf.all.forwarding", "1"))
}

// Handle is a netlink handle inside the namespace, for what has no helper here.
func (ns *Namespace) Handle() *netlink.Handle { return ns.handle }

func (ns *Namespace) link(ifname string) (netlink.Link, error) {
	link, err := ns.handle.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("testnet: %s: interface %s: %w", ns.Name, ifname, err)
	}
	return link, nil
}

// Links lists the names of the interfaces, lo included.
func (ns *Namespace) Links() ([]string, error) {
	links, err := ns.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("testnet: %s: list links: %w", ns.Name, err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, nil
}

// Rules counts the policy routing rules of both families: six in a fresh
// namespace is usual, and what matters is whether the number returns.
func (ns *Namespace) Rules() (int, error) {
	rules, err := ns.handle.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return 0, fmt.Errorf("testnet: %s: list rules: %w", ns.Name, err)
	}
	return len(rules), nil
}

// Listen, Dial and ListenPacket are those of package net, inside the namespace.
// Addresses must be literal: no name is resolved there.
func (ns *Namespace) Listen(network, address string) (l net.Listener, err error) {
	err = ns.Do(func() error { l, err = net.Listen(network, address); return err })
	return l, err
}

// Dial connects from inside the namespace, see Listen.
func (ns *Namespace) Dial(network, address string) (c net.Conn, err error) {
	err = ns.Do(func() error { c, err = net.Dial(network, address); return err })
	return c, err
}

// ListenPacket opens a packet socket inside the namespace, see Listen.
func (ns *Namespace) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = ns.Do(func() error { c, err = net.ListenPacket(network, address); return err })
	if err == nil {
		err = roomy(c)
	}
	return c, err
}
