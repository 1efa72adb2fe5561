package kink

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink/message"
)

// Limits of one SA.
const (
	maxParallel  = 8    // transactions of ours at once
	maxAnswers   = 64   // transactions of the peer that are remembered
	maxChildren  = 1024 // pairs of SAs
	maxVerifiers = 8    // authenticators of one transaction
	keepAnswer   = 60 * time.Second
)

// exchange is one transaction of ours (RFC 4430, Section 3). Each transmission has a
// fresh authenticator, since the peer takes none twice; the answer may belong to any
// of them.
type exchange struct {
	sa     *SA
	kind   message.Type
	xid    uint32
	flow   keyex.Flow
	inner  *message.Body // nil: the message says nothing within KINK_ENCRYPT
	ticket Ticket
	// verifiers are of the authenticators that were sent, the latest last.
	verifiers []Verifier
	due       time.Time // when it is sent again; zero: never
	tries     int
	end       time.Time // an answered one is kept until then
	// renewed: it was begun anew because of the clock, the ticket, the peer's TGT.
	renewed map[string]bool
	hint    string // what nobody proves
	// pair is what the peer may have made for a CREATE, by its protocol and our SPI.
	pair *keyex.Child

	// keyed is called when there is a ticket, before the first transmission; it calls
	// transmit. nil: transmit is called at once.
	keyed func(now time.Time)
	// answered takes the authentic answer; nil when that is over.
	answered func(now time.Time, in *message.Body, ackReq bool)
	// failed ends it; stopped gives back what it holds.
	failed  func(now time.Time, f *trace.Failure)
	stopped func(now time.Time)
}

func (x *exchange) done() bool { return !x.end.IsZero() }

// name is the task name of the control protocol.
func (x *exchange) name() string { return "KINK_" + x.kind.String() }

// begin asks for a ticket and then transmits.
func (sa *SA) begin(now time.Time, x *exchange) {
	x.sa, x.renewed, x.flow = sa, map[string]bool{}, keyex.Flow{Queue: &sa.Queue}
	x.number()
	x.authenticate(now, false)
}

// number gives the transaction a number that no other one of this SA has, and that
// nobody guesses.
func (x *exchange) number() {
	sa := x.sa
	if sa.exchanges == nil {
		sa.exchanges = map[uint32]*exchange{}
	}
	for {
		var b [4]byte
		sa.env.Random(b[:])
		x.xid = uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		if sa.exchanges[x.xid] == nil && sa.answers[x.xid] == nil {
			sa.exchanges[x.xid] = x
			return
		}
	}
}

// authenticate gets a ticket.
func (x *exchange) authenticate(now time.Time, refresh bool) {
	sa := x.sa
	if sa.cfg.KINK.UserToUser && sa.tgt == nil && x.kind != message.GetTGT {
		sa.getTGT(now, x)
		return
	}
	if x.kind == message.GetTGT {
		x.transmit(now)
		return
	}
	tgt := sa.tgt
	x.flow.Ask(GetTicket{Client: sa.own, Server: sa.peer, TGT: tgt, Refresh: refresh}, func(now time.Time, r keyex.Reply) {
		t, ok := r.(TicketReply)
		var k *KerberosError
		switch {
		case ok && t.Err == nil && t.Ticket != nil && t.Ticket.Server() != sa.peer:
			// RFC 6806, Section 8: KDCs may refer to another realm. Who is allowed there is
			// for the configuration to say, not for them.
			s := t.Ticket.Server().String()
			x.fail(now, sa.failure(now, trace.StageIdentity, fmt.Sprintf("the KDCs refer to the principal %s in place of %s", s, sa.peer),
				"if that is the peer, name it so in remote.id: "+s))
		case ok && t.Err == nil && t.Ticket != nil:
			x.ticket = t.Ticket
			x.send(now)
		case errors.As(t.Err, &k) && k.Code == ErrUserToUserOnly && sa.tgt == nil:
			// RFC 4430, Section 3.1: the KDC knows that the peer has no key of its own.
			sa.getTGT(now, x)
		case tgt != nil && errors.As(t.Err, &k) && (k.Code != 0 || !k.Temporary):
			x.refusedTGT(now, tgt, k)
		default:
			x.fail(now, sa.noTicket(now, t.Err))
		}
	})
}

