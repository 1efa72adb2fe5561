package krb_test

import (
	"testing"
	"time"

	"iked/kink"
	"iked/kink/der"
	"iked/kink/krb"
	"iked/kink/krb/krb5"
	"iked/kink/krb/krbtest"
)

// Whatever a KDC encrypted for this system and a client under the session key, the
// acceptor takes it or refuses it with a code, and takes nobody but whom the ticket
// names.
func FuzzAccept(f *testing.F) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	world := krbtest.New(func() time.Time { return now })
	b := world.Realm("A").Principal("kink/b", krb5.AES128)
	keytab := world.Keytab(b)
	kt, err := krb5.ParseKeytab(keytab)
	if err != nil {
		f.Fatal(err)
	}
	entry, _ := kt.Find(b, krb5.AES128, nil)
	file, err := krb.OpenKeytab(krbtest.Write(f, "keytab", keytab), now)
	if err != nil {
		f.Fatal(err)
	}
	session, err := krb5.NewKey(krb5.AES128, make([]byte, 16))
	if err != nil {
		f.Fatal(err)
	}
	name := der.Name{Type: 3, Parts: []string{"kink", "a"}}
	part := krb5.TicketPart{Key: session, CRealm: "A", Client: name, TransitedType: 1, AuthTime: now, EndTime: now.Add(time.Hour)}
	add := func(p krb5.TicketPart, a krb5.Authenticator) {
		tb, err := p.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		ab, err := a.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(tb, ab, uint32(krb5.APMutualRequired))
	}
	add(part, krb5.Authenticator{CRealm: "A", Client: name, CTime: now})
	part.Addresses, part.AuthData, part.Till = []krb5.Address{{Type: 2, Octet: []byte{192, 0, 2, 1}}}, []byte{0x30, 0}, now
	add(part, krb5.Authenticator{CRealm: "A", Client: name, CTime: now.Add(time.Hour), Checksum: &krb5.Checksum{Type: 15, Sum: make([]byte, 12)}})
	f.Fuzz(func(t *testing.T, ticket, auth []byte, options uint32) {
		before := krb.Panics()
		r, err := krb.OpenReplay("", now, 5*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		acc := krb.NewAcceptor(krb.AcceptorOptions{Identities: []krb.Identity{{Principal: b, Keytab: file}}, Replay: r})
		enc, err := krb5.Seal(entry.Key, krb5.UsageTicket, &entry.KVNO, ticket, nil)
		if err != nil {
			t.Fatal(err)
		}
		q := krb5.APReq{Options: options &^ krb5.APUseSessionKey}
		if q.Ticket, err = krb5.NewTicket("A", b.DER(), enc); err != nil {
			t.Fatal(err)
		}
		if q.Authenticator, err = krb5.Seal(session, krb5.UsageAuthenticator, nil, auth, nil); err != nil {
			t.Fatal(err)
		}
		req, err := q.Append(nil)
		if err != nil {
			return // larger than DER allows
		}
		got, err := acc.Accept(now, req, here)
		if krb.Panics() != before {
			t.Fatalf("a panic was contained: %v", err)
		}
		if err != nil {
			if k, ok := err.(*kink.KerberosError); !ok || k.Code == 0 {
				t.Errorf("the refusal has no code: %v", err)
			}
			return
		}
		p, err := krb5.ParseTicketPart(ticket)
		if der.First(ticket) != nil && err != nil {
			p, err = krb5.ParseTicketPart(der.First(ticket))
		}
		if err != nil {
			t.Fatal(err)
		}
		if want, err := kink.NewPrincipal(p.CRealm, p.Client.Parts...); err != nil || got.Client != want || got.Server != b {
			t.Errorf("accepted %s for %s; the ticket is of %s", got.Client, got.Server, want)
		}
		if _, err := acc.Accept(now, req, here); err == nil && got.Problem == nil {
			t.Error("it is accepted twice")
		}
	})
}
