package xfrm

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/backend"
	"iked/internal/testnet"
	"iked/migrate"
	"iked/migrate/form"
	"iked/spd"
	"iked/xfrm/wire"
)

// What a mobility manager tells the machine's own kernel of its policies is heard here as
// the manager said it, for every direction, also from one family to the other, and as
// often as it is said; what the kernel refuses is not heard. SAs are not in it: for
// policies a kernel needs no ESP.
func TestManagerIsHeard(t *testing.T) {
	host := oneHost(t)
	b := newBackend(Options{})
	b.events.Init()
	var manager *socket
	if err := host.Do(func() (err error) {
		if manager, err = newSocket(); err != nil {
			return err
		}
		if b.req, err = newSocket(); err != nil {
			return err
		}
		b.heard, err = newListener(b.req.port)
		return err
	}); errors.Is(err, unix.EPROTONOSUPPORT) {
		testnet.LeaveOut(t, "this kernel takes no IPsec policies (CONFIG_XFRM_USER)")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(manager.close)
	t.Cleanup(b.req.close)
	b.wg.Go(b.heard.run)
	b.wg.Go(b.handle)
	t.Cleanup(func() {
		b.heard.close()
		b.wg.Wait()
	})
	forever := wire.Lifetime{SoftBytes: wire.Infinite, HardBytes: wire.Infinite, SoftPackets: wire.Infinite, HardPackets: wire.Infinite}
	ev := anEvent()
	ev.Source = migrate.Netlink
	put := func(e *migrate.Event) error {
		x := e.Entries[0]
		_, err := manager.one(wire.NewPolicy, unix.NLM_F_CREATE|unix.NLM_F_EXCL, &wire.Policy{
			PolicyInfo: wire.PolicyInfo{Lifetime: forever, Dir: uint8(e.Dir), Priority: 10, Sel: wire.Selector{
				Src: wire.AddressOf(e.Selector.Src.Addr()), SrcLen: uint8(e.Selector.Src.Bits()),
				Dst: wire.AddressOf(e.Selector.Dst.Addr()), DstLen: uint8(e.Selector.Dst.Bits()), Family: wire.Inet}},
			Attrs: wire.Attrs{Templates: []wire.Template{{ID: wire.ID{Dst: wire.AddressOf(x.Old.Dst), Proto: x.Proto}, Family: wire.Inet, Src: wire.AddressOf(x.Old.Src),
				ReqID: x.ReqID, Mode: wire.ModeTunnel, AuthAlgs: ^uint32(0), EncrAlgs: ^uint32(0), CompAlgs: ^uint32(0)}}}})
		return err
	}
	tell := func(e *migrate.Event) error {
		_, err := manager.one(wire.MigrateMsg, 0, form.ToXFRM(e))
		return err
	}
	in := ev
	in.Dir = migrate.In
	in.Selector.Src, in.Selector.Dst = ev.Selector.Dst, ev.Selector.Src
	back := func(p migrate.Pair) migrate.Pair { return migrate.Pair{Src: p.Dst, Dst: p.Src} }
	in.Entries = []migrate.Entry{ev.Entries[0]}
	in.Entries[0].Old, in.Entries[0].New = back(ev.Entries[0].Old), back(ev.Entries[0].New)
	six := ev
	six.Entries = []migrate.Entry{ev.Entries[0]}
	six.Entries[0].Old, six.Entries[0].New = ev.Entries[0].New, migrate.Pair{Src: netip.MustParseAddr("2001:db8::9"), Dst: netip.MustParseAddr("2001:db8::2")}
	six.KM = migrate.Ends{Local: six.Entries[0].New.Src, Remote: six.Entries[0].New.Dst}
	for _, e := range []*migrate.Event{&ev, &in} {
		if err := put(e); err != nil {
			t.Fatal(err)
		}
	}
	none := ev
	none.Selector = spd.KernelSelector{Src: ev.Selector.Dst, Dst: ev.Selector.Dst}
	if err := tell(&none); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a MIGRATE of no policy: %v", err)
	}
	for _, e := range []*migrate.Event{&ev, &in, &six} {
		if err := tell(e); err != nil {
			t.Fatalf("%v from %v: %v", e.Dir, e.Entries[0].Old, err)
		}
		select {
		case got := <-b.events.C():
			m, ok := got.(backend.Migrate)
			if !ok || m.Event.Source != migrate.Netlink || m.Event.Dir != e.Dir || m.Event.Selector.Src != e.Selector.Src || m.Event.Selector.Dst != e.Selector.Dst ||
				!slices.Equal(m.Event.Entries, e.Entries) || m.Event.KM != e.KM {
				t.Errorf("heard %+v, told %+v", got, *e)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing is heard of %v from %v", e.Dir, e.Entries[0].Old)
		}
	}
	// It was moved by the first one: the same again moves no policy.
	if err := tell(&ev); err == nil {
		t.Error("a policy moves twice from the same place")
	}
	select {
	case got := <-b.events.C():
		t.Errorf("heard of what the kernel refused: %+v", got)
	case <-time.After(50 * time.Millisecond):
	}
}
