package spd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// RFC 4301, Section 4.4.1.2: the RFC's own example. The entry has the remote
// addresses 192.0.2.1 to 192.0.2.10, the packet goes to 192.0.2.3.
func TestPFPExampleOfTheRFC(t *testing.T) {
	p := Policy{ID: 1, Action: Protect, Local: list("0.0.0.0/0"), Remote: list("192.0.2.1-192.0.2.10")}
	f := flowOf(t, "10.0.0.1 192.0.2.3 tcp/1:2")
	_, remote, err := Populate(&p, &f)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "source for the value to be in the SA: SPD entry", remote, "192.0.2.1..192.0.2.10")
	p.PFP = PFPRemoteAddr
	if _, remote, err = Populate(&p, &f); err != nil {
		t.Fatal(err)
	}
	expect(t, "source for the value to be in the SA: packet", remote, "192.0.2.3/32")
	other := flowOf(t, "10.0.0.1 192.0.2.4 tcp/1:2")
	if other.Match(p.Local, remote) || p.PFP.Key(&other) == p.PFP.Key(&f) {
		t.Error("a packet to 192.0.2.4 would use the SA for 192.0.2.3")
	}
}

// RFC 4301, Section 4.4.2.2: every row of the table, for each kind of selector.
func TestPFPTable(t *testing.T) {
	const any4 = "0.0.0.0/0"
	for _, c := range []struct {
		name, local, remote string
		pfp                 PFP
		packet              string
		wantL, wantR, err   string
	}{
		{"local address: list, 0", "10.0.0.1-10.0.0.9", any4, 0, "10.0.0.5 10.9.0.1 tcp/1:2", "10.0.0.1..10.0.0.9", any4, ""},
		{"local address: list, 1", "10.0.0.1-10.0.0.9", any4, PFPLocalAddr, "10.0.0.5 10.9.0.1 tcp/1:2", "10.0.0.5/32", any4, ""},
		{"local address: ANY, 1", any4, any4, PFPLocalAddr, "10.0.0.5 10.9.0.1 tcp/1:2", "10.0.0.5/32", any4, ""},
		{"remote address: ANY, 0", any4, any4, 0, "10.0.0.5 10.9.0.1 tcp/1:2", any4, any4, ""},
		{"remote address: ANY, 1", any4, any4, PFPRemoteAddr, "10.0.0.5 10.9.0.1 tcp/1:2", any4, "10.9.0.1/32", ""},
		{"protocol: value, 0", any4 + "[tcp]", any4 + "[tcp]", 0, "10.0.0.5 10.9.0.1 tcp/1:2", any4 + "[tcp]", any4 + "[tcp]", ""},
		{"protocol: value, 1", any4 + "[tcp]", any4 + "[tcp]", PFPProtocol, "10.0.0.5 10.9.0.1 tcp/1:2", any4 + "[tcp]", any4 + "[tcp]", ""},
		{"protocol: ANY, 0", any4, any4, 0, "10.0.0.5 10.9.0.1 gre/-", any4, any4, ""},
		{"protocol: ANY, 1", any4, any4, PFPProtocol, "10.0.0.5 10.9.0.1 gre/-", any4 + "[gre]", any4 + "[gre]", ""},
		{"protocol: ANY, 1, a fragment has it", any4, any4, PFPProtocol, "10.0.0.5 10.9.0.1 udp/-", any4 + "[udp]", any4 + "[udp]", ""},
		{"local port: list, 0", any4 + "[tcp/1-9]", any4, 0, "10.0.0.5 10.9.0.1 tcp/2:3", any4 + "[tcp/1-9]", any4, ""},
		{"local port: list, 0, not available", any4 + "[tcp/1-9]", any4, 0, "10.0.0.5 10.9.0.1 tcp/-", "", "", "not of this entry"},
		{"local port: list, 1", any4 + "[tcp/1-9]", any4, PFPLocalPort, "10.0.0.5 10.9.0.1 tcp/2:3", any4 + "[tcp/2]", any4 + "[tcp]", ""},
		{"local port: list, 1, not available", any4 + "[tcp/1-9]", any4, PFPLocalPort, "10.0.0.5 10.9.0.1 tcp/-", "", "", "not of this entry"},
		{"local port: ANY, 0, not available", any4 + "[tcp]", any4, 0, "10.0.0.5 10.9.0.1 tcp/-", any4 + "[tcp]", any4, ""},
		{"local port: ANY, 1, not available", any4 + "[tcp]", any4, PFPLocalPort, "10.0.0.5 10.9.0.1 tcp/-", "", "", "does not have a value"},
		{"local port: OPAQUE, 0", any4 + "[tcp/opaque]", any4, 0, "10.0.0.5 10.9.0.1 tcp/-", any4 + "[tcp/OPAQUE]", any4, ""},
		{"local port: OPAQUE, 0, a value", any4 + "[tcp/opaque]", any4, 0, "10.0.0.5 10.9.0.1 tcp/2:3", "", "", "not of this entry"},
		{"local port: OPAQUE, 1", any4 + "[tcp/opaque]", any4, PFPLocalPort, "10.0.0.5 10.9.0.1 tcp/-", "", "", "OPAQUE"},
		{"remote port: ANY, 1", any4 + "[udp]", any4 + "[udp]", PFPRemotePort, "10.0.0.5 10.9.0.1 udp/2:53", any4 + "[udp]", any4 + "[udp/domain]", ""},
		{"remote port: OPAQUE, 1", any4, any4 + "[udp/opaque]", PFPRemotePort, "10.0.0.5 10.9.0.1 udp/-", "", "", "OPAQUE"},
		{"ports of a protocol without: there is no selector", any4, any4, PFPLocalPort | PFPRemotePort | PFPProtocol, "10.0.0.5 10.9.0.1 gre/-", any4 + "[gre]", any4 + "[gre]", ""},
		{"ICMP: list, 1", any4 + "[icmp/3]", any4 + "[icmp]", PFPLocalPort, "10.0.0.5 10.9.0.1 icmp/3(1)", any4 + "[icmp/3(1)]", any4 + "[icmp]", ""},
		{"a port of any protocol: the protocol is the packet's, too", any4, any4, PFPRemotePort, "10.0.0.5 10.9.0.1 tcp/2:80", any4 + "[tcp]", any4 + "[tcp/http]", ""},
		{"ICMP: ANY, 1, not available", any4 + "[icmp]", any4, PFPLocalPort, "10.0.0.5 10.9.0.1 icmp/-", "", "", "does not have a value"},
		{"mobility header: the type is the local selector's", "::/0[mobility-header]", "::/0[mobility-header]", PFPLocalPort | PFPRemotePort,
			"2001:db8::1 2001:db8::2 mobility-header/5(0)", "::/0[mobility-header/5]", "::/0[mobility-header]", ""},
		{"all five", any4, any4, PFPLocalAddr | PFPRemoteAddr | PFPProtocol | PFPLocalPort | PFPRemotePort,
			"10.0.0.5 10.9.0.1 tcp/1000:80", "10.0.0.5/32[tcp/1000]", "10.9.0.1/32[tcp/http]", ""},
	} {
		p := Policy{ID: 1, Name: "site/net", Local: list(c.local), Remote: list(c.remote), PFP: c.pfp}
		f := flowOf(t, c.packet)
		l, r, err := Populate(&p, &f)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) || l != nil || r != nil {
				t.Errorf("%s: %v === %v, %v; expected an error about %q", c.name, l, r, err, c.err)
			}
			if got := errors.Is(err, ErrUnavailable); got != (c.err == "does not have a value") {
				t.Errorf("%s: discard %v", c.name, got)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		default:
			expect(t, c.name+", local", l, c.wantL)
			expect(t, c.name+", remote", r, c.wantR)
		}
	}
}

