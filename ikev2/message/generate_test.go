package message

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"iked/crypto/suite"
	"iked/internal/ident"
)

func octets(lo, hi int) *rapid.Generator[[]byte] { return rapid.SliceOfN(rapid.Byte(), lo, hi) }

func genTS(t *rapid.T) TS {
	ts := TS{Type: TSIPv4, Proto: rapid.Byte().Draw(t, "proto")}
	size := 4
	if rapid.Bool().Draw(t, "v6") {
		ts.Type, size = TSIPv6, 16
	}
	ts.Start, _ = netip.AddrFromSlice(octets(size, size).Draw(t, "start"))
	ts.End, _ = netip.AddrFromSlice(octets(size, size).Draw(t, "end"))
	if ts.End.Less(ts.Start) {
		ts.Start, ts.End = ts.End, ts.Start
	}
	ts.StartPort, ts.EndPort = rapid.Uint16().Draw(t, "port"), rapid.Uint16().Draw(t, "port")
	if ts.StartPort > ts.EndPort {
		ts.StartPort, ts.EndPort = ts.EndPort, ts.StartPort
	}
	return ts
}

func genProposal(t *rapid.T, number int) Proposal {
	p := Proposal{Number: uint8(number)}
	size := 4
	p.Protocol = rapid.SampledFrom([]suite.Protocol{suite.ProtoESP, suite.ProtoAH, suite.ProtoIKE}).Draw(t, "protocol")
	if p.Protocol == suite.ProtoIKE {
		size = rapid.SampledFrom([]int{0, 8}).Draw(t, "SPI size")
	}
	p.SPI = octets(size, size).Draw(t, "SPI")
	for range rapid.IntRange(1, 12).Draw(t, "transforms") {
		p.Transforms = append(p.Transforms, suite.Transform{
			Type: suite.TransformType(rapid.Byte().Draw(t, "type")), ID: rapid.Uint16().Draw(t, "ID"), KeyBits: rapid.Uint16().Draw(t, "bits"),
		})
	}
	return p
}

// genPayload draws any payload that the package can write.
func genPayload(t *rapid.T) Payload {
	switch rapid.IntRange(0, 12).Draw(t, "payload") {
	case 0:
		p := new(SA)
		for i := range rapid.IntRange(1, 4).Draw(t, "proposals") {
			p.Proposals = append(p.Proposals, genProposal(t, i+1))
		}
		return p
	case 1:
		return &KE{Group: rapid.Uint16().Draw(t, "group"), Data: octets(1, 300).Draw(t, "data")}
	case 2:
		id := ident.ID{Type: rapid.SampledFrom([]ident.Type{1, 2, 3, 5, 9, 10, 11, 13, 12, 200, 255}).Draw(t, "type")}
		switch n := 0; id.Type {
		case ident.IPv4:
			n = 4
			fallthrough
		case ident.IPv6:
			if n == 0 {
				n = 16
			}
			id.Data = string(octets(n, n).Draw(t, "address"))
		default:
			id.Data = string(octets(0, 60).Draw(t, "data"))
		}
		return &ID{Responder: rapid.Bool().Draw(t, "r"), Value: id, Reserved: [3]byte(octets(3, 3).Draw(t, "reserved"))}
	case 3:
		return &Cert{Encoding: CertEncoding(rapid.Byte().Draw(t, "encoding")), Data: octets(1, 400).Draw(t, "data")}
	case 4:
		return &CertReq{Encoding: CertEncoding(rapid.Byte().Draw(t, "encoding")), Data: octets(0, 100).Draw(t, "data")}
	case 5:
		return &Auth{Method: AuthMethod(rapid.Byte().Draw(t, "method")), Data: octets(0, 100).Draw(t, "data")}
	case 6:
		return &Nonce{Data: octets(MinNonce, MaxNonce).Draw(t, "nonce")}
	case 7:
		return &Notify{Protocol: suite.Protocol(rapid.Byte().Draw(t, "protocol")), SPI: octets(0, 255).Draw(t, "SPI"),
			Kind: NotifyType(rapid.Uint16().Draw(t, "kind")), Data: octets(0, 80).Draw(t, "data")}
	case 8:
		return &Delete{Protocol: suite.ProtoESP, SPIs: rapid.SliceOfN(rapid.Uint32(), 0, 20).Draw(t, "SPIs")}
	case 9:
		return &VendorID{Data: octets(0, 40).Draw(t, "data")}
	case 10:
		p := &TrafficSelectors{Responder: rapid.Bool().Draw(t, "r")}
		for range rapid.IntRange(1, 20).Draw(t, "selectors") {
			p.TS = append(p.TS, genTS(t))
		}
		return p
	case 11:
		p := &CP{Kind: CPType(rapid.Byte().Draw(t, "kind"))}
		for range rapid.IntRange(0, 6).Draw(t, "attributes") {
			p.Attributes = append(p.Attributes, CPAttribute{CPAttributeType(rapid.Uint16Max(0x7fff).Draw(t, "type")), octets(0, 30).Draw(t, "value")})
		}
		return p
	}
	b := octets(4, 60).Draw(t, "EAP")
	b[2], b[3] = 0, byte(len(b))
	return &EAP{Data: b}
}

