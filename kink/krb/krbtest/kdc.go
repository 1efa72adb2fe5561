package krbtest

import (
	"slices"
	"time"

	"iked/kink"
	"iked/kink/der"
	"iked/kink/krb/krb5"
)

// Error codes of a KDC (RFC 4120, Section 7.5.9).
const (
	errEType        = 14
	errPreauthBad   = 24
	errPreauth      = 25
	errServerMatch  = 26
	errUserToUser   = 27
	errBadChecksum  = 41
	errTicketBad    = 31
	errTicketTime   = 32
	errSkew         = 37
	errNoChecksum   = 50
	errGeneric      = 60
	errWrongRealm   = 68
	nameTypeService = 2
)

// now is the KDC's time, in whole seconds as it writes them.
func (r *Realm) now() time.Time { return r.w.now().Add(r.Offset).UTC() }

func (r *Realm) tgs() kink.Principal { return must(kink.NewPrincipal(r.name, "krbtgt", r.name)) }

// fault is a request that is refused.
type fault struct {
	code int32
	text string
	data []byte
}

func (r *Realm) answer(request []byte) []byte {
	var reply []byte
	f := &fault{code: errGeneric, text: "this is no request"}
	if q, err := krb5.ParseKDCReq(request, krb5.TypeASReq); err == nil {
		r.requests[krb5.TypeASReq]++
		reply, f = r.as(q)
	} else if q, err := krb5.ParseKDCReq(request, krb5.TypeTGSReq); err == nil {
		r.requests[krb5.TypeTGSReq]++
		reply, f = r.ticket(q)
	}
	if f != nil {
		reply = must(kink.KRBError{Code: f.code, STime: r.now(), Server: r.tgs(), Text: f.text, Data: f.data}.Append(nil))
	}
	return reply
}

func (r *Realm) skewed(t time.Time) bool { return t.Sub(r.now()).Abs() > r.MaxSkew }

// as is the Authentication Service (RFC 4120, Section 3.1).
func (r *Realm) as(q krb5.KDCReq) ([]byte, *fault) {
	if q.Body.Realm != r.name {
		return nil, &fault{code: errWrongRealm}
	}
	p, err := kink.NewPrincipal(r.name, q.Body.Client.Parts...)
	client, known := r.principals[p]
	if err != nil || !known {
		return nil, &fault{code: kink.ErrClientUnknown, text: "CLIENT_NOT_FOUND"}
	}
	server, err := kink.NewPrincipal(r.name, q.Body.Server.Parts...)
	service, known := r.principals[server]
	if err != nil || !known {
		return nil, &fault{code: kink.ErrServerUnknown, text: "SERVER_NOT_FOUND"}
	}
	keys := client.latest()
	var have []int32
	for _, id := range q.Body.ETypes {
		if _, ok := keys.key(id); ok {
			have = append(have, id)
		}
	}
	if len(have) == 0 {
		return nil, &fault{code: errEType, text: "no key of these types"}
	}
	reply, _ := keys.key(have[0])
	if !r.NoPreauth {
		i := slices.IndexFunc(q.PAData, func(p krb5.PAData) bool { return p.Type == krb5.PAEncTimestamp })
		if i < 0 {
			info := must(krb5.AppendETypeInfo2(nil, have))
			return nil, &fault{code: errPreauth, text: "NEEDED_PREAUTH", data: must(krb5.AppendMethodData(nil, []krb5.PAData{{Type: krb5.PAEncTimestamp}, {Type: krb5.PAETypeInfo2, Value: info}}))}
		}
		enc, err := krb5.ParseEncryptedData(q.PAData[i].Value)
		k, ok := keys.key(enc.EType)
		if err != nil || !ok {
			return nil, &fault{code: errEType, text: "no key of this type"}
		}
		plain, err := enc.Open(k, krb5.UsageASReqTimestamp)
		if err != nil {
			return nil, &fault{code: errPreauthBad, text: "PREAUTH_FAILED"}
		}
		t, err := krb5.ParseTimestamp(plain)
		if err != nil || r.skewed(t) {
			return nil, &fault{code: errSkew, text: "CLOCK_SKEW"}
		}
		reply = k
	}
	now := r.now()
	return r.issue(&issuing{
		q: q, client: p, server: server, until: now.Add(r.Lifetime), authTime: now, flags: krb5.FlagInitial,
		key: service.latest().keys[0], kvno: &service.keys[len(service.keys)-1].kvno, service: service,
		reply: reply, usage: krb5.UsageASRep, replyKVNO: &keys.kvno,
	})
}

