package guard

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"iked/spd"
)

// A packet to a multicast group leaves by the interface that its sender names, or
// whose address it has, and not by the route (ip(7), IP_MULTICAST_IF): a route to
// the device alone protects no group. What does not take the device must be
// dropped where it leaves:
//
//	to a protected group, not by the device, not protected, not marked as the
//	daemon's own: drop

// groups are what New does not need unless there is a policy with a group.
type groups struct {
	chain *nftables.Chain
	sets  [2]*nftables.Set // IPv4, IPv6
	held  map[netip.Prefix]int
}

// AddGroups guards the groups among the remote selectors of a policy; mark is that
// of the daemon's own packets, 0 none. Each AddGroups needs a RemoveGroups.
func (g *Guard) AddGroups(remote []netip.Prefix, mark uint32) error {
	return g.changeGroups(remote, mark, 1)
}

// RemoveGroups takes back one AddGroups of the same selectors.
func (g *Guard) RemoveGroups(remote []netip.Prefix) error { return g.changeGroups(remote, 0, -1) }

func (g *Guard) changeGroups(remote []netip.Prefix, mark uint32, n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	var changed [2]bool
	for _, p := range remote {
		if !p.Addr().IsMulticast() {
			continue
		}
		if g.groups.chain == nil {
			if n < 0 {
				return nil
			}
			if err := g.buildGroups(mark); err != nil {
				return fmt.Errorf("groups in clear are not guarded: %w", err)
			}
		}
		before := g.groups.held[p]
		if before+n > 0 {
			g.groups.held[p] = before + n
		} else {
			delete(g.groups.held, p)
		}
		changed[index(p)] = changed[index(p)] || (before == 0) != (before+n <= 0)
	}
	for i, c := range changed {
		if !c {
			continue
		}
		g.conn.FlushSet(g.groups.sets[i])
		var list []spd.TS
		for p := range g.groups.held {
			if index(p) == i {
				list = append(list, spd.FromPrefix(p))
			}
		}
		if err := g.conn.SetAddElements(g.groups.sets[i], elements(list)); err != nil {
			return err
		}
	}
	if changed == [2]bool{} {
		return nil
	}
	if err := g.conn.Flush(); err != nil {
		return fmt.Errorf("netfilter table %s: %w", g.table.Name, err)
	}
	return nil
}

func (g *Guard) buildGroups(mark uint32) error {
	x := groups{held: map[netip.Prefix]int{}}
	for i, kt := range []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr} {
		x.sets[i] = &nftables.Set{Table: g.table, Name: []string{"group4", "group6"}[i], KeyType: kt, Interval: true}
		if err := g.conn.AddSet(x.sets[i], nil); err != nil {
			return err
		}
	}
	accept := nftables.ChainPolicyAccept
	x.chain = g.conn.AddChain(&nftables.Chain{Name: "output", Table: g.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter, Policy: &accept})
	rule := func(parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		g.conn.AddRule(&nftables.Rule{Table: g.table, Chain: x.chain, Exprs: all})
	}
	// Protected already; and memberships are told to the group itself (RFC 2236,
	// Section 3; RFC 2710, Section 5).
	for _, proto := range []byte{unix.IPPROTO_ESP, unix.IPPROTO_AH, unix.IPPROTO_IGMP, unix.IPPROTO_ICMPV6} {
		rule(protocol(proto), verdict(expr.VerdictAccept))
	}
	for _, ah := range [][]expr.Any{extensionAH(), laterFragmentAH()} {
		rule(g.family(1), ah, verdict(expr.VerdictAccept))
	}
	if mark != 0 {
		rule([]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, equal(binaryutil.NativeEndian.PutUint32(mark))}, verdict(expr.VerdictAccept))
	}
	for i := range x.sets {
		offset, length := []uint32{16, 24}[i], []uint32{4, 16}[i]
		rule(g.family(i),
			[]expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: ifname(g.device)}},
			[]expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
				&expr.Lookup{SourceRegister: 1, SetName: x.sets[i].Name, SetID: x.sets[i].ID},
				&expr.Counter{},
			}, verdict(expr.VerdictDrop))
	}
	if err := g.conn.Flush(); err != nil {
		return fmt.Errorf("netfilter table %s: %w", g.table.Name, err)
	}
	g.groups = x
	return nil
}

// DroppedGroups counts the packets to protected groups that were dropped.
func (g *Guard) DroppedGroups() (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.groups.chain == nil {
		return 0, nil
	}
	return g.count(g.groups.chain)
}
