package mip6

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"iked/internal/testnet"
	"iked/migrate"
	"iked/migrate/form"
	"iked/spd"
	"iked/xfrm/wire"
)

// Bond is what is protected between the mobile node and one of its peers, by one
// policy for each direction at either end.
type Bond struct {
	Mode spd.Mode
	// Home and Peer are the two ends of the traffic.
	Home, Peer netip.Prefix
	// Proto, and with the mobility header (135) the types that the mobile node and its
	// peer send; 0: any.
	Proto              uint8
	HomeType, PeerType uint16
	// ReqID of the SAs; 0: any. ReqIDBack is that of what the peer sends, where it is
	// another one.
	ReqID, ReqIDBack uint32
	// Forward tells that there are policies of direction fwd.
	Forward bool
	// Untyped tells that the policies for what arrives are without the types of the
	// mobility header, which the kernel cannot tell there. Those of mip6d have them.
	Untyped bool
}

// selector is that of the policy of a direction for what the mobile node or its peer
// sends.
func (b *Bond) selector(fromHome bool, d migrate.Dir) spd.KernelSelector {
	k := spd.KernelSelector{Src: b.Home, Dst: b.Peer, Proto: b.Proto, SrcPort: b.HomeType}
	if !fromHome {
		k.Src, k.Dst, k.SrcPort = b.Peer, b.Home, b.PeerType
	}
	if b.Untyped && d != migrate.Out {
		k.SrcPort = 0
	}
	if k.SrcPort != 0 {
		k.SrcMask = 0xffff
	}
	return k
}

// reqid is that of the SA for what the mobile node or its peer sends.
func (b *Bond) reqid(fromHome bool) uint32 {
	if !fromHome && b.ReqIDBack != 0 {
		return b.ReqIDBack
	}
	return b.ReqID
}

// Events are what the mobility manager of one side tells of a move: that of the mobile
// node, with peer as the address of the other end, or that of the peer.
//
// As mip6d does, it tells of the policies of transport mode first, whose entries have
// no old addresses since their SAs do not move, then of the tunnels; the mobile node of
// direction out first, its peer of direction in. Each has KMADDRESS. mip6d says nothing
// of tunnels when the node comes home, where it needs none; here they stay in use.
func Events(bonds []Bond, mobile bool, from, to *Place, oldPeer, peer netip.Addr) (list []migrate.Event) {
	out := func(p *Place, peer netip.Addr) migrate.Pair { return migrate.Pair{Src: p.CareOf, Dst: peer} }
	back := func(p migrate.Pair) migrate.Pair { return migrate.Pair{Src: p.Dst, Dst: p.Src} }
	dirs, km := []migrate.Dir{migrate.Out, migrate.In, migrate.Fwd}, migrate.Ends{Local: to.CareOf, Remote: peer}
	if !mobile {
		dirs, km = []migrate.Dir{migrate.In, migrate.Fwd, migrate.Out}, migrate.Ends{Local: peer, Remote: to.CareOf}
	}
	for _, mode := range []spd.Mode{spd.Transport, spd.Tunnel} {
		for i := range bonds {
			b := &bonds[i]
			if b.Mode != mode {
				continue
			}
			for _, d := range dirs {
				if d == migrate.Fwd && !b.Forward {
					continue
				}
				fromHome := mobile == (d == migrate.Out)
				x := migrate.Entry{Proto: 50, Mode: mode, ReqID: b.reqid(fromHome), Old: out(from, oldPeer), New: out(to, peer)}
				if !fromHome {
					x.Old, x.New = back(x.Old), back(x.New)
				}
				if mode == spd.Transport {
					none := netip.IPv6Unspecified()
					x.Old = migrate.Pair{Src: none, Dst: none}
				}
				list = append(list, migrate.Event{Dir: d, KM: km, Selector: b.selector(fromHome, d), Entries: []migrate.Entry{x}})
			}
		}
	}
	return list
}

// Teller tells the kernel of a namespace that SAs and policies move.
type Teller func(ns *testnet.Namespace, events ...migrate.Event) error

// Netlink tells by XFRM_MSG_MIGRATE, as mip6d does.
func Netlink(ns *testnet.Namespace, events ...migrate.Event) error {
	list := make([]request, len(events))
	for i := range events {
		list[i] = request{wire.MigrateMsg, form.ToXFRM(&events[i]), about(&events[i])}
	}
	return ask(ns, list...)
}

// answerTime is how long the kernel may take.
var answerTime = unix.Timeval{Sec: 20}

// PFKey tells by SADB_X_MIGRATE, as older managers do; the kernel needs af_key.
func PFKey(ns *testnet.Namespace, events ...migrate.Event) error {
	const keyV2, sadbMigrate = 2, 24 // PF_KEY_V2, SADB_X_MIGRATE
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_KEY, unix.SOCK_RAW|unix.SOCK_CLOEXEC, keyV2)
		if err != nil {
			return fmt.Errorf("mip6: PF_KEY: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &answerTime); err != nil {
			return err
		}
		for i := range events {
			seq := uint32(i + 1)
			if _, err := unix.Write(fd, form.AppendPFKey(nil, &events[i], seq, 1)); err != nil {
				return refused(ns, &events[i], err)
			}
			// What was done is told to every socket, this one too; what failed to this one
			// alone.
			buf := make([]byte, 8192)
			for {
				n, err := unix.Read(fd, buf)
				if err != nil {
					return err
				}
				if n < 16 || buf[1] != sadbMigrate {
					continue
				}
				if buf[2] != 0 {
					return refused(ns, &events[i], unix.Errno(buf[2]))
				}
				break
			}
		}
		return nil
	})
}

func refused(ns *testnet.Namespace, e *migrate.Event, err error) error {
	return fmt.Errorf("mip6: %s: %s: %w", ns.Name, about(e), err)
}

func about(e *migrate.Event) string {
	return fmt.Sprintf("MIGRATE of direction %v, %v to %v", e.Dir, e.Selector.Src, e.Selector.Dst)
}
