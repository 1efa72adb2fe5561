package backendtest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/secret"
	"iked/internal/testnet"
	"iked/sad"
	"iked/spd"
)

// Side is a kind of backend that carries packets on one side of a pair.
type Side struct {
	// Name is that of backend.Info.
	Name string
	// Open makes a backend in a namespace; it closes with the test.
	Open func(t testing.TB, ns *testnet.Namespace) backend.Backend
	// Refuses tells which cells the backend is known not to carry. Each refusal of
	// the backend is held against it, both ways; nil: it carries every cell.
	Refuses func(Cell) bool
}

// Row is what came of a cell.
type Row struct {
	A, B string // names of the sides
	Cell
	// Refused is the reason in the words of the side that does not carry it; empty:
	// packets crossed, or Failed.
	Refused string
	Failed  bool
}

// endpoint is one gateway of a pair with the host behind it.
type endpoint struct {
	side     Side
	gw, host *testnet.Namespace
	b        backend.Backend
	events   *recorder
	// Addresses by family: outside, of the gateway inside, of the host behind, and
	// a second one of that host.
	wan, lan, site, site2 map[int]netip.Addr
	net                   map[int]netip.Prefix
	nodes                 map[netip.Addr]Node
}

// pair is two gateways on one link with a backend each. Cells come and go on it.
type pair struct {
	*testnet.Topology
	a, b *endpoint
	next uint32 // of SPIs, reqids and policies
}

// RunPair carries packets through SAs of every kind between two backends, which
// may be of different kinds, and then holds both to the rules that only packets
// show. report, if not nil, gets each cell's row.
func RunPair(t *testing.T, a, b Side, report func(Row)) {
	testnet.RequireRoot(t)
	p := newPair(t, a, b)
	t.Run("matrix", func(t *testing.T) {
		for _, c := range Cells() {
			row := Row{A: a.Name, B: b.Name, Cell: c}
			t.Run(strings.NewReplacer(" ", "-", ",", "", "/", "+").Replace(c.String()), func(t *testing.T) {
				defer func() {
					row.Failed = t.Failed()
					if report != nil {
						report(row)
					}
				}()
				if row.Refused = p.refusal(t, c); row.Refused == "" {
					p.carry(t, c)
				}
			})
		}
	})
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) { r.run(t, p) })
	}
}

func newPair(t *testing.T, a, b Side) *pair {
	t.Helper()
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	// More hosts at site B, and another address of gateway B, for what needs two.
	for _, err := range []error{
		topo.HostB.AddAddr("eth0", "10.2.0.3/24", "fd00:2::3/64"),
		topo.GwB.AddAddr("wan0", "192.0.2.22/24", "2001:db8::22/64"),
	} {
		must(t, err)
	}
	families := func(v4, v6 netip.Addr) map[int]netip.Addr { return map[int]netip.Addr{4: v4, 6: v6} }
	p := &pair{Topology: topo, next: 0x10000,
		a: &endpoint{side: a, gw: topo.GwA, host: topo.HostA, wan: families(topo.WanA4, topo.WanA6), lan: families(topo.LanA4, topo.LanA6),
			site: families(topo.HostA4, topo.HostA6), net: map[int]netip.Prefix{4: topo.NetA4, 6: topo.NetA6}},
		b: &endpoint{side: b, gw: topo.GwB, host: topo.HostB, wan: families(topo.WanB4, topo.WanB6), lan: families(topo.LanB4, topo.LanB6),
			site: families(topo.HostB4, topo.HostB6), site2: families(netip.MustParseAddr("10.2.0.3"), netip.MustParseAddr("fd00:2::3")),
			net: map[int]netip.Prefix{4: topo.NetB4, 6: topo.NetB6}},
	}
	for _, e := range []*endpoint{p.a, p.b} {
		e.b = e.side.Open(t, e.gw)
		e.events = record(e.b)
		if name := e.b.Describe().Name; name != e.side.Name {
			t.Fatalf("backend %q describes itself as %q", e.side.Name, name)
		}
		e.nodes = map[netip.Addr]Node{}
		for _, family := range []int{4, 6} {
			for _, a := range []netip.Addr{e.wan[family], e.lan[family]} {
				e.nodes[a] = Serve(t, e.gw, a)
			}
			for _, a := range []netip.Addr{e.site[family], e.site2[family]} {
				if a.IsValid() {
					e.nodes[a] = Serve(t, e.host, a)
				}
			}
		}
	}
	return p
}

