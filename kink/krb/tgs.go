package krb

import (
	"context"
	"fmt"
	"slices"
	"time"

	"iked/kink"
	"iked/kink/der"
	"iked/kink/krb/krb5"
)

// stale are the codes of a KDC that has other keys or another time than when it gave
// the ticket-granting ticket.
var stale = []int32{kink.ErrTicketExpired, kink.ErrBadIntegrity, kink.ErrBadKeyVersion, kink.ErrNoKey, kink.ErrModified}

// maxHops bounds the realms on the way to a server.
const maxHops = 10

// service gets a ticket for a server, through the realms on the way to it (RFC 4120,
// Section 3.3; RFC 6806, Section 8). second is the server's ticket-granting ticket in
// user-to-user (RFC 4120, Section 3.7).
func (c *Client) service(ctx context.Context, now time.Time, id Identity, w kink.GetTicket) (krb5.Credential, error) {
	server, second := w.Server, w.TGT
	cur, err := c.tgt(ctx, now, id, false)
	if err == nil && w.Refresh && id.Keytab != nil && c.worn(cur, now) {
		cur, err = c.tgt(ctx, now, id, true)
	}
	if err != nil {
		return krb5.Credential{}, err
	}
	if second != nil {
		t, err := krb5.ParseTicket(second)
		if err != nil {
			return krb5.Credential{}, &kink.KerberosError{Sentence: fmt.Sprintf("the ticket-granting ticket that %s sent is none", server)}
		}
		// It is the server's KDC alone that can read it.
		if !t.Server.Equal(der.Name{Parts: []string{"krbtgt", server.Realm()}}) || t.Realm != server.Realm() {
			return krb5.Credential{}, &kink.KerberosError{Sentence: fmt.Sprintf("the ticket-granting ticket that %s sent is of another realm", server)}
		}
	}
	own := id.Principal.Realm()
	target, visited := server.Realm(), []string{own}
	way := append(c.conf.path(own, target), target)
	for len(visited) <= maxHops {
		at := visited[len(visited)-1]
		if at != target {
			cur, err = c.hop(ctx, now, id, cur, at, way, visited)
			if err != nil {
				return krb5.Credential{}, err
			}
			visited = append(visited, cur.Server.Components()[1])
			continue
		}
		cred, err := c.ask(ctx, now, cur, at, server.Components(), second)
		if err != nil {
			return krb5.Credential{}, err
		}
		next, referred := referral(cred.Server, at)
		if !referred {
			return cred, nil
		}
		if slices.Contains(visited, next) {
			return krb5.Credential{}, lied(at, "it refers to realm %s, where the way came from", next)
		}
		if second != nil {
			return krb5.Credential{}, lied(at, "it refers to realm %s, and the server's ticket is of %s", next, at)
		}
		cur, target, way = cred, next, []string{next}
		visited = append(visited, next)
	}
	return krb5.Credential{}, &kink.KerberosError{
		Sentence: fmt.Sprintf("the way to %s goes through more than %d realms", server, maxHops), Advice: "name the way in krb5.conf, section capaths",
		Evidence: visited,
	}
}

// referral tells whether a ticket is for the ticket-granting service of another realm.
func referral(server kink.Principal, at string) (realm string, ok bool) {
	parts := server.Components()
	if len(parts) != 2 || parts[0] != "krbtgt" || server.Realm() != at || parts[1] == at {
		return "", false
	}
	return parts[1], true
}

// hop gets a ticket-granting ticket of a realm nearer to the end of the way, of the
// nearest that the KDC knows.
func (c *Client) hop(ctx context.Context, now time.Time, id Identity, cur krb5.Credential, at string, way, visited []string) (krb5.Credential, error) {
	var first error
	target := way[len(way)-1]
	if cred, ok := c.kept(now, id.Principal, at, way, visited); ok {
		return cred, nil
	}
	for _, to := range slices.Backward(way) {
		if slices.Contains(visited, to) {
			break
		}
		server, err := tgs(at, to)
		if err != nil {
			return krb5.Credential{}, err
		}
		cred, err := c.once(ctx, now, ticketID{client: id.Principal, server: server}, false, func() (krb5.Credential, error) {
			return c.ask(ctx, now, cur, at, server.Components(), nil)
		})
		if err == nil {
			next, ok := referral(cred.Server, at)
			if !ok || slices.Contains(visited, next) {
				return krb5.Credential{}, lied(at, "it refers to %s on the way to realm %s", cred.Server, target)
			}
			return cred, nil
		}
		if first == nil {
			first = err
		}
		if k, ok := err.(*kink.KerberosError); !ok || k.Code != kink.ErrServerUnknown {
			break
		}
	}
	if k, ok := first.(*kink.KerberosError); ok && k.Code == kink.ErrServerUnknown {
		first = &kink.KerberosError{
			Code: kink.ErrServerUnknown, Temporary: true,
			Sentence: fmt.Sprintf("realm %s has no trust with realm %s", at, target),
			Advice:   fmt.Sprintf("add krbtgt/%s@%s with the same key in both realms, or name the way in krb5.conf, section capaths", target, at),
			Evidence: k.Evidence,
		}
	}
	return krb5.Credential{}, first
}

