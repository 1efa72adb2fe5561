package xfrm

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"iked/internal/backend"
	"iked/internal/trace"
	"iked/migrate"
	"iked/migrate/form"
	"iked/spd"
)

func anEvent() migrate.Event {
	addr := netip.MustParseAddr
	return migrate.Event{Source: migrate.PFKey, Dir: migrate.Out,
		Selector: spd.KernelSelector{Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix("10.2.0.0/16")},
		Entries: []migrate.Entry{{Proto: 50, Mode: spd.Tunnel, ReqID: 7,
			Old: migrate.Pair{Src: addr("192.0.2.1"), Dst: addr("192.0.2.2")}, New: migrate.Pair{Src: addr("192.0.2.9"), Dst: addr("192.0.2.2")}}},
		KM: migrate.Ends{Local: addr("192.0.2.9"), Remote: addr("192.0.2.2")}}
}

// A MIGRATE of PF_KEY is told as one of netlink is, and nothing is put right for a while.
// What is cut or changed is counted and said and leads to nothing, and what is about
// something else is not looked at.
func TestPFKey(t *testing.T) {
	warned := 0
	b := newBackend(Options{Log: func(r trace.Record) { warned++ }})
	b.events.Init()
	ev := anEvent()
	whole := form.AppendPFKey(nil, &ev, 0, 0)
	b.pfKey(whole)
	select {
	case got := <-b.events.C():
		if m, ok := got.(backend.Migrate); !ok || m.Event.Source != migrate.PFKey || m.Event.Entries[0] != ev.Entries[0] || m.Event.KM != ev.KM {
			t.Errorf("event %+v", got)
		}
	default:
		t.Fatal("nobody was told")
	}
	if !b.holdUntil.After(time.Now()) {
		t.Error("the tables are compared at once")
	}
	for n := range whole {
		b.pfKey(whole[:n])
	}
	// An error is for whoever asked; a message of another kind is no MIGRATE.
	for _, i := range []int{1, 2} {
		other := slices.Clone(whole)
		other[i] = 3
		b.pfKey(other)
	}
	if want := len(whole) - 3; int(b.counts[migratesRefused]) != want || warned != want || b.Counters()["migrates_refused"] != uint64(want) {
		t.Errorf("%d messages are refused, %d warnings, expected %d", b.counts[migratesRefused], warned, want)
	}
	select {
	case got := <-b.events.C():
		t.Errorf("a message that is cut leads to %+v", got)
	default:
	}
	b.closed = true
	b.pfKey(whole)
	if len(b.events.C()) != 0 {
		t.Error("told after the end")
	}
}

// An event that finds no room is lost, and then the tables are compared.
func TestMigrateLost(t *testing.T) {
	b := newBackend(Options{})
	b.events.Init()
	for len(b.events.C()) < cap(b.events.C()) {
		b.events.Emit(backend.Acquire{})
	}
	ev := anEvent()
	if b.pfKey(form.AppendPFKey(nil, &ev, 0, 0)); b.counts[eventsLost] != 1 || !b.resync {
		t.Errorf("%d events lost, resync %t", b.counts[eventsLost], b.resync)
	}
}
