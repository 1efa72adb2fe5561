package spd

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// slow is the SPD as RFC 4301 describes it: a list, looked at in order.
type slow struct{ entries []*entry }

func (s *slow) lookup(f *Flow) uint64 {
	var best *entry
	for _, e := range s.entries {
		if e.pol.Dirs.has(f) && f.Match(e.pol.Local, e.pol.Remote) && (best == nil || e.before(best)) {
			best = e
		}
	}
	if best == nil {
		return 0
	}
	return best.pol.ID
}

func genFlow(t *rapid.T) Flow {
	v6 := rapid.IntRange(0, 3).Draw(t, "flow.v6") == 0
	addr := func(n string) netip.Addr {
		v := rapid.IntRange(0, 41*32).Draw(t, n)
		if v6 {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(v / 256), 15: byte(v)})
		}
		return netip.AddrFrom4([4]byte{10, 0, byte(v / 256), byte(v)})
	}
	f := Flow{Local: addr("flow.local"), Remote: addr("flow.remote")}
	f.Proto = rapid.SampledFrom([]uint8{6, 17, 1, 58, 135, 47}).Draw(t, "flow.proto")
	f.Inbound = rapid.Bool().Draw(t, "flow.inbound")
	if f.HasPorts = f.Proto != 47 && rapid.Bool().Draw(t, "flow.ports"); f.HasPorts {
		f.LocalPort = rapid.Uint16Range(0, 700).Draw(t, "flow.lport")
		f.RemotePort = rapid.Uint16Range(0, 700).Draw(t, "flow.rport")
		if typed(f.Proto) {
			f.RemotePort = f.LocalPort
		}
	}
	return f
}

// The table finds the same policy as a list that is looked at in order, for
// ranges, ports, OPAQUE, ICMP and priorities, through any sequence of changes.
func TestTableAgreesWithList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab, ref := NewTable(Discard), &slow{}
		age := uint64(0)
		for step := range rapid.IntRange(1, 6).Draw(t, "steps") {
			var remove []uint64
			for range rapid.IntRange(0, 6).Draw(t, "removals") {
				remove = append(remove, rapid.Uint64Range(1, 60).Draw(t, "removed"))
			}
			var add []Policy
			for i := range rapid.IntRange(0, 24).Draw(t, "additions") {
				p := Policy{ID: rapid.Uint64Range(1, 60).Draw(t, "id"), Priority: rapid.Uint32Range(0, 3).Draw(t, "prio"),
					Dirs: rapid.SampledFrom([]Dirs{Both, Both, Outbound, Inbound, Outbound | Inbound}).Draw(t, "dirs")}
				for range rapid.IntRange(1, 3).Draw(t, "locals") {
					p.Local = append(p.Local, genTS(t, fmt.Sprint("l", step, i)))
				}
				for range rapid.IntRange(1, 3).Draw(t, "remotes") {
					p.Remote = append(p.Remote, genTS(t, fmt.Sprint("r", step, i)))
				}
				if rapid.IntRange(0, 2).Draw(t, "same remote") == 0 {
					p.Remote = list("0.0.0.0/0", "::/0")
				}
				add = append(add, p)
			}
			if err := tab.Apply(remove, add); err != nil {
				t.Fatal(err)
			}
			for _, id := range remove {
				for i, e := range ref.entries {
					if e.pol.ID == id {
						ref.entries = append(ref.entries[:i:i], ref.entries[i+1:]...)
						break
					}
				}
			}
			for _, p := range add {
				age++
				e := newEntry(&p)
				e.no = age
				for i, o := range ref.entries {
					if o.pol.ID == p.ID {
						e.no = o.no
						ref.entries = append(ref.entries[:i:i], ref.entries[i+1:]...)
						break
					}
				}
				ref.entries = append(ref.entries, e)
			}
			if tab.Len() != len(ref.entries) || len(tab.Policies()) != tab.Len() {
				t.Fatalf("%d policies, expected %d", tab.Len(), len(ref.entries))
			}
			for range 12 {
				f := genFlow(t)
				if got, want := tab.Lookup(&f).ID, ref.lookup(&f); got != want {
					t.Fatalf("flow %+v: policy %d, expected %d", f, got, want)
				}
			}
		}
		// What was removed leaves nothing behind.
		var all []uint64
		for _, p := range tab.Policies() {
			all = append(all, p.ID)
		}
		if err := tab.Apply(all, nil); err != nil {
			t.Fatal(err)
		}
		if n := tab.snap.Load().remote.n; n != 0 {
			t.Fatalf("an emptied table still has %d prefixes", n)
		}
	})
}

