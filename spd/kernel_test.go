package spd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The same entry gives the same answer in both backends: the selectors for a
// kernel together have exactly the packets that the entry has, in each direction.
// Packets without ports are those of the fragments that a kernel forwards: it
// takes what it does not have for 0, so they may be selected by entries with port 0
// and must be by all others as the entry says.
func TestKernelSelectorsAgreeWithMatch(t *testing.T) {
	compared, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{ID: 1, Name: "p"}
		for i := range rapid.IntRange(1, 2).Draw(t, "locals") {
			p.Local = append(p.Local, genTS(t, fmt.Sprint("l", i)))
		}
		for i := range rapid.IntRange(1, 2).Draw(t, "remotes") {
			p.Remote = append(p.Remote, genTS(t, fmt.Sprint("r", i)))
		}
		p.Dirs = rapid.SampledFrom([]Dirs{Both, Both, Outbound, Inbound}).Draw(t, "dirs")
		for _, dir := range []Dirs{Outbound, Inbound} {
			sel, err := KernelSelectors(&p, dir, 1<<20)
			if errors.Is(err, ErrKernelOpaque) {
				opaque := func(ts TS) bool { return ts.Opaque() }
				if !slices.ContainsFunc(p.Local, opaque) && !slices.ContainsFunc(p.Remote, opaque) {
					t.Fatalf("%v === %v: %v", p.Local, p.Remote, err)
				}
				refused++
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 20 {
				f := genFlow(t)
				f.Inbound = dir == Inbound
				// What the parser of packets gives: no ports for protocols without.
				if f.HasPorts = f.HasPorts && (hasPorts(f.Proto) || typed(f.Proto)); !f.HasPorts {
					f.LocalPort, f.RemotePort = 0, 0
				} else if f.Proto == protoMH {
					f.LocalPort = f.LocalPort % 8 << 8
					f.RemotePort = f.LocalPort
				}
				want := p.Dirs.has(&f) && f.Match(p.Local, p.Remote)
				got := slices.ContainsFunc(sel, func(k KernelSelector) bool { return k.Match(&f) })
				if !f.HasPorts && got && !want {
					zero := f
					zero.HasPorts = true
					if want = p.Dirs.has(&f) && zero.Match(p.Local, p.Remote); want {
						continue
					}
				}
				if got != want {
					t.Fatalf("%v === %v, direction %d: flow %+v: kernel %v, entry %v\n%v", p.Local, p.Remote, dir, f, got, want, sel)
				}
				compared++
			}
		}
	})
	if compared == 0 || refused == 0 {
		t.Errorf("%d flows compared, %d policies refused", compared, refused)
	}
}