// What is written is read as the same values, in clear and through SK, in one
// piece and in fragments of any size.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ps := rapid.SliceOfN(rapid.Custom(genPayload), 1, 8).Draw(t, "payloads")
		m := &Message{Header: head(ExchangeInformational, rapid.Uint32().Draw(t, "id"), rapid.Bool().Draw(t, "response")), Payloads: ps}
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(ps, got.Payloads, cmpOpts); d != "" {
			t.Fatal(d)
		}

		s := testSealer()
		s.block = rapid.SampledFrom([]int{0, 1, 4, 8, 16}).Draw(t, "block")
		frames, err := SealFragments(m.Header, ps, s, rapid.IntRange(150, 3000).Draw(t, "size"))
		if err != nil {
			t.Fatal(err)
		}
		var r Reassembler
		for i, f := range rapid.Permutation(frames).Draw(t, "order") {
			o, err := Open(s, f)
			if err != nil {
				t.Fatal(err)
			}
			var inner *Message
			if !o.IsFragment() {
				inner, err = o.Message()
			} else {
				first, plain, complete, e := r.Add(o)
				if e != nil || complete != (i == len(frames)-1) {
					t.Fatalf("frame %d of %d: complete %t, %v", i+1, len(frames), complete, e)
				}
				if !complete {
					continue
				}
				inner, err = ParseInner(o.Header, first, plain)
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(ps, inner.Payloads, cmpOpts); d != "" {
				t.Fatal(d)
			}
			return
		}
		t.Fatal("the message never became complete")
	})
}

// No payload aliases the octets that were parsed: a datagram's buffer may be
// used again at once.
func TestPayloadsDoNotAliasInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ps := rapid.SliceOfN(rapid.Custom(genPayload), 1, 8).Draw(t, "payloads")
		first, b := firstType(ps), []byte(nil)
		b, err := AppendPayloads(b, ps)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ParseInner(head(ExchangeInformational, 1, false), first, b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] ^= 0xff
		}
		if d := cmp.Diff(ps, m.Payloads, cmpOpts); d != "" {
			t.Fatal(d)
		}
	})
}

// No prefix of a chain with any payload is a chain: in clear and protected,
// whatever the payload.
func TestEveryPrefixOfEveryPayload(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genPayload(t)
		b, err := AppendPayloads(nil, []Payload{p})
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if _, err := ParseInner(head(ExchangeIKEAuth, 1, false), p.Type(), b[:n]); err == nil {
				t.Fatalf("%v: %d of %d octets are a chain", p.Type(), n, len(b))
			}
		}
	})
}

// The bodies that have an inner structure are refused when they are cut
// anywhere, even if the payload's own length agrees with the cut.
func TestEveryPrefixOfStructuredBodies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genPayload(t)
		switch p.(type) {
		case *SA, *TrafficSelectors, *Delete, *EAP:
		default:
			return
		}
		b := p.Append(nil)
		for n := range b {
			if _, _, err := parsePayload(p.Type(), b[:n]); err == nil {
				t.Fatalf("%v: %d of %d octets are a body", p.Type(), n, len(b))
			}
		}
	})
}