// The default entry answers when nothing matches; a faulty policy changes nothing.
func TestTableDefaultAndFaults(t *testing.T) {
	tab := NewTable(Discard)
	f := Flow{Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr("10.0.0.2")}
	if p := tab.Lookup(&f); p.ID != 0 || p.Action != Discard {
		t.Errorf("empty table: %+v, expected the default entry, discard", p)
	}
	if p := tab.Lookup(&Flow{}); p.ID != 0 {
		t.Errorf("flow without addresses: %+v, expected the default entry", p)
	}
	good := Policy{ID: 1, Local: list("0.0.0.0/0"), Remote: list("0.0.0.0/0"), Action: Bypass}
	for _, bad := range []Policy{
		{ID: 0, Local: good.Local, Remote: good.Remote},
		{ID: 2, Local: good.Local},
		{ID: 2, Local: good.Local, Remote: []TS{{}}},
		{ID: 2, Local: good.Local, Remote: []TS{{From: f.Remote, To: f.Local}}},
		{ID: 2, Local: good.Local, Remote: good.Remote, Action: Protect, Dirs: Inbound},
		{ID: 2, Local: good.Local, Remote: good.Remote, Action: Bypass, Dirs: 4},
	} {
		g := tab.Generation()
		if err := tab.Apply(nil, []Policy{good, bad}); err == nil || tab.Generation() != g || tab.Len() != 0 {
			t.Errorf("policy %+v: error %v, %d entries, expected an error and no change", bad, err, tab.Len())
		}
	}
	if err := tab.Apply(nil, []Policy{good}); err != nil || tab.Lookup(&f).ID != 1 || tab.Generation() == 0 {
		t.Errorf("after Apply: %v, generation %d", err, tab.Generation())
	}
}

// A bucket that was split and shrinks to one entry finds that one.
func TestTableShrinks(t *testing.T) {
	tab := NewTable(Discard)
	var add []Policy
	var remove []uint64
	for i := range uint64(20) {
		add = append(add, Policy{ID: i + 1, Local: list(fmt.Sprintf("10.%d.0.0/16", i)), Remote: list("0.0.0.0/0")})
		remove = append(remove, i+1)
	}
	if err := tab.Apply(nil, add); err != nil {
		t.Fatal(err)
	}
	if err := tab.Apply(remove[:19], nil); err != nil {
		t.Fatal(err)
	}
	for i := range byte(20) {
		f := Flow{Local: netip.AddrFrom4([4]byte{10, i, 0, 1}), Remote: netip.MustParseAddr("192.0.2.1")}
		if got := tab.Lookup(&f).ID; (got == 20) != (i == 19) || got != 0 && got != 20 {
			t.Errorf("local network %d: policy %d, only policy 20 is left", i, got)
		}
	}
}

