package xfrm

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	"iked/internal/backend"
	"iked/internal/secret"
	"iked/spd"
	"iked/xfrm/wire"
)

// asking remembers the questions of the kernel that were not answered yet.
//
// While a question of a policy is open the kernel asks no other one between the
// same two addresses, whatever the flow, and drops or blocks the packets. For most
// policies that is as it should be. Where each flow wants its own SA (PFP), and when
// it is known that there will be none, the question is taken back.
type asking struct {
	open map[flowKey]*question
	took map[wanted]bool // what of policies of others is answered here
}

// flowKey is a policy and, with PFP, the selectors of the flow that it takes from
// the packet. Policies of others have the number 0, and the whole flow.
type flowKey struct {
	policy uint64
	flow   spd.Flow
}

type question struct {
	acq   *wire.Acquire
	reqID uint32
	// clear: take the kernel's question back at this time; zero: it stays.
	clear time.Time
	// until: nothing is passed on for this flow before.
	until time.Time
	// others: somebody else has the policy; taken: it is answered here all the same.
	others, taken bool
}

const (
	// pfpClear is how long a flow that asks again may keep others of its policy
	// from asking.
	pfpClear = 20 * time.Millisecond
	// askAgain is when a flow asks again that got no answer.
	askAgain = 10 * time.Second
	// maxQuestions bounds what is remembered of entries that ask for many flows, and
	// maxFlows what of one: whoever sends to many addresses must not keep other
	// entries from asking. Each of the rest has one question at a time.
	maxQuestions = 4096
	maxFlows     = 256
)

func (a *asking) init() { a.open, a.took = map[flowKey]*question{}, map[wanted]bool{} }

// full tells whether an entry has no place for one more question.
func (a *asking) full(p *spd.Policy) bool {
	if p.PFP == 0 && p.Mode != spd.Transport {
		return false
	}
	n := 0
	for k := range a.open {
		if k.policy == p.ID {
			n++
		}
	}
	return n >= maxFlows || len(a.open) >= maxQuestions
}

// of is the open question that an SA answers, nil: none.
func (a *asking) of(m *wire.SA) *question {
	for k, q := range a.open {
		if (q.acq.ID.Dst == m.ID.Dst || q.acq.ID.Dst == wire.Address{}) && q.answeredBy(k.flow, m) {
			return q
		}
	}
	return nil
}

// answeredBy tells whether a question is over when there is an SA. Policies of others
// may share a request id, so that the packet decides.
func (q *question) answeredBy(flow spd.Flow, m *wire.SA) bool {
	return q.reqID == m.ReqID && (!q.others || q.taken && q.acq.ID.Proto == m.ID.Proto && covers(&m.Sel, flow))
}

func (a *asking) answered(m *wire.SA) {
	for k, q := range a.open {
		if q.answeredBy(k.flow, m) {
			delete(a.open, k)
		}
	}
}

func (a *asking) forget(policy uint64) {
	for k := range a.open {
		if k.policy == policy {
			delete(a.open, k)
		}
	}
}

// flowOf is the packet that asked. Ports of protocols that have none are zeros in
// the kernel's selector; so are those of fragments but the first.
func flowOf(s *wire.Selector) spd.Flow {
	f := spd.Flow{Local: s.Src.Addr(s.Family), Remote: s.Dst.Addr(s.Family), Proto: s.Proto}
	switch {
	case s.Proto == ipMH:
		f.LocalPort = s.SrcPort << 8
		f.RemotePort, f.HasPorts = f.LocalPort, true
	case typed(s.Proto):
		f.LocalPort = s.SrcPort<<8 | s.DstPort&0xff
		f.RemotePort, f.HasPorts = f.LocalPort, true
	default:
		for _, p := range ported {
			if s.Proto == p && (s.SrcPort != 0 || s.DstPort != 0) {
				f.LocalPort, f.RemotePort, f.HasPorts = s.SrcPort, s.DstPort, true
			}
		}
	}
	return f
}

// populate keeps what the entry takes from the packet.
func populate(p *spd.Policy, f spd.Flow) flowKey {
	k := flowKey{policy: p.ID}
	if p.PFP&spd.PFPLocalAddr != 0 {
		k.flow.Local = f.Local
	}
	if p.PFP&spd.PFPRemoteAddr != 0 {
		k.flow.Remote = f.Remote
	}
	if p.PFP&spd.PFPProtocol != 0 {
		k.flow.Proto = f.Proto
	}
	if p.PFP&spd.PFPLocalPort != 0 {
		k.flow.LocalPort = f.LocalPort
	}
	if p.PFP&spd.PFPRemotePort != 0 {
		k.flow.RemotePort = f.RemotePort
	}
	if p.PFP == 0 && p.Mode == spd.Transport {
		// The SA ends at the packet's own addresses.
		k.flow.Local, k.flow.Remote = f.Local, f.Remote
	}
	return k
}

