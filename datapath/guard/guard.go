// Package guard drops clear text that arrives from outside where the policies
// demand protection (RFC 4301, Section 5.2: what no SA carried is checked against
// the SPD). The kernel forwards such packets past the datapath, so the kernel
// must drop them: a table of netfilter, of this daemon alone, says
//
//	to a local selector, from a source that is routed into the tunnel device,
//	but not arriving from that device: drop
//
// The routes to the device are the remote selectors, so nothing else needs to be
// kept in step. IKE and IPsec themselves pass, and what a policy lets pass that
// comes before the others. What a policy protects between two hosts is told by
// its selectors, ports included: the rest of what they say to each other passes.
//
// Strict rp_filter would drop what comes from a peer whose own address is routed
// into the device. What arrives for this host, and is not dropped, is marked as the
// daemon's own packets are, so that the kernel looks for the way back where they
// go (src_valid_mark).
package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"iked/spd"
)

// maxPrefixes bounds the set of local selectors. They are the same few networks
// for most policies; a host with more is told that the rest is not guarded.
const maxPrefixes = 4096

// Guard is the table of one device. All methods are safe for concurrent use.
type Guard struct {
	mu     sync.Mutex
	conn   *nftables.Conn
	table  *nftables.Table
	chain  *nftables.Chain
	pass   *nftables.Chain // what other policies let through
	refuse *nftables.Chain // counts and drops
	heard  *nftables.Chain // what is dropped of groups
	passes []Pass
	arp    *nftables.Table  // nil: none
	sets   [2]*nftables.Set // IPv4, IPv6
	locals map[netip.Prefix]int
	closed bool
	device string
	mark   uint32 // of the daemon's own packets, 0 none
	groups groups
	// Incomplete is what could not be set and is not vital; or nil.
	Incomplete error
}

// TableName is the name of the table for a device.
func TableName(device string) string { return "iked_" + device }

// New makes the table in the network namespace of the calling thread; one that a
// crashed process left is replaced. ports are the UDP ports of the key exchanges, mark is that of
// the daemon's own packets, 0 none.
func New(device string, ports []uint16, mark uint32) (*Guard, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("netfilter: %w", err)
	}
	g := &Guard{conn: conn, device: device, mark: mark, locals: map[netip.Prefix]int{}}
	if err := g.build(ports); err != nil {
		conn.CloseLasting()
		return nil, fmt.Errorf("netfilter table for %s: %w", device, err)
	}
	if mark != 0 {
		if err := g.neighbours(); err != nil {
			g.Incomplete = fmt.Errorf("netfilter table of ARP for %s: with strict rp_filter a neighbour whose own address is behind the tunnel gets no answer: %w", device, err)
		}
	}
	return g, nil
}

