package xfrm

import (
	"net/netip"
	"testing"

	"iked/spd"
)

// Whoever sends to many addresses of an entry that asks for each flow keeps no
// other entry from asking.
func TestManyFlowsOfOneEntry(t *testing.T) {
	var a asking
	a.init()
	scanned := &spd.Policy{ID: 1, Mode: spd.Tunnel, PFP: spd.PFPRemoteAddr}
	asked := 0
	for i := range 2 * maxQuestions {
		if a.full(scanned) {
			continue
		}
		asked++
		a.open[populate(scanned, spd.Flow{Remote: netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})})] = &question{}
	}
	if asked != maxFlows {
		t.Errorf("%d questions of one entry, expected %d", asked, maxFlows)
	}
	for _, other := range []*spd.Policy{{ID: 2, Mode: spd.Tunnel}, {ID: 3, Mode: spd.Tunnel, PFP: spd.PFPLocalPort}, {ID: 4, Mode: spd.Transport}} {
		if a.full(other) {
			t.Errorf("entry %d cannot ask", other.ID)
		}
	}
}
