package krb_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"iked/kink"
	"iked/kink/krb"
	"iked/kink/krb/krb5"
	"iked/kink/krb/krbtest"
)

// A KDC, or who stands in its place, that answers with what was not asked for gets
// nowhere: no ticket, and no second request with its word (RFC 4120, Sections 3.1.5
// and 3.3.4).
func TestLyingKDC(t *testing.T) {
	eve := func(t *testing.T) kink.Principal { return principal(t, "kink/eve.a.example@A.EXAMPLE") }
	for name, lie := range map[string]func(*testing.T, *krbtest.Issue){
		"wrong nonce":           func(_ *testing.T, i *krbtest.Issue) { i.Part.Nonce++ },
		"another client":        func(t *testing.T, i *krbtest.Issue) { i.Reply.Client = eve(t).DER() },
		"another client realm":  func(_ *testing.T, i *krbtest.Issue) { i.Reply.CRealm = "EVIL" },
		"another server":        func(t *testing.T, i *krbtest.Issue) { i.Part.Server = eve(t).DER(); *i.Server = eve(t).Components() },
		"another server hidden": func(t *testing.T, i *krbtest.Issue) { i.Part.Server = eve(t).DER() },
		"another server shown":  func(t *testing.T, i *krbtest.Issue) { *i.Server = eve(t).Components() },
		"another server realm":  func(_ *testing.T, i *krbtest.Issue) { i.Part.SRealm = "EVIL"; *i.Realm = "EVIL" },
		"another realm shown":   func(_ *testing.T, i *krbtest.Issue) { *i.Realm = "EVIL" },
		"expired":               func(_ *testing.T, i *krbtest.Issue) { i.Part.EndTime = i.Part.AuthTime.Add(-time.Hour) },
		"not valid":             func(_ *testing.T, i *krbtest.Issue) { i.Part.Flags |= krb5.FlagInvalid },
		"begins tomorrow":       func(_ *testing.T, i *krbtest.Issue) { i.Part.StartTime = i.Part.AuthTime.Add(24 * time.Hour) },
		"a name with an escape": func(_ *testing.T, i *krbtest.Issue) { i.Part.Server.Parts = []string{"a\x1b[2J"} },
		"a type not asked for": func(t *testing.T, i *krbtest.Issue) {
			k, err := krb5.RandomKey(krb5.DES3)
			if err != nil {
				t.Fatal(err)
			}
			i.Part.Key = k
		},
		"a referral to the own realm": func(_ *testing.T, i *krbtest.Issue) {
			i.Part.Server.Parts = []string{"krbtgt", "EVIL", "EVIL"}
			*i.Server = i.Part.Server.Parts
		},
	} {
		for _, tgs := range []bool{false, true} {
			t.Run(map[bool]string{false: "AS ", true: "TGS "}[tgs]+name, func(t *testing.T) {
				s := newSite(t)
				s.realm.Lie = func(i *krbtest.Issue) {
					if i.TGS == tgs {
						lie(t, i)
					}
				}
				c := s.client(s.keytab(s.a))
				err := s.from(c)
				wants(t, err, 0, "the reply of the KDC of realm A.EXAMPLE is refused")
				if strings.Contains(describe(err), "\x1b") {
					t.Errorf("%q", describe(err))
				}
				// It was the reply, and leaves nothing.
				s.realm.Set(func(r *krbtest.Realm) { r.Lie = nil })
				if err := s.from(c); err != nil {
					t.Errorf("with the truth: %s", describe(err))
				}
			})
		}
	}
}

// A referral may lead to a realm without any KDC; that ends there, and the failure
// says where.
func TestReferralToNowhere(t *testing.T) {
	s := newSite(t)
	s.realm.Lie = func(i *krbtest.Issue) {
		if i.TGS {
			i.Part.Server.Parts = []string{"krbtgt", "EVIL"}
			*i.Server = i.Part.Server.Parts
		}
	}
	if err := s.from(s.client(s.keytab(s.a))); err == nil {
		t.Error("a ticket")
	}
}

