package kink

import (
	"encoding/binary"
	"iter"
	"slices"
	"time"

	"iked/crypto/suite"
	quick "iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink/message"
)

// Command takes a command of the peer, which is authentic.
func (sa *SA) Command(now time.Time, c *Command) {
	if sa.closed {
		return
	}
	sa.command(now, c)
	sa.pump(now)
}

func (sa *SA) command(now time.Time, c *Command) {
	sa.seeEpoch(now, c.Epoch)
	if sa.closed {
		return
	}
	sa.lastInbound = now
	old := sa.answers[c.XID]
	if c.Type == message.Ack {
		if old == nil || old.confirm == nil {
			sa.dropped(now, "unexpected-message", "no ACK is waited for with this number")
			return
		}
		old.confirm(now)
		return
	}
	switch {
	case old != nil && old.cmd.Type != c.Type:
		sa.dropped(now, "repeated", "the number of a transaction stands on another command")
		return
	case old != nil && old.reply == nil:
		sa.count("ike-drop", "repeated")
		return
	case old != nil:
		// RFC 4430, Section 9: the command is not carried out again. The answer is for
		// an authenticator that the peer remembers.
		old.cmd.Local, old.cmd.Remote = c.Local, c.Remote // it may have moved
		sa.count("ike-retransmit", "response")
		sa.transmitTo(c, old.reply)
		return
	case len(sa.answers) >= maxAnswers && !sa.forgetAnswer():
		sa.dropped(now, "too-many-exchanges", "too many transactions are going on")
		return
	}
	a := &answer{sa: sa, cmd: c, end: now.Add(keepAnswer)}
	if sa.answers == nil {
		sa.answers = map[uint32]*answer{}
	}
	sa.answers[c.XID] = a
	switch c.Type {
	case message.Create:
		if sa.deleting {
			a.respond(now, []quick.Payload{&quick.Notify{DOI: quick.DOIIPsec, Protocol: quick.ProtoESP, Kind: quick.NoProposalChosen}}, false)
			return
		}
		sa.up(now)
		a.create(now)
	case message.Delete:
		a.delete(now)
	case message.Status:
		a.status(now)
	}
}

// forgetAnswer makes room for another transaction: it forgets the one that was over
// first. Should its command come once more it is carried out again: what it deletes
// is gone then, and a pair of SAs that it makes is one that the peer does not use. A
// recorded command is not taken, since its authenticator is known.
func (sa *SA) forgetAnswer() bool {
	var first *answer
	for _, a := range sa.answers {
		if a.reply != nil && a.confirm == nil && (first == nil || a.end.Before(first.end)) {
			first = a
		}
	}
	if first == nil {
		return false
	}
	delete(sa.answers, first.cmd.XID)
	return true
}

// transmitTo answers a command: to where it came from.
func (sa *SA) transmitTo(c *Command, b []byte) {
	sa.Emit(keyex.Send{Datagram: keyex.Datagram{Local: unmap(c.Local), Remote: unmap(c.Remote), Data: b}})
}

// delete answers a DELETE (RFC 4430, Sections 3.3 and 5.6).
//
//	DELETE, KINK_AP_REQ, KINK_ENCRYPT{KINK_ISAKMP{D [, D..]}}  -->
//	        <--  REPLY, KINK_AP_REP, KINK_ENCRYPT{KINK_ISAKMP{[D ..] [, N ..]}}
//
// The SPIs are those of the sender's inbound SAs. Pairs go as a whole, and the answer
// names their other halves.
func (a *answer) delete(now time.Time) {
	sa := a.sa
	gone := a.cmd.gone
	var list []quick.Payload
	for proto, octets := range a.cmd.deletions() {
		spi, ok := spiOf(octets)
		if ok && slices.ContainsFunc(gone, func(c *keyex.Child) bool { return outbound(c, suite.Protocol(proto), spi) }) {
			continue // the AH around an ESP that goes
		}
		c := sa.childByOutbound(suite.Protocol(proto), spi)
		if !ok || c == nil {
			list = append(list, &quick.Notify{DOI: quick.DOIIPsec, Protocol: proto, SPI: octets, Kind: quick.InvalidSPI})
			continue
		}
		gone = append(gone, c)
		sa.dropChild(now, c, true)
	}
	if len(gone)+len(list) == 0 {
		list = append(list, &quick.Notify{DOI: quick.DOIIPsec, Kind: quick.PayloadMalformed, Protocol: quick.ProtoESP})
	}
	a.respond(now, append(offer.Deletes(gone), list...), false)
}

// DeleteFor carries a DELETE out that another SA with the same peer answers: a peer
// need not know in how many SAs this host has what it deletes.
func (sa *SA) DeleteFor(now time.Time, c *Command) {
	if sa.closed || c.Type != message.Delete || sa.peer != c.Client || sa.own != c.Server {
		return
	}
	for proto, octets := range c.deletions() {
		spi, _ := spiOf(octets)
		if ch := sa.childByOutbound(suite.Protocol(proto), spi); ch != nil {
			c.gone = append(c.gone, ch)
			sa.dropChild(now, ch, true)
		}
	}
	sa.pump(now)
}

