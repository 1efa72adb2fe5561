// Package backendtest is the conformance suite of backends: what internal/backend
// promises, held against an implementation.
package backendtest

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/secret"
	"iked/internal/testnet"
	"iked/sad"
	"iked/spd"
)

// Transforms that SA uses.
var (
	GCM128 = suite.Transform{Type: suite.ENCR, ID: suite.EncrAESGCM16, KeyBits: 128}
)

// Pair makes both directions of a tunnel as the side at a sees it; the other
// side gets the same with Swap. The keys are fixed by the SPIs.
func Pair(reqID uint32, a, b netip.Addr, spiIn, spiOut uint32, local, remote netip.Prefix) (in, out *sad.SA) {
	make := func(dir sad.Direction, src, dst netip.Addr, spi uint32) *sad.SA {
		key := bytes.Repeat([]byte{byte(spi), byte(spi >> 8)}, 10)
		return &sad.SA{
			ID: sad.ID{Dir: dir, Proto: suite.ProtoESP, SPI: spi, Dst: dst}, Src: src, ReqID: reqID, Mode: spd.Tunnel,
			Local: []spd.TS{spd.FromPrefix(local)}, Remote: []spd.TS{spd.FromPrefix(remote)},
			Encr: GCM128, EncrKey: secret.New(key), ReplayWindow: 1024, Name: "test/net", Owner: uint64(reqID),
		}
	}
	return make(sad.In, b, a, spiIn), make(sad.Out, a, b, spiOut)
}

// Policy protects traffic between two prefixes.
func Policy(id uint64, reqID uint32, local, remote netip.Prefix) spd.Policy {
	return spd.Policy{ID: id, Name: "test/net", Action: spd.Protect, Local: []spd.TS{spd.FromPrefix(local)},
		Remote: []spd.TS{spd.FromPrefix(remote)}, Priority: 100, ReqID: reqID}
}

var (
	local4  = netip.MustParseAddr("192.0.2.1")
	remote4 = netip.MustParseAddr("192.0.2.2")
	other4  = netip.MustParseAddr("192.0.2.3")
	netL    = netip.MustParsePrefix("10.1.0.0/16")
	netR    = netip.MustParsePrefix("10.2.0.0/16")
)

// Run runs the suite; open makes a fresh backend, which the suite closes.
func Run(t *testing.T, open func(t *testing.T) backend.Backend) {
	fresh := func(t *testing.T) backend.Backend {
		b := open(t)
		t.Cleanup(func() { b.Close() })
		return b
	}
	for _, c := range []struct {
		name string
		f    func(*testing.T, backend.Backend)
	}{
		{"Describes itself", describe}, {"SPIs", spis}, {"Compression", compression}, {"SAs are added once and deleted once", addDelete},
		{"An unknown SA is an error", unknown}, {"A contradictory SA is refused", invalidSA},
		{"An SA moves", move}, {"Policies are replaced by ID", policies}, {"A contradictory policy is refused", invalidPolicy},
		{"What the caller does with its SA later does not matter", keepsNothing}, {"Close ends everything", closes},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, fresh(t)) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: error %v, expected %v", what, err, target)
	}
}

func describe(t *testing.T, b backend.Backend) {
	i := b.Describe()
	if i.Name != "userspace" && i.Name != "kernel" || i.Detail == "" || i.Supports == nil {
		t.Fatalf("%+v", i)
	}
	if ok, why := i.Supports(suite.ProtoESP, spd.Tunnel, GCM128, suite.Transform{}, true); !ok {
		t.Errorf("AES-GCM tunnels are not supported: %s", why)
	}
	if b.Counters() == nil {
		t.Error("no counters")
	}
}

// RFC 4303, Section 2.1: SPIs 1 to 255 are reserved. No SPI is given out twice.
func spis(t *testing.T, b backend.Backend) {
	seen := map[uint32]bool{}
	for range 1000 {
		spi, err := b.AllocSPI(suite.ProtoESP, local4)
		must(t, err)
		if spi < 256 || seen[spi] {
			t.Fatalf("SPI 0x%08x: reserved, or given out before", spi)
		}
		seen[spi] = true
	}
	spi, err := b.AllocSPI(suite.ProtoESP, local4)
	must(t, err)
	in, _ := Pair(1, local4, remote4, spi, 0x2000, netL, netR)
	must(t, b.AddSA(in))
	// An SPI in use is not freed.
	b.FreeSPI(suite.ProtoESP, local4, spi)
	want(t, "same SPI again", b.AddSA(in), backend.ErrExists)
}

