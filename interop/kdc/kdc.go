// Package kdc runs MIT Kerberos with throw-away realms in network namespaces: for
// tests and for the demonstration. It needs the Debian packages krb5-kdc,
// krb5-admin-server and krb5-user.
package kdc

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"iked/internal/testnet"
)

// Packages are the Debian packages that it needs.
const Packages = "krb5-kdc krb5-admin-server krb5-user"

// Installed says what is missing, or is nil.
func Installed() error {
	for _, p := range []string{"/usr/sbin/krb5kdc", "/usr/sbin/kadmin.local", "/usr/bin/kinit"} {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("MIT Kerberos is missing: install the Debian packages %s (%w)", Packages, err)
		}
	}
	return nil
}

// Require leaves a test out when MIT Kerberos is not installed.
func Require(t testnet.TB) {
	t.Helper()
	if err := Installed(); err != nil {
		testnet.LeaveOut(t, err.Error())
	}
}

// Options are a realm's.
type Options struct {
	Realm string
	// Listen is the address of the KDC in its namespace, port 88 by UDP and TCP.
	Listen netip.Addr
	// ETypes are the encryption types of keys, as kdc.conf has them; "": AES of RFC
	// 3962.
	ETypes string
	// Life bounds the tickets; 0: 10 hours.
	Life time.Duration
	// Realms are lines for the realm's section of kdc.conf, LibDefaults for that section
	// of the KDC's krb5.conf.
	Realms, LibDefaults string
}

// KDC is a realm with its running KDC.
type KDC struct {
	Realm  string
	Listen netip.Addr

	ns      *testnet.Namespace
	dir     string
	env     []string
	process *testnet.Process
}

