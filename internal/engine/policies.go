package engine

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"iked/conf"
	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/keyex"
	"iked/spd"
)

// policyKey says which policies are the same: equal selectors of one child. Two
// CHILD_SAs with one key share policies and reqid, so a rekeyed or a second SA
// of the same child takes over the traffic without a gap.
type policyKey struct {
	conn, child string
	ts          string
	protect     protection
	pfp         spd.PFP
	bind        binding
}

// protection is what SAs serve the entries of a set.
type protection uint8

// Protections.
const (
	byESP protection = iota
	byAH
	byBoth // ESP, and AH around it
)

// protectionOf are the SAs of a configured child.
func protectionOf(c *conf.Child) protection {
	switch {
	case len(c.AH) > 0:
		return byBoth
	case len(c.Proposals) > 0 && c.Proposals[0].Protocol == suite.ProtoAH:
		return byAH
	}
	return byESP
}

// protectedBy are those of a negotiated one.
func protectedBy(ch *keyex.Child) protection {
	switch {
	case ch.AH != nil:
		return byBoth
	case ch.Proto == suite.ProtoAH:
		return byAH
	}
	return byESP
}

// outside is what an entry says of the SAs that serve it: their mode and, in tunnel
// and BEET mode, their outer addresses as far as they are known.
type outside struct {
	mode          spd.Mode
	local, remote netip.Addr
	compress      bool
}

// policySet is one set of entries in the SPD under one reqid.
type policySet struct {
	key    policyKey
	reqid  uint32
	around uint32 // the reqid of the AH around ESP; 0: none
	static bool   // reqid comes from the configuration
	ids    []uint64
	// standing entries stay while the configuration is loaded; sas counts the
	// CHILD_SAs that serve the set.
	standing bool
	acquire  bool
	open     bool   // what no SA serves passes in clear
	priority uint32 // configured, 0: computed
	sas      int
	action   spd.Action
	local    []spd.TS
	remote   []spd.TS
	owner    childKey
	// now is the outside of the SA that was added last, stands that of the standing
	// entries.
	now, stands outside
	covers      uint32 // entries of house that it would cover
}

// childKey names a configured child.
type childKey struct{ conn, child string }

func (k childKey) String() string { return k.conn + "/" + k.child }

// policies owns the SPD: reqids and entries with reference counts. It is used
// by all shards, so it has a lock; the backend calls inside are quick.
type policies struct {
	mu    sync.Mutex
	db    backend.SPDB
	sets  map[policyKey]*policySet
	byPol map[uint64]*policySet
	// byChild has the sets of a configured child.
	byChild map[childKey]map[*policySet]bool
	inUse   map[uint32]int // reqid → sets
	// reserved are the reqids that the configuration has, in use or not.
	reserved map[uint32]bool
	// firstFree: no number before it is free.
	firstFree uint32
	nextPol   uint64
	house     *house
}

func newPolicies(db backend.SPDB) *policies {
	return &policies{
		db:        db,
		sets:      make(map[policyKey]*policySet),
		byPol:     make(map[uint64]*policySet),
		byChild:   make(map[childKey]map[*policySet]bool),
		inUse:     make(map[uint32]int),
		firstFree: 1,
		house:     &house{},
	}
}

// protoAH is the protocol number of AH in an SPD entry.
const protoAH = 51

// maxEntries bounds the SPD entries of one set: a peer chooses its selectors, and
// hundreds of different widths on both sides would make tens of thousands.
const maxEntries = 1024

// policyWant is what a set of policies should be.
type policyWant struct {
	child         childKey
	local, remote []spd.TS
	out           outside
	protect       protection
	pfp           spd.PFP
	action        spd.Action
	reqid         uint32 // configured, 0: allocate
	priority      uint32
	acquire       bool
	open          bool
	bind          binding
}

func (w *policyWant) key() policyKey {
	k := policyKey{conn: w.child.conn, child: w.child.child, protect: w.protect, pfp: w.pfp, ts: tsKey(w.local, w.remote), bind: w.bind}
	if w.action != spd.Protect {
		k.ts += fmt.Sprintf("!%d", w.action)
	}
	return k
}

