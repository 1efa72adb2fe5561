package kdc_test

import (
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

// library runs MIT's libkrb5 in the namespace, by its Python script.
func (m *mit) library(k *kdc.KDC, extra string, args ...string) *testnet.Process {
	m.t.Helper()
	testnet.RequireCommand(m.t, "/usr/bin/python3", "python3")
	script, err := filepath.Abs(filepath.Join("testdata", "libkrb5.py"))
	m.must(err)
	conf := filepath.Join(m.t.TempDir(), "krb5.conf")
	m.must(os.WriteFile(conf, []byte(kdc.Conf(k)+"[libdefaults]\n"+extra), 0o600))
	p, err := m.ns.Start(testnet.Command{Args: append([]string{"/usr/bin/python3", script}, args...), Env: []string{"KRB5_CONFIG=" + conf, "KRB5RCACHENAME=none:"}})
	m.must(err)
	return p
}

func (m *mit) done(p *testnet.Process) {
	m.t.Helper()
	if err := p.Wait(); err != nil {
		m.t.Errorf("libkrb5: %v: %s", err, p.Log())
	}
}

func (m *mit) read(path string) []byte {
	m.t.Helper()
	for {
		b, err := os.ReadFile(path)
		if err == nil {
			return b
		}
		select {
		case <-m.ctx.Done():
			m.t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// MIT's library accepts this system's KRB_AP_REQ and answers with a KRB_AP_REP that is
// accepted here, and the other way round, with session keys of each type.
func TestMITLibrary(t *testing.T) {
	m := start(t)
	for _, name := range []string{"aes128-cts-hmac-sha1-96", "aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha256-128", "aes256-cts-hmac-sha384-192", "des3-cbc-sha1"} {
		t.Run(name, func(t *testing.T) {
			m := &mit{t, m.ctx, m.ns, t.TempDir()}
			permitted := "\tallow_weak_crypto = true\n\tallow_des3 = true\n\tpermitted_enctypes = " + name + "\n"
			k := m.realm("EXAMPLE.ORG", "127.0.0.1", kdc.Options{ETypes: name + ":normal", LibDefaults: strings.TrimSuffix(permitted, "\n") + " aes256-cts-hmac-sha1-96\n"})
			defer k.Stop()
			m.must(k.AddPrincipal(m.ctx, "", "kink/a.example.org", "kink/b.example.org"))
			conf := m.conf("[libdefaults]\n"+permitted, k)
			a, b := m.keytab(k, "kink/a.example.org"), m.keytab(k, "kink/b.example.org")
			path := func(name string) string { return filepath.Join(m.dir, name) }

			tk, err := m.ticket(krb.NewClient(krb.Options{Conf: conf, Identities: []krb.Identity{a}}), kink.GetTicket{Client: a.Principal, Server: b.Principal})
			m.must(err)
			req, v, err := tk.Request(time.Now())
			m.must(err)
			m.must(os.WriteFile(path("request"), req, 0o600))
			m.must(k.Keytab(m.ctx, path("keytab"), "kink/b.example.org"))
			m.done(m.library(k, permitted, "accept", path("keytab"), path("request"), path("reply")))
			m.must(v.Check(m.read(path("reply"))))

			m.must(k.CCache(m.ctx, m.ns, path("cc"), "kink/a.example.org"))
			p := m.library(k, permitted, "initiate", path("cc"), b.Principal.String(), path("request2"), path("reply2"))
			got, err := m.acceptor(nil, conf, b).Accept(time.Now(), m.read(path("request2")), netip.MustParseAddr("192.0.2.1"))
			m.must(err)
			if got.Client != a.Principal || got.Problem != nil {
				t.Errorf("accepted %+v", got)
			}
			m.must(os.WriteFile(path("reply2.new"), got.APRep, 0o600))
			m.must(os.Rename(path("reply2.new"), path("reply2")))
			m.done(p)
		})
	}
}