// RFC 3173, Section 3.3: numbers of compression are 256 to 61439, and an inbound SA has
// one of its own. What cannot be compressed is refused.
func compression(t *testing.T, b backend.Backend) {
	none := suite.Transform{}
	if ok, why := b.Describe().Supports(suite.ProtoIPComp, spd.Tunnel, none, none, false); !ok {
		testnet.LeaveOut(t, "the backend does not compress: "+why)
	}
	if ok, _ := b.Describe().Supports(suite.ProtoIPComp, spd.BEET, none, none, false); ok {
		t.Error("BEET mode is said to compress")
	}
	seen := map[uint32]bool{}
	for range 300 {
		cpi, err := b.AllocSPI(suite.ProtoIPComp, local4)
		must(t, err)
		if cpi < uint32(sad.MinCPI) || cpi > uint32(sad.MaxCPI) || seen[cpi] {
			t.Fatalf("CPI %d: out of range, or given out before", cpi)
		}
		seen[cpi] = true
	}
	cpi, err := b.AllocSPI(suite.ProtoIPComp, local4)
	must(t, err)
	in, out := Pair(1, local4, remote4, 0x1000, 0x2000, netL, netR)
	in.CPI, out.CPI = uint16(cpi), 0x1234
	must(t, b.AddSA(in))
	must(t, b.AddSA(out))
	twin, _ := Pair(1, local4, remote4, 0x1001, 0x2001, netL, netR)
	twin.CPI = in.CPI
	want(t, "same inbound CPI", b.AddSA(twin), backend.ErrExists)
	// One in use is not freed; one of an SA that is gone is.
	b.FreeSPI(suite.ProtoIPComp, local4, cpi)
	want(t, "same inbound CPI, freed", b.AddSA(twin), backend.ErrExists)
	must(t, b.DeleteSA(in.ID))
	must(t, b.AddSA(twin))
	must(t, b.DeleteSA(twin.ID))
	moved, err := b.UpdateSA(out.ID, backend.Move{Src: local4, Dst: other4})
	must(t, err)
	must(t, b.DeleteSA(moved))
	for name, spoil := range map[string]func(*sad.SA){
		"a reserved CPI": func(s *sad.SA) { s.CPI = 100 },
		"a private CPI":  func(s *sad.SA) { s.CPI = 0xffff },
		"the well known": func(s *sad.SA) { s.CPI = 2 },
		"AH":             func(s *sad.SA) { s.Proto, s.Encr, s.EncrKey = suite.ProtoAH, none, secret.Bytes{} },
		"BEET mode":      func(s *sad.SA) { s.Mode = spd.BEET },
	} {
		x, _ := Pair(1, local4, remote4, 0x1002, 0x2002, netL, netR)
		x.CPI = 0x2345
		spoil(x)
		want(t, name, b.AddSA(x), backend.ErrInvalid)
	}
}

func addDelete(t *testing.T, b backend.Backend) {
	in, out := Pair(1, local4, remote4, 0x1000, 0x2000, netL, netR)
	must(t, b.AddSA(in))
	must(t, b.AddSA(out))
	want(t, "same outbound SA", b.AddSA(out), backend.ErrExists)
	// The same inbound SPI at another address would be ambiguous (RFC 4301, Section 4.1).
	twin := *in
	twin.Dst = other4
	want(t, "same inbound SPI", b.AddSA(&twin), backend.ErrExists)
	// The same outbound SPI of another peer is another SA.
	twin = *out
	twin.Dst = other4
	must(t, b.AddSA(&twin))
	for _, id := range []sad.ID{in.ID, out.ID, twin.ID} {
		u, err := b.QuerySA(id)
		must(t, err)
		if u.Packets != 0 || u.Bytes != 0 || !u.LastUsed.IsZero() {
			t.Errorf("fresh SA has usage %+v", u)
		}
		must(t, b.DeleteSA(id))
		want(t, "delete again", b.DeleteSA(id), backend.ErrNotFound)
	}
	must(t, b.AddSA(in))
}

func unknown(t *testing.T, b backend.Backend) {
	in, _ := Pair(1, local4, remote4, 0x1000, 0x2000, netL, netR)
	want(t, "delete", b.DeleteSA(in.ID), backend.ErrNotFound)
	_, err := b.QuerySA(in.ID)
	want(t, "query", err, backend.ErrNotFound)
	_, err = b.UpdateSA(in.ID, backend.Move{Src: other4, Dst: local4})
	want(t, "update", err, backend.ErrNotFound)
}

