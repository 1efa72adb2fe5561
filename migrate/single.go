package migrate

import (
	"fmt"
	"net/netip"

	"iked/spd"
)

// Single is one SA that is at other addresses, whatever the policies: by
// XFRM_MSG_MIGRATE_STATE of Linux 7.2, or because somebody put it there.
type Single struct {
	Proto uint8 // 50 ESP, 51 AH
	SPI   uint32
	Dst   netip.Addr // where it ended before
	New   Pair
}

// Check refuses one that cannot be.
func (e *Single) Check() error {
	if e.Proto != 50 && e.Proto != 51 || e.SPI < 256 {
		return fmt.Errorf("a move of protocol %d, SPI 0x%08x, expected ESP or AH and an SPI of 256 or more", e.Proto, e.SPI)
	}
	if err := usable(Pair{e.Dst, e.Dst}); err != nil {
		return fmt.Errorf("a move of the SA to %v: %w", e.Dst, err)
	}
	if err := usable(e.New); err != nil {
		return fmt.Errorf("a move of an SA to %v: %w", e.New, err)
	}
	return nil
}

// SAs are the SPIs of one protocol of a CHILD_SA.
type SAs struct {
	Proto   uint8
	In, Out uint32
}

// MakeSingle plans what follows when one SA moved: its direction of its CHILD_SA moves,
// and with the outbound one of a tunnel the IKE SA that was between the same ends, as
// for an event without KMADDRESS.
func MakeSingle(e *Single, s *State) Plan {
	var p Plan
	if e.Check() != nil {
		return p
	}
	for i := range s.Children {
		c := &s.Children[i]
		if c.Own {
			continue // one that somebody puts elsewhere is not its own any more
		}
		m := ChildMove{ID: c.ID, ToIn: c.In, ToOut: c.Out}
		for _, x := range c.SAs {
			switch {
			case x.Proto != e.Proto:
			case x.In == e.SPI && c.In.Dst == e.Dst && c.In != e.New:
				m.In, m.ToIn = true, e.New
			case x.Out == e.SPI && c.Out.Dst == e.Dst && c.Out != e.New:
				m.Out, m.ToOut = true, e.New
			}
		}
		if !m.In && !m.Out {
			continue
		}
		p.Children = append(p.Children, m)
		if !m.Out || c.Mode == spd.Transport {
			continue
		}
		for _, k := range s.IKE {
			if k.ID == c.IKE && k.Ends == Out.ends(c.Out) {
				p.IKE = append(p.IKE, IKEMove{k.ID, Out.ends(e.New)})
			}
		}
	}
	return p
}
