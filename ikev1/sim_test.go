package ikev1

import (
	"container/heap"
	"crypto/sha256"
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
	"iked/internal/isakmp"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/spd"
)

// network is two or more hosts in virtual time: packets take a delay, may get
// lost, doubled or changed, and machines wake up at their deadlines.
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
	// nat, when set, maps the addresses of a packet on its way.
	nat func(p *packet)
	log []string
}

type packet struct {
	from, to netip.AddrPort
	natt     bool
	data     []byte
	extra    time.Duration
}

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
				if at := sa.NextDeadline(); !at.IsZero() && at.Before(next) {
					next, wake, who = at, h, sa
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
		who.Advance(n.now)
		wake.drain(who)
		if !who.closed && who.NextDeadline().Equal(before) {
			n.t.Fatalf("a deadline at %v does not go away", before)
		}
	}
}

func (n *network) send(p *packet) {
	list := []*packet{p}
	if n.filter != nil {
		list = n.filter(p)
	}
	for _, q := range list {
		q := &packet{q.from, q.to, q.natt, slices.Clone(q.data), q.extra}
		if n.nat != nil {
			n.nat(q)
		}
		n.later(n.delay+q.extra, func() {
			for _, h := range n.hosts {
				if h.addr == q.to.Addr() {
					h.receive(q)
				}
			}
		})
	}
}

// host is an endpoint with its secrets and a backend that remembers.
type host struct {
	n       *network
	name    string
	addr    netip.Addr
	configs []*keyex.Config
	key     func(local, remote ident.ID) (string, bool)
	curve   int
	refuse  bool // the backend takes nothing
	lastIn  time.Time
	// verifyTakes is how long a proof is being checked, and distrusts that it is wrong.
	verifyTakes time.Duration
	distrusts   bool
	other       bool // answers FindOther

	password  string // of user bob
	addresses []netip.Prefix
	leases    int
	fixed     netip.Addr        // of user bob
	attrs     []keyex.Attribute // of the pool
	domain    string

	sas      []*SA
	closed   []keyex.Closed
	events   []keyex.SAEvent
	in, out  map[uint32]*keyex.Child
	reserved map[uint32]bool
	counts   map[string]int
	pings    int // keepalives
	spi      uint32
	ids      uint32
	draining map[*SA]bool
}

func (n *network) host(name, addr string) *host {
	h := &host{n: n, name: name, addr: netip.MustParseAddr(addr), in: map[uint32]*keyex.Child{}, out: map[uint32]*keyex.Child{}, reserved: map[uint32]bool{},
		password: "sesame", counts: map[string]int{}, draining: map[*SA]bool{}, spi: 0x1000 * uint32(len(n.hosts)+1),
		key: func(_, _ ident.ID) (string, bool) { return "secret", true }}
	n.hosts = append(n.hosts, h)
	return h
}

func (h *host) Candidates(local, remote netip.Addr) []*keyex.Config { return h.configs }
func (h *host) PSK(local, remote ident.ID) (secret.Bytes, bool) {
	k, ok := h.key(local, remote)
	return secret.New([]byte(k)), ok
}
func (h *host) CertRequests(*keyex.Config) []byte { return nil }
func (h *host) NewSPI() keyex.SPI                 { return keyex.SPI(h.n.rand.Uint64() | 1) }
func (h *host) NextChildID() uint32               { h.ids++; return h.ids }
func (h *host) NextIKEID() uint32                 { h.ids++; return h.ids }
func (h *host) Random(b []byte) {
	for len(b) > 0 {
		b = b[copy(b, binary.LittleEndian.AppendUint64(nil, h.n.rand.Uint64())):]
	}
}

// initiate makes an SA to a peer and starts it.
func (h *host) initiate(cfg *keyex.Config, to *host, child *keyex.ChildConfig) *SA {
	sa := NewInitiator(h, cfg, netip.AddrPortFrom(h.addr, 500), netip.AddrPortFrom(to.addr, 500))
	h.sas = append(h.sas, sa)
	h.start(sa, keyex.StartInit{Child: child})
	return sa
}

func (h *host) start(sa *SA, t keyex.Task) {
	sa.Start(h.n.now, t)
	h.drain(sa)
}

func (h *host) receive(p *packet) {
	d := keyex.Datagram{Local: p.to, Remote: p.from, NATT: p.natt, Data: p.data}
	hd, err := isakmp.ParseHeader(p.data)
	if err != nil {
		h.counts["gate"]++
		return
	}
	for _, sa := range slices.Clone(h.sas) {
		if sa.initiator && sa.ckyI == hd.SPIi || !sa.initiator && (sa.ckyR == hd.SPIr || hd.SPIr.IsZero() && sa.ckyI == hd.SPIi) {
			sa.Receive(h.n.now, d)
			h.drain(sa)
			return
		}
	}
	if hd.SPIr.IsZero() && hd.MessageID == 0 {
		sa := NewResponder(h, p.to, p.from, p.natt)
		h.sas = append(h.sas, sa)
		sa.Receive(h.n.now, d)
		h.drain(sa)
		return
	}
	h.counts["unknown"]++
}

