package kdc_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/interop/kdc"
	"iked/kink"
	"iked/kink/krb"
)

// mit is MIT's KDCs in a namespace, asked from there.
type mit struct {
	t   *testing.T
	ctx context.Context
	ns  *testnet.Namespace
	dir string
}

func start(t *testing.T) *mit {
	testnet.RequireRoot(t)
	kdc.Require(t)
	n, err := testnet.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Log(err)
		}
	})
	ns, err := n.Namespace("kdc")
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.SetLink("lo", true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return &mit{t, ctx, ns, n.Dir()}
}

func (m *mit) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(describe(err))
	}
}

func describe(err error) string {
	var k *kink.KerberosError
	if errors.As(err, &k) {
		return k.Sentence + " | " + strings.Join(k.Evidence, "; ")
	}
	return err.Error()
}

func (m *mit) realm(name, addr string, o kdc.Options) *kdc.KDC {
	m.t.Helper()
	o.Realm, o.Listen = name, netip.MustParseAddr(addr)
	k, err := kdc.Start(m.ctx, m.ns, filepath.Join(m.dir, name), o)
	m.must(err)
	return k
}

func (m *mit) conf(extra string, realms ...*kdc.KDC) *krb.Conf {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "krb5.conf")
	m.must(os.WriteFile(path, []byte(kdc.Conf(realms...)+extra), 0o600))
	c, err := krb.LoadConf(path)
	m.must(err)
	return c
}

func principal(t *testing.T, s string) kink.Principal {
	t.Helper()
	p, err := kink.ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (m *mit) keytab(k *kdc.KDC, name string) krb.Identity {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "keytab")
	m.must(k.Keytab(m.ctx, path, name))
	kt, err := krb.OpenKeytab(path, time.Now())
	m.must(err)
	m.must(kt.Problem())
	return krb.Identity{Principal: principal(m.t, name+"@"+k.Realm), Keytab: kt}
}

// ticket asks from the namespace, where the KDC is.
func (m *mit) ticket(c *krb.Client, w kink.GetTicket) (tk kink.Ticket, err error) {
	m.t.Helper()
	doErr := m.ns.Do(func() error {
		tk, err = c.GetTicket(m.ctx, time.Now(), w)
		return nil
	})
	return tk, errors.Join(err, doErr)
}

func (m *mit) acceptor(c *krb.Client, conf *krb.Conf, id krb.Identity) *krb.Acceptor {
	m.t.Helper()
	r, err := krb.OpenReplay(filepath.Join(m.t.TempDir(), "replay"), time.Now(), conf.ClockSkew)
	m.must(err)
	m.t.Cleanup(func() { r.Close() })
	return krb.NewAcceptor(krb.AcceptorOptions{Identities: []krb.Identity{id}, Client: c, Replay: r, Conf: conf})
}

func (m *mit) exchange(tk kink.Ticket, acc *krb.Acceptor) kink.Accepted {
	m.t.Helper()
	b, v, err := tk.Request(time.Now())
	m.must(err)
	got, err := acc.Accept(time.Now(), b, netip.MustParseAddr("192.0.2.1"))
	m.must(err)
	m.must(v.Check(got.APRep))
	if got.Problem != nil {
		m.t.Errorf("the problem is %+v", got.Problem)
	}
	sum, err := tk.Key().Checksum(kink.UsageChecksum, []byte("message"))
	m.must(err)
	if !got.Key.Verify(kink.UsageChecksum, []byte("message"), sum) {
		m.t.Error("the keys differ")
	}
	return got
}

// Tickets of MIT's KDC with keys and session keys of each type, by UDP over IPv4 and
// IPv6 and by TCP.
func TestMITEncryptionTypes(t *testing.T) {
	m := start(t)
	for i, c := range []struct {
		name string
		id   int32
	}{{"aes128-cts-hmac-sha1-96", 17}, {"aes256-cts-hmac-sha1-96", 18}, {"aes128-cts-hmac-sha256-128", 19}, {"aes256-cts-hmac-sha384-192", 20}, {"des3-cbc-sha1", 16}} {
		t.Run(c.name, func(t *testing.T) {
			m := &mit{t, m.ctx, m.ns, t.TempDir()}
			addr := []string{"127.0.0.1", "::1"}[i%2]
			k := m.realm("EXAMPLE.ORG", addr, kdc.Options{ETypes: c.name + ":normal", LibDefaults: "\tallow_weak_crypto = true\n\tallow_des3 = true\n\tpermitted_enctypes = aes256-cts-hmac-sha1-96 " + c.name})
			defer k.Stop()
			m.must(k.AddPrincipal(m.ctx, "+requires_preauth", "kink/a.example.org"))
			m.must(k.AddPrincipal(m.ctx, "", "kink/b.example.org"))
			a, b := m.keytab(k, "kink/a.example.org"), m.keytab(k, "kink/b.example.org")
			for _, extra := range []string{"", "\n[libdefaults]\n\tudp_preference_limit = 0\n"} {
				conf := m.conf("[libdefaults]\n\tpermitted_enctypes = "+c.name+"\n"+extra, k)
				client := krb.NewClient(krb.Options{Conf: conf, Identities: []krb.Identity{a}})
				tk, err := m.ticket(client, kink.GetTicket{Client: a.Principal, Server: b.Principal})
				m.must(err)
				if got := m.exchange(tk, m.acceptor(nil, conf, b)); got.Client != a.Principal || got.Key.EType() != c.id {
					t.Errorf("accepted %s with type %d", got.Client, got.Key.EType())
				}
				if d := time.Until(tk.End()); d < 9*time.Hour || d > 11*time.Hour {
					t.Errorf("the ticket ends after %v", d)
				}
			}
		})
	}
}

