package form

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iked/migrate"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

var sameAddrs = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func event6() *migrate.Event {
	addr := netip.MustParseAddr
	e := &migrate.Event{
		Dir: migrate.Out, Sub: true, IfID: 7, Encap: &sad.Encap{SrcPort: 4500, DstPort: 4501},
		Selector: spd.KernelSelector{Src: netip.MustParsePrefix("10.0.0.0/8"), Dst: netip.MustParsePrefix("192.0.2.0/24"), Proto: 17, SrcPort: 53, SrcMask: 0xffff, DstPort: 1024, DstMask: 0xfc00},
		KM:       migrate.Ends{Local: addr("2001:db8::1"), Remote: addr("2001:db8::2")},
	}
	for i, mode := range []spd.Mode{spd.Tunnel, spd.BEET, spd.Transport} {
		for j, proto := range []uint8{ipESP, ipAH} {
			e.Entries = append(e.Entries, migrate.Entry{Proto: proto, Mode: mode, ReqID: uint32(10*i + j),
				Old: migrate.Pair{Src: addr("198.51.100.1"), Dst: addr("198.51.100.2")}, New: migrate.Pair{Src: addr("2001:db8::1"), Dst: addr("2001:db8::2")}})
		}
	}
	return e
}

// Six entries from IPv4 to IPv6 go through netlink and back, with everything that
// its form has.
func TestXFRMRoundTrip(t *testing.T) {
	e := event6()
	m, err := wire.Parse(wire.MigrateMsg, ToXFRM(e).Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromXFRM(m.(*wire.Migrate))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(e, got, sameAddrs); d != "" {
		t.Error(d)
	}
}

// The same through PF_KEY, which has neither masks of ports, nor the second SPD,
// nor an interface, nor encapsulation.
func TestPFKeyRoundTrip(t *testing.T) {
	e := event6()
	e.Source, e.Sub, e.IfID, e.Encap = migrate.PFKey, false, 0, nil
	e.Selector.DstMask = 0xffff
	got, err := ParsePFKey(AppendPFKey(nil, e, 1, 2))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(e, got, sameAddrs); d != "" {
		t.Error(d)
	}
}

// Any protocol is 0 for netlink and 255 for PF_KEY.
func TestPFKeyAnyProtocol(t *testing.T) {
	e := event6()
	e.Selector.Proto, e.Selector.SrcMask, e.Selector.SrcPort, e.Selector.DstMask, e.Selector.DstPort = 0, 0, 0, 0, 0
	b := AppendPFKey(nil, e, 0, 0)
	if n := bytes.Count(b, []byte{extSrc, 0, anyProto, 8}); n != 1 && binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		t.Errorf("the source is for any protocol %d times", n)
	}
	got, err := ParsePFKey(b)
	if err != nil || got.Selector.Proto != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// SAs that are not of IPsec, those of route optimisation and of destination options
// above all, are left out, and the others are there.
func TestXFRMOtherStates(t *testing.T) {
	m := ToXFRM(event6())
	m.Migrate = m.Migrate[:3]
	m.Migrate[0].Proto = 60 // destination options
	m.Migrate[1].Mode = 2   // XFRM_MODE_ROUTEOPTIMIZATION
	got, err := FromXFRM(m)
	if err != nil || len(got.Entries) != 1 || got.Entries[0].ReqID != event6().Entries[2].ReqID {
		t.Errorf("%+v, %v", got, err)
	}
}

// An event that contradicts itself is refused by both forms.
func TestRefused(t *testing.T) {
	for name, spoil := range map[string]func(e *migrate.Event){
		"direction": func(e *migrate.Event) { e.Dir = 3 },
		"seven entries": func(e *migrate.Event) {
			e.Entries = append(e.Entries, migrate.Entry{Proto: ipESP, ReqID: 99, Old: e.Entries[0].Old, New: e.Entries[0].New})
		},
		"two alike":         func(e *migrate.Event) { e.Entries[1] = e.Entries[0] },
		"to nowhere":        func(e *migrate.Event) { e.Entries[0].New.Dst = netip.IPv6Unspecified() },
		"to a group":        func(e *migrate.Event) { e.Entries[0].New.Dst = netip.MustParseAddr("ff02::1") },
		"from half":         func(e *migrate.Event) { e.Entries[0].Old.Src = netip.IPv4Unspecified() },
		"KMADDRESS at none": func(e *migrate.Event) { e.KM.Remote = netip.IPv6Unspecified() },
	} {
		e := event6()
		spoil(e)
		if err := e.Check(); err == nil {
			t.Errorf("%s: the model takes it", name)
		}
		if got, err := FromXFRM(ToXFRM(e)); err == nil {
			t.Errorf("%s: netlink: %+v", name, got)
		}
		if got, err := ParsePFKey(AppendPFKey(nil, e, 0, 0)); err == nil {
			t.Errorf("%s: PF_KEY: %+v", name, got)
		}
	}
}

// bindingUpdate is the packet by which a mobile node registers: IPv6, destination
// options with the home address, mobility header.
func bindingUpdate(careOf, home, agent netip.Addr) []byte {
	p := append([]byte{0x60, 0, 0, 0, 0, 36, nextDestOpts, 64}, careOf.AsSlice()...)
	p = append(p, agent.AsSlice()...)
	// RFC 6275, Section 6.3: the option is at 8n+6, after PadN.
	p = append(p, nextMobility, 2, 1, 2, 0, 0, optHomeAddress, 16)
	p = append(p, home.AsSlice()...)
	return append(p, 59, 1, mhBindingUp, 0, 0, 0, 0, 1, 0xc0, 0, 0, 100)
}

// RFC 6275, Section 11.7.1: the care-of address of a Binding Update is its source,
// the home address is in its option.
func TestCareOf(t *testing.T) {
	careOf, home, agent := netip.MustParseAddr("2001:db8:2::5"), netip.MustParseAddr("2001:db8:1::100"), netip.MustParseAddr("2001:db8:1::1")
	p := bindingUpdate(careOf, home, agent)
	c, h, ok := CareOf(p)
	if !ok || c != careOf || h != home {
		t.Fatalf("%v, %v, %t", c, h, ok)
	}
	x := binary.NativeEndian.AppendUint16(nil, uint16((8+len(p)+7)/8))
	x = binary.NativeEndian.AppendUint16(x, extPacket)
	x = binary.NativeEndian.AppendUint32(x, uint32(len(p)))
	x = append(x, p...)
	x = append(x, make([]byte, -len(x)&7)...)
	if got, err := ParsePacket(x); err != nil || !bytes.Equal(got, p) {
		t.Errorf("the extension has %x, %v", got, err)
	}
	for n := range p {
		if _, _, ok := CareOf(p[:n]); ok && n < len(p)-2 {
			t.Errorf("%d of %d octets are taken for a Binding Update", n, len(p))
		}
	}
	for n := range x {
		if _, err := ParsePacket(x[:n]); err == nil {
			t.Errorf("%d of %d octets are taken for an extension", n, len(x))
		}
	}
	for name, spoil := range map[string]func([]byte){
		"IPv4":              func(p []byte) { p[0] = 0x45 },
		"binding ack":       func(p []byte) { p[66] = 6 },
		"a correspondent":   func(p []byte) { p[72] = 0x80 },
		"no home address":   func(p []byte) { p[46] = 1 },
		"protected already": func(p []byte) { p[6] = 50 },
	} {
		q := slices.Clone(p)
		spoil(q)
		if _, _, ok := CareOf(q); ok {
			t.Errorf("%s: taken for a home registration", name)
		}
	}
}

// No input makes the parser panic, and what it takes it writes and reads to the same.
func FuzzPFKey(f *testing.F) {
	f.Add(AppendPFKey(nil, event6(), 1, 2))
	f.Add(recording(f, "home-agent.txt")[1].pfkey)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParsePFKey(b)
		if err != nil {
			return
		}
		if e.Selector.SrcPort != 0 {
			e.Selector.SrcMask = 0xffff
		}
		again, err := ParsePFKey(AppendPFKey(nil, e, 0, 0))
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		for i := range e.Entries {
			if e.Entries[i].Old.Unspecified() {
				e.Entries[i].Old, again.Entries[i].Old = migrate.Pair{}, migrate.Pair{} // of either family
			}
		}
		if d := cmp.Diff(e, again, sameAddrs); d != "" {
			t.Fatal(d)
		}
	})
}

