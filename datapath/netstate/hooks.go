package netstate

import (
	"bytes"
	"errors"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Way is the way of packets whose ends are this host and another.
type Way int

// The ways.
const (
	Out Way = iota
	In
)

// Untouched tells that no firewall and no transformation of the kernel sees
// packets on their way between the interface and a raw socket. own is a netfilter
// table that does not count. What cannot be found out counts as a firewall.
func (w *Watch) Untouched(way Way, own string) bool {
	if w.nft != nil {
		chains, err := w.nft.ListChains()
		switch {
		case errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP):
		case err != nil:
			return false
		}
		for _, c := range chains {
			if on(c, way) && (own == "" || c.Table.Name != own) {
				return false
			}
		}
	}
	// The tables of the older packet filter.
	for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil && !errors.Is(err, os.ErrNotExist) || len(bytes.TrimSpace(b)) > 0 {
			return false
		}
	}
	policies, err := w.NL.XfrmPolicyList(unix.AF_UNSPEC)
	if err != nil {
		return errors.Is(err, unix.EPROTONOSUPPORT)
	}
	dir := []netlink.Dir{Out: netlink.XFRM_DIR_OUT, In: netlink.XFRM_DIR_IN}[way]
	return !slices.ContainsFunc(policies, func(p netlink.XfrmPolicy) bool { return p.Dir == dir })
}

// on tells whether a chain sees packets of a way.
func on(c *nftables.Chain, way Way) bool {
	if c.Hooknum == nil || c.Table == nil {
		return false
	}
	hook := *c.Hooknum
	switch c.Table.Family {
	case nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6:
		if way == Out {
			return hook == *nftables.ChainHookOutput || hook == *nftables.ChainHookPostrouting
		}
		// Hook 5 is the entrance of an interface for tables of both families.
		return hook == *nftables.ChainHookPrerouting || hook == *nftables.ChainHookInput || hook == ingressINet
	case nftables.TableFamilyNetdev:
		// On the way out a packet socket is before it; on the way in, what goes past
		// the stack leaves before it.
		return way == In && hook == *nftables.ChainHookIngress
	}
	return false // bridges: they see what goes past the stack, too
}

// ingressINet is NF_INET_INGRESS.
const ingressINet nftables.ChainHook = 5
