package engine

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
	"iked/internal/keyex"
	"iked/kink/krb"
	"iked/kink/krb/krb5"
	"iked/kink/krb/krbtest"
	kinkmsg "iked/kink/message"
	"iked/sad"
	"iked/spd"
)

// realm is the KDC of the gateways of a world.
type realm struct {
	w     *world
	kdc   *krbtest.World
	realm *krbtest.Realm
	dir   string
	// setups are what Kerberos was made of, latest last.
	setups []KerberosSetup
	ports  []uint16
	fail   error // of making Kerberos
	busy   error // of opening the port
	// wrap changes the Kerberos of a gateway.
	wrap func(Kerberos) Kerberos
}

// kerberos is kink/krb as the daemon has it, with the KDC in this process.
type kerberos struct {
	*krb.Client
	*krb.Acceptor
	conf *krb.Conf
}

func (k kerberos) RealmOf(host string) string { return k.conf.RealmOf(host) }

// kinkWire is the port 910 of a gateway.
type kinkWire struct {
	wire
	r *realm
}

func (k kinkWire) Open(port uint16) error {
	if k.r.busy != nil {
		return k.r.busy
	}
	k.r.ports = append(k.r.ports, port)
	return nil
}

// newRealm gives the gateways of a world Kerberos; hosts are their names.
func newRealm(w *world, hosts ...string) *realm {
	r := &realm{w: w, kdc: krbtest.New(time.Now), dir: w.t.TempDir()}
	r.realm = r.kdc.Realm("EXAMPLE.ORG")
	conf, err := krb.LoadConf(krbtest.Write(w.t, "krb5.conf", []byte("[domain_realm]\n.example.org = EXAMPLE.ORG\n")))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, h := range hosts {
		p := r.realm.Principal("kink/" + h + ".example.org")
		if err := os.WriteFile(filepath.Join(r.dir, h+".keytab"), r.kdc.Keytab(p), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	w.setup = func(g *gateway, o *Options) {
		o.KINK = kinkWire{wire{g}, r}
		o.Kerberos = func(s KerberosSetup) (Kerberos, error) {
			r.setups = append(r.setups, s)
			if r.fail != nil {
				return nil, r.fail
			}
			k := kerberos{conf: conf}
			var ids []krb.Identity
			for _, i := range s.Identities {
				id := krb.Identity{Principal: i.Principal, CCache: i.CCache}
				if i.CCache == "" {
					if id.Keytab, err = krb.OpenKeytab(i.Keytab, time.Now()); err != nil {
						return nil, err
					}
				}
				ids = append(ids, id)
			}
			var etypes []int32
			if s.ETypes != "" {
				if etypes, err = krb.ETypes(s.ETypes); err != nil {
					return nil, err
				}
			}
			k.Client = krb.NewClient(krb.Options{Conf: conf, KDC: r.kdc, Identities: ids, ETypes: etypes})
			replay, err := krb.OpenReplay("", time.Now(), conf.ClockSkew)
			k.Acceptor = krb.NewAcceptor(krb.AcceptorOptions{Identities: ids, Client: k.Client, Replay: replay, Conf: conf, ETypes: etypes})
			if r.wrap != nil {
				return r.wrap(k), err
			}
			return k, err
		}
	}
	return r
}

// conf is a gateway of a realm.
func (r *realm) conf(self, remoteAddrs, remoteID, extra, child string) string {
	return fmt.Sprintf(`
connections:
  - name: office
    version: kink
    remote_addrs: [%s]
    local: {id: kink/%s.example.org@EXAMPLE.ORG, keytab: %s/%[2]s.keytab}
    remote: {id: %[4]s}
%[5]s
    children:
      - {name: net%[6]s}
`, remoteAddrs, self, r.dir, remoteID, extra, child)
}

const (
	nets    = ", local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16]"
	netsSun = ", local_ts: [10.2.0.0/16], remote_ts: [10.1.0.0/16]"
)

func (r *realm) moon(extra, child string) string {
	return r.conf("moon", sunAddr, "kink/sun.example.org@EXAMPLE.ORG", extra, nets+child)
}

func (r *realm) sun(extra, child string) string {
	return r.conf("sun", "'%any'", "'kink/*.example.org@EXAMPLE.ORG'", extra, netsSun+child)
}

// kinkSent counts messages of KINK on the wire.
func (w *world) kinkSent(t kinkmsg.Type) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.sent {
		if d.Data[0] == byte(t) {
			n++
		}
	}
	return n
}

func icmp(from, to string) spd.Flow {
	return spd.Flow{Local: addr(from), Remote: addr(to), Proto: 1}
}

// Two gateways with principals of one realm have a tunnel after two messages, whose
// keys are the same on both sides.
func TestKINK(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		moon := w.gateway("moon", moonAddr, r.moon("", ", start: always"))
		w.after(time.Second)
		moon.want(1, 1, "after the start")
		sun.want(1, 1, "after the start")
		if w.kinkSent(kinkmsg.Create) != 1 || w.kinkSent(kinkmsg.Reply) != 1 || !slices.Equal(r.ports, []uint16{910, 910}) {
			t.Errorf("%d messages, ports %v", len(w.sent), r.ports)
		}
		info := moon.sas()[0]
		if info.Version != keyex.VersionKINK || info.RemoteID.String() != "kink/sun.example.org@EXAMPLE.ORG" || info.LocalID.String() != "kink/moon.example.org@EXAMPLE.ORG" || info.Remote.Port() != 910 {
			t.Errorf("the SA is %+v", info)
		}
		for _, a := range moon.back.SAs() {
			found := false
			for _, b := range sun.back.SAs() {
				found = found || a.SPI == b.SPI && a.EncrKey.Equal(b.EncrKey) && a.IntegKey.Equal(b.IntegKey)
			}
			if !found {
				t.Errorf("SA %08x has no twin with its keys", a.SPI)
			}
		}
		w.after(70 * time.Minute)
		moon.want(1, 1, "after rekeying")
		sun.want(1, 1, "after rekeying")
		if w.kinkSent(kinkmsg.Create) != 2 || w.kinkSent(kinkmsg.Delete) != 1 {
			t.Errorf("%d CREATEs and %d DELETEs", w.kinkSent(kinkmsg.Create), w.kinkSent(kinkmsg.Delete))
		}
		moon.stop()
		w.after(15 * time.Second)
		if n := len(sun.back.SAs()); n != 0 {
			t.Errorf("%d SAs are left when the peer ended", n)
		}
	})
}

