package datapath

import (
	"encoding/binary"
	"testing"

	"iked/datapath/tun"
	"iked/internal/backend/backendtest"
	"iked/sad"
	"iked/spd"
)

// What a worker remembers of many flows ends with every change of a policy or of
// an outbound SA: the packets of two flows in turns always meet what is in force.
func TestRememberedFlowsFollowChanges(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, nil)
	both := func() {
		for i := range byte(2) {
			a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1+i), host(net4B, 1), 5))
		}
	}
	sent := 0
	crosses := func(spi uint32) {
		t.Helper()
		for range 2 { // the second time from memory
			both()
			receive(t, b)
			receive(t, b)
			sent += 2
			for _, p := range waitSent(t, a.raw, sent)[sent-2:] {
				if got := binary.BigEndian.Uint32(p.Data[20:]); got != spi {
					t.Errorf("SPI 0x%x, expected 0x%x", got, spi)
				}
			}
		}
	}
	counted := func(name string) {
		t.Helper()
		before := a.Counters()[name]
		both()
		both()
		wait(t, a, name, before+4)
	}
	crosses(0x2001)

	in2, _ := backendtest.Pair(1, out4B, out4A, 0x2002, 0x1002, net4B, net4A)
	_, out2 := backendtest.Pair(1, out4A, out4B, 0x1002, 0x2002, net4A, net4B)
	if b.AddSA(in2) != nil || a.AddSA(out2) != nil {
		t.Fatal("no second SA")
	}
	crosses(0x2002)

	wall := spd.Policy{ID: 3, Name: "wall", Action: spd.Discard, Priority: 1, Local: []spd.TS{spd.FromPrefix(net4A)}, Remote: []spd.TS{spd.FromPrefix(net4B)}}
	if err := a.ApplyPolicies(nil, []spd.Policy{wall}); err != nil {
		t.Fatal(err)
	}
	counted("out_discard")
	if err := a.ApplyPolicies([]uint64{3}, nil); err != nil {
		t.Fatal(err)
	}
	crosses(0x2002)

	for _, id := range []sad.ID{out2.ID, {Dir: sad.Out, Proto: 3, SPI: 0x2001, Dst: out4B}} {
		if err := a.DeleteSA(id); err != nil {
			t.Fatal(err)
		}
	}
	counted("out_no_sa")
	if err := a.ApplyPolicies([]uint64{1}, nil); err != nil {
		t.Fatal(err)
	}
	counted("out_no_policy")
	if n := len(waitSent(t, a.raw, sent)); n != sent {
		t.Errorf("%d packets on the wire, expected %d", n, sent)
	}
}

// RFC 4301, Section 6.2: two ICMP errors with the same addresses may be about
// different traffic. A broken one that found no SA says nothing about the next.
func TestICMPErrorsAreNotRemembered(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	tunnel(t, a, b, out4A, out4B, net4A, net4B, nil)
	router := host(net4A, 1).Prev().Prev() // outside of the network
	about := func(quoted []byte) []byte {
		// ICMP destination unreachable, port unreachable.
		msg := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted...)
		sum := uint32(0)
		for i := 0; i+1 < len(msg); i += 2 {
			sum += uint32(msg[i])<<8 | uint32(msg[i+1])
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(msg[2:], ^uint16(sum))
		p := packet(router, host(net4B, 1), 0)[:20]
		p[9] = 1
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(msg)))
		p[10], p[11] = 0, 0
		sum = 0
		for i := 0; i < 20; i += 2 {
			sum += uint32(p[i])<<8 | uint32(p[i+1])
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
		return append(p, msg...)
	}
	other := packet(host(net4A, 2), host(net4B, 2), 5)
	for range 3 {
		before := a.Counters()["out_no_policy"]
		a.dev.Inject(0, tun.Header{}, about(make([]byte, 28))) // quotes nothing
		wait(t, a, "out_no_policy", before+1)
		a.dev.Inject(0, tun.Header{}, other) // the flow before is another one
		receive(t, b)
		sent := a.Counters()["out_packets"]
		a.dev.Inject(0, tun.Header{}, about(packet(host(net4B, 1), host(net4A, 7), 8)[:28]))
		wait(t, a, "out_packets", sent+1)
	}
}
