package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"iked/internal/testnet"
	"iked/interop"
	"iked/interop/kdc"
)

// kinkPair is two iked with principals in a realm of MIT Kerberos, whose KDC is
// asked once. The session keys are of AES with 256 bits and SHA-1.
func kinkPair(bin interop.Binaries) pairs {
	return func(ctx context.Context, topo *testnet.Topology) (*testnet.Process, *interop.Iked, error) {
		k, err := kdc.Start(ctx, topo.GwB, topo.Path("realm"), kdc.Options{Realm: "EXAMPLE.TEST", Listen: topo.WanB4})
		if err != nil {
			return nil, nil, fmt.Errorf("%w; the Debian packages krb5-kdc and krb5-admin-server are needed", err)
		}
		if err := k.AddPrincipal(ctx, "", "kink/a.example.test", "kink/b.example.test"); err != nil {
			return nil, nil, err
		}
		if err := os.WriteFile(topo.Path("krb5.conf"), []byte(kdc.Conf(k)), 0o644); err != nil {
			return nil, nil, err
		}
		daemon := func(ns *testnet.Namespace, self, peer string, local, remote netip.Addr, localNet, remoteNet netip.Prefix) (*interop.Iked, error) {
			if err := k.Keytab(ctx, topo.Path(self+".keytab"), "kink/"+self+".example.test"); err != nil {
				return nil, err
			}
			d, err := interop.NewIked(bin, topo.Path("iked-"+self))
			if err != nil {
				return nil, err
			}
			if err := d.Configure(fmt.Sprintf(`krb5_conf: %s
connections:
  - name: net
    version: kink
    local_addrs: ["%v"]
    remote_addrs: ["%v"]
    local: {id: kink/%s.example.test@EXAMPLE.TEST, keytab: %s}
    remote: {id: kink/%s.example.test@EXAMPLE.TEST}
    children: [{name: net, esp_proposals: [aes128gcm16], local_ts: ["%v"], remote_ts: ["%v"]}]
`, topo.Path("krb5.conf"), local, remote, self, topo.Path(self+".keytab"), peer, localNet, remoteNet)); err != nil {
				return nil, err
			}
			return d, d.Start(ctx, ns, "--log-level", "info")
		}
		b, err := daemon(topo.GwB, "b", "a", topo.WanB4, topo.WanA4, topo.NetB4, topo.NetA4)
		if err != nil {
			return nil, nil, err
		}
		a, err := daemon(topo.GwA, "a", "b", topo.WanA4, topo.WanB4, topo.NetA4, topo.NetB4)
		return b.Process, a, err
	}
}
