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
	"iked/xfrm/wire"
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

// PF_KEY is listened to where it is in the kernel already: to open a socket would load a
// module.
func TestListsPFKey(t *testing.T) {
	const head = "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi br ha uh gp em\n"
	for text, want := range map[string]bool{
		"": false, head: false, head + "NETLINK   1096      6      -1   NI       0   no   kernel      n  n  n\n": false,
		head + "KEY        808      1      -1   NI       0   no   af_key      n  n  n\n": true, head + "KEYS 1\n\n": false, "KEY": true,
	} {
		if listsPFKey(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
}

// What is heard faster than it is handled is lost, and whoever handles it knows: the
// tables are compared.
func TestHeardTooFast(t *testing.T) {
	l := &listener{out: make(chan heard, heardQueue)}
	for range heardQueue + 10 {
		l.tell(heard{wire.MigrateMsg, &wire.Migrate{}})
	}
	close(l.out)
	b := newBackend(Options{})
	b.events.Init()
	lost := 0
	for h := range l.out {
		if h.msg == nil {
			lost++
			b.event(h)
		}
	}
	if lost == 0 || b.counts[eventsLost] != uint64(lost) || !b.resync {
		t.Errorf("%d times told, %d counted, resync %t", lost, b.counts[eventsLost], b.resync)
	}
}
