package datapath

import (
	"net/netip"
	"testing"

	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/transport/batch"
	"iked/sad"
)

// A peer that sends each packet from another port is told of once in a while, not
// with every packet.
func TestMappingsAreBounded(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, func(s *sad.SA) { s.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500} })
	port := uint16(10000)
	b.udp.change = func(p *batch.Packet) {
		port++
		p.Remote = netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), port)
	}
	const packets = 40
	for range packets {
		a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 5))
		receive(t, b)
	}
	n := 0
	for {
		select {
		case e := <-b.Events():
			if _, ok := e.(backend.Mapping); ok {
				n++
			}
			continue
		default:
		}
		break
	}
	if n == 0 || n > packets/4 {
		t.Errorf("%d events of %d packets", n, packets)
	}
}