func (h *host) drain(sa *SA) {
	if h.draining[sa] {
		return
	}
	h.draining[sa] = true
	var also []*SA
	for o := range sa.Outputs() {
		switch o := o.(type) {
		case keyex.Send:
			h.n.send(&packet{from: o.Local, to: o.Remote, natt: o.NATT, data: o.Data})
		case keyex.KeepAlive:
			h.pings++
		case keyex.Request:
			r := h.do(o.Work)
			if _, ok := o.Work.(keyex.Verify); ok && h.verifyTakes > 0 {
				h.n.later(h.verifyTakes, func() {
					sa.Resume(h.n.now, o.ID, r)
					h.drain(sa)
				})
			} else if r != nil {
				sa.Resume(h.n.now, o.ID, r)
			}
		case keyex.Event:
			switch e := o.Event.(type) {
			case keyex.NewSA:
				next := e.Successor.(*SA)
				if !slices.Contains(h.sas, next) && !next.closed {
					h.sas = append(h.sas, next)
				}
				also = append(also, next)
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
	delete(h.draining, sa)
	for _, x := range also {
		h.drain(x)
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
	case keyex.ChooseIdentity:
		return keyex.IdentityReply{ID: w.Config.Local.ID, Certs: []keyex.Cert{{Encoding: 4, Data: []byte(w.Config.Local.ID.String())}}, Curve: h.curve}
	case keyex.Sign:
		if w.Scheme != keyex.SchemeIKEv1 {
			return keyex.SignReply{Err: errors.New("not a signature of IKEv1")}
		}
		return keyex.SignReply{Auth: sign(w.Config.Local.ID.String(), w.Octets)}
	case keyex.Verify:
		if h.distrusts || len(w.Certs) == 0 || string(w.Auth) != string(sign(string(w.Certs[0].Data), w.Octets)) || string(w.Certs[0].Data) != w.ID.String() {
			return keyex.VerifyReply{Failure: &trace.Failure{Stage: trace.StageAuth, Sentence: "the signature is wrong"}}
		}
		return keyex.VerifyReply{}
	case keyex.InstallChild:
		if h.refuse {
			delete(h.in, w.Child.SPIIn)
			delete(h.out, w.Child.SPIOut)
			for _, x := range w.Child.Protocols() {
				h.reserved[x.SPIIn] = true
			}
			if w.Child.CPIIn != 0 {
				h.reserved[uint32(w.Child.CPIIn)] = true
			}
			return keyex.DoneReply{Err: errors.New("refused")}
		}
		if w.In {
			for _, x := range w.Child.Protocols() {
				if !h.reserved[x.SPIIn] {
					h.n.t.Errorf("%s: SPI %08x is installed without reservation", h.name, x.SPIIn)
				}
				delete(h.reserved, x.SPIIn)
			}
			if cpi := w.Child.CPIIn; cpi != 0 {
				if !h.reserved[uint32(cpi)] {
					h.n.t.Errorf("%s: CPI %04x is installed without reservation", h.name, cpi)
				}
				delete(h.reserved, uint32(cpi))
			}
			h.in[w.Child.SPIIn] = w.Child
		}
		if w.Out {
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
	case keyex.LastInbound:
		return keyex.TimeReply{At: h.lastIn}
	case keyex.CheckUser:
		if w.User != "bob" || string(w.Password.Reveal()) != "sesame" {
			return keyex.UserReply{Err: errors.New("no such user, or a wrong password")}
		}
		return keyex.UserReply{Address: h.fixed}
	case keyex.UserSecret:
		if h.password == "" {
			return keyex.SecretReply{Err: errors.New("no password")}
		}
		return keyex.SecretReply{Secret: secret.New([]byte(h.password))}
	case keyex.AssignAddress:
		for _, a := range w.Wanted {
			if a.Is4() {
				h.leases++
				give := netip.MustParseAddr("10.9.0.1")
				if w.Fixed.IsValid() {
					give = w.Fixed
				}
				return keyex.AddressReply{Addrs: []netip.Prefix{netip.PrefixFrom(give, 32)}, DNS: []netip.Addr{netip.MustParseAddr("10.9.0.53")}, Others: h.attrs}
			}
		}
		return keyex.AddressReply{Err: errors.New("no pool of that family")}
	case keyex.ReleaseAddress:
		h.leases--
	case keyex.UseAddress:
		h.addresses, h.domain = w.Addrs, w.Domain
		if w.Remove {
			h.addresses, h.domain = nil, ""
		}
	case keyex.FindOther:
		return keyex.FoundReply{Found: h.other}
	}
	return nil
}

// sign stands for a real signature.
func sign(who string, octets []byte) []byte {
	s := sha256.Sum256(append([]byte(who+"\x00"), octets...))
	return s[:]
}

// established are the SAs of a host that are fit for use.
func (h *host) established() (out []*SA) {
	for _, sa := range h.sas {
		if sa.state == keyex.Established {
			out = append(out, sa)
		}
	}
	return out
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

func id(t testing.TB, s string) ident.ID {
	t.Helper()
	i, err := ident.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func net(s string) keyex.Selector {
	return keyex.Selector{TS: spd.FromPrefix(netip.MustParsePrefix(s))}
}

// pair is two hosts with configurations that fit, to be changed before go.
type pair struct {
	*network
	a, b     *host
	ca, cb   *keyex.Config
	cha, chb *keyex.ChildConfig
	saA      *SA
}

func newPair(t testing.TB) *pair {
	n := newNetwork(t)
	p := &pair{network: n, a: n.host("a", "192.0.2.1"), b: n.host("b", "192.0.2.2")}
	child := func(l, r string) *keyex.ChildConfig {
		return &keyex.ChildConfig{Name: "net", Proposals: proposals(t, suite.ProtoESP, "aes256-sha256"), Local: []keyex.Selector{net(l)}, Remote: []keyex.Selector{net(r)},
			Time: keyex.Lifetime{Rekey: time.Hour, Hard: 66 * time.Minute}}
	}
	p.cha, p.chb = child("10.1.0.0/16", "10.2.0.0/16"), child("10.2.0.0/16", "10.1.0.0/16")
	config := func(local, remote string, c *keyex.ChildConfig) *keyex.Config {
		return &keyex.Config{Name: "test", Version: 1, Proposals: proposals(t, suite.ProtoIKE, "aes128-sha256-ecp256"), Children: []*keyex.ChildConfig{c},
			Local: keyex.AuthConfig{Class: keyex.AuthPSK, ID: id(t, local)}, Remote: keyex.AuthConfig{Class: keyex.AuthPSK, ID: id(t, remote)},
			Rekey: keyex.Lifetime{Rekey: 4 * time.Hour, Hard: 5 * time.Hour}, SendCertReq: true}
	}
	p.ca, p.cb = config("192.0.2.1", "192.0.2.2", p.cha), config("192.0.2.2", "192.0.2.1", p.chb)
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
	if len(p.a.established()) != 1 || len(p.b.established()) != 1 {
		p.t.Fatalf("%d and %d established ISAKMP SAs, expected one each; closed %s %s", len(p.a.established()), len(p.b.established()), why(p.a), why(p.b))
	}
	if len(p.a.in) != children || len(p.b.in) != children || len(p.a.out) != children || len(p.b.out) != children {
		p.t.Fatalf("%d %d inbound, %d %d outbound SAs, expected %d each; failures %s %s", len(p.a.in), len(p.b.in), len(p.a.out), len(p.b.out), children, why(p.a), why(p.b))
	}
	for spi, c := range p.a.in {
		o := p.b.out[spi]
		if o == nil || !c.EncrIn.Equal(o.EncrOut) || !c.IntegIn.Equal(o.IntegOut) || !c.EncrOut.Equal(o.EncrIn) || !c.IntegOut.Equal(o.IntegIn) {
			p.t.Errorf("the keys of SA %08x differ between the sides", spi)
		}
		if o != nil && (c.Local[0] != o.Remote[0] || c.Remote[0] != o.Local[0] || c.Mode != o.Mode || c.ESN != o.ESN || c.Encap != o.Encap) {
			p.t.Errorf("the sides of SA %08x differ: %v %v, %v %v", spi, c.Local, c.Remote, o.Local, o.Remote)
		}
		if o != nil && (c.CPIIn != o.CPIOut || c.CPIOut != o.CPIIn) {
			p.t.Errorf("compression of SA %08x differs between the sides: %04x %04x, %04x %04x", spi, c.CPIIn, c.CPIOut, o.CPIIn, o.CPIOut)
		}
		if o == nil || c.AH == nil && o.AH == nil {
			continue
		}
		x, y := c.AH, o.AH
		if x == nil || y == nil || x.SPIIn != y.SPIOut || x.SPIOut != y.SPIIn || x.Integ != y.Integ || x.ESN != y.ESN || x.IntegIn.Len() == 0 ||
			!x.IntegIn.Equal(y.IntegOut) || !x.IntegOut.Equal(y.IntegIn) || x.IntegIn.Equal(x.IntegOut) || x.IntegIn.Equal(c.IntegIn) {
			p.t.Errorf("the AH around SA %08x differs between the sides: %v %v", spi, x, y)
		}
	}
	if len(p.a.reserved)+len(p.b.reserved) != 0 {
		p.t.Errorf("%d and %d reserved SPIs are left", len(p.a.reserved), len(p.b.reserved))
	}
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
	return h.name + s
}
