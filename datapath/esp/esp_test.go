package esp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"iked/crypto/aead"
	"iked/crypto/suite"
	"iked/datapath/ip"
	"iked/internal/secret"
	"iked/internal/vectors"
	"iked/sad"
	"iked/spd"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// algorithms are all pairs that the datapath offers.
var algorithms = []struct {
	name              string
	encr, keyBits, in uint16
}{
	{"AES-GCM-16-128", suite.EncrAESGCM16, 128, 0},
	{"AES-GCM-16-256", suite.EncrAESGCM16, 256, 0},
	{"AES-GCM-12-128", suite.EncrAESGCM12, 128, 0},
	{"AES-GCM-8-128", suite.EncrAESGCM8, 128, 0},
	{"ChaCha20-Poly1305", suite.EncrChaCha20Poly1305, 0, 0},
	{"AES-GMAC-128", suite.EncrNullAESGMAC, 128, 0},
	{"AES-CBC-128+SHA256", suite.EncrAESCBC, 128, suite.IntegHMACSHA256},
	{"AES-CBC-256+SHA512", suite.EncrAESCBC, 256, suite.IntegHMACSHA512},
	{"AES-CBC-192+SHA384", suite.EncrAESCBC, 192, suite.IntegHMACSHA384},
	{"AES-CTR-128+SHA256", suite.EncrAESCTR, 128, suite.IntegHMACSHA256},
	{"3DES+SHA1", suite.Encr3DES, 0, suite.IntegHMACSHA1_96},
	{"NULL+SHA256", suite.EncrNull, 0, suite.IntegHMACSHA256},
	{"AES-CBC-128+SHA256/96", suite.EncrAESCBC, 128, suite.IntegHMACSHA256_96},
}

func anyTS() []spd.TS {
	return []spd.TS{spd.FromPrefix(netip.MustParsePrefix("0.0.0.0/0")), spd.FromPrefix(netip.MustParsePrefix("::/0"))}
}

// newSA makes an SA with keys that are only good for tests.
func newSA(t testing.TB, encr, bits, integ uint16) *sad.SA {
	t.Helper()
	sa := &sad.SA{
		ID:  sad.ID{Dir: sad.Out, Proto: suite.ProtoESP, SPI: 0x11223344, Dst: netip.MustParseAddr("192.0.2.2")},
		Src: netip.MustParseAddr("192.0.2.1"), Local: anyTS(), Remote: anyTS(),
		Encr:         suite.Transform{Type: suite.ENCR, ID: encr, KeyBits: bits},
		Integ:        suite.Transform{Type: suite.INTEG, ID: integ},
		ReplayWindow: 64, Name: "test/net",
	}
	e, i, err := aead.KeyLens(sa.Encr, sa.Integ)
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, e+i)
	for n := range key {
		key[n] = byte(7*n + 1)
	}
	sa.EncrKey, sa.IntegKey = secret.New(key[:e]), secret.New(key[e:])
	return sa
}

func gcmSA(t testing.TB) *sad.SA { return newSA(t, suite.EncrAESGCM16, 128, 0) }

// pair makes both ends of an SA; the selectors of any pair fit both directions.
func pair(t testing.TB, sa *sad.SA) (*Outbound, *Inbound) {
	t.Helper()
	o, err := NewOutbound(sa, 1500, now)
	if err != nil {
		t.Fatal(err)
	}
	i, err := NewInbound(sa, now)
	if err != nil {
		t.Fatal(err)
	}
	return o, i
}