func (g *Guard) build(ports []uint16) error {
	g.table = &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName(g.device)}
	// Adding first makes the deletion succeed whether or not it was there.
	g.conn.AddTable(g.table)
	g.conn.DelTable(g.table)
	g.conn.AddTable(g.table)
	for i, kt := range []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr} {
		g.sets[i] = &nftables.Set{Table: g.table, Name: []string{"local4", "local6"}[i], KeyType: kt, Interval: true}
		if err := g.conn.AddSet(g.sets[i], nil); err != nil {
			return err
		}
	}
	policy := nftables.ChainPolicyAccept
	g.chain = g.conn.AddChain(&nftables.Chain{Name: "prerouting", Table: g.table, Type: nftables.ChainTypeFilter,
		// Behind the translation of destinations, which decides whom a packet is for.
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-90), Policy: &policy})
	accepted := g.conn.AddChain(&nftables.Chain{Name: "accepted", Table: g.table})
	g.refuse = g.conn.AddChain(&nftables.Chain{Name: "refused", Table: g.table})
	g.pass = g.conn.AddChain(&nftables.Chain{Name: "pass", Table: g.table})
	g.heard = g.conn.AddChain(&nftables.Chain{Name: "groups", Table: g.table})
	if g.mark != 0 {
		g.rule(accepted, toThisHost(), sourceDevice(g.device), setMark(g.mark))
	}
	g.rule(accepted, verdict(expr.VerdictAccept))
	g.rule(g.refuse, []expr.Any{&expr.Counter{}}, verdict(expr.VerdictDrop))

	g.rule(g.chain, from(g.device), verdict(expr.VerdictAccept))
	accept := goTo(accepted)
	for _, proto := range []byte{unix.IPPROTO_ESP, unix.IPPROTO_AH} {
		g.rule(g.chain, protocol(proto), accept)
	}
	for _, ah := range [][]expr.Any{extensionAH(), laterFragmentAH()} {
		g.rule(g.chain, g.family(1), ah, accept)
	}
	for _, p := range ports {
		g.rule(g.chain, protocol(unix.IPPROTO_UDP), destinationPort(p), accept)
	}
	for i := range g.sets {
		g.rule(g.chain, g.family(i), laterFragment(i), toThisHost(), accept)
	}
	for _, about := range tooBig(ports) {
		g.rule(g.chain, about, accept)
	}
	g.rule(g.chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: g.pass.Name}})
	for i := range g.sets {
		// The device, or no route at all: the device of a crashed process is gone.
		for _, source := range [][]expr.Any{sourceDevice(g.device), sourceUnrouted()} {
			g.rule(g.chain, g.family(i), g.toLocal(i), source, goTo(g.refuse))
		}
	}
	g.rule(g.chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: g.heard.Name}})
	g.rule(g.chain, accept)
	return flush(g.conn)
}

// neighbours marks the ARP requests that arrive, for strict rp_filter holds their
// sender against the routes as well.
func (g *Guard) neighbours() error {
	const in = 0 // NF_ARP_IN
	t := &nftables.Table{Family: nftables.TableFamilyARP, Name: g.table.Name}
	g.conn.AddTable(t)
	g.conn.DelTable(t)
	g.conn.AddTable(t)
	policy := nftables.ChainPolicyAccept
	c := g.conn.AddChain(&nftables.Chain{Name: "input", Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookRef(in), Priority: nftables.ChainPriorityFilter, Policy: &policy})
	g.conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: setMark(g.mark)})
	if err := flush(g.conn); err != nil {
		return err
	}
	g.arp = t
	return nil
}

func (g *Guard) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	g.conn.AddRule(&nftables.Rule{Table: g.table, Chain: chain, Exprs: all})
}

func goTo(c *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Name}}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

func equal(data []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func protocol(p byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{p})}
}

// extensionAH finds AH in IPv6, where netfilter takes it for an extension header
// and the protocol of a packet for what follows.
func extensionAH() []expr.Any {
	return []expr.Any{
		&expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_AH, Len: 1, Flags: unix.NFT_EXTHDR_F_PRESENT, Op: expr.ExthdrOpIpv6},
		equal([]byte{1}),
	}
}

// laterFragmentAH finds the fragments of such a packet that do not have the header
// themselves. They are nothing without the first one.
func laterFragmentAH() []expr.Any {
	return []expr.Any{
		&expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_FRAGMENT, Len: 1, Op: expr.ExthdrOpIpv6},
		equal([]byte{unix.IPPROTO_AH}),
	}
}

// laterFragment is a fragment without the header that has the ports, as of ESP in
// UDP. For this host it is nothing without the first one, which is looked at.
func laterFragment(i int) []expr.Any {
	get := expr.Any(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 2})
	mask := []byte{0x1f, 0xff}
	if i == 1 {
		get = &expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_FRAGMENT, Offset: 2, Len: 2, Op: expr.ExthdrOpIpv6}
		mask = []byte{0xff, 0xf8}
	}
	return []expr.Any{
		get,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: mask, Xor: []byte{0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
	}
}