// tsKey is the same for equal sets of selectors, whatever their order.
func tsKey(local, remote []spd.TS) string {
	var buf [96]byte
	b := buf[:0]
	for _, list := range [...][]spd.TS{local, remote} {
		// The count parts the two lists.
		b = binary.BigEndian.AppendUint16(b, uint16(len(list)))
		if len(list) > 1 {
			list = slices.SortedFunc(slices.Values(list), func(a, b spd.TS) int {
				return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To), cmp.Compare(a.Proto, b.Proto),
					cmp.Compare(a.PortFrom, b.PortFrom), cmp.Compare(a.PortTo, b.PortTo))
			})
		}
		for _, t := range list {
			b = append(b, byte(t.From.BitLen()), t.Proto)
			b = append(b, t.From.AsSlice()...)
			b = append(b, t.To.AsSlice()...)
			b = binary.BigEndian.AppendUint16(b, t.PortFrom)
			b = binary.BigEndian.AppendUint16(b, t.PortTo)
		}
	}
	return string(b)
}

// stand installs policies that live as long as the configuration: traps,
// shunts, and the drop of what a tunnel would protect while it is down.
func (p *policies) stand(w policyWant) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sets[w.key()]
	if set != nil {
		before := *set
		set.acquire, set.priority, set.open, set.stands, set.standing = w.acquire, w.priority, w.open, w.out, true
		if set.sas == 0 {
			set.now = w.out
		}
		if set.acquire != before.acquire || set.priority != before.priority || set.open != before.open || set.now != before.now || !before.standing {
			if err := p.install(set); err != nil {
				return err
			}
		}
	}
	if set == nil {
		if _, err := p.create(w, true); err != nil {
			return err
		}
	}
	// What stood for other selectors, those of addresses that were another host's or its
	// own ones before, goes after it.
	var first error
	for other := range p.byChild[w.child] {
		if other.standing && other.key != w.key() {
			other.standing, other.acquire = false, false
			if err := p.dropIfUnused(other); err != nil && first == nil {
				first = err
			}
		}
	}
	return first
}

// lay takes away the standing policies of a child.
func (p *policies) lay(owner childKey) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var first error
	for set := range p.byChild[owner] {
		if !set.standing {
			continue
		}
		set.standing, set.acquire = false, false
		if err := p.dropIfUnused(set); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// reqids are those of a set: of its SAs, and of the AH around them.
type reqids struct{ main, around uint32 }

// hold counts an SA in and returns its reqids; the policies are in force after.
func (p *policies) hold(w policyWant) (ids reqids, key policyKey, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key = w.key()
	set := p.sets[key]
	if set == nil {
		if set, err = p.create(w, false); err != nil {
			return ids, key, err
		}
	} else if set.now != w.out {
		// Of several SAs the one added last carries the traffic.
		if err := p.show(set, w.out); err != nil {
			return ids, key, err
		}
	}
	set.sas++
	return reqids{set.reqid, set.around}, key, nil
}

// show changes what the entries of a set say of its SAs.
func (p *policies) show(set *policySet, out outside) error {
	before := set.now
	set.now = out
	if err := p.install(set); err != nil {
		set.now = before
		return err
	}
	return nil
}

// move tells that an SA that holds a set has other outer addresses.
func (p *policies) move(key policyKey, out outside) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sets[key]
	if set == nil || set.now == out {
		return nil
	}
	return p.show(set, out)
}

// release counts an SA out.
func (p *policies) release(key policyKey) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sets[key]
	if set == nil || set.sas == 0 {
		return nil
	}
	set.sas--
	if set.sas == 0 && set.standing && set.now != set.stands {
		return p.show(set, set.stands)
	}
	return p.dropIfUnused(set)
}