// refusedTGT: the KDC gives no ticket for the peer's ticket-granting ticket. It has
// expired, or somebody made it up: it is asked for once more, and never used again.
func (x *exchange) refusedTGT(now time.Time, tgt []byte, k *KerberosError) {
	sa := x.sa
	if bytes.Equal(sa.tgt, tgt) {
		sa.tgt = nil
	}
	switch {
	case x.renewed["kdc"]:
		x.fail(now, sa.noTicket(now, k))
	case sa.tgt != nil:
		x.renewed["kdc"] = true
		x.authenticate(now, false) // another transaction has got a new one
	default:
		x.renewed["kdc"] = true
		sa.getTGT(now, x)
	}
}

// noTicket is the failure of Kerberos.
func (sa *SA) noTicket(now time.Time, err error) *trace.Failure {
	var k *KerberosError
	if errors.As(err, &k) {
		return sa.failure(now, trace.StageAuth, k.Sentence, k.Advice, k.Evidence...)
	}
	return sa.failure(now, trace.StageAuth, fmt.Sprintf("there is no ticket for %s: %v", sa.peer, err), "see the KDC's log")
}

func (x *exchange) send(now time.Time) {
	if x.keyed != nil {
		x.keyed(now)
		return
	}
	x.transmit(now)
}

// transmit sends the message with a fresh authenticator, and again until it is
// answered (RFC 4430, Section 9).
func (x *exchange) transmit(now time.Time) {
	sa := x.sa
	b, err := x.write(now, x.kind, x.inner)
	if err != nil {
		x.fail(now, sa.failure(now, trace.StageConfig, fmt.Sprintf("%v cannot be written: %v", x.kind, err), "offer fewer proposals"))
		return
	}
	sa.transmit(b)
	x.due = now.Add(sa.cfg.Retransmit.Wait(sa.env, x.tries))
}

// write makes a message of the transaction.
func (x *exchange) write(now time.Time, kind message.Type, inner *message.Body) ([]byte, error) {
	sa := x.sa
	h := message.Header{Type: kind, XID: x.xid}
	if kind == message.GetTGT {
		name := sa.peer.String()
		return message.Append(nil, h, message.Body{TGTReq: &name}, nil)
	}
	req, v, err := x.ticket.Request(now)
	if err != nil {
		return nil, err
	}
	if kind != message.Ack {
		if len(x.verifiers) == maxVerifiers {
			x.verifiers = x.verifiers[1:]
		}
		x.verifiers = append(x.verifiers, v)
	}
	return seal(x.ticket.Key(), h, message.Body{APReq: &message.AP{Epoch: sa.env.Epoch(), Data: req}}, inner)
}

func (sa *SA) transmit(b []byte) {
	sa.Emit(keyex.Send{Datagram: keyex.Datagram{Local: sa.local, Remote: sa.remote, Data: b}})
}

// retransmit sends again, or gives the peer up.
func (x *exchange) retransmit(now time.Time) {
	sa := x.sa
	x.tries++
	if x.tries >= sa.cfg.Retransmit.Limit() {
		x.due = time.Time{}
		f := sa.failure(now, trace.StageReach, fmt.Sprintf("%s at %s does not answer %v", sa.peer, sa.remote, x.kind),
			"see whether KINK runs there and UDP port 910 is open on the way, and the peer's log")
		if x.hint != "" {
			f.Evidence = append(f.Evidence, x.hint)
			if x.ticket != nil {
				// The peer may have other keys than the ticket is for: it was installed anew. A
				// new ticket costs a request to the KDC.
				x.ticket.Drop()
			}
		}
		x.fail(now, f)
		return
	}
	sa.count("ike-retransmit", "request")
	sa.log(now, trace.Detail, false, "retransmit %d of %v %08x", x.tries, x.kind, x.xid)
	x.transmit(now)
}

// reply finds the transaction of a REPLY and hands over what is authentic.
func (sa *SA) reply(now time.Time, d keyex.Datagram) {
	m, err := message.Parse(d.Data)
	if err != nil {
		sa.faulty(now, err)
		return
	}
	x := sa.exchanges[m.XID]
	switch {
	case m.Type != message.Reply:
		sa.dropped(now, "unexpected-message", "a "+m.Type.String()+" is no REPLY")
	case x == nil || x.kind != message.GetTGT && len(x.verifiers) == 0:
		sa.dropped(now, "unknown-xid", "no transaction of ours has this number")
	case !sa.At(unmap(d.Remote).Addr()):
		sa.dropped(now, "address", "a REPLY comes from another address than the command went to")
	case x.kind == message.GetTGT:
		x.gotTGT(now, m)
	case m.APRep == nil:
		x.hinted(now, m)
	default:
		x.authentic(now, m)
	}
}