// refusal is the reason why a side does not carry a cell, "" when both do. What a
// side refuses must be what it is known to refuse, it must say why, and it must
// keep to it.
func (p *pair) refusal(t *testing.T, c Cell) (why string) {
	t.Helper()
	for _, e := range []*endpoint{p.a, p.b} {
		ok, reason := e.b.Describe().Supports(c.Proto, c.Mode, c.Encr, c.Integ, c.ESN)
		known := e.side.Refuses != nil && e.side.Refuses(c)
		switch {
		case ok && known:
			t.Errorf("%s carries a cell that it is said to refuse", e.side.Name)
		case ok:
			continue
		case !known:
			t.Errorf("%s refuses the cell: %s", e.side.Name, reason)
		case reason == "":
			t.Errorf("%s refuses the cell and says no reason", e.side.Name)
		}
		if ok {
			continue
		}
		s := p.setup(t, c)
		sa := s.a.in
		if e == p.b {
			sa = s.b.in
		}
		if err := e.b.AddSA(sa); !errors.Is(err, backend.ErrUnsupported) {
			t.Errorf("%s was asked for an SA that it does not support, and says %v", e.side.Name, err)
		}
		why = fmt.Sprintf("%s: %s", e.side.Name, reason)
	}
	return why
}

// half is what one side of a cell has.
type half struct {
	*endpoint
	in, out *sad.SA
	policy  spd.Policy
	Node    // that sends and receives the packets
}

// setup is a cell with its SAs and policies, not installed yet.
type setup struct {
	cell Cell
	a, b half
}

// setup makes the SAs and policies of a cell, with numbers and keys of their own.
// change, which may be nil, is called with each SA.
func (p *pair) setup(t *testing.T, c Cell) *setup {
	t.Helper()
	p.next += 2
	n := p.next
	s := &setup{cell: c, a: half{endpoint: p.a}, b: half{endpoint: p.b}}
	atA, tsA := p.a.place(c)
	atB, tsB := p.b.place(c)
	s.a.Node, s.b.Node = atA, atB
	s.a.in, s.a.out, s.a.policy = half1(t, c, n, p.a.wan[c.Outer], p.b.wan[c.Outer], tsA, tsB, n, n+1)
	s.b.in, s.b.out, s.b.policy = half1(t, c, n, p.b.wan[c.Outer], p.a.wan[c.Outer], tsB, tsA, n+1, n)
	return s
}

// place is who talks in a cell: the host behind the gateway in tunnel mode, the
// gateway itself in the others, with its inner address in BEET mode
// (draft-nikander-esp-beet-mode-09, Section 5: inner addresses are fixed).
func (e *endpoint) place(c Cell) (Node, spd.TS) {
	switch c.Mode {
	case spd.Transport:
		return e.nodes[e.wan[c.Inner]], spd.Host(e.wan[c.Inner])
	case spd.BEET:
		return e.nodes[e.lan[c.Inner]], spd.Host(e.lan[c.Inner])
	}
	return e.nodes[e.site[c.Inner]], spd.FromPrefix(e.net[c.Inner])
}

// half1 is a side's SAs and policy, as that side sees them.
func half1(t *testing.T, c Cell, id uint32, own, peer netip.Addr, local, remote spd.TS, spiIn, spiOut uint32) (in, out *sad.SA, pol spd.Policy) {
	t.Helper()
	encrLen, integLen, err := c.KeyLens()
	must(t, err)
	sa := func(dir sad.Direction, src, dst netip.Addr, spi uint32) *sad.SA {
		return &sad.SA{
			ID: sad.ID{Dir: dir, Proto: c.Proto, SPI: spi, Dst: dst}, Src: src, ReqID: id, Mode: c.Mode,
			Local: []spd.TS{local}, Remote: []spd.TS{remote}, Encr: c.Encr, Integ: c.Integ,
			EncrKey: key(spi, 1, encrLen), IntegKey: key(spi, 2, integLen), ESN: c.ESN,
			ReplayWindow: 128, Name: "test/net", Owner: uint64(id),
		}
	}
	pol = spd.Policy{ID: uint64(id), Name: "test/net", Action: spd.Protect, Local: []spd.TS{local}, Remote: []spd.TS{remote},
		Priority: 100, ReqID: id, Mode: c.Mode, Proto: ipProto(c.Proto)}
	if c.Mode != spd.Transport {
		pol.OuterLocal, pol.OuterRemote = own, peer
	}
	return sa(sad.In, peer, own, spiIn), sa(sad.Out, own, peer, spiOut), pol
}

func ipProto(p suite.Protocol) uint8 {
	if p == suite.ProtoAH {
		return 51
	}
	return 50
}

// key is the same on both sides and another for each SA; parts differ within each
// 8 octets, as 3DES demands.
func key(spi uint32, salt byte, n int) secret.Bytes {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(spi>>(8*(i%3))) + salt*31 + byte(i*7)
	}
	return secret.New(b)
}

