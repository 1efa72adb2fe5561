package engine

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iked/ikev2"
	"iked/internal/keyex"
	"iked/kink"
	"iked/kink/krb/krb5"
	kinkmsg "iked/kink/message"
)

// A principal that no connection allows is refused, and both sides say so.
func TestKINKPrincipalRefused(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		sun := w.gateway("sun", sunAddr, r.conf("sun", "'%any'", "'kink/*.example.com@EXAMPLE.ORG'", "", netsSun))
		moon := w.gateway("moon", moonAddr, r.moon("", ", start: always"))
		w.after(20 * time.Second)
		moon.want(1, 0, "refused")
		sun.want(0, 0, "refused")
		f := sun.e.Explain("")
		if len(f) == 0 || !strings.Contains(f[0].Sentence, "kink/moon.example.org@EXAMPLE.ORG is not allowed") {
			t.Errorf("sun: %+v", f)
		}
		if f := moon.e.Explain("office"); len(f) == 0 || !strings.Contains(f[0].Sentence, "AUTHENTICATION-FAILED") {
			t.Errorf("moon: %+v", f)
		}
	})
}

// What is wrong with Kerberos is told on the side that knows, in a sentence with what
// to change.
func TestKINKExplains(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *realm)
		at     func(sun, moon *gateway) *gateway
		want   string
	}{
		"no entry in the keytab": {func(r *realm) {
			other := r.realm.Principal("kink/other.example.org")
			os.WriteFile(filepath.Join(r.dir, "sun.keytab"), r.kdc.Keytab(other), 0o600)
		}, func(sun, _ *gateway) *gateway { return sun }, "kink/sun.example.org@EXAMPLE.ORG"},
		"another key in the keytab": {func(r *realm) {
			p := principalOf(r.w.t, "kink/sun.example.org@EXAMPLE.ORG")
			r.realm.Remove(p)
			r.realm.Principal("kink/sun.example.org")
		}, func(sun, _ *gateway) *gateway { return sun }, "refused"},
		"a principal that is not there": {func(r *realm) {
			r.realm.Remove(principalOf(r.w.t, "kink/sun.example.org@EXAMPLE.ORG"))
		}, func(_, moon *gateway) *gateway { return moon }, "kink/sun.example.org@EXAMPLE.ORG"},
		"an encryption type that is not permitted": {func(r *realm) { r.realm.SessionETypes = []int32{krb5.SHA384} },
			func(_, moon *gateway) *gateway { return moon }, "type"},
	} {
		simulate(t, func(w *world) {
			r := newRealm(w, "moon", "sun")
			c.change(r)
			sun := w.gateway("sun", sunAddr, r.sun("", ""))
			moon := w.gateway("moon", moonAddr, "krb5_etypes: [aes256-cts-hmac-sha1-96]\n"+r.moon("    keyingtries: 0", ", start: always"))
			w.after(30 * time.Second)
			if ikes, children := moon.up(); ikes+children != 0 {
				t.Errorf("%s: %d IKE SAs, %d CHILD_SAs", name, ikes, children)
			}
			f := c.at(sun, moon).e.Explain("")
			if len(f) == 0 || !strings.Contains(f[0].Sentence+strings.Join(f[0].Evidence, " "), c.want) || f[0].Advice == "" {
				t.Errorf("%s: %+v", name, f)
			}
		})
	}
}

func principalOf(t *testing.T, s string) kink.Principal {
	t.Helper()
	p, err := kink.ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Strangers cost a bounded number of operations, and get answers at a bounded rate
// that are never longer than what they sent.
func TestKINKStrangers(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "sun")
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		var answers []ikev2.Datagram
		w.tap = func(d ikev2.Datagram) bool { answers = append(answers, d); return false }
		name := "kink/sun.example.org@EXAMPLE.ORG"
		for i, body := range []kinkmsg.Body{
			{APReq: &kinkmsg.AP{Data: make([]byte, 500)}}, {APReq: &kinkmsg.AP{Data: []byte{1}}}, {TGTReq: &name}, {KRBError: []byte("x")},
		} {
			var sum func([]byte) ([]byte, error)
			if body.APReq != nil {
				sum = func([]byte) ([]byte, error) { return make([]byte, 12), nil }
			}
			for _, typ := range []kinkmsg.Type{kinkmsg.Create, kinkmsg.Delete, kinkmsg.Reply, kinkmsg.GetTGT, kinkmsg.Ack, kinkmsg.Status, 9} {
				for n := range 30 {
					b, err := kinkmsg.Append(nil, kinkmsg.Header{Type: typ, XID: uint32(n)}, body, sum)
					if err != nil {
						t.Fatal(err)
					}
					answers = nil
					sun.e.ReceiveKINK(keyex.Datagram{Local: netip.MustParseAddrPort(sunAddr + ":910"), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(100 + i), byte(n)}), 910), Data: b})
					synctest.Wait()
					for _, a := range answers {
						if len(a.Data) > len(b) {
							t.Errorf("%v with %+v: %d octets are answered with %d", typ, body, len(b), len(a.Data))
						}
					}
				}
			}
		}
		if st := sun.e.Stats(); st.IKESAs != 0 {
			t.Errorf("strangers made %d SAs", st.IKESAs)
		}
		if n := len(w.sent); n > 100 {
			t.Errorf("%d answers at once", n)
		}
	})
}
