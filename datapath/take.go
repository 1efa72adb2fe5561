package datapath

import (
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/sad"
)

// taker is a Raw that can receive the packets of SAs that it is told of without
// the IP stack. It is a hint: what it cannot take arrives as ever.
type taker interface {
	TakeESP(local, remote netip.Addr, spi uint32)
	LeaveESP(local netip.Addr, spi uint32, after time.Duration)
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

// leave ends take, at once or after a while.
func (d *Datapath) leave(id sad.ID, after time.Duration) {
	if t, ok := d.io.Raw.(taker); ok && id.Proto == suite.ProtoESP {
		t.LeaveESP(id.Dst, id.SPI, after)
	}
}

// lingerTime is how long the packets to the address of before are taken after a move. The
// peer sends there until it hears of it, and what came by another way would overtake what
// waits, whose sequence numbers would then be too old.
const lingerTime = time.Second

// follow is take after a move.
func (d *Datapath) follow(x *inSA, from, to sad.ID) {
	d.take(x, to)
	switch {
	case x.Path().Encap != nil:
		d.leave(from, 0)
	case from != to:
		d.leave(from, lingerTime)
	}
}
