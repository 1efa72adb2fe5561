package offer

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/spd"
)

func parse(t *testing.T, proto suite.Protocol, list ...string) []suite.Proposal {
	t.Helper()
	p, err := suite.ParseProposals(proto, list)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func suiteConfig(t *testing.T) *keyex.ChildConfig {
	return &keyex.ChildConfig{Name: "net", Proposals: parse(t, suite.ProtoESP, "aes128-sha256"), AH: parse(t, suite.ProtoAH, "sha256"), Time: keyex.Lifetime{Hard: time.Hour}}
}

// The octets of an SA payload that demands AH and ESP together, against the drawings
// of RFC 2408, Sections 3.4 to 3.6, and the numbers of RFC 2407, Sections 4.4 and
// 4.5: two proposals of one number, AH before ESP.
func TestGoldenSuite(t *testing.T) {
	got := (&message.SA{Proposals: Suites(suiteConfig(t), SPIs{Main: 0x11223344, AH: 0x55667788}, Want{Encap: message.EncapTunnel, Seconds: 3600})}).Append(nil)
	want := strings.Join([]string{
		"00000001", "00000001", // DOI IPsec, identity only
		"0200003c", "01020402", "55667788", // proposal 1: AH, SPI of 4 octets, 2 transforms
		"03000018", "01050000", "80050005", "80040001", "80010001", "80020e10", // AH_SHA2-256, tunnel, 3600 s
		"00000018", "02050000", "80050005", "80040002", "80010001", "80020e10", // the same in transport mode
		"00000028", "01030401", "11223344", // proposal 1: ESP
		"0000001c", "010c0000", "80060080", "80050005", "80040001", "80010001", "80020e10", // ESP_AES, 128 bits, HMAC-SHA2-256, tunnel
	}, "")
	if hex.EncodeToString(got) != want {
		t.Errorf("\n%x, expected\n%s", got, want)
	}
}

// The octets of the proposals of ESP with compression, and of ESP alone behind them:
// IPCOMP has a CPI of two octets and the transform DEFLATE (RFC 2407, Sections 4.4.5
// and 4.6.1).
func TestGoldenCompression(t *testing.T) {
	cfg := suiteConfig(t)
	cfg.AH = nil
	got := (&message.SA{Proposals: Suites(cfg, SPIs{Main: 0x11223344, CPI: 0xabcd}, Want{Encap: message.EncapTransport, Seconds: 3600})}).Append(nil)
	esp := func(next, number string) string {
		return next + "000028" + number + "030401" + "11223344" + "0000001c" + "010c0000" + "80060080" + "80050005" + "80040002" + "80010001" + "80020e10"
	}
	want := "00000001" + "00000001" + esp("02", "01") +
		"0200001e" + "01040201" + "abcd" + "00000014" + "01020000" + "80040002" + "80010001" + "80020e10" +
		esp("00", "02")
	if hex.EncodeToString(got) != want {
		t.Errorf("\n%x, expected\n%s", got, want)
	}
}

// Compression has the mode of ESP, and its group or none.
func TestSelectComp(t *testing.T) {
	for name, c := range map[string]struct {
		w     Want
		id    uint8
		mode  spd.Mode
		udp   bool
		group uint16
		why   string
	}{
		"tunnel":        {w: Want{Encap: 1}, id: 2},
		"UDP":           {w: Want{Encap: message.EncapUDPTunnel}, id: 2, udp: true},
		"no group":      {w: Want{Encap: 1}, id: 2, group: 14},
		"its group":     {w: Want{Encap: 1, Group: 14}, id: 2, group: 14},
		"another group": {w: Want{Encap: 1, Group: 15}, id: 2, group: 14, why: "group"},
		"another mode":  {w: Want{Encap: 2}, id: 2, why: "with mode transport inside of ESP in mode tunnel"},
		"not in UDP":    {w: Want{Encap: 1}, id: 2, udp: true, why: "with mode tunnel inside of ESP in mode tunnel in UDP"},
		"LZS":           {w: Want{Encap: 1}, id: 3, why: "IPCOMP transform 3"},
	} {
		p := &message.Proposal{Protocol: message.ProtoIPComp, Transforms: []message.Transform{{ID: 1, Attributes: c.w.attributes(nil)}, {ID: c.id, Attributes: c.w.attributes(nil)}}}
		at, why := SelectComp(p, c.mode, c.udp, c.group)
		if (why == "") != (c.why == "") || !strings.Contains(why, c.why) || why == "" && at != 1 {
			t.Errorf("%s: transform %d, %q; expected %q", name, at, why, c.why)
		}
	}
}

// RFC 2408, Section 4.2: proposals of one number belong together, in either order
// and wherever they stand; those of one protocol are alternatives.
func TestReadSuites(t *testing.T) {
	ah := func(n uint8) message.Proposal {
		return message.Proposal{Number: n, Protocol: message.ProtoAH, SPI: []byte{0, 0, 2, n}}
	}
	esp := func(n uint8) message.Proposal {
		return message.Proposal{Number: n, Protocol: message.ProtoESP, SPI: []byte{0, 0, 1, n}}
	}
	comp := message.Proposal{Number: 1, Protocol: message.ProtoIPComp, SPI: []byte{1, 0}}
	low := message.Proposal{Number: 1, Protocol: message.ProtoAH, SPI: []byte{0, 0, 0, 255}}
	for name, c := range map[string]struct {
		list []message.Proposal
		want string // protocols of each suite
		why  string
	}{
		"AH first":     {[]message.Proposal{ah(1), esp(1)}, "23", ""},
		"ESP first":    {[]message.Proposal{esp(1), ah(1)}, "32", ""},
		"apart":        {[]message.Proposal{ah(1), esp(2), esp(1)}, "23 3", ""},
		"alternatives": {[]message.Proposal{ah(1), esp(2), ah(3), esp(3)}, "2 3 23", ""},
		"one protocol": {[]message.Proposal{esp(1), esp(1)}, "3 3", ""},
		"twice":        {[]message.Proposal{esp(1), ah(1), esp(1)}, "", "a protocol twice"},
		"compression":  {[]message.Proposal{esp(1), comp, esp(2)}, "34 3", ""},
		"all three":    {[]message.Proposal{comp, ah(1), esp(1)}, "423", ""},
		"in four":      {[]message.Proposal{esp(1), {Number: 1, Protocol: message.ProtoIPComp, SPI: []byte{0, 0, 1, 0}}}, "34", ""},
		"nothing else": {[]message.Proposal{comp, esp(2)}, "3", "protects nothing"},
		"low CPI":      {[]message.Proposal{esp(1), {Number: 1, Protocol: message.ProtoIPComp, SPI: []byte{0, 200}}, esp(2)}, "3", "CPI 200"},
		"long CPI":     {[]message.Proposal{esp(1), {Number: 1, Protocol: message.ProtoIPComp, SPI: []byte{0, 1, 1, 0}}, esp(2)}, "3", "above 65535"},
		"ISAKMP in it": {[]message.Proposal{esp(1), {Number: 1, Protocol: message.ProtoISAKMP}}, "", "ISAKMP"},
		"low SPI":      {[]message.Proposal{low, esp(1), ah(2)}, "2", "below 256"},
	} {
		got, why := ReadSuites(c.list)
		var words []string
		for _, s := range got {
			w := ""
			for _, p := range s {
				w += string('0' + byte(p.Protocol))
			}
			words = append(words, w)
		}
		if strings.Join(words, " ") != c.want || !strings.Contains(why, c.why) || why != "" && c.why == "" {
			t.Errorf("%s: %q, %q; expected %q, %q", name, words, why, c.want, c.why)
		}
	}
}

// AH around ESP is taken in transport mode, and in the mode of ESP, by which other
// implementations mean the same header; never in one that makes another packet, with
// another group, or with a lifetime that the check level refuses.
func TestSelectAround(t *testing.T) {
	transform := func(w Want) message.Transform { return transforms(parse(t, suite.ProtoAH, "sha256")[0], w, 0)[0] }
	tunnel, transport := Want{Encap: message.EncapTunnel}, Want{Encap: message.EncapTransport}
	for name, c := range map[string]struct {
		w     Want
		mode  spd.Mode
		group uint16
		level keyex.LifeCheck
		why   string
	}{
		"tunnel in tunnel":       {w: tunnel, mode: spd.Tunnel},
		"transport in tunnel":    {w: transport, mode: spd.Tunnel},
		"transport in transport": {w: transport, mode: spd.Transport},
		"tunnel in transport":    {w: tunnel, mode: spd.Transport, why: "AH with mode tunnel around ESP in mode transport"},
		"UDP":                    {w: Want{Encap: message.EncapUDPTunnel}, mode: spd.Tunnel, why: "AH with mode tunnel in UDP around"},
		"BEET":                   {w: Want{Encap: message.EncapBEET}, mode: spd.Tunnel, why: "AH with mode beet around"},
		"the same group":         {w: Want{Encap: 1, Group: 14}, group: 14},
		"another group":          {w: Want{Encap: 1, Group: 15}, group: 14, why: "group"},
		"no group":               {w: tunnel, group: 14, why: "group"},
		"a longer life":          {w: Want{Encap: 1, Seconds: 7200}, level: keyex.LifeStrict, why: "7200 s"},
	} {
		p := &message.Proposal{Protocol: message.ProtoAH, Transforms: []message.Transform{transform(Want{Encap: message.EncapBEET}), transform(c.w)}}
		at, got, why := SelectAround(suiteConfig(t), c.level, p, c.mode, c.group)
		if (why == "") != (c.why == "") || !strings.Contains(why, c.why) || why == "" && (at != 1 || got.Encap != c.w.Encap) {
			t.Errorf("%s: transform %d, %q; expected %q", name, at, why, c.why)
		}
	}
}

// However many alternatives are configured, an offer stays one that can be written.
func TestSuitesAreBounded(t *testing.T) {
	cfg := suiteConfig(t)
	for len(cfg.AH) < 12 {
		cfg.AH = append(cfg.AH, parse(t, suite.ProtoAH, "sha256-sha384-sha512-sha1-esn-noesn")...)
		cfg.Proposals = append(cfg.Proposals, parse(t, suite.ProtoESP, "aes128-sha256")...)
	}
	list := Suites(cfg, SPIs{Main: 256, AH: 257, CPI: 258}, Want{Encap: message.EncapTunnel})
	if len(list) != 3*maxSuites || list[len(list)-1].Number != maxSuites {
		t.Fatalf("%d proposals", len(list))
	}
	if slices.ContainsFunc(list, func(p message.Proposal) bool { return len(p.Transforms) > maxPhase2 }) {
		t.Error("a proposal has too many transforms")
	}
	if _, why := ReadSuites(list); why != "" {
		t.Error(why)
	}
}

// A peer that repeats its choice without compression repeats it unchanged.
func TestSameButComp(t *testing.T) {
	cfg := suiteConfig(t)
	list, _ := ReadSuites(Suites(cfg, SPIs{Main: 256, AH: 257, CPI: 258}, Want{Encap: message.EncapTunnel}))
	if len(list) != 2 || !list[1].SameButComp(list[0]) || list[0].SameButComp(list[0]) {
		t.Fatalf("%d suites", len(list))
	}
	for name, spoil := range map[string]func(Suite){
		"another SPI":  func(s Suite) { s[1].SPI = []byte{0, 0, 9, 9} },
		"fewer":        func(s Suite) { s[1].Transforms = nil },
		"another life": func(s Suite) { s[1].Transforms = transforms(cfg.Proposals[0], Want{Encap: 1, Seconds: 9}, 0) },
	} {
		other := slices.Clone(list[1])
		spoil(other)
		if other.SameButComp(list[0]) {
			t.Errorf("%s: the same", name)
		}
	}
}
