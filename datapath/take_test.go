package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/sad"
)

// hinted is a Raw that notes what it is to take.
type hinted struct {
	*wire
	said []string
}

func (h *hinted) TakeESP(local, remote netip.Addr, spi uint32) {
	h.said = append(h.said, fmt.Sprintf("take %v from %v", local, remote))
}

func (h *hinted) LeaveESP(local netip.Addr, spi uint32, after time.Duration) {
	h.said = append(h.said, fmt.Sprintf("leave %v after %v", local, after))
}

func (h *hinted) Ring() (taken, lost uint64) { return 0, 0 }

// The packets of an inbound SA are taken without a gap when it moves: what came by another
// way meanwhile would overtake what waits. They are left at once when they come in UDP, and
// at the end.
func TestTakenThroughMoves(t *testing.T) {
	raw, _ := cable(false)
	udp, _ := cable(true)
	h := &hinted{wire: raw}
	d := NewIO(Options{}, IO{Device: tun.NewMemory(2, 1400, func([]byte) {}), Raw: h, UDP: udp, PathMTU: func(netip.Addr) (int, error) { return 1500, nil }})
	t.Cleanup(func() { d.Close() })
	in, _ := backendtest.Pair(1, out4A, out4B, 0x1001, 0x2001, net4A, net4B)
	if err := d.AddSA(in); err != nil {
		t.Fatal(err)
	}
	id := in.ID
	second, other := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.3")
	for _, m := range []backend.Move{
		{Src: other, Dst: out4A},
		{Src: other, Dst: second},
		{Src: other, Dst: second, Encap: &sad.Encap{SrcPort: 4500, DstPort: 4500}},
		{Src: other, Dst: second},
	} {
		var err error
		if id, err = d.UpdateSA(id, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.DeleteSA(id); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"take 192.0.2.1 from 192.0.2.2",
		"take 192.0.2.1 from 192.0.2.3",
		"take 192.0.2.9 from 192.0.2.3", "leave 192.0.2.1 after 1s",
		"leave 192.0.2.9 after 0s",
		"take 192.0.2.9 from 192.0.2.3",
		"leave 192.0.2.9 after 0s",
	}
	if !slices.Equal(h.said, want) {
		t.Errorf("said:\n%q\nexpected:\n%q", h.said, want)
	}
}