// Three realms of MIT in a row, by capaths and by hierarchy; the KDCs check the path.
func TestMITCrossRealm(t *testing.T) {
	m := start(t)
	a := m.realm("A.EXAMPLE", "127.0.0.1", kdc.Options{})
	top := m.realm("EXAMPLE", "127.0.0.2", kdc.Options{})
	b := m.realm("B.EXAMPLE", "127.0.0.3", kdc.Options{})
	m.must(a.Trust(m.ctx, top))
	m.must(top.Trust(m.ctx, b))
	m.must(a.AddPrincipal(m.ctx, "", "kink/a.example"))
	m.must(b.AddPrincipal(m.ctx, "", "kink/b.example"))
	m.must(top.AddPrincipal(m.ctx, "", "kink/t.example"))
	conf := m.conf("", a, top, b)
	id := m.keytab(a, "kink/a.example")
	client := krb.NewClient(krb.Options{Conf: conf, Identities: []krb.Identity{id}})
	for _, k := range []*kdc.KDC{top, b} {
		name := map[*kdc.KDC]string{top: "kink/t.example", b: "kink/b.example"}[k]
		far := m.keytab(k, name)
		tk, err := m.ticket(client, kink.GetTicket{Client: id.Principal, Server: far.Principal})
		m.must(err)
		if got := m.exchange(tk, m.acceptor(nil, conf, far)); got.Client != id.Principal {
			t.Errorf("accepted %s", got.Client)
		}
	}
	// There is no way back.
	back := m.keytab(b, "kink/b.example")
	_, err := m.ticket(krb.NewClient(krb.Options{Conf: conf, Identities: []krb.Identity{back}}), kink.GetTicket{Client: back.Principal, Server: id.Principal})
	if err == nil || !strings.Contains(err.Error(), "realm B.EXAMPLE has no trust with realm A.EXAMPLE") {
		t.Errorf("back: %v", err)
	}
}

// A user with a ticket of kinit and no keytab is reached by user-to-user alone.
func TestMITUserToUser(t *testing.T) {
	m := start(t)
	k := m.realm("EXAMPLE.ORG", "127.0.0.1", kdc.Options{})
	m.must(k.AddPrincipal(m.ctx, "", "kink/a.example.org"))
	m.must(k.AddPrincipal(m.ctx, "-allow_svr", "alice"))
	cc := filepath.Join(t.TempDir(), "cc")
	m.must(k.CCache(m.ctx, m.ns, cc, "alice"))
	conf := m.conf("", k)
	a := m.keytab(k, "kink/a.example.org")
	u := krb.Identity{Principal: principal(t, "alice@EXAMPLE.ORG"), CCache: "FILE:" + cc}
	client := krb.NewClient(krb.Options{Conf: conf, Identities: []krb.Identity{a}})
	user := krb.NewClient(krb.Options{Conf: conf, Identities: []krb.Identity{u}})
	_, err := m.ticket(client, kink.GetTicket{Client: a.Principal, Server: u.Principal})
	var fail *kink.KerberosError
	if !errors.As(err, &fail) || fail.Code != kink.ErrUserToUserOnly {
		t.Errorf("without its ticket: %v", err)
	}
	tgt, err := user.GetTGT(m.ctx, time.Now(), u.Principal)
	m.must(err)
	tk, err := m.ticket(client, kink.GetTicket{Client: a.Principal, Server: u.Principal, TGT: tgt})
	m.must(err)
	if got := m.exchange(tk, m.acceptor(user, conf, u)); got.Client != a.Principal || got.Server != u.Principal {
		t.Errorf("accepted %+v", got)
	}
	// And the user reaches the host as anybody.
	tk, err = m.ticket(user, kink.GetTicket{Client: u.Principal, Server: a.Principal})
	m.must(err)
	if got := m.exchange(tk, m.acceptor(nil, conf, a)); got.Client != u.Principal {
		t.Errorf("accepted %s", got.Client)
	}
}

