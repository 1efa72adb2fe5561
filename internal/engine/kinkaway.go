package engine

import (
	"net/netip"
	"slices"
	"sync"
)

// The messages of KINK go to the shard that the address of the peer tells, and an SA of
// KINK lives in the shard of the address at which its peer was when it was made. A peer
// that moved has SAs in other shards than that of its new address: kinkAway knows in
// which. There is an entry for an authenticated SA only.
type kinkAway struct {
	mu sync.Mutex
	at map[netip.Addr][]*shard // each as often as it has such an SA
}

// others are the shards besides the one that an address tells.
func (a *kinkAway) others(peer netip.Addr) (list []*shard) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.at[peer] {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func (a *kinkAway) add(peer netip.Addr, s *shard) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == nil {
		a.at = make(map[netip.Addr][]*shard)
	}
	a.at[peer] = append(a.at[peer], s)
}

func (a *kinkAway) remove(peer netip.Addr, s *shard) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.at[peer], s); i >= 0 {
		a.at[peer] = slices.Delete(a.at[peer], i, i+1)
	}
	if len(a.at[peer]) == 0 {
		delete(a.at, peer)
	}
}

// kinkEnter notes an SA of KINK by an address of its peer.
func (s *shard) kinkEnter(x *ikeSA, peer netip.Addr) {
	if s.kink == nil {
		s.kink = make(map[netip.Addr][]*ikeSA)
	}
	s.kink[peer] = append(s.kink[peer], x)
	if s.e.hashedShard(peer) != s {
		s.e.kink.away.add(peer, s)
	}
}

func (s *shard) kinkLeave(x *ikeSA, peer netip.Addr) {
	i := slices.Index(s.kink[peer], x)
	if i < 0 {
		return
	}
	if s.kink[peer] = slices.Delete(s.kink[peer], i, i+1); len(s.kink[peer]) == 0 {
		delete(s.kink, peer)
	}
	if s.e.hashedShard(peer) != s {
		s.e.kink.away.remove(peer, s)
	}
}

// kinkMoved notes an SA whose peer may be at another address. What the peer sent before
// is still on its way from the one before, and goes to the SA as well.
func (s *shard) kinkMoved(x *ikeSA, peer netip.Addr) {
	if peer == x.remote {
		return
	}
	s.kinkLeave(x, x.before)
	x.before, x.remote = x.remote, peer
	s.kinkEnter(x, peer)
}
