// Package vm tests the sockets of IKE on a kernel that carries ESP.
package vm

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/transport"
	"iked/internal/uml"
)

func TestMain(m *testing.M) { uml.Main(m, uml.Options{}) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ESP in UDP goes through the port of NAT traversal into the kernel and out of it,
// over both families, while policies cover everything between the two hosts, their
// outer addresses included; IKE passes beside it on both ports (RFC 3948).
func TestESPInUDPBesideIKE(t *testing.T) {
	uml.Require(t)
	for name, outer := range map[string][2]netip.Addr{
		"IPv4": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
		"IPv6": {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := testnet.Open()
			must(t, err)
			defer func() { must(t, n.Close()) }()
			var ns [2]*testnet.Namespace
			for i := range ns {
				ns[i], err = n.Namespace([]string{"a", "b"}[i])
				must(t, err)
			}
			must(t, n.Connect(testnet.End{NS: ns[0], If: "eth0"}, testnet.End{NS: ns[1], If: "eth0"}, 0))
			ip := func(i int, line string) {
				t.Helper()
				if out, err := ns[i].Run(context.Background(), append([]string{"ip"}, strings.Fields(line)...)...); err != nil {
					t.Fatalf("ip %s: %v\n%s", line, err, out)
				}
			}
			var tr [2]*transport.Transport
			got := [2]chan string{make(chan string, 16), make(chan string, 16)}
			for i := range ns {
				address := fmt.Sprintf("%v/24 dev eth0", outer[i])
				if outer[i].Is6() {
					address = fmt.Sprintf("%v/64 dev eth0 nodad", outer[i])
				}
				ip(i, "addr add "+address)
				ip(i, fmt.Sprintf("addr add 10.0.0.%d/32 dev lo", i+1))
				ip(i, fmt.Sprintf("route add 10.0.0.%d/32 dev eth0 src 10.0.0.%d", 2-i, i+1))
				me, peer := outer[i], outer[1-i]
				for _, way := range [][3]any{{me, peer, i}, {peer, me, 1 - i}} {
					ip(i, fmt.Sprintf("xfrm state add src %v dst %v proto esp spi 0x100%d reqid 1 mode tunnel flag af-unspec encap espinudp 4500 4500 0.0.0.0 aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128", way[0], way[1], way[2]))
				}
				for _, sel := range []string{"0.0.0.0/0", "::/0"} {
					ip(i, fmt.Sprintf("xfrm policy add src %s dst %s dir out priority 10 tmpl src %v dst %v proto esp reqid 1 mode tunnel", sel, sel, me, peer))
					ip(i, fmt.Sprintf("xfrm policy add src %s dst %s dir in priority 10 tmpl src %v dst %v proto esp reqid 1 mode tunnel", sel, sel, peer, me))
				}
				// Neighbours must be found.
				for _, dir := range []string{"in", "out"} {
					ip(i, "xfrm policy add src ::/0 dst ::/0 proto ipv6-icmp dir "+dir+" priority 1 action allow")
				}
				must(t, ns[i].Do(func() (err error) {
					tr[i], err = transport.New(transport.Options{KernelESP: true, OnDatagram: func(d transport.Datagram) { got[i] <- fmt.Sprintf("%s %v", d.Data, d.NATT) }})
					return err
				}))
				defer tr[i].Close()
				tr[i].Start()
			}
			wire, err := testnet.Sent(testnet.End{NS: ns[0], If: "eth0"}, testnet.End{NS: ns[1], If: "eth0"})
			must(t, err)
			r, err := ns[0].WaitPing(netip.MustParseAddr("10.0.0.2"), testnet.PingOptions{}, 20*time.Second)
			must(t, err)
			if r, err = ns[0].Ping(netip.MustParseAddr("10.0.0.2"), testnet.PingOptions{Count: 5, Size: 1000}); err != nil || r.Lost() > 0 {
				t.Errorf("%v %v", r, err)
			}
			for _, natt := range []bool{false, true} {
				p := uint16(500)
				if natt {
					p = 4500
				}
				for i := range ns {
					must(t, tr[i].Send(netip.AddrPortFrom(outer[i], 0), netip.AddrPortFrom(outer[1-i], p), []byte("IKE"), natt, 0))
					select {
					case s := <-got[1-i]:
						if s != fmt.Sprintf("IKE %v", natt) {
							t.Errorf("got %q", s)
						}
					case <-time.After(5 * time.Second):
						t.Errorf("IKE to port %d did not arrive", p)
					}
				}
			}
			must(t, tr[0].Keepalive(netip.AddrPortFrom(outer[0], 0), netip.AddrPortFrom(outer[1], 4500)))
			wire.Stop()
			if c := wire.Counts(); len(wire.ClearText()) > 0 || c[testnet.ESPinUDP] < 10 || c[testnet.IKE] != 4 {
				t.Errorf("on the wire: %v", wire)
			}
			for i := range tr {
				if c := tr[i].Counters(); c["udp_esp_in"]+c["udp_esp_unclaimed"] != 0 {
					t.Errorf("ESP came to the socket: %v", c)
				}
			}
		})
	}
}
