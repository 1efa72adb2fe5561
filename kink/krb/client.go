// Package krb is Kerberos for KINK: it gets tickets from KDCs, makes and checks
// KRB_AP_REQ and KRB_AP_REP, and remembers the authenticators that it saw.
package krb

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"iked/kink"
	"iked/kink/krb/krb5"
)

// Caps on what is kept.
const (
	maxTickets = 8192
	maxPeers   = 8192
	maxHanded  = 16 // own ticket-granting tickets that peers may still use
)

// leftover is the life that a kept ticket must still have.
const leftover = time.Minute

// Options are a client's.
type Options struct {
	Conf       *Conf
	KDC        KDC
	Identities []Identity
	// ETypes, when set, are the encryption types instead of those of krb5.conf.
	ETypes []int32
}

// Client gets tickets. It may be used by several goroutines.
type Client struct {
	conf *Conf
	kdc  KDC
	own  map[kink.Principal]Identity
	// permitted are for what comes, tkt and tgs for what is asked, in order.
	permitted, tkt, tgs []int32

	mu      sync.Mutex
	tickets map[ticketID]krb5.Credential
	flights map[ticketID]chan struct{}
	offsets map[string]time.Duration // what the clocks of realms are ahead
	peers   map[peerID]*peer
	// handed are own ticket-granting tickets, oldest first: peers' tickets of
	// user-to-user are encrypted in their session keys.
	handed map[kink.Principal][]krb5.Credential
}

// ticketID names a ticket that is kept. second is the hash of the other's
// ticket-granting ticket in user-to-user.
type ticketID struct {
	client, server kink.Principal
	second         [32]byte
}

// peerID names whom an authenticator goes to.
type peerID struct{ client, server kink.Principal }

// peer is what is known of a peer's clock.
type peer struct {
	offset time.Duration
	known  bool
	// last is the time of the last authenticator: each has its own.
	last time.Time
}

// NewClient makes a client.
func NewClient(o Options) *Client {
	c := &Client{
		conf: o.Conf, kdc: o.KDC, own: map[kink.Principal]Identity{}, permitted: o.ETypes, tkt: o.ETypes, tgs: o.ETypes,
		tickets: map[ticketID]krb5.Credential{}, flights: map[ticketID]chan struct{}{}, offsets: map[string]time.Duration{},
		peers: map[peerID]*peer{}, handed: map[kink.Principal][]krb5.Credential{},
	}
	if c.conf == nil {
		c.conf, _ = newConf(new(profile), nil)
	}
	if len(o.ETypes) == 0 {
		c.permitted, c.tkt, c.tgs = c.conf.Permitted, c.conf.TktETypes, c.conf.TGSETypes
	}
	if c.kdc == nil {
		c.kdc = NewNetwork(c.conf)
	}
	for _, id := range o.Identities {
		c.own[id.Principal] = id
	}
	return c
}

// identity is one of the own.
func (c *Client) identity(p kink.Principal) (Identity, *kink.KerberosError) {
	id, ok := c.own[p]
	if !ok {
		return id, &kink.KerberosError{
			Sentence: fmt.Sprintf("%s is no principal of this system", p),
			Advice:   "name it with a keytab or a credential cache in the configuration",
		}
	}
	return id, nil
}

// GetTicket does the work of that name. The server of the ticket may be in another
// realm than asked, when the KDCs refer to it: who uses it looks.
func (c *Client) GetTicket(ctx context.Context, now time.Time, w kink.GetTicket) (tk kink.Ticket, err error) {
	defer words(&err)
	defer krb5.Contain(&err)
	id, fail := c.identity(w.Client)
	if fail != nil {
		return nil, fail
	}
	key := ticketID{client: w.Client, server: w.Server}
	if w.TGT != nil {
		key.second = sha256.Sum256(w.TGT)
	}
	cred, err := c.once(ctx, now, key, w.Refresh, func() (krb5.Credential, error) {
		cred, err := c.service(ctx, now, id, w)
		var k *kink.KerberosError
		if errors.As(err, &k) && slices.Contains(stale, k.Code) {
			// The ticket-granting ticket was dropped; with a new one it may work.
			cred, err = c.service(ctx, now, id, w)
		}
		return cred, err
	})
	if err != nil {
		return nil, err
	}
	return &Ticket{c, cred, w.TGT != nil}, nil
}

