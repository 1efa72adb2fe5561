package vm

import (
	"strings"
	"testing"
	"time"

	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop/mip6"
	"iked/migrate"
	"iked/sad"
	"iked/xfrm"
)

// overlap adds a second pair of SAs for the policy of install, as during a rekeying.
func overlap(t *testing.T, b *xfrm.Backend, spi uint32) (in, out *sad.SA) {
	t.Helper()
	in, out = backendtest.Pair(7, local, remote, spi, spi+1, netL, netR)
	must(t, b.AddSA(in))
	must(t, b.AddSA(out))
	return in, out
}

// between counts the SAs of the kernel that go from one address to another.
func between(t *testing.T, ns *testnet.Namespace, src, dst string) int {
	t.Helper()
	return strings.Count(ip(t, ns, "xfrm", "state"), "src "+src+" dst "+dst+"\n")
}

// A MIGRATE moves one of several SAs of a policy. The others follow at once, before
// anybody tells the backend to move them. All are known by the identity that they had,
// and by the new one from then on.
func TestNoSAIsLeftBehindByAMigrate(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	b := open(t, ns, xfrm.Options{State: t.TempDir()})
	first := install(t, b, 0x1000)
	in, out := overlap(t, b, 0x2000)
	for _, ev := range moves(migrate.Out, migrate.In) {
		must(t, mip6.Netlink(ns, ev))
	}
	eventually(t, "both pairs at the new address", 20*time.Second, func() bool {
		return between(t, ns, elsewhere.String(), remote.String()) == 2 && between(t, ns, remote.String(), elsewhere.String()) == 2
	})
	if n := between(t, ns, local.String(), remote.String()) + between(t, ns, remote.String(), local.String()); n != 0 {
		t.Errorf("%d SAs are at the old address too", n)
	}
	before := ip(t, ns, "xfrm", "state")
	id, err := b.UpdateSA(out.ID, backend.Move{Src: elsewhere, Dst: remote})
	must(t, err)
	inID, err := b.UpdateSA(in.ID, backend.Move{Src: remote, Dst: elsewhere})
	must(t, err)
	if after := ip(t, ns, "xfrm", "state"); after != before {
		t.Errorf("SAs before and after the backend was told:\n%s\n%s", before, after)
	}
	// One that was never told of is deleted where it is.
	firstIn := first.ID
	firstIn.Dir, firstIn.SPI, firstIn.Dst = sad.In, 0x1000, local
	for _, id := range []sad.ID{id, inID, first.ID, firstIn} {
		must(t, b.DeleteSA(id))
	}
	if s := ip(t, ns, "xfrm", "state"); s != "" {
		t.Errorf("left in the kernel:\n%s", s)
	}
}

// An SA that is added where those of its policy were a moment ago goes where they are:
// whoever adds it has not heard of the move.
func TestAddedWhileItMoves(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	b := open(t, ns, xfrm.Options{State: t.TempDir()})
	install(t, b, 0x1000)
	for _, ev := range moves(migrate.Out, migrate.In) {
		must(t, mip6.Netlink(ns, ev))
	}
	in, out := overlap(t, b, 0x2000)
	eventually(t, "both pairs at the new address", 20*time.Second, func() bool {
		return between(t, ns, elsewhere.String(), remote.String()) == 2 && between(t, ns, remote.String(), elsewhere.String()) == 2
	})
	must(t, b.DeleteSA(in.ID))
	id, err := b.UpdateSA(out.ID, backend.Move{Src: elsewhere, Dst: remote})
	must(t, err)
	must(t, b.DeleteSA(id))
	if n := strings.Count(ip(t, ns, "xfrm", "state"), "proto esp"); n != 2 {
		t.Errorf("%d SAs are left, expected those that were there before", n)
	}
}

// An SA that is deleted while the news of its move is on the way is deleted where it
// went, however the two meet.
func TestDeletedWhileItMoves(t *testing.T) {
	uml.Require(t)
	for range 8 {
		ns := namespace(t)
		b := open(t, ns, xfrm.Options{State: t.TempDir()})
		install(t, b, 0x1000)
		must(t, mip6.Netlink(ns, moves(migrate.In)[0]))
		in := sad.ID{Dir: sad.In, Proto: 3, SPI: 0x1000, Dst: local}
		must(t, b.DeleteSA(in))
		eventually(t, "the inbound SA is gone", 20*time.Second, func() bool {
			return between(t, ns, remote.String(), local.String())+between(t, ns, remote.String(), elsewhere.String()) == 0
		})
		must(t, b.Close())
	}
}

// The end of the backend after a MIGRATE, before anybody told it to move its SAs, leaves
// none.
func TestClosedWhileItMoves(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	state := t.TempDir()
	b := open(t, ns, xfrm.Options{State: state})
	install(t, b, 0x1000)
	for _, ev := range moves(migrate.Out, migrate.In) {
		must(t, mip6.Netlink(ns, ev))
	}
	for range 2 {
		select {
		case <-b.Events(): // the backend is through with it
		case <-time.After(20 * time.Second):
			t.Fatal("no event")
		}
	}
	eventually(t, "both SAs at the new address", 20*time.Second, func() bool {
		return between(t, ns, elsewhere.String(), remote.String())+between(t, ns, remote.String(), elsewhere.String()) == 2
	})
	must(t, b.Close())
	if s := ip(t, ns, "xfrm", "state"); s != "" {
		t.Errorf("left in the kernel:\n%s", s)
	}
}
