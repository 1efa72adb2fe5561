package backendtest

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/backend"
	"iked/internal/testnet"
	"iked/sad"
	"iked/spd"
)

// port narrows a selector to UDP and a port; 0: any.
func port(ts spd.TS, n uint16) spd.TS {
	ts.Proto, ts.PortFrom, ts.PortTo = 17, n, n
	if n == 0 {
		ts.PortTo = 65535
	}
	return ts
}

// shunt is an entry before the cell's own for one UDP port at site B.
func shunt(id uint64, action spd.Action, h *half, server bool, n uint16) spd.Policy {
	p := spd.Policy{ID: id, Name: "test/shunt", Action: action, Priority: 10,
		Local: []spd.TS{port(h.policy.Local[0], 0)}, Remote: []spd.TS{port(h.policy.Remote[0], n)}}
	if server {
		p.Local, p.Remote = []spd.TS{port(h.policy.Local[0], n)}, []spd.TS{port(h.policy.Remote[0], 0)}
	}
	return p
}

// precedence: RFC 4301, Section 4.4.1: the SPD is ordered. A hole lets one port
// out in clear, both ways; a wall stops another; the rest stays protected.
func precedence(t *testing.T, p *pair, c Cell) {
	s := p.setup(t, c)
	wire := p.capture(t)
	p.up(t, s)
	t.Cleanup(func() {
		for _, h := range []*half{&s.a, &s.b} {
			must(t, h.b.ApplyPolicies([]uint64{2, 3}, nil))
		}
	})
	must(t, s.a.b.ApplyPolicies(nil, []spd.Policy{shunt(2, spd.Bypass, &s.a, false, holePort), shunt(3, spd.Discard, &s.a, false, wallPort)}))
	must(t, s.b.b.ApplyPolicies(nil, []spd.Policy{shunt(2, spd.Bypass, &s.b, true, holePort)}))
	ping(t, s)
	if err := datagram(s.a.Node, s.b.Node, holePort, 100); err != nil {
		t.Errorf("through the hole: %v", err)
	}
	if err := datagramWithin(s.a.Node, s.b.Node, wallPort, 100, 100*time.Millisecond); err == nil {
		t.Error("a discarded datagram was answered")
	}
	wire.Stop()
	clear := wire.ClearText()
	if len(clear) != 2 || clear[0].DstPort != holePort || clear[1].SrcPort != holePort {
		t.Errorf("want a datagram through the hole and its answer in clear, and nothing else; there is %v", clear)
	}
}

// clearText: RFC 4301, Section 5.2: what should have come protected and did not is
// dropped. A backend that depends on strict reverse path filtering for it says so;
// there is none for IPv6.
func clearText(t *testing.T, p *pair, c Cell) {
	s := p.setup(t, c)
	if detail := p.b.b.Describe().Detail; c.Mode == spd.Tunnel && strings.Contains(detail, "strict rp_filter only") {
		if c.Inner == 6 {
			t.Logf("not held against %s, which says of this kernel: %s", p.b.side.Name, detail)
			return
		}
		must(t, p.b.gw.Sysctl("net.ipv4.conf.wan0.rp_filter", "1"))
		t.Cleanup(func() { must(t, p.b.gw.Sysctl("net.ipv4.conf.wan0.rp_filter", "0")) })
	}
	wire := p.capture(t)
	// A's packets leave in clear: only B has the policy.
	must(t, s.b.b.ApplyPolicies(nil, p.policies(&s.b)))
	t.Cleanup(func() { p.unprotect(t, s) })
	inside, err := s.b.NS.Capture(map[bool]string{true: "eth0", false: "lo"}[s.b.NS == p.HostB])
	must(t, err)
	r, err := s.a.NS.Ping(s.b.Addr, testnet.PingOptions{From: s.a.Addr, Count: 3, Timeout: 100 * time.Millisecond})
	if err != nil || r.Received != 0 {
		t.Errorf("clear text was answered: %v, %v", r, err)
	}
	if err := datagramWithin(s.a.Node, s.b.Node, echoPort, 100, 100*time.Millisecond); err == nil {
		t.Error("a datagram in clear was answered")
	}
	wire.Stop()
	inside.Stop()
	if len(wire.ClearText()) < 4 {
		t.Errorf("the clear text did not reach B, and nothing was tested: %v", wire)
	}
	for _, x := range inside.Packets() {
		if x.Src == s.a.Addr {
			t.Errorf("clear text got in: %v", x)
		}
	}
}

// acquire: RFC 4301, Section 5.1: a packet that is to be protected and has no SA
// asks for one and does not leave; when there is one, packets flow.
func acquire(t *testing.T, p *pair, c Cell) {
	s := p.setup(t, c)
	s.a.policy.Acquire = true
	wire := p.capture(t)
	s.a.events.forget()
	t.Cleanup(func() { p.remove(t, s) })
	t.Cleanup(func() { p.unprotect(t, s) })
	p.protect(t, s)
	done := make(chan error, 1)
	go func() { done <- transfer(s.a.Node, s.b.Node, 10_000) }()
	e := waitEvent(t, s.a.events, "an Acquire", func(e backend.Acquire) bool { return e.Policy == s.a.policy.ID }, patience)
	if e.ReqID != s.a.policy.ReqID || e.Flow.Local != s.a.Addr || e.Flow.Remote != s.b.Addr || e.Flow.Proto != 6 ||
		!e.Flow.HasPorts || e.Flow.RemotePort != echoPort || e.Flow.LocalPort == 0 {
		t.Errorf("event %+v", e)
	}
	if n := len(wire.ClearText()); n != 0 {
		t.Errorf("clear text on the wire: %v", wire)
	}
	p.install(t, s)
	if err := <-done; err != nil {
		t.Errorf("the connection that asked for the SA: %v", err)
	}
	p.noClearText(t, wire)
}