// kept is a ticket-granting ticket of a realm further on the way that is there already.
func (c *Client) kept(now time.Time, client kink.Principal, at string, way, visited []string) (krb5.Credential, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, to := range slices.Backward(way) {
		if to == at {
			break
		}
		server, err := tgs(at, to)
		if err != nil {
			break
		}
		if cred, ok := c.tickets[ticketID{client: client, server: server}]; ok && c.left(cred, now) > leftover {
			next, ok := referral(cred.Server, at)
			return cred, ok && !slices.Contains(visited, next)
		}
	}
	return krb5.Credential{}, false
}

// ask asks one Ticket-Granting Service for a server that it may know.
func (c *Client) ask(ctx context.Context, now time.Time, tgt krb5.Credential, realm string, name []string, second []byte) (krb5.Credential, error) {
	server, err := kink.NewPrincipal(realm, name...)
	if err != nil {
		return krb5.Credential{}, err
	}
	offset, synced := c.Offset(realm), false
	for {
		q := krb5.KDCReq{Type: krb5.TypeTGSReq, Body: krb5.KDCBody{
			Options: krb5.OptionCanonicalize, Realm: realm, Server: server.DER(),
			Till: now.Add(offset + c.conf.TicketLifetime), Nonce: nonce(), ETypes: c.tgs,
		}}
		if name[0] == "krbtgt" {
			q.Body.Server.Type = nameService
		}
		if second != nil {
			q.Body.Options |= krb5.OptionEncTktInSkey
			q.Body.Tickets = [][]byte{second}
		}
		request, err := c.tgsReq(now.Add(offset), tgt, q)
		if err != nil {
			return krb5.Credential{}, err
		}
		reply, err := c.kdc.Exchange(ctx, realm, request)
		if err != nil {
			return krb5.Credential{}, err
		}
		if len(reply) > krb5.MaxKDCReply {
			return krb5.Credential{}, lied(realm, "it has %d octets; at most %d are read", len(reply), krb5.MaxKDCReply)
		}
		if der.IsApplication(reply, krb5.TypeTGSRep) {
			cred, err := c.tgsRep(now, offset, reply, tgt, realm, q.Body.Nonce)
			if err != nil {
				return krb5.Credential{}, err
			}
			if _, referred := referral(cred.Server, realm); cred.Server != server && !referred {
				return krb5.Credential{}, lied(realm, "it is a ticket for %s; one for %s was asked for", cred.Server, server)
			}
			if synced {
				// The KDC took that time, and its own is in what only it can encrypt.
				c.learn(realm, cred.StartTime.Sub(now))
			}
			cred.UserToUser = second != nil
			return cred, nil
		}
		e, err := kink.ParseKRBError(reply)
		if err != nil {
			return krb5.Credential{}, lied(realm, "it is neither a TGS-REP nor a KRB-ERROR")
		}
		if e.Code == kink.ErrSkew && c.conf.TimeSync && !synced && !e.STime.IsZero() {
			offset, synced = e.STime.Sub(now), true
			continue
		}
		if slices.Contains(stale, e.Code) {
			c.drop(tgt)
		}
		return krb5.Credential{}, kdcError(now.Add(offset), c.conf.ClockSkew, realm, tgt.Client, server, e)
	}
}

// worn tells that less than half of a ticket's life is left: a ticket for a service
// ends with it.
func (c *Client) worn(cred krb5.Credential, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return 2*c.left(cred, now) < cred.EndTime.Sub(cred.StartTime)
}

// drop forgets a ticket that its server does not take any more.
func (c *Client) drop(cred krb5.Credential) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, v := range c.tickets {
		if v.Key.Equal(cred.Key) {
			delete(c.tickets, k)
		}
	}
}