// udp4 is an IPv4 packet of n octets with UDP from port 1000 to 2000.
func udp4(n int, tos uint8, df bool) []byte {
	b := make([]byte, n)
	h := ip.Outer{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.2.0.1"), Proto: ip.ProtoUDP, TOS: tos, TTL: 63, DF: df}
	h.Put(b, n-20)
	udp(b[20:])
	return b
}

func udp6(n int, tos uint8) []byte {
	b := make([]byte, n)
	h := ip.Outer{Src: netip.MustParseAddr("2001:db8:1::1"), Dst: netip.MustParseAddr("2001:db8:2::1"), Proto: ip.ProtoUDP, TOS: tos, TTL: 63}
	h.Put(b, n-40)
	udp(b[40:])
	return b
}

func udp(b []byte) {
	binary.BigEndian.PutUint16(b, 1000)
	binary.BigEndian.PutUint16(b[2:], 2000)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	for i := 8; i < len(b); i++ {
		b[i] = byte(i)
	}
}

func parse(t testing.TB, b []byte) *ip.Info {
	t.Helper()
	info := new(ip.Info)
	if f := ip.Parse(b, info); f != ip.OK {
		t.Fatalf("packet is not valid: %v", f)
	}
	return info
}

// sealed protects a packet and gives the buffer and what Seal said.
func sealed(t testing.TB, o *Outbound, packet []byte) ([]byte, Sealed) {
	t.Helper()
	buf := make([]byte, Headroom+4096+Tailroom)
	for i := range buf {
		buf[i] = 0xee // stale octets must not show
	}
	copy(buf[Headroom:], packet)
	var s Sealed
	if d := o.Seal(new(Scratch), buf, Headroom, parse(t, packet), &s); d != Pass {
		t.Fatalf("seal: %v", d)
	}
	return buf, s
}

func esp(buf []byte, s Sealed) []byte { return buf[s.Off : s.Off+s.Len] }

// Every algorithm, with and without ESN, IPv4 and IPv6 inside either family,
// with UDP or without: what is sealed opens to the same packet, the outer header
// is valid, and the packet before and behind it was not left in clear.
func TestSealOpen(t *testing.T) {
	for _, a := range algorithms {
		for _, esn := range []bool{false, true} {
			for _, outer6 := range []bool{false, true} {
				sa := newSA(t, a.encr, a.keyBits, a.in)
				sa.ESN = esn
				if outer6 {
					sa.Src, sa.Dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
					sa.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4501}
				}
				o, in := pair(t, sa)
				for n := 48; n < 80; n++ {
					for _, inner := range [][]byte{udp4(n, 0, true), udp6(n, 0)} {
						buf, s := sealed(t, o, inner)
						start, inside := o.Encapsulate(buf, &s)
						info := parse(t, buf[start:])
						if want := s.Off + s.Len - start; info.TotalLen != want {
							t.Fatalf("%s: outer length %d, expected %d", a.name, info.TotalLen, want)
						}
						if outer6 {
							if info.SrcPort != 4500 || info.DstPort != 4501 || inside != s.Off-8 {
								t.Fatalf("%s: UDP header %+v", a.name, info)
							}
							if c := ip.Checksum(buf[inside:start+info.TotalLen], ip.PseudoSum(buf[start+8:start+24], buf[start+24:start+40], 17, info.TotalLen-40)); c != 0 {
								t.Fatalf("%s: UDP checksum does not fit: %04x", a.name, c)
							}
						} else if info.Proto != ip.ProtoESP || inside != s.Off {
							t.Fatalf("%s: outer protocol %d, expected 50", a.name, info.Proto)
						}
						if secretive := a.encr != suite.EncrNull && a.encr != suite.EncrNullAESGMAC; secretive && bytes.Contains(buf[start:start+info.TotalLen], inner[:16]) {
							t.Fatalf("%s: the inner packet is in clear", a.name)
						}
						if s.Len%4 != 0 {
							t.Fatalf("%s: ESP of %d octets, expected a multiple of 4", a.name, s.Len)
						}
						var out Opened
						if d := in.Open(new(Scratch), esp(buf, s), s.TOS, &out); d != Pass {
							t.Fatalf("%s ESN %v: open: %v", a.name, esn, d)
						}
						if !bytes.Equal(out.Packet, inner) || out.Seq != s.Seq || !out.Newest {
							t.Fatalf("%s: opened to %x, seq %d, expected %x, %d", a.name, out.Packet, out.Seq, inner, s.Seq)
						}
						if out.Flow.RemotePort != 1000 || out.Flow.LocalPort != 2000 {
							t.Fatalf("%s: flow %+v", a.name, out.Flow)
						}
					}
				}
				if u, v := o.Usage(), in.Usage(); u.Packets != 64 || u.Bytes != v.Bytes || v.Seq != 64 {
					t.Fatalf("%s: usage %+v and %+v", a.name, u, v)
				}
			}
		}
	}
}

