package datapath

import (
	"net/netip"

	"iked/crypto/suite"
	"iked/sad"
)

// taker is a Raw that can receive the packets of SAs that it is told of without
// the IP stack. It is a hint: what it cannot take arrives as ever.
type taker interface {
	TakeESP(local, remote netip.Addr, spi uint32)
	LeaveESP(local netip.Addr, spi uint32)
	// Ring counts the packets that were taken, and those that came faster than
	// they were read.
	Ring() (taken, lost uint64)
}

// take has the packets of an inbound SA of ESP taken, unless they arrive in UDP or
// are for a group.
func (d *Datapath) take(x *inSA, id sad.ID) {
	if t, ok := d.io.Raw.(taker); ok && id.Proto == suite.ProtoESP && !id.Dst.IsMulticast() {
		if p := x.Path(); p.Encap == nil {
			t.TakeESP(p.Dst, p.Src, id.SPI)
		}
	}
}

// leave ends take.
func (d *Datapath) leave(id sad.ID) {
	if t, ok := d.io.Raw.(taker); ok && id.Proto == suite.ProtoESP {
		t.LeaveESP(id.Dst, id.SPI)
	}
}