func destinationPort(p uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		equal(binary.BigEndian.AppendUint16(nil, p)),
	}
}

func (g *Guard) family(i int) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		equal([]byte{[]byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}[i]})}
}

// ifname is a device name as the kernel compares it.
func ifname(device string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, device)
	return b
}

func from(device string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, equal(ifname(device))}
}

// toThisHost is what is delivered here and not forwarded: a forwarded packet with
// the mark would pass the tunnel by.
func toThisHost() []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}, equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))}
}

func setMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

func (g *Guard) toLocal(i int) []expr.Any {
	offset, length := []uint32{16, 24}[i], []uint32{4, 16}[i]
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: 1, SetName: g.sets[i].Name, SetID: g.sets[i].ID},
	}
}

func sourceDevice(device string) []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, ResultOIFNAME: true, FlagSADDR: true}, equal(ifname(device))}
}

func sourceUnrouted() []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true}, equal(binaryutil.NativeEndian.PutUint32(0))}
}

// Add guards the local selectors of a policy. Each Add needs a Remove.
func (g *Guard) Add(local []spd.TS) error { return g.change(local, 1) }

// Remove takes back one Add of the same selectors.
func (g *Guard) Remove(local []spd.TS) error { return g.change(local, -1) }

func (g *Guard) change(local []spd.TS, n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	var changed [2]bool
	for _, p := range spd.Prefixes(local) {
		before := g.locals[p]
		if before == 0 && n > 0 && len(g.locals) >= maxPrefixes {
			return fmt.Errorf("more than %d local selectors: clear text that arrives for %v is not checked", maxPrefixes, p)
		}
		switch after := before + n; {
		case after > 0:
			g.locals[p] = after
			changed[index(p)] = changed[index(p)] || before == 0
		case before > 0:
			delete(g.locals, p)
			changed[index(p)] = true
		}
	}
	return g.write(changed)
}

func index(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}

// write replaces the contents of the sets that changed, in one transaction.
func (g *Guard) write(changed [2]bool) error {
	if changed == [2]bool{} {
		return nil
	}
	for i, c := range changed {
		if !c {
			continue
		}
		g.conn.FlushSet(g.sets[i])
		var list []spd.TS
		for p := range g.locals {
			if index(p) == i {
				list = append(list, spd.FromPrefix(p))
			}
		}
		if err := g.conn.SetAddElements(g.sets[i], elements(list)); err != nil {
			return err
		}
	}
	if err := flush(g.conn); err != nil {
		return fmt.Errorf("netfilter table %s: %w", g.table.Name, err)
	}
	return nil
}

// elements are disjoint intervals: a start, and the address behind the end.
func elements(list []spd.TS) []nftables.SetElement {
	var out []nftables.SetElement
	for _, p := range spd.Prefixes(spd.Minimize(list)) {
		ts := spd.FromPrefix(p)
		out = append(out, nftables.SetElement{Key: ts.From.AsSlice()})
		if end := ts.To.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// Dropped counts the packets that were dropped.
func (g *Guard) Dropped() (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return 0, nil
	}
	return g.count(g.refuse)
}

// count is the sum of a chain's counters; the caller holds g.mu.
func (g *Guard) count(c *nftables.Chain) (uint64, error) {
	rules, err := g.conn.GetRules(g.table, c)
	if err != nil {
		return 0, fmt.Errorf("netfilter table %s: %w", g.table.Name, err)
	}
	var n uint64
	for _, r := range rules {
		for _, e := range r.Exprs {
			if c, ok := e.(*expr.Counter); ok {
				n += c.Packets
			}
		}
	}
	return n, nil
}

// Close removes the table.
func (g *Guard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	g.conn.DelTable(g.table)
	if g.arp != nil {
		g.conn.DelTable(g.arp)
	}
	return errors.Join(flush(g.conn), g.conn.CloseLasting())
}
