package engine_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/conf"
	"iked/crypto/suite"
	"iked/datapath"
	"iked/datapath/tun"
	"iked/ikev2"
	"iked/internal/engine"
	"iked/internal/ident"
	"iked/internal/secret"
	"iked/internal/transport/batch"
	"iked/spd"
)

// The benchmarks of this file measure one responder: an engine with the tables
// of the userspace datapath, and no sockets. Its peers are bare state machines.
// Every request of a round waits before the first one is handed to the responder,
// and what the peers compute is done while it rests, so that the CPU time of the
// process between the two is the responder's alone.

const benchKey = "correct horse battery staple"

var responderAddr = netip.MustParseAddrPort("192.0.2.1:500")

// responder is the engine that is measured.
type responder struct {
	*engine.Engine
	dp   *datapath.Datapath
	mu   sync.Mutex
	sent []ikev2.Datagram
	n    atomic.Int64
}

// Send implements engine.Transport.
func (r *responder) Send(local, remote netip.AddrPort, data []byte, natt bool, dscp uint8) error {
	r.mu.Lock()
	r.sent = append(r.sent, ikev2.Datagram{Local: remote, Remote: local, Data: slices.Clone(data), NATT: natt})
	r.mu.Unlock()
	r.n.Add(1)
	return nil
}

// Keepalive implements engine.Transport.
func (r *responder) Keepalive(local, remote netip.AddrPort) error { return nil }

// noWire is a raw socket that nothing comes from.
type noWire struct{}

func (noWire) Queues() int                                         { return 1 }
func (noWire) Protocol(int) uint8                                  { return 50 }
func (noWire) Serve(func(int, []batch.Packet))                     {}
func (noWire) Send(*batch.Writer, []batch.Packet) (r batch.Result) { return r }
func (noWire) Close() error                                        { return nil }
func (noWire) pathMTU(netip.Addr) (int, error)                     { return 1500, nil }

func newResponder(tb testing.TB, ike, esp string) *responder {
	r := &responder{dp: datapath.NewIO(datapath.Options{}, datapath.IO{
		Device: tun.NewMemory(1, 1400, func([]byte) {}), Raw: noWire{}, PathMTU: noWire{}.pathMTU,
	})}
	e, err := engine.New(engine.Options{Backend: r.dp, Transport: r, QueueLen: 1 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	r.Engine = e
	cfg, faults := conf.Parse("/nowhere/iked.yaml", fmt.Appendf(nil, `
limits: {half_open: 1000000, half_open_per_source: 1000000, cookie_threshold: 1000000, rate_per_source: 0}
connections:
  - name: office
    local_addrs: [192.0.2.1]
    proposals: [%s]
    local: {id: sun, auth: psk}
    remote: {auth: psk}
    children: [{name: net, local_ts: [10.1.0.0/16], remote_ts: [20.0.0.0/8], esp_proposals: [%s], start: passive}]
secrets:
  - {psk: %q}
`, ike, esp, benchKey), time.Now())
	if err := faults.Err(); err != nil {
		tb.Fatal(err)
	}
	if _, err := e.Apply(context.Background(), cfg); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e.Close(ctx)
		r.dp.Close()
	})
	return r
}

// take waits for n answers. They may go to sleep meanwhile: only CPU counts.
func (r *responder) take(tb testing.TB, n int) []ikev2.Datagram {
	for end := time.Now().Add(time.Minute); r.n.Load() < int64(n); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			tb.Fatalf("%d answers of %d came; dropped: %v", r.n.Load(), n, r.Drops())
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.sent
	r.sent = nil
	r.n.Store(0)
	return all
}

// settle waits until the shards and the supervisor have done what follows from
// the last message.
func (r *responder) settle(tb testing.TB) {
	if _, err := r.ListSAs(context.Background(), engine.SAFilter{IKE: "none"}); err != nil {
		tb.Fatal(err)
	}
	if _, err := r.ListConns(context.Background(), "none"); err != nil {
		tb.Fatal(err)
	}
}

// peers is the ikev2.Env of all initiators.
type peers struct{ ids uint32 }

func (p *peers) Candidates(local, remote netip.Addr) []*ikev2.Config { return nil }
func (p *peers) PSK(local, remote ident.ID) (secret.Bytes, bool) {
	return secret.New([]byte(benchKey)), true
}
func (p *peers) CertRequests(*ikev2.Config) []byte { return nil }
func (p *peers) NewSPI() ikev2.SPI {
	var b [8]byte
	rand.Read(b[:])
	return ikev2.SPI(binary.BigEndian.Uint64(b[:]))
}
func (p *peers) NextChildID() uint32 { p.ids++; return p.ids }
func (p *peers) NextIKEID() uint32   { p.ids++; return p.ids }
func (p *peers) Random(b []byte)     { rand.Read(b) }

