package krb_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"iked/kink"
	"iked/kink/der"
	"iked/kink/krb"
	"iked/kink/krb/krb5"
	"iked/kink/krb/krbtest"
)

// pair is a ticket of a for b and b's acceptor.
func (s *site) pair() (kink.Ticket, *krb.Acceptor) {
	s.t.Helper()
	return s.ticket(s.client(s.keytab(s.a)), kink.GetTicket{Client: s.a, Server: s.b}), s.acceptor(nil, s.keytab(s.b))
}

// An authenticator is accepted once (RFC 4120, Section 3.2.3).
func TestReplayedAuthenticator(t *testing.T) {
	s := newSite(t)
	tk, acc := s.pair()
	b, _ := request(t, tk, s.now)
	if _, err := acc.Accept(s.now, b, here); err != nil {
		t.Fatal(describe(err))
	}
	for range 3 {
		_, err := acc.Accept(s.now, b, netip.MustParseAddr("2001:db8::1"))
		wants(t, err, kink.ErrRepeat, "came again")
		s.now = s.now.Add(2 * time.Minute)
	}
	// The same authenticator with other options is the same.
	q, err := krb5.ParseAPReq(b)
	if err != nil {
		t.Fatal(err)
	}
	q.Options |= 1 << 20
	changed, err := q.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(-6 * time.Minute)
	_, err = acc.Accept(s.now, changed, here)
	wants(t, err, kink.ErrRepeat)
	// When it is forgotten it is too old.
	s.now = s.now.Add(6 * time.Minute)
	got, err := acc.Accept(s.now, b, here)
	if err != nil || got.Problem == nil || got.Problem.Code != kink.ErrSkew {
		t.Errorf("accepted %+v: %v", got, err)
	}
}

// A clock that is too far off is a problem that the peer learns with authentication;
// its next authenticator has the right time (RFC 4430, Section 3.5).
func TestSkewIsAProblem(t *testing.T) {
	for _, off := range []time.Duration{6 * time.Minute, -6 * time.Minute, 400 * 24 * time.Hour} {
		s := newSite(t)
		tk, acc := s.pair()
		there := s.now.Add(off)
		b, v := request(t, tk, s.now)
		got, err := acc.Accept(there, b, here)
		if err != nil {
			t.Fatal(describe(err))
		}
		if got.Problem == nil || got.Problem.Code != kink.ErrSkew || !got.Problem.STime.Equal(there) || got.Key == nil || got.Problem.Server != s.b || got.Problem.Client != s.a {
			t.Fatalf("the problem is %+v", got.Problem)
		}
		if err := v.Check(got.APRep); err != nil {
			t.Fatal(err)
		}
		said, err := got.Problem.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		heard, err := kink.ParseKRBError(said)
		if err != nil {
			t.Fatal(err)
		}
		tk.Skew(s.now, heard.STime)
		// Days later the ticket has expired, which comes after.
		s.now, there = s.now.Add(time.Second), there.Add(time.Second)
		b, _ = request(t, tk, s.now)
		got, err = acc.Accept(there, b, here)
		if off < 0 {
			// For a clock that is behind the KDC's the ticket begins too late.
			wants(t, err, kink.ErrTicketNotValid, "compare the clocks of the KDC and of this system")
			continue
		}
		if err != nil {
			t.Fatal(describe(err))
		}
		if off < time.Hour && got.Problem != nil || off > time.Hour && (got.Problem == nil || got.Problem.Code != kink.ErrTicketExpired) {
			t.Errorf("%v: the problem is %+v", off, got.Problem)
		}
	}
	// Exactly as much as is allowed.
	s := newSite(t)
	tk, acc := s.pair()
	b, _ := request(t, tk, s.now)
	if got, err := acc.Accept(s.now.Add(5*time.Minute), b, here); err != nil || got.Problem != nil {
		t.Errorf("five minutes: %+v %v", got.Problem, err)
	}
}