// A gateway that was killed has another epoch when it is back; its peer drops what it
// had with it, and both have one tunnel again.
func TestKINKRestart(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		moon := w.gateway("moon", moonAddr, r.moon("", ", start: always"))
		w.after(time.Second)
		sun.want(1, 1, "before")
		before := sun.back.SAs()[0].EncrKey
		moon.crash()
		moon.start()
		w.after(15 * time.Second)
		moon.want(1, 1, "after the restart")
		sun.want(1, 1, "after the restart")
		if slices.ContainsFunc(sun.back.SAs(), func(s sad.SA) bool { return s.EncrKey.Equal(before) }) {
			t.Error("the SA that the peer has lost is still there")
		}
		if !sun.logged("was started again") || sun.e.Drops()["peer-restarted"] != 1 {
			t.Error(sun.e.Drops(), sun.dump())
		}
		// The clock went back over the restart: the epoch grows all the same.
		if last := moon.e.kink.epoch; nextEpoch(moon, time.Unix(1000, 0), func(string, ...any) {}) != last+1 {
			t.Error("an epoch came again")
		}
	})
}

// A gateway that only answers tells its peers after a restart: they would send into
// nothing until they have something to say to it.
func TestKINKGreeting(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		moon := w.gateway("moon", moonAddr, r.moon("    dpd_delay: 1h", ", start: always"))
		w.after(5 * time.Second)
		moon.want(1, 1, "before")
		sun.crash()
		sun.start()
		w.after(20 * time.Second)
		moon.want(1, 1, "after the restart of sun")
		sun.want(1, 1, "after the restart of sun")
		if !moon.logged("was started again") || w.kinkSent(kinkmsg.Status) != 1 {
			t.Errorf("%d STATUS\n%s", w.kinkSent(kinkmsg.Status), moon.dump())
		}
		// Whom the configuration does not allow any more is not told, and nobody is told
		// twice.
		sun.crash()
		sun.conf = strings.Replace(sun.conf, "*.example.org", "*.example.com", 1)
		sun.start()
		w.after(20 * time.Second)
		if w.kinkSent(kinkmsg.Status) != 1 {
			t.Errorf("%d STATUS", w.kinkSent(kinkmsg.Status))
		}
	})
}