// Known expansions: ranges, ICMP types and codes in the two ports, the mobility
// header type on the sender's side, a list of ports for each protocol with ports.
func TestKernelSelectors(t *testing.T) {
	text := func(sel []KernelSelector) string {
		var out []string
		for _, k := range sel {
			out = append(out, fmt.Sprintf("%s>%s %d %x/%x %x/%x", k.Src, k.Dst, k.Proto, k.SrcPort, k.SrcMask, k.DstPort, k.DstMask))
		}
		return strings.Join(out, ", ")
	}
	for _, c := range []struct{ local, remote, out, in string }{
		{"10.0.0.0/24", "10.1.0.0/24", "10.0.0.0/24>10.1.0.0/24 0 0/0 0/0", "10.1.0.0/24>10.0.0.0/24 0 0/0 0/0"},
		{"10.0.0.1-10.0.0.2", "10.1.0.0/24", "10.0.0.1/32>10.1.0.0/24 0 0/0 0/0, 10.0.0.2/32>10.1.0.0/24 0 0/0 0/0",
			"10.1.0.0/24>10.0.0.1/32 0 0/0 0/0, 10.1.0.0/24>10.0.0.2/32 0 0/0 0/0"},
		{"10.0.0.0/24[tcp]", "10.1.0.0/24[tcp/80-82]", "10.0.0.0/24>10.1.0.0/24 6 0/0 50/fffe, 10.0.0.0/24>10.1.0.0/24 6 0/0 52/ffff",
			"10.1.0.0/24>10.0.0.0/24 6 50/fffe 0/0, 10.1.0.0/24>10.0.0.0/24 6 52/ffff 0/0"},
		{"10.0.0.0/24[icmp/8]", "10.1.0.0/24[icmp]", "10.0.0.0/24>10.1.0.0/24 1 8/ffff 0/0", "10.1.0.0/24>10.0.0.0/24 1 8/ffff 0/0"},
		{"10.0.0.0/24[icmp/3(4)]", "10.1.0.0/24[icmp/3]", "10.0.0.0/24>10.1.0.0/24 1 3/ffff 4/ffff", "10.1.0.0/24>10.0.0.0/24 1 3/ffff 4/ffff"},
		{"2001:db8::/64[mobility-header/5]", "2001:db8:1::/64[mobility-header/6]", "2001:db8::/64>2001:db8:1::/64 135 5/ffff 0/0", "2001:db8:1::/64>2001:db8::/64 135 6/ffff 0/0"},
		{"2001:db8::1[ipv6-icmp/146]", "2001:db8::2[ipv6-icmp/147]", "2001:db8::1/128>2001:db8::2/128 58 92/ffff 0/0", "2001:db8::2/128>2001:db8::1/128 58 93/ffff 0/0"},
		{"10.0.0.0/24[gre/opaque]", "10.1.0.0/24", "10.0.0.0/24>10.1.0.0/24 47 0/0 0/0", "10.1.0.0/24>10.0.0.0/24 47 0/0 0/0"},
		{"10.0.0.0/24[gre/1-9]", "10.1.0.0/24", "", ""},
		{"10.0.0.0/24[tcp]", "10.1.0.0/24[udp]", "", ""},
		{"10.0.0.0/24", "2001:db8::/32", "", ""},
	} {
		p := Policy{ID: 1, Name: "p", Local: list(c.local), Remote: list(c.remote)}
		for dir, want := range map[Dirs]string{Outbound: c.out, Inbound: c.in} {
			sel, err := KernelSelectors(&p, dir, 100)
			if err != nil || text(sel) != want {
				t.Errorf("%s === %s, direction %d: %s, %v; expected %s", c.local, c.remote, dir, text(sel), err, want)
			}
		}
	}
	p := Policy{ID: 1, Name: "p", Local: list("10.0.0.0/24[any/80]"), Remote: list("10.1.0.0/24")}
	if sel, err := KernelSelectors(&p, Outbound, 100); err != nil || len(sel) != len(portProtocols) {
		t.Errorf("a port of any protocol: %v, %v, expected one selector for each of %d protocols", sel, err, len(portProtocols))
	}
}

// What a kernel cannot say, and what would take too many of its policies, is
// refused with the selectors and what to do.
func TestKernelSelectorsRefuse(t *testing.T) {
	p := Policy{ID: 1, Name: "site/net", Local: list("10.0.0.0/24[tcp/opaque]"), Remote: list("10.1.0.0/24")}
	if _, err := KernelSelectors(&p, Outbound, 100); !errors.Is(err, ErrKernelOpaque) || !strings.Contains(err.Error(), "site/net") {
		t.Errorf("OPAQUE: %v", err)
	}
	p = Policy{ID: 1, Name: "site/net", Local: list("10.0.0.1-10.0.0.254[tcp/1-65534]"), Remote: list("10.1.0.1-10.1.0.254[tcp/1-65534]")}
	if sel, err := KernelSelectors(&p, Outbound, 1000); err == nil || sel != nil || !strings.Contains(err.Error(), "1000") {
		t.Errorf("too many: %d selectors, %v", len(sel), err)
	}
	p = Policy{ID: 1, Local: list("10.0.0.0/8"), Remote: []TS{Host(netip.MustParseAddr("192.0.2.1"))}}
	if sel, err := KernelSelectors(&p, Outbound, 1); err != nil || len(sel) != 1 {
		t.Errorf("exactly as many as allowed: %v, %v", sel, err)
	}
}
