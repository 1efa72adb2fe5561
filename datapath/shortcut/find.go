package shortcut

import (
	"bytes"
	"errors"
	"net"
	"os"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/internal/transport/batch"
)

// untouched tells that no firewall and no transformation of the kernel sees
// packets on their way out. What cannot be found out counts as one.
func (s *Shortcut) untouched() bool {
	if s.nft != nil {
		chains, err := s.nft.ListChains()
		switch {
		case errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP):
		case err != nil:
			return false
		}
		for _, c := range chains {
			if onTheWayOut(c) {
				return false
			}
		}
	}
	// The tables of the older packet filter.
	for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil && !errors.Is(err, os.ErrNotExist) || len(bytes.TrimSpace(b)) > 0 {
			return false
		}
	}
	policies, err := s.nl.XfrmPolicyList(unix.AF_UNSPEC)
	if err != nil {
		return errors.Is(err, unix.EPROTONOSUPPORT)
	}
	for _, p := range policies {
		if p.Dir == netlink.XFRM_DIR_OUT {
			return false
		}
	}
	return true
}

func onTheWayOut(c *nftables.Chain) bool {
	if c.Hooknum == nil || c.Table == nil {
		return false
	}
	switch c.Table.Family {
	case nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6:
		return *c.Hooknum == *nftables.ChainHookOutput || *c.Hooknum == *nftables.ChainHookPostrouting
	}
	// Those of interfaces and bridges see what takes the shortcut, too.
	return false
}

// hood is the neighbours of an interface and family; a look asks for each once.
type hood struct{ link, family int }

// find asks the kernel for the way of one pair; nil: none.
func (s *Shortcut) find(p pair, hoods map[hood][]netlink.Neigh) *Way {
	routes, err := s.nl.RouteGetWithOptions(p.dst.AsSlice(), &netlink.RouteGetOptions{SrcAddr: p.src.AsSlice(), Mark: s.opt.Mark})
	if err != nil || len(routes) != 1 {
		return nil
	}
	r := &routes[0]
	if r.Type != unix.RTN_UNICAST || r.Encap != nil || r.NewDst != nil || len(r.MultiPath) > 0 || r.Via != nil {
		return nil
	}
	link, err := s.nl.LinkByIndex(r.LinkIndex)
	if err != nil {
		return nil
	}
	a := link.Attrs()
	const up = net.FlagUp | net.FlagRunning
	if a.EncapType != "ether" || len(a.HardwareAddr) != 6 || a.RawFlags&unix.IFF_NOARP != 0 || a.Flags&up != up || a.Flags&net.FlagLoopback != 0 {
		return nil
	}
	family, next := unix.AF_INET, net.IP(p.dst.AsSlice())
	if p.dst.Is6() {
		family = unix.AF_INET6
	}
	if len(r.Gw) > 0 {
		next = r.Gw
	}
	near := hood{r.LinkIndex, family}
	neighbours, known := hoods[near]
	if !known {
		if neighbours, err = s.nl.NeighList(r.LinkIndex, family); err != nil {
			return nil
		}
		hoods[near] = neighbours
	}
	const valid = unix.NUD_PERMANENT | unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	for i := range neighbours {
		n := &neighbours[i]
		if !n.IP.Equal(next) || n.State&valid == 0 || len(n.HardwareAddr) != 6 || n.Flags&unix.NTF_PROXY != 0 {
			continue
		}
		w := &Way{Hop: batch.Hop{Index: r.LinkIndex, Addr: [6]byte(n.HardwareAddr)}, MTU: a.MTU}
		if r.MTU > 0 {
			w.MTU = min(w.MTU, r.MTU)
		}
		if s.opt.PathMTU != nil {
			mtu, err := s.opt.PathMTU(p.dst)
			if err != nil {
				return nil
			}
			w.MTU = min(w.MTU, mtu)
		}
		return w
	}
	return nil
}
