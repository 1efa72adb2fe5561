package esp

import (
	"bytes"
	"testing"

	"iked/crypto/aead"
	"iked/datapath/ip"
)

type scratchOf = aead.Scratch

// No packet allocates, sealed or opened, with any algorithm.
func TestAllocs(t *testing.T) {
	for _, a := range algorithms {
		sa := newSA(t, a.encr, a.keyBits, a.in)
		sa.ESN = true
		o, in := pair(t, sa)
		w := new(Scratch)
		packet := udp4(1400, 0, true)
		buf := make([]byte, 2048)
		var info ip.Info
		var s Sealed
		var out Opened
		n := testing.AllocsPerRun(200, func() {
			copy(buf[Headroom:], packet)
			if ip.Parse(buf[Headroom:], &info) != ip.OK || o.Seal(w, buf, Headroom, &info, &s) != Pass {
				t.Fatal("seal")
			}
			o.Encapsulate(buf, &s)
			if d := in.Open(w, esp(buf, s), 0, &out); d != Pass {
				t.Fatal(d)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations per packet, expected none", a.name, n)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, a := range algorithms {
		b.Run(a.name, func(b *testing.B) {
			o, _ := pair(b, newSA(b, a.encr, a.keyBits, a.in))
			w, buf := new(Scratch), make([]byte, 2048)
			copy(buf[Headroom:], udp4(1400, 0, true))
			info := *parse(b, buf[Headroom:])
			var s Sealed
			b.SetBytes(1400)
			b.ReportAllocs()
			for b.Loop() {
				if d := o.Seal(w, buf, Headroom, &info, &s); d != Pass {
					b.Fatal(d)
				}
				o.Encapsulate(buf, &s)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, a := range algorithms {
		b.Run(a.name, func(b *testing.B) {
			o, in := pair(b, newSA(b, a.encr, a.keyBits, a.in))
			buf, s := sealed(b, o, udp4(1400, 0, true))
			packet := bytes.Clone(esp(buf, s))
			w, work := new(Scratch), make([]byte, len(packet))
			var out Opened
			b.SetBytes(1400)
			b.ReportAllocs()
			for b.Loop() {
				copy(work, packet)
				in.replay.Init(0, false) // the same packet again and again
				if d := in.Open(w, work, 0, &out); d != Pass {
					b.Fatal(d)
				}
			}
		})
	}
}
