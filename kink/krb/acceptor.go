package krb

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"iked/kink"
	"iked/kink/krb/krb5"
)

// AcceptorOptions are an acceptor's.
type AcceptorOptions struct {
	Identities []Identity
	// Client has the session keys of user-to-user; nil: there is none.
	Client *Client
	// Replay is kept across acceptors: a new configuration does not forget.
	Replay *Replay
	Conf   *Conf
	// ETypes, when set, are the permitted encryption types instead of those of
	// krb5.conf.
	ETypes []int32
}

// Acceptor checks what peers send. It fulfils kink.Acceptor, and may be used by
// several goroutines.
type Acceptor struct {
	own       map[kink.Principal]Identity
	client    *Client
	replay    *Replay
	skew      time.Duration
	permitted []int32
}

var _ kink.Acceptor = (*Acceptor)(nil)

// NewAcceptor makes an acceptor.
func NewAcceptor(o AcceptorOptions) *Acceptor {
	a := &Acceptor{own: map[kink.Principal]Identity{}, client: o.Client, replay: o.Replay, permitted: o.ETypes}
	c := o.Conf
	if c == nil {
		c, _ = newConf(new(profile), nil)
	}
	a.skew = c.ClockSkew
	if len(a.permitted) == 0 {
		a.permitted = c.Permitted
	}
	for _, id := range o.Identities {
		a.own[id.Principal] = id
	}
	return a
}

// transitedChecked is TRANSITED-POLICY-CHECKED (RFC 4120, Section 5.3).
const transitedChecked = 1 << (31 - 12)

// Accept implements kink.Acceptor (RFC 4120, Section 3.2.3).
func (a *Acceptor) Accept(now time.Time, b []byte, from netip.Addr) (out kink.Accepted, err error) {
	defer words(&err)
	defer krb5.Contain(&err)
	req, err := krb5.ParseAPReq(b)
	if err != nil {
		return kink.Accepted{}, refuse(kink.ErrMessageType, "", "the peer's KRB_AP_REQ cannot be read: %v", err)
	}
	server, err := kink.NewPrincipal(req.Ticket.Realm, req.Ticket.Server.Parts...)
	if err != nil {
		return kink.Accepted{}, refuse(kink.ErrNotUs, "", "the peer's ticket is for no principal: %v", err)
	}
	id, ok := a.own[server]
	if !ok {
		return kink.Accepted{}, a.notUs(server)
	}
	part, fail := a.open(now, id, req)
	if fail != nil {
		return kink.Accepted{}, fail
	}
	client, err := kink.NewPrincipal(part.CRealm, part.Client.Parts...)
	if err != nil {
		return kink.Accepted{}, refuse(kink.ErrBadMatch, "", "the peer's ticket is of no principal: %v", err)
	}
	if fail := a.checkKey(part.Key.EType(), client); fail != nil {
		return kink.Accepted{}, fail
	}
	plain, err := req.Authenticator.Open(part.Key, krb5.UsageAuthenticator)
	if err != nil {
		return kink.Accepted{}, refuse(kink.ErrBadIntegrity, "", "the authenticator of %s is refused: %v", client, err)
	}
	auth, err := krb5.ParseAuthenticator(plain)
	if err != nil {
		return kink.Accepted{}, refuse(kink.ErrBadIntegrity, "", "the authenticator of %s is refused: %v", client, err)
	}
	if auth.CRealm != part.CRealm || !auth.Client.Equal(part.Client) {
		return kink.Accepted{}, refuse(kink.ErrBadMatch, "", "the authenticator names another principal than the ticket of %s", client)
	}
	if fail := checkPlace(part, client, from); fail != nil {
		return kink.Accepted{}, fail
	}
	out = kink.Accepted{Client: client, Server: server, Key: part.Key, End: part.EndTime}
	code, fail := a.checkTimes(now, client, server, part, auth)
	if fail != nil {
		return kink.Accepted{}, fail
	}
	if code != 0 {
		out.Problem = &kink.KRBError{Code: code, STime: now.UTC().Truncate(time.Microsecond), CTime: auth.CTime, Client: client, Server: server}
	}
	if out.APRep, err = apRep(part.Key, auth.CTime); err != nil {
		return kink.Accepted{}, err
	}
	return out, nil
}

func refuse(code int32, advice, format string, args ...any) *kink.KerberosError {
	return &kink.KerberosError{Code: code, Sentence: fmt.Sprintf(format, args...), Advice: advice}
}

// notUs says that a ticket is for somebody else.
func (a *Acceptor) notUs(server kink.Principal) *kink.KerberosError {
	fail := refuse(kink.ErrNotUs, "the peer takes this system for another: look at the host names and realms of both sides", "the peer's ticket is for %s, which is no principal of this system", server)
	for p := range a.own {
		if slices.Equal(p.Components(), server.Components()) && p.Realm() != server.Realm() {
			fail.Sentence = fmt.Sprintf("the peer's ticket is for %s: that is another realm than %s", server, p.Realm())
			fail.Advice = "look at the realm that the peer has for this host, in section domain_realm of its krb5.conf"
		}
	}
	return fail
}

