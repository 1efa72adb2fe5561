package krb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"iked/kink"
	"iked/kink/krb"
	"iked/kink/krb/krb5"
	"iked/kink/krb/krbtest"
)

// A ticket of a keytab's principal for another, with keys and session keys of every
// type, is accepted and answered, and both have the key (RFC 4120, Section 3.2).
func TestTicketFromKeytab(t *testing.T) {
	for _, id := range allTypes {
		t.Run(krb5.ETypeName(id), func(t *testing.T) {
			s := newSite(t)
			s.etypes = []int32{id}
			s.a, s.b = s.realm.Principal("kink/a.a.example", id), s.realm.Principal("kink/b.a.example", id)
			s.realm.SessionETypes = []int32{id}
			tk := s.ticket(s.client(s.keytab(s.a)), kink.GetTicket{Client: s.a, Server: s.b})
			got := s.exchange(tk, s.acceptor(nil, s.keytab(s.b)))
			if got.Client != s.a || got.Server != s.b || got.Problem != nil || tk.Client() != s.a || tk.Server() != s.b {
				t.Errorf("accepted %+v", got)
			}
			end := s.now.Add(10 * time.Hour).Truncate(time.Second)
			if !got.End.Equal(end) || !tk.End().Equal(end) {
				t.Errorf("the end is %v here and %v there, expected %v", tk.End(), got.End, end)
			}
			if got.Key.EType() != id || tk.Key().EType() != id {
				t.Errorf("the key is of type %d, expected %d", got.Key.EType(), id)
			}
		})
	}
}

// 3DES is not used unless it is named.
func TestDES3WhenNamedOnly(t *testing.T) {
	s := newSite(t)
	s.a = s.realm.Principal("kink/a.a.example", krb5.DES3)
	wants(t, s.from(s.client(s.keytab(s.a))), 14, "not permitted", "in the keytab: des3-cbc-sha1", "permitted: aes256")
	s.conf = conf(t, "[libdefaults]\npermitted_enctypes = des3-cbc-sha1 aes256-cts\n")
	s.realm.SessionETypes = []int32{krb5.DES3, krb5.AES256}
	if err := s.from(s.client(s.keytab(s.a))); err != nil {
		t.Error(describe(err))
	}
}

