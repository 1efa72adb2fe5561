package xfrm

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/secret"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
)

func tunnelSA(dir sad.Direction) *sad.SA {
	return &sad.SA{
		ID: sad.ID{Dir: dir, Proto: suite.ProtoESP, SPI: 0x1000, Dst: there}, Src: here, ReqID: 7, Mode: spd.Tunnel,
		Local:  []spd.TS{spd.FromPrefix(netip.MustParsePrefix("10.1.0.0/16"))},
		Remote: []spd.TS{spd.FromPrefix(netip.MustParsePrefix("10.2.0.0/16"))},
		Encr:   suite.Transform{Type: suite.ENCR, ID: suite.EncrAESGCM16, KeyBits: 128}, EncrKey: secret.New(bytes.Repeat([]byte{1}, 20)),
		ReplayWindow: 64, Name: "test",
	}
}

func encoded(t *testing.T, sa *sad.SA, dirAttr bool) *wire.SA {
	t.Helper()
	m, err := encodeSA(sa, dirAttr, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The kernel has room for one selector of an SA. Where the traffic needs several it is
// that of the addresses, so that a peer whose SA has the request id of others, as those of
// somebody else's policies, sends from its own address alone (RFC 4301, Section 5.2, step 4).
func TestSelectorOfSeveral(t *testing.T) {
	list := func(texts ...string) (out []spd.TS) {
		for _, s := range texts {
			x, _, err := spd.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, x)
		}
		return out
	}
	sa := tunnelSA(sad.In)
	sa.Src, sa.Dst, sa.Mode = netip.MustParseAddr("2001:db8:1::5"), netip.MustParseAddr("2001:db8::1"), spd.Transport
	sa.Local, sa.Remote = list("2001:db8::1[135/6]", "2001:db8::1[ipv6-icmp/147]"), list("2001:db8:1::5[135/5]", "2001:db8:1::5[ipv6-icmp/146]")
	want := wire.Selector{Family: wire.Inet6, Src: wire.AddressOf(sa.Src), SrcLen: 128, Dst: wire.AddressOf(sa.Dst), DstLen: 128}
	if m := encoded(t, sa, false); m.Sel != want {
		t.Errorf("transport mode: %+v, expected %+v", m.Sel, want)
	}
	sa.Mode, sa.Local, sa.Remote = spd.Tunnel, list("::/0[135/3]", "::/0[tcp]"), list("2001:db8:1::5[135/1]", "2001:db8:1::5[tcp]")
	want.Dst, want.DstLen = wire.Address{}, 0
	if m := encoded(t, sa, false); m.Sel != want || m.Flags&wire.FlagAFUnspec != 0 {
		t.Errorf("a tunnel: %+v, expected %+v", m.Sel, want)
	}
}

// What the kernel takes in one direction only is given in that one alone.
func TestEncodeSA(t *testing.T) {
	sa := tunnelSA(sad.Out)
	sa.ESN, sa.DF, sa.DSCP, sa.TFCPadding = true, sad.DFClear, sad.DSCPIn, sad.TFCToMTU
	sa.Limits = sad.Limits{SoftTime: 1500 * time.Millisecond, HardPackets: 9}
	m := encoded(t, sa, false)
	if m.Flags != wire.FlagESN|wire.FlagNoPMTUDisc || m.ExtraFlags == nil || *m.ExtraFlags != wire.XFlagNoEncap || *m.TFCPad != ^uint32(0) || m.SADir != nil {
		t.Errorf("outbound: %+v", m)
	}
	if m.Lifetime.SoftAdd != 2 || m.Lifetime.HardAdd != 0 || m.Lifetime.HardPackets != 9 || m.Lifetime.SoftPackets != wire.Infinite {
		t.Errorf("limits: %+v", m.Lifetime)
	}
	// A kernel without directions wants a window for extended numbers, one with them
	// refuses it outbound.
	if m.ReplayESN.Window != 32 || encoded(t, sa, true).ReplayESN.Window != 0 || *encoded(t, sa, true).SADir != wire.SADirOut {
		t.Error("outbound window")
	}
	sa.Dir = sad.In
	m = encoded(t, sa, true)
	if m.Flags != wire.FlagESN|wire.FlagDecapDSCP || m.ExtraFlags != nil || m.TFCPad != nil || *m.SADir != wire.SADirIn || m.ReplayESN.Window != 64 {
		t.Errorf("inbound: %+v", m)
	}
	sa.ESN, sa.ReplayWindow = false, 32
	if m = encoded(t, sa, false); m.ReplayWindow != 32 || m.ReplayESN != nil {
		t.Error("a small window stands in the old field")
	}
	sa.ReplayWindow = 1 << 20
	if m = encoded(t, sa, false); m.ReplayESN.Window != wire.MaxReplayWindow || m.Flags&wire.FlagESN != 0 {
		t.Error("a large window has the bound of the kernel")
	}
	// One pair is the selector of the SA, turned round inbound; more are none.
	if m.Sel.SrcLen != 16 || m.Sel.Src != wire.AddressOf(netip.MustParseAddr("10.2.0.0")) {
		t.Errorf("selector %+v", m.Sel)
	}
	sa.Remote = append(sa.Remote, spd.FromPrefix(netip.MustParsePrefix("10.9.0.0/16")))
	if m = encoded(t, sa, false); m.Sel != (wire.Selector{}) || m.Flags&wire.FlagAFUnspec == 0 {
		t.Errorf("two pairs: %+v", m.Sel)
	}
	// RFC 4302, Section 3.3.3.2.1: AH over IPv4 is padded to 32 bits.
	ah := tunnelSA(sad.Out)
	ah.Proto, ah.Encr, ah.EncrKey = suite.ProtoAH, suite.Transform{}, secret.Bytes{}
	ah.Integ, ah.IntegKey = suite.Transform{Type: suite.INTEG, ID: suite.IntegHMACSHA256}, secret.New(make([]byte, 32))
	if m = encoded(t, ah, false); m.Flags&wire.FlagAlign4 == 0 || m.AlgAuthTrunc.Bits != 128 {
		t.Errorf("AH: %+v", m)
	}
}

// What the kernel would do otherwise than it is told is refused in words.
func TestRefusedSAs(t *testing.T) {
	for name, spoil := range map[string]func(*sad.SA){
		"DF set":               func(s *sad.SA) { s.DF = sad.DFSet },
		"hop limit":            func(s *sad.SA) { s.HopLimit = 10 },
		"whole packets":        func(s *sad.SA) { s.Offload = sad.Offload{Device: "eth0", Packet: true, Must: true} },
		"BEET between subnets": func(s *sad.SA) { s.Mode = spd.BEET },
		"transport over the other family": func(s *sad.SA) {
			s.Mode, s.Src, s.Dst = spd.Transport, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
		},
		"ESN without a window": func(s *sad.SA) { s.Dir, s.ESN, s.ReplayWindow = sad.In, true, 0 },
	} {
		sa := tunnelSA(sad.Out)
		spoil(sa)
		if _, err := encodeSA(sa, false, 0); !errors.Is(err, backend.ErrUnsupported) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	sa := tunnelSA(sad.Out)
	sa.EncrKey = secret.New(make([]byte, 16))
	if _, err := encodeSA(sa, false, 0); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("a key without its salt: %v", err)
	}
}

// Whatever the old and the new policies are, at every moment between the steps a
// packet that passes in clear is one that passes before or after. All keys are taken
// to match the packet, which is the worst case.
func TestNothingOpensBetweenSteps(t *testing.T) {
	gen := rapid.Custom(func(t *rapid.T) *kernelPolicy {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return &kernelPolicy{action: wire.Allow, priority: rapid.Uint32Range(0, 4).Draw(t, "priority")}
		case 2:
			return &kernelPolicy{action: wire.Block, priority: rapid.Uint32Range(0, 4).Draw(t, "priority")}
		}
		return &kernelPolicy{action: wire.Allow, priority: rapid.Uint32Range(0, 4).Draw(t, "priority"), templates: []wire.Template{{}}}
	})
	// Among equals the worst; without a policy the kernel lets pass.
	clear := func(list []*kernelPolicy) bool {
		best := &kernelPolicy{action: wire.Allow, priority: 100}
		for _, p := range list {
			if p != nil && (p.priority < best.priority || p.priority == best.priority && p.clear()) {
				best = p
			}
		}
		return best.clear()
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "keys")
		before, after := make([]*kernelPolicy, n), make([]*kernelPolicy, n)
		for i := range n {
			before[i], after[i] = gen.Draw(t, "before"), gen.Draw(t, "after")
		}
		if clear(before) || clear(after) {
			return
		}
		now := append([]*kernelPolicy(nil), before...)
		for ph := protect; ph <= removing; ph++ {
			for i := range n {
				if before[i] == nil && after[i] == nil || phase(before[i], after[i]) != ph {
					continue
				}
				now[i] = after[i]
				if clear(now) {
					t.Fatalf("open after key %d in phase %d: %+v, from %+v to %+v", i, ph, now, before, after)
				}
			}
		}
	})
}
