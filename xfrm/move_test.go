package xfrm

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/backend"
	"iked/migrate"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

var (
	newSrc = netip.MustParseAddr("203.0.113.9")
	newDst = netip.MustParseAddr("198.51.100.2")
)

// journaled are the SAs that the journal names, as lines.
func journaled(t *testing.T, b *Backend) (list []string) {
	t.Helper()
	text, err := os.ReadFile(journalPath(b.opt.State))
	if err != nil {
		t.Fatal(err)
	}
	left, damaged, err := readJournal(strings.NewReader(string(text)), b.journal.id)
	if err != nil || damaged > 0 {
		t.Fatalf("journal: %v, %d lines say nothing", err, damaged)
	}
	return lines(left)
}

// One request moves an SA in place. It has the octets of struct xfrm_user_migrate_state
// as the kernel's documentation lays it out: what is not inherited is named again.
func TestMoveInPlaceGolden(t *testing.T) {
	k := &kernel{}
	b := on(t, k, t.TempDir())
	r := k.carry(b, sad.Out, spd.Tunnel, nil)
	id, err := b.UpdateSA(r.id, backend.Move{Src: newSrc, Dst: newDst, Encap: &sad.Encap{SrcPort: 4500, DstPort: 4501}})
	if err != nil || id.Dst != newDst || id.SPI != 0x11223344 {
		t.Fatalf("%+v, %v", id, err)
	}
	last := k.heard[len(k.heard)-1]
	zeros := func(n int) string { return strings.Repeat("00", n) }
	want := "c0000202" + zeros(12) + "11223344" + "0200" + "32" + "00" + // id: daddr, spi, family, proto
		"c6336402" + zeros(12) + "cb007109" + zeros(12) + // new_daddr, new_saddr
		zeros(8) + // old_mark
		"0a020000" + zeros(12) + "0a010000" + zeros(12) + zeros(8) + "0200" + "10" + "10" + "00" + zeros(3) + zeros(8) + // new_sel
		"07000000" + "00000000" + "0200" + "0000" + // new_reqid, flags, new_family, reserved
		"1c00" + "0400" + "0200" + "1194" + "1195" + zeros(2) + zeros(16) // XFRMA_ENCAP
	if got := hex.EncodeToString(last.Body); last.Type != 41 || got != want {
		t.Errorf("request %d:\n%s, expected\n%s", last.Type, got, want)
	}
	if list := journaled(t, b); len(list) != 1 || list[0] != r.line() || r.id != id || r.src != newSrc || !r.encap {
		t.Errorf("journal %q, record %+v", list, r)
	}
}

