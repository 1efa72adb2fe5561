package esp

import (
	"bytes"
	"testing"

	"iked/datapath/ip"
	"iked/sad"
)

// FuzzOpen is a stranger: any octets from the wire.
func FuzzOpen(f *testing.F) {
	o, _ := pair(f, gcmSA(f))
	buf, s := sealed(f, o, udp4(60, 0, true))
	f.Add(bytes.Clone(esp(buf, s)), uint8(0))
	f.Add([]byte{}, uint8(3))
	_, in := pair(f, gcmSA(f))
	f.Fuzz(func(t *testing.T, b []byte, tos uint8) {
		var out Opened
		if d := in.Open(new(Scratch), bytes.Clone(b), tos, &out); d == Pass && in.replay.Top() == 0 {
			t.Fatal("a packet passed without moving the window")
		}
	})
}

// FuzzInside is a peer with the right key: any plaintext, trailer included.
func FuzzInside(f *testing.F) {
	f.Add(udp4(60, 2, true), uint8(4), uint8(3))
	f.Add(udp6(60, 0), uint8(41), uint8(0))
	f.Add([]byte{0x45}, uint8(59), uint8(0))
	f.Add(append(udp4(60, 0, false), 1, 2, 3, 3, 4), uint8(4), uint8(1))
	f.Fuzz(func(t *testing.T, text []byte, nextHeader, tos uint8) {
		if len(text) > 60000 {
			return
		}
		sa := gcmSA(t)
		sa.DSCP = sad.DSCPBoth
		_, in := pair(t, sa)
		// As seal would leave it, and with the plaintext's own last octets as trailer.
		var out Opened
		if len(text) >= 2 {
			if payload, next, ok := trim(bytes.Clone(text)); ok && next != ip.ProtoNoNext {
				check(t, in.unwrapTunnel(payload, next, tos, &out), &out)
			}
		}
		o, in := pair(t, sa)
		d, out := open(t, o, in, text, nextHeader, tos)
		check(t, d, &out)
	})
}

func check(t *testing.T, d Drop, out *Opened) {
	if d != Pass {
		return
	}
	var info ip.Info
	if f := ip.Parse(out.Packet, &info); f != ip.OK || info != out.Info || info.TotalLen != len(out.Packet) {
		t.Fatalf("what passed is not valid: %v, %+v, told %+v", f, info, out.Info)
	}
}
