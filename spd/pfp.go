package spd

import (
	"errors"
	"fmt"
)

// ErrUnavailable: a selector is to be populated from the packet, which does not
// have it. The packet is discarded (RFC 4301, Section 4.4.2.2).
var ErrUnavailable = errors.New("the packet does not have a value for a selector with the PFP flag")

// CheckPFP refuses PFP flags of ports in an entry with OPAQUE ones: OPAQUE means
// that there is no value, so none can be taken from a packet (RFC 4301, Section
// 4.4.2.2).
func (p *Policy) CheckPFP() error {
	for _, side := range [...]struct {
		name string
		flag PFP
		list []TS
	}{{"local", PFPLocalPort, p.Local}, {"remote", PFPRemotePort, p.Remote}} {
		for _, t := range side.list {
			if p.PFP&side.flag != 0 && t.Opaque() {
				return fmt.Errorf("policy %q: %s selector %v has OPAQUE ports, which cannot be populated from a packet; remove the flag or the port", p.Name, side.name, t)
			}
		}
	}
	return nil
}

// Populate gives the selectors of the SA that a packet of an entry asks for (RFC
// 4301, Section 4.4.2.2, the table of SPD entry, PFP flag and packet): the value
// of the packet where the flag is set, what the entry says where it is not. The
// packet must match the entry. ErrUnavailable: it is to be discarded.
func Populate(p *Policy, f *Flow) (local, remote []TS, err error) {
	if err := p.CheckPFP(); err != nil {
		return nil, nil, err
	}
	if !f.Match(p.Local, p.Remote) {
		return nil, nil, fmt.Errorf("policy %q: the packet %v === %v is not of this entry", p.Name, f.LocalTS(), f.RemoteTS())
	}
	l, r := f.sides()
	if p.PFP&PFPLocalPort != 0 && l.missing(f.Proto) || p.PFP&PFPRemotePort != 0 && r.missing(f.Proto) {
		return nil, nil, fmt.Errorf("policy %q: packet %v === %v: %w", p.Name, f.LocalTS(), f.RemoteTS(), ErrUnavailable)
	}
	proto := p.PFP.protocol()
	local = populate(p.Local, f.LocalTS(), p.PFP&PFPLocalAddr != 0, proto, p.PFP&PFPLocalPort != 0 && l == available)
	remote = populate(p.Remote, f.RemoteTS(), p.PFP&PFPRemoteAddr != 0, proto, p.PFP&PFPRemotePort != 0 && r == available)
	return local, remote, nil
}

// protocol tells whether the protocol is the packet's: a port, too, is one of a
// protocol.
func (p PFP) protocol() bool { return p&(PFPProtocol|PFPLocalPort|PFPRemotePort) != 0 }

// missing tells whether a value that packets of the protocol have is not there:
// in a fragment. A protocol without ports has no selector for them.
func (v value) missing(proto uint8) bool {
	return v == unavailable && (hasPorts(proto) || typed(proto))
}

// populate takes the flagged fields of every selector of one side from the
// packet. Selectors that do not have the packet's value in such a field are about
// other SAs.
func populate(list []TS, packet TS, addr, proto, port bool) []TS {
	var out []TS
	for _, t := range list {
		want := t
		if addr {
			want.From, want.To = packet.From, packet.To
		}
		if proto {
			want.Proto = packet.Proto
		}
		if port {
			want.PortFrom, want.PortTo = packet.PortFrom, packet.PortTo
		}
		if i, ok := Intersect(t, want); ok && i == want {
			out = append(out, i)
		}
	}
	return Minimize(out)
}

// Key tells which SA of an entry a flow belongs to: flows with the same key are
// populated alike, and others are not.
func (p PFP) Key(f *Flow) (k Flow) {
	if p&PFPLocalAddr != 0 {
		k.Local = f.Local
	}
	if p&PFPRemoteAddr != 0 {
		k.Remote = f.Remote
	}
	if p.protocol() {
		k.Proto = f.Proto
	}
	local, remote := f.sides()
	if p&PFPLocalPort != 0 && local != foreign {
		k.LocalPort, k.HasPorts = f.LocalPort, f.HasPorts
	}
	if p&PFPRemotePort != 0 && remote != foreign {
		k.RemotePort, k.HasPorts = f.RemotePort, f.HasPorts
	}
	return k
}
