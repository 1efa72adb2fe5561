package wire

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"iked/internal/secret"
)

func ptr[T any](v T) *T { return &v }

var (
	left  = AddressOf(netip.MustParseAddr("192.0.2.1"))
	right = AddressOf(netip.MustParseAddr("2001:db8::2"))
)

// everything has each attribute once.
func everything() Attrs {
	return Attrs{
		AlgAuth: NewAlgorithm("hmac(sha256)", secret.New(bytes.Repeat([]byte{1}, 32)), 0), AlgCrypt: NewAlgorithm("cbc(aes)", secret.New(bytes.Repeat([]byte{2}, 16)), 0),
		AlgComp: NewAlgorithm("deflate", secret.Bytes{}, 0), Encap: &Encap{EncapUDP, 4500, 4501, left},
		Templates: []Template{aTemplate(), aTemplate()}, SA: ptr(anSA()), Policy: ptr(aPolicy()),
		SecCtx: &SecCtx{1, 1, []byte("system_u:object_r:ipsec_spd_t:s0")}, LifetimeVal: &Used{1, 2, 3, 4}, Replay: &Replay{5, 6, 7},
		ReplayThresh: ptr(uint32(8)), ETimerThresh: ptr(uint32(9)), SrcAddr: &left, CoAddr: &right, LastUsed: ptr(uint64(10)), PolicyType: ptr(uint8(1)),
		Migrate: []Migration{{left, left, right, right, 50, 1, 11, 2, 10}}, AlgAEAD: NewAlgorithm("rfc4106(gcm(aes))", secret.New(bytes.Repeat([]byte{3}, 20)), 128),
		KMAddress: &KMAddress{left, right, 2}, AlgAuthTrunc: NewAlgorithm("hmac(sha1)", secret.New(bytes.Repeat([]byte{4}, 20)), 96), Mark: &Mark{12, 13},
		TFCPad: ptr(uint32(14)), ReplayESN: &ReplayESN{15, 16, 17, 18, 64, []uint32{19, 20}}, ExtraFlags: ptr(uint32(3)), Proto: ptr(uint8(50)),
		AddressFilter: &AddressFilter{left, right, 10, 64, 128}, Offload: &Offload{21, OffloadInbound}, SetMark: ptr(uint32(22)), SetMarkMask: ptr(uint32(23)),
		IfID: ptr(uint32(24)), MTimerThresh: ptr(uint32(25)), SADir: ptr(SADirOut), NATKeepalive: ptr(uint32(26)), PCPU: ptr(uint32(27)),
		IPTFSDropTime: ptr(uint32(28)), IPTFSReorderWindow: ptr(uint16(29)), IPTFSDontFrag: true, IPTFSInitDelay: ptr(uint32(30)),
		IPTFSMaxQueue: ptr(uint32(31)), IPTFSPacketSize: ptr(uint32(32)), Unknown: []Unknown{{99, []byte{1, 2, 3}}},
	}
}

func aSelector() Selector {
	return Selector{right, left, 0x0102, 0x0304, 0x0506, 0x0708, Inet6, 64, 32, 17, 0x090a0b0c, 0x0d0e0f10}
}

func anSA() SAInfo {
	return SAInfo{aSelector(), ID{left, 0x11121314, 50}, right, Lifetime{1, 2, 3, 4, 5, 6, 7, 8}, Used{9, 10, 11, 12}, Stats{13, 14, 15}, 16, 17, Inet, ModeBEET, 32, 0xe1}
}

func aTemplate() Template {
	return Template{ID{left, 0x21222324, 51}, Inet, right, 18, 1, 2, 3, 0xfffffff1, 0xfffffff2, 0xfffffff3}
}

func aPolicy() PolicyInfo {
	return PolicyInfo{aSelector(), Lifetime{21, 22, 23, 24, 25, 26, 27, 28}, Used{29, 30, 31, 32}, 33, 34, DirFwd, Block, PolicyICMP, 3}
}