// populate: RFC 4301, Section 4.4.1.2: with the PFP flag of the remote address each
// destination asks for an SA of its own, also while another has one.
func populate(t *testing.T, p *pair, c Cell) {
	wide := p.setup(t, c)
	wide.a.policy.Acquire, wide.a.policy.PFP = true, spd.PFPRemoteAddr
	wire := p.capture(t)
	p.a.events.forget()
	must(t, p.a.b.ApplyPolicies(nil, []spd.Policy{wide.a.policy}))
	t.Cleanup(func() { must(t, p.a.b.ApplyPolicies([]uint64{wide.a.policy.ID}, nil)) })

	first := p.narrow(t, c, wide, p.b.site[c.Inner])
	p.up(t, first)
	second := p.narrow(t, c, wide, p.b.site2[c.Inner])
	p.up(t, second)
	// Both go on, each by its own SA.
	ping(t, first)
	ping(t, second)
	p.noClearText(t, wire)
	for _, s := range []*setup{first, second} {
		if n := len(protectedFrames(wire, s.b.in.SPI)); n < 3 {
			t.Errorf("%d packets to %v by its SA: %v", n, s.b.Addr, wire)
		}
	}
}

// narrow waits for the Acquire of a destination; the answer to it is a narrower
// entry with SAs of its own.
func (p *pair) narrow(t *testing.T, c Cell, wide *setup, dst netip.Addr) *setup {
	t.Helper()
	s := p.setup(t, c)
	s.b.Node = p.b.nodes[dst]
	host := []spd.TS{spd.Host(dst)}
	s.a.policy.Remote, s.b.policy.Local = host, host
	s.a.policy.Priority, s.b.policy.Priority = 50, 50
	for _, sa := range []*sad.SA{s.a.in, s.a.out} {
		sa.Remote = host
	}
	for _, sa := range []*sad.SA{s.b.in, s.b.out} {
		sa.Local = host
	}
	// A question of one flow may keep those of others back for a moment, so there is
	// more than one packet, as of every application.
	asked, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-asked:
				return
			default:
			}
			if r, err := s.a.NS.Ping(dst, testnet.PingOptions{From: s.a.Addr, Timeout: 20 * time.Millisecond}); err != nil || r.Received != 0 {
				t.Errorf("answered without an SA: %v, %v", r, err)
			}
		}
	}()
	defer func() { <-done }()
	defer close(asked)
	e := waitEvent(t, p.a.events, "an Acquire for "+dst.String(), func(e backend.Acquire) bool { return e.Flow.Remote == dst }, patience)
	if e.Policy != wide.a.policy.ID || e.Flow.Local != s.a.Addr {
		t.Errorf("event %+v, want one of policy %d", e, wide.a.policy.ID)
	}
	return s
}

// moved: an SA gets new outer addresses and goes on where it was (RFC 4555,
// Section 3.5).
func moved(t *testing.T, p *pair, c Cell) {
	s := p.setup(t, c)
	p.up(t, s)
	ping(t, s)
	before, err := s.a.b.QuerySA(s.a.out.ID)
	must(t, err)
	to := netip.MustParseAddr("192.0.2.22")
	if c.Outer == 6 {
		to = netip.MustParseAddr("2001:db8::22")
	}
	wire := p.capture(t)
	stop := make(chan struct{})
	lost := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				lost <- n
				return
			default:
			}
			r, err := s.a.NS.Ping(s.b.Addr, testnet.PingOptions{From: s.a.Addr, Timeout: 50 * time.Millisecond})
			if err == nil {
				n += r.Lost()
			}
		}
	}()
	own := s.a.in.Dst
	move := func(h *half, in, out backend.Move) {
		t.Helper()
		for _, x := range []struct {
			sa *sad.SA
			m  backend.Move
		}{{h.in, in}, {h.out, out}} {
			id, err := h.b.UpdateSA(x.sa.ID, x.m)
			must(t, err)
			x.sa.ID = id
			if id.Dst != x.m.Dst {
				t.Errorf("ID after a move to %v: %+v", x.m.Dst, id)
			}
		}
	}
	// B hears at the new address before A sends to it.
	move(&s.b, backend.Move{Src: own, Dst: to}, backend.Move{Src: to, Dst: own})
	s.b.policy.OuterLocal = to
	move(&s.a, backend.Move{Src: to, Dst: own}, backend.Move{Src: own, Dst: to})
	s.a.policy.OuterRemote = to
	p.protect(t, s)
	time.Sleep(100 * time.Millisecond)
	close(stop)
	if n := <-lost; n > 5 {
		t.Errorf("%d echo requests were lost while the SAs moved", n)
	}
	wire.Stop()
	after := p.capture(t)
	ping(t, s)
	after.Stop()
	for _, x := range after.Packets() {
		if x.Class.IPsec() && x.Src != to && x.Dst != to {
			t.Errorf("after the move: %v", x)
		}
	}
	u, err := s.a.b.QuerySA(s.a.out.ID)
	must(t, err)
	if u.Seq <= before.Seq || u.Packets <= before.Packets {
		t.Errorf("a moved SA goes on with its numbers: %+v, then %+v", before, u)
	}
	p.noClearText(t, wire)
}