// tgsReq is a TGS-REQ with the ticket and an authenticator that covers the body (RFC
// 4120, Section 5.4.1). No subkey is offered, so the reply comes under the ticket's key.
func (c *Client) tgsReq(at time.Time, tgt krb5.Credential, q krb5.KDCReq) ([]byte, error) {
	var err error
	if q.RawBody, err = q.Body.Append(nil); err != nil {
		return nil, err
	}
	sum, err := tgt.Key.Checksum(krb5.UsageTGSReqChecksum, q.RawBody)
	if err != nil {
		return nil, err
	}
	ap, err := apReq(tgt, 0, krb5.UsageTGSAuthenticator, krb5.Authenticator{
		Checksum: &krb5.Checksum{Type: tgt.Key.ChecksumType(), Sum: sum}, CTime: c.unique(at, tgt),
	})
	if err != nil {
		return nil, err
	}
	q.PAData = []krb5.PAData{{Type: krb5.PATGSReq, Value: ap}}
	return q.Append(nil)
}

// unique is a time that no other authenticator to the same service has.
func (c *Client) unique(at time.Time, cred krb5.Credential) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(cred.Client, cred.Server)
	return p.next(at)
}

// tgsRep checks a TGS-REP (RFC 4120, Section 3.3.4).
func (c *Client) tgsRep(now time.Time, offset time.Duration, reply []byte, tgt krb5.Credential, realm string, nonce uint32) (krb5.Credential, error) {
	rep, err := krb5.ParseKDCRep(reply, krb5.TypeTGSRep)
	if err != nil {
		return krb5.Credential{}, lied(realm, "%v", err)
	}
	plain, err := rep.Enc.Open(tgt.Key, krb5.UsageTGSRep)
	if err != nil {
		return krb5.Credential{}, lied(realm, "%v", err)
	}
	part, err := krb5.ParseKDCRepPart(plain)
	if err != nil {
		return krb5.Credential{}, lied(realm, "%v", err)
	}
	check := check{c: c, now: now, realm: realm, nonce: nonce, client: tgt.Client, types: c.tgs}
	cred, err := check.reply(rep, part)
	if err != nil {
		return krb5.Credential{}, err
	}
	return check.times(cred, offset)
}

// check is what holds for any reply.
type check struct {
	c      *Client
	now    time.Time
	realm  string
	nonce  uint32
	client kink.Principal
	// renamed: the KDC may give the client another name.
	renamed bool
	types   []int32
}

// reply checks who a ticket is for, and that the names in clear are those under
// encryption.
func (k check) reply(rep krb5.KDCRep, part krb5.KDCRepPart) (krb5.Credential, error) {
	var cred krb5.Credential
	client, err := kink.NewPrincipal(rep.CRealm, rep.Client.Parts...)
	if err != nil {
		return cred, lied(k.realm, "%v", err)
	}
	server, err := kink.NewPrincipal(part.SRealm, part.Server.Parts...)
	if err != nil {
		return cred, lied(k.realm, "%v", err)
	}
	switch {
	case part.Nonce != k.nonce:
		return cred, lied(k.realm, "it has another nonce than the request")
	case client != k.client && (!k.renamed || client.Realm() != k.client.Realm()):
		return cred, lied(k.realm, "it is a ticket of %s; one of %s was asked for", client, k.client)
	case rep.Ticket.Realm != part.SRealm || !rep.Ticket.Server.Equal(part.Server):
		return cred, lied(k.realm, "the ticket names another server than %s in clear", server)
	case server.Realm() != k.realm:
		return cred, lied(k.realm, "it is a ticket for %s, which is not of that realm", server)
	case !slices.Contains(k.types, part.Key.EType()):
		return cred, lied(k.realm, "its session key is of %s, which was not asked for", krb5.ETypeName(part.Key.EType()))
	case part.Flags&krb5.FlagInvalid != 0:
		return cred, lied(k.realm, "the ticket is not valid yet")
	}
	return krb5.Credential{
		Client: client, Server: server, Key: part.Key, AuthTime: part.AuthTime, StartTime: part.StartTime, EndTime: part.EndTime, Till: part.Till,
		Flags: part.Flags, Ticket: rep.Ticket,
	}, nil
}

// times checks that a ticket can be used now, by a clock that is ahead of this one.
func (k check) times(cred krb5.Credential, offset time.Duration) (krb5.Credential, error) {
	at := k.now.Add(offset)
	switch {
	case cred.StartTime.After(at.Add(k.c.conf.ClockSkew)):
		return cred, lied(k.realm, "the ticket begins at %s, and it is %s", cred.StartTime.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	case !cred.EndTime.After(at):
		return cred, lied(k.realm, "the ticket expired at %s, and it is %s", cred.EndTime.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	return cred, nil
}