// For any entry, flags and packet: the SA has its packet and nothing that the
// entry does not have; two packets of one key are in each other's SA, and the
// selectors with a flag are single values.
func TestPopulateProperties(t *testing.T) {
	populated := 0
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{ID: 1, PFP: PFP(rapid.Uint8Range(0, 31).Draw(t, "pfp"))}
		for i := range rapid.IntRange(1, 2).Draw(t, "locals") {
			p.Local = append(p.Local, genTS(t, fmt.Sprint("l", i)))
		}
		for i := range rapid.IntRange(1, 2).Draw(t, "remotes") {
			p.Remote = append(p.Remote, genTS(t, fmt.Sprint("r", i)))
		}
		if rapid.Bool().Draw(t, "wide") {
			p.Local, p.Remote = list("0.0.0.0/0", "::/0"), list("0.0.0.0/0", "::/0")
		}
		f, g := genFlow(t), genFlow(t)
		l, r, err := Populate(&p, &f)
		if err != nil {
			return
		}
		populated++
		if !f.Match(l, r) {
			t.Fatalf("packet %+v is not in its own SA %v === %v", f, l, r)
		}
		if g.Match(l, r) && !g.Match(p.Local, p.Remote) {
			t.Fatalf("packet %+v is in the SA %v === %v, but not in the entry", g, l, r)
		}
		if !Subset(l, p.Local) || !Subset(r, p.Remote) {
			t.Fatalf("SA %v === %v is wider than the entry", l, r)
		}
		if p.PFP&PFPRemoteAddr != 0 && slices.ContainsFunc(r, func(ts TS) bool { return ts.From != f.Remote || ts.To != f.Remote }) {
			t.Fatalf("remote %v, expected the packet's address only", r)
		}
		// A packet that differs only where no flag is.
		h := f
		if p.PFP&PFPLocalAddr == 0 && g.Local.Is4() == f.Local.Is4() {
			h.Local = g.Local
		}
		if p.PFP.Key(&h) != p.PFP.Key(&f) {
			t.Fatalf("keys of %+v and %+v differ", f, h)
		}
	})
	if populated == 0 {
		t.Error("no entry was populated")
	}
}
