package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"iked/internal/testnet"
	"iked/interop/kdc"
)

// realm is a throw-away realm of MIT Kerberos whose KDC both systems of a scene reach
// beside the wire between them.
type realm struct {
	kdc    *kdc.KDC
	conf   string // krb5.conf
	keytab [2]string
}

const realmName = "DEMO.TEST"

// principals of the two systems, without realm.
var principals = [2]string{"kink/a.demo.test", "kink/b.demo.test"}

// newRealm makes the realm and connects its KDC with both systems.
func (s *scene) newRealm(ctx context.Context) (*realm, error) {
	for _, file := range []string{"/usr/sbin/krb5kdc", "/usr/sbin/kadmin.local"} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("%w\nKINK is shown with MIT Kerberos: apt-get install %s", err, kdc.Packages)
		}
	}
	ns, err := s.net.Namespace("kdc")
	if err != nil {
		return nil, err
	}
	listen := netip.MustParseAddr("10.88.0.1")
	errs := []error{ns.SetLink("lo", true), ns.AddAddr("lo", listen.String()+"/32")}
	for i, x := range []side{s.a, s.b} {
		there := fmt.Sprintf("10.88.%d.1", i+1)
		errs = append(errs, s.net.Connect(testnet.End{NS: ns, If: fmt.Sprintf("to-%d", i)}, testnet.End{NS: x.ns, If: "kdc0"}, 0),
			ns.AddAddr(fmt.Sprintf("to-%d", i), there+"/24"), x.ns.AddAddr("kdc0", fmt.Sprintf("10.88.%d.2/24", i+1)),
			x.ns.AddRoute(listen.String()+"/32", there))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r := &realm{conf: s.net.Path("krb5.conf")}
	if r.kdc, err = kdc.Start(ctx, ns, s.net.Path("realm"), kdc.Options{Realm: realmName, Listen: listen}); err != nil {
		return nil, err
	}
	if err := os.WriteFile(r.conf, []byte(kdc.Conf(r.kdc)), 0o644); err != nil {
		return nil, err
	}
	if err := r.kdc.AddPrincipal(ctx, "", principals[:]...); err != nil {
		return nil, err
	}
	for i, name := range principals {
		r.keytab[i] = s.net.Path(fmt.Sprintf("keytab-%d", i))
		if err := r.kdc.Keytab(ctx, r.keytab[i], name); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// top and connection are what the configuration of a side says of Kerberos.
func (r *realm) top() string { return fmt.Sprintf("krb5_conf: %s\n", r.conf) }

func (r *realm) connection(i int) string {
	return fmt.Sprintf("    version: kink\n    local: {id: %s@%s, keytab: %s}\n    remote: {id: %s@%s}\n", principals[i], realmName, r.keytab[i], principals[1-i], realmName)
}
