package datapath

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/spd"
)

// RFC 4301, Section 4.4.1.2: each value of a selector with the PFP flag asks for an
// SA of its own, and packets that differ in other selectors only do not. What
// waited goes when the entry and the SA of its flow are there, in either order.
func TestFlowsOfAnEntryWithPFP(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	p := backendtest.Policy(5, 9, net4A, net4B)
	p.Acquire, p.PFP = true, spd.PFPRemoteAddr
	if err := a.ApplyPolicies(nil, []spd.Policy{p}); err != nil {
		t.Fatal(err)
	}
	for i, saFirst := range []bool{true, false} {
		dst := host(net4B, byte(20+i))
		first := packet(host(net4A, 1), dst, 33)
		a.dev.Inject(0, tun.Header{}, first)
		a.dev.Inject(0, tun.Header{}, packet(host(net4A, 2), dst, 34)) // another local address
		e := event[backend.Acquire](t, a)
		if e.Policy != 5 || e.Flow.Remote != dst {
			t.Errorf("event %+v, want one of policy 5 for %v", e, dst)
		}
		wait(t, a, "out_held", uint64(2*i+2))
		id := uint32(100 + i)
		one := netip.PrefixFrom(dst, 32)
		in, _ := backendtest.Pair(id, out4B, out4A, id+0x1000, id+0x2000, one, net4A)
		_, out := backendtest.Pair(id, out4A, out4B, id+0x2000, id+0x1000, net4A, one)
		narrow := backendtest.Policy(uint64(id), id, net4A, one)
		narrow.Priority = 1
		steps := []func() error{
			func() error { return a.AddSA(out) },
			func() error { return a.ApplyPolicies(nil, []spd.Policy{narrow}) },
		}
		if !saFirst {
			steps[0], steps[1] = steps[1], steps[0]
		}
		if err := b.AddSA(in); err != nil {
			t.Fatal(err)
		}
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if got := receive(t, b); !bytes.Equal(got, first) {
			t.Errorf("got %x, want what waited", got)
		}
		receive(t, b)
	}
	select {
	case e := <-a.Events():
		t.Errorf("asked again: %+v", e)
	default:
	}
}

// RFC 4301, Section 4.4.1: what waits goes with the SA that the ordered look-up finds
// for it. A peer that narrows the selectors gets an entry and a ReqID of their own;
// what waited for the wider entry, which has no PFP flag, is sent, in either order.
func TestNarrowedSAsRelease(t *testing.T) {
	for _, saFirst := range []bool{true, false} {
		a, b := pair(t, Options{}, 1500)
		p := backendtest.Policy(5, 9, net4A, net4B)
		p.Acquire = true
		if err := a.ApplyPolicies(nil, []spd.Policy{p}); err != nil {
			t.Fatal(err)
		}
		dst := host(net4B, 20)
		frame := packet(host(net4A, 1), dst, 33)
		a.dev.Inject(0, tun.Header{}, frame)
		event[backend.Acquire](t, a)
		wait(t, a, "out_held", 1)
		one := netip.PrefixFrom(dst, 32)
		in, _ := backendtest.Pair(100, out4B, out4A, 0x1100, 0x2100, one, net4A)
		_, out := backendtest.Pair(100, out4A, out4B, 0x2100, 0x1100, net4A, one)
		narrow := backendtest.Policy(100, 100, net4A, one)
		narrow.Priority = 1
		if err := b.AddSA(in); err != nil {
			t.Fatal(err)
		}
		steps := []func() error{
			func() error { return a.AddSA(out) },
			func() error { return a.ApplyPolicies(nil, []spd.Policy{narrow}) },
		}
		if !saFirst {
			steps[0], steps[1] = steps[1], steps[0]
		}
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if got := receive(t, b); !bytes.Equal(got, frame) {
			t.Errorf("got %x, want what waited", got)
		}
	}
}

// A question that cannot be answered is put again after the pause that it was
// answered with, and not before; what waited is dropped and counted.
func TestAcquireFailed(t *testing.T) {
	a, _ := pair(t, Options{}, 1500)
	p := backendtest.Policy(5, 1, net4A, net4B)
	p.Acquire = true
	if err := a.ApplyPolicies(nil, []spd.Policy{p}); err != nil {
		t.Fatal(err)
	}
	frame := packet(host(net4A, 1), host(net4B, 2), 33)
	a.dev.Inject(0, tun.Header{}, frame)
	e := event[backend.Acquire](t, a)
	a.AcquireFailed(e.Policy, e.Flow, time.Hour)
	wait(t, a, "out_held_lost", 1)
	a.dev.Inject(0, tun.Header{}, frame)
	wait(t, a, "out_no_sa", 1)
	select {
	case e := <-a.Events():
		t.Errorf("asked within the pause: %+v", e)
	default:
	}
	a.AcquireFailed(e.Policy, e.Flow, 0)
	a.dev.Inject(0, tun.Header{}, frame)
	event[backend.Acquire](t, a)
}

// Whoever sends to many addresses of an entry with PFP flags keeps no other entry
// from asking, and what is held for all of its flows is bounded. Nothing of it is
// left when the questions are over.
func TestManyFlowsOfAnEntryWithPFP(t *testing.T) {
	var a acquires
	a.init(8)
	scanned := backendtest.Policy(5, 9, net4A, net4B)
	scanned.Acquire, scanned.PFP = true, spd.PFPRemoteAddr
	other := backendtest.Policy(6, 10, net4A, net4B)
	other.Acquire = true
	now := time.Now()
	frame := make([]byte, 16<<10)
	flow := spd.Flow{Local: host(net4A, 1), Proto: 17}
	asked, held := 0, 0
	for i := range 70000 {
		flow.Remote = netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})
		for range 8 {
			first, kept := a.add(&scanned, &flow, frame, now)
			if first {
				asked++
			}
			if kept {
				held += len(frame)
			}
		}
	}
	if asked != maxFlows || held > holdTotal {
		t.Errorf("%d questions and %d octets, at most %d and %d expected", asked, held, maxFlows, holdTotal)
	}
	if first, _ := a.add(&other, &flow, frame, now); !first {
		t.Error("another entry cannot ask")
	}
	a.failed(other.ID, &flow, now, time.Minute)
	if _, kept := a.add(&other, &flow, frame, now); kept {
		t.Error("a frame is held for a question that failed")
	}
	a.forget(scanned.ID)
	a.expire(now.Add(2 * time.Minute))
	if a.octets != 0 || len(a.of) != 0 || len(a.pending) != 0 {
		t.Errorf("%d octets, %d policies and %d questions are left", a.octets, len(a.of), len(a.pending))
	}
}
