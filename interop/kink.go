package interop

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"iked/internal/testnet"
	"iked/interop/kdc"
)

// Realms of KINK's sites: that of A, and that of B when there are two.
const (
	KINKRealm    = "EXAMPLE.TEST"
	KINKFarRealm = "FAR.TEST"
)

// KINKOptions shape the sites of StartKINK.
type KINKOptions struct {
	V6, Transport bool
	ETypes        string   // of keys, as kdc.conf has them
	Sessions      string   // encryption types that the daemons ask for
	Child         []string // lines of the child
	Down          bool     // the KDC is not there at first
	TwoRealms     bool     // B is in a realm of its own, whose clients A's trusts
	UserToUser    bool     // B has tickets and no keytab
	Roams         bool     // A may be at any address
	Backend       string   // of both; "": userspace
}

// KINK is two gateways with principals in realms of MIT Kerberos, whose KDCs are on
// the router between them. A initiates.
type KINK struct {
	*testnet.Topology
	KDC, Far *kdc.KDC // Far is KDC with one realm
	A, B     *Iked
	options  KINKOptions
}

// StartKINK starts KDCs and daemons in a topology with a router.
func StartKINK(ctx context.Context, bin Binaries, topo *testnet.Topology, o KINKOptions) (*KINK, error) {
	k := &KINK{Topology: topo, options: o}
	var err error
	if k.KDC, err = kdc.Start(ctx, topo.Middle, topo.Path("realm"), kdc.Options{Realm: KINKRealm, Listen: netip.MustParseAddr("192.0.2.254"), ETypes: o.ETypes}); err != nil {
		return nil, err
	}
	k.Far = k.KDC
	if o.TwoRealms {
		if k.Far, err = kdc.Start(ctx, topo.Middle, topo.Path("far-realm"), kdc.Options{Realm: KINKFarRealm, Listen: netip.MustParseAddr("198.51.100.254"), ETypes: o.ETypes}); err != nil {
			return nil, err
		}
		if err := k.KDC.Trust(ctx, k.Far); err != nil {
			return nil, err
		}
	}
	flags := ""
	if o.UserToUser {
		flags = "-allow_svr"
	}
	if err := k.KDC.AddPrincipal(ctx, "", "kink/a.example.test"); err != nil {
		return nil, err
	}
	if err := k.Far.AddPrincipal(ctx, flags, "kink/b.example.test"); err != nil {
		return nil, err
	}
	realms := []*kdc.KDC{k.KDC}
	if o.TwoRealms {
		realms = append(realms, k.Far)
	}
	if err := os.WriteFile(topo.Path("krb5.conf"), []byte(kdc.Conf(realms...)), 0o644); err != nil {
		return nil, err
	}
	if err := k.KDC.Keytab(ctx, topo.Path("a.keytab"), "kink/a.example.test"); err != nil {
		return nil, err
	}
	if o.UserToUser {
		err = k.Far.CCache(ctx, topo.GwB, topo.Path("b.ccache"), "kink/b.example.test")
	} else {
		err = k.Far.Keytab(ctx, topo.Path("b.keytab"), "kink/b.example.test")
	}
	if err == nil && o.Down {
		err = k.KDC.Stop()
	}
	if err != nil {
		return nil, err
	}
	// B first: it waits.
	if k.B, err = k.daemon(ctx, bin, "b", topo.GwB); err == nil {
		k.A, err = k.daemon(ctx, bin, "a", topo.GwA)
	}
	return k, err
}

// Principals are those of A and B.
func (k *KINK) Principals() (a, b string) {
	return "kink/a.example.test@" + k.KDC.Realm, "kink/b.example.test@" + k.Far.Realm
}

func (k *KINK) daemon(ctx context.Context, bin Binaries, self string, ns *testnet.Namespace) (*Iked, error) {
	d, err := NewIked(bin, k.Path("iked-"+self))
	if err != nil {
		return nil, err
	}
	if err := d.Configure(k.yaml(self)); err != nil {
		return nil, err
	}
	return d, k.Start(ctx, d, ns)
}

// Start starts a daemon of the two, again as well.
func (k *KINK) Start(ctx context.Context, d *Iked, ns *testnet.Namespace) error {
	if k.options.Backend != "" {
		return d.Start(ctx, ns, "--backend", k.options.Backend)
	}
	return d.Start(ctx, ns)
}

// yaml is the configuration of a side. B takes all of A's realm.
func (k *KINK) yaml(self string) string {
	o := k.options
	local, remote := k.WanA4, k.WanB4
	if o.V6 {
		local, remote = k.WanA6, k.WanB6
	}
	own, peer := k.Principals()
	locals, remotes := fmt.Sprintf("    local_addrs: [%q]\n", local), fmt.Sprintf("    remote_addrs: [%q]\n", remote)
	netL, netR := fmt.Sprintf("%q, %q", k.NetA4, k.NetA6), fmt.Sprintf("%q, %q", k.NetB4, k.NetB6)
	keys, start := "keytab: "+k.Path(self+".keytab"), "start: always"
	if self == "b" {
		locals, remotes = fmt.Sprintf("    local_addrs: [%q]\n", remote), fmt.Sprintf("    remote_addrs: [%q]\n", local)
		netL, netR = netR, netL
		own, peer, start = peer, "'kink/*.example.test@"+k.KDC.Realm+"'", "start: passive"
		if o.UserToUser {
			keys = "ccache: " + k.Path("b.ccache")
		}
	}
	if o.Transport {
		netL, netR = "dynamic", "dynamic"
	}
	switch {
	case o.Roams && self == "b":
		remotes = "    remote_addrs: ['%any']\n"
	case o.Roams:
		locals = ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "krb5_conf: %s\n", k.Path("krb5.conf"))
	if o.Sessions != "" {
		fmt.Fprintf(&b, "krb5_etypes: [%s]\n", o.Sessions)
	}
	fmt.Fprintf(&b, "connections:\n  - name: office\n    version: kink\n%s%s    keyingtries: 0\n", locals, remotes)
	fmt.Fprintf(&b, "    local: {id: %s, %s}\n    remote: {id: %s}\n", own, keys, peer)
	if o.UserToUser {
		b.WriteString("    kink_user_to_user: yes\n")
	}
	fmt.Fprintf(&b, "    children:\n      - name: net\n        local_ts: [%s]\n        remote_ts: [%s]\n        %s\n", netL, netR, start)
	for _, l := range o.Child {
		fmt.Fprintf(&b, "        %s\n", l)
	}
	return b.String()
}

// Traffic is where packets go from and to: hosts behind the gateways, or in transport
// mode the gateways.
func (k *KINK) Traffic() (from *testnet.Namespace, to []netip.Addr) {
	switch {
	case !k.options.Transport:
		return k.HostA, []netip.Addr{k.HostB4, k.HostB6}
	case k.options.V6:
		return k.GwA, []netip.Addr{k.WanB6}
	}
	return k.GwA, []netip.Addr{k.WanB4}
}

// Stray are the packets on a wire in clear that are no questions to a KDC.
func (k *KINK) Stray(wire *testnet.SentCapture) (out []testnet.Packet) {
	for _, p := range wire.ClearText() {
		ours := false
		for _, d := range []*kdc.KDC{k.KDC, k.Far} {
			ours = ours || p.Src == d.Listen || p.Dst == d.Listen
		}
		if !ours {
			out = append(out, p)
		}
	}
	return out
}