// A third of all messages gets lost, some come late and out of order, the KDC's clock is
// off by three minutes, and tickets live for twenty: the tunnel comes up, is replaced in
// time for hours, and never more than one is left.
func TestKINKWithFaults(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		r.realm.Offset, r.realm.Lifetime = 3*time.Minute, 20*time.Minute
		n := 0
		w.tap = func(d ikev2.Datagram) bool {
			n++
			w.delay = time.Duration(n%7) * 300 * time.Millisecond
			return n%3 != 0
		}
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		moon := w.gateway("moon", moonAddr, r.moon("    keyingtries: 0", ", start: always, rekey_time: 20m"))
		w.after(2 * time.Minute)
		if _, children := moon.up(); children != 1 {
			t.Fatalf("%d CHILD_SAs\n%s", children, moon.dump())
		}
		for range 12 {
			w.after(20 * time.Minute)
			if _, children := moon.up(); children == 0 {
				t.Errorf("no CHILD_SA is up\n%s", moon.dump())
			}
		}
		w.mu.Lock()
		w.tap = nil
		w.mu.Unlock()
		w.after(10 * time.Minute)
		_, a := moon.up()
		_, b := sun.up()
		if a < 1 || a > 2 || a != b {
			t.Errorf("%d and %d CHILD_SAs\n%s", a, b, moon.dump())
		}
	})
}

// Without a KDC nothing comes up, which is told in words, and tried again until it
// does.
func TestKINKWithoutKDC(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		r.realm.Down = true
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		moon := w.gateway("moon", moonAddr, r.moon("    keyingtries: 0", ", start: always"))
		w.after(time.Minute)
		moon.want(0, 0, "without a KDC")
		list := moon.e.Explain("office")
		if len(list) == 0 || !strings.Contains(list[0].Sentence, "KDC") {
			t.Errorf("failures %+v", list)
		}
		r.realm.Set(func(r *krbtest.Realm) { r.Down = false })
		w.after(2 * time.Minute)
		moon.want(1, 1, "with a KDC")
		sun.want(1, 1, "with a KDC")
	})
}

// A name in remote_addrs says which principal is meant, where remote.id is a pattern;
// the name is looked up at every attempt.
func TestKINKByName(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		moon := w.gateway("moon", moonAddr, r.conf("moon", "sun.example.org", "'kink/*.example.org@*'", "    keyingtries: 0", nets+", start: always"))
		w.after(10 * time.Second)
		moon.want(0, 0, "without an address")
		w.name("sun.example.org", sunAddr)
		w.after(time.Minute)
		moon.want(1, 1, "with an address")
		sun.want(1, 1, "with an address")
	})
}

// One connection serves a whole realm: a packet says which host is meant, and the name
// of its address, that it in turn has, which principal.
func TestKINKRealmWide(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun", "mars")
		const marsAddr = "192.0.2.3"
		w.reverse = map[string][]string{sunAddr: {"liar.example.com.", "sun.example.org."}, marsAddr: {"mars.example.org."}}
		w.name("sun.example.org", sunAddr)
		w.name("liar.example.com", "198.51.100.1")
		w.name("mars.example.org", "198.51.100.9") // the name has not the address
		wide := func(self string) string {
			return r.conf(self, "192.0.2.0/24", "'kink/*.example.org@EXAMPLE.ORG'", "", ", mode: transport, start: on-demand")
		}
		sun := w.gateway("sun", sunAddr, wide("sun"))
		mars := w.gateway("mars", marsAddr, wide("mars"))
		moon := w.gateway("moon", moonAddr, wide("moon"))
		w.after(time.Second)
		moon.asks("office/net", icmp(moonAddr, sunAddr))
		w.after(time.Second)
		moon.want(1, 1, "to sun")
		sun.want(1, 1, "to sun")
		moon.asks("office/net", icmp(moonAddr, marsAddr))
		w.after(20 * time.Second)
		moon.want(1, 1, "to mars, whose name is not its own")
		mars.want(0, 0, "to mars")
		if f := moon.e.Explain("office"); len(f) == 0 || !strings.Contains(f[0].Sentence, "has not the address") {
			t.Errorf("%+v", f)
		}
	})
}

