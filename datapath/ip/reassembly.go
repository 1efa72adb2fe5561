package ip

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Reassembly limits: what is not complete after the time is dropped (RFC 8200,
// Section 4.5 says 60 seconds; a shorter time bounds memory). A packet may come
// in at most maxPieces fragments.
const (
	ReassemblyTime = 15 * time.Second
	maxPieces      = 64
)

// ReassemblyResult is what became of a fragment.
type ReassemblyResult uint8

// Results. Names are counter labels.
const (
	Waiting ReassemblyResult = iota
	Complete
	Overlap   // RFC 5722: the whole packet is dropped
	TooMany   // pieces of one packet
	Oversized // beyond 65,535 octets or the budget
	Conflict  // two ends, or a piece behind the end
)

var reassemblyNames = [...]string{"reassembly_waiting", "reassembly_complete", "reassembly_overlap", "reassembly_too_many_pieces", "reassembly_oversized", "reassembly_conflict"}

// String is the counter label.
func (r ReassemblyResult) String() string {
	if int(r) < len(reassemblyNames) {
		return reassemblyNames[r]
	}
	return "unknown"
}

// Reassembler puts packets together again, IPv4 and IPv6. Its memory is bounded
// by the budget: when that is used up the oldest packet is dropped. It is for
// one goroutine.
type Reassembler struct {
	budget, used int
	sets         map[fragKey]*fragSet
	// age is a ring of all sets, its own links first and last: next is the oldest.
	age fragSet
	// Evicted and Expired count packets that were dropped before they were complete.
	Evicted, Expired uint64
}

type fragKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

type fragSet struct {
	key        fragKey
	next, prev *fragSet
	until      time.Time
	header     []byte // of the first fragment, up to the fragment header in IPv6
	end        int    // length of the payload, -1 unknown
	have       int
	pieces     []piece // sorted
	bad        bool    // refused; the rest of it is swallowed until the time is over
}

type piece struct {
	off  int
	data []byte
}

// setOverhead is what an empty set costs against the budget.
const setOverhead = 256

// NewReassembler makes one that holds at most budget octets of fragments.
func NewReassembler(budget int) *Reassembler {
	r := &Reassembler{budget: budget, sets: make(map[fragKey]*fragSet)}
	r.age.next, r.age.prev = &r.age, &r.age
	return r
}

// Add takes one fragment, whose info Parse gave; info.Fragmented must be true.
// The data is copied. With Complete the result is the whole packet, with the
// headers of the first fragment, in memory of its own. A set in which one
// fragment was refused never completes (RFC 5722, Section 4).
func (r *Reassembler) Add(b []byte, info *Info, now time.Time) ([]byte, ReassemblyResult) {
	r.Sweep(now)
	b = b[:info.TotalLen]
	data := b[info.FragStart:]
	off, end := int(info.FragOffset), int(info.FragOffset)+len(data)
	key := fragKey{src: info.Src, dst: info.Dst, id: info.FragID}
	if info.Version == 4 {
		key.proto = info.Proto // RFC 791, Section 3.2; IPv6 has no protocol here
	}
	s := r.sets[key]
	if s == nil {
		s = &fragSet{key: key, until: now.Add(ReassemblyTime), end: -1, next: &r.age, prev: r.age.prev}
		s.prev.next, s.next.prev = s, s
		r.sets[key] = s
		r.used += setOverhead
	}
	if s.bad {
		return nil, Overlap
	}
	if res := s.insert(b, info, off, end, data); res != Waiting {
		r.spoil(s)
		r.evict()
		return nil, res
	}
	r.used += len(data)
	if off == 0 {
		r.used += len(s.header)
	}
	if s.have != s.end || s.header == nil {
		if r.used > r.budget {
			r.evict()
		}
		return nil, Waiting
	}
	out := s.build(info.Version)
	r.drop(s)
	if out == nil {
		return nil, Oversized
	}
	return out, Complete
}

// insert checks a piece against those that are there and keeps it.
func (s *fragSet) insert(b []byte, info *Info, off, end int, data []byte) ReassemblyResult {
	if end > 65535 {
		return Oversized
	}
	if !info.MoreFrag {
		if s.end >= 0 && s.end != end || len(s.pieces) > 0 && s.last() > end {
			return Conflict
		}
	} else if s.end >= 0 && end >= s.end {
		return Conflict
	}
	i := 0
	for i < len(s.pieces) && s.pieces[i].off < off {
		i++
	}
	// RFC 5722, Section 4: no fragment may overlap another, equal ones included.
	if i > 0 && s.pieces[i-1].off+len(s.pieces[i-1].data) > off || i < len(s.pieces) && s.pieces[i].off < end {
		return Overlap
	}
	if len(s.pieces) == maxPieces {
		return TooMany
	}
	if !info.MoreFrag {
		s.end = end
	}
	if off == 0 {
		s.header = unfragmentable(b, info)
	}
	s.pieces = append(s.pieces, piece{})
	copy(s.pieces[i+1:], s.pieces[i:])
	s.pieces[i] = piece{off: off, data: append([]byte(nil), data...)}
	s.have += len(data)
	return Waiting
}

func (s *fragSet) last() int {
	p := s.pieces[len(s.pieces)-1]
	return p.off + len(p.data)
}

// unfragmentable is a copy of the headers before the payload that was cut. In
// IPv6 the header before the fragment header then names what that one named.
func unfragmentable(b []byte, info *Info) []byte {
	if info.Version == 4 {
		return append([]byte(nil), b[:info.HeaderLen]...)
	}
	frag := info.FragStart - FragHeaderLen
	h := append([]byte(nil), b[:frag]...)
	field := 6
	for at := IPv6HeaderLen; at < frag; at += 8 + int(b[at+1])*8 {
		field = at
	}
	h[field] = b[frag]
	return h
}

// build writes the packet; nil when its length does not fit its header.
func (s *fragSet) build(version uint8) []byte {
	out := make([]byte, 0, len(s.header)+s.end)
	out = append(out, s.header...)
	for _, p := range s.pieces {
		out = append(out, p.data...)
	}
	if version == 4 {
		if len(out) > 65535 {
			return nil
		}
		binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
		out[6], out[7], out[10], out[11] = 0, 0, 0, 0
		binary.BigEndian.PutUint16(out[10:], Checksum(out[:len(s.header)], 0))
		return out
	}
	if len(out)-IPv6HeaderLen > 65535 {
		return nil
	}
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-IPv6HeaderLen))
	return out
}

// spoil frees the data of a set and keeps it as a mark.
func (r *Reassembler) spoil(s *fragSet) {
	r.used -= s.have + len(s.header)
	s.header, s.pieces, s.have, s.bad = nil, nil, 0, true
}

func (r *Reassembler) drop(s *fragSet) {
	r.used -= s.have + len(s.header) + setOverhead
	s.prev.next, s.next.prev = s.next, s.prev
	delete(r.sets, s.key)
}

// evict drops the oldest sets until the budget is kept.
func (r *Reassembler) evict() {
	for r.used > r.budget && r.age.next != &r.age {
		r.drop(r.age.next)
		r.Evicted++
	}
}

// Sweep drops what was not completed in time.
func (r *Reassembler) Sweep(now time.Time) {
	for s := r.age.next; s != &r.age && !now.Before(s.until); s = r.age.next {
		r.drop(s)
		r.Expired++
	}
}

// Len is the number of packets that wait, Used the octets they take.
func (r *Reassembler) Len() int  { return len(r.sets) }
func (r *Reassembler) Used() int { return r.used }
