package datapath

import (
	"bytes"
	"testing"

	"iked/datapath/ip"
	"iked/datapath/tun"
	"iked/internal/transport/batch"
	"iked/sad"
)

// RFC 7296, Section 2.23: a peer may send ESP in UDP although no NAT was found,
// and without although one was: the SPI alone names the SA.
func TestEncapsulationIsThePeersChoice(t *testing.T) {
	for _, encap := range []*sad.Encap{nil, {SrcPort: 4500, DstPort: 4500}} {
		a, b := pair(t, Options{}, 1500)
		tunnel(t, a, b, out4A, out4B, net4A, net4B, func(s *sad.SA) { s.Encap = encap })
		sent, other := a.raw, b.udp
		if encap != nil {
			sent, other = a.udp, b.raw
		}
		// The packet gets lost on its way and comes in the other form.
		var body []byte
		b.raw.change = func(p *batch.Packet) { clear(p.Data) }
		b.udp.change = func(p *batch.Packet) { clear(p.Data) }
		want := packet(host(net4A, 1), host(net4B, 1), 5)
		a.dev.Inject(0, tun.Header{}, want)
		p := waitSent(t, sent, 1)[0]
		body = bytes.Clone(p.Data)
		if encap == nil {
			body = body[int(body[0]&15)*4:]
		} else {
			h := ip.Outer{Src: out4A, Dst: out4B, Proto: ip.ProtoESP, TTL: 64}
			b := make([]byte, h.Len()+len(body))
			h.Put(b, len(body))
			copy(b[h.Len():], body)
			body = b
		}
		p.Local, p.Remote, p.Data = p.Remote, p.Local, body
		other.in <- []batch.Packet{p}
		if got := receive(t, b); !bytes.HasSuffix(got, want) {
			t.Errorf("encapsulation %v: received %x, expected %x", encap, got, want)
		}
	}
}
