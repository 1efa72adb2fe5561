package engine

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"sync"
	"time"

	"iked/conf"
	"iked/internal/trace"
	"iked/kink"
)

// peersFile keeps whom this host has had SAs of KINK with. After a restart they are
// told: until they know the new epoch they send into SAs that are gone (RFC 4430,
// Section 3.7).
const peersFile = "kink-peers"

// Bounds of what is kept, and how fast peers are told.
const (
	maxKINKPeers  = 1024
	kinkPeerLife  = 7 * 24 * time.Hour
	kinkPeersSave = 2 * time.Second
	greetEvery    = 50 * time.Millisecond
)

// kinkPeer is one of them.
type kinkPeer struct {
	Conn   string     `json:"conn"`
	Peer   string     `json:"peer"` // principal
	Remote netip.Addr `json:"remote"`
	Seen   time.Time  `json:"seen"`
}

// kinkPeers is the list, by connection, principal and address.
type kinkPeers struct {
	e       *Engine
	mu      sync.Mutex
	list    map[kinkPeer]time.Time
	timer   *time.Timer
	greeted bool
}

func (k *kinkPeers) load() {
	k.list = make(map[kinkPeer]time.Time)
	if k.e.opt.Store == nil {
		return
	}
	b, err := k.e.opt.Store.Load(peersFile)
	var list []kinkPeer
	if err == nil && len(b) > 0 {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		k.e.warnf(trace.DMN, "the peers of KINK before this start are not known, and are not told of it: %v", err)
		return
	}
	for _, p := range list[:min(len(list), maxKINKPeers)] {
		at := p.Seen
		p.Seen = time.Time{}
		k.list[p] = at
	}
}

// note keeps a peer whose message was authentic.
func (k *kinkPeers) note(p kinkPeer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list[p] = time.Now()
	if k.timer == nil && k.e.opt.Store != nil {
		k.timer = time.AfterFunc(kinkPeersSave, k.flush)
	}
}

// flush writes the list, if it has changed.
func (k *kinkPeers) flush() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer == nil {
		return
	}
	k.timer.Stop()
	k.timer = nil
	b, err := json.Marshal(k.sorted())
	if err == nil {
		err = k.e.opt.Store.Save(peersFile, b)
	}
	if err != nil {
		k.e.warnf(trace.DMN, "the peers of KINK cannot be kept: %v", err)
	}
}

// sorted is the list, latest first, without what is too old or too much.
func (k *kinkPeers) sorted() []kinkPeer {
	var out []kinkPeer
	for p, at := range k.list {
		if time.Since(at) > kinkPeerLife {
			delete(k.list, p)
			continue
		}
		p.Seen = at
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b kinkPeer) int {
		return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Conn, b.Conn), a.Remote.Compare(b.Remote))
	})
	for _, p := range out[min(len(out), maxKINKPeers):] {
		p.Seen = time.Time{}
		delete(k.list, p)
	}
	return out[:min(len(out), maxKINKPeers)]
}

// greet tells the peers from before this start of it, once, one after the other. Those
// of connections that are gone, or whose address or principal is not allowed any more,
// are not told.
func (k *kinkPeers) greet(p *program) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.greeted {
		return
	}
	k.greeted = true
	for i, peer := range k.sorted() {
		c := p.conns[peer.Conn]
		if c == nil || c.conf.Version != conf.VersionKINK || fit(c.conf.RemoteAddrs, peer.Remote) == rankNone {
			continue
		}
		name, err := kink.ParsePrincipal(peer.Peer)
		pattern, err2 := kink.ParsePattern(c.conf.Remote[0].ID.Data)
		if err != nil || err2 != nil || !name.Match(pattern) {
			continue
		}
		time.AfterFunc(vary(time.Duration(i)*greetEvery), func() { k.e.greet(c, name, peer.Remote) })
	}
}

// greet sends one STATUS.
func (e *Engine) greet(c *connProgram, peer kink.Principal, remote netip.Addr) {
	if e.down.Load() {
		return
	}
	locals, err := e.resolve(c.conf.LocalAddrs)
	var local netip.Addr
	if err == nil {
		local, err = e.localFor(c.conf, locals, remote)
	}
	if err != nil {
		return // who cannot be reached finds out by itself
	}
	s := e.hashedShard(remote)
	s.do(func(s *shard) {
		x := s.initiate(c.ike, peer, netip.AddrPortFrom(local, e.localPort(c.conf)), netip.AddrPortFrom(remote, orPort(c.conf.RemotePort, 910)))
		s.drive(x, func(now time.Time) { x.m.(kinkSA).Greet(now) })
	})
}
