package sad

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// RFC 4303, Section 3.3.3: the first number is 1 and none is given out twice,
// at the end of 32 and of 64 bits too.
func TestCounter(t *testing.T) {
	for _, esn := range []bool{false, true} {
		var c Counter
		c.Init(esn)
		if seq, ok := c.Next(); seq != 1 || !ok {
			t.Errorf("ESN %v: first number %d, %v", esn, seq, ok)
		}
		c.Skip(c.max - 2)
		if seq, ok := c.Next(); seq != c.max || !ok {
			t.Errorf("ESN %v: last number %d, %v, expected %d", esn, seq, ok, c.max)
		}
		for range 3 {
			if seq, ok := c.Next(); ok {
				t.Errorf("ESN %v: number %d behind the last was given out", esn, seq)
			}
		}
		if c.Last() != c.max {
			t.Errorf("ESN %v: last is %d, expected %d", esn, c.Last(), c.max)
		}
	}
}

// Limits in time, bytes and packets, soft before hard, the hard one exact.
func TestMeter(t *testing.T) {
	var m Meter
	m.Init(Limits{SoftTime: time.Minute, HardTime: time.Hour, SoftBytes: 100, HardBytes: 200, SoftPackets: 5, HardPackets: 6}, start)
	for _, c := range []struct {
		n    int
		want Expiry
	}{{99, Alive}, {1, SoftBytes}, {100, SoftBytes}, {1, HardBytes}} {
		if e := m.Add(c.n); e != c.want {
			t.Errorf("after %d octets more: %v, expected %v", c.n, e, c.want)
		}
	}
	var p Meter
	p.Init(Limits{SoftPackets: 2, HardPackets: 3}, start)
	for i, want := range []Expiry{Alive, SoftPackets, SoftPackets, HardPackets, HardPackets} {
		if e := p.Add(1); e != want {
			t.Errorf("packet %d: %v, expected %v", i+1, e, want)
		}
	}
	if e := p.Check(start); e != HardPackets || !e.Hard() || e.Why() != "packets" {
		t.Errorf("after the last packet: %v", e)
	}
	var c Meter
	c.Init(Limits{SoftTime: time.Minute, HardTime: time.Hour}, start)
	for at, want := range map[time.Duration]Expiry{0: Alive, 59 * time.Second: Alive, time.Minute: SoftTime, time.Hour: HardTime} {
		if e := c.Check(start.Add(at)); e != want {
			t.Errorf("at %v: %v, expected %v", at, e, want)
		}
	}
	for at, want := range map[time.Duration]time.Duration{0: time.Minute, time.Minute: time.Hour} {
		if d := c.Deadline(start.Add(at)); !d.Equal(start.Add(want)) {
			t.Errorf("deadline after %v is %v, expected %v", at, d, want)
		}
	}
	if !c.Deadline(start.Add(time.Hour)).IsZero() {
		t.Error("a deadline is left after the last limit")
	}
	if !c.Usage().LastUsed.IsZero() {
		t.Error("an unused SA has a last use")
	}
	c.Touch(start.Add(time.Second))
	if !c.Usage().LastUsed.Equal(start.Add(time.Second)) {
		t.Errorf("last use %v", c.Usage().LastUsed)
	}
}

// SPIs are 256 or more, unique, and come back when freed or not used in time.
func TestSPIs(t *testing.T) {
	var s SPIs
	seen := map[uint32]bool{}
	for range 5000 {
		spi, err := s.Alloc(start)
		if err != nil || spi < MinSPI || seen[spi] {
			t.Fatalf("SPI %08x, %v, given before %v", spi, err, seen[spi])
		}
		seen[spi] = true
	}
	var used uint32
	for spi := range seen {
		used = spi
		break
	}
	if err := s.Use(used); err != nil {
		t.Error(err)
	}
	if err := s.Use(used); err == nil {
		t.Error("an SPI was used twice")
	}
	if err := s.Use(255); err == nil {
		t.Error("a reserved SPI was used")
	}
	if _, err := s.Alloc(start.Add(ReservationTime)); err != nil {
		t.Fatal(err)
	}
	if len(s.taken) != 2 || s.reserved != 1 {
		t.Errorf("after two minutes %d SPIs are taken and %d reserved, expected the used one and a new one", len(s.taken), s.reserved)
	}
	s.Free(used)
	s.Free(used)
	if err := s.Use(used); err != nil {
		t.Errorf("a freed SPI: %v", err)
	}
}

