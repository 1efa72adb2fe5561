package conf

import (
	"fmt"
	"hash/fnv"
	"strings"

	"iked/spd"
)

// Offload is the key hw_offload.
type Offload uint8

// Offload choices: none; cryptography where a device can; cryptography, or no SA;
// whole packets, or no SA.
const (
	OffloadNo Offload = iota
	OffloadAuto
	OffloadCrypto
	OffloadPacket
)

// routeFields are the keys that bind the policies and SAs of a child to a device
// or to marked packets. The kernel backend alone has them.
func routeFields() []field[Child] {
	return []field[Child]{
		{key: "interface", typ: "name", doc: "Device of a route-based tunnel: made when the child is loaded and removed with it. What is routed to it, and nothing else, is what the policies are about; the daemon adds no routes. An XFRM interface; a VTI where the kernel has none. Kernel backend only. Over the control protocol: not supported by this version.", set: setInterface},
		{key: "if_id", typ: "number", def: "made of the name of interface, else 0", doc: "Number of the XFRM interface that the policies and SAs are bound to: that of the key interface, or of one that others made; 0: none. For a VTI it is the mark. Kernel backend only.", fileOnly: true,
			set: value(parseIfID("if_id"), func(c *Child) *uint32 { return &c.IfIDOut })},
		{key: "if_id_in", typ: "number", def: "as the connection's", doc: "if_id under the name that the field knows; it must be equal to if_id_out. Kernel backend only.", set: value(parseIfID("if_id_in"), func(c *Child) *uint32 { return &c.IfIDIn })},
		{key: "if_id_out", typ: "number", def: "as the connection's", doc: "As if_id_in.", set: value(parseIfID("if_id_out"), func(c *Child) *uint32 { return &c.IfIDOut })},
		{key: "mark_in", typ: "value/mask", def: "0", doc: "The inbound policies are about packets with that mark only; without mask all bits count; 0: any. Kernel backend only.", set: value(parseMark, func(c *Child) *spd.Mark { return &c.MarkIn })},
		{key: "mark_out", typ: "value/mask", def: "0", doc: "The outbound policies and SAs are about packets with that mark only. Kernel backend only.", set: value(parseMark, func(c *Child) *spd.Mark { return &c.MarkOut })},
		{key: "mark_in_sa", typ: "yes/no", def: "no", doc: "mark_in counts for the inbound SA, too: ESP packets must have it when they arrive.", set: boolean(func(c *Child) *bool { return &c.MarkInSA })},
		{key: "set_mark_in", typ: "value/mask, %same", def: "0", doc: "Mark that packets get when the SA opened them; %same is mark_in. Kernel backend only.", set: setMark(func(c *Child) *spd.Mark { return &c.SetMarkIn }, func(c *Child) *bool { return &c.sameIn })},
		{key: "set_mark_out", typ: "value/mask, %same", def: "0", doc: "Mark that packets get when the SA sealed them; %same is mark_out. Kernel backend only.", set: setMark(func(c *Child) *spd.Mark { return &c.SetMarkOut }, func(c *Child) *bool { return &c.sameOut })},
		{key: "hw_offload", typ: "no, auto, crypto (yes), packet", def: "no", doc: "Whether the network device does the work. auto: the cryptography, where device and kernel can. crypto, packet: the cryptography, or all of it, and no SA where they cannot. Kernel backend only; with the userspace backend auto means no.",
			set: choice(func(c *Child) *Offload { return &c.Offload }, []string{"no", "auto", "crypto", "yes", "packet"}, OffloadNo, OffloadAuto, OffloadCrypto, OffloadCrypto, OffloadPacket)},
	}
}

// setInterface takes the name in a file. In the vocabulary of the control protocol
// the key restricts outbound policies to a device that is there, which is not this.
func setInterface(l *loader, c *Child, it *Item) error {
	if l.vici {
		return unsupported[Child]("")(l, c, it)
	}
	s := it.Value
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/:% \t\n") {
		return fmt.Errorf("expected an interface name of at most 15 letters, found %s", quote(s))
	}
	c.Interface = s
	return nil
}

func parseIfID(key string) func(string) (uint32, error) {
	return func(s string) (uint32, error) {
		if strings.HasPrefix(s, "%unique") {
			return 0, refuse("write a number", "not supported by this version: %s as %s", s, key)
		}
		if s == "" {
			return 0, nil
		}
		n, err := parseUint(s, 32)
		return uint32(n), err
	}
}

// parseMark reads value/mask; the value is masked.
func parseMark(s string) (spd.Mark, error) {
	if s == "" {
		return spd.Mark{}, nil
	}
	if strings.HasPrefix(s, "%unique") {
		return spd.Mark{}, refuse("write a number", "not supported by this version: %s as a mark", s)
	}
	v, m, masked := strings.Cut(s, "/")
	value, err := parseUint(strings.TrimSpace(v), 32)
	mask := uint64(1<<32 - 1)
	if err == nil && masked {
		mask, err = parseUint(strings.TrimSpace(m), 32)
	}
	if err != nil {
		return spd.Mark{}, fmt.Errorf("expected a mark such as 42 or 0x10/0xf0, found %s", quote(s))
	}
	if value == 0 && !masked {
		return spd.Mark{}, nil
	}
	return spd.Mark{Value: uint32(value & mask), Mask: uint32(mask)}, nil
}

