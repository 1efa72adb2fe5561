package kink

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"iked/internal/keyex"
	"iked/kink/message"
)

// Command is an authentic message of a peer that begins or goes on with a
// transaction: CREATE, DELETE, STATUS or ACK. A GETTGT is authentic in nothing.
type Command struct {
	Local, Remote  netip.AddrPort
	Type           message.Type
	XID            uint32
	Client, Server Principal
	Key            SessionKey
	Epoch          uint32 // of the peer
	TGTReq         Principal
	inner          message.Body
	gone           []*keyex.Child // that other SAs with the peer had, of a DELETE
	apRep          []byte
}

// Refusal is why a datagram is no command. Reason labels a counter. Answer is what may
// be sent for it, nil: nothing; it is at a bounded rate when the message is not
// Authentic: not the client's, or one that somebody may have recorded. Err is for people, nil: a datagram that says nothing of a peer.
type Refusal struct {
	Reason    string
	Answer    []byte
	Authentic bool
	Client    Principal
	Err       error
}

// Opener is what a datagram meets before anything is kept of its sender.
type Opener struct {
	Acceptor Acceptor
	Epoch    uint32
	// Own is the principal that errors come from, which nobody proves.
	Own Principal
}

// Open checks a datagram that is no REPLY. In the order of what it costs: the header,
// the payloads, the ticket and the authenticator, the checksum, the ciphertext.
// Exactly one of the results is not nil.
func (o *Opener) Open(now time.Time, d keyex.Datagram) (*Command, *Refusal) {
	m, err := message.Parse(d.Data)
	if err != nil {
		return nil, o.unreadable(d.Data, err)
	}
	c := &Command{Local: d.Local, Remote: d.Remote, Type: m.Type, XID: m.XID}
	if m.Type == message.GetTGT {
		return c.gettgt(m)
	}
	if m.Type == message.Reply {
		return nil, &Refusal{Reason: "unexpected-message"}
	}
	if m.APReq == nil {
		// Who does not say who it is gets no answer, which could be sent elsewhere.
		return nil, &Refusal{Reason: "no-ap-req"}
	}
	acc, err := o.Acceptor.Accept(now, m.APReq.Data, d.Remote.Addr().Unmap())
	if err != nil {
		return nil, o.refused(now, m, err)
	}
	c.Client, c.Server, c.Key, c.Epoch, c.apRep = acc.Client, acc.Server, acc.Key, m.APReq.Epoch, acc.APRep
	c.inner, err = open(c.Key, m)
	switch {
	case errors.Is(err, errChecksum):
		return nil, &Refusal{Reason: "checksum", Client: c.Client, Err: fmt.Errorf("a %v that bears a ticket of %s: %w", m.Type, c.Client, err)}
	case acc.Problem != nil:
		return nil, o.problem(c, acc.Problem)
	case err != nil:
		code := message.ProtoErr
		var e *message.Error
		if errors.As(err, &e) {
			code = e.Code
		}
		return nil, o.authentic(c, "payload-syntax", message.Body{Error: &code}, fmt.Errorf("a %v of %s: %w", m.Type, c.Client, err))
	case len(m.ISAKMP) > 0:
		// RFC 4430, Section 6: Quick Mode goes within KINK_ENCRYPT.
		code := message.ProtoErr
		return nil, o.authentic(c, "not-encrypted", message.Body{Error: &code}, fmt.Errorf("a %v of %s has KINK_ISAKMP in clear", m.Type, c.Client))
	}
	return c, nil
}

// unreadable answers what cannot be read: a version or a DOI that is not known, or a
// fault of syntax (RFC 4430, Sections 3.5 and 12). Nothing is answered to answers.
func (o *Opener) unreadable(b []byte, err error) *Refusal {
	r := &Refusal{Reason: "payload-syntax"}
	var e *message.Error
	if !errors.As(err, &e) {
		return r
	}
	r.Reason = string(e.Reason)
	if len(b) < message.HeaderLen || message.Type(b[0]) == message.Reply || message.Type(b[0]) == message.Ack {
		return r
	}
	h := message.Header{Type: message.Reply, XID: uint32(b[8])<<24 | uint32(b[9])<<16 | uint32(b[10])<<8 | uint32(b[11])}
	answer, err := message.Append(nil, h, message.Body{Error: &e.Code}, nil)
	if err == nil && len(answer) <= len(b) {
		r.Answer = answer
	}
	return r
}

