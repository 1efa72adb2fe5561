package interop

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// homeOnWire is the home address of gateway A, which is away from home: its prefix is
// that of B's side, so that the host itself would prefer it for packets to B.
const homeOnWire = "2001:db8:b:5::5"

// homeYAML is a side of Mobile IPv6: Binding Updates and Acknowledgements, and
// datagrams of one port, between the home address and the home agent.
func homeYAML(role, id, peer, local, remote string, conn, child []string) string {
	return fmt.Sprintf(`connections:
  - name: home
    mobility_role: %s
    %s
    local: {id: %s, auth: psk}
    remote: {id: '%s', auth: psk}
    children:
      - {name: bu, mode: transport, local_ts: ['%s'], remote_ts: ['%s'], %s}
      - {name: mpd, mode: transport, local_ts: ['%s'], remote_ts: ['%s'], %s}
      - {name: data, mode: transport, local_ts: ['%s'], remote_ts: ['%s'], %s}
secrets:
  - {psk: "a throw-away secret"}
`, role, strings.Join(conn, "\n    "), id, peer, local+"[135/"+map[bool]string{true: "5", false: "6"}[role == "mobile"]+"]", remote+"[135/"+map[bool]string{true: "6", false: "5"}[role == "mobile"]+"]",
		strings.Join(child, ", "), local+"[58/"+map[bool]string{true: "146", false: "147"}[role == "mobile"]+"]", remote+"[58/"+map[bool]string{true: "147", false: "146"}[role == "mobile"]+"]",
		strings.Join(child, ", "), local+"[udp/7777]", remote+"[udp/7777]", strings.Join(child, ", "))
}

// RunHome is a mobile node away from home and its home agent (RFC 4877, Sections 3 and
// 5; RFC 3776). Binding Updates and Acknowledgements, solicitations and advertisements of
// prefixes, and datagrams go between home address and home agent as ESP; IKE is between
// the care-of address and the home agent, although the host would begin at the home
// address. Nothing of it is in clear. A node that proves another identity gets none of
// it. start starts a daemon.
//
//	gw-a home address 2001:db8:b:5::5
//	     care-of address 2001:db8:a::1 --- router --- gw-b home agent 2001:db8:b::2
func RunHome(t *testing.T, start func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *Iked) {
	for _, version := range []string{"2", "1"} {
		t.Run("IKEv"+version, func(t *testing.T) {
			mobile, agent := []string{"version: " + version}, []string{"version: " + version}
			if version == "1" {
				mobile, agent = append(mobile, "aggressive: yes"), append(agent, "aggressive: yes", "aggressive_psk: yes")
			}
			topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router})
			setHome(t, topo)
			home, ha := netip.MustParseAddr(homeOnWire), topo.WanB6
			node := func(id string) string {
				return homeYAML("mobile", id, "ha.example.org", homeOnWire, ha.String(), append(mobile, "remote_addrs: ['"+ha.String()+"']"), []string{"start: on-demand"})
			}
			a := start(t, topo, topo.GwA, node("mn.example.org"))
			b := start(t, topo, topo.GwB, homeYAML("agent", "ha.example.org", "*.example.org", ha.String(), homeOnWire, agent, []string{"start: passive"})+
				"home_addresses: [{id: mn.example.org, addrs: ['"+homeOnWire+"']}]\n")
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			wire, err := topo.Wire.NS.Capture(topo.Wire.If)
			if err != nil {
				t.Fatal(err)
			}
			exchangeMH(t, ctx, topo, home, ha)
			exchange(t, ctx, topo.GwA, home, topo.GwB, ha, "ip6:58", solicitation)
			exchange(t, ctx, topo.GwB, ha, topo.GwA, home, "ip6:58", advertisement)
			exchangeUDP(t, ctx, topo, home, ha)
			ike, child, err := a.UntilInstalled(ctx, "bu")
			if err != nil {
				t.Fatal(err)
			}
			if ike.LocalHost != topo.WanA6.String() || ike.RemoteHost != ha.String() {
				t.Errorf("IKE is between %s and %s, expected the care-of address %v and %v", ike.LocalHost, ike.RemoteHost, topo.WanA6, ha)
			}
			if _, err := b.Call(ctx, "rekey", map[string]any{"child": "bu"}); err != nil {
				t.Fatal(err)
			}
			for now := child; now.SPIIn == child.SPIIn; time.Sleep(50 * time.Millisecond) {
				if _, now, err = a.UntilInstalled(ctx, "bu"); err != nil {
					t.Fatal(err)
				}
			}
			exchangeMH(t, ctx, topo, home, ha)
			wire.Stop()
			esp := 0
			for _, p := range wire.Packets() {
				switch {
				case p.Class == testnet.IKE && (p.Src == home || p.Dst == home):
					t.Errorf("a message of IKE at the home address: %v", p)
				case p.Class == testnet.ESP:
					esp++
					if !(p.Src == home && p.Dst == ha || p.Src == ha && p.Dst == home) {
						t.Errorf("ESP between other addresses: %v", p)
					}
				case p.Proto == 135 || p.Proto == 58 && len(p.Payload) > 0 && (p.Payload[0] == 146 || p.Payload[0] == 147) || p.Proto == 17 && p.Class != testnet.IKE && (p.SrcPort == 7777 || p.DstPort == 7777):
					t.Errorf("in clear: %v", p)
				}
			}
			if esp < 6 {
				t.Errorf("%d packets of ESP: %v", esp, wire)
			}
			// Another node that wants the same home address.
			if err := a.Stop(); err != nil {
				t.Error(err)
			}
			a = start(t, topo, topo.GwA, node("thief.example.org"))
			if err := a.Initiate(ctx, "bu"); err == nil {
				t.Error("a node that proves another identity gets an SA for the home address")
			}
			out, err := b.Ikectl(ctx, "explain")
			if err != nil || !strings.Contains(out, "thief.example.org may not have "+homeOnWire) || !strings.Contains(out, "home_addresses") {
				t.Errorf("the home agent does not say why: %v\n%s", err, out)
			}
		})
	}
}