// ticket is the Ticket-Granting Service (RFC 4120, Section 3.3).
func (r *Realm) ticket(q krb5.KDCReq) ([]byte, *fault) {
	i := slices.IndexFunc(q.PAData, func(p krb5.PAData) bool { return p.Type == krb5.PATGSReq })
	if i < 0 || q.Body.Realm != r.name {
		return nil, &fault{code: errPreauth}
	}
	req, err := krb5.ParseAPReq(q.PAData[i].Value)
	if err != nil {
		return nil, &fault{code: errGeneric, text: "no KRB_AP_REQ"}
	}
	part, f := r.open(req.Ticket)
	if f != nil {
		return nil, f
	}
	plain, err := req.Authenticator.Open(part.Key, krb5.UsageTGSAuthenticator)
	if err != nil {
		return nil, &fault{code: errTicketBad, text: "authenticator"}
	}
	a, err := krb5.ParseAuthenticator(plain)
	if err != nil || !a.Client.Equal(part.Client) || a.CRealm != part.CRealm {
		return nil, &fault{code: 36, text: "BADMATCH"}
	}
	if r.skewed(a.CTime) {
		return nil, &fault{code: errSkew, text: "CLOCK_SKEW"}
	}
	if a.Checksum == nil || a.Checksum.Type != part.Key.ChecksumType() {
		return nil, &fault{code: errNoChecksum}
	}
	if !part.Key.Verify(krb5.UsageTGSReqChecksum, q.RawBody, a.Checksum.Sum) {
		return nil, &fault{code: errBadChecksum}
	}
	client := must(kink.NewPrincipal(part.CRealm, part.Client.Parts...))
	server, err := kink.NewPrincipal(r.name, q.Body.Server.Parts...)
	if err != nil {
		return nil, &fault{code: kink.ErrServerUnknown}
	}
	service, known := r.principals[server]
	if !known {
		if server, known = r.elsewhere(q, server); !known {
			return nil, &fault{code: kink.ErrServerUnknown, text: "SERVER_NOT_FOUND"}
		}
		service = r.principals[server]
	}
	is := &issuing{
		q: q, client: client, server: server, until: part.EndTime, authTime: part.AuthTime, service: service, addresses: part.Addresses,
		key: service.latest().keys[0], kvno: &service.keys[len(service.keys)-1].kvno,
		reply: part.Key, usage: krb5.UsageTGSRep,
	}
	if q.Body.Options&krb5.OptionEncTktInSkey == 0 {
		if service.userToUser {
			return nil, &fault{code: errUserToUser, text: "MUST_USE_USER2USER"}
		}
		return r.issue(is)
	}
	// RFC 4120, Section 3.3.3: the ticket of the server is one of this KDC's.
	if len(q.Body.Tickets) != 1 {
		return nil, &fault{code: errGeneric, text: "no additional ticket"}
	}
	second, err := krb5.ParseTicket(q.Body.Tickets[0])
	if err != nil {
		return nil, &fault{code: errGeneric, text: "no ticket"}
	}
	other, f := r.open(second)
	if f != nil {
		return nil, f
	}
	if owner, err := kink.NewPrincipal(other.CRealm, other.Client.Parts...); err != nil || owner != server {
		return nil, &fault{code: errServerMatch, text: "SERVER_NOMATCH"}
	}
	is.key, is.kvno = other.Key, nil
	return r.issue(is)
}

// elsewhere is the ticket-granting service that leads on, when one is known.
func (r *Realm) elsewhere(q krb5.KDCReq, server kink.Principal) (kink.Principal, bool) {
	parts := server.Components()
	to := r.Refer[server.String()]
	if len(parts) == 2 && parts[0] == "krbtgt" {
		to = r.Via[parts[1]]
	} else if q.Body.Options&krb5.OptionCanonicalize == 0 {
		return kink.Principal{}, false
	}
	if to == "" {
		return kink.Principal{}, false
	}
	p := must(kink.NewPrincipal(r.name, "krbtgt", to))
	_, ok := r.principals[p]
	return p, ok
}