// Start makes a realm in a folder, which must not be there, and starts its KDC. It
// ends with the network or with Stop.
func Start(ctx context.Context, ns *testnet.Namespace, dir string, o Options) (*KDC, error) {
	if o.ETypes == "" {
		o.ETypes = "aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal"
	}
	if o.Life == 0 {
		o.Life = 10 * time.Hour
	}
	k := &KDC{Realm: o.Realm, Listen: o.Listen, ns: ns, dir: dir}
	k.env = []string{"KRB5_CONFIG=" + k.path("krb5.conf"), "KRB5_KDC_PROFILE=" + k.path("kdc.conf"), "KRB5CCNAME=FILE:" + k.path("none")}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	listen := netip.AddrPortFrom(o.Listen, 88).String()
	for name, text := range map[string]string{
		"krb5.conf": Conf(k) + "[libdefaults]\n" + o.LibDefaults + "\n[logging]\n\tdefault = STDERR\n",
		"kadm5.acl": "",
		"kdc.conf": fmt.Sprintf(`[kdcdefaults]
	kdc_listen = %s
	kdc_tcp_listen = %s
[realms]
	%s = {
		database_name = %s
		key_stash_file = %s
		acl_file = %s
		master_key_type = aes256-cts-hmac-sha1-96
		supported_enctypes = %s
		max_life = %ds
		max_renewable_life = 0s
%s
	}
[logging]
	kdc = STDERR
	admin_server = STDERR
`, listen, listen, o.Realm, k.path("principal"), k.path("stash"), k.path("kadm5.acl"), o.ETypes, int(o.Life.Seconds()), o.Realms),
	} {
		if err := os.WriteFile(k.path(name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if _, err := k.run(ctx, "/usr/sbin/kdb5_util", "-r", o.Realm, "-P", rand.Text(), "create", "-s"); err != nil {
		return nil, err
	}
	return k, k.Restart(ctx)
}

func (k *KDC) path(name string) string { return filepath.Join(k.dir, name) }

func (k *KDC) run(ctx context.Context, args ...string) (string, error) {
	return k.ns.RunCommand(ctx, testnet.Command{Args: args, Env: k.env})
}

// Restart starts the KDC, after it was stopped, and waits until it listens.
func (k *KDC) Restart(ctx context.Context) error {
	p, err := k.ns.Start(testnet.Command{Args: []string{"/usr/sbin/krb5kdc", "-n", "-r", k.Realm}, Name: "krb5kdc-" + k.Realm, Env: k.env})
	if err != nil {
		return err
	}
	k.process = p
	for {
		// It listens by TCP last.
		c, err := k.ns.Dial("tcp", netip.AddrPortFrom(k.Listen, 88).String())
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.Done():
			return fmt.Errorf("the KDC of %s ended: %s", k.Realm, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("the KDC of %s does not listen: %w: %s", k.Realm, ctx.Err(), p.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the KDC; its database stays.
func (k *KDC) Stop() error { return k.process.Stop(5 * time.Second) }

// Log is what the KDC said.
func (k *KDC) Log() string { return k.process.Log() }

// Admin runs a query of kadmin.local.
func (k *KDC) Admin(ctx context.Context, query string) (string, error) {
	return k.run(ctx, "/usr/sbin/kadmin.local", "-r", k.Realm, "-q", query)
}

// AddPrincipal adds principals, named without realm, with random keys. options go
// before the name: -e with types, +requires_preauth.
func (k *KDC) AddPrincipal(ctx context.Context, options string, names ...string) error {
	for _, n := range names {
		out, err := k.Admin(ctx, strings.Join(strings.Fields("addprinc -randkey "+options+" "+n), " "))
		if err == nil && !strings.Contains(out, "created") {
			err = fmt.Errorf("addprinc %s: %s", n, out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Keytab appends the keys of principals, as they are, to a keytab.
func (k *KDC) Keytab(ctx context.Context, path string, names ...string) error {
	for _, n := range names {
		out, err := k.Admin(ctx, fmt.Sprintf("ktadd -norandkey -k %s %s", path, n))
		if err == nil && !strings.Contains(out, "added to keytab") {
			err = fmt.Errorf("ktadd %s: %s", n, out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Rekey gives a principal a new key; the old one is kept for tickets that are out.
func (k *KDC) Rekey(ctx context.Context, name string) error {
	_, err := k.Admin(ctx, "cpw -randkey -keepold "+name)
	return err
}

// Trust lets the clients of this realm have tickets of another one.
func (k *KDC) Trust(ctx context.Context, other *KDC) error {
	secret := rand.Text()
	for _, in := range []*KDC{k, other} {
		out, err := in.Admin(ctx, fmt.Sprintf("addprinc -pw %s -e aes256-cts-hmac-sha1-96:normal krbtgt/%s@%s", secret, other.Realm, k.Realm))
		if err == nil && !strings.Contains(out, "created") {
			err = fmt.Errorf("trust of %s with %s: %s", k.Realm, other.Realm, out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// CCache gets a ticket-granting ticket of a principal with its key into a credential
// cache, as a user does with the password. kinit runs in a namespace that reaches the
// KDC.
func (k *KDC) CCache(ctx context.Context, ns *testnet.Namespace, path, name string) error {
	keytab := path + ".keytab"
	if err := k.Keytab(ctx, keytab, name); err != nil {
		return err
	}
	defer os.Remove(keytab)
	_, err := ns.RunCommand(ctx, testnet.Command{Args: []string{"/usr/bin/kinit", "-k", "-t", keytab, "-c", "FILE:" + path, name + "@" + k.Realm}, Env: k.env})
	return err
}

// Conf is a krb5.conf for realms, of which the first is the default one.
func Conf(realms ...*KDC) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[libdefaults]\n\tdefault_realm = %s\n\tdns_lookup_kdc = false\n\tdns_lookup_realm = false\n\trdns = false\n[realms]\n", realms[0].Realm)
	for _, k := range realms {
		host := k.Listen.String()
		if k.Listen.Is6() {
			host = "[" + host + "]"
		}
		fmt.Fprintf(&b, "\t%s = {\n\t\tkdc = %s\n\t}\n", k.Realm, host)
	}
	return b.String()
}
