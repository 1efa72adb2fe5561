package xfrm

import (
	"net/netip"
	"slices"
	"testing"

	"iked/spd"
	"iked/xfrm/wire"
)

func record(t *testing.T, id uint64, action spd.Action, priority uint32, local, remote string) *policyRecord {
	t.Helper()
	p := spd.Policy{ID: id, Action: action, Priority: priority, ReqID: uint32(id),
		Local: []spd.TS{spd.FromPrefix(netip.MustParsePrefix(local))}, Remote: []spd.TS{spd.FromPrefix(netip.MustParsePrefix(remote))}}
	keys, err := policyKeys(&p)
	if err != nil {
		t.Fatal(err)
	}
	return &policyRecord{Policy: p, keys: keys}
}

// Beside an entry that discards, a tunnel's packets pass the checks that the kernel
// makes on the near side; protection that another entry demands of the same packets
// comes before, the entry that discards behind. Without such an entry there are no ways.
func TestWays(t *testing.T) {
	b := newBackend(Options{})
	add := func(old, recs []*policyRecord) {
		for _, r := range old {
			delete(b.policies, r.ID)
		}
		for _, r := range recs {
			b.policies[r.ID] = r
		}
		b.exchange(b.layWays(old, recs))
	}
	// A hub between two spokes: what one sends to the other is forwarded.
	one := record(t, 1, spd.Protect, 380000, "10.0.0.0/8", "10.1.0.0/16")
	add(nil, []*policyRecord{one})
	forward := policyKey{dir: wire.DirFwd}
	forward.sel = one.keys[slices.IndexFunc(one.keys, func(k policyKey) bool { return k.dir == wire.DirOut })].sel
	if b.entries[forward] != nil {
		t.Error("there are ways though nothing is discarded")
	}
	add(nil, []*policyRecord{record(t, 4, spd.Discard, 599999, "192.168.0.0/16", "172.16.0.0/12")})
	if b.entries[forward] != nil {
		t.Error("there are ways beside an entry that discards something else")
	}
	add([]*policyRecord{b.policies[4]}, nil)
	drop := record(t, 2, spd.Discard, 599999, "0.0.0.0/0", "0.0.0.0/0")
	add(nil, []*policyRecord{drop})
	e := b.entries[forward]
	if e == nil {
		t.Fatal("an entry that stands got no way out when the first one came that discards")
	}
	if p := b.want(forward, e); !p.clear() || p.priority <= 400000 || p.priority >= 600000-2*128*512 {
		t.Errorf("the way out is %+v", p)
	}
	// Another entry demands protection of what comes in with the same selector.
	other := record(t, 3, spd.Protect, 380000, "10.1.0.0/16", "10.0.0.0/8")
	add(nil, []*policyRecord{other})
	if p := b.want(forward, b.entries[forward]); p.clear() || len(p.templates) == 0 {
		t.Errorf("what must come protected passes in clear: %+v", p)
	}
	add([]*policyRecord{b.policies[3]}, nil)
	if p := b.want(forward, b.entries[forward]); !p.clear() {
		t.Errorf("the way out is gone with the other entry: %+v", p)
	}
	add([]*policyRecord{drop}, nil)
	if e := b.entries[forward]; e != nil && len(e.list) > 0 {
		t.Errorf("ways are left without an entry that discards: %+v", e.list[0])
	}
	if len(b.discarded) != 0 || len(b.policies[1].ways) != 0 || len(b.policies[1].keys) != len(one.keys) {
		t.Errorf("after all: %v, %+v", b.discarded, b.policies[1])
	}
}
