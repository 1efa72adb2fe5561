package engine

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"iked/internal/ident"
	"iked/internal/trace"
)

// leaseFile is what the state directory keeps of the pools.
const leaseFile = "leases.json"

// saveDelay gathers changes, so that many peers at once cost one write.
const saveDelay = 2 * time.Second

type savedPool struct {
	Name   string       `json:"name"`
	Base   netip.Addr   `json:"base"`
	Size   uint64       `json:"size"`
	Leases []savedLease `json:"leases"`
}

type savedLease struct {
	Addr netip.Addr `json:"addr"`
	Type uint8      `json:"id_type"`
	ID   string     `json:"id"` // hexadecimal
	Last time.Time  `json:"last"`
}

// touch notes that leases changed; they are written a little later. The caller
// holds the lock.
func (p *pools) touch() {
	if p.store == nil || p.dirty {
		return
	}
	p.dirty = true
	p.timer = time.AfterFunc(saveDelay, p.flush)
}

// flush writes what changed. A store that fails costs stability of addresses
// over a restart, nothing else.
func (p *pools) flush() {
	p.mu.Lock()
	if !p.dirty {
		p.mu.Unlock()
		return
	}
	p.dirty = false
	p.timer.Stop()
	data, err := json.MarshalIndent(p.saved(), "", " ")
	p.mu.Unlock()
	if err == nil {
		err = p.store.Save(leaseFile, data)
	}
	if err != nil {
		p.warnf(trace.CFG, "leases of virtual addresses are not kept over a restart: %v", err)
	}
}

func (p *pools) saved() []savedPool {
	var out []savedPool
	for name, q := range p.byName {
		s := savedPool{Name: name, Base: q.conf.Base, Size: q.conf.Size}
		for off, l := range q.leases {
			s.Leases = append(s.Leases, savedLease{addrAt(q.conf.Base, off), uint8(l.peer.Type), hex.EncodeToString([]byte(l.peer.Data)), l.last})
		}
		slices.SortFunc(s.Leases, func(a, b savedLease) int { return b.Last.Compare(a.Last) })
		if len(s.Leases) > maxOffline {
			s.Leases = s.Leases[:maxOffline]
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b savedPool) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// restore reads the leases of new pools back. What cannot be read is left out
// with a warning; what no longer fits its pool is left out silently, since the
// configuration changed.
func (p *pools) restore(fresh []*pool) {
	if p.store == nil {
		return
	}
	data, err := p.store.Load(leaseFile)
	if err == nil && data == nil {
		return
	}
	var all []savedPool
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		p.warnf(trace.CFG, "leases of virtual addresses cannot be read back, peers get new addresses: %v", err)
		return
	}
	for _, q := range fresh {
		for _, s := range all {
			if s.Name != q.conf.Name || s.Base != q.conf.Base {
				continue
			}
			for _, l := range s.Leases {
				id, err := hex.DecodeString(l.ID)
				off, ok := offsetOf(q.conf.Base, l.Addr, q.conf.Size)
				if err != nil || !ok || q.leases[off] != nil {
					continue
				}
				peer := ident.ID{Type: ident.Type(l.Type), Data: string(id)}
				q.leases[off] = &lease{peer: peer, last: l.Last}
				q.byPeer[peer] = append(q.byPeer[peer], off)
			}
		}
	}
}
