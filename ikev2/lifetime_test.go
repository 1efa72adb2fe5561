package ikev2_test

import (
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
)

// Lifetimes rekey CHILD_SAs and the IKE SA by themselves, on both sides at about
// the same time, for a day.
func TestLifetimes(t *testing.T) {
	for seed := range uint64(5) {
		p := newPair(t, seed)
		for _, c := range []*ikev2.ChildConfig{p.cha, p.chb} {
			c.Time = ikev2.Lifetime{Rekey: time.Hour, Hard: 66 * time.Minute, Jitter: 6 * time.Minute}
		}
		for _, c := range []*ikev2.Config{p.ca, p.cb} {
			c.Rekey = ikev2.Lifetime{Rekey: 4 * time.Hour, Hard: 5 * time.Hour, Jitter: 20 * time.Minute}
			c.DPDDelay = 30 * time.Second
		}
		p.up(t)
		p.net.Run(24 * time.Hour)
		// Long enough after the last one.
		for i := 0; ikev2test.Consistent(p.a, p.b, 1) != nil && i < 10; i++ {
			p.net.Run(3 * time.Second)
		}
		p.consistent(t, 1)
		n := len(ikev2test.Happened[ikev2.ChildReplaced](p.a))
		if n < 22 || n > 40 {
			t.Errorf("%d child rekeyings in a day", n)
		}
		if n := len(ikev2test.Happened[ikev2.ChildDown](p.a)); n != 0 {
			t.Errorf("%d children went down", n)
		}
		if n := len(p.a.Closed); n < 5 {
			t.Errorf("%d IKE SAs were rekeyed in a day", n)
		}
	}
}

// A CHILD_SA that cannot be rekeyed ends at its hard lifetime, on both sides.
func TestHardLifetime(t *testing.T) {
	p := newPair(t, 1)
	p.cha.Time = ikev2.Lifetime{Rekey: 10 * time.Minute, Hard: 11 * time.Minute}
	p.up(t)
	p.b.RefuseInstall = true
	p.net.Run(12 * time.Minute)
	p.consistent(t, 0)
	if len(ikev2test.Happened[ikev2.ChildDown](p.a)) != 1 || len(ikev2test.Happened[ikev2.ChildDown](p.b)) != 1 {
		t.Error("the end of the child is not told")
	}
	p = newPair(t, 1)
	p.ca.Rekey = ikev2.Lifetime{Hard: time.Hour}
	p.up(t)
	p.net.Run(61 * time.Minute)
	if len(p.a.SAs)+len(p.b.SAs) != 0 || p.a.Closed[0].Reason != ikev2.CloseExpired || p.b.Closed[0].Reason != ikev2.ClosePeerDeleted {
		t.Errorf("a: %v, b: %v", p.a.Closed, p.b.Closed)
	}
}

// RFC 7296, Section 2.8.3: reauthentication is the engine's, it is told when.
func TestReauthDue(t *testing.T) {
	p := newPair(t, 1)
	p.ca.Reauth = ikev2.Lifetime{Rekey: time.Hour, Jitter: time.Minute}
	p.ca.Rekey = ikev2.Lifetime{Rekey: 25 * time.Minute}
	p.up(t)
	p.net.Run(58 * time.Minute)
	if len(ikev2test.Happened[ikev2.ReauthDue](p.a)) != 0 {
		t.Error("ReauthDue came too early")
	}
	p.net.Run(3 * time.Minute)
	if len(ikev2test.Happened[ikev2.ReauthDue](p.a)) != 1 {
		t.Error("ReauthDue did not come: rekeying must not put it off")
	}
}

