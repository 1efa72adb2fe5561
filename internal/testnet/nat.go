package testnet

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Masquerade makes the namespace translate IPv4 and IPv6 sources to its address
// on outIf, with UDP and TCP source ports from portBase on, so that a test sees
// that they changed. Calling it again with another portBase, and ForgetFlows,
// moves every mapping, as a NAT that lost its state does. Needs nft (package
// nftables).
func (ns *Namespace) Masquerade(outIf string, portBase int) error {
	return ns.nft(fmt.Sprintf(`
table inet testnat
delete table inet testnat
table inet testnat {
	chain post {
		type nat hook postrouting priority srcnat; policy accept;
		oifname %q meta l4proto { tcp, udp } masquerade to :%d-%d
		oifname %q masquerade
	}
}
`, outIf, portBase, portBase+999, outIf))
}

// Block drops what the namespace would forward, or receive from and send to other
// hosts, of an IP protocol ("udp", "esp", "tcp"); "all" is everything.
func (ns *Namespace) Block(proto string) error {
	match := "meta l4proto " + proto
	if proto == "all" {
		match = "iifname != \"lo\""
	}
	return ns.nft(fmt.Sprintf(`
table inet testblock
delete table inet testblock
table inet testblock {
	chain forward { type filter hook forward priority filter; policy accept; %[1]s drop; }
	chain input { type filter hook input priority filter; policy accept; %[1]s drop; }
	chain output { type filter hook output priority filter; policy accept; %[2]s drop; }
}
`, match, strings.ReplaceAll(match, "iifname", "oifname")))
}

// Unblock ends Block.
func (ns *Namespace) Unblock() error {
	return ns.nft("table inet testblock\ndelete table inet testblock\n")
}

// ForgetFlows empties the connection tracking table.
func (ns *Namespace) ForgetFlows() error {
	if err := ns.handle.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("testnet: %s: flush connection tracking: %w", ns.Name, err)
	}
	return nil
}

func (ns *Namespace) nft(script string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := ns.RunCommand(ctx, Command{Args: []string{"nft", "-f", "-"}, Stdin: strings.NewReader(script)})
	return err
}
