package ikev1

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/spd"
)

var networkAttrs = []keyex.Attribute{
	{Type: unitySplitInclude, Value: []byte{10, 2, 0, 0, 255, 255, 0, 0}},
	{Type: unitySplitInclude, Value: []byte{10, 3, 0, 0, 255, 255, 0, 0}},
	{Type: unitySplitInclude, Value: []byte{192, 168, 0, 0, 255, 255, 0, 0}},
	{Type: unityBanner, Value: []byte("Welcome\r\n\x1b[31mhome\x00")},
	{Type: unityDomain, Value: []byte("example.org")},
	{Type: unityLocalLAN, Value: []byte{172, 16, 0, 0, 255, 240, 0, 0}},
}

// roadWarrior makes a the client of a pool of b's, with everything of 10.0.0.0/8
// behind b as far as a's configuration goes.
func roadWarrior(t testing.TB) *pair {
	p := newPair(t)
	p.ca.VIPs, p.cb.Pools = []netip.Addr{netip.IPv4Unspecified()}, []string{"p"}
	p.cha.Local = []keyex.Selector{{TS: spd.TS{PortTo: 65535}, Dynamic: true}}
	p.chb.Remote = p.cha.Local
	p.cha.Remote = []keyex.Selector{net("10.0.0.0/8")}
	p.chb.Local = []keyex.Selector{net("10.2.0.0/16"), net("10.3.0.0/16")}
	p.ca.V1.Unity = true
	p.b.attrs = networkAttrs
	return p
}

func remotes(h *host) (out []spd.TS) {
	for _, c := range h.in {
		out = append(out, c.Remote...)
	}
	slices.SortFunc(out, func(a, b spd.TS) int { return a.From.Compare(b.From) })
	return out
}

// The networks that a server names narrow what the client's configuration allows
// and never widen it; one Quick Mode for each. Banner and domain arrive, the former
// without what a terminal would obey.
func TestUnity(t *testing.T) {
	for _, push := range []bool{false, true} {
		p := roadWarrior(t)
		p.ca.V1.Push, p.cb.V1.Push = push, push
		p.up().matched(2)
		if got := remotes(p.a); !slices.Equal(got, []spd.TS{net("10.2.0.0/16").TS, net("10.3.0.0/16").TS}) {
			t.Errorf("push %t: the client protects %v", push, got)
		}
		st := p.saA.Status()
		if st.Banner != "Welcome  ?[31mhome?" || st.Domain != "example.org" || p.a.domain != "example.org" || len(st.Networks) != 3 {
			t.Errorf("push %t: %q %q %q %v", push, st.Banner, st.Domain, p.a.domain, st.Networks)
		}
		// A new phase 1 keeps them.
		p.a.start(p.saA, keyex.RekeyIKE{})
		p.run(time.Minute)
		if sa := p.a.established(); len(sa) != 1 || sa[0] == p.saA || len(sa[0].Status().Networks) != 3 || sa[0].Status().Banner == "" {
			t.Errorf("push %t: what the server gave is lost with the new phase 1", push)
		}
	}
}

