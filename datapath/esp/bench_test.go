package esp

import (
	"bytes"
	"testing"

	"iked/crypto/aead"
	"iked/datapath/ip"
	"iked/spd"
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

func BenchmarkSealAH(b *testing.B) {
	for _, a := range authAlgorithms {
		b.Run(a.name, func(b *testing.B) {
			o, _ := pair(b, authSA(b, a.id, spd.Tunnel, "192.0.2.1", "192.0.2.2"))
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
			}
		})
	}
}

func BenchmarkOpenAH(b *testing.B) {
	for _, a := range authAlgorithms {
		b.Run(a.name, func(b *testing.B) {
			o, in := pair(b, authSA(b, a.id, spd.Tunnel, "192.0.2.1", "192.0.2.2"))
			buf, s := sealed(b, o, udp4(1400, 0, true))
			packet := whole(o, buf, s)
			w := new(Scratch)
			var info ip.Info
			var out Opened
			b.SetBytes(1400)
			b.ReportAllocs()
			for b.Loop() {
				in.replay.Init(0, false) // the same packet again and again
				if ip.Parse(packet, &info) != ip.OK {
					b.Fatal("outer header")
				}
				if d := in.OpenAH(w, packet, &info, &out); d != Pass {
					b.Fatal(d)
				}
			}
		})
	}
}

// The modes between hosts, with AES-GCM; the packet has 1300 octets.
func BenchmarkSealHosts(b *testing.B) {
	for _, c := range hostCases() {
		b.Run(c.name, func(b *testing.B) {
			o, _ := hostPair(b, gcmSA(b), &c, 1500)
			w, buf := new(Scratch), make([]byte, 2048)
			info := *parse(b, c.packet)
			var s Sealed
			b.SetBytes(int64(len(c.packet)))
			b.ReportAllocs()
			for b.Loop() {
				copy(buf[Headroom:], c.packet) // its header moves
				if d := o.Seal(w, buf, Headroom, &info, &s); d != Pass {
					b.Fatal(d)
				}
				o.Encapsulate(buf, &s)
			}
		})
	}
}

func BenchmarkOpenHosts(b *testing.B) {
	for _, c := range hostCases() {
		b.Run(c.name, func(b *testing.B) {
			o, in := hostPair(b, gcmSA(b), &c, 1500)
			buf, s := sealed(b, o, c.packet)
			start, inside := o.Encapsulate(buf, &s)
			at, outer := arrived(b, buf, &s, start, inside)
			packet := bytes.Clone(buf[:s.Off+s.Len])
			w, work := new(Scratch), make([]byte, len(packet))
			var out Opened
			b.SetBytes(int64(len(c.packet)))
			b.ReportAllocs()
			for b.Loop() {
				copy(work, packet)
				in.replay.Init(0, false) // the same packet again and again
				if d := in.OpenAt(w, work, at, &outer, &out); d != Pass {
					b.Fatal(d)
				}
			}
		})
	}
}
