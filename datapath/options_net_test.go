package datapath_test

import (
	"bytes"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/datapath"
	"iked/internal/testnet"
)

// IPv4 options that a socket asks for reach the socket at the other end in every
// mode between hosts: in the outer header of transport mode, and in the pseudo header
// of BEET mode. Transport mode in UDP sends them as well; the socket that receives
// them there does not tell, and the datagram arrives without.
func TestOptionsBetweenHosts(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	alert := "\x94\x04\x00\x00" // router alert (RFC 2113)
	for i, w := range hostWays(&testnet.Topology{}) {
		if w.name == "BEET, 4 in 4" || w.name == "BEET, 4 in 6" || w.name == "transport, IPv4" || w.name == "transport, IPv4, UDP" {
			t.Run(w.name, func(t *testing.T) {
				topo := testnet.ForTest(t, testnet.TopologyOptions{})
				w := hostWays(topo)[i]
				a, b := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
				protect(t, a, b, w, nil)
				s, err := topo.GwB.ListenPacket("udp4", netip.AddrPortFrom(w.inB, 7000).String())
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				server := s.(*net.UDPConn)
				control(t, server, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVOPTS, 1) })
				c, err := topo.GwA.Dial("udp4", netip.AddrPortFrom(w.inB, 7000).String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				control(t, c.(*net.UDPConn), func(fd int) error {
					return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, alert)
				})
				wire, err := topo.GwB.Capture(topo.Wire.If)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range []int{5, 1000, 3000} {
					if _, err := c.Write(bytes.Repeat([]byte{7}, n)); err != nil {
						t.Fatal(err)
					}
					got, oob := make([]byte, 4096), make([]byte, 256)
					server.SetReadDeadline(time.Now().Add(5 * time.Second))
					m, o, _, _, err := server.ReadMsgUDP(got, oob)
					if err != nil || m != n || bytes.Contains(oob[:o], []byte(alert)) == w.encap {
						t.Errorf("%d octets: %d arrived, options %x, %v\na %v\nb %v", n, m, oob[:o], err, counters(a), counters(b))
					}
				}
				wire.Stop()
				if clear := wire.ClearText(); len(clear) != 0 {
					t.Errorf("clear text on the wire: %v", clear)
				}
			})
		}
	}
}

func control(t *testing.T, c syscall.Conn, set func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = set(int(fd)) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}
