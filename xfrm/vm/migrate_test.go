package vm

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"iked/internal/backend"
	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop/mip6"
	"iked/migrate"
	"iked/spd"
	"iked/xfrm"
)

// elsewhere is where the local end goes.
var elsewhere = netip.MustParseAddr("192.0.2.9")

// moves are the events that move the local end of protection, by direction.
func moves(dirs ...migrate.Dir) (list []migrate.Event) {
	for _, d := range dirs {
		e := migrate.Event{Dir: d, Selector: spd.KernelSelector{Src: netL, Dst: netR}, KM: migrate.Ends{Local: elsewhere, Remote: remote},
			Entries: []migrate.Entry{{Proto: 50, Mode: spd.Tunnel, ReqID: 7, Old: migrate.Pair{Src: local, Dst: remote}, New: migrate.Pair{Src: elsewhere, Dst: remote}}}}
		if x := &e.Entries[0]; d != migrate.Out {
			e.Selector.Src, e.Selector.Dst = netR, netL
			x.Old, x.New = migrate.Pair{Src: remote, Dst: local}, migrate.Pair{Src: remote, Dst: elsewhere}
		}
		list = append(list, e)
	}
	return list
}

// A MIGRATE that somebody asks for, by either of the kernel's ways, is heard by both:
// netlink tells all, PF_KEY all but ports. The backend then finds its SAs where they
// were moved to: nothing is put into the kernel, and what follows is about the new place.
func TestMigrateIsHeardByBothWays(t *testing.T) {
	uml.Require(t)
	for name, ask := range map[string]func(*testnet.Namespace, ...migrate.Event) error{"netlink": mip6.Netlink, "PF_KEY": mip6.PFKey} {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t)
			state := t.TempDir()
			b := open(t, ns, xfrm.Options{State: state})
			out := install(t, b, 0x1000)
			for _, ev := range moves(migrate.Out, migrate.In, migrate.Fwd) {
				must(t, ask(ns, ev))
				var heard [2]int
				for heard[migrate.Netlink] == 0 || heard[migrate.PFKey] == 0 {
					select {
					case e := <-b.Events():
						m, ok := e.(backend.Migrate)
						if !ok || m.Event.Dir != ev.Dir || len(m.Event.Entries) != 1 || m.Event.Entries[0] != ev.Entries[0] || m.Event.KM != ev.KM || m.Event.Selector != ev.Selector {
							t.Fatalf("event %+v, expected %+v", e, ev)
						}
						heard[m.Event.Source]++
					case <-time.After(20 * time.Second):
						t.Fatalf("direction %v: heard by netlink and by PF_KEY: %v", ev.Dir, heard)
					}
				}
			}
			before := ip(t, ns, "xfrm", "state")
			id, err := b.UpdateSA(out.ID, backend.Move{Src: elsewhere, Dst: remote})
			must(t, err)
			in := out.ID
			in.Dir, in.SPI, in.Dst = 1, 0x1000, local
			in, err = b.UpdateSA(in, backend.Move{Src: remote, Dst: elsewhere})
			must(t, err)
			if after := ip(t, ns, "xfrm", "state"); after != before || strings.Count(after, "proto esp") != 2 || !strings.Contains(after, "src 192.0.2.9 dst 192.0.2.2") {
				t.Errorf("SAs before and after the backend was told:\n%s\n%s", before, after)
			}
			must(t, b.DeleteSA(id))
			must(t, b.DeleteSA(in))
			if s := ip(t, ns, "xfrm", "state"); s != "" {
				t.Errorf("left in the kernel:\n%s", s)
			}
		})
	}
}

// key is the key of an SA as ip shows it.
var key = regexp.MustCompile(`aead rfc4106\(gcm\(aes\)\) (0x[0-9a-f]+) 128`)

// An SA that somebody put at another place, without a word that this backend hears of as
// a move, is found by the comparison with the kernel, and told; its policy, which stands
// where it was, is not touched before. Then all of it is at the new place, or gone with
// the SA, and nothing stays anywhere.
func TestSAPutElsewhereIsFound(t *testing.T) {
	uml.Require(t)
	for _, followed := range []bool{true, false} {
		ns := namespace(t)
		b := open(t, ns, xfrm.Options{State: t.TempDir(), Sweep: 500 * time.Millisecond})
		out := install(t, b, 0x1000)
		id := []string{"src", local.String(), "dst", remote.String(), "proto", "esp", "spi", "0x1001"}
		shown := ip(t, ns, append([]string{"xfrm", "state", "get"}, id...)...)
		k := key.FindStringSubmatch(shown)
		if k == nil {
			t.Fatalf("no key in:\n%s", shown)
		}
		away := remote.Next()
		ip(t, ns, "xfrm", "state", "add", "src", elsewhere.String(), "dst", away.String(), "proto", "esp", "spi", "0x1001", "reqid", "7", "mode", "tunnel", "aead", "rfc4106(gcm(aes))", k[1], "128")
		ip(t, ns, append([]string{"xfrm", "state", "delete"}, id...)...)
		next := func(what string) backend.Event {
			t.Helper()
			select {
			case e := <-b.Events():
				return e
			case <-time.After(30 * time.Second):
				t.Fatalf("nobody was told of %s", what)
			}
			return nil
		}
		want := migrate.Single{Proto: 50, SPI: 0x1001, Dst: remote, New: migrate.Pair{Src: elsewhere, Dst: away}}
		if e, ok := next("the move").(backend.MigrateSA); !ok || e.Event != want {
			t.Fatalf("event %+v, expected %+v", e, want)
		}
		if s := ip(t, ns, "xfrm", "policy"); strings.Contains(s, away.String()) {
			t.Errorf("the policy is another one before anybody said so:\n%s", s)
		}
		if followed {
			moved, err := b.UpdateSA(out.ID, backend.Move{Src: elsewhere, Dst: away})
			must(t, err)
			p := protection()
			p.OuterLocal, p.OuterRemote = elsewhere, away
			must(t, b.ApplyPolicies([]uint64{p.ID}, []spd.Policy{p}))
			if s := ip(t, ns, "xfrm", "policy"); strings.Contains(s, "src 192.0.2.1 ") || strings.Count(s, elsewhere.String()) != 3 {
				t.Errorf("policies:\n%s", s)
			}
			time.Sleep(time.Second) // two comparisons
			if n := b.Counters()["repaired"] + b.Counters()["sas_removed_by_others"]; n != 0 {
				t.Errorf("%d things were put right, or are taken to be gone", n)
			}
			must(t, b.DeleteSA(moved))
		} else if e, ok := next("the end of an SA that nobody followed").(backend.Expire); !ok || e.ID != out.ID || e.Why != "removed" {
			t.Errorf("event %+v", e)
		}
		if s := ip(t, ns, "xfrm", "state"); strings.Contains(s, "0x00001001") {
			t.Errorf("followed %t: left in the kernel:\n%s", followed, s)
		}
	}
}