func spiOf(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// deletions are the SPIs that a DELETE names, each with its protocol.
func (c *Command) deletions() iter.Seq2[quick.Protocol, []byte] {
	return func(yield func(quick.Protocol, []byte) bool) {
		for _, q := range c.inner.ISAKMP {
			for _, p := range q.Payloads {
				d, ok := p.(*quick.Delete)
				if !ok {
					continue
				}
				for _, octets := range d.SPIs {
					if !yield(d.Protocol, octets) {
						return
					}
				}
			}
		}
	}
}

// status answers a STATUS (RFC 4430, Section 3.4): that the answer comes, with our
// epoch, is what it says.
func (a *answer) status(now time.Time) {
	for _, q := range a.cmd.inner.ISAKMP {
		for _, p := range q.Payloads {
			if n, ok := p.(*quick.Notify); ok {
				a.sa.log(now, trace.Detail, false, "the peer notifies %s", n.Kind.Name())
			}
		}
	}
	a.respond(now, nil, false)
}

// sendDelete deletes pairs at the peer; done is called when it answered or does not.
func (sa *SA) sendDelete(now time.Time, list []*keyex.Child, done func(now time.Time)) {
	x := &exchange{kind: message.Delete, inner: &message.Body{ISAKMP: []*message.ISAKMP{{Payloads: offer.Deletes(list)}}}}
	x.answered = func(now time.Time, _ *message.Body, _ bool) {
		x.finish(now, false)
		done(now)
	}
	x.failed = func(now time.Time, f *trace.Failure) {
		sa.log(now, trace.Control, true, "%s", f.Sentence)
		if f.Stage == trace.StageReach && !sa.deleting {
			sa.ping(now)
		}
		done(now)
	}
	sa.begin(now, x)
}

// deleteChildren closes pairs: nothing is sent on them any more, the peer is told, and
// what is still on its way is received for a while (RFC 4430, Section 3.3).
func (sa *SA) deleteChildren(now time.Time, list ...*keyex.Child) {
	for _, c := range list {
		sa.dropChild(now, c, false)
	}
	sa.sendDelete(now, list, func(time.Time) {})
}

// ping asks whether the peer is there, and whether it was started again (RFC 4430,
// Sections 3.4 and 3.7).
func (sa *SA) ping(now time.Time) {
	for _, x := range sa.exchanges {
		if x.kind == message.Status && !x.done() {
			return
		}
	}
	x := &exchange{kind: message.Status}
	x.answered = func(now time.Time, _ *message.Body, _ bool) { x.finish(now, false) }
	x.failed = func(now time.Time, f *trace.Failure) {
		if f.Stage != trace.StageReach && sa.state == keyex.Established {
			// The KDC's fault is not the peer's.
			sa.log(now, trace.Control, true, "%s", f.Sentence)
			return
		}
		reason := keyex.CloseTimeout
		if f.Stage != trace.StageReach {
			reason = keyex.CloseFailed
		}
		sa.close(now, keyex.Closed{Reason: reason, Failure: f})
	}
	sa.begin(now, x)
}

// seeEpoch holds the epoch of an authentic message against the one before. Another one
// says that the peer has lost all its SAs (RFC 4430, Section 3.7).
func (sa *SA) seeEpoch(now time.Time, epoch uint32) {
	known := sa.epochKnown
	same := sa.epoch == epoch
	sa.epoch, sa.epochKnown = epoch, true
	if !known || same {
		return
	}
	if n := len(sa.children); n > 0 {
		sa.log(now, trace.Control, true, "%s was started again and has lost its SAs: %d CHILD_SAs go", sa.peer, n)
	}
	sa.count("kink-epoch", "peer-restarted")
	for _, a := range sa.answers {
		a.drop(now)
	}
	sa.answers = nil
	for _, c := range append([]*keyex.Child(nil), sa.children...) {
		book(c).successor = nil
		sa.dropChild(now, c, true)
	}
	for _, c := range sa.fading {
		sa.removeChild(c, true, true)
	}
	sa.fading = nil
	sa.tgt = nil
}

// SeeEpoch is for what the peer says in a transaction with another SA.
func (sa *SA) SeeEpoch(now time.Time, c *Command) {
	if !sa.closed && sa.peer == c.Client {
		sa.seeEpoch(now, c.Epoch)
		sa.pump(now)
	}
}

// Awaits tells whether a transaction of ours has the number.
func (sa *SA) Awaits(xid uint32) bool { return sa.exchanges[xid] != nil }

// Knows tells whether a command belongs to what this SA has: it repeats or confirms
// one, or is about a pair of SAs.
func (sa *SA) Knows(c *Command) bool {
	if sa.peer != c.Client || sa.own != c.Server {
		return false
	}
	if sa.answers[c.XID] != nil {
		return true
	}
	for proto, octets := range c.deletions() {
		if spi, ok := spiOf(octets); ok && sa.childByOutbound(suite.Protocol(proto), spi) != nil {
			return true
		}
	}
	return false
}
