package form

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iked/migrate"
	"iked/spd"
	"iked/xfrm/wire"
)

// record is one event of a recording, and the message that it came in.
type record struct {
	event *migrate.Event
	pfkey []byte // nil: netlink
	at    time.Time
}

// recording reads the text of a recording.
func recording(t testing.TB, file string) (all []record) {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i := 0; i < len(lines); i++ {
		if len(lines[i]) < 8 {
			continue
		}
		at, err := time.Parse(time.TimeOnly, lines[i][:8])
		if err != nil {
			continue
		}
		var body []string
		head := lines[i]
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "   ") {
			i++
			body = append(body, strings.TrimSpace(lines[i]))
		}
		r := record{at: at}
		switch {
		case strings.Contains(head, "NETLINK MIGRATE"):
			r.event, err = FromXFRM(printedXFRM(t, body))
		case strings.Contains(head, "X_MIGRATE"):
			r.pfkey = printedPFKey(t, body)
			r.event, err = ParsePFKey(r.pfkey)
		default:
			continue
		}
		if err != nil {
			t.Fatalf("%s: %s: %v", file, head, err)
		}
		all = append(all, r)
	}
	if len(all) < 20 {
		t.Fatalf("%s: %d events", file, len(all))
	}
	return all
}

func printedXFRM(t testing.TB, body []string) *wire.Migrate {
	t.Helper()
	m := &wire.Migrate{}
	var src, dst, old, oldDst, next, nextDst string
	for _, l := range body {
		var err error
		switch {
		case strings.HasPrefix(l, "userpolicy_id"):
			s := &m.Sel
			var index int
			_, err = fmt.Sscanf(l, "userpolicy_id: sel src %s dst %s proto %d sport(type) %d/0x%x dport %d/0x%x index %d dir %d", &src, &dst, &s.Proto, &s.SrcPort, &s.SrcPortMask, &s.DstPort, &s.DstPortMask, &index, &m.Dir)
			from, to := netip.MustParsePrefix(src), netip.MustParsePrefix(dst)
			s.Src, s.Dst, s.SrcLen, s.DstLen, s.Family = wire.AddressOf(from.Addr()), wire.AddressOf(to.Addr()), uint8(from.Bits()), uint8(to.Bits()), wire.Inet6
		case strings.HasPrefix(l, "XFRMA_KMADDRESS"):
			k := &wire.KMAddress{}
			_, err = fmt.Sscanf(l, "XFRMA_KMADDRESS local %s remote %s family %d", &src, &dst, &k.Family)
			k.Local, k.Remote = wire.AddressOf(netip.MustParseAddr(src)), wire.AddressOf(netip.MustParseAddr(dst))
			m.KMAddress = k
		case strings.HasPrefix(l, "XFRMA_MIGRATE"):
			var x wire.Migration
			_, err = fmt.Sscanf(l, "XFRMA_MIGRATE old %s -> %s new %s -> %s proto %d mode %d reqid %d fam %d/%d (76 octets)", &old, &oldDst, &next, &nextDst, &x.Proto, &x.Mode, &x.ReqID, &x.OldFamily, &x.NewFamily)
			x.OldSrc, x.OldDst = wire.AddressOf(netip.MustParseAddr(old)), wire.AddressOf(netip.MustParseAddr(oldDst))
			x.NewSrc, x.NewDst = wire.AddressOf(netip.MustParseAddr(next)), wire.AddressOf(netip.MustParseAddr(nextDst))
			m.Migrate = append(m.Migrate, x)
		case strings.HasPrefix(l, "attr 16"):
			main := uint8(0)
			m.PolicyType = &main
		default:
			t.Fatalf("a line that is not known: %s", l)
		}
		if err != nil {
			t.Fatalf("%s: %v", l, err)
		}
	}
	return m
}

func printedPFKey(t testing.TB, body []string) []byte {
	t.Helper()
	b := make([]byte, sadbHeader)
	b[0], b[1], b[3] = pfKeyV2, sadbMigrate, satypeESP
	for _, l := range body {
		_, text, ok := strings.Cut(l, ": ")
		x, err := hex.DecodeString(text)
		if !ok || err != nil {
			t.Fatalf("%s: %v", l, err)
		}
		b = append(b, x...)
	}
	binary.LittleEndian.PutUint16(b[4:], uint16(len(b)/8))
	return b
}

// A MIGRATE of mip6d reads as what it means.
func TestRecorded(t *testing.T) {
	addr := netip.MustParseAddr
	home, agent, careOf, none := addr("2001:db8:1::100"), addr("2001:db8:1::1"), addr("2001:db8:2:0:bc1f:3eff:febe:ab8f"), netip.IPv6Unspecified()
	for _, r := range recording(t, "home-agent.txt")[:2] {
		want := &migrate.Event{
			Source: migrate.Netlink, Dir: migrate.In,
			Selector: spd.KernelSelector{Src: netip.PrefixFrom(home, 128), Dst: netip.PrefixFrom(agent, 128), Proto: 135},
			Entries:  []migrate.Entry{{Proto: 50, Mode: spd.Transport, ReqID: 1, Old: migrate.Pair{Src: none, Dst: none}, New: migrate.Pair{Src: careOf, Dst: agent}}},
			KM:       migrate.Ends{Local: agent, Remote: careOf},
		}
		if r.pfkey != nil {
			want.Source = migrate.PFKey
		}
		if d := cmp.Diff(want, r.event, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Error(d)
		}
	}
}

