package vm

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/uml"
	"iked/spd"
	"iked/xfrm"
)

// larvae counts the questions of the kernel that are open: SAs without SPI.
func larvae(s string) int { return strings.Count(s, "spi 0x00000000") }

// A packet meets a policy of somebody else. The question comes through with what the
// policy asks for. While nobody says that it is answered here the kernel's note of it
// stays, for whoever answers; one that is taken and fails is taken back, so that the
// policy asks again, and the SA that answers takes the place of the note.
func TestPolicyOfSomebodyElseAsks(t *testing.T) {
	uml.Require(t)
	for _, reqid := range []uint32{0, 7} {
		ns := routed(t)
		args := []string{"xfrm", "policy", "add", "src", "10.1.0.0/16", "dst", "10.2.0.0/16", "dir", "out", "tmpl", "src", local.String(), "dst", remote.String(), "proto", "esp", "mode", "tunnel"}
		if reqid != 0 {
			args = append(args, "reqid", "7")
		}
		b := open(t, ns, xfrm.Options{})
		ip(t, ns, args...)
		before := ip(t, ns, "xfrm", "policy", "list", "nosock")
		a, ok := asked(t, ns, b, 5*time.Second)
		if !ok || a.Policy != 0 || a.ReqID != reqid || a.Proto != suite.ProtoESP || a.Mode != spd.Tunnel || a.Flow.Remote != netip.MustParseAddr("10.2.0.1") || a.Flow.RemotePort != 9 || a.OuterLocal != local || a.OuterRemote != remote {
			t.Fatalf("request id %d: event %+v, %v", reqid, a, ok)
		}
		b.AcquireFailed(a.Policy, a.Flow, 0) // whoever did not take it has nothing to say
		time.Sleep(300 * time.Millisecond)
		if n := larvae(ip(t, ns, "xfrm", "state")); n != 1 {
			t.Errorf("request id %d: the kernel has %d notes of a question of others, expected 1", reqid, n)
		}
		b.AcquireTaken(a.Flow)
		b.AcquireFailed(a.Policy, a.Flow, time.Second)
		if a, ok := asked(t, ns, b, 500*time.Millisecond); ok {
			t.Errorf("request id %d: asked before the time: %+v", reqid, a)
		}
		if a, ok = asked(t, ns, b, 5*time.Second); !ok {
			t.Fatalf("request id %d: does not ask again", reqid)
		}
		b.AcquireTaken(a.Flow)
		in, out := backendtest.Pair(reqid, local, remote, 0x1000, 0x1001, netL, netR)
		must(t, b.AddSA(in))
		must(t, b.AddSA(out))
		if s := ip(t, ns, "xfrm", "state"); larvae(s) != 0 {
			t.Errorf("request id %d: the question is open although there is an SA:\n%s", reqid, s)
		}
		u, err := b.QuerySA(out.ID)
		must(t, err)
		knock(t, ns)
		eventually(t, "a packet in the SA", 5*time.Second, func() bool {
			now, err := b.QuerySA(out.ID)
			return err == nil && now.Packets > u.Packets
		})
		must(t, b.Close())
		if after := ip(t, ns, "xfrm", "policy", "list", "nosock"); after != before {
			t.Errorf("request id %d: the policy of somebody else was\n%s\nand is\n%s", reqid, before, after)
		}
	}
}

// At its end the backend takes back the questions that would have been answered here, so
// that whoever comes next is asked; those of others stay.
func TestQuestionsAtTheEnd(t *testing.T) {
	uml.Require(t)
	ns := routed(t)
	ip(t, ns, "route", "add", "10.3.0.0/16", "dev", "eth0", "src", "10.1.0.1")
	b := open(t, ns, xfrm.Options{})
	for _, x := range [][2]string{{"10.2.0.0/16", "7"}, {"10.3.0.0/16", "8"}} {
		ip(t, ns, "xfrm", "policy", "add", "src", "10.1.0.0/16", "dst", x[0], "dir", "out", "tmpl", "src", local.String(), "dst", remote.String(), "proto", "esp", "mode", "tunnel", "reqid", x[1])
	}
	a, ok := asked(t, ns, b, 5*time.Second)
	if !ok || a.ReqID != 7 {
		t.Fatalf("event %+v, %v", a, ok)
	}
	b.AcquireTaken(a.Flow)
	b.AcquireFailed(a.Policy, a.Flow, 0)
	eventually(t, "the question is taken back", 5*time.Second, func() bool { return larvae(ip(t, ns, "xfrm", "state")) == 0 })
	before := b.Counters()["acquires"]
	for _, to := range []string{"10.2.0.2:9", "10.3.0.1:9"} { // asks again, and nobody listens
		if c, err := ns.Dial("udp", to); err == nil {
			_, _ = c.Write([]byte("x"))
			c.Close()
		}
	}
	eventually(t, "both questions are open", 5*time.Second, func() bool { return larvae(ip(t, ns, "xfrm", "state")) == 2 })
	eventually(t, "both questions are heard", 5*time.Second, func() bool { return b.Counters()["acquires"] == before+2 })
	must(t, b.Close())
	if s := ip(t, ns, "xfrm", "state"); larvae(s) != 1 || !strings.Contains(s, "reqid 8") {
		t.Errorf("open questions after the end:\n%s", s)
	}
}

// The Binding Update of a mobile node asks by the policy of its mobility manager (RFC
// 4877, Section 4.2): the question has the type of the mobility header.
func TestBindingUpdateAsks(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	home, agent := "2001:db8::100", "2001:db8::1"
	ip(t, ns, "link", "add", "eth0", "type", "dummy")
	ip(t, ns, "addr", "add", home+"/64", "dev", "eth0", "nodad")
	ip(t, ns, "link", "set", "eth0", "up")
	b := open(t, ns, xfrm.Options{})
	send := func(first byte) {
		must(t, ns.Do(func() error {
			c, err := net.ListenPacket("ip6:135", home)
			if err != nil {
				return err
			}
			defer c.Close()
			m := make([]byte, 16)
			m[0], m[1], m[2] = 59, 1, first // no next header, 16 octets, the type
			_, _ = c.WriteTo(m, &net.IPAddr{IP: net.ParseIP(agent)})
			return nil
		}))
	}
	ip(t, ns, "xfrm", "policy", "add", "src", home+"/128", "dst", agent+"/128", "proto", "135", "type", "5", "dir", "out", "tmpl", "proto", "esp", "mode", "transport", "reqid", "3")
	for end := time.Now().Add(10 * time.Second); ; {
		send(5)
		select {
		case e := <-b.Events():
			a, ok := e.(backend.Acquire)
			if !ok {
				continue
			}
			if a.Policy != 0 || a.ReqID != 3 || a.Mode != spd.Transport || a.OuterLocal.IsValid() || a.Flow.Local.String() != home || a.Flow.Remote.String() != agent || a.Flow.Proto != 135 || a.Flow.LocalPort != 5<<8 {
				t.Errorf("event %+v", a)
			}
			return
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("the Binding Update asks nobody:\n%s", ip(t, ns, "xfrm", "policy"))
		}
	}
}