// open decrypts the ticket with a key of the identity's keytab, or with the session
// key of a ticket-granting ticket that was handed out.
func (a *Acceptor) open(now time.Time, id Identity, req krb5.APReq) (krb5.TicketPart, *kink.KerberosError) {
	enc := req.Ticket.Enc
	if fail := a.checkKey(enc.EType, id.Principal); fail != nil {
		return krb5.TicketPart{}, fail
	}
	var keys []krb5.Key
	if req.Options&krb5.APUseSessionKey != 0 {
		// RFC 4120, Section 3.7.
		if a.client != nil {
			keys = a.client.handedKeys(id.Principal)
		}
		if len(keys) == 0 {
			return krb5.TicketPart{}, refuse(kink.ErrNoKey, "the peer asks for it with GETTGT", "the peer's ticket is encrypted in the session key of a ticket-granting ticket of %s, which this system has not handed out since it started", id.Principal)
		}
	} else {
		if id.Keytab == nil {
			return krb5.TicketPart{}, refuse(kink.ErrNoKey, "let the peer use user-to-user, or give the principal a keytab here", "the peer's ticket is encrypted with a key of %s, and there is no keytab for it", id.Principal)
		}
		entry, fail := id.Keytab.entry(now, id.Principal, enc.EType, enc.KVNO)
		if fail != nil {
			return krb5.TicketPart{}, fail
		}
		keys = append(keys, entry.Key)
	}
	var plain []byte
	for _, k := range keys {
		var err error
		if plain, err = enc.Open(k, krb5.UsageTicket); err == nil {
			break
		}
	}
	if plain == nil && req.Options&krb5.APUseSessionKey != 0 {
		return krb5.TicketPart{}, refuse(kink.ErrNoKey, "the peer asks for a new one with GETTGT", "the peer's ticket is encrypted in the session key of a ticket-granting ticket that %s has no more", id.Principal)
	}
	if plain == nil {
		return krb5.TicketPart{}, refuse(kink.ErrBadIntegrity, fmt.Sprintf("extract the current keys of %s into the keytab, with ktadd of kadmin or ktpass", id.Principal),
			"the peer's ticket for %s is not encrypted with the key in the keytab", id.Principal)
	}
	part, err := krb5.ParseTicketPart(plain)
	if err != nil {
		return krb5.TicketPart{}, refuse(kink.ErrBadIntegrity, "", "the peer's ticket for %s cannot be read: %v", id.Principal, err)
	}
	return part, nil
}

// checkKey refuses encryption types that are not permitted.
func (a *Acceptor) checkKey(etype int32, p kink.Principal) *kink.KerberosError {
	if slices.Contains(a.permitted, etype) {
		return nil
	}
	fail := refuse(errETypeNoSupport, "let the KDC issue a permitted type, or name it in permitted_enctypes of krb5.conf", "the peer's ticket has a key of %s with %s, which is not permitted", p, krb5.ETypeName(etype))
	fail.Evidence = []string{"permitted: " + strings.Join(etypeNames(a.permitted), ", ")}
	return fail
}

// checkPlace checks the addresses and realms that the ticket names.
func checkPlace(part krb5.TicketPart, client kink.Principal, from netip.Addr) *kink.KerberosError {
	if len(part.Addresses) > 0 && !slices.ContainsFunc(part.Addresses, func(h krb5.Address) bool {
		addr, ok := netip.AddrFromSlice(h.Octet)
		// RFC 4120, Section 7.5.3: IPv4 and IPv6.
		return ok && (h.Type == 2 && addr.Is4() || h.Type == 24 && addr.Is6()) && addr == from.Unmap().WithZone("")
	}) {
		return refuse(kink.ErrBadAddress, "let the peer get tickets without addresses: noaddresses in its krb5.conf", "the ticket of %s is for other addresses than %s", client, from)
	}
	// RFC 4120, Section 2.7: who has the flag not checks the realms in between, and
	// this system knows no policy for them.
	if len(part.Transited) > 0 && part.Flags&transitedChecked == 0 {
		return refuse(errPathRefused, "let the KDC check the path: reject_bad_transit of an MIT KDC", "the ticket of %s came through realms that no KDC has checked", client)
	}
	return nil
}

// checkTimes returns the code of a problem that is answered with authentication, or
// refuses.
func (a *Acceptor) checkTimes(now time.Time, client, server kink.Principal, part krb5.TicketPart, auth krb5.Authenticator) (int32, *kink.KerberosError) {
	if early := auth.CTime.Sub(now); early.Abs() > a.skew {
		// Nothing is done for it. One from the future is remembered all the same: its time
		// comes, and whoever recorded it must not be the first to bring it then.
		if early > 0 && !auth.CTime.Add(-a.skew).After(part.EndTime.Add(a.skew)) {
			if fail := a.replay.check(now, client, server, auth.CTime, a.skew); fail != nil {
				return 0, fail
			}
		}
		return kink.ErrSkew, nil
	}
	if fail := a.replay.check(now, client, server, auth.CTime, a.skew); fail != nil {
		return 0, fail
	}
	if part.Flags&krb5.FlagInvalid != 0 || part.StartTime.After(now.Add(a.skew)) {
		return 0, refuse(kink.ErrTicketNotValid, "compare the clocks of the KDC and of this system", "the ticket of %s begins at %s only", client, part.StartTime.Format(time.RFC3339))
	}
	if now.After(part.EndTime.Add(a.skew)) {
		return kink.ErrTicketExpired, nil
	}
	return 0, nil
}

// apRep makes a KRB_AP_REP (RFC 4120, Section 3.2.4). No subkey is offered: KINK does
// not use it.
func apRep(k krb5.Key, ctime time.Time) ([]byte, error) {
	plain, err := krb5.AppendAPRepPart(nil, ctime)
	enc, err := krb5.Seal(k, krb5.UsageAPRep, nil, plain, err)
	if err != nil {
		return nil, err
	}
	return krb5.AppendAPRep(nil, enc)
}
