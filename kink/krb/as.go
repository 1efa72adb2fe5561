package krb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"iked/kink"
	"iked/kink/der"
	"iked/kink/krb/krb5"
)

// Types of names (RFC 4120, Section 6.2): NT-PRINCIPAL, and NT-SRV-INST of a
// ticket-granting service.
const (
	namePrincipal = 1
	nameService   = 2
)

// maxTries bounds an exchange with the Authentication Service: without and with an
// encrypted timestamp, and each once more with the KDC's time.
const maxTries = 4

// as gets a ticket-granting ticket with the keytab (RFC 4120, Section 3.1).
func (c *Client) as(ctx context.Context, now time.Time, id Identity) (krb5.Credential, error) {
	realm := id.Principal.Realm()
	kt := id.Keytab.get(now)
	have := kt.ETypes(id.Principal)
	var types []int32
	for _, t := range c.tkt {
		if slices.Contains(have, t) {
			types = append(types, t)
		}
	}
	if len(types) == 0 {
		return krb5.Credential{}, noKeyFor(id, now, have, c.tkt)
	}
	server, err := tgs(realm, realm)
	if err != nil {
		return krb5.Credential{}, err
	}
	x := asExchange{c: c, id: id, kt: kt, now: now, realm: realm, server: server, types: types, offset: c.Offset(realm)}
	for range maxTries {
		request, err := x.request()
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
		if der.IsApplication(reply, krb5.TypeASRep) {
			return x.accept(reply)
		}
		e, err := kink.ParseKRBError(reply)
		if err != nil {
			return krb5.Credential{}, lied(realm, "it is neither an AS-REP nor a KRB-ERROR")
		}
		if fail := x.again(e); fail != nil {
			return krb5.Credential{}, fail
		}
	}
	return krb5.Credential{}, lied(realm, "it asks for the same again and again")
}

// noKeyFor says that the keytab does not help.
func noKeyFor(id Identity, now time.Time, have, want []int32) *kink.KerberosError {
	if len(have) == 0 {
		_, fail := id.Keytab.entry(now, id.Principal, 0, nil)
		return fail
	}
	return &kink.KerberosError{
		Code:     errETypeNoSupport,
		Sentence: fmt.Sprintf("the keys of %s in the keytab have encryption types that are not permitted", id.Principal),
		Advice:   "extract keys of a permitted type, or name the type in permitted_enctypes of krb5.conf",
		Evidence: []string{"in the keytab: " + strings.Join(etypeNames(have), ", "), "permitted: " + strings.Join(etypeNames(want), ", ")},
	}
}

// asExchange is one run of as.
type asExchange struct {
	c      *Client
	id     Identity
	kt     *krb5.Keytab
	now    time.Time
	realm  string
	server kink.Principal
	types  []int32
	nonce  uint32
	// offset is what the KDC's clock is ahead; synced tells that it came from an
	// answer of this exchange, and proves nothing.
	offset time.Duration
	synced bool
	// preauth is the type of the key for the timestamp; 0: none was asked for.
	preauth int32
}

func (x *asExchange) request() ([]byte, error) {
	x.nonce = nonce()
	// A service is a client like any other here: Active Directory finds it by its user
	// principal name, which is of NT-PRINCIPAL.
	client := x.id.Principal.DER()
	client.Type = namePrincipal
	q := krb5.KDCReq{Type: krb5.TypeASReq, Body: krb5.KDCBody{
		Client: client, Realm: x.realm, Server: der.Name{Type: nameService, Parts: x.server.Components()},
		Till: x.now.Add(x.offset + x.c.conf.TicketLifetime), Nonce: x.nonce, ETypes: x.types,
	}}
	if x.c.conf.Canonicalize {
		q.Body.Options |= krb5.OptionCanonicalize
	}
	var err error
	if q.RawBody, err = q.Body.Append(nil); err != nil {
		return nil, err
	}
	if x.preauth != 0 {
		e, ok := x.kt.Find(x.id.Principal, x.preauth, nil)
		if !ok {
			return nil, lied(x.realm, "it wants a key of %s", krb5.ETypeName(x.preauth))
		}
		plain, err := krb5.AppendTimestamp(nil, x.now.Add(x.offset))
		enc, err := krb5.Seal(e.Key, krb5.UsageASReqTimestamp, nil, plain, err)
		if err != nil {
			return nil, err
		}
		value, err := enc.Append(nil)
		if err != nil {
			return nil, err
		}
		q.PAData = append(q.PAData, krb5.PAData{Type: krb5.PAEncTimestamp, Value: value})
	}
	return q.Append(nil)
}

