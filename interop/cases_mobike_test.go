package interop

import (
	"strings"
	"time"

	"iked/internal/testnet"
)

// The second network of gateway A, behind the same router.
const (
	secondA4, secondRouter4 = "203.0.113.1", "203.0.113.254"
	secondA6, secondRouter6 = "2001:db8:c::1", "2001:db8:c::fe"
	secondB4                = "198.51.100.3"
)

// mobikeCases have A, which began, or B in another place while packets pass (RFC
// 4555). kernel-libipsec cannot move an SA and rekeys it instead.
var mobikeCases = []testCase{
	mobile(testCase{name: "A changes network", then: func(p *pair, _ state) {
		p.moves(p.leaveFirst, secondA4, "")
		p.moves(p.leaveSecond, p.WanA4.String(), "")
	}}),
	mobile(testCase{name: "A changes network and the IKE SA is rekeyed", then: func(p *pair, first state) {
		p.moves(func() {
			if _, err := p.a.Call(p.ctx, "rekey", map[string]any{"ike": "net"}); err != nil {
				p.Error(err)
			}
			// strongSwan does not move while it waits for the answer to its own rekeying, and
			// after that of a peer speaks of the new IKE SA alone, also while its answer is lost.
			if p.ikedAt == "B" {
				p.rekeyed(first, true)
			}
			p.a.Unanswered = true
			p.leaveFirst()
		}, secondA4, "")
	}}),
	mobile(testCase{name: "A changes network, with a virtual address", edit: virtualIP("0.0.0.0", "10.3.0.0/28"), ping: fromVirtualIP(hostB4), then: func(p *pair, _ state) {
		p.leaveFirst()
		p.at(secondA4, "")
	}}),
	mobile(testCase{name: "a NAT comes and goes", setup: natForSecond, then: func(p *pair, _ state) {
		p.moves(p.leaveFirst, secondA4, "")
		p.seen("198.51.100.254")
		p.moves(p.leaveSecond, p.WanA4.String(), "")
		p.seen(p.WanA4.String())
	}}),
	mobile(testCase{name: "A loses IPv4 and goes on with IPv6", then: func(p *pair, _ state) {
		p.moves(func() { p.must(p.GwA.DelAddr("wan0", "192.0.2.1/24")) }, p.WanA6.String(), p.WanB6.String())
	}}),
	mobile(testCase{name: "B loses the address that is in use", then: func(p *pair, _ state) {
		p.must(p.GwA.DelAddr("wan0", "2001:db8:a::1/64"))
		p.moves(func() {
			p.must(p.GwB.DelAddr("wan0", "198.51.100.2/24"))
		}, p.WanA4.String(), secondB4)
	}}),
}

// mobile lets both sides be anywhere, and gives A a second network and B a second
// address.
func mobile(c testCase) testCase {
	c.group, c.between = "MOBIKE", testnet.Router
	// strongSwan offers its inside addresses as well, and the router leads to them.
	c.charon += "interfaces_use = wan0, wan1\n"
	more := c.edit
	c.edit = func(s side, conn, child *Section, conf *Config) {
		conn.Set("mobike", "yes")
		conn.Set("local_addrs", []string{"%any"})
		if s.name == "b" {
			conn.Set("remote_addrs", []string{"%any"})
		}
		if more != nil {
			more(s, conn, child, conf)
		}
	}
	then := c.setup
	c.setup = func(p *pair) {
		p.moving = true
		p.must(p.Connect(testnet.End{NS: p.GwA, If: "wan1"}, testnet.End{NS: p.Middle, If: "a1"}, 0))
		p.must(p.Middle.AddAddr("a1", secondRouter4+"/24", secondRouter6+"/64"))
		p.must(p.GwB.Sysctl("net.ipv4.conf.wan0.promote_secondaries", "1"))
		p.must(p.GwB.AddAddr("wan0", secondB4+"/24"))
		if then != nil {
			then(p)
		}
	}
	return c
}

func (p *pair) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// natForSecond puts a NAT before A's second network, into which nothing comes that was
// not asked for from there.
func natForSecond(p *pair) {
	p.Helper()
	_, err := p.Middle.RunCommand(p.ctx, testnet.Command{Args: []string{"nft", "-f", "-"}, Stdin: strings.NewReader(`
table inet second {
	chain post { type nat hook postrouting priority srcnat; policy accept; oifname "b0" ip saddr 203.0.113.0/24 meta l4proto udp masquerade to :20000-20999; }
	chain forward { type filter hook forward priority filter; policy accept; iifname "b0" oifname "a1" ct state new drop; }
}
`)})
	p.must(err)
}

// seen waits until B has A at an address.
func (p *pair) seen(a string) {
	p.Helper()
	for {
		s := p.agree("net")
		if s.ikeB.RemoteHost == a && s.childB.Encap == "yes" { // kernel-libipsec knows nothing else
			return
		}
		if sleep(p.ctx, 50*time.Millisecond) != nil {
			p.Fatalf("B sees A at %s, encap %q, expected %s", s.ikeB.RemoteHost, s.childB.Encap, a)
		}
	}
}

// leaveFirst takes A from its first network to the second.
func (p *pair) leaveFirst() {
	p.Helper()
	p.must(p.GwA.DelAddr("wan0", "192.0.2.1/24", "2001:db8:a::1/64"))
	p.must(p.GwA.AddAddr("wan1", secondA4+"/24", secondA6+"/64"))
	p.must(p.GwA.AddRoute("default", secondRouter4))
}

// leaveSecond takes it back.
func (p *pair) leaveSecond() {
	p.Helper()
	p.must(p.GwA.DelAddr("wan1", secondA4+"/24", secondA6+"/64"))
	p.must(p.GwA.AddAddr("wan0", "192.0.2.1/24"))
	p.must(p.GwA.AddRoute("default", "192.0.2.254"))
}

// at waits until A has the IKE SA at an address, B at another (empty: as before), and
// both agree.
func (p *pair) at(a, b string) state {
	p.Helper()
	for {
		s := p.agree("net")
		if s.ikeA.LocalHost == a && (b == "" || s.ikeA.RemoteHost == b && s.ikeB.LocalHost == b) {
			return s
		}
		if sleep(p.ctx, 50*time.Millisecond) != nil {
			p.Fatalf("A is at %s with %s, expected %s with %s", s.ikeA.LocalHost, s.ikeA.RemoteHost, a, b)
		}
	}
}

// moves does something while packets pass, after which A is at an address, and wants
// packets to pass again, on the same IKE SA unless it was rekeyed.
func (p *pair) moves(what func(), a, b string) {
	p.Helper()
	before := p.agree("net")
	began := time.Now()
	var back time.Duration
	r := p.duringTraffic(func() {
		what()
		p.at(a, b)
		if _, err := p.HostA.WaitPing(p.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
			p.Fatal(err)
		}
		back = time.Since(began)
	})
	p.Logf("the way was back after %v: %v", back.Round(time.Millisecond), r)
	if back > 10*time.Second {
		p.Errorf("the way was back after %v", back)
	}
	after := p.agree("net")
	if after.ikeA.InitiatorSPI != before.ikeA.InitiatorSPI && !strings.Contains(p.Name(), "rekeyed") {
		p.Error("the IKE SA is another one")
	}
}