// What MIT's KDC answers to faults is told in words; it goes away, comes back, and
// gives new keys.
func TestMITFaults(t *testing.T) {
	m := start(t)
	k := m.realm("EXAMPLE.ORG", "127.0.0.1", kdc.Options{})
	m.must(k.AddPrincipal(m.ctx, "+requires_preauth", "kink/a.example.org", "kink/b.example.org", "kink/gone.example.org"))
	a, b, gone := m.keytab(k, "kink/a.example.org"), m.keytab(k, "kink/b.example.org"), m.keytab(k, "kink/gone.example.org")
	_, err := k.Admin(m.ctx, "delprinc -force kink/gone.example.org")
	m.must(err)
	conf := m.conf("", k)
	client := krb.NewClient(krb.Options{Conf: conf, Identities: []krb.Identity{a, gone}})
	for _, c := range []struct {
		w    kink.GetTicket
		code int32
		want string
	}{
		{kink.GetTicket{Client: gone.Principal, Server: b.Principal}, kink.ErrClientUnknown, "the principal kink/gone.example.org@EXAMPLE.ORG is unknown at the KDC"},
		{kink.GetTicket{Client: a.Principal, Server: gone.Principal}, kink.ErrServerUnknown, "the principal kink/gone.example.org@EXAMPLE.ORG is unknown at the KDC"},
	} {
		_, err := m.ticket(client, c.w)
		var fail *kink.KerberosError
		if !errors.As(err, &fail) || fail.Code != c.code || !strings.Contains(fail.Sentence, c.want) {
			t.Errorf("%s for %s: %v", c.w.Client, c.w.Server, err)
		}
	}
	tk, err := m.ticket(client, kink.GetTicket{Client: a.Principal, Server: b.Principal})
	m.must(err)
	acc := m.acceptor(nil, conf, b)
	m.exchange(tk, acc)

	// New keys for both: the client's keytab is too old, the ticket is still good.
	m.must(k.Rekey(m.ctx, "kink/a.example.org"))
	m.must(k.Rekey(m.ctx, "kink/b.example.org"))
	m.exchange(tk, acc)
	old := krb.NewClient(krb.Options{Conf: conf, Identities: []krb.Identity{a}})
	_, err = m.ticket(old, kink.GetTicket{Client: a.Principal, Server: b.Principal})
	var fail *kink.KerberosError
	if !errors.As(err, &fail) || fail.Code != 24 {
		t.Errorf("an old key: %v", err)
	}
	fresh, err := m.ticket(client, kink.GetTicket{Client: a.Principal, Server: b.Principal, Refresh: true})
	m.must(err)
	req, _, err := fresh.Request(time.Now())
	m.must(err)
	if _, err := acc.Accept(time.Now(), req, netip.MustParseAddr("192.0.2.1")); !errors.As(err, &fail) || fail.Code != kink.ErrBadKeyVersion {
		t.Errorf("a ticket for the new key: %v", err)
	}
	m.exchange(fresh, m.acceptor(nil, conf, m.keytab(k, "kink/b.example.org")))

	// A clock that is off is put right by the KDC.
	late := krb.NewClient(krb.Options{Conf: conf, Identities: []krb.Identity{m.keytab(k, "kink/a.example.org")}})
	m.must(m.ns.Do(func() error {
		tk, err = late.GetTicket(m.ctx, time.Now().Add(-time.Hour), kink.GetTicket{Client: a.Principal, Server: b.Principal})
		return err
	}))
	if d := late.Offset("EXAMPLE.ORG"); d < 59*time.Minute || d > 61*time.Minute {
		t.Errorf("the offset is %v", d)
	}

	m.must(k.Stop())
	short, cancel := context.WithTimeout(m.ctx, 3*time.Second)
	defer cancel()
	m.must(m.ns.Do(func() error {
		_, err = client.GetTicket(short, time.Now(), kink.GetTicket{Client: a.Principal, Server: b.Principal, Refresh: true})
		return nil
	}))
	if !errors.As(err, &fail) || !fail.Temporary || !strings.Contains(fail.Sentence, "no KDC of realm EXAMPLE.ORG can be reached") || !strings.Contains(strings.Join(fail.Evidence, " "), "127.0.0.1: ") {
		t.Errorf("without a KDC: %s", describe(err))
	}
	m.must(k.Restart(m.ctx))
	_, err = m.ticket(client, kink.GetTicket{Client: a.Principal, Server: b.Principal, Refresh: true})
	m.must(err)
}
