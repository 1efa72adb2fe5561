package backend

import (
	"fmt"

	"iked/crypto/suite"
	"iked/sad"
	"iked/spd"
)

// CheckSA tells whether an SA is complete and does not contradict itself, so
// that every backend refuses the same mistakes. The error wraps ErrInvalid.
func CheckSA(sa *sad.SA) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("SA %s, SPI 0x%08x: %s: %w", sa.Name, sa.SPI, fmt.Sprintf(format, args...), ErrInvalid)
	}
	switch {
	case sa.Dir != sad.In && sa.Dir != sad.Out:
		return bad("direction is %d, expected in or out", sa.Dir)
	case sa.Proto != suite.ProtoESP && sa.Proto != suite.ProtoAH:
		return bad("protocol is %d, expected ESP or AH", sa.Proto)
	case sa.SPI < 256:
		// RFC 4303, Section 2.1: 1 to 255 are reserved, 0 is for local use.
		return bad("the SPI is below 256")
	case !sa.Src.IsValid() || !sa.Dst.IsValid():
		return bad("outer addresses are %v and %v, expected two addresses", sa.Src, sa.Dst)
	case sa.Src.Is4() != sa.Dst.Is4():
		return bad("outer addresses %v and %v are of different families", sa.Src, sa.Dst)
	case sa.Src.Is4In6() || sa.Dst.Is4In6():
		return bad("outer addresses %v and %v are mapped ones", sa.Src, sa.Dst)
	case sa.Src.IsMulticast():
		return bad("the outer source %v is a multicast group", sa.Src)
	case sa.Sender.IsValid() && (sa.Dir != sad.In || !sa.Dst.IsMulticast() || sa.Sender != sa.Src):
		return bad("it is for the sender %v alone, expected an inbound SA of a group with that outer source", sa.Sender)
	case sa.Dst.IsMulticast() && sa.Encap != nil:
		return bad("UDP encapsulation to the group %v, expected none", sa.Dst)
	case len(sa.Local) == 0 || len(sa.Remote) == 0:
		return bad("it has no selectors")
	case sa.CPI != 0 && (sa.Proto != suite.ProtoESP || sa.Mode == spd.BEET || sa.Dst.IsMulticast()):
		return bad("compression is for ESP in tunnel and transport mode between two hosts")
	case sa.CPI != 0 && sad.CheckCPI(sa.CPI) != nil:
		return bad("%v", sad.CheckCPI(sa.CPI))
	case sa.Encap != nil && (sa.Encap.SrcPort == 0 || sa.Encap.DstPort == 0):
		return bad("UDP encapsulation with ports %d and %d", sa.Encap.SrcPort, sa.Encap.DstPort)
	}
	return nil
}

// CheckPolicy tells the same of a policy.
func CheckPolicy(p *spd.Policy) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("policy %d (%s): %s: %w", p.ID, p.Name, fmt.Sprintf(format, args...), ErrInvalid)
	}
	switch {
	case p.Action > spd.Protect:
		return bad("action is %d, expected discard, bypass or protect", p.Action)
	case p.Action == spd.Protect && p.ReqID == 0:
		return bad("it protects but has no reqid")
	case len(p.Local) == 0 || len(p.Remote) == 0:
		return bad("it has no selectors")
	}
	for _, list := range [][]spd.TS{p.Local, p.Remote} {
		for _, ts := range list {
			if !ts.From.IsValid() || ts.From.Is4() != ts.To.Is4() || ts.To.Less(ts.From) {
				return bad("selector from %v to %v is no range", ts.From, ts.To)
			}
		}
	}
	return nil
}