// acquire handles a question of the kernel.
func (b *Backend) acquire(m *wire.Acquire) {
	b.counts[acquires]++
	e := b.entries[keyOf(&m.Policy, &m.Attrs)]
	if e == nil {
		b.askedOther(m)
		return
	}
	if len(e.list) == 0 || !e.list[0].Acquire {
		b.counts[acquiresOther]++
		return
	}
	p := &e.list[0].Policy
	flow := flowOf(&m.Sel)
	key := populate(p, flow)
	now := time.Now()
	if q := b.asking.open[key]; q != nil && now.Before(q.until) {
		b.counts[acquiresStale]++
		if x, y := q.acq.Asked(), m.Asked(); x != nil && y != nil && (x.ID.Proto != y.ID.Proto || x.Mode != y.Mode) {
			// The entry has another template now, so that the kernel asked anew beside
			// its first question; nothing would take that back.
			b.takeBack(q.acq)
		}
		q.acq = m
		if p.PFP != 0 && q.clear.IsZero() {
			q.clear = now.Add(pfpClear)
			time.AfterFunc(pfpClear, func() { b.answer(time.Now()) })
		}
		return
	}
	if p.PFP == 0 && b.served(p, m.ID.Dst) {
		b.counts[acquiresStale]++ // the SA came, or moved, while the packet was on its way here
		return
	}
	if b.asking.full(p) {
		b.counts[eventsLost]++
		return
	}
	if !b.events.Emit(backend.Acquire{Policy: p.ID, ReqID: p.ReqID, Flow: flow}) {
		b.counts[eventsLost]++
		return
	}
	q := &question{acq: m, reqID: p.ReqID, until: now.Add(askAgain)}
	if p.PFP == 0 {
		q.clear = q.until
	}
	b.asking.open[key] = q
	if p.PFP != 0 {
		b.takeBack(m) // at once, for the other flows
	}
}

// served tells whether there is an outbound SA for an entry. In transport mode each
// peer has its own.
func (b *Backend) served(p *spd.Policy, dst wire.Address) bool {
	if b.serving[p.ReqID] == 0 {
		return false
	}
	if p.Mode != spd.Transport {
		return true
	}
	for _, r := range b.sas {
		if r.reqID == p.ReqID && !r.dead && wire.AddressOf(r.id.Dst) == dst {
			return true
		}
	}
	return false
}

// AcquireFailed implements backend.AcquireAnswerer. There is no message that tells
// the kernel of a failure; its question stays until retry is over and is then taken
// back, so that the policy may ask again. What waits meanwhile is dropped by the
// kernel.
func (b *Backend) AcquireFailed(policy uint64, flow spd.Flow, retry time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := flowKey{flow: flow}
	if policy != 0 {
		r := b.policies[policy]
		if r == nil {
			return
		}
		key = populate(&r.Policy, flow)
	}
	if q := b.asking.open[key]; q != nil && (!q.others || q.taken) {
		q.until = time.Now().Add(retry)
		q.clear = q.until
	}
}

// answer takes back questions whose time has come, and forgets old ones.
func (b *Backend) answer(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	for k, q := range b.asking.open {
		if !q.clear.IsZero() && !now.Before(q.clear) {
			q.clear = time.Time{}
			b.takeBack(q.acq)
		}
		if !now.Before(q.until) {
			delete(b.asking.open, k)
		}
	}
}

// takeBack removes the kernel's note of a question. It has no SPI, so no message
// names it; an SA that answers it replaces it. So one is added that can carry
// nothing, because its selector is that of no packet, and removed at once.
func (b *Backend) takeBack(a *wire.Acquire) {
	t := a.Asked()
	if t == nil {
		return
	}
	m := &wire.SA{}
	m.ID = wire.ID{Dst: a.ID.Dst, Proto: a.ID.Proto}
	if a.ID.Proto == ipComp {
		m.ID.SPI, m.AlgComp = privateCPI, deflate()
	} else {
		alg, ok := b.report.anyAlgorithm(a.ID.Proto)
		if !ok || named(alg.proto, alg.encr, alg.integ, random(alg.encrLen), random(alg.integLen), &m.Attrs) != nil {
			return
		}
		defer m.Destroy()
		var spi [4]byte
		rand.Read(spi[:])
		m.ID.SPI = binary.BigEndian.Uint32(spi[:]) | 0x80000000
	}
	m.Src, m.Family, m.ReqID, m.Mode, m.Seq = a.Src, t.Family, t.ReqID, t.Mode, a.Seq
	m.Lifetime = wire.Lifetime{SoftBytes: wire.Infinite, HardBytes: 1, SoftPackets: wire.Infinite, HardPackets: 1, HardAdd: 1}
	nowhere := netip.IPv4Unspecified()
	if a.Sel.Family == wire.Inet6 {
		nowhere = netip.IPv6Unspecified()
	}
	m.Sel = wire.Selector{Src: wire.AddressOf(nowhere), Dst: wire.AddressOf(nowhere), SrcLen: uint8(nowhere.BitLen()), DstLen: uint8(nowhere.BitLen()), Family: a.Sel.Family, Proto: 255}
	m.Attrs.Mark, m.Attrs.IfID = a.Mark, a.IfID
	if b.report.SADir {
		m.SADir = ptr(wire.SADirOut)
	}
	id := m.ByID()
	b.req.do([]request{{wire.NewSA, wire.FlagCreate | wire.FlagExcl, m}, {wire.DelSA, 0, &wire.SAByID{SAID: id, Attrs: wire.Attrs{Mark: a.Mark}}}})
}

func random(n int) secret.Bytes {
	b := make([]byte, n)
	rand.Read(b)
	return secret.New(b)
}