// The SA goes on as it was: a selector of transport mode follows the addresses, also to
// the other family, the encapsulation ends where there is none any more, and what the
// kernel knows of the SA is where it was.
func TestMoveInPlace(t *testing.T) {
	v6 := backend.Move{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2")}
	for name, c := range map[string]struct {
		mode  spd.Mode
		encap *sad.Encap
		to    backend.Move
		sel   spd.KernelSelector
	}{
		"tunnel":    {spd.Tunnel, nil, backend.Move{Src: newSrc, Dst: newDst}, spd.KernelSelector{Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix("10.2.0.0/16")}},
		"to IPv6":   {spd.Tunnel, nil, v6, spd.KernelSelector{Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix("10.2.0.0/16")}},
		"no NAT":    {spd.BEET, &sad.Encap{SrcPort: 4500, DstPort: 4500}, backend.Move{Src: newSrc, Dst: newDst}, spd.KernelSelector{Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix("10.2.0.0/16")}},
		"same":      {spd.Tunnel, nil, backend.Move{Src: newSrc, Dst: netip.MustParseAddr("192.0.2.2")}, spd.KernelSelector{Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix("10.2.0.0/16")}},
		"transport": {spd.Transport, nil, backend.Move{Src: newSrc, Dst: newDst}, spd.KernelSelector{Src: netip.PrefixFrom(newSrc, 32), Dst: netip.PrefixFrom(newDst, 32)}},
	} {
		k := &kernel{}
		b := on(t, k, t.TempDir())
		r := k.carry(b, sad.Out, c.mode, c.encap)
		id, err := b.UpdateSA(r.id, c.to)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if types := k.types(); slices.Contains(types, wire.DelSA) || slices.Contains(types, wire.NewSA) || !slices.Contains(types, wire.MigrateState) {
			t.Errorf("%s: requests %v", name, types)
		}
		sa := k.sas[saID(id)]
		if sa == nil || len(k.sas) != 1 || sa.Src != wire.AddressOf(c.to.Src) || sa.ReqID != 7 || sa.Sel != wireSelector(c.sel) || sa.Encap != nil {
			t.Errorf("%s: the kernel has %+v", name, sa)
		}
		if list := journaled(t, b); len(list) != 1 || list[0] != r.line() || b.sas[id] != r || b.bySAID[saID(id)] != r {
			t.Errorf("%s: journal %q", name, list)
		}
	}
}

// A move that the kernel refuses leaves the SA where it was and says why; a kernel that
// has the message and does not do it for this SA gets it removed and added.
func TestMoveInPlaceRefused(t *testing.T) {
	for errno, want := range map[unix.Errno]struct {
		is   error
		text string
	}{
		unix.EEXIST:      {backend.ErrExists, "another SA has its SPI at 198.51.100.2"},
		unix.ESRCH:       {unix.ESRCH, "does not have it any more"},
		unix.EINVAL:      {},
		unix.ENOPROTOOPT: {},
	} {
		k := &kernel{errnos: map[wire.Type]unix.Errno{wire.MigrateState: errno}}
		b := on(t, k, t.TempDir())
		r := k.carry(b, sad.Out, spd.Tunnel, nil)
		old := r.id
		id, err := b.UpdateSA(r.id, backend.Move{Src: newSrc, Dst: newDst})
		if want.is == nil {
			if err != nil || id.Dst != newDst || k.sas[saID(id)] == nil || len(k.sas) != 1 || !slices.Contains(k.types(), wire.DelSA) {
				t.Errorf("%v: %+v, %v", errno, id, err)
			}
			continue
		}
		if !errors.Is(err, want.is) || !strings.Contains(err.Error(), want.text) || id != old || b.sas[old] != r || k.sas[saID(old)] == nil {
			t.Errorf("%v: %+v, %v", errno, id, err)
		}
		if list := journaled(t, b); len(list) != 1 || list[0] != r.line() {
			t.Errorf("%v: journal %q", errno, list)
		}
	}
}

// told is the next event; nil: there is none.
func (b *Backend) told() backend.Event {
	select {
	case e := <-b.events.C():
		return e
	default:
		return nil
	}
}

// moves puts an SA of the kernel at another place, as somebody else does.
func (k *kernel) moves(r *saRecord, to migrate.Pair) *wire.StateMigrate {
	m := &wire.StateMigrate{ID: r.said(), NewSrc: wire.AddressOf(to.Src), NewDst: wire.AddressOf(to.Dst), NewFamily: wire.FamilyOf(to.Dst), NewReqID: r.reqID, NewSel: r.sel}
	if errno := k.do(wire.Raw{}, m); errno != 0 {
		k.t.Fatal(errno)
	}
	return m
}

// MIGRATE_STATE of somebody else is told; until the key exchange has said where the SA
// is, it is known at both places: it is found where it went, moves on from there, and
// goes wherever it is. That of states of others is nobody's here.
func TestMovedByOthers(t *testing.T) {
	at := migrate.Pair{Src: newSrc, Dst: newDst}
	start := func(t *testing.T) (*kernel, *Backend, *saRecord) {
		k := &kernel{}
		b := on(t, k, t.TempDir())
		r := k.carry(b, sad.Out, spd.Tunnel, nil)
		m := k.moves(r, at)
		m.ID.Dst[4], m.NewDst[15], m.NewSrc[9] = 1, 2, 3 // of IPv4 addresses, nothing
		b.event(heard{wire.MigrateState, m})
		ev, ok := b.told().(backend.MigrateSA)
		if !ok || ev.Event != (migrate.Single{Proto: 50, SPI: 0x11223344, Dst: netip.MustParseAddr("192.0.2.2"), New: at}) || !b.holdUntil.After(time.Now()) {
			t.Fatalf("event %+v", ev)
		}
		if list := journaled(t, b); len(list) != 2 {
			t.Errorf("journal %q, expected both places", list)
		}
		k.types()
		return k, b, r
	}
	t.Run("followed", func(t *testing.T) {
		k, b, r := start(t)
		id, err := b.UpdateSA(r.id, backend.Move{Src: newSrc, Dst: newDst})
		if err != nil || slices.ContainsFunc(k.types(), func(x wire.Type) bool { return x != wire.GetSA }) || b.sas[id] != r {
			t.Errorf("%+v, %v", id, err)
		}
		if list := journaled(t, b); len(list) != 1 || list[0] != r.line() || r.elsewhere() {
			t.Errorf("journal %q", list)
		}
	})
	t.Run("moved on", func(t *testing.T) {
		k, b, r := start(t)
		third := netip.MustParseAddr("198.51.100.3")
		id, err := b.UpdateSA(r.id, backend.Move{Src: newSrc, Dst: third})
		if err != nil || id.Dst != third || k.sas[saID(id)] == nil || len(k.sas) != 1 {
			t.Errorf("%+v, %v", id, err)
		}
		if list := journaled(t, b); len(list) != 1 || list[0] != r.line() {
			t.Errorf("journal %q", list)
		}
	})
	t.Run("with another encapsulation", func(t *testing.T) {
		k, b, r := start(t)
		id, err := b.UpdateSA(r.id, backend.Move{Src: newSrc, Dst: newDst, Encap: &sad.Encap{SrcPort: 4500, DstPort: 4500}})
		if sa := k.sas[saID(id)]; err != nil || sa == nil || sa.Encap == nil || len(journaled(t, b)) != 1 {
			t.Errorf("%+v, %v", id, err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		k, b, r := start(t)
		old := r.id
		k.errnos = map[wire.Type]unix.Errno{wire.MigrateState: unix.EEXIST}
		id, err := b.UpdateSA(r.id, backend.Move{Src: newSrc, Dst: netip.MustParseAddr("198.51.100.3")})
		if !errors.Is(err, backend.ErrExists) || id != old || b.sas[old] != r || r.next != at || len(journaled(t, b)) != 2 {
			t.Errorf("%+v, %v, next %v", id, err, r.next)
		}
	})
	t.Run("and back", func(t *testing.T) {
		k, b, r := start(t)
		// Its message names the place that the backend does not have yet.
		b.event(heard{wire.MigrateState, k.moves(r.there(), r.here())})
		if ev, ok := b.told().(backend.MigrateSA); !ok || ev.Event.Dst != newDst || ev.Event.New != r.here() || r.elsewhere() || len(b.nexts) != 0 {
			t.Errorf("event %+v, next %v", ev, r.next)
		}
		id, err := b.UpdateSA(r.id, backend.Move{Src: r.src, Dst: r.id.Dst})
		if err != nil || k.sas[saID(id)] == nil || len(journaled(t, b)) != 1 {
			t.Errorf("%+v, %v, journal %q", id, err, journaled(t, b))
		}
	})
	t.Run("queried", func(t *testing.T) {
		k, b, r := start(t)
		k.sas[r.there().said()].Used.Packets = 7
		if u, err := b.QuerySA(r.id); err != nil || u.Packets != 7 {
			t.Errorf("%+v, %v", u, err)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		k, b, r := start(t)
		if err := b.DeleteSA(r.id); err != nil || len(k.sas) != 0 || len(journaled(t, b)) != 0 {
			t.Errorf("%v, the kernel has %v, journal %q", err, k.sas, journaled(t, b))
		}
	})
	t.Run("expired", func(t *testing.T) {
		_, b, r := start(t)
		m := &wire.Expire{Hard: true}
		m.ID.Dst, m.ID.SPI, m.ID.Proto, m.Family = wire.AddressOf(newDst), r.id.SPI, ipESP, wire.Inet
		b.serving[r.reqID]++
		b.event(heard{wire.ExpireMsg, m})
		if ev, ok := b.told().(backend.Expire); !ok || ev.ID != r.id || !ev.Hard || len(b.nexts) != 0 || len(journaled(t, b)) != 0 {
			t.Errorf("event %+v, journal %q", ev, journaled(t, b))
		}
	})
	t.Run("end", func(t *testing.T) {
		k, b, _ := start(t)
		if err := errors.Join(b.removeAll(), b.journal.remove()); err != nil || len(k.sas) != 0 || hasJournal(b.opt.State) {
			t.Errorf("%v, the kernel has %v", err, k.sas)
		}
	})
	t.Run("others", func(t *testing.T) {
		k := &kernel{}
		b := on(t, k, t.TempDir())
		r := k.carry(b, sad.Out, spd.Tunnel, nil)
		m := k.moves(r, at)
		for _, spoil := range []func(*wire.StateMigrate){func(m *wire.StateMigrate) { m.ID.SPI++ }, func(m *wire.StateMigrate) { m.ID.Proto = ipComp }, func(m *wire.StateMigrate) { m.NewDst = wire.Address{} }} {
			x := *m
			spoil(&x)
			b.event(heard{wire.MigrateState, &x})
			if ev := b.told(); ev != nil {
				t.Errorf("%+v leads to %+v", x, ev)
			}
		}
		if b.counts[migratesRefused] != 1 {
			t.Errorf("%d refused, expected the one to nowhere", b.counts[migratesRefused])
		}
	})
}

// seen is what a comparison sees.
func (k *kernel) seen() map[wire.SAID]seenSA {
	m := map[wire.SAID]seenSA{}
	for id, sa := range k.sas {
		m[id] = seenSA{sa.Src, sa.ReqID, sa.Mode}
	}
	return m
}

// When netlink lost that somebody moved an SA, the comparison finds it at its other place
// and tells of it, once. When nobody follows, it is one that was taken away, and is
// removed where it is.
func TestMoveIsFound(t *testing.T) {
	at := migrate.Pair{Src: newSrc, Dst: newDst}
	k := &kernel{}
	b := on(t, k, t.TempDir())
	r := k.carry(b, sad.Out, spd.Tunnel, nil)
	b.serving[r.reqID]++
	if b.findMoved(k.seen()) {
		t.Error("an SA at its place was found elsewhere")
	}
	k.moves(r, at)
	// What finds no room is told the next time.
	for len(b.events.C()) < cap(b.events.C()) {
		b.events.Emit(backend.Acquire{})
	}
	if !b.findMoved(k.seen()) || b.counts[eventsLost] != 1 {
		t.Error("policies would be put right before anybody was told")
	}
	for len(b.events.C()) > 0 {
		b.told()
	}
	if !b.findMoved(k.seen()) || b.findMoved(k.seen()) {
		t.Error("the move was not told, or twice")
	}
	if ev, ok := b.told().(backend.MigrateSA); !ok || ev.Event.New != at || b.told() != nil || !b.holdUntil.After(time.Now()) {
		t.Errorf("event %+v", ev)
	}
	b.holdUntil = time.Time{} // it is over
	if !b.missSAs(k.seen()) {
		t.Error("an SA that is not at its place is not looked for again")
	}
	r.missing = r.missing.Add(-2 * missingTime)
	b.missSAs(k.seen())
	if ev, ok := b.told().(backend.Expire); !ok || ev.Why != "removed" || len(k.sas) != 0 || len(journaled(t, b)) != 0 {
		t.Errorf("event %+v, the kernel has %v, journal %q", ev, k.sas, journaled(t, b))
	}
	// Another SA with the same SPI is not it.
	r = k.carry(b, sad.In, spd.Tunnel, nil)
	m := k.moves(r, at)
	to := m.ID
	to.Dst = m.NewDst
	for _, spoil := range []func(*wire.SA){func(sa *wire.SA) { sa.ReqID = 8 }, func(sa *wire.SA) { sa.Mode = wire.ModeBEET }} {
		old := *k.sas[to]
		spoil(k.sas[to])
		if b.findMoved(k.seen()) {
			t.Errorf("%+v is taken for the SA", k.sas[to])
		}
		*k.sas[to] = old
	}
}

// A MIGRATE of policies names SAs of this backend by where they stand, also where an
// event before it has put them, and no others.
func TestMigrateNotes(t *testing.T) {
	k := &kernel{}
	b := on(t, k, t.TempDir())
	r := k.carry(b, sad.Out, spd.Tunnel, nil)
	step := func(from, to migrate.Pair, reqid uint32, want migrate.Pair) {
		t.Helper()
		ev := anEvent()
		ev.Entries[0] = migrate.Entry{Proto: 50, Mode: spd.Tunnel, ReqID: reqid, Old: from, New: to}
		b.migrated(&ev, nil)
		if r.next != want || len(journaled(t, b)) != map[bool]int{false: 1, true: 2}[want.Dst.IsValid() && want.Dst != r.id.Dst] {
			t.Errorf("from %v to %v: next is %v, journal %q", from, to, r.next, journaled(t, b))
		}
	}
	home, away, third := r.here(), migrate.Pair{Src: newSrc, Dst: newDst}, migrate.Pair{Src: newSrc, Dst: r.id.Dst}
	step(away, home, 7, migrate.Pair{})
	step(home, away, 8, migrate.Pair{})
	step(home, away, 7, away)
	step(away, third, 0, third)
	step(third, home, 7, migrate.Pair{})
}

// What probing makes of the kernel's answer to a MIGRATE_STATE of an SA that does not
// exist (Documentation/networking/xfrm/xfrm_migrate_state.rst, Feature Detection).
func TestProbeStateMigrate(t *testing.T) {
	for errno, want := range map[unix.Errno]bool{unix.ESRCH: true, unix.EINVAL: false, unix.ENOPROTOOPT: false} {
		k := &kernel{t: t, sas: map[wire.SAID]*wire.SA{}, errnos: map[wire.Type]unix.Errno{wire.MigrateState: errno}}
		r := Report{}
		r.probeFeatures(&socket{ends: k, in: make([]byte, maxDatagram)})
		if r.StateMigrate != want || strings.Contains(r.String(), "in place") != want {
			t.Errorf("%v: %t, %q", errno, r.StateMigrate, r.String())
		}
	}
}
