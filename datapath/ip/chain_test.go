package ip

import "testing"

// The field that names a header is that of the header before it.
func TestNextField(t *testing.T) {
	v4 := make([]byte, 24)
	v4[0] = 0x46
	if f := NextField(v4, 24); f != 9 {
		t.Errorf("IPv4: octet %d, expected 9", f)
	}
	// hop-by-hop(8), routing(24), fragment(8), destination options(16)
	v6 := make([]byte, 40+56)
	v6[0], v6[6] = 0x60, ProtoHopByHop
	v6[40], v6[48], v6[49] = ProtoRouting, ProtoFragment, 2
	v6[72], v6[73] = ProtoDestOpts, 99 // a fragment header has no length
	v6[80], v6[81] = ProtoUDP, 1
	for at, want := range map[int]int{40: 6, 48: 40, 72: 48, 80: 72, 96: 80} {
		if f := NextField(v6, at); f != want {
			t.Errorf("IPv6, header at %d: octet %d, expected %d", at, f, want)
		}
	}
}