// A message of a clock that is fast is refused, and is not taken either when its time has
// come: the peer has begun anew, and it would be somebody else who sends it.
func TestEarlyAuthenticatorLater(t *testing.T) {
	s := newSite(t)
	tk, _ := s.pair()
	r, err := krb.OpenReplay("", s.now, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	acc := krb.NewAcceptor(krb.AcceptorOptions{Identities: []krb.Identity{s.keytab(s.b)}, Replay: r, Conf: s.conf})
	b, _ := request(t, tk, s.now.Add(7*time.Minute))
	got, err := acc.Accept(s.now, b, here)
	if err != nil || got.Problem == nil || got.Problem.Code != kink.ErrSkew {
		t.Fatalf("accepted %+v: %v", got, err)
	}
	for _, d := range []time.Duration{3 * time.Minute, 7 * time.Minute, 11 * time.Minute} {
		if got, err := acc.Accept(s.now.Add(d), b, here); err == nil && got.Problem == nil {
			t.Errorf("%v later it is accepted", d)
		} else if err != nil {
			wants(t, err, kink.ErrRepeat, "came again")
		}
	}
	// A time that the ticket does not live to see fills no record.
	n := r.Len()
	b, _ = request(t, tk, s.now.Add(1000*time.Hour))
	if got, err := acc.Accept(s.now, b, here); err != nil || got.Problem == nil || n != 1 || r.Len() != n {
		t.Errorf("accepted %+v: %v, %d records, %d before", got, err, r.Len(), n)
	}
}

// An expired ticket is a problem with a valid key: the peer gets a new one and comes
// again.
func TestExpiredTicketIsAProblem(t *testing.T) {
	s := newSite(t)
	tk, acc := s.pair()
	s.now = s.now.Add(10*time.Hour + 4*time.Minute)
	b, _ := request(t, tk, s.now)
	if got, err := acc.Accept(s.now, b, here); err != nil || got.Problem != nil {
		t.Errorf("within the skew: %+v %v", got.Problem, err)
	}
	s.now = s.now.Add(2 * time.Minute)
	b, v := request(t, tk, s.now)
	got, err := acc.Accept(s.now, b, here)
	if err != nil || got.Problem == nil || got.Problem.Code != kink.ErrTicketExpired || v.Check(got.APRep) != nil {
		t.Fatalf("accepted %+v: %v", got, err)
	}
	sum, _ := tk.Key().Checksum(40, nil)
	if !got.Key.Verify(40, nil, sum) {
		t.Error("the key is not the ticket's")
	}
}

// No prefix of a KRB_AP_REQ is accepted, none with octets behind it, none with an
// octet changed where it is authenticated; nothing panics.
func TestTruncatedAndChangedAPReq(t *testing.T) {
	before := krb.Panics()
	s := newSite(t)
	tk, acc := s.pair()
	b, _ := request(t, tk, s.now)
	for n := range b {
		_, err := acc.Accept(s.now, b[:n], here)
		wants(t, err, kink.ErrMessageType, "cannot be read")
	}
	for _, bad := range [][]byte{append(bytes.Clone(b), 0), make([]byte, krb5.MaxAPReq+1), {0x6e, 0x84, 0xff, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{0x6e, 0x82, 0xff, 0xf0, 0x30, 0x82, 0xff, 0xec}, 8000)} {
		_, err := acc.Accept(s.now, bad, here)
		wants(t, err, kink.ErrMessageType)
	}
	accepted := 0
	id := s.keytab(s.b)
	acc = s.acceptor(nil, id)
	for n := range b {
		for _, x := range []byte{1, 0x80, 0xff} {
			bad := bytes.Clone(b)
			bad[n] ^= x
			got, err := acc.Accept(s.now, bad, here)
			if err == nil {
				accepted++
				acc = s.acceptor(nil, id) // the next one is the same to it
				if got.Client != s.a || got.Server != s.b {
					t.Errorf("octet %d: accepted %s for %s", n, got.Client, got.Server)
				}
			}
		}
	}
	// The options, the type of the server's name, the version of the authenticator's key.
	if accepted == 0 || accepted > 24 {
		t.Errorf("%d changes were accepted", accepted)
	}
	if n := krb.Panics() - before; n != 0 {
		t.Errorf("%d panics were contained", n)
	}
}

// An authenticator belongs to its ticket, and an answer to its request: exchanged ones
// are refused.
func TestSwappedParts(t *testing.T) {
	s := newSite(t)
	c := s.client(s.keytab(s.a))
	acc := s.acceptor(nil, s.keytab(s.b))
	one := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
	two := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b, Refresh: true})
	b1, v1 := request(t, one, s.now)
	b2, v2 := request(t, two, s.now)
	q1, err1 := krb5.ParseAPReq(b1)
	q2, err2 := krb5.ParseAPReq(b2)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	q1.Authenticator, q2.Authenticator = q2.Authenticator, q1.Authenticator
	for _, q := range []krb5.APReq{q1, q2} {
		b, err := q.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = acc.Accept(s.now, b, here)
		wants(t, err, kink.ErrBadIntegrity, "authenticator")
	}
	a1, err1 := acc.Accept(s.now, b1, here)
	a2, err2 := acc.Accept(s.now, b2, here)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	wants(t, v1.Check(a2.APRep), kink.ErrMutual, "integrity")
	wants(t, v2.Check(a1.APRep), kink.ErrMutual, "integrity")
	// With the same key, an answer to another request.
	b3, v3 := request(t, one, s.now)
	if _, err := acc.Accept(s.now, b3, here); err != nil {
		t.Fatal(err)
	}
	wants(t, v3.Check(a1.APRep), kink.ErrMutual, "another request")
	for n := range a1.APRep {
		wants(t, v1.Check(a1.APRep[:n]), kink.ErrMutual)
		bad := bytes.Clone(a1.APRep)
		bad[n] ^= 0x41
		wants(t, v1.Check(bad), kink.ErrMutual)
	}
	wants(t, v1.Check(append(bytes.Clone(a1.APRep), 0)), kink.ErrMutual)
	wants(t, v1.Check(make([]byte, 4096)), kink.ErrMutual)
	if err := v1.Check(a1.APRep); err != nil {
		t.Error(err)
	}
}

