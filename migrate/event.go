// Package migrate says what changes when SAs move to other addresses. Three things
// move them: a MIGRATE of Mobile IPv6, which another daemon sent to the kernel
// (draft-sugimoto-mip6-pfkey-migrate, draft-ebalard-mext-pfkey-enhanced-migrate); a
// peer that MOBIKE moved (RFC 4555); and a NAT that maps a peer to another port (RFC
// 7296, Section 2.23). All of them come out of one plan. Package form has the
// messages.
package migrate

import (
	"errors"
	"fmt"
	"net/netip"

	"iked/sad"
	"iked/spd"
)

// Source is from whom an event was heard.
type Source uint8

// Sources.
const (
	Netlink Source = iota // the kernel, XFRM_MSG_MIGRATE
	PFKey                 // the kernel, SADB_X_MIGRATE
	Control               // a mobility manager, by the control protocol
)

func (s Source) String() string {
	switch s {
	case Netlink:
		return "netlink"
	case PFKey:
		return "PF_KEY"
	case Control:
		return "control protocol"
	}
	return fmt.Sprintf("source %d", s)
}

// Dir is the direction of a policy, as the kernel parts them.
type Dir uint8

// Directions.
const (
	In Dir = iota
	Out
	Fwd
)

func (d Dir) String() string {
	switch d {
	case In:
		return "in"
	case Out:
		return "out"
	case Fwd:
		return "fwd"
	}
	return fmt.Sprintf("direction %d", d)
}

// Pair are the outer addresses of an SA: where its packets come from and go to.
type Pair struct{ Src, Dst netip.Addr }

// Unspecified tells that there are no addresses in it, as in what Mobile IPv6 says
// of transport mode.
func (p Pair) Unspecified() bool {
	none := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	return none(p.Src) && none(p.Dst)
}

func (p Pair) String() string { return p.Src.String() + " to " + p.Dst.String() }

// Entry is one SA, or one template of the policy, that moves.
type Entry struct {
	Proto    uint8 // 50 ESP, 51 AH
	Mode     spd.Mode
	ReqID    uint32 // 0: any
	Old, New Pair
}

// Ends are the addresses of the two ends, seen from here.
type Ends struct{ Local, Remote netip.Addr }

// Event is one MIGRATE: the SAs of one policy of one direction moved.
type Event struct {
	Source   Source
	Selector spd.KernelSelector
	Dir      Dir
	// Sub tells that the policy is of the second SPD, which Mobile IPv6 has for
	// itself.
	Sub     bool
	IfID    uint32
	Entries []Entry
	// KM is where IKE goes on from here: KMADDRESS. Invalid addresses: it was not told.
	KM Ends
	// Encap is the UDP encapsulation from now on; nil: as before.
	Encap *sad.Encap
}

// MaxEntries is how many SAs one MIGRATE moves at most: the templates of a policy.
const MaxEntries = 6

// Check refuses an event that contradicts itself.
func (e *Event) Check() error {
	bad := func(format string, args ...any) error { return fmt.Errorf("MIGRATE: "+format, args...) }
	switch {
	case e.Dir > Fwd:
		return bad("direction %d, expected in, out or fwd", e.Dir)
	case len(e.Entries) > MaxEntries:
		return bad("%d entries, expected at most %d", len(e.Entries), MaxEntries)
	case !e.Selector.Src.IsValid() || !e.Selector.Dst.IsValid() || e.Selector.Src.Addr().Is4() != e.Selector.Dst.Addr().Is4():
		return bad("selector %v to %v, expected two prefixes of one family", e.Selector.Src, e.Selector.Dst)
	case e.KM.Local.IsValid() != e.KM.Remote.IsValid():
		return bad("KMADDRESS with one address")
	}
	if e.KM.Local.IsValid() {
		if err := usable(Pair{e.KM.Local, e.KM.Remote}); err != nil {
			return bad("KMADDRESS %v: %w", Pair{e.KM.Local, e.KM.Remote}, err)
		}
	}
	for i, x := range e.Entries {
		if !x.Old.Unspecified() {
			if err := usable(x.Old); err != nil {
				return bad("entry from %v: %w", x.Old, err)
			}
		}
		if err := usable(x.New); err != nil {
			return bad("entry to %v: %w", x.New, err)
		}
		for _, y := range e.Entries[:i] {
			if x.Proto == y.Proto && x.Mode == y.Mode && x.ReqID == y.ReqID && x.Old == y.Old {
				return bad("two entries move %v", x.Old)
			}
		}
	}
	return nil
}

var (
	errFamilies = errors.New("the addresses are of different families")
	errHosts    = errors.New("expected the addresses of two hosts")
)

// usable tells whether an SA can be between two addresses.
func usable(p Pair) error {
	for _, a := range [...]netip.Addr{p.Src, p.Dst} {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" {
			return errHosts
		}
	}
	if p.Src.Is4() != p.Dst.Is4() {
		return errFamilies
	}
	return nil
}

// ends are the addresses of an entry as this system has them.
func (d Dir) ends(p Pair) Ends {
	if d == Out {
		return Ends{p.Src, p.Dst}
	}
	return Ends{p.Dst, p.Src}
}