// RunAssignedHome is a mobile node that gets its home address, and word of the home
// link, from the home agent (RFC 5026): its datagrams go between that address and the
// home agent as ESP, in transport mode.
func RunAssignedHome(t *testing.T, start func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *Iked) {
	const yaml = `connections:
  - name: home
    mobility_role: %s
    %s
    local: {id: %s, auth: psk}
    remote: {id: %s, auth: psk}
    children: [{name: data, mode: transport, local_ts: ['%s[udp/7777]'], remote_ts: ['%s[udp/7777]'], start: %s}]
secrets: [{psk: "a throw-away secret"}]
`
	topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router})
	home, ha := netip.MustParseAddr(homeOnWire), topo.WanB6
	if err := topo.Middle.AddRoute(homeOnWire+"/128", topo.WanA6.String()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	start(t, topo, topo.GwB, fmt.Sprintf(yaml, "agent", "pools: [homes]", "ha.example.org", "mn.example.org", ha, "dynamic", "passive")+
		"pools: [{name: homes, addrs: '"+homeOnWire+"-"+homeOnWire+"', home_prefix: ['2001:db8:b:5::/64'], home_agent: ['"+ha.String()+"']}]\n")
	a := start(t, topo, topo.GwA, fmt.Sprintf(yaml, "mobile", "vips: ['::']\n    remote_addrs: ['"+ha.String()+"']", "mn.example.org", "ha.example.org", "dynamic", ha, "always"))
	ike, child, err := a.UntilInstalled(ctx, "data")
	if err != nil {
		t.Fatal(err)
	}
	if ike.LocalHost != topo.WanA6.String() || child.Mode != "TRANSPORT" || len(child.LocalTS) != 1 || child.LocalTS[0] != homeOnWire+"/128[udp/7777]" {
		t.Errorf("IKE is at %s, the child has mode %s for %v", ike.LocalHost, child.Mode, child.LocalTS)
	}
	if out, err := a.Ikectl(ctx, "sas"); err != nil || !strings.Contains(out, "home link [2001:db8:b:5::/64], home agent ["+ha.String()+"]") {
		t.Errorf("ikectl sas does not show the home link: %v\n%s", err, out)
	}
	wire, err := topo.Wire.NS.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	exchangeUDP(t, ctx, topo, home, ha)
	wire.Stop()
	esp := 0
	for _, p := range wire.Packets() {
		switch {
		case p.Class == testnet.ESP && (p.Src == home && p.Dst == ha || p.Src == ha && p.Dst == home):
			esp++
		case p.Class == testnet.ESP || p.Proto == 17 && p.Class != testnet.IKE && (p.SrcPort == 7777 || p.DstPort == 7777):
			t.Errorf("on the wire: %v", p)
		}
	}
	if esp < 2 {
		t.Errorf("%d packets of ESP: %v", esp, wire)
	}
}

