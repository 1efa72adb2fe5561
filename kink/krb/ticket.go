package krb

import (
	"errors"
	"fmt"
	"time"

	"iked/kink"
	"iked/kink/krb/krb5"
)

// Ticket is a service ticket. It fulfils kink.Ticket.
type Ticket struct {
	c          *Client
	cred       krb5.Credential
	userToUser bool
}

var _ kink.Ticket = (*Ticket)(nil)

// Client implements kink.Ticket.
func (t *Ticket) Client() kink.Principal { return t.cred.Client }

// Server implements kink.Ticket.
func (t *Ticket) Server() kink.Principal { return t.cred.Server }

// Key implements kink.Ticket.
func (t *Ticket) Key() kink.SessionKey { return t.cred.Key }

// End implements kink.Ticket.
func (t *Ticket) End() time.Time {
	return t.cred.EndTime.Add(-t.c.Offset(t.cred.Client.Realm()))
}

// Request implements kink.Ticket (RFC 4120, Section 3.2.2).
func (t *Ticket) Request(now time.Time) ([]byte, kink.Verifier, error) {
	options := uint32(krb5.APMutualRequired)
	if t.userToUser {
		options |= krb5.APUseSessionKey
	}
	at := t.c.stampFor(now, t.cred.Client, t.cred.Server)
	b, err := apReq(t.cred, options, krb5.UsageAuthenticator, krb5.Authenticator{CTime: at})
	if err != nil {
		return nil, nil, asKerberos(err)
	}
	return b, verifier{t.cred.Key, at}, nil
}

// Skew implements kink.Ticket.
func (t *Ticket) Skew(now, peer time.Time) {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	p := t.c.peer(t.cred.Client, t.cred.Server)
	p.offset, p.known = peer.Sub(now), true
}

// Drop implements kink.Ticket.
func (t *Ticket) Drop() { t.c.drop(t.cred) }

// apReq makes a KRB_AP_REQ with an authenticator of the ticket's client.
func apReq(cred krb5.Credential, options, usage uint32, a krb5.Authenticator) ([]byte, error) {
	a.CRealm, a.Client = cred.Client.Realm(), cred.Client.DER()
	plain, err := a.Append(nil)
	enc, err := krb5.Seal(cred.Key, usage, nil, plain, err)
	if err != nil {
		return nil, err
	}
	return krb5.APReq{Options: options, Ticket: cred.Ticket, Authenticator: enc}.Append(nil)
}

// next is the time of an authenticator: at, unless there was one with it. A clock that
// was set back does not hold it.
func (p *peer) next(at time.Time) time.Time {
	at = at.UTC().Truncate(time.Microsecond)
	if !at.After(p.last) && p.last.Sub(at) < time.Second {
		at = p.last.Add(time.Microsecond)
	}
	p.last = at
	return at
}

// verifier checks the answer to one authenticator.
type verifier struct {
	key krb5.Key
	at  time.Time
}

// Check implements kink.Verifier (RFC 4120, Section 3.2.5).
func (v verifier) Check(b []byte) (err error) {
	defer words(&err)
	defer krb5.Contain(&err)
	fail := func(err error) error {
		return &kink.KerberosError{Code: kink.ErrMutual, Sentence: fmt.Sprintf("the KRB_AP_REP of the peer is refused: %v", err)}
	}
	enc, err := krb5.ParseAPRep(b)
	if err != nil {
		return fail(err)
	}
	plain, err := enc.Open(v.key, krb5.UsageAPRep)
	if err != nil {
		return fail(err)
	}
	at, err := krb5.ParseAPRepPart(plain)
	if err != nil {
		return fail(err)
	}
	if !at.Equal(v.at) {
		return fail(errors.New("it answers another request"))
	}
	return nil
}