// GetTGT does the work of that name. Its session key is kept for what the peer sends
// then.
func (c *Client) GetTGT(ctx context.Context, now time.Time, client kink.Principal) (tgt []byte, err error) {
	defer words(&err)
	defer krb5.Contain(&err)
	id, fail := c.identity(client)
	if fail != nil {
		return nil, fail
	}
	cred, err := c.tgt(ctx, now, id, false)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	list := slices.DeleteFunc(c.handed[client], func(h krb5.Credential) bool {
		return h.EndTime.Before(now.Add(-c.conf.ClockSkew)) || h.Key.Equal(cred.Key)
	})
	if list = append(list, cred); len(list) > maxHanded {
		list = list[1:]
	}
	c.handed[client] = list
	return slices.Clone(cred.Ticket.Raw), nil
}

// handedKeys are the session keys of own ticket-granting tickets that were handed out.
func (c *Client) handedKeys(p kink.Principal) (keys []krb5.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range slices.Backward(c.handed[p]) {
		keys = append(keys, h.Key)
	}
	return keys
}

// tgt is the ticket-granting ticket of an identity's own realm.
func (c *Client) tgt(ctx context.Context, now time.Time, id Identity, refresh bool) (krb5.Credential, error) {
	server, err := tgs(id.Principal.Realm(), id.Principal.Realm())
	if err != nil {
		return krb5.Credential{}, err
	}
	return c.once(ctx, now, ticketID{client: id.Principal, server: server}, refresh, func() (krb5.Credential, error) {
		if id.Keytab != nil {
			return c.as(ctx, now, id)
		}
		return c.fromCCache(now, id, server)
	})
}

// tgs is the ticket-granting service of a realm, as another realm knows it.
func tgs(in, of string) (kink.Principal, error) { return kink.NewPrincipal(in, "krbtgt", of) }

// once gives a kept ticket, or gets it; who wants the same waits for the first.
func (c *Client) once(ctx context.Context, now time.Time, key ticketID, refresh bool, get func() (krb5.Credential, error)) (krb5.Credential, error) {
	for {
		c.mu.Lock()
		if cred, ok := c.tickets[key]; ok && !refresh && c.left(cred, now) > leftover {
			c.mu.Unlock()
			return cred, nil
		}
		wait, busy := c.flights[key]
		if !busy {
			done := make(chan struct{})
			c.flights[key] = done
			c.mu.Unlock()
			return c.fly(now, key, done, get)
		}
		c.mu.Unlock()
		select {
		case <-wait:
			// What the first got is as fresh as what was asked for.
			refresh = false
		case <-ctx.Done():
			return krb5.Credential{}, &kink.KerberosError{
				Sentence: fmt.Sprintf("a ticket of %s for %s did not come in time", key.client, key.server), Temporary: true,
				Advice: "see that the KDC is reachable",
			}
		}
	}
}

// fly gets a ticket for all who wait for it, and lets them go on however it ends.
func (c *Client) fly(now time.Time, key ticketID, done chan struct{}, get func() (krb5.Credential, error)) (cred krb5.Credential, err error) {
	defer func() {
		c.mu.Lock()
		delete(c.flights, key)
		if err == nil {
			c.keep(now, key, cred)
		}
		c.mu.Unlock()
		close(done)
	}()
	defer krb5.Contain(&err)
	return get()
}

// left is the life of a ticket. The lock is held.
func (c *Client) left(cred krb5.Credential, now time.Time) time.Duration {
	return cred.EndTime.Sub(now.Add(c.offsets[cred.Client.Realm()]))
}

