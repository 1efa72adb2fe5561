// Package beet is the Bound End-to-End Tunnel mode of ESP (draft-nikander-esp-beet-mode;
// RFC 7402, Appendix B): what an SA of that mode binds, and what becomes of the IP
// header of its packets.
//
// On the wire a packet looks as in transport mode. Both ends know the one pair of
// inner addresses from the SA, so the inner header is not sent: what of it may
// differ from packet to packet travels in the outer header.
//
//	inner   | IP inner, options |                   next layer ... |
//	wire    | IP outer | ESP    | [pseudo header, options] | next layer ... |
//
// The families of the two headers may differ. The checksum of the next layer is
// made with the inner addresses at both ends and stays as it is.
//
// The package is pure: it changes buffers in place, without copy and without allocation.
package beet

import (
	"fmt"
	"net/netip"

	"iked/sad"
	"iked/spd"
)

// Inner is the fixed pair of addresses of the packets of one SA.
type Inner struct{ Src, Dst netip.Addr }

// Hosts gives the inner pair that selectors bind: all local ones must name one
// host and all remote ones another, of the same family. They may differ in
// protocol and ports. The error says which selector is none.
func Hosts(local, remote []spd.TS) (l, r netip.Addr, err error) {
	if l, err = host("local", local); err != nil {
		return netip.Addr{}, netip.Addr{}, err
	}
	if r, err = host("remote", remote); err != nil {
		return netip.Addr{}, netip.Addr{}, err
	}
	if l.Is4() != r.Is4() {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("BEET mode: inner addresses %v and %v are of different families", l, r)
	}
	return l, r, nil
}

func host(side string, list []spd.TS) (netip.Addr, error) {
	if len(list) == 0 {
		return netip.Addr{}, fmt.Errorf("BEET mode: no %s selector, expected one host", side)
	}
	a := list[0].From
	for _, ts := range list {
		switch {
		case !ts.From.IsValid() || ts.From != ts.To:
			return netip.Addr{}, fmt.Errorf("BEET mode: the %s selector from %v to %v is not a single host", side, ts.From, ts.To)
		case ts.From != a:
			return netip.Addr{}, fmt.Errorf("BEET mode: the %s selectors name two hosts, %v and %v, expected one", side, a, ts.From)
		}
	}
	if a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("BEET mode: %v as the %s inner address is not that of one host", a, side)
	}
	return a, nil
}

// Bind gives the inner pair of the packets of an SA, as its direction has them.
func Bind(sa *sad.SA) (Inner, error) {
	l, r, err := Hosts(sa.Local, sa.Remote)
	if err != nil {
		return Inner{}, err
	}
	if sa.Dir == sad.In {
		return Inner{Src: r, Dst: l}, nil
	}
	return Inner{Src: l, Dst: r}, nil
}

// HeaderLen is the length of the inner header without options: the octets that
// Restore may need before the payload.
func (in Inner) HeaderLen() int {
	if in.Dst.Is4() {
		return ipv4Len
	}
	return ipv6Len
}

// Carried is what of the inner header travels in the outer one. A field that the
// outer family has not keeps its zero value; see Restore for what it becomes.
type Carried struct {
	// TOS is DSCP and ECN, TTL the hop limit.
	TOS, TTL uint8
	DF       bool   // IPv4
	ID       uint16 // IPv4
	// FlowLabel is that of IPv6.
	FlowLabel uint32
}

// Fault says why a packet cannot be carried. The zero value means that it can.
type Fault uint8

// Faults.
const (
	OK           Fault = iota
	Malformed          // no valid header, or longer than an IP packet
	OtherHosts         // not between the inner addresses
	Fragment           // there is no place for identification and offset: put it together first
	PseudoHeader       // a pseudo header that no right sender makes
	NoRoom             // not enough octets before the payload
)

var faultNames = [...]string{"ok", "malformed", "other_hosts", "fragment", "pseudo_header", "no_room"}

// String is the name of the fault, for counters.
func (f Fault) String() string {
	if int(f) < len(faultNames) {
		return faultNames[f]
	}
	return "unknown"
}
