package testnet

import (
	"strings"
	"testing"
)

// Of one end only what it sends is recorded; of both, everything, once.
func TestSentRecordsWhatLeaves(t *testing.T) {
	topo := ForTest(t, TopologyOptions{})
	a, b := End{topo.GwA, "wan0"}, End{topo.GwB, "wan0"}
	one, err := Sent(b)
	if err != nil {
		t.Fatal(err)
	}
	both, err := Sent(a, b)
	if err != nil {
		t.Fatal(err)
	}
	r, err := topo.HostA.Ping(topo.HostB4, PingOptions{Count: 3})
	if err != nil || r.Received != 3 {
		t.Fatalf("%v %v", r, err)
	}
	one.Stop()
	both.Stop()
	if n := len(one.ClearText()); n != 3 {
		t.Errorf("%d packets left one end, expected the 3 answers: %v", n, one)
	}
	if n := len(both.ClearText()); n != 6 || !strings.Contains(both.String(), "end 1") || both.Err() != nil {
		t.Errorf("%d packets were on the wire, expected 6: %v %v", n, both, both.Err())
	}
	if _, err := Sent(a, End{topo.GwB, "none0"}); err == nil {
		t.Error("a link that is not there is recorded")
	}
}
