// Package krbtest is Kerberos for tests: realms whose KDCs answer in this process, at
// a time that the test gives, and the keytabs and credential caches of their
// principals. It does as RFC 4120 says, and lies when it is told to.
package krbtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"iked/kink"
	"iked/kink/krb/krb5"
)

// World is a set of realms. It may be used by several goroutines.
type World struct {
	now func() time.Time

	mu     sync.Mutex
	realms map[string]*Realm
}

// New makes a world without realms. now is the time of its KDCs.
func New(now func() time.Time) *World { return &World{now: now, realms: map[string]*Realm{}} }

// Realm is one realm with its KDC. Fields may be set while nothing is asked; Set
// changes them at other times.
type Realm struct {
	w    *World
	name string

	principals map[kink.Principal]*entry
	requests   map[int]int

	// Down: nobody listens, which a client learns at once. Silent: nothing comes back,
	// and a request ends with its context.
	Down, Silent bool
	// Offset is what the KDC's clock is ahead.
	Offset time.Duration
	// MaxSkew is how far a clock may be off; 5 minutes.
	MaxSkew time.Duration
	// Lifetime bounds the tickets; 10 hours.
	Lifetime time.Duration
	// SessionETypes, when set, are the only types of session keys.
	SessionETypes []int32
	// NoPreauth: an AS-REQ needs no encrypted timestamp.
	NoPreauth bool
	// Refer names the realm to which a client is sent that asks for a principal.
	Refer map[string]string
	// Via names the realm to which the way to another one leads.
	Via map[string]string
	// Lie, when set, changes what is issued before it is encrypted.
	Lie func(*Issue)
	// Tamper, when set, changes a reply on its way.
	Tamper func(request, reply []byte) []byte
}

// Issue is a ticket that is about to be issued.
type Issue struct {
	TGS    bool
	Reply  *krb5.KDCRep     // Ticket and Enc are made after
	Part   *krb5.KDCRepPart // what the client reads
	Ticket *krb5.TicketPart // what the server reads
	// Realm and Server are the names in clear in the ticket.
	Realm  *string
	Server *[]string
}

// entry is a principal.
type entry struct {
	keys []generation // oldest first
	// userToUser: KDC_ERR_MUST_USE_USER2USER without a ticket of it.
	userToUser bool
	at         time.Time
}

type generation struct {
	kvno uint32
	keys []krb5.Key
}

func (e *entry) latest() generation { return e.keys[len(e.keys)-1] }

func (g generation) key(etype int32) (krb5.Key, bool) {
	for _, k := range g.keys {
		if k.EType() == etype {
			return k, true
		}
	}
	return krb5.Key{}, false
}

// Realm returns a realm; it is made when it is not there.
func (w *World) Realm(name string) *Realm {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.realm(name)
}

func (w *World) realm(name string) *Realm {
	r, ok := w.realms[name]
	if !ok {
		r = &Realm{w: w, name: name, principals: map[kink.Principal]*entry{}, requests: map[int]int{}, MaxSkew: 5 * time.Minute, Lifetime: 10 * time.Hour, Refer: map[string]string{}, Via: map[string]string{}}
		w.realms[name] = r
		r.add(must(kink.NewPrincipal(name, "krbtgt", name)), krb5.AES256, krb5.AES128, krb5.SHA384, krb5.SHA256)
	}
	return r
}

// Trust lets clients of realm a have tickets of realm b.
func (w *World) Trust(a, b string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := must(kink.NewPrincipal(a, "krbtgt", b))
	e := w.realm(a).add(p, krb5.AES256)
	w.realm(b).principals[p] = e
}

// Set changes the realm while others ask it.
func (r *Realm) Set(f func(*Realm)) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	f(r)
}

// Principal adds a principal, named without realm, with keys of the types; AES of RFC
// 3962 when there are none.
func (r *Realm) Principal(name string, etypes ...int32) kink.Principal {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	p := must(kink.ParsePrincipal(name + "@" + r.name))
	r.add(p, etypes...)
	return p
}

// User adds a principal for which there are tickets of user-to-user alone.
func (r *Realm) User(name string) kink.Principal {
	p := r.Principal(name)
	r.Set(func(r *Realm) { r.principals[p].userToUser = true })
	return p
}

func (r *Realm) add(p kink.Principal, etypes ...int32) *entry {
	if len(etypes) == 0 {
		etypes = []int32{krb5.AES256, krb5.AES128}
	}
	e := &entry{at: r.w.now()}
	e.keys = []generation{fresh(1, etypes)}
	r.principals[p] = e
	return e
}

func fresh(kvno uint32, etypes []int32) generation {
	g := generation{kvno: kvno}
	for _, id := range etypes {
		g.keys = append(g.keys, must(krb5.RandomKey(id)))
	}
	return g
}

// Rekey gives a principal new keys, of the same types unless others are named.
func (r *Realm) Rekey(p kink.Principal, etypes ...int32) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	e := r.principals[p]
	last := e.latest()
	if len(etypes) == 0 {
		for _, k := range last.keys {
			etypes = append(etypes, k.EType())
		}
	}
	e.at = r.w.now()
	e.keys = append(e.keys, fresh(last.kvno+1, etypes))
}

// Remove makes a principal unknown.
func (r *Realm) Remove(p kink.Principal) { r.Set(func(r *Realm) { delete(r.principals, p) }) }

// Requests is how many requests of a type (krb5.TypeASReq, krb5.TypeTGSReq) came.
func (r *Realm) Requests(kind int) (n int) {
	r.Set(func(r *Realm) { n = r.requests[kind] })
	return n
}

// ErrDown is why there is no answer.
var ErrDown = errors.New("the KDC does not answer")

// Exchange is how a client asks a realm's KDC; a realm that is not there has none.
func (w *World) Exchange(ctx context.Context, realm string, request []byte) ([]byte, error) {
	w.mu.Lock()
	r, ok := w.realms[realm]
	if !ok || r.Down || r.Silent {
		silent := ok && r.Silent
		w.mu.Unlock()
		if silent {
			<-ctx.Done()
			return nil, errors.Join(ErrDown, ctx.Err())
		}
		return nil, ErrDown
	}
	defer w.mu.Unlock()
	reply := r.answer(request)
	if r.Tamper != nil {
		reply = r.Tamper(request, slices.Clone(reply))
	}
	return reply, nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