// find is the child whose policy a backend event names; asks tells whether that
// policy may ask for SAs.
func (p *policies) find(policy uint64) (owner childKey, asks, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.byPol[policy]
	if set == nil {
		return childKey{}, false, false
	}
	return set.owner, set.acquire, true
}

func (p *policies) create(w policyWant, standing bool) (*policySet, error) {
	set := &policySet{
		now: w.out, stands: w.out, standing: standing,
		key: w.key(), reqid: w.reqid, static: w.reqid != 0, acquire: w.acquire, open: w.open, priority: w.priority,
		action: w.action, local: w.local, remote: w.remote, owner: w.child,
	}
	if set.reqid == 0 && w.action == spd.Protect {
		set.reqid = p.free(0)
	}
	if w.protect == byBoth {
		set.around = p.free(set.reqid)
	}
	if n := len(group(w.local)) * len(group(w.remote)); n > maxEntries {
		return nil, fmt.Errorf("policy %s: the selectors make %d entries, at most %d are installed for one CHILD_SA; use fewer, or ones of equal width", w.child, n, maxEntries)
	}
	if err := p.shelter(set); err != nil {
		return nil, err
	}
	if err := p.install(set); err != nil {
		return nil, errors.Join(err, p.unshelter(set))
	}
	for _, id := range [...]uint32{set.reqid, set.around} {
		if id != 0 {
			p.inUse[id]++
		}
	}
	p.sets[set.key] = set
	if p.byChild[set.owner] == nil {
		p.byChild[set.owner] = make(map[*policySet]bool, 1)
	}
	p.byChild[set.owner][set] = true
	return set, nil
}

// install puts the entries of a set into the SPD, in place of those that it had.
func (p *policies) install(set *policySet) error {
	add := expand(set)
	old := set.ids
	ids := make([]uint64, len(add))
	for i := range add {
		// An entry that is replaced keeps its number: packets wait for it.
		if i < len(old) {
			ids[i] = old[i]
		} else {
			p.nextPol++
			ids[i] = p.nextPol
		}
		add[i].ID = ids[i]
	}
	if err := p.db.ApplyPolicies(old[min(len(old), len(add)):], add); err != nil {
		return fmt.Errorf("install policy %s: %w", set.owner, err)
	}
	for _, id := range old {
		delete(p.byPol, id)
	}
	for _, id := range ids {
		p.byPol[id] = set
	}
	set.ids = ids
	return nil
}

func (p *policies) dropIfUnused(set *policySet) error {
	if set.standing || set.sas > 0 {
		return nil
	}
	delete(p.sets, set.key)
	if delete(p.byChild[set.owner], set); len(p.byChild[set.owner]) == 0 {
		delete(p.byChild, set.owner)
	}
	for _, id := range [...]uint32{set.reqid, set.around} {
		if id == 0 {
			continue
		}
		if p.inUse[id]--; p.inUse[id] == 0 {
			delete(p.inUse, id)
			p.firstFree = min(p.firstFree, id)
		}
	}
	for _, id := range set.ids {
		delete(p.byPol, id)
	}
	if len(set.ids) == 0 {
		return p.unshelter(set)
	}
	if err := p.db.ApplyPolicies(set.ids, nil); err != nil {
		return fmt.Errorf("remove policy %s: %w", set.owner, err)
	}
	return p.unshelter(set)
}

// stands tells whether a child has standing policies.
func (p *policies) stands(owner childKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, set := range p.sets {
		if set.owner == owner && set.standing {
			return true
		}
	}
	return false
}

// clear takes everything out of the SPD.
func (p *policies) clear() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []uint64
	for _, set := range p.sets {
		ids = append(ids, set.ids...)
	}
	for i := range p.house.entries {
		if id := p.house.entries[i].id; id != 0 {
			ids = append(ids, id)
		}
	}
	p.house = &house{}
	clear(p.sets)
	clear(p.byPol)
	clear(p.inUse)
	p.firstFree = 1
	if len(ids) == 0 {
		return nil
	}
	return p.db.ApplyPolicies(ids, nil)
}