// A server gives of a pool's attributes what it is asked for; what it pushes is all of
// them, but the extensions only to who announced them. A netmask of the pool stands in
// place of the usual one. What IKEv2 alone has numbers for, as home links, is left out.
func TestPoolAttributes(t *testing.T) {
	p := newPair(t)
	sa := NewResponder(p.b, netip.MustParseAddrPort("192.0.2.2:500"), netip.MustParseAddrPort("192.0.2.1:500"), false)
	sa.cfg = &keyex.Config{Pools: []string{"p"}}
	sa.vipRemote = []netip.Prefix{netip.MustParsePrefix("10.9.0.1/32")}
	sa.attrs = append([]keyex.Attribute{{Type: 4, Value: []byte{10, 2, 0, 1}}, {Type: 13, Value: []byte{10, 0, 0, 0, 255, 0, 0, 0}}, {Type: 2, Value: []byte{255, 255, 0, 0}},
		{Type: mip6HomePrefix, Value: make([]byte, 21)}, {Type: homeAgentAddress, Value: make([]byte, 16)}}, networkAttrs...)
	ask := func(types ...uint16) []message.Attribute {
		list := []message.Attribute{}
		for _, t := range types {
			list = append(list, message.Variable(t, nil))
		}
		return list
	}
	for _, c := range []struct {
		unity bool
		asked []message.Attribute
		want  []uint16
	}{
		{false, ask(cfgIP4Address), []uint16{1}},
		{false, ask(cfgIP4Address, 4), []uint16{1, 4}},
		{false, ask(cfgIP4Address, cfgIP4Netmask, 13), []uint16{1, 13, 2}},
		{false, ask(cfgIP4Address, unityBanner), []uint16{1, unityBanner}},
		{false, ask(cfgIP4Address, mip6HomePrefix), []uint16{1}},
		{true, ask(cfgIP4Address), []uint16{1, unityBanner, unityDomain, unitySplitInclude, unityLocalLAN}},
		{false, nil, []uint16{1, 4, 13, 2}},
		{true, nil, []uint16{1, 4, 13, 2, unityBanner, unityDomain, unitySplitInclude, unityLocalLAN}},
	} {
		sa.vendors.unity = c.unity
		var got []uint16
		sa.lease(p.now, nil, c.asked, func(_ time.Time, list []message.Attribute) {
			for _, a := range list {
				got = append(got, a.Type)
				if a.Type == unitySplitInclude && len(a.Value) != 3*14 {
					t.Errorf("%d octets of networks", len(a.Value))
				}
			}
		})
		if !slices.Equal(got, c.want) {
			t.Errorf("unity %t, asked %v: %v, expected %v", c.unity, c.asked, got, c.want)
		}
	}
}

// Who does not have the extensions is not told and takes nothing of them.
func TestUnityUnwanted(t *testing.T) {
	p := roadWarrior(t)
	p.ca.V1.Unity = false
	p.cha.Remote = []keyex.Selector{net("10.2.0.0/16")}
	p.up().matched(1)
	if st := p.saA.Status(); st.Banner+st.Domain+p.a.domain != "" || st.Networks != nil || p.b.established()[0].vendors.unity {
		t.Errorf("taken unasked: %+v", st)
	}
	// A server sends them all the same: no network, no banner.
	p.saA.takeUnity(p.now, []message.Attribute{message.Variable(unitySplitInclude, []byte{0, 0, 0, 0, 0, 0, 0, 0}), message.Variable(unityBanner, []byte("x"))})
	if st := p.saA.Status(); st.Banner != "" || st.Networks != nil {
		t.Errorf("taken unasked: %+v", st)
	}
}

// The networks have nothing in common with the configuration, or a packet is for
// none of them: no SA, and the sentence says so.
func TestUnityOutside(t *testing.T) {
	p := roadWarrior(t)
	p.cha.Remote = []keyex.Selector{net("172.31.0.0/16")}
	p.up()
	if len(p.a.in)+len(p.b.in) != 0 || !strings.Contains(why(p.a), "nothing in common") {
		t.Fatalf("%d SAs: %s", len(p.a.in), why(p.a))
	}
	p = roadWarrior(t)
	p.up().matched(2)
	p.a.start(p.saA, keyex.CreateChild{Child: p.cha, Flow: &spd.Flow{Local: netip.MustParseAddr("10.9.0.1"), Remote: netip.MustParseAddr("10.4.0.1")}})
	p.run(time.Second)
	p.matched(2)
	if !strings.Contains(why(p.a), "10.4.0.1 is for none of the networks") {
		t.Error(why(p.a))
	}
}