// authentic checks a REPLY with KINK_AP_REP.
func (x *exchange) authentic(now time.Time, m *message.Message) {
	sa := x.sa
	known := false
	for _, v := range x.verifiers {
		if known = v.Check(m.APRep.Data) == nil; known {
			break
		}
	}
	if !known {
		sa.dropped(now, "ap-rep", "KINK_AP_REP answers none of our authenticators")
		return
	}
	in, err := open(x.ticket.Key(), m)
	if errors.Is(err, errChecksum) || errors.Is(err, errDecrypt) {
		sa.dropped(now, "checksum", err.Error())
		return
	}
	sa.up(now)
	sa.seeEpoch(now, m.APRep.Epoch)
	if sa.closed || sa.exchanges[x.xid] != x {
		return
	}
	switch {
	case x.done():
		if m.AckReq {
			// The ACK got lost.
			x.ack(now)
		}
	case x.answered == nil:
		// The answer before is being worked on.
	case err != nil:
		x.fail(now, sa.failure(now, trace.StageRefused, "the peer's REPLY cannot be read: "+err.Error(), "this is a fault of the peer's implementation"))
	case in.KRBError != nil:
		x.kerberosError(now, in.KRBError)
	case in.Error != nil && *in.Error != message.OK:
		x.fail(now, sa.failure(now, trace.StageRefused, fmt.Sprintf("the peer refused %v with %v", x.kind, *in.Error), "see the peer's log"))
	case len(m.ISAKMP) > 0:
		x.fail(now, sa.failure(now, trace.StageRefused, "the peer's REPLY has KINK_ISAKMP in clear, and it goes within KINK_ENCRYPT", "this is a fault of the peer's implementation"))
	default:
		answered := x.answered
		x.due, x.answered = time.Time{}, nil
		answered(now, &in, m.AckReq)
	}
}

// kerberosError acts on an authentic error: the clock and the ticket are put right
// once, and a new transaction says the same (RFC 4430, Section 3.5).
func (x *exchange) kerberosError(now time.Time, der []byte) {
	sa := x.sa
	e, err := ParseKRBError(der)
	switch {
	case err != nil:
		x.fail(now, sa.failure(now, trace.StageRefused, "the peer's KRB-ERROR cannot be read: "+err.Error(), "this is a fault of the peer's implementation"))
	case e.Code == ErrSkew && !x.renewed["skew"]:
		off := e.STime.Sub(now).Round(time.Second)
		sa.log(now, trace.Control, true, "the clock of %s is off by %v from this one; it is used with it", sa.peer, off)
		x.ticket.Skew(now, e.STime)
		x.renew(now, "skew", false)
	case e.Code == ErrTicketExpired && !x.renewed["ticket"]:
		sa.log(now, trace.Control, false, "the ticket for %s has expired, says the peer; a new one is asked for", sa.peer)
		x.renew(now, "ticket", true)
	case e.Code == ErrSkew:
		x.fail(now, sa.failure(now, trace.StageAuth, fmt.Sprintf("the clock of %s is off by %v from this one", sa.peer, e.STime.Sub(now).Round(time.Second)),
			"set the clocks of both hosts by NTP"))
	default:
		x.fail(now, sa.failure(now, trace.StageRefused, fmt.Sprintf("the peer refused %v with the Kerberos error %d %s", x.kind, e.Code, e.Text), "see the peer's log"))
	}
}

// renew begins the transaction anew, once for each reason: with a new number, and with
// the keys of the ticket that there is then.
func (x *exchange) renew(now time.Time, why string, refresh bool) {
	x.renewed[why] = true
	delete(x.sa.exchanges, x.xid)
	x.number()
	x.verifiers, x.due, x.tries = nil, time.Time{}, 0
	x.authenticate(now, refresh)
}