// forge makes a KRB_AP_REQ for b with the key of its keytab.
func (s *site) forge(change func(*krb5.TicketPart, *krb5.Authenticator, *krb5.APReq)) []byte {
	s.t.Helper()
	kt, err := krb5.ParseKeytab(s.world.Keytab(s.b))
	if err != nil {
		s.t.Fatal(err)
	}
	e, _ := kt.Find(s.b, krb5.AES256, nil)
	k, _ := krb5.RandomKey(krb5.AES256)
	part := krb5.TicketPart{Key: k, CRealm: s.a.Realm(), Client: s.a.DER(), TransitedType: 1, AuthTime: s.now, EndTime: s.now.Add(time.Hour)}
	auth := krb5.Authenticator{CRealm: s.a.Realm(), Client: s.a.DER(), CTime: s.now}
	q := krb5.APReq{Options: krb5.APMutualRequired, Ticket: krb5.Ticket{Realm: s.b.Realm(), Server: s.b.DER(), Enc: krb5.EncryptedData{KVNO: &e.KVNO}}}
	change(&part, &auth, &q)
	if q.Authenticator.Cipher == nil {
		b, err := auth.Append(nil)
		if q.Authenticator, err = krb5.Seal(part.Key, krb5.UsageAuthenticator, nil, b, err); err != nil {
			s.t.Fatal(err)
		}
	}
	if q.Ticket.Enc.Cipher == nil {
		b, err := part.Append(nil)
		if q.Ticket.Enc, err = krb5.Seal(e.Key, krb5.UsageTicket, q.Ticket.Enc.KVNO, b, err); err != nil {
			s.t.Fatal(err)
		}
	}
	if q.Ticket, err = krb5.NewTicket(q.Ticket.Realm, q.Ticket.Server, q.Ticket.Enc); err != nil {
		s.t.Fatal(err)
	}
	b, err := q.Append(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// What a ticket and an authenticator say is held against this system, the sender and
// each other, and a refusal says what is wrong (RFC 4120, Section 3.2.3).
func TestAcceptorRefuses(t *testing.T) {
	n := func(v uint32) *uint32 { return &v }
	for _, c := range []struct {
		name   string
		change func(*krb5.TicketPart, *krb5.Authenticator, *krb5.APReq)
		code   int32
		words  []string // nil: accepted
	}{
		{"nothing", func(*krb5.TicketPart, *krb5.Authenticator, *krb5.APReq) {}, 0, nil},
		{"for another host", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) {
			q.Ticket.Server = der.Name{Parts: []string{"kink", "c.a.example"}}
		}, kink.ErrNotUs, []string{"kink/c.a.example@A.EXAMPLE", "no principal of this system"}},
		{"for another service whose key is the same", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) {
			q.Ticket.Server = der.Name{Parts: []string{"host", "b.a.example"}}
		}, kink.ErrNotUs, []string{"host/b.a.example"}},
		{"for another realm", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) { q.Ticket.Realm = "EVIL" }, kink.ErrNotUs, []string{"another realm than A.EXAMPLE", "domain_realm"}},
		{"of another key version", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) { q.Ticket.Enc.KVNO = n(7) }, kink.ErrBadKeyVersion, []string{"no key of kink/b.a.example@A.EXAMPLE with version 7", "in the keytab: kvno 1, aes256-cts-hmac-sha1-96"}},
		{"without a key version", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) { q.Ticket.Enc.KVNO = nil }, 0, nil},
		{"the name without components", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) { q.Ticket.Server = der.Name{} }, kink.ErrNotUs, []string{"for no principal"}},
		{"the authenticator of another client", func(_ *krb5.TicketPart, a *krb5.Authenticator, _ *krb5.APReq) {
			a.Client.Parts = []string{"kink", "eve"}
		}, kink.ErrBadMatch, []string{"another principal"}},
		{"the authenticator of another realm", func(_ *krb5.TicketPart, a *krb5.Authenticator, _ *krb5.APReq) { a.CRealm = "EVIL" }, kink.ErrBadMatch, []string{"another principal"}},
		{"a client whose name would disturb", func(p *krb5.TicketPart, a *krb5.Authenticator, _ *krb5.APReq) {
			p.Client.Parts = []string{"\x1b[2J"}
			a.Client = p.Client
		}, kink.ErrBadMatch, []string{"of no principal"}},
		{"not valid", func(p *krb5.TicketPart, _ *krb5.Authenticator, _ *krb5.APReq) { p.Flags |= krb5.FlagInvalid }, kink.ErrTicketNotValid, []string{"begins at"}},
		{"valid later", func(p *krb5.TicketPart, _ *krb5.Authenticator, _ *krb5.APReq) {
			p.StartTime = p.AuthTime.Add(6 * time.Minute)
		}, kink.ErrTicketNotValid, []string{"begins at"}},
		{"for another address", func(p *krb5.TicketPart, _ *krb5.Authenticator, _ *krb5.APReq) {
			p.Addresses = []krb5.Address{{Type: 2, Octet: []byte{192, 0, 2, 2}}, {Type: 20, Octet: []byte("NETBIOS")}, {Type: 24, Octet: []byte{192, 0, 2, 1}}}
		}, kink.ErrBadAddress, []string{"other addresses than 192.0.2.1", "noaddresses"}},
		{"for this address", func(p *krb5.TicketPart, _ *krb5.Authenticator, _ *krb5.APReq) {
			p.Addresses = []krb5.Address{{Type: 2, Octet: []byte{192, 0, 2, 1}}}
		}, 0, nil},
		{"through realms that nobody checked", func(p *krb5.TicketPart, _ *krb5.Authenticator, _ *krb5.APReq) { p.Transited = []byte("X.EXAMPLE") }, 28, []string{"no KDC has checked"}},
		{"through realms that the KDC checked", func(p *krb5.TicketPart, _ *krb5.Authenticator, _ *krb5.APReq) {
			p.Transited = []byte("X.EXAMPLE")
			p.Flags |= 1 << (31 - 12)
		}, 0, nil},
		{"a ticket of a type that is not permitted", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) {
			q.Ticket.Enc = krb5.EncryptedData{EType: 23, Cipher: make([]byte, 100)}
		}, 14, []string{"arcfour-hmac, which is not permitted", "permitted: "}},
		{"a session key of a type that is not permitted", func(p *krb5.TicketPart, _ *krb5.Authenticator, _ *krb5.APReq) { p.Key, _ = krb5.RandomKey(krb5.DES3) }, 14, []string{"des3-cbc-sha1, which is not permitted"}},
		{"a ticket under another key", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) {
			q.Ticket.Enc.EType, q.Ticket.Enc.Cipher = krb5.AES256, make([]byte, 300)
		}, kink.ErrBadIntegrity, []string{"not encrypted with the key in the keytab"}},
		{"an authenticator under another key", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) {
			q.Authenticator = krb5.EncryptedData{EType: krb5.AES256, Cipher: make([]byte, 100)}
		}, kink.ErrBadIntegrity, []string{"authenticator"}},
		{"an authenticator without ciphertext", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) {
			q.Authenticator = krb5.EncryptedData{EType: krb5.AES256, Cipher: []byte{}}
		}, kink.ErrBadIntegrity, []string{"authenticator"}},
		{"user-to-user without having asked", func(_ *krb5.TicketPart, _ *krb5.Authenticator, q *krb5.APReq) { q.Options |= krb5.APUseSessionKey }, kink.ErrNoKey, []string{"GETTGT"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			got, err := s.acceptor(s.client(s.keytab(s.b)), s.keytab(s.b)).Accept(s.now, s.forge(c.change), here)
			if c.words == nil {
				if err != nil || got.Client != s.a {
					t.Errorf("%+v: %v", got, err)
				}
				return
			}
			wants(t, err, c.code, c.words...)
		})
	}
}