// RunHomeWithStrongSwan is RunHome for datagrams with strongSwan's mode transport_proxy at
// one end, which needs kernels with IPsec: as home agent, and as mobile node.
func RunHomeWithStrongSwan(t *testing.T, start func(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string) *Iked) {
	const swanctl = `connections { home {
  version = 2
  mobike = no
  local_addrs = %v
  remote_addrs = %v
  proposals = aes128gcm16-prfsha256-x25519
  local { auth = psk
    id = %s }
  remote { auth = psk
    id = %s }
  children { data { mode = transport_proxy
    local_ts = %v[udp/7777]
    remote_ts = %v[udp/7777]
    esp_proposals = aes128gcm16 } }
} }
secrets { ike-home { secret = "a throw-away secret" } }
`
	for _, as := range []string{"home agent", "mobile node"} {
		t.Run("strongSwan is the "+as, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router})
			setHome(t, topo)
			home, ha := netip.MustParseAddr(homeOnWire), topo.WanB6
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			ns, text := topo.GwB, fmt.Sprintf(swanctl, ha, "%any", "ha.example.org", "mn.example.org", ha, home)
			if as == "mobile node" {
				ns, text = topo.GwA, fmt.Sprintf(swanctl, topo.WanA6, ha, "mn.example.org", "ha.example.org", home, ha)
			}
			c, err := StartCharon(ctx, ns, topo.Path("charon"), CharonOptions{Kernel: true})
			if err == nil {
				err = c.LoadFile(ctx, text)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("log of charon:\n%s", c.Process.Log())
				}
			})
			conn := []string{"version: 2", "mobike: no", "proposals: [aes128gcm16-prfsha256-x25519]"}
			begins := &c.Control
			if as == "home agent" {
				begins = &start(t, topo, topo.GwA, homeYAML("mobile", "mn.example.org", "ha.example.org", homeOnWire, ha.String(), append(conn, "remote_addrs: ['"+ha.String()+"']"), []string{"start: passive"})).Control
			} else {
				start(t, topo, topo.GwB, homeYAML("agent", "ha.example.org", "mn.example.org", ha.String(), homeOnWire, conn, []string{"start: passive"})+
					"home_addresses: [{id: mn.example.org, addrs: ['"+homeOnWire+"']}]\n")
			}
			if err := begins.Initiate(ctx, "data"); err != nil {
				t.Fatal(err)
			}
			ike, child, err := begins.UntilInstalled(ctx, "data")
			if err != nil {
				t.Fatal(err)
			}
			if ike.LocalHost != topo.WanA6.String() || !strings.HasPrefix(child.Mode, "TRANSPORT") {
				t.Errorf("IKE of the mobile node is at %s, expected %v; the mode is %s", ike.LocalHost, topo.WanA6, child.Mode)
			}
			wire, err := topo.Wire.NS.Capture(topo.Wire.If)
			if err != nil {
				t.Fatal(err)
			}
			exchangeUDP(t, ctx, topo, home, ha)
			if _, err := begins.Call(ctx, "rekey", map[string]any{"child": "data"}); err != nil {
				t.Fatal(err)
			}
			for now := child; now.SPIIn == child.SPIIn; time.Sleep(50 * time.Millisecond) {
				if _, now, err = begins.UntilInstalled(ctx, "data"); err != nil {
					t.Fatal(err)
				}
			}
			exchangeUDP(t, ctx, topo, home, ha)
			wire.Stop()
			esp := 0
			for _, p := range wire.Packets() {
				switch between := p.Src == home && p.Dst == ha || p.Src == ha && p.Dst == home; {
				case p.Class == testnet.ESP && between:
					esp++
				case p.Class == testnet.ESP || p.Class == testnet.IKE && between || p.Proto == 17 && p.Class != testnet.IKE && (p.SrcPort == 7777 || p.DstPort == 7777):
					t.Errorf("on the wire: %v", p)
				}
			}
			if esp < 4 {
				t.Errorf("%d packets of ESP: %v", esp, wire)
			}
		})
	}
}