// hinted notes what a REPLY says that nobody proves. It changes nothing, but that the
// peer's ticket-granting ticket is asked for again, once: it is gone when the peer
// was started again (RFC 4430, Section 3.7.1).
func (x *exchange) hinted(now time.Time, m *message.Message) {
	sa := x.sa
	if x.answered == nil || x.flow.Busy() {
		return
	}
	switch {
	case m.KRBError != nil:
		e, err := ParseKRBError(m.KRBError)
		if err != nil {
			sa.dropped(now, "payload-syntax", "the KRB-ERROR of a REPLY cannot be read")
			return
		}
		x.hint = fmt.Sprintf("somebody at %s answers with the Kerberos error %s, which nothing proves", sa.remote, codeName(e.Code))
		if sa.tgt != nil && !x.renewed["tgt"] && (e.Code == ErrNoKey || e.Code == ErrBadIntegrity || e.Code == ErrNotUs || e.Code == ErrUserToUserNoTGT || e.Code == ErrModified) {
			sa.tgt = nil
			x.renewed["tgt"] = true
			x.due = time.Time{}
			sa.getTGT(now, x)
		}
	case m.Error != nil:
		x.hint = fmt.Sprintf("somebody at %s answers with %v, which nothing proves", sa.remote, *m.Error)
	default:
		return
	}
	sa.count("ike-drop", "unauthenticated-error")
	sa.log(now, trace.Detail, true, "%s", x.hint)
}

// codeName is a code of RFC 4120 in words.
func codeName(code int32) string {
	switch code {
	case ErrBadIntegrity:
		return "31, the ticket cannot be decrypted with its key"
	case ErrTicketExpired:
		return "32, the ticket has expired"
	case ErrNotUs:
		return "35, the ticket is for another principal"
	case ErrSkew:
		return "37, the clocks differ too much"
	case ErrModified:
		return "41, the message was changed"
	case ErrBadKeyVersion:
		return "44, the key of that version is not in its keytab"
	case ErrNoKey:
		return "45, there is no key for the ticket in its keytab"
	}
	return fmt.Sprint(code)
}

// ack confirms the peer's answer (RFC 4430, Section 3.2).
func (x *exchange) ack(now time.Time) {
	b, err := x.write(now, message.Ack, nil)
	if err != nil {
		x.sa.log(now, trace.Control, true, "an ACK cannot be written: %v", err)
		return
	}
	x.sa.transmit(b)
}

// finish ends the transaction. One that the peer wants an ACK for answers
// repetitions of the REPLY for a while.
func (x *exchange) finish(now time.Time, ackReq bool) {
	x.due, x.failed, x.stopped, x.answered = time.Time{}, nil, nil, nil
	if !ackReq {
		delete(x.sa.exchanges, x.xid)
		return
	}
	x.end = now.Add(keepAnswer)
	x.ack(now)
}

// fail ends the transaction without success.
func (x *exchange) fail(now time.Time, f *trace.Failure) {
	failed := x.failed
	x.drop(now)
	if failed != nil {
		failed(now, f)
	}
}

// drop ends the transaction without a word.
func (x *exchange) drop(now time.Time) {
	x.flow.Stop()
	x.due = time.Time{}
	stopped := x.stopped
	x.stopped, x.failed = nil, nil
	if x.sa.exchanges[x.xid] == x {
		delete(x.sa.exchanges, x.xid)
	}
	if stopped != nil {
		stopped(now)
	}
}

// getTGT asks the peer for its ticket-granting ticket, and goes on with x then (RFC
// 4430, Section 3.1).
func (sa *SA) getTGT(now time.Time, x *exchange) {
	g := &exchange{kind: message.GetTGT}
	g.failed = func(now time.Time, f *trace.Failure) { x.fail(now, f) }
	g.answered = func(now time.Time, in *message.Body, _ bool) {
		sa.tgt = in.TGTRep
		g.finish(now, false)
		switch {
		case sa.exchanges[x.xid] != x || x.done():
		case len(x.verifiers) == 0:
			x.authenticate(now, false)
		default:
			x.renew(now, "tgt", true)
		}
	}
	sa.begin(now, g)
}

// gotTGT takes the answer to GETTGT. Nothing proves it: with a wrong one the KDC gives
// no ticket, or one that the peer cannot read.
func (x *exchange) gotTGT(now time.Time, m *message.Message) {
	if m.TGTRep == nil {
		x.hinted(now, m)
		return
	}
	if x.answered == nil {
		return
	}
	x.due = time.Time{}
	x.answered(now, &message.Body{TGTRep: append([]byte(nil), m.TGTRep...)}, false)
}
