// Package ikev2test is a simulated network with virtual time for tests of IKEv2:
// hosts that route datagrams to SAs, packets that get lost, doubled, delayed,
// cut off by an MTU or rewritten by a NAT, all decided by a seed. It is used by
// tests only.
package ikev2test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/message"
)

// Packet is a datagram on its way.
type Packet struct {
	From, To  netip.AddrPort
	NATT      bool // with non-ESP marker
	KeepAlive bool
	Data      []byte
	At        time.Time // of arrival
}

// Header is the IKE header of the packet.
func (p *Packet) Header() message.Header {
	h, _ := message.CheckHeader(p.Data)
	return h
}

// String names the message, as in "CREATE_CHILD_SA request 2".
func (p *Packet) String() string {
	if p.KeepAlive {
		return "keepalive"
	}
	h := p.Header()
	kind := "request"
	if h.Flags&message.FlagResponse != 0 {
		kind = "response"
	}
	return fmt.Sprintf("%s %s %d", message.ExchangeName(h.Exchange), kind, h.MessageID)
}

// Verdict is the fate of a packet.
type Verdict int

// Verdicts.
const (
	Deliver Verdict = iota
	Lose
	Double
)

// Net is the network and its clock.
type Net struct {
	T     testing.TB
	Now   time.Time
	Rand  *rand.Rand
	Hosts []*Host
	// Latency of a packet is at least Latency and up to Jitter more: with jitter
	// packets overtake each other.
	Latency, Jitter time.Duration
	// Fate decides about each packet that is sent; nil delivers all.
	Fate func(p *Packet) Verdict
	// Choose, when set, picks which of n packets arrives next, or with n itself
	// that the first one is lost; else the earliest arrives.
	Choose func(n int) int
	MTU    int // longest datagram that arrives, 0: any
	NATs   []*NAT

	Flying []*Packet
	later  []delayed
	// Trace are the messages in the order of their arrival.
	Trace []string
}

type delayed struct {
	at time.Time
	do func()
}

// New makes a network; the same seed gives the same history.
func New(t testing.TB, seed uint64) *Net {
	return &Net{
		T: t, Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Latency: 10 * time.Millisecond,
		Rand: rand.New(rand.NewPCG(seed, 0x696b65)),
	}
}

// NAT translates what the host Inside sends, to Outside.
type NAT struct {
	Inside, Outside netip.Addr
	next            uint16
	out             map[uint16]uint16 // inner port to outer
	in              map[uint16]uint16
}

// AddNAT puts a NAT before a host.
func (n *Net) AddNAT(inside, outside netip.Addr) *NAT {
	x := &NAT{Inside: inside, Outside: outside, next: 20000}
	x.Rebind()
	n.NATs = append(n.NATs, x)
	return x
}

// Rebind forgets all mappings, as a NAT does that restarts.
func (x *NAT) Rebind() { x.out, x.in = map[uint16]uint16{}, map[uint16]uint16{} }

// Forward lets a port in from outside to the same port inside.
func (x *NAT) Forward(port uint16) { x.out[port], x.in[port] = port, port }

func (n *Net) translate(p *Packet) bool {
	for _, x := range n.NATs {
		if p.From.Addr() == x.Inside {
			port, ok := x.out[p.From.Port()]
			if !ok {
				x.next++
				port = x.next
				x.out[p.From.Port()], x.in[port] = port, p.From.Port()
			}
			p.From = netip.AddrPortFrom(x.Outside, port)
		}
		if p.To.Addr() == x.Outside {
			port, ok := x.in[p.To.Port()]
			if !ok {
				return false
			}
			p.To = netip.AddrPortFrom(x.Inside, port)
		} else if p.To.Addr() == x.Inside {
			return false // not reachable from outside
		}
	}
	return true
}

func (n *Net) send(p *Packet) {
	if n.MTU != 0 && len(p.Data) > n.MTU {
		return
	}
	copies := 1
	if n.Fate != nil {
		switch n.Fate(p) {
		case Lose:
			return
		case Double:
			copies = 2
		}
	}
	if !n.translate(p) {
		return
	}
	for range copies {
		q := *p
		q.Data = bytes.Clone(p.Data)
		q.At = n.Now.Add(n.Latency)
		if n.Jitter > 0 {
			q.At = q.At.Add(time.Duration(n.Rand.Int64N(int64(n.Jitter))))
		}
		n.Flying = append(n.Flying, &q)
	}
}

// Later does something at a later time.
func (n *Net) Later(d time.Duration, do func()) {
	n.later = append(n.later, delayed{n.Now.Add(d), do})
}

// step does the next thing that happens before end; false: nothing does.
func (n *Net) step(end time.Time) bool {
	if n.Choose != nil && len(n.Flying) > 0 {
		i := n.Choose(len(n.Flying))
		if i == len(n.Flying) {
			n.Trace = append(n.Trace, "lost: "+n.Flying[0].String())
			n.Flying = n.Flying[1:]
			return true
		}
		n.arrive(i)
		return true
	}
	const none = -1
	next, packet, timer := end, none, none
	for i, p := range n.Flying {
		if !p.At.After(next) && (packet == none || p.At.Before(next)) {
			next, packet = p.At, i
		}
	}
	for i, l := range n.later {
		if l.at.Before(next) {
			next, packet, timer = l.at, none, i
		}
	}
	var sa *ikev2.SA
	var host *Host
	for _, h := range n.Hosts {
		for _, s := range h.SAs {
			if d := s.NextDeadline(); !d.IsZero() && d.Before(next) {
				next, packet, timer, sa, host = d, none, none, s, h
			}
		}
	}
	if packet == none && timer == none && sa == nil {
		n.Now = end
		return false
	}
	if next.After(n.Now) {
		n.Now = next
	}
	switch {
	case sa != nil:
		sa.Advance(n.Now)
		host.drain(sa)
	case timer != none:
		do := n.later[timer].do
		n.later = append(n.later[:timer], n.later[timer+1:]...)
		do()
	default:
		n.arrive(packet)
	}
	return true
}

func (n *Net) arrive(i int) {
	p := n.Flying[i]
	n.Flying = append(n.Flying[:i:i], n.Flying[i+1:]...)
	for _, h := range n.Hosts {
		if h.Has(p.To.Addr()) {
			n.Trace = append(n.Trace, h.Name+" gets "+p.String())
			h.receive(p)
			return
		}
	}
}

// Run lets the time pass.
func (n *Net) Run(d time.Duration) {
	n.T.Helper()
	end := n.Now.Add(d)
	for steps := 0; n.step(end); steps++ {
		if steps > 200000 {
			n.T.Fatalf("no end after %d steps at %v; last messages:\n%s", steps, n.Now, strings.Join(n.Trace[max(0, len(n.Trace)-20):], "\n"))
		}
	}
}

// Quiet tells whether nothing is on the way.
func (n *Net) Quiet() bool { return len(n.Flying) == 0 && len(n.later) == 0 }

// DeliverNow delivers the i-th packet that is on the way.
func (n *Net) DeliverNow(i int) { n.arrive(i) }