// RFC 7296, Section 2.4: a peer that is gone is noticed by liveness checks, and
// only those are sent that are needed.
func TestDeadPeer(t *testing.T) {
	p := newPair(t, 1)
	p.ca.DPDDelay = 30 * time.Second
	p.up(t)
	p.net.Trace = nil
	p.a.LastIn = p.net.Now.Add(5 * time.Minute) // traffic
	p.net.Run(5 * time.Minute)
	if n := len(p.net.Trace); n != 0 {
		t.Errorf("%d messages although ESP comes in", n)
	}
	p.net.Run(5 * time.Minute)
	if n := count(p, "INFORMATIONAL request"); n < 8 || n > 11 {
		t.Errorf("%d liveness checks in five minutes, expected 10", n)
	}
	p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict { return ikev2test.Lose }
	p.net.Run(2 * time.Minute)
	if len(p.a.SAs) != 0 || p.a.Closed[0].Reason != ikev2.CloseTimeout || len(p.a.In)+len(p.a.Out) != 0 {
		t.Errorf("a still has a dead peer: %v", p.a.Closed)
	}
	if len(ikev2test.Happened[ikev2.ChildDown](p.a)) != 1 {
		t.Error("the end of the child is not told")
	}
}

// RFC 7296, Section 2.4: retransmission with exponential back-off, then the end.
func TestRetransmission(t *testing.T) {
	p := newPair(t, 1)
	p.ca.Retransmit = ikev2.Retransmit{Timeout: time.Second, Base: 2, Tries: 4, Max: 5 * time.Second}
	var at []time.Duration
	begin := p.net.Now
	p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict {
		at = append(at, p.net.Now.Sub(begin).Round(100*time.Millisecond))
		return ikev2test.Lose
	}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(time.Hour)
	want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second}
	if len(at) != len(want) {
		t.Fatalf("sent at %v, expected %v", at, want)
	}
	for i := range at {
		// Timeout and base are given, so there is no jitter unless given, too.
		if d := want[i] - at[i]; d < 0 || d > want[i]/5 {
			t.Errorf("sent at %v, expected %v", at, want)
			break
		}
	}
	if c := p.a.Closed[0]; c.Reason != ikev2.CloseTimeout || c.Failure == nil {
		t.Errorf("closed with %+v", c)
	}
}

// A responder's SA whose initiator never authenticates ends.
func TestHalfOpen(t *testing.T) {
	p := newPair(t, 1)
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.To.Addr() == addrA {
			return ikev2test.Lose
		}
		return ikev2test.Deliver
	}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(29 * time.Second)
	if len(p.b.SAs) != 1 {
		t.Fatalf("b has %d half-open SAs, expected 1 for all retransmissions", len(p.b.SAs))
	}
	p.net.Run(time.Minute)
	if len(p.b.SAs) != 0 || p.b.Closed[0].Reason != ikev2.CloseHalfOpen {
		t.Errorf("b: %v", p.b.Closed)
	}
}

// A CHILD_SA that carries nothing is closed after its inactivity time.
func TestInactivity(t *testing.T) {
	p := newPair(t, 1)
	p.cha.Inactivity = 5 * time.Minute
	p.up(t)
	p.a.LastIn = p.net.Now.Add(3 * time.Minute)
	p.net.Run(7 * time.Minute)
	p.consistent(t, 1)
	p.net.Run(2 * time.Minute)
	p.consistent(t, 0)
}

// The names of tasks are those that the control protocol knows.
func TestStatusTasks(t *testing.T) {
	p := newPair(t, 1)
	p.up(t)
	p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict { return ikev2test.Lose }
	sa := p.a.SAs[0]
	rekeyChild(p.a)
	rekeyIKE(p.a)
	s := sa.Status()
	if len(s.Active) != 1 || s.Active[0] != "CHILD_REKEY" || len(s.Queued) != 1 || s.Queued[0] != "IKE_REKEY" {
		t.Errorf("active %v, queued %v", s.Active, s.Queued)
	}
	if c := s.Children[0]; c.State.String() != "REKEYING" || s.State.String() != "ESTABLISHED" {
		t.Errorf("states %v and %v", c.State, s.State)
	}
}

// Force closes at once and sends one Delete.
func TestForceDelete(t *testing.T) {
	p := newPair(t, 1)
	p.up(t)
	p.a.Start(p.a.SAs[0], ikev2.Delete{Force: true, Why: ikev2.CloseReplaced})
	if len(p.a.SAs) != 0 || p.a.Closed[0].Reason != ikev2.CloseReplaced {
		t.Errorf("a: %v", p.a.Closed)
	}
	p.net.Run(time.Second)
	if len(p.b.SAs) != 0 || len(p.b.In)+len(p.b.Out) != 0 {
		t.Error("b did not get the Delete")
	}
}