// A KDC that asks for no timestamp is as good.
func TestWithoutPreauthentication(t *testing.T) {
	s := newSite(t)
	s.realm.NoPreauth = true
	s.exchange(s.ticket(s.client(s.keytab(s.a)), kink.GetTicket{Client: s.a, Server: s.b}), s.acceptor(nil, s.keytab(s.b)))
	if n := s.realm.Requests(krb5.TypeASReq); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// A user's credential cache gives tickets as a keytab does, until its ticket ends.
func TestTicketFromCCache(t *testing.T) {
	s := newSite(t)
	u := s.realm.User("alice")
	path := krbtest.Write(t, "cc", s.world.CCache(u))
	c := s.client(krb.Identity{Principal: u, CCache: "FILE:" + path})
	got := s.exchange(s.ticket(c, kink.GetTicket{Client: u, Server: s.b}), s.acceptor(nil, s.keytab(s.b)))
	if got.Client != u || s.realm.Requests(krb5.TypeASReq) != 0 {
		t.Errorf("accepted %s after %d AS-REQ", got.Client, s.realm.Requests(krb5.TypeASReq))
	}
	s.now = s.now.Add(11 * time.Hour)
	_, err := c.GetTicket(t.Context(), s.now, kink.GetTicket{Client: u, Server: s.b})
	wants(t, err, 0, "expired at", "kinit")
	// Somebody renews it: the file is read again.
	if err := os.WriteFile(path, s.world.CCache(u), 0o600); err != nil {
		t.Fatal(err)
	}
	s.ticket(c, kink.GetTicket{Client: u, Server: s.b})
	for name, want := range map[string]string{"KEYRING:persistent:0": "only those of type FILE", "relative": "absolute path", path + ".none": "cannot be read"} {
		_, err := s.client(krb.Identity{Principal: u, CCache: name}).GetTicket(t.Context(), s.now, kink.GetTicket{Client: u, Server: s.b})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := s.realm.User("bob")
	_, err = s.client(krb.Identity{Principal: other, CCache: path}).GetTicket(t.Context(), s.now, kink.GetTicket{Client: other, Server: s.b})
	wants(t, err, 0, "is of alice@A.EXAMPLE; bob@A.EXAMPLE is expected")
	_, err = s.client(krb.Identity{Principal: other}).GetTicket(t.Context(), s.now, kink.GetTicket{Client: other, Server: s.b})
	wants(t, err, 0, "neither a keytab nor a credential cache")
	_, err = s.client().GetTicket(t.Context(), s.now, kink.GetTicket{Client: other, Server: s.b})
	wants(t, err, 0, "no principal of this system")
}

// Tickets are kept until a minute before their end, or until a fresh one is asked for.
func TestTicketsAreKept(t *testing.T) {
	s := newSite(t)
	c := s.client(s.keytab(s.a))
	count := func(as, tgs int) {
		t.Helper()
		if s.realm.Requests(krb5.TypeASReq) != as || s.realm.Requests(krb5.TypeTGSReq) != tgs {
			t.Errorf("%d AS-REQ and %d TGS-REQ, expected %d and %d", s.realm.Requests(krb5.TypeASReq), s.realm.Requests(krb5.TypeTGSReq), as, tgs)
		}
	}
	first := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
	count(2, 1) // without and with the timestamp
	s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
	count(2, 1)
	second := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b, Refresh: true})
	count(2, 2)
	second.Drop()
	second = s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
	count(2, 3)
	sum, _ := first.Key().Checksum(40, nil)
	if second.Key().Verify(40, nil, sum) {
		t.Error("the fresh ticket has the old key")
	}
	// Most of the life of the ticket-granting ticket is over: a fresh ticket would end
	// with it.
	s.now = s.now.Add(6 * time.Hour)
	if tk := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b, Refresh: true}); tk.End().Sub(s.now) < 9*time.Hour {
		t.Errorf("the fresh ticket ends after %v", tk.End().Sub(s.now))
	}
	count(4, 4)
	s.now = s.now.Add(10*time.Hour - 59*time.Second)
	s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
	count(6, 5)
}

// With canonicalize the KDC may give the client another name of its realm, which the
// peer sees (RFC 6806, Section 7); without it such a reply is refused.
func TestCanonicalizedClient(t *testing.T) {
	for _, on := range []bool{true, false} {
		s := newSite(t)
		s.conf = conf(t, fmt.Sprintf("[libdefaults]\ncanonicalize = %v\n", on))
		other := principal(t, "kink/canonical.a.example@A.EXAMPLE")
		s.realm.Lie = func(i *krbtest.Issue) {
			if !i.TGS {
				i.Reply.Client, i.Ticket.Client = other.DER(), other.DER()
			}
		}
		c := s.client(s.keytab(s.a))
		if !on {
			wants(t, s.from(c), 0, "one of kink/a.a.example@A.EXAMPLE was asked for")
			continue
		}
		tk := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
		if got := s.exchange(tk, s.acceptor(nil, s.keytab(s.b))); got.Client != other || tk.Client() != other {
			t.Errorf("the client is %s here and %s there", tk.Client(), got.Client)
		}
		s.realm.Set(func(r *krbtest.Realm) {
			r.Lie = func(i *krbtest.Issue) { i.Reply.CRealm, i.Ticket.CRealm = "EVIL", "EVIL" }
		})
		wants(t, s.from(s.client(s.keytab(s.a))), 0, "is refused")
	}
}

// Many who want the same ticket at once ask the KDC once.
func TestTicketsAtOnce(t *testing.T) {
	s := newSite(t)
	c := s.client(s.keytab(s.a))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := s.from(c); err != nil {
				t.Error(describe(err))
			}
		})
	}
	wg.Wait()
	if n := s.realm.Requests(krb5.TypeTGSReq); n != 1 {
		t.Errorf("%d TGS-REQ", n)
	}
}

