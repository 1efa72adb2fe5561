package interop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// pfpCase is one child with PFP and three flows, of which pfp_limit lets two have
// their SA.
type pfpCase struct {
	name, pfp string
	// flow sends packets of flow i and wants answers; it takes up to patience.
	flow func(p *pfpPair, i int, patience time.Duration) error
	// local and remote are the selectors of the SA of flow i on the side that asked.
	local, remote func(p *pfpPair, i int) string
}

var pfpCases = []pfpCase{
	{
		name: "a port of a host", pfp: "remote_addr, protocol, remote_port",
		flow: func(p *pfpPair, i int, patience time.Duration) error {
			return p.datagram(netip.AddrPortFrom(p.HostB4, pfpPort(i)), patience)
		},
		local:  func(p *pfpPair, _ int) string { return p.NetA4.String() + "[udp]" },
		remote: func(p *pfpPair, i int) string { return fmt.Sprintf("%v/32[udp/%d]", p.HostB4, pfpPort(i)) },
	},
	{
		name: "a pair of hosts", pfp: "local_addr, remote_addr",
		flow: func(p *pfpPair, i int, patience time.Duration) error {
			_, err := p.HostA.WaitPing(p.far[i], testnet.PingOptions{From: p.HostA4}, patience)
			return err
		},
		local:  func(p *pfpPair, _ int) string { return p.HostA4.String() + "/32" },
		remote: func(p *pfpPair, i int) string { return p.far[i].String() + "/32" },
	},
}

func pfpPort(i int) uint16 { return uint16(7001 + i) }

// pfpPair are two sites; far has four addresses of the host at B.
type pfpPair struct {
	*testnet.Topology
	far  []netip.Addr
	a, b *Iked
}

// RunPFP lets two daemons negotiate for entries that are populated from packets: each
// flow gets its own CHILD_SA with the values of its packet, one over pfp_limit gets
// none and does not leave in clear, and what is idle goes and makes room.
//
// start runs iked in a namespace with a configuration, on the backend under test.
// narrow, if not nil, looks at the backend of side A while two SAs are up.
func RunPFP(t *testing.T, start func(*testing.T, *testnet.Topology, *testnet.Namespace, string) *Iked, narrow func(*testing.T, *testnet.Topology, []ChildSA)) {
	for _, c := range pfpCases {
		t.Run(c.name, func(t *testing.T) { c.run(t, start, narrow) })
	}
}

func (c pfpCase) run(t *testing.T, start func(*testing.T, *testnet.Topology, *testnet.Namespace, string) *Iked, narrow func(*testing.T, *testnet.Topology, []ChildSA)) {
	p := newPFPPair(t)
	yaml := func(local, remote netip.Addr, localTS, remoteTS netip.Prefix, child string) string {
		return fmt.Sprintf(`connections:
  - name: office
    local_addrs: [%v]
    remote_addrs: [%v]
    children: [{name: net, local_ts: [%v], remote_ts: [%v], %s}]
secrets:
  - {psk: "a throw-away secret"}
`, local, remote, localTS, remoteTS, child)
	}
	p.b = start(t, p.Topology, p.GwB, yaml(p.WanB4, p.WanA4, p.NetB4, p.NetA4, "start: passive"))
	p.a = start(t, p.Topology, p.GwA, yaml(p.WanA4, p.WanB4, p.NetA4, p.NetB4,
		"start: on-demand, pfp: ["+c.pfp+"], pfp_limit: 2, inactivity: 12s"))
	wire, err := testnet.Sent(testnet.End{NS: p.GwA, If: "wan0"}, testnet.End{NS: p.GwB, If: "wan0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for i := range 2 {
		if err := c.flow(p, i, 10*time.Second); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
	}
	want := func(flows ...int) []string {
		var s []string
		for _, i := range flows {
			s = append(s, c.local(p, i)+" "+c.remote(p, i))
		}
		slices.Sort(s)
		return s
	}
	children := p.selectors(t, want(0, 1))
	if narrow != nil {
		narrow(t, p.Topology, children)
	}
	if err := c.flow(p, 2, time.Second); err == nil {
		t.Errorf("a third flow passed although pfp_limit is 2")
	}
	p.selectors(t, want(0, 1))
	if _, err := p.a.Until(ctx, "no idle CHILD_SA", func(sas []IKESA) bool {
		return !slices.ContainsFunc(sas, func(s IKESA) bool { return len(s.Children) > 0 })
	}); err != nil {
		t.Error(err)
	}
	if err := c.flow(p, 3, 10*time.Second); err != nil {
		t.Errorf("a flow after the idle SAs went: %v", err)
	}
	p.selectors(t, want(3))
	wire.Stop()
	if clear := wire.ClearText(); len(clear) > 0 || wire.Counts()[testnet.ESP] < 6 {
		t.Errorf("on the wire: %v %v", wire, clear)
	}
}

// selectors waits until exactly the CHILD_SAs with these selectors are installed on
// both sides; it returns those of A.
func (p *pfpPair) selectors(t *testing.T, want []string) []ChildSA {
	t.Helper()
	list := func(d *Iked, reverse bool) (found []string, children []ChildSA) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		sas, err := d.SAs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, sa := range sas {
			for _, c := range sa.Children {
				l, r := strings.Join(c.LocalTS, ","), strings.Join(c.RemoteTS, ",")
				if reverse {
					l, r = r, l
				}
				found = append(found, l+" "+r)
				children = append(children, c)
			}
		}
		slices.Sort(found)
		return found, children
	}
	var a, b []string
	var children []ChildSA
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		a, children = list(p.a, false)
		b, _ = list(p.b, true)
		if slices.Equal(a, want) && slices.Equal(b, want) {
			return children
		}
	}
	t.Fatalf("selectors of the CHILD_SAs:\n A %q\n B %q\nwant\n   %q", a, b, want)
	return nil
}

func newPFPPair(t *testing.T) *pfpPair {
	t.Helper()
	p := &pfpPair{Topology: testnet.ForTest(t, testnet.TopologyOptions{})}
	p.far = []netip.Addr{p.HostB4}
	links, err := p.HostB.Links()
	if err != nil {
		t.Fatal(err)
	}
	dev := slices.DeleteFunc(links, func(l string) bool { return l == "lo" })[0]
	at := p.HostB4
	for range 3 {
		at = at.Next()
		p.far = append(p.far, at)
		if err := p.HostB.AddAddr(dev, netip.PrefixFrom(at, 32).String()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range p.far {
		c, err := p.HostB.ListenPacket("udp", netip.AddrPortFrom(p.HostB4, pfpPort(i)).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteTo(buf[:n], from)
			}
		}()
	}
	return p
}

// datagram sends one every 200 ms until an answer comes.
func (p *pfpPair) datagram(to netip.AddrPort, patience time.Duration) error {
	c, err := p.HostA.Dial("udp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err := c.Write([]byte("populated from packet")); err != nil {
			// An ICMP error that came for the packet before; the next one may pass.
			time.Sleep(200 * time.Millisecond)
			continue
		}
		if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 64))
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			time.Sleep(200 * time.Millisecond)
		}
	}
	return fmt.Errorf("no answer from %v within %v", to, patience)
}