// setHome gives gateway A a home address that is routed to its care-of address.
func setHome(t *testing.T, x *testnet.Topology) {
	t.Helper()
	for _, err := range []error{
		x.GwA.AddAddr("wan0", homeOnWire+"/128"),
		x.Middle.AddRoute(homeOnWire+"/128", x.WanA6.String()),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// mobilityHeader is a Binding Update (type 5) or Acknowledgement (type 6) of 16 octets
// (RFC 6275, Sections 6.1.7 and 6.1.8); the kernel fills in the checksum.
func mobilityHeader(kind byte) []byte {
	return []byte{59, 1, kind, 0, 0, 0, 0, 1, 0xc0, 0, 0, 60, 1, 2, 0, 0}
}

// Mobile Prefix Solicitation and Advertisement, without options (RFC 6275, Sections 6.7
// and 6.8); the kernel fills in the checksum.
var (
	solicitation  = []byte{146, 0, 0, 0, 0, 1, 0, 0}
	advertisement = []byte{147, 0, 0, 0, 0, 1, 0, 0}
)

// exchangeMH sends Binding Updates from the home address until one is there, and
// Acknowledgements back.
func exchangeMH(t *testing.T, ctx context.Context, topo *testnet.Topology, home, ha netip.Addr) {
	t.Helper()
	exchange(t, ctx, topo.GwA, home, topo.GwB, ha, "ip6:135", mobilityHeader(5))
	exchange(t, ctx, topo.GwB, ha, topo.GwA, home, "ip6:135", mobilityHeader(6))
}

// exchange sends a message of a protocol from one address until it is at the other.
func exchange(t *testing.T, ctx context.Context, from *testnet.Namespace, src netip.Addr, to *testnet.Namespace, dst netip.Addr, network string, message []byte) {
	t.Helper()
	listen, err := to.ListenPacket(network, dst.String())
	if err != nil {
		t.Fatal(err)
	}
	defer listen.Close()
	send, err := from.ListenPacket(network, src.String())
	if err != nil {
		t.Fatal(err)
	}
	defer send.Close()
	buf := make([]byte, 128)
	var last error
	for ctx.Err() == nil {
		// The kernel refuses what waits for an SA.
		_, last = send.WriteTo(message, &net.IPAddr{IP: dst.AsSlice()})
		for deadline := time.Now().Add(300 * time.Millisecond); ; {
			listen.SetReadDeadline(deadline)
			n, who, err := listen.ReadFrom(buf)
			if err != nil {
				break
			}
			sum := 2 // where the checksum is
			if network == "ip6:135" {
				sum = 4
			}
			if n == len(message) && bytes.Equal(buf[:sum], message[:sum]) && bytes.Equal(buf[sum+2:n], message[sum+2:]) && who.String() == src.String() {
				return
			}
		}
	}
	t.Fatalf("no message %x came from %v to %v; sending the last one: %v", message, src, dst, last)
}

// exchangeUDP sends datagrams from the home address until one is there, and answers.
func exchangeUDP(t *testing.T, ctx context.Context, topo *testnet.Topology, home, ha netip.Addr) {
	t.Helper()
	at := func(ns *testnet.Namespace, a netip.Addr) net.PacketConn {
		c, err := ns.ListenPacket("udp6", netip.AddrPortFrom(a, 7777).String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	mn, agent := at(topo.GwA, home), at(topo.GwB, ha)
	defer mn.Close()
	defer agent.Close()
	buf := make([]byte, 2000)
	for _, x := range []struct {
		from, to net.PacketConn
		dst      netip.Addr
	}{{mn, agent, ha}, {agent, mn, home}} {
		data := bytes.Repeat([]byte("home"), 250)
		for {
			_, last := x.from.WriteTo(data, net.UDPAddrFromAddrPort(netip.AddrPortFrom(x.dst, 7777)))
			if ctx.Err() != nil {
				t.Fatalf("no datagram came to %v; sending the last one: %v", x.dst, last)
			}
			x.to.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if n, _, err := x.to.ReadFrom(buf); err == nil && bytes.Equal(buf[:n], data) {
				break
			}
		}
	}
}