// A KDC that does not answer is waited for no longer than the deadline, by all who
// wait; the failure names the realm and is temporary.
func TestSilentKDC(t *testing.T) {
	s := newSite(t)
	s.realm.Silent = true
	c := s.client(s.keytab(s.a))
	begin := time.Now()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			_, err := c.GetTicket(ctx(t, 50*time.Millisecond), s.now, kink.GetTicket{Client: s.a, Server: s.b})
			if err == nil {
				t.Error("a ticket")
			}
		})
	}
	wg.Wait()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	s.realm.Set(func(r *krbtest.Realm) { r.Silent = false })
	if err := s.from(c); err != nil {
		t.Errorf("afterwards: %s", describe(err))
	}
}

// Realms that trust each other, over others in between: by the hierarchy of names, by
// capaths, by what the KDC knows (RFC 4120, Section 1.2).
func TestCrossRealm(t *testing.T) {
	for _, c := range []struct {
		name, text string
		trusts     [][2]string
		via        [][3]string
		target     string
		words      []string // "" in the first: it works
	}{
		{"direct", "", [][2]string{{"A.EXAMPLE", "B.EXAMPLE"}}, nil, "B.EXAMPLE", nil},
		{"hierarchy", "", [][2]string{{"A.EXAMPLE", "EXAMPLE"}, {"EXAMPLE", "B.EXAMPLE"}}, nil, "B.EXAMPLE", nil},
		{"capaths", "[capaths]\nA.EXAMPLE = {\n C.TEST = B.TEST\n C.TEST = D.TEST\n}\n", [][2]string{{"A.EXAMPLE", "B.TEST"}, {"B.TEST", "D.TEST"}, {"D.TEST", "C.TEST"}}, nil, "C.TEST", nil},
		{"the KDC knows the way", "", [][2]string{{"A.EXAMPLE", "B.TEST"}, {"B.TEST", "C.TEST"}}, [][3]string{{"A.EXAMPLE", "C.TEST", "B.TEST"}}, "C.TEST", nil},
		{"no trust", "", nil, nil, "B.TEST", []string{"realm A.EXAMPLE has no trust with realm B.TEST", "krbtgt/B.TEST@A.EXAMPLE"}},
		{"no trust further on", "", [][2]string{{"A.EXAMPLE", "EXAMPLE"}}, nil, "B.EXAMPLE", []string{"realm EXAMPLE has no trust with realm B.EXAMPLE"}},
		{"a circle", "", [][2]string{{"A.EXAMPLE", "B.TEST"}, {"B.TEST", "A.EXAMPLE"}}, [][3]string{{"A.EXAMPLE", "C.TEST", "B.TEST"}, {"B.TEST", "C.TEST", "A.EXAMPLE"}}, "C.TEST", []string{"refers to krbtgt/A.EXAMPLE@B.TEST"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.conf = conf(t, c.text)
			for _, x := range c.trusts {
				s.world.Trust(x[0], x[1])
			}
			for _, v := range c.via {
				s.world.Realm(v[0]).Via[v[1]] = v[2]
			}
			far := s.world.Realm(c.target).Principal("kink/far.test")
			cl := s.client(s.keytab(s.a))
			tk, err := cl.GetTicket(t.Context(), s.now, kink.GetTicket{Client: s.a, Server: far})
			if c.words != nil {
				if err == nil {
					t.Fatal("a ticket")
				}
				for _, w := range c.words {
					if !strings.Contains(describe(err), w) {
						t.Errorf("%q has no %q", describe(err), w)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(describe(err))
			}
			if got := s.exchange(tk, s.acceptor(nil, s.keytab(far))); got.Client != s.a {
				t.Errorf("accepted %s", got.Client)
			}
			// The ticket-granting tickets on the way are kept.
			n := s.realm.Requests(krb5.TypeTGSReq)
			s.ticket(cl, kink.GetTicket{Client: s.a, Server: far, Refresh: true})
			if s.realm.Requests(krb5.TypeTGSReq) != n {
				t.Error("the own KDC is asked again")
			}
		})
	}
}

// A KDC that knows in which realm a host is refers to it (RFC 6806, Section 8); who
// uses the ticket sees the realm.
func TestReferral(t *testing.T) {
	s := newSite(t)
	s.world.Trust("A.EXAMPLE", "B.TEST")
	far := s.world.Realm("B.TEST").Principal("kink/far.test")
	asked := principal(t, "kink/far.test@A.EXAMPLE")
	s.realm.Refer[asked.String()] = "B.TEST"
	tk := s.ticket(s.client(s.keytab(s.a)), kink.GetTicket{Client: s.a, Server: asked})
	if tk.Server() != far {
		t.Errorf("the ticket is for %s", tk.Server())
	}
	s.exchange(tk, s.acceptor(nil, s.keytab(far)))
	// And back again is a circle.
	s.world.Trust("B.TEST", "A.EXAMPLE")
	other := principal(t, "kink/other.test@A.EXAMPLE")
	s.realm.Refer[other.String()] = "B.TEST"
	s.world.Realm("B.TEST").Refer["kink/other.test@B.TEST"] = "A.EXAMPLE"
	_, err := s.client(s.keytab(s.a)).GetTicket(t.Context(), s.now, kink.GetTicket{Client: s.a, Server: other})
	wants(t, err, 0, "refers to realm A.EXAMPLE, where the way came from")
}

// User-to-user: the peer has a password only, hands out its ticket-granting ticket,
// and reads a ticket that is encrypted in its session key (RFC 4120, Section 3.7),
// also from another realm.
func TestUserToUser(t *testing.T) {
	for _, realm := range []string{"A.EXAMPLE", "B.TEST"} {
		t.Run(realm, func(t *testing.T) {
			s := newSite(t)
			s.world.Trust("A.EXAMPLE", "B.TEST")
			u := s.world.Realm(realm).User("alice")
			bob := s.client(krb.Identity{Principal: u, CCache: krbtest.Write(t, "cc", s.world.CCache(u))})
			acc := s.acceptor(bob, krb.Identity{Principal: u})
			c := s.client(s.keytab(s.a))
			_, err := c.GetTicket(t.Context(), s.now, kink.GetTicket{Client: s.a, Server: u})
			wants(t, err, kink.ErrUserToUserOnly, "by user-to-user only")
			tgt, err := bob.GetTGT(t.Context(), s.now, u)
			if err != nil {
				t.Fatal(describe(err))
			}
			tk := s.ticket(c, kink.GetTicket{Client: s.a, Server: u, TGT: tgt})
			if got := s.exchange(tk, acc); got.Client != s.a || got.Server != u {
				t.Errorf("accepted %+v", got)
			}
			// Another ticket-granting ticket makes another ticket.
			bob2 := s.client(krb.Identity{Principal: u, CCache: krbtest.Write(t, "cc", s.world.CCache(u))})
			b, _ := request(t, tk, s.now)
			_, err = s.acceptor(bob2, krb.Identity{Principal: u}).Accept(s.now, b, here)
			wants(t, err, kink.ErrNoKey, "not handed out since it started")
			tgt2, err := bob2.GetTGT(t.Context(), s.now, u)
			if err != nil {
				t.Fatal(err)
			}
			b, _ = request(t, tk, s.now)
			_, err = s.acceptor(bob2, krb.Identity{Principal: u}).Accept(s.now, b, here)
			wants(t, err, kink.ErrNoKey, "has no more")
			s.exchange(s.ticket(c, kink.GetTicket{Client: s.a, Server: u, TGT: tgt2}), s.acceptor(bob2, krb.Identity{Principal: u}))
			// A ticket-granting ticket of somebody else, and what is none.
			eve := s.world.Realm(realm).User("eve")
			evil := s.client(krb.Identity{Principal: eve, CCache: krbtest.Write(t, "cc", s.world.CCache(eve))})
			stolen, err := evil.GetTGT(t.Context(), s.now, eve)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.GetTicket(t.Context(), s.now, kink.GetTicket{Client: s.a, Server: u, TGT: stolen})
			wants(t, err, 26)
			for _, bad := range [][]byte{{}, []byte("x"), tgt[:len(tgt)-1], append([]byte(nil), append(tgt, 0)...)} {
				if _, err := c.GetTicket(t.Context(), s.now, kink.GetTicket{Client: s.a, Server: u, TGT: bad}); err == nil || !strings.Contains(err.Error(), "is none") {
					t.Errorf("%x: %v", bad, err)
				}
			}
			foreign := principal(t, "alice@ELSEWHERE")
			_, err = c.GetTicket(t.Context(), s.now, kink.GetTicket{Client: s.a, Server: foreign, TGT: tgt})
			wants(t, err, 0, "of another realm")
		})
	}
}

// What fails says what and what to do.
func TestClientSentences(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(*site) *krb.Client
		code  int32
		words []string
	}{
		{"the KDC is away", func(s *site) *krb.Client { s.realm.Down = true; return s.client(s.keytab(s.a)) }, 0, []string{"the KDC does not answer|"}},
		{"no keytab", func(s *site) *krb.Client {
			k, err := krb.OpenKeytab(filepath.Join(t.TempDir(), "none"), s.now)
			if err != nil {
				t.Fatal(err)
			}
			return s.client(krb.Identity{Principal: s.a, Keytab: k})
		}, kink.ErrNoKey, []string{"no keytab entry for kink/a.a.example@A.EXAMPLE", "does not exist", "ktadd"}},
		{"the keytab is of another", func(s *site) *krb.Client { return s.client(s.keytabFile(s.a, s.world.Keytab(s.b))) }, kink.ErrNoKey, []string{"no keytab entry for kink/a.a.example@A.EXAMPLE"}},
		{"the keytab is no keytab", func(s *site) *krb.Client { return s.client(s.keytabFile(s.a, []byte("hello"))) }, kink.ErrNoKey, []string{"this is no keytab"}},
		{"the keytab is old", func(s *site) *krb.Client { id := s.keytab(s.a); s.realm.Rekey(s.a); return s.client(id) }, 24, []string{"does not accept the key of kink/a.a.example@A.EXAMPLE", "the key is of version 1"}},
		{"the keytab has other types than the KDC", func(s *site) *krb.Client {
			id := s.keytab(s.a)
			s.realm.Rekey(s.a, krb5.SHA384)
			return s.client(id)
		}, 14, []string{"no encryption type in common"}},
		{"unknown at the KDC", func(s *site) *krb.Client { id := s.keytab(s.a); s.realm.Remove(s.a); return s.client(id) }, kink.ErrClientUnknown, []string{"the principal kink/a.a.example@A.EXAMPLE is unknown at the KDC of realm A.EXAMPLE", "addprinc"}},
		{"the peer is unknown", func(s *site) *krb.Client { s.realm.Remove(s.b); return s.client(s.keytab(s.a)) }, kink.ErrServerUnknown, []string{"the principal kink/b.a.example@A.EXAMPLE is unknown", "domain_realm"}},
		{"the clock is behind", func(s *site) *krb.Client {
			s.conf = conf(s.t, "[libdefaults]\nkdc_timesync = 0\n")
			s.realm.Offset = 7 * time.Minute
			return s.client(s.keytab(s.a))
		}, kink.ErrSkew, []string{"the clock of this system is 7 min behind that of the KDC of realm A.EXAMPLE", "NTP"}},
		{"the clock is ahead", func(s *site) *krb.Client {
			s.conf = conf(s.t, "[libdefaults]\nkdc_timesync = 0\n")
			s.realm.Offset = -3 * time.Hour
			return s.client(s.keytab(s.a))
		}, kink.ErrSkew, []string{"3 h ahead of"}},
		{"no common session type", func(s *site) *krb.Client {
			s.realm.SessionETypes = []int32{23}
			return s.client(s.keytab(s.a))
		}, 14, []string{"no encryption type in common"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			err := s.from(c.fault(s))
			if c.code == 0 {
				if err == nil || !strings.Contains(describe(err)+"|", "the KDC does not answer") {
					t.Errorf("%v", err)
				}
				return
			}
			wants(t, err, c.code, c.words...)
		})
	}
}

// The clock of this system is off, the KDC says by how much, and its reply shows that
// it said so: tickets come, end at the right time, and authenticators bear the realm's
// time.
func TestClockFollowsTheKDC(t *testing.T) {
	for _, off := range []time.Duration{7 * time.Minute, -26 * time.Hour, 3000 * time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			s := newSite(t)
			s.realm.Offset = off
			c := s.client(s.keytab(s.a))
			tk := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
			if d := c.Offset("A.EXAMPLE") - off; d.Abs() > time.Second {
				t.Errorf("the offset is %v", c.Offset("A.EXAMPLE"))
			}
			if d := tk.End().Sub(s.now) - 10*time.Hour; d.Abs() > 2*time.Second {
				t.Errorf("the ticket ends after %v", tk.End().Sub(s.now))
			}
			b, v := request(t, tk, s.now)
			// The peer's clock is the realm's.
			got, err := s.acceptor(nil, s.keytab(s.b)).Accept(s.now.Add(off), b, here)
			if err != nil || got.Problem != nil || v.Check(got.APRep) != nil {
				t.Errorf("accepted %+v: %v", got, err)
			}
			// It goes off when tickets are there.
			s.realm.Set(func(r *krbtest.Realm) { r.Offset += 10 * time.Minute })
			s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b, Refresh: true})
		})
	}
}

