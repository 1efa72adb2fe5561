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
//
// And what arrives in clear for a group of which there is an SA:
//
//	to a group of an SA, not out of the device: drop

// groups are what New does not need unless there is a policy or an SA with a group.
type groups struct {
	chain     *nftables.Chain
	sent      groupSet // protected on their way out
	delivered groupSet // of inbound SAs
}

// groupSet are prefixes with how often they were added.
type groupSet struct {
	sets [2]*nftables.Set // IPv4, IPv6
	held map[netip.Prefix]int
}

// AddGroups guards the groups among the remote selectors of a policy. Each
// AddGroups needs a RemoveGroups.
func (g *Guard) AddGroups(remote []netip.Prefix) error {
	return g.changeGroups(&g.groups.sent, g.buildSent, remote, 1)
}

// RemoveGroups takes back one AddGroups of the same selectors.
func (g *Guard) RemoveGroups(remote []netip.Prefix) error {
	return g.changeGroups(&g.groups.sent, g.buildSent, remote, -1)
}

// AddDelivered drops what arrives in clear for a group of which there is an SA, and
// not out of the device. Each AddDelivered needs a RemoveDelivered.
func (g *Guard) AddDelivered(group netip.Addr) error {
	return g.changeGroups(&g.groups.delivered, g.buildDelivered, []netip.Prefix{netip.PrefixFrom(group, group.BitLen())}, 1)
}

// RemoveDelivered takes back one AddDelivered.
func (g *Guard) RemoveDelivered(group netip.Addr) error {
	return g.changeGroups(&g.groups.delivered, g.buildDelivered, []netip.Prefix{netip.PrefixFrom(group, group.BitLen())}, -1)
}

func (g *Guard) changeGroups(x *groupSet, build func() error, list []netip.Prefix, n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	var changed [2]bool
	for _, p := range list {
		if !p.Addr().IsMulticast() {
			continue
		}
		if x.held == nil {
			if n < 0 {
				return nil
			}
			if err := build(); err != nil {
				return fmt.Errorf("groups in clear are not guarded: netfilter table %s: %w", g.table.Name, err)
			}
		}
		before := x.held[p]
		if before+n > 0 {
			x.held[p] = before + n
		} else {
			delete(x.held, p)
		}
		changed[index(p)] = changed[index(p)] || (before == 0) != (before+n <= 0)
	}
	if changed == [2]bool{} {
		return nil
	}
	for i, c := range changed {
		if !c {
			continue
		}
		g.conn.FlushSet(x.sets[i])
		var list []spd.TS
		for p := range x.held {
			if index(p) == i {
				list = append(list, spd.FromPrefix(p))
			}
		}
		if err := g.conn.SetAddElements(x.sets[i], elements(list)); err != nil {
			return err
		}
	}
	if err := flush(g.conn); err != nil {
		return fmt.Errorf("netfilter table %s: %w", g.table.Name, err)
	}
	return nil
}

func (g *Guard) groupSet(name string) (x groupSet, err error) {
	x.held = map[netip.Prefix]int{}
	for i, kt := range []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr} {
		x.sets[i] = &nftables.Set{Table: g.table, Name: name + []string{"4", "6"}[i], KeyType: kt, Interval: true}
		if err := g.conn.AddSet(x.sets[i], nil); err != nil {
			return x, err
		}
	}
	return x, nil
}

// toGroup matches packets of family i to a group of a set by another interface than
// the device, key being that of the name of the interface; memberships are told to
// the group itself (RFC 2236, Section 3; RFC 2710, Section 5) and do not count.
func (g *Guard) toGroup(x *groupSet, i int, key expr.MetaKey) []expr.Any {
	offset, length := []uint32{16, 24}[i], []uint32{4, 16}[i]
	return append(g.family(i),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{[]byte{unix.IPPROTO_IGMP, unix.IPPROTO_ICMPV6}[i]}},
		&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: ifname(g.device)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: 1, SetName: x.sets[i].Name, SetID: x.sets[i].ID},
		&expr.Counter{})
}

// buildSent makes the chain for what leaves. It stands in the way of shortcuts
// beside the IP stack, so that it is there only when it is needed.
func (g *Guard) buildSent() error {
	x, err := g.groupSet("sent")
	if err != nil {
		return err
	}
	accept := nftables.ChainPolicyAccept
	chain := g.conn.AddChain(&nftables.Chain{Name: "output", Table: g.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter, Policy: &accept})
	rule := func(match []expr.Any, k expr.VerdictKind) {
		g.conn.AddRule(&nftables.Rule{Table: g.table, Chain: chain, Exprs: append(match, verdict(k)...)})
	}
	for _, proto := range []byte{unix.IPPROTO_ESP, unix.IPPROTO_AH} {
		rule(protocol(proto), expr.VerdictAccept)
	}
	for _, ah := range [][]expr.Any{extensionAH(), laterFragmentAH()} {
		rule(append(g.family(1), ah...), expr.VerdictAccept)
	}
	if g.mark != 0 {
		rule([]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, equal(binaryutil.NativeEndian.PutUint32(g.mark))}, expr.VerdictAccept)
	}
	for i := range x.sets {
		rule(g.toGroup(&x, i, expr.MetaKeyOIFNAME), expr.VerdictDrop)
	}
	if err := flush(g.conn); err != nil {
		return err
	}
	g.groups.sent, g.groups.chain = x, chain
	return nil
}

func (g *Guard) buildDelivered() error {
	x, err := g.groupSet("delivered")
	if err != nil {
		return err
	}
	for i := range x.sets {
		g.rule(g.heard, g.toGroup(&x, i, expr.MetaKeyIIFNAME), goTo(g.refuse))
	}
	if err := flush(g.conn); err != nil {
		return err
	}
	g.groups.delivered = x
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