// The key changes: what came with the old one is still good, and the new one is found
// in the file, which is not read more often than every ten seconds.
func TestKeytabRotation(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "keytab")
	write := func(b []byte, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, s.now.Add(age), s.now.Add(age)); err != nil {
			t.Fatal(err)
		}
	}
	write(s.world.Keytab(s.b), 0)
	kt, err := krb.OpenKeytab("FILE:"+path, s.now)
	if err != nil || kt.Problem() != nil {
		t.Fatal(err, kt.Problem())
	}
	acc := s.acceptor(nil, krb.Identity{Principal: s.b, Keytab: kt})
	c := s.client(s.keytab(s.a))
	old := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b})
	s.exchange(old, acc)
	s.realm.Rekey(s.b)
	fresh := s.ticket(c, kink.GetTicket{Client: s.a, Server: s.b, Refresh: true})
	b, _ := request(t, fresh, s.now)
	_, err = acc.Accept(s.now, b, here)
	wants(t, err, kink.ErrBadKeyVersion, "version 2", "kvno 1")
	write(s.world.Keytab(s.b), time.Second)
	s.now = s.now.Add(11 * time.Second)
	s.exchange(fresh, acc)
	s.exchange(old, acc)
	// A file that is half written changes nothing, and says so.
	write(s.world.Keytab(s.b)[:50], 2*time.Second)
	s.now = s.now.Add(11 * time.Second)
	s.exchange(fresh, acc)
	if kt.Problem() == nil {
		t.Error("the damage is not told")
	}
	write(s.world.Keytab(s.b), 3*time.Second)
	if err := kt.Reload(s.now); err != nil {
		t.Error(err)
	}
	for name, ok := range map[string]bool{"MEMORY:x": false, "relative": false, "": false, "/dev/null": true, t.TempDir(): true} {
		k, err := krb.OpenKeytab(name, s.now)
		if (err == nil) != ok || err == nil && k.Problem() == nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// BenchmarkAccept is what a stranger can make this system do, and what a peer costs.
func BenchmarkAccept(b *testing.B) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	world := krbtest.New(func() time.Time { return now })
	realm := world.Realm("A")
	a, z := realm.Principal("kink/a"), realm.Principal("kink/b")
	identity := func(p kink.Principal) krb.Identity {
		k, err := krb.OpenKeytab(krbtest.Write(b, "keytab", world.Keytab(p)), now)
		if err != nil {
			b.Fatal(err)
		}
		return krb.Identity{Principal: p, Keytab: k}
	}
	tk, err := krb.NewClient(krb.Options{KDC: world, Identities: []krb.Identity{identity(a)}}).GetTicket(b.Context(), now, kink.GetTicket{Client: a, Server: z})
	if err != nil {
		b.Fatal(err)
	}
	r, err := krb.OpenReplay(filepath.Join(b.TempDir(), "replay"), now, 5*time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	acc := krb.NewAcceptor(krb.AcceptorOptions{Identities: []krb.Identity{identity(z)}, Replay: r})
	forged, _ := request(b, tk, now)
	forged[len(forged)-1] ^= 1
	b.Run("peer", func(b *testing.B) {
		at := now
		for b.Loop() {
			// Time goes on, so that the cache of one client is not full.
			at = at.Add(100 * time.Millisecond)
			if at.Sub(now) > 9*time.Hour {
				at = now
			}
			b.StopTimer()
			req, _ := request(b, tk, at)
			b.StartTimer()
			acc.Accept(at, req, here)
		}
	})
	b.Run("forged authenticator", func(b *testing.B) {
		for b.Loop() {
			if _, err := acc.Accept(now, forged, here); err == nil {
				b.Fatal("accepted")
			}
		}
	})
}