// A client with the extensions may ask for everything, whatever it is told: the SA
// is for what the server has, also after the server rekeyed it. Without them, the
// same request is refused.
func TestUnityEverything(t *testing.T) {
	for _, unity := range []bool{true, false} {
		p := roadWarrior(t)
		p.ca.V1.Unity = unity
		p.b.attrs = nil
		p.cha.Remote = []keyex.Selector{net("0.0.0.0/0")}
		p.up()
		if !unity {
			if len(p.b.in) != 0 || !strings.Contains(why(p.b), "which no child of test has") {
				t.Errorf("%d SAs: %s", len(p.b.in), why(p.b))
			}
			continue
		}
		want := []spd.TS{net("10.2.0.0/16").TS, net("10.3.0.0/16").TS}
		check := func() {
			t.Helper()
			if len(p.b.in) != 1 || len(p.a.in) != 1 {
				t.Fatalf("%d and %d SAs: %s %s", len(p.a.in), len(p.b.in), why(p.a), why(p.b))
			}
			for _, c := range p.b.in {
				if !slices.Equal(c.Local, want) {
					t.Errorf("the server's SA is for %v", c.Local)
				}
			}
		}
		check()
		for spi := range p.b.in {
			p.b.start(p.b.established()[0], keyex.RekeyChild{SPI: spi})
		}
		p.run(time.Minute)
		if len(happened[keyex.ChildReplaced](p.b)) != 1 {
			t.Errorf("not rekeyed: %s", why(p.b))
		}
		check()
	}
}

// Networks as the field writes them: fourteen octets each, or eight. A mask with
// holes, a part of a network, too many: not read.
func TestUnityNetworks(t *testing.T) {
	ten := []byte{10, 2, 3, 4, 255, 255, 0, 0}
	long := appendNetwork(nil, ten)
	for _, c := range []struct {
		in   []byte
		want string
	}{
		{ten, "[10.2.0.0/16]"},
		{long, "[10.2.0.0/16]"},
		{appendNetwork(long, []byte{192, 0, 2, 1}), "[10.2.0.0/16 192.0.2.1/32]"},
		{append(slices.Clone(long), 0, 0, 0, 0, 0, 0, 0, 0), "[10.2.0.0/16 0.0.0.0/0]"},
		{nil, ""},
		{[]byte{10, 0, 0, 0, 255, 0, 255, 0}, ""},
		{[]byte{10, 0, 0, 0, 0, 0, 0, 1}, ""},
		{make([]byte, 14*maxNetworks+14), ""},
	} {
		nets, ok := networksOf(c.in)
		got := ""
		if ok {
			got = "["
			for i, n := range nets {
				got += strings.Repeat(" ", min(i, 1)) + n.String()
			}
			got += "]"
		}
		if got != c.want {
			t.Errorf("%x is %q, expected %q", c.in, got, c.want)
		}
	}
	for i := 1; i < len(ten); i++ {
		if _, ok := networksOf(ten[:i]); ok {
			t.Errorf("%d octets are a network", i)
		}
	}
	if appendNetwork(nil, make([]byte, 17)) != nil {
		t.Error("an IPv6 network has a form")
	}
	for s, want := range map[string]bool{"example.org": true, "a": true, "A-1.x": true, "": false, ".": false, "a..b": false, "-a": false, "a-": false,
		"a b": false, "a\nnameserver 192.0.2.1": false, "münchen.de": false, strings.Repeat("a", 64): false, strings.Repeat("a.", 127) + "b": false} {
		if isDomain(s) != want {
			t.Errorf("%q is a domain: %t", s, !want)
		}
	}
}

// Nothing that a server sends as a banner steers a terminal or a log, and all of it
// has a bound.
func FuzzUnityText(f *testing.F) {
	f.Add([]byte("Welcome\r\n\x1b]0;title\x07"))
	f.Add([]byte("a\u202eb\u0085\xff\xfe"))
	f.Add([]byte(strings.Repeat("w", 3*maxBanner)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := shown(b)
		if !utf8.ValidString(s) || utf8.RuneCountInString(s) > maxBanner+1 {
			t.Fatalf("%q", s)
		}
		for _, r := range s {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q has %U", s, r)
			}
		}
		if nets, ok := networksOf(b); ok && (len(nets) == 0 || len(nets) > maxNetworks) {
			t.Fatalf("%d networks", len(nets))
		}
		if isDomain(string(b)) && strings.ContainsAny(string(b), " \n\x00;/") {
			t.Fatalf("%q is a domain", b)
		}
	})
}
