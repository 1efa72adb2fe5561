package kink

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/netip"
	"time"
)

// realm is a Kerberos that has the properties which KINK relies on, and none of its
// forms: what is not made with a key is refused.
type realm struct {
	keys map[Principal][]byte // of the services
	tgts map[Principal][]byte // session keys of ticket-granting tickets
	life time.Duration
	fail error // GetTicket gives it
	n    int
	skew time.Duration // that is tolerated
	// offsets are what the clocks of peers are ahead, by client and server; salt makes
	// session keys that another realm has not.
	offsets map[[2]string]time.Duration
	salt    string
	// fixed, when set, is the only ticket.
	fixed TicketReply
	// referral, when set, is the server that every ticket is for.
	referral string
	// worn is the session key of a ticket-granting ticket that has expired.
	worn []byte
	// dropped counts the tickets to which a peer did not answer.
	dropped int
}

func newRealm(names ...string) *realm {
	r := &realm{keys: map[Principal][]byte{}, tgts: map[Principal][]byte{}, offsets: map[[2]string]time.Duration{}, life: 10 * time.Hour, skew: 5 * time.Minute}
	for _, n := range names {
		p := named(n)
		r.keys[p] = []byte("key of " + n)
		r.tgts[p] = []byte("tgt of " + n)
	}
	return r
}

func named(text string) Principal {
	p, err := ParsePrincipal(text)
	if err != nil {
		panic(err)
	}
	return p
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}

// fakeKey is a session key. Its functions have the sizes of encryption type 19.
type fakeKey []byte

func (k fakeKey) EType() int32 { return 19 }
func (k fakeKey) Encrypt(usage uint32, plain []byte) ([]byte, error) {
	out := bytes.Clone(plain)
	k.stream(usage, out)
	return append(out, mac(k, []byte{byte(usage)}, plain)[:16]...), nil
}
func (k fakeKey) stream(usage uint32, b []byte) {
	for i := range b {
		b[i] ^= mac(k, []byte("stream"), []byte{byte(usage), byte(i / 32), byte(i >> 13)})[i%32]
	}
}
func (k fakeKey) Decrypt(usage uint32, c []byte) ([]byte, error) {
	if len(c) < 16 {
		return nil, errors.New("too short")
	}
	out := bytes.Clone(c[:len(c)-16])
	k.stream(usage, out)
	if !hmac.Equal(mac(k, []byte{byte(usage)}, out)[:16], c[len(c)-16:]) {
		return nil, errors.New("integrity")
	}
	return out, nil
}
func (k fakeKey) Checksum(usage uint32, b []byte) ([]byte, error) {
	return mac(k, []byte("sum"), []byte{byte(usage)}, b)[:16], nil
}
func (k fakeKey) Verify(usage uint32, b, sum []byte) bool {
	want, _ := k.Checksum(usage, b)
	return hmac.Equal(want, sum)
}
func (k fakeKey) PRF(form PRFForm, b []byte) ([]byte, error) {
	return mac(k, []byte("prf"), []byte{byte(form)}, b), nil
}

type sealedTicket struct {
	Client, Server string
	Key            []byte
	End            time.Time
	U2U            bool
	MAC            []byte
}

func (t sealedTicket) mac(key []byte) []byte {
	t.MAC = nil
	b, _ := json.Marshal(t)
	return mac(key, b)
}

type fakeRequest struct {
	Ticket sealedTicket
	Time   time.Time
	Number int
	MAC    []byte
}

type fakeTicket struct {
	r      *realm
	sealed sealedTicket
}

func (t *fakeTicket) pair() [2]string { return [2]string{t.sealed.Client, t.sealed.Server} }

func (t *fakeTicket) Client() Principal               { return named(t.sealed.Client) }
func (t *fakeTicket) Server() Principal               { return named(t.sealed.Server) }
func (t *fakeTicket) Key() SessionKey                 { return fakeKey(t.sealed.Key) }
func (t *fakeTicket) End() time.Time                  { return t.sealed.End }
func (t *fakeTicket) Skew(now time.Time, p time.Time) { t.r.offsets[t.pair()] = p.Sub(now) }
func (t *fakeTicket) Drop()                           { t.r.dropped++ }
func (t *fakeTicket) Request(now time.Time) ([]byte, Verifier, error) {
	t.r.n++
	q := fakeRequest{Ticket: t.sealed, Time: now.Add(t.r.offsets[t.pair()]), Number: t.r.n}
	b, _ := json.Marshal(q)
	q.MAC = mac(t.sealed.Key, b)
	b, err := json.Marshal(q)
	return b, fakeVerifier(mac(t.sealed.Key, []byte("rep"), q.MAC)), err
}