// neighbours let IPv6 neighbour discovery pass beside SAs between the gateways
// themselves, as the daemon's default policies do: without it there is no
// link-layer address to send a protected packet to (RFC 4861, Section 7).
func (p *pair) neighbours() spd.Policy {
	all := spd.FromPrefix(netip.MustParsePrefix("::/0"))
	all.Proto, all.PortFrom, all.PortTo = 58, 133<<8, 137<<8|255
	return spd.Policy{ID: 1, Name: "test/nd", Action: spd.Bypass, Local: []spd.TS{all}, Remote: []spd.TS{all}, Priority: 1}
}

// policies are what a side of the cell has in its SPD.
func (p *pair) policies(h *half) []spd.Policy {
	list := []spd.Policy{h.policy}
	if h.policy.Mode == spd.Transport && h.Addr.Is6() {
		list = append(list, p.neighbours())
	}
	return list
}

// protect installs the policies of both sides. A is last: it may send at once what
// waited.
func (p *pair) protect(t *testing.T, s *setup) {
	t.Helper()
	for _, h := range []*half{&s.b, &s.a} {
		must(t, h.b.ApplyPolicies(nil, p.policies(h)))
	}
}

// unprotect removes them.
func (p *pair) unprotect(t *testing.T, s *setup) {
	t.Helper()
	for _, h := range []*half{&s.a, &s.b} {
		must(t, h.b.ApplyPolicies([]uint64{h.policy.ID, 1}, nil))
	}
}

// install adds the SAs of both sides, inbound ones first.
func (p *pair) install(t *testing.T, s *setup) {
	t.Helper()
	for _, h := range []*half{&s.a, &s.b} {
		must(t, h.b.AddSA(h.in))
	}
	for _, h := range []*half{&s.a, &s.b} {
		must(t, h.b.AddSA(h.out))
	}
}

// remove deletes the SAs of both sides; one that ended by itself may be gone.
func (p *pair) remove(t *testing.T, s *setup) {
	t.Helper()
	for _, h := range []*half{&s.a, &s.b} {
		for _, id := range []sad.ID{h.out.ID, h.in.ID} {
			if err := h.b.DeleteSA(id); err != nil && !errors.Is(err, backend.ErrNotFound) {
				t.Error(err)
			}
		}
	}
}

// up installs a cell for the time of a test.
func (p *pair) up(t *testing.T, s *setup) {
	t.Helper()
	t.Cleanup(func() {
		p.unprotect(t, s)
		p.remove(t, s)
	})
	p.install(t, s)
	p.protect(t, s)
}

// carry is the test of one cell: packets of all kinds cross both ways, only what
// the cell says crosses the wire, both sides counted, and without its SAs nothing
// leaves.
func (p *pair) carry(t *testing.T, c Cell) {
	t.Helper()
	s := p.setup(t, c)
	wire := p.capture(t)
	p.up(t, s)
	exchange(t, s)
	p.usage(t, s)
	p.remove(t, s)
	silent(t, s)
	wire.Stop()
	p.onWire(t, s, wire)
}

// usage holds what both sides counted against what crossed.
func (p *pair) usage(t *testing.T, s *setup) {
	t.Helper()
	for _, h := range []*half{&s.a, &s.b} {
		for _, sa := range []*sad.SA{h.in, h.out} {
			u, err := h.b.QuerySA(sa.ID)
			if err != nil {
				t.Error(err)
				continue
			}
			if u.Packets == 0 || u.Bytes == 0 || u.LastUsed.IsZero() || u.Seq < u.Packets || u.Replayed != 0 || u.BadICV != 0 {
				t.Errorf("%s, direction %d, after traffic: %+v", h.side.Name, sa.Dir, u)
			}
		}
	}
}

func (p *pair) capture(t *testing.T) *testnet.SentCapture {
	t.Helper()
	w, err := testnet.Sent(testnet.End{NS: p.GwA, If: "wan0"}, p.Wire)
	must(t, err)
	t.Cleanup(w.Stop)
	return w
}

// onWire checks that what crossed are packets of the cell's SAs and housekeeping
// of the link.
func (p *pair) onWire(t *testing.T, s *setup, wire *testnet.SentCapture) {
	t.Helper()
	want := testnet.ESP
	if s.cell.Proto == suite.ProtoAH {
		want = testnet.AH
	}
	n := 0
	for _, x := range wire.Packets() {
		switch {
		case x.Class.Housekeeping():
		case x.Class != want || x.Src.Is4() != (s.cell.Outer == 4):
			t.Errorf("on the wire: %v; %v in all", x, wire)
			return
		case x.FragmentOffset == 0 && x.SPI != s.a.in.SPI && x.SPI != s.b.in.SPI:
			t.Errorf("on the wire: SPI 0x%08x, want 0x%08x or 0x%08x", x.SPI, s.a.in.SPI, s.b.in.SPI)
			return
		default:
			n++
		}
	}
	if n < 10 {
		t.Errorf("only %d packets of the SAs on the wire: %v", n, wire)
	}
}
