package datapath

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"iked/datapath/ip"
	"iked/datapath/tun"
	"iked/sad"
	"iked/spd"
)

// text is a packet that shrinks, of which each is different.
func text(p []byte, i int) []byte {
	head := ip.IPv4HeaderLen
	if p[0]>>4 == 6 {
		head = ip.IPv6HeaderLen
	}
	for n := head + 8; n < len(p); n++ {
		p[n] = byte(n/40) ^ byte(i)
	}
	return p
}

// RFC 3173: compressed packets cross between two datapaths in tunnel and transport mode
// and with AH around them, many in one batch, and between them those that do not
// shrink; on the wire they are short.
func TestCompressionCrosses(t *testing.T) {
	for _, c := range []struct {
		layers []layer
		nets   bool
	}{
		{[]layer{espTunnel}, true}, {[]layer{espTransport}, false}, {[]layer{espTunnel, ahTransport}, true},
		{[]layer{espTransport, ahTransport}, false}, {[]layer{espTunnel, espTunnel, ahTransport}, true},
	} {
		layers := slices.Clone(c.layers)
		layers[0].comp = true
		compressionCrosses(t, layers, c.nets)
	}
}

func compressionCrosses(t *testing.T, layers []layer, nets bool) {
	for _, v6 := range []bool{false, true} {
		outA, outB, netA, netB := out4A, out4B, net4A, net4B
		if v6 {
			outA, outB, netA, netB = out6A, out6B, net6A, net6B
		}
		if !nets {
			netA, netB = single(outA), single(outB)
		}
		a, b := pair(t, Options{}, 1500)
		pa, pb := nest(t, a, b, outA, outB, netA, netB, layers)
		apply(t, a, pa)
		apply(t, b, pb)
		src, dst := netA.Addr(), netB.Addr()
		if nets {
			src, dst = src.Next(), dst.Next()
		}
		r := rand.New(rand.NewPCG(1, 2))
		var want [][]byte
		for i := range 200 {
			p := text(packet(src, dst, 60+5*i), i)
			if !v6 {
				p[5] = byte(i + 1) // an identification, which AH keeps
				p[10], p[11] = 0, 0
				binary.BigEndian.PutUint16(p[10:], ip.Checksum(p[:20], 0))
			}
			if i%10 == 9 {
				for n := 48; n < len(p); n++ {
					p[n] = byte(r.Uint32())
				}
			}
			want = append(want, p)
			a.dev.Inject(0, tun.Header{}, bytes.Clone(p))
		}
		got := map[string]int{}
		for range want {
			got[string(receive(t, b))]++
		}
		for i, p := range want {
			if got[string(p)] != 1 {
				t.Fatalf("%v, IPv6 %t: packet %d of %d octets arrived %d times; %v", layers, v6, i, len(p), got[string(p)], nonZero(b.Counters()))
			}
		}
		sent, clear := 0, 0
		for _, p := range a.raw.seen {
			sent += len(p.Data)
		}
		for _, p := range want {
			clear += len(p)
		}
		if sent > clear*2/3 {
			t.Errorf("%v, IPv6 %t: %d octets were sent for %d", layers, v6, sent, clear)
		}
	}
}

// What an SA had is free when it is gone, and what it has is not given out again.
func TestCPIs(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	nest(t, a, b, out4A, out4B, net4A, net4B, []layer{{proto: ip.ProtoESP, mode: spd.Tunnel, comp: true}})
	in := sad.ID{}
	for id := range a.sas {
		if id.Dir == sad.In {
			in = id
		}
	}
	if err := a.DeleteSA(in); err != nil {
		t.Fatal(err)
	}
	if a.cpis.Has(0x1001) || !b.cpis.Has(0x2001) {
		t.Error("the numbers in use are not those of the SAs")
	}
	if err := a.spaceCPI.Use(0x1001); err != nil {
		t.Error(err)
	}
}
