//go:build !race

package esp

import (
	"testing"

	"iked/datapath/ip"
	"iked/sad"
	"iked/spd"
)

// Under the race detector sync.Pool forgets at random what it was given, so
// that allocations are counted in builds without it only.

// No packet of AH allocates, in either mode, with any algorithm.
func TestAHAllocs(t *testing.T) {
	for _, a := range authAlgorithms {
		for _, mode := range []spd.Mode{spd.Tunnel, spd.Transport} {
			sa := authSA(t, a.id, mode, "10.1.0.1", "10.2.0.1")
			sa.ESN = true
			o, in := pair(t, sa)
			w := new(Scratch)
			packet := udp4(1400, 0, true)
			buf := make([]byte, 2048)
			var info, outer ip.Info
			var s Sealed
			var out Opened
			n := testing.AllocsPerRun(200, func() {
				copy(buf[Headroom:], packet)
				if ip.Parse(buf[Headroom:], &info) != ip.OK || o.Seal(w, buf, Headroom, &info, &s) != Pass {
					t.Fatal("seal")
				}
				start, _ := o.Encapsulate(buf, &s)
				if ip.Parse(buf[start:], &outer) != ip.OK {
					t.Fatal("outer header")
				}
				if d := in.OpenAH(w, buf[start:], &outer, &out); d != Pass {
					t.Fatal(d)
				}
			})
			if n != 0 {
				t.Errorf("%s, mode %d: %v allocations per packet, expected none", a.name, mode, n)
			}
		}
	}
}

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

// No packet between hosts allocates, in any mode, over IP and over UDP.
func TestHostModesAllocs(t *testing.T) {
	for _, c := range hostCases() {
		for _, encap := range []bool{false, true} {
			sa := gcmSA(t)
			if encap {
				sa.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500}
			}
			o, in := hostPair(t, sa, &c, 1500)
			in.sa.NATRemote = in.sa.Dst
			w := new(Scratch)
			buf := make([]byte, 2048)
			var info ip.Info
			var s Sealed
			var out Opened
			outer := Outer{Src: o.sa.Src, Dst: o.sa.Dst}
			n := testing.AllocsPerRun(200, func() {
				copy(buf[Headroom:], c.packet)
				if ip.Parse(buf[Headroom:], &info) != ip.OK || o.Seal(w, buf, Headroom, &info, &s) != Pass {
					t.Fatal("seal")
				}
				o.Encapsulate(buf, &s)
				if d := in.OpenAt(w, buf[:s.Off+s.Len], s.Off, &outer, &out); d != Pass {
					t.Fatal(d)
				}
			})
			if n != 0 {
				t.Errorf("%s: %v allocations per packet, expected none", c.name, n)
			}
		}
	}
}

// No packet allocates that is compressed or restored, nor one that does not shrink.
func TestCompressionAllocs(t *testing.T) {
	for _, noise := range []bool{false, true} {
		sa := gcmSA(t)
		sa.CPI = testCPI
		o, in := pair(t, sa)
		w := scratch(newRoom())
		packet := udp4(1400, 0, true)
		if noise {
			noisy(packet, 28)
		}
		buf := make([]byte, 2048)
		var info ip.Info
		var s Sealed
		var out Opened
		n := testing.AllocsPerRun(200, func() {
			copy(buf[Headroom:], packet)
			o.gain.skip.Store(0)
			if ip.Parse(buf[Headroom:], &info) != ip.OK || o.Seal(w, buf, Headroom, &info, &s) != Pass {
				t.Fatal("seal")
			}
			if d := in.Open(w, esp(buf, s), 0, &out); d != Pass {
				t.Fatal(d)
			}
		})
		if n != 0 {
			t.Errorf("noise %t: %v allocations per packet, expected none", noise, n)
		}
	}
}
