package krb_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/kink"
	"iked/kink/krb"
	"iked/kink/krb/krb5"
	"iked/kink/krb/krbtest"
)

// site is two realms, of which A trusts B's clients and the other way round, and two
// hosts in A.
type site struct {
	t     *testing.T
	now   time.Time
	world *krbtest.World
	realm *krbtest.Realm
	a, b  kink.Principal
	conf  *krb.Conf
	// etypes is for clients and acceptors made later.
	etypes []int32
}

var here = netip.MustParseAddr("192.0.2.1")

func newSite(t *testing.T) *site {
	s := &site{t: t, now: time.Date(2026, 11, 26, 12, 0, 0, 123456000, time.UTC)}
	s.world = krbtest.New(func() time.Time { return s.now })
	s.realm = s.world.Realm("A.EXAMPLE")
	s.a = s.realm.Principal("kink/a.a.example")
	s.b = s.realm.Principal("kink/b.a.example")
	s.conf = conf(t, "")
	return s
}

func conf(t testing.TB, text string) *krb.Conf {
	t.Helper()
	c, err := krb.LoadConf(krbtest.Write(t, "krb5.conf", []byte(text)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func principal(t testing.TB, s string) kink.Principal {
	t.Helper()
	p, err := kink.ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// keytab is an identity with the keys that it has now.
func (s *site) keytab(p kink.Principal) krb.Identity {
	s.t.Helper()
	return s.keytabFile(p, s.world.Keytab(p))
}

func (s *site) keytabFile(p kink.Principal, b []byte) krb.Identity {
	s.t.Helper()
	k, err := krb.OpenKeytab(krbtest.Write(s.t, "keytab", b), s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	return krb.Identity{Principal: p, Keytab: k}
}

func (s *site) client(ids ...krb.Identity) *krb.Client {
	return krb.NewClient(krb.Options{Conf: s.conf, KDC: s.world, Identities: ids, ETypes: s.etypes})
}

func (s *site) acceptor(c *krb.Client, ids ...krb.Identity) *krb.Acceptor {
	s.t.Helper()
	r, err := krb.OpenReplay("", s.now, 5*time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	return krb.NewAcceptor(krb.AcceptorOptions{Identities: ids, Client: c, Replay: r, Conf: s.conf, ETypes: s.etypes})
}

// ticket gets one that must come.
func (s *site) ticket(c *krb.Client, w kink.GetTicket) kink.Ticket {
	s.t.Helper()
	t, err := c.GetTicket(s.t.Context(), s.now, w)
	if err != nil {
		s.t.Fatalf("%s for %s: %v", w.Client, w.Server, describe(err))
	}
	return t
}

// from is what a fails with for a ticket for b.
func (s *site) from(c *krb.Client) error {
	_, err := c.GetTicket(s.t.Context(), s.now, kink.GetTicket{Client: s.a, Server: s.b})
	return err
}

func describe(err error) string {
	var k *kink.KerberosError
	if errors.As(err, &k) {
		return k.Sentence + " | " + k.Advice + " | " + strings.Join(k.Evidence, "; ")
	}
	return err.Error()
}

// request makes a KRB_AP_REQ that must be made.
func request(t testing.TB, tk kink.Ticket, now time.Time) ([]byte, kink.Verifier) {
	t.Helper()
	b, v, err := tk.Request(now)
	if err != nil {
		t.Fatal(err)
	}
	return b, v
}

// exchange checks that both sides accept each other and have the same key.
func (s *site) exchange(tk kink.Ticket, acc *krb.Acceptor) kink.Accepted {
	s.t.Helper()
	b, v := request(s.t, tk, s.now)
	got, err := acc.Accept(s.now, b, here)
	if err != nil {
		s.t.Fatalf("the acceptor: %s", describe(err))
	}
	if err := v.Check(got.APRep); err != nil {
		s.t.Fatalf("the initiator: %v", err)
	}
	sum, err := tk.Key().Checksum(40, []byte("message"))
	if err != nil || !got.Key.Verify(40, []byte("message"), sum) {
		s.t.Fatalf("the keys differ (%v)", err)
	}
	return got
}

// wants checks an error's code and the words of its sentence and evidence.
func wants(t *testing.T, err error, code int32, words ...string) {
	t.Helper()
	var k *kink.KerberosError
	if !errors.As(err, &k) {
		t.Errorf("the error is %v; one of Kerberos is expected", err)
		return
	}
	if k.Code != code {
		t.Errorf("code %d, expected %d: %s", k.Code, code, describe(err))
	}
	for _, w := range words {
		if !strings.Contains(describe(err), w) {
			t.Errorf("%q has no %q", describe(err), w)
		}
	}
}

func ctx(t *testing.T, d time.Duration) context.Context {
	c, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return c
}

var allTypes = []int32{krb5.SHA384, krb5.SHA256, krb5.AES256, krb5.AES128, krb5.DES3}