// Every changed bit of a packet is noticed, every shortened packet is refused, and none moves the window.
func TestOpenRejectsForgery(t *testing.T) {
	for _, a := range algorithms {
		sa := newSA(t, a.encr, a.keyBits, a.in)
		sa.ESN = true
		o, in := pair(t, sa)
		buf, s := sealed(t, o, udp4(60, 0, true))
		good := bytes.Clone(esp(buf, s))
		var out Opened
		w := new(Scratch)
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 0x10
			if i < 4 {
				// The SPI chooses the SA: inside of it a wrong one is a wrong ICV.
				continue
			}
			if d := in.Open(w, b, 0, &out); d != BadICV && d != ReplayInvalid && d != ReplayOld {
				t.Fatalf("%s: bit changed in octet %d: %v, expected a drop", a.name, i, d)
			}
		}
		for n := range good {
			if d := in.Open(w, bytes.Clone(good[:n]), 0, &out); d == Pass || d == Dummy {
				t.Fatalf("%s: %d of %d octets: %v, expected a drop", a.name, n, len(good), d)
			}
		}
		if in.replay.Top() != 0 {
			t.Fatalf("%s: a forged packet moved the window to %d", a.name, in.replay.Top())
		}
		if d := in.Open(w, bytes.Clone(good), 0, &out); d != Pass {
			t.Fatalf("%s: the good packet: %v", a.name, d)
		}
		if d := in.Open(w, bytes.Clone(good), 0, &out); d != ReplayDuplicate {
			t.Fatalf("%s: the same packet again: %v, expected a duplicate", a.name, d)
		}
	}
}

// presetIV makes the next IV of a CBC cipher a known one.
func presetIV(w *Scratch, iv []byte) {
	w.left = len(iv)
	copy(w.random[len(w.random)-len(iv):], iv)
}

// Packets of another implementation open to their input, and the same input
// seals to the same octets (where the IV may be chosen; else to the same plaintext).
func TestVectors(t *testing.T) {
	type vector struct {
		Mode, Crypt, Auth, Family string
		CryptKey                  vectors.Hex `json:"crypt_key"`
		AuthKey                   vectors.Hex `json:"auth_key"`
		SPI, Seq                  uint32
		ESN                       bool
		ESNHi                     uint64 `json:"esn_hi"`
		IVLen                     int    `json:"iv_len"`
		ICVLen                    int    `json:"icv_len"`
		Input                     vectors.Hex
		ESP                       vectors.Hex `json:"esp_from_spi"`
		Plain                     vectors.Hex `json:"decrypted_with_trailer"`
	}
	tunnels := 0
	for n, v := range vectors.Load[vector](t, "tunnel_transport.json") {
		sa := gcmSA(t)
		sa.SPI, sa.ESN = v.SPI, v.ESN
		sa.EncrKey, sa.IntegKey = secret.New(v.CryptKey), secret.New(v.AuthKey)
		switch v.Crypt {
		case "AES-CBC":
			sa.Encr = suite.Transform{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: uint16(8 * len(v.CryptKey))}
		case "NULL":
			sa.Encr = suite.Transform{Type: suite.ENCR, ID: suite.EncrNull}
		case "AES-GCM":
			sa.Encr.KeyBits = uint16(8 * (len(v.CryptKey) - 4))
		default:
			t.Fatalf("vector %d: cipher %s", n, v.Crypt)
		}
		sa.Integ.ID = map[string]uint16{"": 0, "SHA2-256-128": suite.IntegHMACSHA256, "HMAC-SHA1-96": suite.IntegHMACSHA1_96, "SHA2-512-256": suite.IntegHMACSHA512}[v.Auth]
		o, in := pair(t, sa)
		seq := v.ESNHi<<32 | uint64(v.Seq)
		o.SkipSequence(seq - 1)
		in.replay.Update(seq - 1)

		w := new(Scratch)
		if v.Mode == "tunnel" {
			tunnels++
			var out Opened
			if d := in.Open(w, bytes.Clone(v.ESP), 0, &out); d != Pass || !bytes.Equal(out.Packet, v.Input) || out.Seq != seq {
				t.Errorf("vector %d (%s %s ESN %v): %v, seq %d, packet %x, expected %d, %x", n, v.Crypt, v.Auth, v.ESN, d, out.Seq, out.Packet, seq, v.Input)
			}
		}
		text, next, ok := trim(bytes.Clone(v.Plain))
		if !ok {
			t.Errorf("vector %d: its trailer is refused", n)
			continue
		}
		buf := make([]byte, 2048)
		copy(buf[Headroom:], text)
		presetIV(w, v.ESP[8:8+v.IVLen])
		var s Sealed
		if d := o.seal(w, buf, o.Path(), payload{off: Headroom, n: len(text), nextHeader: next}, &s); d != Pass {
			t.Errorf("vector %d: seal: %v", n, d)
			continue
		}
		if v.Crypt != "AES-GCM" {
			if !bytes.Equal(esp(buf, s), v.ESP) {
				t.Errorf("vector %d (%s %s ESN %v): sealed to\n%x, expected\n%x", n, v.Crypt, v.Auth, v.ESN, esp(buf, s), v.ESP)
			}
			continue
		}
		plain, err := o.cipher.Open(&w.aead, esp(buf, s), HeaderLen, uint32(v.ESNHi), v.ESN)
		if err != nil || !bytes.Equal(plain, v.Plain) {
			t.Errorf("vector %d (%s): plaintext %x, %v, expected %x", n, v.Crypt, plain, err, v.Plain)
		}
	}
	if tunnels < 20 {
		t.Errorf("only %d tunnel vectors", tunnels)
	}
}