// The table finds what was put, for random and for consecutive SPIs, while it grows and shrinks.
func TestTable(t *testing.T) {
	var tab Table[int]
	if tab.Get(1) != nil || tab.Delete(1) != nil {
		t.Error("an empty table has an SA")
	}
	const n = 20000
	v := make([]int, n)
	spi := func(i int) uint32 {
		if i%2 == 0 {
			return uint32(256 + i)
		}
		return uint32(i) * 2654435761
	}
	for i := range n {
		if err := tab.Put(spi(i), &v[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tab.Put(spi(7), &v[0]); err == nil {
		t.Error("an SPI was put twice")
	}
	for i := range n {
		if tab.Get(spi(i)) != &v[i] {
			t.Fatalf("SPI %08x is not found", spi(i))
		}
	}
	for i := 0; i < n; i += 3 {
		if tab.Delete(spi(i)) != &v[i] {
			t.Fatalf("SPI %08x is not deleted", spi(i))
		}
	}
	count := 0
	for range tab.All() {
		count++
	}
	for i := range n {
		if got := tab.Get(spi(i)); (got == nil) != (i%3 == 0) {
			t.Fatalf("after deletion SPI %08x: %v", spi(i), got)
		}
	}
	if count != tab.Len() || count != n-(n+2)/3 {
		t.Errorf("%d SAs listed, %d counted, expected %d", count, tab.Len(), n-(n+2)/3)
	}
}

// A reader always finds an SA that stays, whatever is added and removed beside it.
func TestTableConcurrent(t *testing.T) {
	var tab Table[int]
	stays := 1
	if err := tab.Put(4711, &stays); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if tab.Get(4711) != &stays {
				t.Error("the SA was not found for a moment")
				return
			}
		}
	})
	for i := uint32(5000); i < 15000; i++ {
		if err := tab.Put(i, new(int)); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			tab.Delete(i)
		}
	}
	close(stop)
	wg.Wait()
}

// Reading makes no garbage.
func TestTableAllocs(t *testing.T) {
	var tab Table[int]
	for i := uint32(0); i < 100; i++ {
		if err := tab.Put(1000+i, new(int)); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { tab.Get(1050) }); n != 0 {
		t.Errorf("%v allocations per look-up", n)
	}
}

func BenchmarkTableGet(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		var tab Table[int]
		spis := make([]uint32, n)
		for i := range spis {
			spis[i] = uint32(i+1) * 2654435761
			if err := tab.Put(spis[i], new(int)); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if tab.Get(spis[i%n]) == nil {
					b.Fatal("not found")
				}
			}
		})
	}
}

// BenchmarkTableReqID is the choice of an outbound SA: the newest of the set of a
// ReqID. ReqIDs are counted, where SPIs are drawn.
func BenchmarkTableReqID(b *testing.B) {
	type set struct{ list atomic.Pointer[[]*SA] }
	for _, n := range []int{10, 1000, 100_000} {
		var tab Table[set]
		for i := range n {
			s := new(set)
			s.list.Store(&[]*SA{{ReqID: uint32(i + 1)}})
			if err := tab.Put(uint32(i+1), s); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				id := uint32(i*7919%n + 1)
				if s := tab.Get(id); s == nil || (*s.list.Load())[0].ReqID != id {
					b.Fatal("not found")
				}
			}
		})
	}
}
