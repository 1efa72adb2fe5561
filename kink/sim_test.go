package kink

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/kink/message"
	"iked/spd"
)

// network is two or more hosts in virtual time: packets take a delay, may get lost,
// doubled or changed, and machines wake up at their deadlines.
type network struct {
	t     testing.TB
	now   time.Time
	rand  *rand.Rand
	queue events
	seq   int
	hosts []*host
	delay time.Duration
	// filter sees each packet; what it gives back is delivered.
	filter func(p *packet) []*packet
	sent   []*packet
}

type packet struct {
	from, to netip.AddrPort
	data     []byte
	extra    time.Duration
}

func (p *packet) kind() message.Type { return message.Type(p.data[0]) }

type event struct {
	at  time.Time
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any     { o := *e; x := o[len(o)-1]; *e = o[:len(o)-1]; return x }

func newNetwork(t testing.TB) *network {
	return &network{t: t, now: time.Unix(1_700_000_000, 0), rand: rand.New(rand.NewPCG(1, 2)), delay: 10 * time.Millisecond}
}

func (n *network) later(d time.Duration, do func()) {
	n.seq++
	heap.Push(&n.queue, event{n.now.Add(d), n.seq, do})
}

// run lets time pass.
func (n *network) run(d time.Duration) {
	end := n.now.Add(d)
	for {
		next := end
		var wake *host
		var who *SA
		for _, h := range n.hosts {
			for _, sa := range h.sas {
				if at := sa.NextDeadline(); !at.IsZero() && at.Add(-h.skew).Before(next) {
					next, wake, who = at.Add(-h.skew), h, sa
				}
			}
		}
		if len(n.queue) > 0 && !n.queue[0].at.After(next) {
			e := heap.Pop(&n.queue).(event)
			n.now = e.at
			e.do()
			continue
		}
		if wake == nil {
			n.now = end
			return
		}
		if next.After(n.now) {
			n.now = next
		}
		before := who.NextDeadline()
		who.Advance(wake.time())
		wake.drain(who)
		if !who.closed && who.NextDeadline().Equal(before) {
			n.t.Fatalf("a deadline at %v does not go away", before)
		}
	}
}

func (n *network) send(p *packet) {
	n.sent = append(n.sent, p)
	list := []*packet{p}
	if n.filter != nil {
		list = n.filter(p)
	}
	for _, q := range list {
		q := &packet{q.from, q.to, slices.Clone(q.data), q.extra}
		n.later(n.delay+q.extra, func() {
			for _, h := range n.hosts {
				if (h.addr == q.to.Addr() || h.second == q.to.Addr()) && !h.dead {
					h.receive(q)
				}
			}
		})
	}
}

// count is the number of messages of a type that were sent.
func (n *network) count(k message.Type) (c int) {
	for _, p := range n.sent {
		if p.kind() == k {
			c++
		}
	}
	return c
}

// host is an endpoint with its principal and a backend that remembers.
type host struct {
	n       *network
	name    string
	addr    netip.Addr
	second  netip.Addr // another one that it has
	epoch   uint32
	realm   *realm
	acc     *acceptor
	configs []*keyex.Config
	skew    time.Duration // of its clock
	dead    bool
	refuse  bool          // the backend takes nothing
	kdc     time.Duration // that a ticket takes
	lastIn  time.Time

	sas      []*SA
	closed   []keyex.Closed
	events   []keyex.SAEvent
	refusals []string
	in, out  map[uint32]*keyex.Child
	reserved map[uint32]bool
	counts   map[string]int
	tickets  int
	spi      uint32
	ids      uint32
	draining map[*SA]bool
}

func (n *network) host(name, addr string, r *realm) *host {
	h := &host{n: n, name: name, addr: netip.MustParseAddr(addr), epoch: uint32(n.now.Unix()) + uint32(len(n.hosts)), realm: r,
		acc: &acceptor{r: r, own: named("kink/" + name + ".example.org@EXAMPLE.ORG")}, counts: map[string]int{}, draining: map[*SA]bool{}, spi: 0x1000 * uint32(len(n.hosts)+1)}
	h.empty()
	n.hosts = append(n.hosts, h)
	return h
}

func (h *host) empty() {
	h.sas, h.in, h.out, h.reserved = nil, map[uint32]*keyex.Child{}, map[uint32]*keyex.Child{}, map[uint32]bool{}
}

// restart loses everything, as a daemon that is killed and started again.
func (h *host) restart() {
	h.empty()
	h.epoch++
}

func (h *host) time() time.Time { return h.n.now.Add(h.skew) }

func (h *host) Epoch() uint32                                       { return h.epoch }
func (h *host) Candidates(local, remote netip.Addr) []*keyex.Config { return h.configs }
func (h *host) PSK(local, remote ident.ID) (secret.Bytes, bool)     { return secret.Bytes{}, false }
func (h *host) CertRequests(*keyex.Config) []byte                   { return nil }
func (h *host) NewSPI() keyex.SPI                                   { return 0 }
func (h *host) NextChildID() uint32                                 { h.ids++; return h.ids }
func (h *host) NextIKEID() uint32                                   { h.ids++; return h.ids }
func (h *host) Random(b []byte) {
	for len(b) > 0 {
		b = b[copy(b, binary.LittleEndian.AppendUint64(nil, h.n.rand.Uint64())):]
	}
}

func addrPort(h *host) netip.AddrPort { return netip.AddrPortFrom(h.addr, 910) }

// initiate makes an SA to a peer and starts it.
func (h *host) initiate(cfg *keyex.Config, to *host, child *keyex.ChildConfig) *SA {
	sa := NewInitiator(h, cfg, to.acc.own, netip.AddrPortFrom(h.addr, 910), netip.AddrPortFrom(to.addr, 910))
	h.sas = append(h.sas, sa)
	h.start(sa, keyex.StartInit{Child: child})
	return sa
}

func (h *host) start(sa *SA, t keyex.Task) {
	sa.Start(h.time(), t)
	h.drain(sa)
}

// receive does what stands before the SAs.
func (h *host) receive(p *packet) {
	d := keyex.Datagram{Local: p.to, Remote: p.from, Data: p.data}
	if hd, err := message.ParseHeader(p.data); err == nil && hd.Type == message.Reply {
		for _, sa := range h.sas {
			if sa.Awaits(hd.XID) {
				sa.Receive(h.time(), d)
				h.drain(sa)
				return
			}
		}
		h.counts["unknown-xid"]++
		return
	}
	o := Opener{Acceptor: h.acc, Epoch: h.epoch, Own: h.acc.own}
	c, no := o.Open(h.time(), d)
	if no != nil {
		h.refusals = append(h.refusals, no.Reason)
		if no.Answer != nil {
			h.n.send(&packet{from: p.to, to: p.from, data: no.Answer})
		}
		return
	}
	if c.Type == message.GetTGT {
		b, err := c.AnswerTGT(h.time(), h.realm.tgt(c.TGTReq))
		if err != nil {
			h.n.t.Fatal(err)
		}
		h.n.send(&packet{from: p.to, to: p.from, data: b})
		return
	}
	for _, sa := range slices.Clone(h.sas) {
		sa.SeeEpoch(h.time(), c)
		h.drain(sa)
	}
	to, cfg := c.Route(h, h.sas, h.configs)
	for _, sa := range slices.Clone(h.sas) {
		if sa != to {
			sa.DeleteFor(h.time(), c)
			h.drain(sa)
		}
	}
	switch {
	case to != nil:
	case cfg != nil:
		to = NewResponder(h, cfg, c)
		if c.Type == message.Create {
			h.sas = append(h.sas, to)
		}
	case c.Type == message.Create:
		b, err := c.Refuse(h.epoch)
		if err != nil {
			h.n.t.Fatal(err)
		}
		h.refusals = append(h.refusals, "principal")
		h.n.send(&packet{from: p.to, to: p.from, data: b})
		return
	default:
		h.refusals = append(h.refusals, "unknown-command")
		return
	}
	to.Command(h.time(), c)
	h.drain(to)
}

func (h *host) drain(sa *SA) {
	if h.draining[sa] {
		return
	}
	h.draining[sa] = true
	defer delete(h.draining, sa)
	for o := range sa.Outputs() {
		switch o := o.(type) {
		case keyex.Send:
			h.n.send(&packet{from: o.Local, to: o.Remote, data: o.Data})
		case keyex.Request:
			if w, ok := o.Work.(GetTicket); ok {
				h.tickets++
				h.n.later(h.kdc, func() {
					sa.Resume(h.time(), o.ID, h.realm.ticket(h.time(), w))
					h.drain(sa)
				})
				continue
			}
			if r := h.do(o.Work); r != nil {
				sa.Resume(h.time(), o.ID, r)
			}
		case keyex.Event:
			switch e := o.Event.(type) {
			case keyex.Count:
				h.counts[e.Counter]++
				h.counts[e.Counter+":"+e.Reason]++
				continue
			case keyex.Log:
				if testing.Verbose() {
					h.n.t.Logf("%s %s: %s", h.n.now.Format("05.000"), h.name, e.Msg)
				}
				continue
			}
			h.events = append(h.events, o.Event)
		case keyex.Closed:
			h.closed = append(h.closed, o)
			h.sas = slices.DeleteFunc(h.sas, func(x *SA) bool { return x == sa })
		}
	}
}

func (h *host) do(w keyex.Work) keyex.Reply {
	switch w := w.(type) {
	case keyex.Compute:
		return w.Run()
	case keyex.AllocSPI:
		h.spi++
		h.reserved[h.spi] = true
		return keyex.SPIReply{SPI: h.spi}
	case keyex.FreeSPI:
		if !h.reserved[w.SPI] {
			h.n.t.Errorf("%s: SPI %08x is freed, which is not reserved", h.name, w.SPI)
		}
		delete(h.reserved, w.SPI)
	case keyex.InstallChild:
		if h.refuse {
			delete(h.in, w.Child.SPIIn)
			delete(h.out, w.Child.SPIOut)
			for _, x := range w.Child.Protocols() {
				if w.In {
					h.reserved[x.SPIIn] = true
				}
			}
			return keyex.DoneReply{Err: errors.New("refused")}
		}
		if w.In {
			if h.in[w.Child.SPIIn] != nil {
				h.n.t.Errorf("%s: inbound SA %08x is installed twice", h.name, w.Child.SPIIn)
			}
			if w.Child.EncrIn.Len()+w.Child.IntegIn.Len() == 0 {
				h.n.t.Errorf("%s: inbound SA %08x has no keys", h.name, w.Child.SPIIn)
			}
			for _, x := range w.Child.Protocols() {
				delete(h.reserved, x.SPIIn)
			}
			h.in[w.Child.SPIIn] = w.Child
		}
		if w.Out {
			if w.Child.SPIOut == 0 || w.Child.EncrOut.Len()+w.Child.IntegOut.Len() == 0 {
				h.n.t.Errorf("%s: outbound SA %08x has no keys", h.name, w.Child.SPIOut)
			}
			h.out[w.Child.SPIOut] = w.Child
		}
		return keyex.DoneReply{}
	case keyex.RemoveChild:
		if w.In {
			if h.in[w.Child.SPIIn] != w.Child {
				h.n.t.Errorf("%s: inbound SA %08x is removed, it is not there", h.name, w.Child.SPIIn)
			}
			delete(h.in, w.Child.SPIIn)
		}
		if w.Out {
			if h.out[w.Child.SPIOut] != w.Child {
				h.n.t.Errorf("%s: outbound SA %08x is removed, it is not there", h.name, w.Child.SPIOut)
			}
			delete(h.out, w.Child.SPIOut)
		}
	case keyex.MoveChild:
		if h.in[w.Child.SPIIn] == nil && h.out[w.Child.SPIOut] == nil {
			h.n.t.Errorf("%s: SA %08x is moved, it is not there", h.name, w.Child.SPIIn)
		}
		h.counts["moves"]++
	case keyex.LastInbound:
		return keyex.TimeReply{At: h.lastIn}
	default:
		h.n.t.Errorf("%s: work %T is not done by KINK", h.name, w)
	}
	return nil
}

// happened are the events of one kind.
func happened[E keyex.SAEvent](h *host) (out []E) {
	for _, e := range h.events {
		if x, ok := e.(E); ok {
			out = append(out, x)
		}
	}
	return out
}

func proposals(t testing.TB, proto suite.Protocol, items ...string) []suite.Proposal {
	t.Helper()
	list, err := suite.ParseProposals(proto, items)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func net(s string) keyex.Selector {
	return keyex.Selector{TS: spd.FromPrefix(netip.MustParsePrefix(s))}
}

// pair is two hosts with configurations that fit, to be changed before up.
type pair struct {
	*network
	realm    *realm
	a, b     *host
	ca, cb   *keyex.Config
	cha, chb *keyex.ChildConfig
	saA      *SA
}

func newPair(t testing.TB) *pair {
	n := newNetwork(t)
	r := newRealm("kink/a.example.org@EXAMPLE.ORG", "kink/b.example.org@EXAMPLE.ORG")
	p := &pair{network: n, realm: r, a: n.host("a", "192.0.2.1", r), b: n.host("b", "192.0.2.2", r)}
	child := func(l, r string) *keyex.ChildConfig {
		return &keyex.ChildConfig{Name: "net", Proposals: proposals(t, suite.ProtoESP, "aes256-sha256"), Local: []keyex.Selector{net(l)}, Remote: []keyex.Selector{net(r)},
			Time: keyex.Lifetime{Rekey: time.Hour, Hard: 66 * time.Minute}}
	}
	p.cha, p.chb = child("10.1.0.0/16", "10.2.0.0/16"), child("10.2.0.0/16", "10.1.0.0/16")
	config := func(h *host, remote string, c *keyex.ChildConfig) *keyex.Config {
		return &keyex.Config{Name: "test", Version: keyex.VersionKINK, Children: []*keyex.ChildConfig{c},
			Local:  keyex.AuthConfig{ID: h.acc.own.Ident()},
			Remote: keyex.AuthConfig{ID: ident.ID{Type: ident.Kerberos, Data: remote}}}
	}
	p.ca, p.cb = config(p.a, "kink/b.example.org@EXAMPLE.ORG", p.cha), config(p.b, "kink/*.example.org@EXAMPLE.ORG", p.chb)
	p.a.configs, p.b.configs = []*keyex.Config{p.ca}, []*keyex.Config{p.cb}
	return p
}

// up initiates and lets five seconds pass.
func (p *pair) up() *pair {
	p.saA = p.a.initiate(p.ca, p.b, p.cha)
	p.run(5 * time.Second)
	return p
}

// matched checks that both sides have so many pairs of SAs with the same keys.
func (p *pair) matched(children int) {
	p.t.Helper()
	if len(p.a.in) != children || len(p.b.in) != children || len(p.a.out) != children || len(p.b.out) != children {
		p.t.Fatalf("%d %d inbound, %d %d outbound SAs, expected %d each; failures %s %s", len(p.a.in), len(p.b.in), len(p.a.out), len(p.b.out), children, why(p.a), why(p.b))
	}
	for spi, c := range p.a.in {
		o := p.b.out[spi]
		if o == nil || !c.EncrIn.Equal(o.EncrOut) || !c.IntegIn.Equal(o.IntegOut) || !c.EncrOut.Equal(o.EncrIn) || !c.IntegOut.Equal(o.IntegIn) {
			p.t.Errorf("the keys of SA %08x differ between the sides", spi)
		}
		if o != nil && (!slices.Equal(c.Local, o.Remote) || !slices.Equal(c.Remote, o.Local) || c.Mode != o.Mode || c.ESN != o.ESN || c.Proto != o.Proto) {
			p.t.Errorf("the sides of SA %08x differ: %v %v, %v %v", spi, c.Local, c.Remote, o.Local, o.Remote)
		}
		if o == nil || c.AH == nil && o.AH == nil {
			continue
		}
		x, y := c.AH, o.AH
		if x == nil || y == nil || x.SPIIn != y.SPIOut || x.SPIOut != y.SPIIn || x.SPIIn == 0 || x.Integ != y.Integ || x.ESN != y.ESN || x.IntegIn.Len() == 0 ||
			!x.IntegIn.Equal(y.IntegOut) || !x.IntegOut.Equal(y.IntegIn) || x.IntegIn.Equal(x.IntegOut) || x.IntegIn.Equal(c.IntegIn) {
			p.t.Errorf("the AH around SA %08x differs between the sides: %v %v", spi, x, y)
		}
	}
	if len(p.a.reserved)+len(p.b.reserved) != 0 {
		p.t.Errorf("%d and %d reserved SPIs are left", len(p.a.reserved), len(p.b.reserved))
	}
}

// nothing checks that no trace of a failed exchange is left.
func (p *pair) nothing() {
	p.t.Helper()
	p.matched(0)
}

func why(h *host) string {
	s := ""
	for _, c := range h.closed {
		s += fmt.Sprintf("[%v", c.Reason)
		if c.Failure != nil {
			s += ": " + c.Failure.Sentence
		}
		s += "]"
	}
	for _, f := range happened[keyex.Failed](h) {
		s += "[" + f.Failure.Sentence + "]"
	}
	return h.name + s + fmt.Sprint(h.refusals)
}

// lastFailure is the latest failure of a host, of a child or of an SA.
func lastFailure(h *host) *trace.Failure {
	if f := happened[keyex.Failed](h); len(f) > 0 {
		return f[len(f)-1].Failure
	}
	if n := len(h.closed); n > 0 {
		return h.closed[n-1].Failure
	}
	return nil
}