// RFC 3602, Section 4: the packets up to where an ICV would follow, which the
// RFC's samples do not have.
func TestRFC3602(t *testing.T) {
	type vector struct {
		Name, Mode string
		Key, IV    vectors.Hex
		SPI        uint32
		Seq        uint64
		Original   vectors.Hex
		Plain      vectors.Hex `json:"esp_plaintext_with_trailer"`
		Packet     vectors.Hex `json:"esp_packet"`
	}
	for _, v := range vectors.Load[vector](t, "rfc3602.json") {
		sa := newSA(t, suite.EncrAESCBC, 128, suite.IntegHMACSHA256)
		sa.EncrKey, sa.SPI = secret.New(v.Key), v.SPI
		o, _ := pair(t, sa)
		o.SkipSequence(v.Seq - 1)
		text, next, ok := trim(bytes.Clone(v.Plain))
		if !ok {
			t.Fatalf("%s: its trailer is refused", v.Name)
		}
		buf, w := make([]byte, 2048), new(Scratch)
		copy(buf[Headroom:], text)
		presetIV(w, v.IV)
		var s Sealed
		d := o.seal(w, buf, o.Path(), payload{off: Headroom, n: len(text), nextHeader: next}, &s)
		if got, want := esp(buf, s)[:s.Len-16], v.Packet[20:]; d != Pass || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\n%x, expected\n%x", v.Name, d, got, want)
		}
	}
}

// RFC 7634, Appendix A: the packet opens to the ICMP echo request.
func TestRFC7634(t *testing.T) {
	type vector struct {
		Key, Salt vectors.Hex
		SPI       uint32
		Inner     vectors.Hex `json:"inner_packet"`
		Packet    vectors.Hex `json:"esp_packet"`
	}
	v := vectors.Load[vector](t, "rfc7634.json")[0]
	sa := newSA(t, suite.EncrChaCha20Poly1305, 0, 0)
	sa.EncrKey, sa.SPI = secret.New(append(v.Key, v.Salt...)), v.SPI
	_, in := pair(t, sa)
	var out Opened
	if d := in.Open(new(Scratch), v.Packet[20:], 0, &out); d != Pass || !bytes.Equal(out.Packet, v.Inner) || out.Seq != 5 {
		t.Errorf("%v, seq %d, packet %x, expected %x", d, out.Seq, out.Packet, v.Inner)
	}
	if out.Flow.Proto != ip.ProtoICMP || out.Flow.LocalPort != 8<<8 {
		t.Errorf("flow %+v, expected an echo request", out.Flow)
	}
}