// samples has a message of each type.
func samples() map[Type]Message {
	a := everything()
	id := SAID{left, 0x31323334, Inet, 50}
	pid := PolicyID{aSelector(), 35, DirOut}
	return map[Type]Message{
		NewSA: &SA{anSA(), a}, UpdSA: &SA{anSA(), a}, DelSA: &SAByID{id, a}, GetSA: &SAByID{id, Attrs{}},
		NewPolicy: &Policy{aPolicy(), a}, UpdPolicy: &Policy{aPolicy(), a}, DelPolicy: &PolicyByID{pid, a}, GetPolicy: &PolicyByID{pid, Attrs{}},
		AllocSPI: &SPIRequest{anSA(), 256, 0xffffffff, a}, AcquireMsg: &Acquire{ID{left, 0, 50}, right, aSelector(), aPolicy(), 36, 37, 38, 39, a},
		ExpireMsg: &Expire{anSA(), true, a}, PolExpire: &PolicyExpire{aPolicy(), true, a}, FlushSAMsg: &FlushSA{50, Attrs{IfID: ptr(uint32(1))}}, FlushPolMsg: &Dump{a},
		NewAE: &AE{id, right, AEReplay, 40, a}, GetAE: &AE{id, right, AEReplay, 40, Attrs{}}, ReportMsg: &Report{60, aSelector(), a}, MigrateMsg: &Migrate{pid, a},
		NewSADInfo: &SADInfo{^uint32(0), ptr(uint32(41)), 42, 43, true}, GetSADInfo: &SADInfo{Flags: 1},
		NewSPDInfo: &SPDInfo{0, &SPDCounts{1, 2, 3, 4, 5, 6}, 44, 45, true, &HashThreshold{32, 24}, &HashThreshold{128, 64}}, GetSPDInfo: &SPDInfo{},
		MappingMsg: &Mapping{id, 46, left, right, 4500, 4501}, SetDefault: &Default{1, 2, 0}, GetDefault: &Default{2, 2, 2},
		MigrateState: &StateMigrate{id, right, left, Mark{47, 48}, aSelector(), 49, StateMigrateClearOffload, Inet6, a},
	}
}

// What Append makes, Parse reads, for every message and attribute.
func TestRoundTrip(t *testing.T) {
	for typ, m := range samples() {
		want := m.Append(nil)
		got, err := Parse(typ, want)
		if err != nil {
			t.Errorf("%v: %v", typ, err)
			continue
		}
		if again := got.Append(nil); !bytes.Equal(again, want) {
			t.Errorf("%v:\n%x became\n%x", typ, want, again)
		}
		if fmt.Sprintf("%T", got) != fmt.Sprintf("%T", m) {
			t.Errorf("%v was read as %T", typ, got)
		}
	}
	if len(samples()) != len(typeNames) {
		t.Errorf("%d samples of %d message types", len(samples()), len(typeNames))
	}
}

// A message that is cut anywhere but between two attributes is refused.
func TestEveryPrefix(t *testing.T) {
	for typ, m := range samples() {
		b := m.Append(nil)
		whole := map[int]bool{len(b): true}
		if at, ok := map[Type]int{NewSA: saInfoLen, UpdSA: saInfoLen, DelSA: SAIDLen, GetSA: SAIDLen, NewPolicy: policyInfoLen, UpdPolicy: policyInfoLen,
			DelPolicy: policyIDLen, GetPolicy: policyIDLen, AllocSPI: saInfoLen + 8, AcquireMsg: acquireLen, ExpireMsg: saInfoLen + 8, PolExpire: policyInfoLen + 8,
			NewAE: aeLen, GetAE: aeLen, ReportMsg: 4 + SelectorLen, MigrateMsg: policyIDLen, MigrateState: stateMigrateLen, NewSADInfo: 4, GetSADInfo: 4,
			NewSPDInfo: 4, GetSPDInfo: 4, FlushPolMsg: 0, FlushSAMsg: 4}[typ]; ok {
			whole[at] = true
			if typ == FlushSAMsg {
				whole[1], whole[2], whole[3] = true, true, true // one octet, and what fills it up
			}
			for rest := b[at:]; len(rest) > 0; {
				n := int(rest[0]) | int(rest[1])<<8
				if isBigEndian() {
					n = int(rest[1]) | int(rest[0])<<8
				}
				for i := n; i <= align(n); i++ {
					whole[len(b)-len(rest)+i] = true
				}
				rest = rest[min(align(n), len(rest)):]
			}
		}
		for n := range b {
			got, err := Parse(typ, b[:n])
			if err == nil && !whole[n] {
				t.Errorf("%v cut to %d of %d octets was read as %T", typ, n, len(b), got)
			}
			if err != nil && (!errors.Is(err, ErrMalformed) || whole[n]) {
				t.Errorf("%v cut to %d of %d octets: %v", typ, n, len(b), err)
			}
		}
	}
}

func isBigEndian() bool { return append16(nil, 1)[1] == 1 }