// Readers see whole changes only: a policy and its replacement never are both absent.
func TestTableConcurrentReaders(t *testing.T) {
	tab := NewTable(Discard)
	p := Policy{ID: 1, Local: list("0.0.0.0/0"), Remote: list("10.2.0.0/16"), Action: Protect}
	if err := tab.Apply(nil, []Policy{p}); err != nil {
		t.Fatal(err)
	}
	f := Flow{Local: netip.MustParseAddr("10.1.0.1"), Remote: netip.MustParseAddr("10.2.0.1"), Proto: 6}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if tab.Lookup(&f).Action != Protect {
					t.Error("a reader saw the table in between")
					return
				}
			}
		})
	}
	for i := uint64(1); i < 300; i++ {
		p.ID = i + 1
		add := []Policy{p}
		for j := range uint64(20) {
			o := p
			o.ID, o.Remote = 1000+j, list(fmt.Sprintf("10.%d.0.0/16", 3+(i+j)%200))
			add = append(add, o)
		}
		if err := tab.Apply([]uint64{i}, add); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

// A look-up makes no garbage.
func TestLookupAllocs(t *testing.T) {
	tab, flows := bigTable(1000)
	i := 0
	if n := testing.AllocsPerRun(1000, func() { tab.Lookup(&flows[i%len(flows)]); i++ }); n != 0 {
		t.Errorf("%v allocations per look-up, expected none", n)
	}
}

// bigTable has n site-to-site policies: each a /24 behind a gateway, between one
// of few local networks and its own remote one, under a bypass of the local
// ones and a final discard; and flows that hit them all.
func bigTable(n int) (*Table, []Flow) {
	tab := NewTable(Discard)
	add := make([]Policy, 0, n)
	flows := make([]Flow, 0, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 20<<24+uint32(i)<<8)
		add = append(add, Policy{
			ID: uint64(i + 1), Action: Protect, Priority: 100,
			Local:  []TS{FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i % 8)}), 16))},
			Remote: []TS{FromPrefix(netip.PrefixFrom(netip.AddrFrom4(a), 24))},
		})
		a[3] = byte(r.Uint32())
		flows = append(flows, Flow{Local: netip.AddrFrom4([4]byte{10, byte(i % 8), 1, 1}), Remote: netip.AddrFrom4(a), Proto: 6, LocalPort: 40000, RemotePort: 443, HasPorts: true})
	}
	if err := tab.Apply(nil, add); err != nil {
		panic(err)
	}
	r.Shuffle(len(flows), func(i, j int) { flows[i], flows[j] = flows[j], flows[i] })
	return tab, flows
}

// sameRemote is the other extreme: all policies have the remote 0.0.0.0/0 and a
// local host of their own.
func sameRemote(n int) (*Table, []Flow) {
	tab, flows := bigTable(n)
	var add []Policy
	var remove []uint64
	for _, p := range tab.Policies() {
		remove = append(remove, p.ID)
		p.Local, p.Remote = p.Remote, list("0.0.0.0/0")
		add = append(add, p)
	}
	for i := range flows {
		flows[i].Local, flows[i].Remote = flows[i].Remote, flows[i].Local
	}
	if err := tab.Apply(remove, add); err != nil {
		panic(err)
	}
	return tab, flows
}

// benchTables are the two extremes.
var benchTables = []struct {
	name string
	make func(int) (*Table, []Flow)
}{{"remotes", bigTable}, {"locals", sameRemote}}

type flowSet struct {
	name  string
	flows []Flow
}

// benchFlows are sets of flows: the packets of a moment belong to at most 1,000
// flows, spread over all policies; or to as many as there are policies.
func benchFlows(flows []Flow) []flowSet {
	return []flowSet{{"busy1000", flows[:min(len(flows), 1000)]}, {"all", flows}}
}

// The ordered look-up alone.
func BenchmarkLookup(b *testing.B) {
	for _, kind := range benchTables {
		for _, n := range []int{10, 1000, 100_000} {
			tab, flows := kind.make(n)
			for _, set := range benchFlows(flows) {
				b.Run(fmt.Sprintf("%s/policies=%d/flows=%s", kind.name, n, set.name), func(b *testing.B) {
					b.ReportAllocs()
					runtime.LockOSThread()
					defer runtime.UnlockOSThread()
					i, n, before := 0, 0, threadTime(b)
					for b.Loop() {
						n++
						if tab.Lookup(&set.flows[i]).ID == 0 {
							b.Fatal("no policy")
						}
						if i++; i == len(set.flows) {
							i = 0
						}
					}
					// Other programs on the machine do not count here.
					b.ReportMetric(float64(threadTime(b)-before)/float64(n), "cpu-ns/op")
				})
			}
		}
	}
}

// threadTime is the CPU time of the calling thread in nanoseconds.
func threadTime(b *testing.B) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return ts.Nano()
}

// One change in a full table.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		tab, _ := bigTable(n)
		p := Policy{ID: 1 << 40, Local: list("10.0.0.0/8"), Remote: list("99.0.0.0/24")}
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			for b.Loop() {
				if err := tab.Apply([]uint64{p.ID}, []Policy{p}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