// A KDC's unauthenticated word about the time alone is not kept.
func TestForgedClockError(t *testing.T) {
	s := newSite(t)
	c := s.client(s.keytab(s.a))
	forged, err := kink.KRBError{Code: kink.ErrSkew, STime: s.now.Add(-100 * time.Hour), Server: principal(t, "krbtgt/A.EXAMPLE@A.EXAMPLE")}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.realm.Tamper = func(_, _ []byte) []byte { return forged }
	if err := s.from(c); err == nil || c.Offset("A.EXAMPLE") != 0 {
		t.Errorf("offset %v (%v)", c.Offset("A.EXAMPLE"), err)
	}
	s.realm.Set(func(r *krbtest.Realm) { r.Tamper = nil })
	if err := s.from(c); err != nil || c.Offset("A.EXAMPLE") != 0 {
		t.Errorf("afterwards offset %v: %v", c.Offset("A.EXAMPLE"), err)
	}
}

// The KDC gave its ticket-granting service new keys, and does not know the old ones:
// the ticket-granting ticket is got anew.
func TestKDCForgotItsKey(t *testing.T) {
	s := newSite(t)
	c := s.client(s.keytab(s.a))
	s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
	tgs := s.realm.Principal("krbtgt/A.EXAMPLE")
	if s.realm.Rekey(tgs); s.from(c) != nil {
		t.Error("the ticket is not kept")
	}
	if _, err := c.GetTicket(t.Context(), s.now, kink.GetTicket{Client: s.a, Server: s.b, Refresh: true}); err != nil {
		t.Error(describe(err))
	}
}

