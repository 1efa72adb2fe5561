package engine

import (
	"net/netip"
	"sync"
)

// wanderers are the IKEv1 SAs with peers that moved to an address whose SAs another
// shard would have: what such a peer begins there next takes over from them, so that it
// goes to their shard. There is an entry for an authenticated SA only.
type wanderers struct {
	mu sync.Mutex
	at map[netip.Addr]*wanderer
	of map[uint32]netip.Addr // by the number of the IKE SA
}

type wanderer struct {
	shard *shard
	sas   int
}

// find is the shard of the SAs that came to an address; nil: none did.
func (w *wanderers) find(peer netip.Addr) *shard {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.at[peer]; x != nil {
		return x.shard
	}
	return nil
}

// put notes where an SA of a shard is with its peer. The first to come to an address
// counts there.
func (w *wanderers) put(id uint32, peer netip.Addr, s *shard) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(id)
	x := w.at[peer]
	switch {
	case x == nil:
		if w.at == nil {
			w.at, w.of = make(map[netip.Addr]*wanderer), make(map[uint32]netip.Addr)
		}
		x = &wanderer{shard: s}
		w.at[peer] = x
	case x.shard != s:
		return
	}
	x.sas++
	w.of[id] = peer
}

// drop forgets an SA.
func (w *wanderers) drop(id uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(id)
}

func (w *wanderers) remove(id uint32) {
	peer, ok := w.of[id]
	if !ok {
		return
	}
	delete(w.of, id)
	if x := w.at[peer]; x.sas > 1 {
		x.sas--
	} else {
		delete(w.at, peer)
	}
}

// wandered notes an IKEv1 SA that is not in the shard that its peer's address tells.
func (s *shard) wandered(x *ikeSA) {
	if peer := x.m.Look().Remote.Addr().Unmap(); s.e.hashedShard(peer) != s {
		s.e.wanderers.put(x.id, peer, s)
	} else {
		s.e.wanderers.drop(x.id)
	}
}