// refused answers an AP-REQ that Kerberos does not accept, with nothing that proves
// who says so (RFC 4430, Section 3.5).
func (o *Opener) refused(now time.Time, m *message.Message, err error) *Refusal {
	r := &Refusal{Reason: "ap-req", Err: err}
	var k *KerberosError
	if !errors.As(err, &k) || k.Code == 0 {
		return r
	}
	if k.Code == ErrRepeat {
		// Whoever repeats a message of another one learns nothing.
		r.Reason, r.Err = "ap-req-repeated", nil
		return r
	}
	if m.Type == message.Ack {
		return r
	}
	der, err := KRBError{Code: k.Code, STime: now, Server: o.Own}.Append(nil)
	if err != nil {
		return r
	}
	answer, err := message.Append(nil, message.Header{Type: message.Reply, XID: m.XID}, message.Body{KRBError: der}, nil)
	if err == nil && len(answer) <= int(m.Length) {
		r.Answer = answer
	}
	return r
}

// problem answers a skewed clock or a ticket that has expired, so that the initiator
// can believe it (RFC 4430, Section 3.5).
func (o *Opener) problem(c *Command, p *KRBError) *Refusal {
	der, err := p.Append(nil)
	if err != nil {
		return &Refusal{Reason: "ap-req", Client: c.Client, Err: err}
	}
	reason, what := "clock-skew", "its clock is off by more than Kerberos allows"
	if !p.CTime.IsZero() {
		what = fmt.Sprintf("its clock is off by %v from this one; set both by NTP", p.CTime.Sub(p.STime).Round(time.Second))
	}
	if p.Code == ErrTicketExpired {
		reason, what = "ticket-expired", "its ticket has expired"
	}
	r := o.authentic(c, reason, message.Body{KRBError: der}, fmt.Errorf("a %v of %s is refused: %s", c.Type, c.Client, what))
	r.Authentic = p.Code != ErrSkew // what is too old is remembered no more
	return r
}

func (o *Opener) authentic(c *Command, reason string, inner message.Body, why error) *Refusal {
	r := &Refusal{Reason: reason, Authentic: true, Client: c.Client, Err: why}
	if c.Type == message.Ack {
		return r
	}
	if b, err := c.reply(o.Epoch, &inner, false); err == nil {
		r.Answer = b
	}
	return r
}

// reply writes the REPLY to a command; inner nil: it says nothing.
func (c *Command) reply(epoch uint32, inner *message.Body, ackReq bool) ([]byte, error) {
	return seal(c.Key, message.Header{Type: message.Reply, XID: c.XID, AckReq: ackReq}, message.Body{APRep: &message.AP{Epoch: epoch, Data: c.apRep}}, inner)
}

// gettgt takes a GETTGT (RFC 4430, Section 3.1), which nothing proves.
func (c *Command) gettgt(m *message.Message) (*Command, *Refusal) {
	if m.TGTReq == nil || m.APReq != nil {
		return nil, &Refusal{Reason: "missing-payload"}
	}
	p, err := ParsePrincipal(*m.TGTReq)
	if err != nil {
		return nil, &Refusal{Reason: "payload-syntax"}
	}
	c.TGTReq = p
	return c, nil
}

// AnswerTGT is the REPLY to a GETTGT: the own ticket-granting ticket, or the error
// that there is none.
func (c *Command) AnswerTGT(now time.Time, r TGTReply) ([]byte, error) {
	body := message.Body{TGTRep: r.TGT}
	if r.Err != nil || len(r.TGT) == 0 {
		der, err := KRBError{Code: ErrUserToUserNoTGT, STime: now, Server: c.TGTReq}.Append(nil)
		if err != nil {
			return nil, err
		}
		body = message.Body{KRBError: der}
	}
	return message.Append(nil, message.Header{Type: message.Reply, XID: c.XID}, body, nil)
}