func invalidSA(t *testing.T, b backend.Backend) {
	for name, spoil := range map[string]func(*sad.SA){
		"reserved SPI":  func(s *sad.SA) { s.SPI = 255 },
		"no address":    func(s *sad.SA) { s.Src = netip.Addr{} },
		"two families":  func(s *sad.SA) { s.Src = netip.IPv6Loopback() },
		"no selectors":  func(s *sad.SA) { s.Remote = nil },
		"no direction":  func(s *sad.SA) { s.Dir = 0 },
		"UDP port zero": func(s *sad.SA) { s.Encap = &sad.Encap{SrcPort: 4500} },
	} {
		_, out := Pair(1, local4, remote4, 0x1000, 0x2000, netL, netR)
		spoil(out)
		want(t, name, b.AddSA(out), backend.ErrInvalid)
	}
}

func move(t *testing.T, b backend.Backend) {
	in, out := Pair(1, local4, remote4, 0x1000, 0x2000, netL, netR)
	must(t, b.AddSA(in))
	must(t, b.AddSA(out))
	to, err := b.UpdateSA(out.ID, backend.Move{Src: local4, Dst: other4})
	must(t, err)
	if to != (sad.ID{Dir: sad.Out, Proto: suite.ProtoESP, SPI: out.SPI, Dst: other4}) {
		t.Errorf("new ID %+v", to)
	}
	_, err = b.QuerySA(out.ID)
	want(t, "query under the old ID", err, backend.ErrNotFound)
	_, err = b.QuerySA(to)
	must(t, err)
	same, err := b.UpdateSA(in.ID, backend.Move{Src: other4, Dst: local4})
	must(t, err)
	if same != in.ID {
		t.Errorf("ID of the inbound SA became %+v, its destination did not change", same)
	}
	// Onto an SA that exists.
	_, second := Pair(1, local4, remote4, 0x1001, 0x2000, netL, netR)
	must(t, b.AddSA(second))
	_, err = b.UpdateSA(second.ID, backend.Move{Src: local4, Dst: other4})
	want(t, "move onto another SA", err, backend.ErrExists)
	must(t, b.DeleteSA(to))
}

func policies(t *testing.T, b backend.Backend) {
	p := Policy(7, 1, netL, netR)
	must(t, b.ApplyPolicies(nil, []spd.Policy{p}))
	p.Action, p.ReqID = spd.Discard, 0
	must(t, b.ApplyPolicies(nil, []spd.Policy{p}))
	must(t, b.ApplyPolicies([]uint64{7}, []spd.Policy{Policy(8, 2, netL, netR)}))
	must(t, b.ApplyPolicies([]uint64{7, 8, 99}, nil)) // unknown ones are ignored
}

func invalidPolicy(t *testing.T, b backend.Backend) {
	good := Policy(1, 1, netL, netR)
	for name, spoil := range map[string]func(*spd.Policy){
		"no reqid":      func(p *spd.Policy) { p.ReqID = 0 },
		"no selectors":  func(p *spd.Policy) { p.Local = nil },
		"range reverse": func(p *spd.Policy) { p.Remote = []spd.TS{{From: remote4, To: local4, PortTo: 65535}} },
		"bad action":    func(p *spd.Policy) { p.Action = 9 },
	} {
		bad := Policy(2, 1, netL, netR)
		spoil(&bad)
		want(t, name, b.ApplyPolicies(nil, []spd.Policy{good, bad}), backend.ErrInvalid)
	}
}

func keepsNothing(t *testing.T, b backend.Backend) {
	in, _ := Pair(1, local4, remote4, 0x1000, 0x2000, netL, netR)
	id := in.ID
	must(t, b.AddSA(in))
	in.Local[0], in.SPI = spd.TS{}, 1
	in.EncrKey.Destroy()
	_, err := b.QuerySA(id)
	must(t, err)
	must(t, b.DeleteSA(id))
}

func closes(t *testing.T, b backend.Backend) {
	must(t, b.Close())
	must(t, b.Close())
	deadline := time.After(10 * time.Second)
	for {
		select {
		case _, ok := <-b.Events():
			if !ok {
				in, _ := Pair(1, local4, remote4, 0x1000, 0x2000, netL, netR)
				want(t, "AddSA", b.AddSA(in), backend.ErrClosed)
				want(t, "ApplyPolicies", b.ApplyPolicies(nil, nil), backend.ErrClosed)
				_, err := b.AllocSPI(suite.ProtoESP, local4)
				want(t, "AllocSPI", err, backend.ErrClosed)
				return
			}
		case <-deadline:
			t.Fatal("the channel of events stays open")
		}
	}
}
