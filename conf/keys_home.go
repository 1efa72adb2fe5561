package conf

import (
	"fmt"
	"strings"

	"iked/internal/ident"
	"iked/spd"
)

// Home binds home addresses to an identity: an entry of the list home_addresses.
type Home struct {
	ID    ident.ID
	Addrs []spd.TS
	pos   Pos
}

func homeFields() []field[Home] {
	return []field[Home]{
		{key: "id", typ: "identity", doc: "Whose addresses they are: the identity that the peer proves; a pattern stands for many. The entries that match best count. Required.", set: identity(func(h *Home) *ident.ID { return &h.ID })},
		{key: "addrs", typ: "list of addresses, subnets or ranges", list: true, doc: "Home addresses, as 2001:db8:0:1::5. Required.", set: homes(func(h *Home) *[]spd.TS { return &h.Addrs })},
	}
}

// homes reads home addresses.
func homes[T any](at func(*T) *[]spd.TS) setter[T] {
	return each(func(_ *loader, t *T, s string) error {
		h, err := ParseHost(s)
		if err != nil || h.Name != "" || !h.From.IsValid() || h.From.Zone() != "" {
			return refuse("", "expected an address, a subnet or a range, found %s", quote(s))
		}
		if one := !strings.ContainsAny(s, "/-"); h.From.IsMulticast() || one && !h.From.Unmap().IsGlobalUnicast() {
			return refuse("", "expected addresses of hosts, found %s", quote(s))
		}
		*at(t) = append(*at(t), spd.TS{From: h.From.Unmap(), To: h.To.Unmap(), PortTo: 65535})
		return nil
	})
}

// homeList reads the list home_addresses.
func (l *loader) homeList(n *node, p Pos) (out []Home) {
	if n.kind == nullNode {
		return nil
	}
	if n.kind != listNode {
		l.fault(p, "write a line \"- {id: …, addrs: […]}\" for each", "expected a list of identities with their home addresses")
		return nil
	}
	for i, v := range n.items {
		pos := p.at(fmt.Sprint(i), v.line)
		if v.kind != mapNode {
			l.fault(pos, "write \"- {id: …, addrs: […]}\"", "expected an identity with its home addresses")
			continue
		}
		h := Home{pos: pos}
		before := len(l.faults)
		given := fill(l, homeFields(), &h, l.tree("", v, pos, "name"), nil)
		if (!given["id"] || len(h.Addrs) == 0) && len(l.faults) == before {
			l.fault(pos, "add id and addrs", "expected both id and addrs")
		}
		if len(l.faults) == before {
			out = append(out, h)
		}
	}
	return out
}