// A parser never trusts a length or a count of the sender.
func TestRefused(t *testing.T) {
	algo := func(name string, bits uint32, key int) []byte {
		b := pad(append([]byte(nil), name...), 64-len(name))
		return append(append32(b, bits), make([]byte, key)...)
	}
	attr := func(typ uint16, v []byte) []byte { return append(attrHead(nil, typ, len(v)), v...) }
	for name, b := range map[string][]byte{
		"key shorter than it says":       attr(attrAlgCrypt, algo("cbc(aes)", 128, 12)),
		"key longer than it says":        attr(attrAlgCrypt, algo("cbc(aes)", 64, 16)),
		"key length that wraps":          attr(attrAlgCrypt, algo("cbc(aes)", 0xffffffff, 0)),
		"key beyond the bound":           attr(attrAlgCrypt, algo("cbc(aes)", 8*(maxKeyLen+4), maxKeyLen+4)),
		"name without an end":            attr(attrAlgCrypt, algo(strings.Repeat("x", 64), 0, 0)),
		"seven templates":                attr(attrTmpl, make([]byte, 7*templateLen)),
		"a template and a half":          attr(attrTmpl, make([]byte, templateLen+32)),
		"no template":                    attr(attrTmpl, nil),
		"bitmap longer than it says":     attr(attrReplayESNVal, append32(append(append32(nil, 0), make([]byte, 20)...), 1)),
		"bitmap beyond the bound":        attr(attrReplayESNVal, append(append32(nil, 129), make([]byte, 20+129*4)...)),
		"window larger than its bitmap":  attr(attrReplayESNVal, append32(append32(append(append32(nil, 1), make([]byte, 16)...), 33), 0)),
		"attribute shorter than itself":  {3, 0, 3, 0},
		"attribute twice":                append(attr(attrMark, make([]byte, 8)), attr(attrMark, make([]byte, 8))...),
		"number of two octets":           attr(attrIfID, []byte{1, 2}),
		"label longer than it says":      attr(attrSecCtx, make([]byte, 12)),
		"flag with a value":              attr(attrIPTFSDontFrag, []byte{1, 0, 0, 0}),
		"unknown attributes without end": bytes.Repeat(attr(200, nil), maxUnknown+1),
	} {
		if _, err := Parse(FlushPolMsg, b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	sa := anSA()
	sa.Sel.Family, sa.Sel.DstLen = Inet, 33
	if _, err := Parse(NewSA, sa.append(nil)); !errors.Is(err, ErrMalformed) {
		t.Errorf("prefix of 33 bits: %v", err)
	}
	if _, err := Parse(Type(99), nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("unknown type: %v", err)
	}
}

// The kernel tells of a migration with one attribute for each template, while a
// request has all in one.
func TestMigrateComesSingly(t *testing.T) {
	a := Attrs{Migrate: []Migration{{ReqID: 1}}}
	b := append((&Attrs{Migrate: []Migration{{ReqID: 2}}}).append(nil), a.append(nil)...)
	m, err := Parse(MigrateMsg, append(make([]byte, policyIDLen), b...))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.(*Migrate).Migrate; len(got) != 2 || got[0].ReqID != 2 || got[1].ReqID != 1 {
		t.Errorf("%+v", got)
	}
}

// No verb shows a key.
func TestKeysNeverPrint(t *testing.T) {
	m := &SA{anSA(), everything()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		s := fmt.Sprintf(verb, m) + fmt.Sprintf(verb, m.AlgAEAD) + fmt.Sprintf(verb, *m.AlgAEAD)
		for _, bad := range []string{strings.Repeat("03", 20), strings.Repeat("3 ", 20), strings.Repeat("0x3, ", 20)} {
			if strings.Contains(s, bad) {
				t.Errorf("%s shows a key: %s", verb, s)
			}
		}
	}
	k := m.AlgAEAD.Key
	m.Destroy()
	if !bytes.Equal(k.Reveal(), make([]byte, 20)) {
		t.Error("Destroy leaves a key")
	}
}

// Addresses keep their family: an IPv6 prefix whose tail is zero is no IPv4
// address.
func TestAddress(t *testing.T) {
	for _, s := range []string{"0.0.0.0", "192.0.2.1", "::", "2001:db8::", "::ffff:192.0.2.1", "fe80::1"} {
		a := netip.MustParseAddr(s)
		if got := AddressOf(a).Addr(FamilyOf(a)); got != a {
			t.Errorf("%v became %v", a, got)
		}
	}
	if (AddressOf(netip.Addr{}) != Address{}) || (Address{1}).Addr(0).IsValid() {
		t.Error("no address, no family")
	}
}

// Many messages in one datagram are told apart, and what does not fit is an error.
func TestMessages(t *testing.T) {
	var b []byte
	for i := range uint32(3) {
		b = AppendMessage(b, Header{SetDefault, FlagRequest, i, 7}, &Default{1, 2, uint8(i % 3)})
	}
	n := uint32(0)
	for m, err := range Messages(b) {
		if err != nil || m.Seq != n || m.Type != SetDefault || m.Port != 7 || m.Flags != FlagRequest || len(m.Body) != 3 {
			t.Fatalf("message %d: %+v, %v", n, m, err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d messages", n)
	}
	for cut := 1; cut < 19; cut++ {
		var last error
		for _, last = range Messages(b[:cut]) {
		}
		if !errors.Is(last, ErrMalformed) {
			t.Errorf("cut to %d octets: %v", cut, last)
		}
	}
}

// An acknowledgement has the error number and, where the kernel gives it, the
// reason in words, whether it echoes the request or not.
func TestAcks(t *testing.T) {
	text := append(attrHead(nil, 1, 29), "Requested type not found....\x00"...)
	capped := append(append(append32(nil, uint32(0xffffffff-92)), make([]byte, 16)...), text...)
	a, err := ParseAck(Header{Type: ErrorType, Flags: flagCapped | flagAckTLVs}, capped)
	if err != nil || a.Errno != 93 || a.Text != "Requested type not found...." {
		t.Errorf("%+v, %v", a, err)
	}
	echo := append(append32(append32(nil, uint32(0xffffffff-92)), 19), make([]byte, 12+4)...)
	a, err = ParseAck(Header{Type: ErrorType, Flags: flagAckTLVs}, append(echo, text...))
	if err != nil || a.Errno != 93 || a.Text == "" {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err = ParseAck(Header{Type: ErrorType}, make([]byte, 20)); err != nil || a != (Ack{}) {
		t.Errorf("success: %+v, %v", a, err)
	}
	if a, err = ParseAck(Header{Type: DoneType}, append32(nil, 0)); err != nil || a != (Ack{}) {
		t.Errorf("done: %+v, %v", a, err)
	}
	for name, b := range map[string][]byte{"short": make([]byte, 19), "positive error": append(append32(nil, 5), make([]byte, 16)...),
		"echo that does not fit": append(append32(append32(nil, 0), 400), make([]byte, 12)...)} {
		if _, err := ParseAck(Header{Type: ErrorType, Flags: flagAckTLVs}, b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Any values survive the way to the wire and back.
func TestAnyValues(t *testing.T) {
	gen := rapid.Custom(func(t *rapid.T) *SA {
		u := rapid.Uint32()
		addr := func(name string) (a Address) {
			copy(a[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name))
			return a
		}
		m := &SA{SAInfo: anSA()}
		m.ID = ID{addr("dst"), u.Draw(t, "spi"), rapid.Byte().Draw(t, "proto")}
		m.Src, m.ReqID, m.Seq = addr("src"), u.Draw(t, "reqid"), u.Draw(t, "seq")
		m.Lifetime.HardBytes, m.Used.Packets = rapid.Uint64().Draw(t, "bytes"), rapid.Uint64().Draw(t, "packets")
		m.Sel = Selector{addr("sel dst"), addr("sel src"), rapid.Uint16().Draw(t, "dport"), rapid.Uint16().Draw(t, "dmask"), rapid.Uint16().Draw(t, "sport"),
			rapid.Uint16().Draw(t, "smask"), Inet6, rapid.Uint8Range(0, 128).Draw(t, "dlen"), rapid.Uint8Range(0, 128).Draw(t, "slen"), 0, rapid.Int32().Draw(t, "if"), u.Draw(t, "user")}
		if rapid.Bool().Draw(t, "with key") {
			m.AlgAEAD = NewAlgorithm(rapid.StringMatching(`[a-z0-9()]{0,63}`).Draw(t, "name"), secret.New(rapid.SliceOfN(rapid.Byte(), 0, maxKeyLen).Draw(t, "key")), u.Draw(t, "icv"))
		}
		if rapid.Bool().Draw(t, "with window") {
			bits := rapid.SliceOfN(u, 0, maxReplayWords).Draw(t, "bitmap")
			m.ReplayESN = &ReplayESN{u.Draw(t, "oseq"), u.Draw(t, "rseq"), u.Draw(t, "oseqhi"), u.Draw(t, "seqhi"), rapid.Uint32Range(0, uint32(len(bits)*32)).Draw(t, "window"), bits}
		}
		if rapid.Bool().Draw(t, "with mark") {
			m.Mark, m.IfID = &Mark{u.Draw(t, "mark"), u.Draw(t, "mask")}, ptr(u.Draw(t, "if_id"))
		}
		return m
	})
	rapid.Check(t, func(t *rapid.T) {
		m := gen.Draw(t, "SA")
		b := m.Append(nil)
		got, err := Parse(NewSA, b)
		if err != nil {
			t.Fatal(err)
		}
		g := got.(*SA)
		if g.SAInfo != m.SAInfo || !bytes.Equal(g.Append(nil), b) || (g.AlgAEAD != nil && !g.AlgAEAD.Key.Equal(m.AlgAEAD.Key)) {
			t.Fatalf("%+v became %+v", m, g)
		}
	})
}