// Each prefix of a reply, each reply with an octet changed, one with octets behind it,
// a huge one and garbage are refused or, where the octet does not matter, change nothing.
func TestGarbageFromKDC(t *testing.T) {
	before := krb.Panics()
	for _, kind := range []int{krb5.TypeASReq, krb5.TypeTGSReq} {
		s := newSite(t)
		s.realm.NoPreauth = true
		id := s.keytab(s.a)
		var size int
		change := func(reply []byte) []byte { size = len(reply); return reply }
		s.realm.Tamper = func(request, reply []byte) []byte {
			if _, err := krb5.ParseKDCReq(request, kind); err != nil {
				return reply
			}
			return change(reply)
		}
		c := s.client(id)
		ask := func() (kink.Ticket, error) {
			if kind == krb5.TypeASReq {
				c = s.client(id) // it keeps the ticket-granting ticket otherwise
			}
			return c.GetTicket(t.Context(), s.now, kink.GetTicket{Client: s.a, Server: s.b, Refresh: true})
		}
		refused := func() {
			t.Helper()
			_, err := ask()
			wants(t, err, 0, "is refused")
		}
		if _, err := ask(); err != nil {
			t.Fatal(describe(err))
		}
		for n := range size {
			change = func(reply []byte) []byte { return reply[:min(n, len(reply)-1)] }
			refused()
		}
		for n := range size {
			change = func(reply []byte) []byte { reply[min(n, len(reply)-1)] ^= 0x55; return reply }
			// What is accepted: the version of the key, the type of a name, the ticket's own
			// ciphertext.
			if tk, err := ask(); err == nil && (tk.Server() != s.b || tk.Client() != s.a) {
				t.Errorf("octet %d: a ticket of %s for %s", n, tk.Client(), tk.Server())
			}
		}
		for _, b := range [][]byte{nil, {0}, {0x30, 0x80}, bytes.Repeat([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, 10), bytes.Repeat([]byte{0x6b, 0x82, 0xff, 0xf0, 0x30, 0x82, 0xff, 0xec}, 8192), make([]byte, krb5.MaxKDCReply+1), append([]byte{0x6b, 0x85, 1, 0, 0, 0, 0}, 1)} {
			change = func([]byte) []byte { return b }
			refused()
		}
		change = func(reply []byte) []byte { return append(reply, 0) }
		refused()
	}
	if n := krb.Panics() - before; n != 0 {
		t.Errorf("%d panics were contained", n)
	}
}

// A reply to an earlier request is not taken for one to this.
func TestReplayedReplyOfKDC(t *testing.T) {
	s := newSite(t)
	id := s.keytab(s.a)
	var old []byte
	s.realm.Tamper = func(request, reply []byte) []byte {
		if _, err := krb5.ParseKDCRep(reply, krb5.TypeASRep); err == nil {
			if old == nil {
				old = reply
			}
			return old
		}
		return reply
	}
	if err := s.from(s.client(id)); err != nil {
		t.Fatal(describe(err))
	}
	wants(t, s.from(s.client(id)), 0, "another nonce")
}

// A KDC that asks for the timestamp for ever, or gives the same error, ends soon.
func TestKDCThatNeverEnds(t *testing.T) {
	s := newSite(t)
	s.realm.Tamper = func(_, _ []byte) []byte {
		b, err := kink.KRBError{Code: 25, STime: s.now, Server: s.b}.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	wants(t, s.from(s.client(s.keytab(s.a))), 25, "wants more than a timestamp")
	if n := s.realm.Requests(krb5.TypeASReq); n != 2 {
		t.Errorf("%d requests", n)
	}
	for _, code := range []int32{1, 2, 11, 12, 18, 23, 28, 29, 31, 60, 68, 99, -5} {
		s.realm.Tamper = func(_, _ []byte) []byte {
			b, err := kink.KRBError{Code: code, STime: s.now, Server: s.b, Text: "why\x07"}.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		wants(t, s.from(s.client(s.keytab(s.a))), code, "A.EXAMPLE", `"why?"`)
	}
}

// faulty is a KDC whose answer shows a fault of this program.
type faulty struct{ krb.KDC }

func (faulty) Exchange(context.Context, string, []byte) ([]byte, error) { panic("a fault") }

// A panic ends the request and nothing else: it is counted, who waits goes on, and the
// next request is as any.
func TestPanicIsContained(t *testing.T) {
	s := newSite(t)
	c := krb.NewClient(krb.Options{Conf: s.conf, KDC: faulty{}, Identities: []krb.Identity{s.keytab(s.a)}})
	before := krb.Panics()
	for i := range 3 {
		wants(t, s.from(c), 0, "was contained")
		if n := krb.Panics() - before; n != uint64(i+1) {
			t.Errorf("%d panics were counted", n)
		}
	}
}
