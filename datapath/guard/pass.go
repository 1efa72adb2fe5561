package guard

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"iked/spd"
)

// Pass is traffic from Remote to Local that a policy lets pass in clear or, with
// Drop, that only an SA may carry.
type Pass struct {
	Local, Remote spd.TS
	Drop          bool
}

// maxPasses bounds the rules that packets run through.
const maxPasses = 1024

// SetPasses replaces what is let through, or dropped, before the selectors of
// tunnels are looked at. The first that has a packet decides.
func (g *Guard) SetPasses(list []Pass) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || slices.Equal(list, g.passes) {
		return nil
	}
	var cut error
	if len(list) > maxPasses {
		cut = fmt.Errorf("more than %d pairs of selectors with protocols or ports, or between hosts: clear text that arrives for %d of them is not told apart", maxPasses, len(list)-maxPasses)
		list = list[:maxPasses]
	}
	g.conn.FlushChain(g.pass)
	for _, p := range list {
		if p.Drop {
			for _, q := range refusals(p) {
				g.rule(g.pass, match(q), goTo(g.refuse))
			}
		} else if e := match(p); e != nil {
			g.rule(g.pass, e, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: "accepted"}})
		}
	}
	if err := flush(g.conn); err != nil {
		return fmt.Errorf("netfilter table %s: %w", g.table.Name, err)
	}
	g.passes = slices.Clone(list)
	return cut
}

// refusals are what match can tell of traffic that must not pass, and no less
// than it: ports of any protocol are those of each that has some, a type of the
// mobility header is all of them. OPAQUE selects packets without ports, which
// have no header to look at.
func refusals(p Pass) (out []Pass) {
	if p.Local.Is4() != p.Remote.Is4() {
		return nil
	}
	proto := p.Local.Proto
	if proto == 0 {
		proto = p.Remote.Proto
	}
	widen := func(ts *spd.TS) {
		if ts.Opaque() || proto == unix.IPPROTO_MH {
			ts.PortFrom, ts.PortTo = 0, 65535
		}
	}
	if (p.Local.Opaque() || p.Remote.Opaque()) && (proto == 0 || slices.Contains(withPorts, proto)) {
		return nil // whole packets of these have ports
	}
	widen(&p.Local)
	widen(&p.Remote)
	protos := []byte{proto}
	if proto == 0 && (!p.Local.AnyPort() || !p.Remote.AnyPort()) {
		protos = withPorts
	}
	for _, n := range protos {
		q := p
		if n != 0 {
			q.Local.Proto = n
		}
		if match(q) != nil {
			out = append(out, q)
		}
	}
	return out
}

// withPorts are the protocols whose ports are selectors.
var withPorts = []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_DCCP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE}

// tooBig are ICMP messages that ask for smaller packets and quote one of this
// daemon: any router on the way may send them, also one whose address is behind
// the tunnel. The kernel holds them against its own packets (RFC 4301, Section
// 8.2.1).
func tooBig(ports []uint16) (rules [][]expr.Any) {
	for i, icmp := range []struct {
		proto byte
		kind  []byte
		next  uint32 // where the quoted header names what follows
		size  uint32 // of the quoted header without options
	}{
		{unix.IPPROTO_ICMP, []byte{3, 4}, 9, 20},
		{unix.IPPROTO_ICMPV6, []byte{2, 0}, 6, 40},
	} {
		head := append(protocol(icmp.proto), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{[]byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}[i]}),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2}, equal(icmp.kind),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 8 + icmp.next, Len: 1},
		}...)
		for _, proto := range []byte{unix.IPPROTO_ESP, unix.IPPROTO_AH} {
			rules = append(rules, append(slices.Clone(head), equal([]byte{proto})))
		}
		for _, p := range ports {
			rules = append(rules, append(slices.Clone(head), equal([]byte{unix.IPPROTO_UDP}),
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 8 + icmp.size, Len: 2},
				equal(binary.BigEndian.AppendUint16(nil, p))))
		}
	}
	return rules
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
		if !spd.Apart(p.Local, p.Remote) {
			port(0, p.Local) // else those that go the other way
		}
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
