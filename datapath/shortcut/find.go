package shortcut

import (
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/internal/transport/batch"
)

// hood is the neighbours of an interface and family; a look asks for each once.
type hood struct{ link, family int }

// find asks the kernel for the way of one pair; nil: none.
func (s *Shortcut) find(p pair, hoods map[hood][]netlink.Neigh) *Way {
	routes, err := s.watch.NL.RouteGetWithOptions(p.dst.AsSlice(), &netlink.RouteGetOptions{SrcAddr: p.src.AsSlice(), Mark: s.opt.Mark})
	if err != nil || len(routes) != 1 {
		return nil
	}
	r := &routes[0]
	if r.Type != unix.RTN_UNICAST || r.Encap != nil || r.NewDst != nil || len(r.MultiPath) > 0 || r.Via != nil {
		return nil
	}
	link, err := s.watch.NL.LinkByIndex(r.LinkIndex)
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
		if neighbours, err = s.watch.NL.NeighList(r.LinkIndex, family); err != nil {
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