// An error has its words however it is wrapped, and a canceled wait says so.
func TestCanceledWait(t *testing.T) {
	s := newSite(t)
	s.realm.Silent = true
	c := s.client(s.keytab(s.a))
	first, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := c.GetTicket(first, s.now, kink.GetTicket{Client: s.a, Server: s.b})
		done <- err
	}()
	// The second waits for the first, no longer than it may.
	time.Sleep(10 * time.Millisecond)
	_, err := c.GetTicket(ctx(t, 20*time.Millisecond), s.now, kink.GetTicket{Client: s.a, Server: s.b})
	var k *kink.KerberosError
	if !errors.As(err, &k) || !k.Temporary {
		t.Errorf("the second: %v", err)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("the first has a ticket")
	}
}

// Authenticators to one peer never have the same time, though the clock stands still.
func TestAuthenticatorsDiffer(t *testing.T) {
	s := newSite(t)
	c := s.client(s.keytab(s.a))
	acc := s.acceptor(nil, s.keytab(s.b))
	tk := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
	other := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b, Refresh: true})
	for i := range 50 {
		s.exchange([]kink.Ticket{tk, other}[i%2], acc)
	}
	if s := fmt.Sprintf("%+v %v", tk, tk.Key()); strings.Contains(s, string(tk.Key().(krb5.Key).Reveal())) {
		t.Error("the ticket prints its key")
	}
}