// drive does what an initiator wants until it rests, and returns what it sends.
func drive(sa *ikev2.SA, now time.Time) (out []ikev2.Datagram, up bool) {
	for o := range sa.Outputs() {
		switch o := o.(type) {
		case ikev2.Send:
			out = append(out, ikev2.Datagram{Local: o.Remote, Remote: o.Local, Data: o.Data})
		case ikev2.Event:
			if _, ok := o.Event.(ikev2.ChildUp); ok {
				up = true
			}
		case ikev2.Request:
			switch w := o.Work.(type) {
			case ikev2.Compute:
				sa.Resume(now, o.ID, w.Run())
			case ikev2.AllocSPI:
				sa.Resume(now, o.ID, ikev2.SPIReply{SPI: 0xc0000000 + uint32(o.ID)})
			case ikev2.InstallChild:
				sa.Resume(now, o.ID, ikev2.DoneReply{})
			}
		}
	}
	return out, up
}

// initiate brings n tunnels up, from peers with the numbers from first on, and
// returns the responder's CPU time.
func (r *responder) initiate(tb testing.TB, ike, esp string, first, n int) (cpu time.Duration) {
	tb.Helper()
	ikeProps, err := suite.ParseProposals(suite.ProtoIKE, []string{ike})
	if err != nil {
		tb.Fatal(err)
	}
	espProps, err := suite.ParseProposals(suite.ProtoESP, []string{esp})
	if err != nil {
		tb.Fatal(err)
	}
	env := &peers{}
	now := time.Now()
	sas := make(map[netip.AddrPort]*ikev2.SA, n)
	var requests []ikev2.Datagram
	for i := first; i < first+n; i++ {
		a := [4]byte{172, byte(16 + i>>16), byte(i >> 8), byte(i)}
		id, err := ident.Parse(fmt.Sprintf("peer-%d.example.org", i))
		if err != nil {
			tb.Fatal(err)
		}
		local, _ := ident.Parse("sun")
		host := spd.Host(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}))
		child := &ikev2.ChildConfig{Name: "net", Proposals: espProps,
			Local:  []ikev2.Selector{{TS: host}},
			Remote: []ikev2.Selector{{TS: spd.FromPrefix(netip.MustParsePrefix("10.1.0.0/16"))}}}
		cfg := &ikev2.Config{Name: "bench", Proposals: ikeProps, Children: []*ikev2.ChildConfig{child},
			Local:  ikev2.AuthConfig{Class: ikev2.AuthPSK, ID: id},
			Remote: ikev2.AuthConfig{Class: ikev2.AuthPSK, ID: local}}
		addr := netip.AddrPortFrom(netip.AddrFrom4(a), 500)
		sa := ikev2.NewInitiator(env, cfg, addr, responderAddr)
		sa.Start(now, ikev2.StartInit{Child: child})
		sas[addr] = sa
		out, _ := drive(sa, now)
		requests = append(requests, out...)
	}
	up := 0
	for range 2 { // IKE_SA_INIT and IKE_AUTH
		runtime.GC()
		before := processTime(tb)
		for _, d := range requests {
			r.Receive(d)
		}
		answers := r.take(tb, len(requests))
		r.settle(tb)
		cpu += processTime(tb) - before
		requests = requests[:0]
		for _, d := range answers {
			sa := sas[d.Local]
			sa.Receive(now, d)
			out, done := drive(sa, now)
			requests = append(requests, out...)
			if done {
				up++
			}
		}
	}
	if up != n {
		tb.Fatalf("%d of %d tunnels came up: %v", up, n, r.Drops())
	}
	return cpu
}

// processTime is the CPU time of all threads.
func processTime(tb testing.TB) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

var benchSuites = []struct{ name, ike, esp string }{
	{"gcm", "aes128gcm16-prfsha256-x25519", "aes128gcm16"},
	{"cbc", "aes128-sha256-x25519", "aes128-sha256"},
}

// BenchmarkHandshake is the CPU time of a responder for IKE_SA_INIT and IKE_AUTH
// with a PSK, x25519 and the first CHILD_SA.
func BenchmarkHandshake(b *testing.B) {
	for _, s := range benchSuites {
		b.Run(s.name, func(b *testing.B) {
			r := newResponder(b, s.ike, s.esp)
			var cpu time.Duration
			done := 0
			for b.Loop() {
				cpu += r.initiate(b, s.ike, s.esp, done, 500)
				done += 500
			}
			b.ReportMetric(cpu.Seconds()*1e3/float64(done), "cpu-ms/handshake")
			b.ReportMetric(float64(done)/cpu.Seconds(), "handshakes/cpu-s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkMemory is what 10,000 IKE SAs with a CHILD_SA each take, both in the
// heap and of the stacks.
func BenchmarkMemory(b *testing.B) {
	const n = 10_000
	for _, s := range benchSuites {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				r := newResponder(b, s.ike, s.esp)
				r.initiate(b, s.ike, s.esp, 0, 100)
				before := inUse()
				for i := 100; i < n+100; i += 1000 {
					r.initiate(b, s.ike, s.esp, i, 1000)
				}
				b.ReportMetric(float64(inUse()-before)/n, "B/SA")
				if st := r.Stats(); st.IKESAs != n+100 {
					b.Fatalf("%d IKE SAs, expected %d", st.IKESAs, n+100)
				}
				runtime.KeepAlive(r)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// inUse is what is reachable, in octets.
func inUse() uint64 {
	for range 3 {
		runtime.GC() // also what sync.Pool keeps over one
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
