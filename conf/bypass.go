package conf

import (
	"fmt"
	"strings"
)

// Bypass is a set of protocols by which a host lives on its link, and that pass
// policies which would cover them.
type Bypass uint8

// Protocols of Bypass.
const (
	BypassND   Bypass = 1 << iota // neighbour discovery and its multicast groups, ICMPv6 types 130 to 137 and 143
	BypassIKE                     // UDP ports port, port_nat_t and port_kink
	BypassDHCP                    // the client's side of DHCP and DHCPv6
)

var bypassNames = []string{"nd", "ike", "dhcp"}

// Each calls f with every protocol of the set and its name.
func (b Bypass) Each(f func(one Bypass, name string)) {
	for i, n := range bypassNames {
		if one := Bypass(1 << i); b&one != 0 {
			f(one, n)
		}
	}
}

func bypassField() field[Global] {
	return field[Global]{key: "bypass", typ: "list of nd, ike, dhcp", def: "nd, ike, dhcp", list: true,
		doc: "What this host needs to live on its link passes in clear, also where a policy covers it: neighbour discovery with its multicast groups (ICMPv6 types 130 to 137 and 143), IKE and KINK, and DHCP from the client's to the server's port. Only packets of this host itself are meant, nothing that it forwards. [] or none: no exceptions.",
		set: func(l *loader, g *Global, it *Item) error {
			g.Bypass = 0
			if len(it.List) == 1 && it.List[0] == "none" {
				return nil
			}
			return each(func(_ *loader, g *Global, s string) error {
				for i, n := range bypassNames {
					if strings.EqualFold(s, n) {
						g.Bypass |= 1 << i
						return nil
					}
				}
				return fmt.Errorf("expected nd, ike or dhcp, found %s", quote(s))
			})(l, g, it)
		}}
}