// A host that has a credential cache and no keytab is reached by user-to-user (RFC
// 4430, Section 3.1).
func TestKINKUserToUser(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon")
		p := r.realm.User("kink/sun.example.org")
		cache := filepath.Join(r.dir, "sun.ccache")
		if err := os.WriteFile(cache, r.kdc.CCache(p), 0o600); err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(r.sun("    kink_user_to_user: yes", ""), "keytab: "+r.dir+"/sun.keytab", "ccache: "+cache, 1)
		sun := w.gateway("sun", sunAddr, text)
		moon := w.gateway("moon", moonAddr, r.moon("", ", start: always"))
		w.after(2 * time.Second)
		moon.want(1, 1, "by user-to-user")
		sun.want(1, 1, "by user-to-user")
		if w.kinkSent(kinkmsg.GetTGT) != 1 {
			t.Errorf("%d GETTGTs", w.kinkSent(kinkmsg.GetTGT))
		}
	})
}

// Every encryption type of session keys makes a tunnel.
func TestKINKEncryptionTypes(t *testing.T) {
	for _, etype := range []int32{krb5.AES128, krb5.AES256, krb5.SHA256, krb5.SHA384} {
		simulate(t, func(w *world) {
			r := newRealm(w)
			for _, h := range []string{"moon", "sun"} {
				p := r.realm.Principal("kink/"+h+".example.org", etype)
				if err := os.WriteFile(filepath.Join(r.dir, h+".keytab"), r.kdc.Keytab(p), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r.realm.SessionETypes = []int32{etype}
			sun := w.gateway("sun", sunAddr, r.sun("", ""))
			moon := w.gateway("moon", moonAddr, r.moon("", ", start: always"))
			w.after(time.Second)
			moon.want(1, 1, fmt.Sprint("etype ", etype))
			sun.want(1, 1, fmt.Sprint("etype ", etype))
		})
	}
}

// What the configuration says of Kerberos is what it is made of, and only a change
// makes it anew; without a connection of KINK there is none, and nothing is listened to.
func TestKerberosFollowsTheConfiguration(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon")
		g := w.gateway("moon", moonAddr, moonConf("", ""))
		if len(r.setups)+len(r.ports) != 0 {
			t.Fatalf("IKE alone made %v %v", r.setups, r.ports)
		}
		g.e.ReceiveKINK(keyex.Datagram{Local: netip.MustParseAddrPort(moonAddr + ":910"), Remote: netip.MustParseAddrPort(sunAddr + ":910"), Data: make([]byte, 40)})
		if g.e.Drops()["version-kink"] != 1 {
			t.Error("a host that speaks no KINK looked at a message of it")
		}
		load := func(text string) {
			g.conf = text
			if _, err := g.e.Reload(context.Background(), false); err != nil {
				t.Fatal(err)
			}
		}
		load("port_kink: 911\nkrb5_conf: /other/krb5.conf\nkrb5_etypes: [aes256-cts-hmac-sha1-96, aes128-cts-hmac-sha1-96]\n" + r.moon("", ""))
		want := KerberosSetup{Conf: "/other/krb5.conf", ETypes: "aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha1-96", Identities: []KerberosIdentity{{Principal: r.realm.Principal("kink/moon.example.org"), Keytab: r.dir + "/moon.keytab"}}}
		if len(r.setups) != 1 || fmt.Sprint(r.setups[0]) != fmt.Sprint(want) || !slices.Equal(r.ports, []uint16{911}) {
			t.Fatalf("%+v, ports %v", r.setups, r.ports)
		}
		load(g.conf + "fail: open\n")
		if len(r.setups) != 1 {
			t.Error("Kerberos was made anew, and nothing about it changed")
		}
		load(strings.Replace(r.moon("", ""), "keytab: "+r.dir+"/moon.keytab", "ccache: /tmp/cache", 1))
		if len(r.setups) != 2 || r.setups[1].Identities[0].CCache != "/tmp/cache" || len(r.ports) != 1 {
			t.Errorf("%+v", r.setups)
		}
	})
}