// Linux tells every MIGRATE by netlink and by PF_KEY: each of the second kind is
// known from the first, and no other is.
func TestRecordedTwice(t *testing.T) {
	for _, file := range []string{"home-agent.txt", "mobile-node.txt"} {
		var once migrate.Once
		fresh, seen := 0, 0
		for _, r := range recording(t, file) {
			switch counts := once.Hear(r.at, r.event); {
			case counts == (r.pfkey != nil):
				t.Errorf("%s, %v: counts: %t, from %v", file, r.at.Format(time.TimeOnly), counts, r.event.Source)
			case counts:
				fresh++
			default:
				seen++
			}
		}
		if at := once.Due(); !at.IsZero() {
			t.Errorf("%s: an event of PF_KEY waits until %v", file, at)
		}
		if seen != fresh || seen == 0 {
			t.Errorf("%s: %d events, %d of them heard again", file, fresh, seen)
		}
	}
}

// The events of a home agent during two moves and the return home: the tunnel's SAs
// follow the care-of address each in its direction, those in transport mode stay,
// and IKE follows KMADDRESS. Hearing all of it twice changes nothing.
func TestRecordedPlan(t *testing.T) {
	addr := netip.MustParseAddr
	home, agent := addr("2001:db8:1::100"), addr("2001:db8:1::1")
	in, out := migrate.Pair{Src: home, Dst: agent}, migrate.Pair{Src: agent, Dst: home}
	ts := func(s string) []spd.TS { return []spd.TS{spd.FromPrefix(netip.MustParsePrefix(s))} }
	child := func(id uint64, mode spd.Mode, reqid uint32, remote, local string) migrate.Child {
		return migrate.Child{ID: id, IKE: 1, Proto: 50, Mode: mode, ReqID: reqid, In: in, Out: out, Local: ts(local), Remote: ts(remote)}
	}
	s := migrate.State{
		IKE: []migrate.IKE{{ID: 1, Ends: migrate.Ends{Local: agent, Remote: home}}, {ID: 2, Ends: migrate.Ends{Local: agent, Remote: addr("2001:db8:9::9")}}},
		Children: []migrate.Child{
			child(1, spd.Transport, 1, "2001:db8:1::100/128", "2001:db8:1::1/128"),
			child(5, spd.Tunnel, 5, "2001:db8:1::100/128", "::/0"), child(6, spd.Tunnel, 6, "2001:db8:1::100/128", "::/0"),
			{ID: 9, IKE: 2, Proto: 50, Mode: spd.Tunnel, ReqID: 9, In: in, Out: out, Local: ts("::/0"), Remote: ts("2001:db8:1::100/128")},
		},
	}
	remotes := map[string]netip.Addr{}
	for _, r := range recording(t, "home-agent.txt") {
		for range 2 {
			p := migrate.Make(r.event, &s)
			s.Apply(&p)
		}
		remotes[r.at.Format(time.TimeOnly)] = s.IKE[0].Remote
		p := migrate.Make(r.event, &s)
		if !p.Empty() {
			t.Fatalf("%v: the same event moves again: %+v", r.at, p)
		}
	}
	want := map[string]netip.Addr{"19:41:12": addr("2001:db8:2:0:bc1f:3eff:febe:ab8f"), "19:41:23": addr("2001:db8:3:0:bc1f:3eff:febe:ab8f"), "19:41:40": home}
	for at, a := range want {
		if remotes[at] != a {
			t.Errorf("at %s IKE is with %v, expected %v", at, remotes[at], a)
		}
	}
	if s.IKE[1].Remote != addr("2001:db8:9::9") || s.Children[3].In != in {
		t.Error("an IKE SA with another peer moved")
	}
	if c := s.Children[0]; c.In != in || c.Out != out {
		t.Errorf("the SA in transport mode moved: %+v", c)
	}
}

// What is written is what was recorded, but for octets that nobody reads.
func TestPFKeyGolden(t *testing.T) {
	for _, r := range recording(t, "home-agent.txt") {
		if r.pfkey == nil {
			continue
		}
		want := append([]byte(nil), r.pfkey...)
		clearPadding(want)
		got := AppendPFKey(nil, r.event, 0, 0)
		if d := cmp.Diff(hex.Dump(want), hex.Dump(got)); d != "" {
			t.Fatal(d)
		}
	}
}

// clearPadding clears what the kernel leaves behind an address: whatever was in its
// memory.
func clearPadding(b []byte) {
	for b = b[sadbHeader:]; len(b) >= 8; {
		n := int(binary.LittleEndian.Uint16(b)) * 8
		if t := binary.LittleEndian.Uint16(b[2:]); t == extSrc || t == extDst {
			clear(b[8+sockaddrIn6 : n])
		}
		b = b[n:]
	}
}

// Every beginning of a message is refused, and none of them makes the parser panic.
func TestPFKeyPrefixes(t *testing.T) {
	for _, r := range recording(t, "mobile-node.txt") {
		if r.pfkey == nil {
			continue
		}
		for n := range r.pfkey {
			b := append([]byte(nil), r.pfkey[:n]...)
			if _, err := ParsePFKey(b); err == nil {
				t.Fatalf("%d of %d octets are taken for a whole message", n, len(r.pfkey))
			}
			if n >= 8 {
				binary.LittleEndian.PutUint16(b[4:], uint16(n/8))
				if _, err := ParsePFKey(b); err == nil {
					t.Fatalf("%d of %d octets with a right length are taken for a whole message", n, len(r.pfkey))
				}
			}
		}
	}
}
