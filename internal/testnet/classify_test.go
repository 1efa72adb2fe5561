package testnet

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func frame(t *testing.T, hexes ...string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(hexes, ""), " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	ether4 = "0200 0000 0002 0200 0000 0001 0800"
	ether6 = "0200 0000 0002 0200 0000 0001 86dd"
	addrs4 = "c000 0201 c000 0202"
	addrs6 = "2001 0db8 0000 0000 0000 0000 0000 0001 2001 0db8 0000 0000 0000 0000 0000 0002"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		rule  string
		frame []string
		want  Class
		spi   uint32
	}{
		{"an ARP request belongs to the link", []string{"ffff ffff ffff 0200 0000 0001 0806 0001"}, ARP, 0},
		{"UDP on port 500 is IKE", []string{ether4, "4500 0024 0000 4000 40 11 0000", addrs4, "01f4 01f4 0010 0000 0102030405060708"}, IKE, 0},
		{"port 4500 with the non-ESP marker is IKE (RFC 3948, Section 2.2)", []string{ether4, "4500 0024 0000 4000 40 11 0000", addrs4, "1194 4e20 0010 0000 00000000 05060708"}, IKE, 0},
		{"port 4500 without the marker is ESP in UDP, whichever side has the port", []string{ether4, "4500 0024 0000 4000 40 11 0000", addrs4, "4e20 1194 0010 0000 c0ffee01 00000001"}, ESPinUDP, 0xc0ffee01},
		{"one byte 0xff on port 4500 is a keepalive (RFC 3948, Section 2.3)", []string{ether4, "4500 001d 0000 4000 40 11 0000", addrs4, "1194 1194 0009 0000 ff"}, Keepalive, 0},
		{"protocol 50 is ESP", []string{ether4, "4500 001c 0000 4000 40 32 0000", addrs4, "c0ffee01 00000001"}, ESP, 0xc0ffee01},
		{"protocol 51 is AH", []string{ether4, "4500 0020 0000 4000 40 33 0000", addrs4, "32 02 0000 c0ffee01 00000001"}, AH, 0xc0ffee01},
		{"protocol 50 over IPv6 is ESP", []string{ether6, "6000 0000 0008 32 40", addrs6, "c0ffee01 00000001"}, ESP, 0xc0ffee01},
		{"ESP behind destination options is ESP", []string{ether6, "6000 0000 0010 3c 40", addrs6, "32 00 0104 00000000", "c0ffee01 00000001"}, ESP, 0xc0ffee01},
		{"a neighbour solicitation belongs to the link", []string{ether6, "6000 0000 0008 3a ff", addrs6, "87 00 0000 00000000"}, ND, 0},
		{"a listener report behind hop-by-hop options belongs to the link", []string{ether6, "6000 0000 0010 00 01", addrs6, "3a 00 0502 00000000 8f 00 0000 00000000"}, ND, 0},
		{"an echo request is clear text", []string{ether4, "4500 001c 0000 4000 40 01 0000", addrs4, "08 00 0000 00010001"}, Other, 0},
		{"a TCP segment from port 4500 is clear text", []string{ether4, "4500 001c 0000 4000 40 06 0000", addrs4, "1194 1194 00000000"}, Other, 0},
		{"a packet too big is an ICMP error", []string{ether6, "6000 0000 0008 3a ff", addrs6, "02 00 0000 000004d2"}, ICMPError, 0},
		{"a length beyond the frame is not believed", []string{ether4, "4500 ffff 0000 4000 40 32 0000", addrs4, "c0ffee01 00000001"}, Other, 0},
	}
	for _, test := range tests {
		full := frame(t, test.frame...)
		got := Classify(full)
		if got.Class != test.want || got.SPI != test.spi {
			t.Errorf("%s: got %v, SPI %08x, want %v, SPI %08x", test.rule, got.Class, got.SPI, test.want, test.spi)
		}
		for i := range full {
			Classify(full[:i]) // every prefix is read without a panic
		}
	}
}

func TestFragmentsHaveTheClassOfTheFirst(t *testing.T) {
	c := &Capture{fragments: map[fragmentKey]Class{}}
	c.add(frame(t, ether4, "4500 0024 beef 2000 40 11 0000", addrs4, "1194 1194 0100 0000 c0ffee01 00000001"))
	c.add(frame(t, ether4, "4500 001c beef 0002 40 11 0000", addrs4, "0011223344556677"))
	c.add(frame(t, ether4, "4500 001c dead 0002 40 11 0000", addrs4, "0011223344556677"))
	if got := c.String(); got != "ESP-in-UDP 2, other 1" {
		t.Errorf("two fragments of one datagram and a stranger: got %q", got)
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0}, 64))
	for _, s := range []string{ether4 + "450000240000400040110000" + addrs4 + "119411940010000000000000 05060708", ether6 + "6000000000100001" + addrs6 + "3a000502000000008f00000000000000"} {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h := Classify(b)
		if h.Class.Housekeeping() && h.Class.IPsec() {
			t.Errorf("%v is both of the link and protected", h.Class)
		}
		if len(h.Payload) > len(b) {
			t.Errorf("payload of %d bytes out of a frame of %d", len(h.Payload), len(b))
		}
	})
}

func TestPcapFile(t *testing.T) {
	c := &Capture{packets: []Packet{{Time: time.Unix(0x11223344, 5000), Data: []byte{1, 2, 3}}}}
	var out bytes.Buffer
	if err := c.WritePcap(&out); err != nil {
		t.Fatal(err)
	}
	want := frame(t, "d4c3b2a1 0200 0400 00000000 00000000 00000400 01000000", "44332211 05000000 03000000 03000000 010203")
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("pcap file\n got %x\nwant %x", out.Bytes(), want)
	}
}

func TestPacketsOnOneLine(t *testing.T) {
	p := Packet{Data: make([]byte, 60), Header: Header{Class: ESPinUDP, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Proto: 17, SrcPort: 4500, DstPort: 20000, SPI: 0xabc}}
	if got, want := p.String(), "ESP-in-UDP 192.0.2.1:4500 > 192.0.2.2:20000, protocol 17, 60 bytes, SPI 00000abc"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
