package guard

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"iked/spd"
)

// Pass is traffic that a policy lets pass in clear: from Remote to Local.
type Pass struct{ Local, Remote spd.TS }

// maxPasses bounds the rules that packets run through.
const maxPasses = 1024

// SetPasses replaces what is let through though the selectors of other policies
// have it.
func (g *Guard) SetPasses(list []Pass) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || slices.Equal(list, g.passes) {
		return nil
	}
	var cut error
	if len(list) > maxPasses {
		cut = fmt.Errorf("more than %d pairs of selectors pass in clear: what arrives for %d of them is dropped", maxPasses, len(list)-maxPasses)
		list = list[:maxPasses]
	}
	g.conn.FlushChain(g.pass)
	for _, p := range list {
		if e := match(p); e != nil {
			g.conn.AddRule(&nftables.Rule{Table: g.table, Chain: g.pass, Exprs: append(e, &expr.Verdict{Kind: expr.VerdictAccept})})
		}
	}
	if err := g.conn.Flush(); err != nil {
		return fmt.Errorf("netfilter table %s: %w", g.table.Name, err)
	}
	g.passes = slices.Clone(list)
	return cut
}

// match is the packets from p.Remote to p.Local; nil when no packet can be told by
// its headers alone.
func match(p Pass) []expr.Any {
	proto := p.Local.Proto
	if proto == 0 {
		proto = p.Remote.Proto
	}
	named := !p.Local.AnyPort() || !p.Remote.AnyPort()
	if p.Local.Is4() != p.Remote.Is4() || p.Local.Opaque() || p.Remote.Opaque() || named && proto == 0 ||
		p.Local.Proto != 0 && p.Remote.Proto != 0 && p.Local.Proto != p.Remote.Proto {
		return nil
	}
	family, src, dst := byte(unix.NFPROTO_IPV4), uint32(12), uint32(16)
	if !p.Local.Is4() {
		family, src, dst = unix.NFPROTO_IPV6, 8, 24
	}
	e := []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{family})}
	if proto != 0 {
		e = append(e, protocol(proto)...)
	}
	e = append(e, between(expr.PayloadBaseNetworkHeader, src, p.Remote.From.AsSlice(), p.Remote.To.AsSlice())...)
	e = append(e, between(expr.PayloadBaseNetworkHeader, dst, p.Local.From.AsSlice(), p.Local.To.AsSlice())...)
	port := func(offset uint32, ts spd.TS) {
		if !ts.AnyPort() {
			e = append(e, between(expr.PayloadBaseTransportHeader, offset, binary.BigEndian.AppendUint16(nil, ts.PortFrom), binary.BigEndian.AppendUint16(nil, ts.PortTo))...)
		}
	}
	switch proto {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		// Type and code, the first two octets (RFC 4301, Section 4.4.1.1).
		port(0, p.Local)
		port(0, p.Remote)
	case unix.IPPROTO_MH:
		if named { // its type is no whole word of the header
			return nil
		}
	default:
		port(0, p.Remote)
		port(2, p.Local)
	}
	return e
}

// between compares a field with a range.
func between(base expr.PayloadBase, offset uint32, from, to []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(from))},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: from},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: to},
	}
}
