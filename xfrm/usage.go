package xfrm

import (
	"fmt"
	"time"

	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// QuerySA implements backend.SADB.
func (b *Backend) QuerySA(id sad.ID) (sad.Usage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.sas[id]
	if r == nil {
		return sad.Usage{}, notFound("query", id)
	}
	if r.dead || b.closed {
		return r.last, nil
	}
	msg, err := b.req.one(wire.GetSA, 0, r.byID())
	if gone(err) && r.elsewhere() {
		msg, err = b.req.one(wire.GetSA, 0, r.there().byID())
	}
	if err != nil {
		if gone(err) {
			return r.last, nil // its event is on the way
		}
		return sad.Usage{}, fmt.Errorf("query SA %s, SPI 0x%08x: %w", r.name, id.SPI, err)
	}
	sa, ok := msg.(*wire.SA)
	if !ok {
		return sad.Usage{}, fmt.Errorf("query SA %s, SPI 0x%08x: the kernel answers %T", r.name, id.SPI, msg)
	}
	sa.Destroy()
	r.last = usage(id.Dir, &sa.SAInfo, &sa.Attrs)
	if id.Dir == sad.Out {
		r.last.MTU = b.innerMTU(r)
	}
	return r.last, nil
}

func usage(dir sad.Direction, sa *wire.SAInfo, a *wire.Attrs) sad.Usage {
	u := sad.Usage{Bytes: sa.Used.Bytes, Packets: sa.Used.Packets}
	if a.LastUsed != nil && *a.LastUsed != 0 {
		u.LastUsed = time.Unix(int64(*a.LastUsed), 0)
	} else if sa.Used.UseTime != 0 {
		u.LastUsed = time.Unix(int64(sa.Used.UseTime), 0)
	}
	in := dir == sad.In
	switch {
	case a.ReplayESN != nil && in:
		u.Seq = uint64(a.ReplayESN.SeqHi)<<32 | uint64(a.ReplayESN.Seq)
	case a.ReplayESN != nil:
		u.Seq = uint64(a.ReplayESN.OSeqHi)<<32 | uint64(a.ReplayESN.OSeq)
	case a.Replay != nil && in:
		u.Seq = uint64(a.Replay.Seq)
	case a.Replay != nil:
		u.Seq = uint64(a.Replay.OSeq)
	}
	if in {
		// Behind the window, and inside it for the second time.
		u.Replayed = uint64(sa.Stats.ReplayWindow) + uint64(sa.Stats.Replay)
		u.BadICV = uint64(sa.Stats.IntegrityFailed)
	}
	return u
}

// innerMTU is the largest packet that an outbound SA carries unfragmented over the
// path as the kernel knows it; 0: there is no way to the peer at the moment, or the
// destination is a group's.
func (b *Backend) innerMTU(r *saRecord) int {
	if b.paths == nil || r.id.Dst.IsMulticast() {
		return 0
	}
	mtu, err := b.paths.PathMTU(r.id.Dst)
	if err != nil {
		return 0
	}
	n := r.room.Inner(mtu, r.id.Dst, r.encap)
	if r.mode != spd.BEET {
		return n
	}
	// The kernel keeps room for a pseudo-header, needed or not, and takes the inner
	// header to be of the size of the outer one; to a longer packet it says no.
	const pseudo, longer = 8, 20 // IPv6's header is that much longer than IPv4's
	outer6 := r.id.Dst.Is6()
	switch inner6 := r.room.BEET().Is6(); {
	case inner6 && !outer6:
		return n - longer
	case inner6:
		return n
	case outer6:
		return min(n, r.room.Inner(mtu-pseudo-longer, r.id.Dst, r.encap)+longer)
	}
	return r.room.Inner(mtu-pseudo, r.id.Dst, r.encap)
}
