package batch

import "testing"

// A packet that the kernel has to fragment is never a segment of a larger one: the
// kernel refuses segments that are bigger than the path.
func TestCutPacketsAreNotSegments(t *testing.T) {
	a := Packet{Data: make([]byte, 1400)}
	cut := Packet{Data: make([]byte, 1400), Cut: true}
	for _, c := range []struct {
		packets []Packet
		want    int
	}{
		{[]Packet{a, a, a}, 3}, {[]Packet{a, cut, a}, 1}, {[]Packet{cut, a, a}, 1}, {[]Packet{cut, cut}, 1}, {[]Packet{a, a, cut}, 2},
	} {
		if n := run(c.packets); n != c.want {
			t.Errorf("%d of %d packets go together, expected %d", n, len(c.packets), c.want)
		}
	}
}
