package spd

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// RFC 4301, Appendix B: the decorrelated list says of every flow what the first
// match of the ordered list says, in whatever order its parts are looked at: one
// part at most has the flow.
func TestDecorrelateAgreesWithList(t *testing.T) {
	matched := 0
	rapid.Check(t, func(t *rapid.T) {
		var policies []Policy
		for i := range rapid.IntRange(1, 6).Draw(t, "policies") {
			p := Policy{ID: uint64(i + 1), Dirs: rapid.SampledFrom([]Dirs{Both, Both, Outbound, Inbound}).Draw(t, "dirs")}
			for j := range rapid.IntRange(1, 2).Draw(t, "locals") {
				p.Local = append(p.Local, genTS(t, fmt.Sprint("l", i, j)))
			}
			for j := range rapid.IntRange(1, 2).Draw(t, "remotes") {
				p.Remote = append(p.Remote, genTS(t, fmt.Sprint("r", i, j)))
			}
			if rapid.IntRange(0, 3).Draw(t, "wide") == 0 {
				p.Local, p.Remote = list("0.0.0.0/0", "::/0"), list("0.0.0.0/0", "::/0")
			}
			policies = append(policies, p)
		}
		tab := NewTable(Discard)
		if err := tab.Apply(nil, policies); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []Dirs{Outbound, Inbound} {
			regions, err := Decorrelate(policies, dir, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for range 20 {
				f := genFlow(t)
				f.Inbound = dir == Inbound
				var got []int
				for i := range regions {
					if regions[i].Has(&f) {
						got = append(got, regions[i].Entry)
					}
				}
				want := tab.Lookup(&f)
				switch {
				case want.ID == 0 && len(got) != 0, want.ID != 0 && (len(got) != 1 || policies[got[0]].ID != want.ID):
					t.Fatalf("flow %+v: regions of entries %v, expected exactly one of policy %d", f, got, want.ID)
				}
				matched += len(got)
			}
		}
	})
	if matched == 0 {
		t.Error("no flow was in any region")
	}
}

// An entry behind a wider one decides about nothing; one that two together cover
// does not either; ANY behind ports and OPAQUE is used up by both.
func TestShadowed(t *testing.T) {
	for _, c := range []struct {
		rule    string
		entries [][2]string
		want    string
	}{
		{"the narrow one first", [][2]string{{"10.0.0.0/24", "10.1.0.0/24"}, {"10.0.0.0/8", "10.0.0.0/8"}}, "[]"},
		{"the wide one first", [][2]string{{"10.0.0.0/8", "10.0.0.0/8"}, {"10.0.0.0/24", "10.1.0.0/24"}}, "[1]"},
		{"two halves", [][2]string{{"10.0.0.0/25", "::/0"}, {"10.0.0.0/25", "10.1.0.0/24"}, {"10.0.0.128/25", "10.1.0.0/24"}, {"10.0.0.0/24", "10.1.0.0/24"}}, "[0 3]"},
		{"ports and OPAQUE are ANY", [][2]string{{"10.0.0.0/24[tcp/0-65534]", "10.1.0.0/24"}, {"10.0.0.0/24[tcp/65535]", "10.1.0.0/24"}, {"10.0.0.0/24[tcp/opaque]", "10.1.0.0/24"}, {"10.0.0.0/24[tcp]", "10.1.0.0/24"}}, "[3]"},
		{"a list of ports of any protocol leaves ICMP", [][2]string{{"10.0.0.0/24[any/0-65534]", "10.1.0.0/24"}, {"10.0.0.0/24[icmp/8]", "10.1.0.0/24"}}, "[]"},
	} {
		var policies []Policy
		for i, e := range c.entries {
			policies = append(policies, Policy{ID: uint64(i + 1), Local: list(e[0]), Remote: list(e[1])})
		}
		got, err := Shadowed(policies, 1000)
		if err != nil || fmt.Sprint(got) != c.want && !(len(got) == 0 && c.want == "[]") {
			t.Errorf("%s: %v, %v, expected %s", c.rule, got, err, c.want)
		}
	}
}

// Growth has a bound, and what is over it is told with the entry.
func TestDecorrelateIsBounded(t *testing.T) {
	var policies []Policy
	for i := range 40 {
		net := func(b, c int) []TS { return list(fmt.Sprintf("10.%d.%d.%d-10.%d.%d.200", b, c, i, 200-i, 200-i)) }
		policies = append(policies, Policy{ID: uint64(i + 1), Name: fmt.Sprint("p", i), Local: net(i%7, i), Remote: net(i%5, 40-i)})
	}
	for i := range 40 {
		policies = append(policies, Policy{ID: uint64(100 + i), Name: fmt.Sprint("q", i), Local: list("0.0.0.0/0"), Remote: list(fmt.Sprintf("0.0.0.0-%d.0.0.0", 10+i))})
	}
	if r, err := Decorrelate(policies, Outbound, 200); err == nil || r != nil || !strings.Contains(err.Error(), "200 regions") {
		t.Errorf("%d regions, %v", len(r), err)
	}
	if r, err := Decorrelate(policies[:1], Outbound, len(segments)); err != nil || len(r) != len(segments) {
		t.Errorf("exactly as many as allowed: %d, %v", len(r), err)
	}
}