type fakeVerifier []byte

func (v fakeVerifier) Check(b []byte) error {
	if !hmac.Equal(v, b) {
		return errors.New("another AP-REP")
	}
	return nil
}

// ticket is what the KDC gives.
func (r *realm) ticket(now time.Time, w GetTicket) TicketReply {
	key := r.keys[w.Server]
	switch {
	case r.fixed.Ticket != nil:
		return r.fixed
	case r.referral != "":
		return TicketReply{Ticket: &fakeTicket{r: r, sealed: sealedTicket{Client: w.Client.String(), Server: r.referral, Key: []byte("session"), End: now.Add(r.life)}}}
	case r.fail != nil:
		return TicketReply{Err: r.fail}
	case w.TGT != nil:
		var tgt sealedTicket
		if json.Unmarshal(w.TGT, &tgt) != nil || !hmac.Equal(tgt.MAC, tgt.mac([]byte("krbtgt"))) {
			return TicketReply{Err: &KerberosError{Code: ErrModified, Sentence: "the KDC does not know the ticket of the peer"}}
		}
		if bytes.Equal(tgt.Key, r.worn) {
			return TicketReply{Err: &KerberosError{Code: ErrTicketExpired, Sentence: "the ticket of the peer has expired"}}
		}
		key = tgt.Key
	case key == nil && r.tgts[w.Server] != nil:
		return TicketReply{Err: &KerberosError{Code: ErrUserToUserOnly, Sentence: "the peer has no key of its own"}}
	case key == nil:
		return TicketReply{Err: &KerberosError{Code: ErrServerUnknown, Sentence: "the KDC does not know " + w.Server.String(), Advice: "make the principal"}}
	}
	r.n++
	t := sealedTicket{Client: w.Client.String(), Server: w.Server.String(), Key: mac([]byte("session"+r.salt), binary.BigEndian.AppendUint32(nil, uint32(r.n))), End: now.Add(r.life), U2U: w.TGT != nil}
	t.MAC = t.mac(key)
	return TicketReply{Ticket: &fakeTicket{r: r, sealed: t}}
}

// tgt is the ticket-granting ticket of a principal.
func (r *realm) tgt(p Principal) TGTReply {
	key := r.tgts[p]
	if key == nil {
		return TGTReply{Err: &KerberosError{Code: ErrClientUnknown, Sentence: "no such principal"}}
	}
	t := sealedTicket{Client: p.String(), Key: key}
	t.MAC = t.mac([]byte("krbtgt"))
	b, _ := json.Marshal(t)
	return TGTReply{TGT: b}
}

// acceptor is the side of a service.
type acceptor struct {
	r    *realm
	own  Principal
	seen map[string]bool
}

func (a *acceptor) Accept(now time.Time, b []byte, _ netip.Addr) (Accepted, error) {
	bad := func(code int32, s string) (Accepted, error) {
		return Accepted{}, &KerberosError{Code: code, Sentence: s}
	}
	var q fakeRequest
	if json.Unmarshal(b, &q) != nil {
		return bad(0, "that is no AP-REQ")
	}
	if q.Ticket.Server != a.own.String() {
		return bad(ErrNotUs, "the ticket is for "+q.Ticket.Server)
	}
	key := a.r.keys[a.own]
	if q.Ticket.U2U {
		key = a.r.tgts[a.own]
	}
	if key == nil {
		return bad(ErrNoKey, "there is no key")
	}
	if !hmac.Equal(q.Ticket.MAC, q.Ticket.mac(key)) {
		return bad(ErrBadIntegrity, "the ticket cannot be decrypted")
	}
	sum := q.MAC
	q.MAC = nil
	plain, _ := json.Marshal(q)
	if !hmac.Equal(sum, mac(q.Ticket.Key, plain)) {
		return bad(ErrBadIntegrity, "the authenticator cannot be decrypted")
	}
	if a.seen[string(sum)] {
		return bad(ErrRepeat, "the authenticator was used before")
	}
	if a.seen == nil {
		a.seen = map[string]bool{}
	}
	a.seen[string(sum)] = true
	acc := Accepted{Client: named(q.Ticket.Client), Server: a.own, Key: fakeKey(q.Ticket.Key), End: q.Ticket.End, APRep: mac(q.Ticket.Key, []byte("rep"), sum)}
	switch off := now.Sub(q.Time); {
	case off > a.r.skew || off < -a.r.skew:
		acc.Problem = &KRBError{Code: ErrSkew, STime: now, Server: a.own}
	case now.After(q.Ticket.End):
		acc.Problem = &KRBError{Code: ErrTicketExpired, STime: now, Server: a.own}
	}
	return acc, nil
}
