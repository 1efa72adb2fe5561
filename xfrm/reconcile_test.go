package xfrm

import (
	"net/netip"
	"testing"
	"time"

	"iked/migrate"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// tunnelled puts an entry into a backend and its kernel.
func tunnelled(t *testing.T, b *Backend) spd.Policy {
	t.Helper()
	p := spd.Policy{ID: 1, Name: "net", Action: spd.Protect, Priority: 100, ReqID: 7, Mode: spd.Tunnel,
		OuterLocal: netip.MustParseAddr("192.0.2.1"), OuterRemote: netip.MustParseAddr("192.0.2.2")}
	p.Local, p.Remote = []spd.TS{spd.FromPrefix(netip.MustParsePrefix("10.1.0.0/16"))}, []spd.TS{spd.FromPrefix(netip.MustParsePrefix("10.2.0.0/16"))}
	if err := b.ApplyPolicies(nil, []spd.Policy{p}); err != nil {
		t.Fatal(err)
	}
	return p
}

// policies is what a comparison sees.
func (k *kernel) policies() map[policyKey]kernelPolicy {
	m := map[policyKey]kernelPolicy{}
	for key, p := range k.spd {
		m[key] = kernelPolicy{p.Action, p.Priority, p.Templates}
	}
	return m
}

// shift puts all templates between other addresses, as a MIGRATE does.
func (k *kernel) shift(to migrate.Pair) {
	for _, p := range k.spd {
		for i := range p.Templates {
			p.Templates[i].Src, p.Templates[i].ID.Dst = wire.AddressOf(to.Src), wire.AddressOf(to.Dst)
			if p.Dir != wire.DirOut {
				p.Templates[i].Src, p.Templates[i].ID.Dst = p.Templates[i].ID.Dst, p.Templates[i].Src
			}
		}
	}
}

// A comparison that meets a policy after a MIGRATE changed it and before the MIGRATE was
// heard does not put it back: packets would go to where nobody is any more. If nothing
// is heard, or nobody follows what was, it does a while later; and at once, when more is
// different than addresses.
func TestPolicyIsNotPutBackInAMove(t *testing.T) {
	at := migrate.Pair{Src: newSrc, Dst: newDst}
	start := func(t *testing.T) (*kernel, *Backend, spd.Policy, func(wantAgain bool, wantRepaired uint64)) {
		k := &kernel{}
		b := on(t, k, t.TempDir())
		p := tunnelled(t, b)
		return k, b, p, func(wantAgain bool, wantRepaired uint64) {
			t.Helper()
			if again, err := b.repairPolicies(k.policies()); err != nil || again != wantAgain || b.counts[repaired] != wantRepaired {
				t.Fatalf("again %t, %d put right, %v; expected %t and %d", again, b.counts[repaired], err, wantAgain, wantRepaired)
			}
		}
	}
	long := func(b *Backend) {
		for _, e := range b.entries {
			e.astray = e.astray.Add(-2 * missingTime)
		}
	}
	t.Run("followed", func(t *testing.T) {
		k, b, p, look := start(t)
		look(false, 0)
		k.shift(at)
		look(true, 0)
		b.migrated(&migrate.Event{}, nil)
		p.OuterLocal, p.OuterRemote = at.Src, at.Dst
		if err := b.ApplyPolicies([]uint64{p.ID}, []spd.Policy{p}); err != nil {
			t.Fatal(err)
		}
		look(false, 0)
		for key, x := range k.spd {
			if s := x.Templates[0].Src.Addr(wire.Inet); s != at.Src && s != at.Dst {
				t.Errorf("%v from %v", key, s)
			}
		}
		// The next move is not taken for the one before.
		b.holdUntil = time.Time{}
		k.shift(migrate.Pair{Src: at.Src.Next(), Dst: at.Dst})
		look(true, 0)
	})
	t.Run("seen before a MIGRATE", func(t *testing.T) {
		k, b, _, look := start(t)
		k.shift(at)
		look(true, 0)
		long(b)
		b.holdUntil = time.Now() // heard since, and the time to follow it is over
		look(true, 0)
		long(b)
		b.holdUntil = time.Time{}
		look(false, uint64(len(k.spd)))
	})
	t.Run("never told", func(t *testing.T) {
		k, b, _, look := start(t)
		k.shift(at)
		look(true, 0)
		look(true, 0)
		long(b)
		look(false, uint64(len(k.spd)))
		look(false, uint64(len(k.spd)))
		for key, x := range k.spd {
			if s := x.Templates[0].Src.Addr(wire.Inet); s == at.Src || s == at.Dst {
				t.Errorf("%v from %v", key, s)
			}
		}
	})
	t.Run("heard while the tables are read", func(t *testing.T) {
		k, b, _, look := start(t)
		r := k.carry(b, sad.Out, spd.Tunnel, nil)
		k.dumping = func() {
			k.shift(at)
			delete(k.sas, r.said())
			b.migrated(&migrate.Event{}, nil)
		}
		if again, err := b.sweep(); !again || err != nil || b.counts[repaired] != 0 {
			t.Errorf("again %t, %d put right, %v", again, b.counts[repaired], err)
		}
		k.dumping = nil
		// An SA that was not there in one move and is not there in the next is not lost.
		for range 2 {
			b.holdUntil = time.Now()
			if !b.missSAs(k.seen()) || r.dead {
				t.Error("an SA in a move is taken for lost")
			}
			r.missing = r.missing.Add(-2 * missingTime)
		}
		look(true, 0)
	})
	for what, spoil := range map[string]func(*wire.Policy){
		"in clear":      func(p *wire.Policy) { p.Templates = nil },
		"blocked":       func(p *wire.Policy) { p.Action = wire.Block },
		"optional":      func(p *wire.Policy) { p.Templates[0].Optional = 1 },
		"another reqid": func(p *wire.Policy) { p.Templates[0].ReqID++ },
	} {
		t.Run(what, func(t *testing.T) {
			k, _, _, look := start(t)
			k.shift(at)
			for _, p := range k.spd {
				spoil(p)
			}
			look(false, uint64(len(k.spd)))
		})
	}
}
