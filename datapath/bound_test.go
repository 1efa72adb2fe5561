package datapath

import (
	"errors"
	"net/netip"
	"testing"

	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/sad"
	"iked/spd"
)

// What is bound to an interface, to marks or to a device for offload is refused,
// not carried without its binding; offload where a device happens to be able is a
// wish, not a demand.
func TestBindingsAreRefused(t *testing.T) {
	mark := spd.Mark{Value: 7, Mask: ^uint32(0)}
	for name, change := range map[string]func(*sad.SA){
		"if_id": func(s *sad.SA) { s.IfID = 7 }, "mark": func(s *sad.SA) { s.Mark = mark }, "set_mark": func(s *sad.SA) { s.SetMark = mark },
		"offload": func(s *sad.SA) { s.Offload = sad.Offload{Device: "eth0", Must: true} },
	} {
		sa := &sad.SA{Name: "c/n"}
		change(sa)
		if err := unboundSA(sa); !errors.Is(err, backend.ErrUnsupported) {
			t.Errorf("SA with %s: %v", name, err)
		}
	}
	if err := unboundSA(&sad.SA{Offload: sad.Offload{Device: "eth0"}}); err != nil {
		t.Error(err)
	}
	d := NewIO(Options{}, IO{Device: tun.NewMemory(1, 1400, func([]byte) {})})
	defer d.Close()
	net := netip.MustParsePrefix("10.0.0.0/8")
	for name, change := range map[string]func(*spd.Policy){
		"if_id": func(p *spd.Policy) { p.IfID = 7 }, "mark": func(p *spd.Policy) { p.Mark = mark }, "mark_in": func(p *spd.Policy) { p.MarkIn = mark },
	} {
		p := backendtest.Policy(1, 1, net, net)
		change(&p)
		if err := d.ApplyPolicies(nil, []spd.Policy{p}); !errors.Is(err, backend.ErrUnsupported) {
			t.Errorf("policy with %s: %v", name, err)
		}
	}
}
