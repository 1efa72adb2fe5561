package esp

import (
	"bytes"
	"testing"

	"iked/crypto/aead"
)

type scratchOf = aead.Scratch

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