// keep keeps a ticket; the lock is held.
func (c *Client) keep(now time.Time, key ticketID, cred krb5.Credential) {
	if _, there := c.tickets[key]; !there && len(c.tickets) >= maxTickets {
		for k, v := range c.tickets {
			if c.left(v, now) <= leftover {
				delete(c.tickets, k)
			}
		}
		for k := range c.tickets {
			if len(c.tickets) < maxTickets {
				break
			}
			delete(c.tickets, k)
		}
	}
	c.tickets[key] = cred
}

// time is what a realm's clock shows.
func (c *Client) time(realm string, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Add(c.offsets[realm])
}

// learn keeps what the clock of a realm is ahead. It came with a reply that only the
// KDC can make. Less than two seconds is what rounding makes.
func (c *Client) learn(realm string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Abs() < 2*time.Second {
		delete(c.offsets, realm)
	} else if c.conf.TimeSync {
		c.offsets[realm] = d
	}
}

// Offset is what the clock of a realm's KDC is ahead of this system's; 0 when it is
// not known to differ.
func (c *Client) Offset(realm string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offsets[realm]
}

// stampFor is the time for an authenticator to a server, in its time; no two are
// alike, as the server remembers them.
func (c *Client) stampFor(now time.Time, client, server kink.Principal) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(client, server)
	t := now.Add(c.offsets[client.Realm()])
	if p.known {
		t = now.Add(p.offset)
	}
	return p.next(t)
}

// peer is the record of a peer; the lock is held.
func (c *Client) peer(client, server kink.Principal) *peer {
	id := peerID{client, server}
	p, ok := c.peers[id]
	if !ok {
		for k := range c.peers {
			if len(c.peers) < maxPeers {
				break
			}
			delete(c.peers, k)
		}
		p = new(peer)
		c.peers[id] = p
	}
	return p
}

// nonce is one for a KDC: 31 bits, as some read it with a sign.
func nonce() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:]) &^ (1 << 31)
}

// fromCCache is a ticket-granting ticket that somebody else got.
func (c *Client) fromCCache(now time.Time, id Identity, server kink.Principal) (krb5.Credential, error) {
	fail := func(format string, args ...any) (krb5.Credential, error) {
		return krb5.Credential{}, &kink.KerberosError{
			Sentence: fmt.Sprintf(format, args...), Temporary: true,
			Advice: fmt.Sprintf("get a ticket with kinit -c %s %s, and see that the daemon can read the file", id.CCache, id.Principal),
		}
	}
	if id.CCache == "" {
		return krb5.Credential{}, &kink.KerberosError{
			Sentence: fmt.Sprintf("%s has neither a keytab nor a credential cache", id.Principal), Advice: "name one of them in the configuration",
		}
	}
	path, err := absolute(id.CCache, "credential cache")
	if err != nil {
		return krb5.Credential{}, err
	}
	b, err := readFile(path, krb5.MaxFile)
	if err != nil {
		return fail("the credential cache cannot be read: %v", err)
	}
	cc, err := krb5.ParseCCache(b)
	clear(b)
	if err != nil {
		return fail("the credential cache %s cannot be read: %v", path, err)
	}
	if cc.Principal != id.Principal {
		return fail("the credential cache %s is of %s; %s is expected", path, cc.Principal, id.Principal)
	}
	var best krb5.Credential
	for _, cred := range cc.Credentials {
		if cred.Client == id.Principal && cred.Server == server && !cred.UserToUser && cred.Flags&krb5.FlagInvalid == 0 &&
			slices.Contains(c.permitted, cred.Key.EType()) && cred.EndTime.After(best.EndTime) {
			best = cred
		}
	}
	c.mu.Lock()
	left := c.left(best, now)
	c.mu.Unlock()
	switch {
	case best.Key.IsZero():
		return fail("the credential cache %s has no ticket-granting ticket of %s with %s", path, id.Principal, strings.Join(etypeNames(c.permitted), ", "))
	case left <= 0:
		return fail("the ticket-granting ticket in %s expired at %s", path, best.EndTime.Format(time.RFC3339))
	}
	return best, nil
}