// The same of netlink, whose octets the codec in wire reads.
func FuzzXFRM(f *testing.F) {
	f.Add(ToXFRM(event6()).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wire.Parse(wire.MigrateMsg, b)
		if err != nil {
			return
		}
		e, err := FromXFRM(m.(*wire.Migrate))
		if err != nil {
			return
		}
		again, err := FromXFRM(ToXFRM(e))
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		for i := range e.Entries {
			if e.Entries[i].Old.Unspecified() {
				e.Entries[i].Old, again.Entries[i].Old = migrate.Pair{}, migrate.Pair{}
			}
		}
		if d := cmp.Diff(e, again, sameAddrs); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzCareOf(f *testing.F) {
	a := netip.MustParseAddr("2001:db8::1")
	f.Add(bindingUpdate(a, a, a))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, h, ok := CareOf(b); ok && (!c.Is6() || !h.Is6()) {
			t.Fatalf("%v and %v", c, h)
		}
		ParsePacket(b)
	})
}

// A MIGRATE_STATE of the kernel reads as the SA that moved: the destination stands before
// the source. One of compression or of destination options is nobody's here, and one to
// nowhere is refused.
func TestStateMigrate(t *testing.T) {
	addr := netip.MustParseAddr
	m := &wire.StateMigrate{ID: wire.SAID{Dst: wire.AddressOf(addr("192.0.2.2")), SPI: 0x1001, Family: wire.Inet, Proto: 50},
		NewDst: wire.AddressOf(addr("2001:db8::2")), NewSrc: wire.AddressOf(addr("2001:db8::1")), NewReqID: 7, NewFamily: wire.Inet6}
	msg, err := wire.Parse(wire.MigrateState, m.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	e, err := FromStateXFRM(msg.(*wire.StateMigrate))
	if want := (migrate.Single{Proto: 50, SPI: 0x1001, Dst: addr("192.0.2.2"), New: migrate.Pair{Src: addr("2001:db8::1"), Dst: addr("2001:db8::2")}}); err != nil || *e != want {
		t.Errorf("%+v, %v", e, err)
	}
	for _, proto := range []uint8{108, 60, 43} {
		x := *m
		x.ID.Proto = proto
		if e, err := FromStateXFRM(&x); e != nil || err != nil {
			t.Errorf("protocol %d: %+v, %v", proto, e, err)
		}
	}
	for name, spoil := range map[string]func(*wire.StateMigrate){
		"to nowhere": func(m *wire.StateMigrate) { m.NewDst = wire.Address{} }, "of no family": func(m *wire.StateMigrate) { m.NewFamily = 0 },
		"from nowhere": func(m *wire.StateMigrate) { m.ID.Family = 0 }, "without SPI": func(m *wire.StateMigrate) { m.ID.SPI = 0 },
	} {
		x := *m
		spoil(&x)
		if e, err := FromStateXFRM(&x); e != nil || err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// Whatever a MIGRATE_STATE says, what is read of it can be, and is what the message has.
func FuzzStateXFRM(f *testing.F) {
	a, b := wire.AddressOf(netip.MustParseAddr("192.0.2.1")), wire.AddressOf(netip.MustParseAddr("192.0.2.2"))
	f.Add((&wire.StateMigrate{ID: wire.SAID{Dst: b, SPI: 0x1001, Family: wire.Inet, Proto: 50}, NewDst: a, NewSrc: b, NewReqID: 7, NewFamily: wire.Inet}).Append(nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		msg, err := wire.Parse(wire.MigrateState, body)
		if err != nil {
			return
		}
		m := msg.(*wire.StateMigrate)
		e, err := FromStateXFRM(m)
		if err != nil || e == nil {
			return
		}
		if err := e.Check(); err != nil {
			t.Fatal(err)
		}
		// Of an IPv4 address the kernel has the first four octets; the rest may be anything.
		octets := func(a wire.Address, n netip.Addr) bool { return string(a[:n.BitLen()/8]) == string(n.AsSlice()) }
		if e.SPI != m.ID.SPI || e.Proto != m.ID.Proto || !octets(m.ID.Dst, e.Dst) || !octets(m.NewSrc, e.New.Src) || !octets(m.NewDst, e.New.Dst) {
			t.Fatalf("%+v is read as %+v", m, e)
		}
	})
}