func setMark(at func(*Child) *spd.Mark, same func(*Child) *bool) setter[Child] {
	return func(l *loader, c *Child, it *Item) error {
		if s, ok := strings.CutPrefix(it.Value, "%same"); ok {
			m := spd.Mark{Mask: 1<<32 - 1}
			if s != "" {
				n, err := parseUint(strings.TrimPrefix(s, "/"), 32)
				if err != nil || s[0] != '/' {
					return fmt.Errorf("expected %%same or %%same/mask, found %s", quote(it.Value))
				}
				m.Mask = uint32(n)
			}
			*at(c), *same(c) = m, true
			return nil
		}
		return value(parseMark, at)(l, c, it)
	}
}

// completeRoute sets what of routeFields depends on the other keys.
func (c *Child) completeRoute(given map[string]bool) {
	if given["if_id"] {
		c.IfIDIn = c.IfIDOut
	}
	c.noIfID = !given["if_id"] && !given["if_id_in"] && !given["if_id_out"]
	if c.sameIn {
		c.SetMarkIn.Value = c.MarkIn.Value & c.SetMarkIn.Mask
	}
	if c.sameOut {
		c.SetMarkOut.Value = c.MarkOut.Value & c.SetMarkOut.Mask
	}
}

// inheritIfID gives a child the numbers of its connection, and one with a device
// but without number a number that stays the same over restarts.
func (c *Child) inheritIfID(in, out uint32) {
	if !c.noIfID {
		return
	}
	c.IfIDIn, c.IfIDOut = in, out
	if c.Interface != "" && in|out == 0 {
		h := fnv.New32a()
		h.Write([]byte(c.Interface))
		n := max(h.Sum32(), 1)
		c.IfIDIn, c.IfIDOut = n, n
	}
}

// RouteBased names the first key that needs the kernel backend, "" for none.
func (c *Child) RouteBased() string {
	var none spd.Mark
	switch {
	case c.Interface != "":
		return "interface"
	case c.IfIDIn|c.IfIDOut != 0:
		return "if_id"
	case c.MarkIn != none:
		return "mark_in"
	case c.MarkOut != none:
		return "mark_out"
	case c.SetMarkIn != none:
		return "set_mark_in"
	case c.SetMarkOut != none:
		return "set_mark_out"
	case c.Offload > OffloadAuto:
		return "hw_offload"
	}
	return ""
}

// checkRoute holds the keys of routeFields against each other.
func (l *loader) checkRoute(ch *Child) {
	if ch.IfIDIn != ch.IfIDOut {
		l.fault(ch.pos.sub("if_id_in", 0), "write the same number", "if_id_in (%d) and if_id_out (%d) differ: an interface of this version sends and receives", ch.IfIDIn, ch.IfIDOut)
	}
	if ch.Interface != "" && ch.IfIDOut == 0 {
		l.fault(ch.pos.sub("if_id", 0), "write another number, or leave it out", "if_id 0 is no interface, and interface is %s", ch.Interface)
	}
	if ch.MarkInSA && ch.MarkIn == (spd.Mark{}) {
		l.warn(ch.pos.sub("mark_in_sa", 0), "set mark_in, or remove it", "mark_in_sa does nothing without mark_in")
	}
	if (ch.Mode == ModePass || ch.Mode == ModeDrop) && ch.Interface != "" {
		l.fault(ch.pos.sub("interface", 0), "remove it", "a policy without SAs has no interface")
	}
	if ch.Interface != "" && (ch.MarkIn != spd.Mark{} || ch.MarkOut != spd.Mark{}) {
		l.fault(ch.pos.sub("interface", 0), "keep the marks or the interface", "a child is bound to an interface or to marks, not to both")
	}
}

// checkInterfaces holds children with devices against each other.
func (l *loader) checkInterfaces(c *Config) {
	byName, byID := make(map[string]uint32), make(map[uint32]string)
	for _, conn := range c.Connections {
		for _, ch := range conn.Children {
			if ch.Interface == "" {
				continue
			}
			if id, ok := byName[ch.Interface]; ok && id != ch.IfIDOut {
				l.fault(ch.pos.sub("if_id", 0), "write the same number, or use two interfaces", "interface %s has if_id %d in another child, and %d here", ch.Interface, id, ch.IfIDOut)
			}
			if name, ok := byID[ch.IfIDOut]; ok && name != ch.Interface {
				l.fault(ch.pos.sub("interface", 0), "give it an if_id of its own", "if_id %d is that of interface %s, too", ch.IfIDOut, name)
			}
			byName[ch.Interface], byID[ch.IfIDOut] = ch.IfIDOut, ch.Interface
		}
	}
}