// open decrypts a ticket-granting ticket of this realm.
func (r *Realm) open(t krb5.Ticket) (krb5.TicketPart, *fault) {
	p, err := kink.NewPrincipal(t.Realm, t.Server.Parts...)
	e, known := r.principals[p]
	if parts := p.Components(); err != nil || !known || len(parts) != 2 || parts[0] != "krbtgt" || parts[1] != r.name {
		return krb5.TicketPart{}, &fault{code: 35, text: "NOT_US"}
	}
	for _, g := range e.keys {
		k, ok := g.key(t.Enc.EType)
		if !ok || t.Enc.KVNO != nil && *t.Enc.KVNO != g.kvno {
			continue
		}
		plain, err := t.Enc.Open(k, krb5.UsageTicket)
		if err != nil {
			continue
		}
		part, err := krb5.ParseTicketPart(plain)
		if err != nil {
			break
		}
		if part.EndTime.Before(r.now().Add(-r.MaxSkew)) {
			return krb5.TicketPart{}, &fault{code: errTicketTime, text: "TKT_EXPIRED"}
		}
		return part, nil
	}
	return krb5.TicketPart{}, &fault{code: errTicketBad, text: "ticket"}
}

// issuing is what a ticket is made of.
type issuing struct {
	q               krb5.KDCReq
	client, server  kink.Principal
	service         *entry
	authTime, until time.Time
	flags           uint32
	addresses       []krb5.Address
	key             krb5.Key // of the ticket
	kvno            *uint32
	reply           krb5.Key
	replyKVNO       *uint32
	usage           uint32
}

func (r *Realm) issue(is *issuing) ([]byte, *fault) {
	allowed := r.SessionETypes
	if len(allowed) == 0 {
		for _, k := range is.service.latest().keys {
			allowed = append(allowed, k.EType())
		}
	}
	i := slices.IndexFunc(is.q.Body.ETypes, func(id int32) bool { return slices.Contains(allowed, id) })
	if i < 0 {
		return nil, &fault{code: errEType, text: "no type for the session key"}
	}
	session := must(krb5.RandomKey(is.q.Body.ETypes[i]))
	end := is.until
	if t := r.now().Add(r.Lifetime); t.Before(end) {
		end = t
	}
	if is.q.Body.Till.Before(end) && is.q.Body.Till.Unix() > 0 {
		end = is.q.Body.Till
	}
	realm, parts := r.name, is.server.Components()
	rep := krb5.KDCRep{Type: krb5.TypeASRep, CRealm: is.client.Realm(), Client: is.client.DER()}
	tag := krb5.TypeEncASRepPart
	if is.q.Type == krb5.TypeTGSReq {
		rep.Type, tag = krb5.TypeTGSRep, krb5.TypeEncTGSRepPart
	}
	now := r.now()
	part := krb5.KDCRepPart{
		Key: session, Nonce: is.q.Body.Nonce, Flags: is.flags, AuthTime: is.authTime, StartTime: now, EndTime: end,
		SRealm: realm, Server: der.Name{Type: nameTypeService, Parts: parts},
	}
	tkt := krb5.TicketPart{
		Flags: is.flags, Key: session, CRealm: is.client.Realm(), Client: is.client.DER(), TransitedType: 1,
		AuthTime: is.authTime, StartTime: now, EndTime: end, Addresses: append(is.addresses, is.q.Body.Addresses...),
	}
	if r.Lie != nil {
		r.Lie(&Issue{TGS: is.q.Type == krb5.TypeTGSReq, Reply: &rep, Part: &part, Ticket: &tkt, Realm: &realm, Server: &parts})
	}
	b, err := tkt.Append(nil)
	enc := must(krb5.Seal(is.key, krb5.UsageTicket, is.kvno, b, err))
	rep.Ticket = must(krb5.NewTicket(realm, der.Name{Type: nameTypeService, Parts: parts}, enc))
	b, err = part.Append(nil, tag)
	rep.Enc = must(krb5.Seal(is.reply, is.usage, is.replyKVNO, b, err))
	return must(rep.Append(nil)), nil
}
