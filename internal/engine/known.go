package engine

import (
	"hash/maphash"
	"slices"
	"strings"
)

// peerIndex finds the IKE SAs of the supervisor by connection and by the peer's
// identity and user, so that what is done for one of ten thousand does not look at
// all.
// SAs with one key are a list through saState.next.
type peerIndex struct {
	seed   maphash.Seed
	peers  map[uint64]*saState
	byConn map[string]int
}

func newPeerIndex() peerIndex {
	return peerIndex{seed: maphash.MakeSeed(), peers: make(map[uint64]*saState), byConn: make(map[string]int)}
}

// key is equal for identities that ident.Equal holds for equal, which ignores
// case and, in distinguished names, spaces, and for the same user of XAuth. Others may
// share it.
func (x *peerIndex) key(s *saState) uint64 {
	id := strings.ToLower(strings.ReplaceAll(s.info.RemoteID.String(), " ", ""))
	var h maphash.Hash
	h.SetSeed(x.seed)
	h.WriteString(s.info.Conn)
	h.WriteByte(0)
	h.WriteString(id)
	h.WriteByte(0)
	h.WriteString(s.info.User)
	return h.Sum64()
}

func (x *peerIndex) add(s *saState) {
	s.key = x.key(s)
	s.next = x.peers[s.key]
	x.peers[s.key] = s
	x.byConn[s.info.Conn]++
}

func (x *peerIndex) remove(s *saState) {
	if x.byConn[s.info.Conn]--; x.byConn[s.info.Conn] <= 0 {
		delete(x.byConn, s.info.Conn)
	}
	head := x.peers[s.key]
	if head == s {
		if s.next == nil {
			delete(x.peers, s.key)
		} else {
			x.peers[s.key] = s.next
		}
	}
	for o := head; o != nil; o = o.next {
		if o.next == s {
			o.next = s.next
		}
	}
	s.next = nil
}

// enter takes an IKE SA up, in place of what had its number.
func (p *supervisor) enter(s *saState) {
	p.leave(s.info.UniqueID)
	p.sas[s.info.UniqueID] = s
	p.index.add(s)
}

// leave forgets an IKE SA and returns it; nil when it is not known.
func (p *supervisor) leave(id uint32) *saState {
	s := p.sas[id]
	if s != nil {
		delete(p.sas, id)
		p.index.remove(s)
	}
	return s
}

// add notes a CHILD_SA that is up.
func (p *supervisor) add(k *kidState, info ChildInfo, ike uint32) *liveChild {
	l := &liveChild{info: info, ike: ike}
	k.live[info.UniqueID] = l
	if s := p.sas[ike]; s != nil {
		s.live = append(s.live, l)
	}
	return l
}

// drop forgets a CHILD_SA.
func (p *supervisor) drop(k *kidState, child uint32) {
	l := k.live[child]
	if l == nil {
		return
	}
	delete(k.live, child)
	if s := p.sas[l.ike]; s != nil {
		s.live = slices.DeleteFunc(s.live, func(o *liveChild) bool { return o == l })
	}
}

// samePeer are the IKE SAs of a connection whose peer may have the identity of
// that of s, and its user, s among them, by number.
func (p *supervisor) samePeer(s *saState) []*saState {
	var out []*saState
	for o := p.index.peers[s.key]; o != nil; o = o.next {
		out = append(out, o)
	}
	sortSAs(out)
	return out
}