// again prepares another try after an error, or says why there is none.
func (x *asExchange) again(e kink.KRBError) *kink.KerberosError {
	fail := kdcError(x.now.Add(x.offset), x.c.conf.ClockSkew, x.realm, x.id.Principal, x.server, e)
	switch {
	case e.Code == errPreauthNeeded && x.preauth == 0:
		x.preauth = x.types[0]
		list, err := krb5.ParseMethodData(e.Data)
		if err != nil {
			return nil
		}
		for _, p := range list {
			if p.Type != krb5.PAETypeInfo2 {
				continue
			}
			info, err := krb5.ParseETypeInfo2(p.Value)
			if err != nil {
				continue
			}
			// The first is the one that the KDC prefers.
			if i := slices.IndexFunc(info, func(t int32) bool { return slices.Contains(x.types, t) }); i >= 0 {
				x.preauth = info[i]
			} else if len(info) > 0 {
				return &kink.KerberosError{
					Code:     errETypeNoSupport,
					Sentence: fmt.Sprintf("the keytab has no key of %s that the KDC of realm %s knows", x.id.Principal, x.realm),
					Advice:   "extract the current keys, with ktadd of kadmin or ktpass",
					Evidence: []string{"the KDC has: " + strings.Join(etypeNames(info), ", "), "usable here: " + strings.Join(etypeNames(x.types), ", ")},
				}
			}
		}
		return nil
	case e.Code == kink.ErrSkew && x.c.conf.TimeSync && !x.synced && !e.STime.IsZero():
		// As kdc_timesync says: the KDC's time for the KDC, and for others when its reply
		// shows that it was right.
		x.offset, x.synced = e.STime.Sub(x.now), true
		return nil
	case e.Code == errPreauthNeeded:
		fail.Sentence = fmt.Sprintf("the KDC of realm %s wants more than a timestamp encrypted with the key of %s", x.realm, x.id.Principal)
		fail.Advice = "let the principal authenticate with its key alone: hardware, certificates and FAST are not supported"
	case e.Code == errPreauthFailed:
		if entry, ok := x.kt.Find(x.id.Principal, x.preauth, nil); ok {
			fail.Evidence = append(fail.Evidence, fmt.Sprintf("the key is of version %d with %s, from %s", entry.KVNO, krb5.ETypeName(entry.Key.EType()), x.id.Keytab.path))
		}
	}
	return fail
}

// accept checks an AS-REP (RFC 4120, Section 3.1.5).
func (x *asExchange) accept(reply []byte) (krb5.Credential, error) {
	rep, err := krb5.ParseKDCRep(reply, krb5.TypeASRep)
	if err != nil {
		return krb5.Credential{}, lied(x.realm, "%v", err)
	}
	if !slices.Contains(x.types, rep.Enc.EType) {
		return krb5.Credential{}, lied(x.realm, "it is encrypted with %s, which was not asked for", krb5.ETypeName(rep.Enc.EType))
	}
	entry, fail := x.id.Keytab.entry(x.now, x.id.Principal, rep.Enc.EType, rep.Enc.KVNO)
	if fail != nil {
		// A version that is not the KDC's is no reason to doubt the key.
		var ok bool
		if entry, ok = x.kt.Find(x.id.Principal, rep.Enc.EType, nil); !ok {
			return krb5.Credential{}, fail
		}
	}
	plain, err := rep.Enc.Open(entry.Key, krb5.UsageASRep)
	if err != nil {
		if fail != nil {
			return krb5.Credential{}, fail
		}
		return krb5.Credential{}, &kink.KerberosError{
			Code:      kink.ErrBadIntegrity,
			Sentence:  fmt.Sprintf("the reply of the KDC of realm %s is not encrypted with the key of %s", x.realm, x.id.Principal),
			Advice:    "the keytab has an old key, or somebody else answers: extract the current key, with ktadd of kadmin or ktpass",
			Evidence:  []string{fmt.Sprintf("the key is of version %d with %s, from %s", entry.KVNO, krb5.ETypeName(entry.Key.EType()), x.id.Keytab.path)},
			Temporary: true,
		}
	}
	part, err := krb5.ParseKDCRepPart(plain)
	if err != nil {
		return krb5.Credential{}, lied(x.realm, "%v", err)
	}
	c := check{c: x.c, now: x.now, realm: x.realm, nonce: x.nonce, client: x.id.Principal, renamed: x.c.conf.Canonicalize, types: x.types}
	cred, err := c.reply(rep, part)
	if err != nil {
		return krb5.Credential{}, err
	}
	if cred.Server != x.server {
		return krb5.Credential{}, lied(x.realm, "it is a ticket for %s; one for %s was asked for", cred.Server, x.server)
	}
	// The KDC's time, in what only it can encrypt.
	offset := part.AuthTime.Sub(x.now)
	if offset.Abs() > x.c.conf.ClockSkew && !x.c.conf.TimeSync {
		return krb5.Credential{}, skewed(x.realm, offset, x.c.conf.ClockSkew)
	}
	if cred, err = c.times(cred, offset); err == nil {
		x.c.learn(x.realm, offset)
	}
	return cred, err
}
