package backendtest

import (
	"slices"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/testnet"
	"iked/spd"
)

// cbc is a cipher whose padding takes room.
var cbc = ESPAlgorithms[1]

// sizes are one cell of each mode and protocol, and some whose padding counts.
var sizes = append(slices.Clone(kinds),
	Cell{Proto: suite.ProtoESP, Mode: spd.Tunnel, Inner: 4, Outer: 6, Algorithm: cbc},
	Cell{Proto: suite.ProtoESP, Mode: spd.BEET, Inner: 4, Outer: 6, Algorithm: cbc},
	Cell{Proto: suite.ProtoESP, Mode: spd.BEET, Inner: 6, Outer: 6, Algorithm: gcm},
	Cell{Proto: suite.ProtoESP, Mode: spd.Transport, Inner: 4, Outer: 4, Algorithm: cbc})

// innerMTU: RFC 4301, Section 8.2.1: what is shown as the MTU of an SA is the
// largest packet that crosses as one packet.
func innerMTU(t *testing.T, p *pair, c Cell) {
	s := p.setup(t, c)
	p.up(t, s)
	u, err := s.a.b.QuerySA(s.a.out.ID)
	must(t, err)
	header := 20 + 8 // with ICMP's
	if c.Inner == 6 {
		header = 40 + 8
	}
	whole := func(size int) bool {
		t.Helper()
		wire := p.capture(t)
		r, err := s.a.Node.NS.Ping(s.b.Node.Addr, testnet.PingOptions{From: s.a.Node.Addr, Size: size - header, DF: true, Timeout: 300 * time.Millisecond})
		wire.Stop()
		frames := protectedFrames(wire, s.a.out.SPI)
		return err == nil && r.Received == 1 && len(frames) == 1 && !frames[0].Fragment
	}
	for try := 0; !whole(u.MTU); try++ { // a machine under load may take longer
		if try == 10 {
			t.Fatalf("a packet of the inner MTU, %d octets, does not cross whole", u.MTU)
		}
	}
	if whole(u.MTU + 1) {
		t.Errorf("the inner MTU is %d, and a packet that is an octet longer crosses whole", u.MTU)
	}
}
