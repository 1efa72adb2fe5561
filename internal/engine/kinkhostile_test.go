package engine

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink"
	kinkmsg "iked/kink/message"
	"iked/sad"
)

// The workers that ask KDCs are for the own tickets: strangers who ask for the own
// ticket-granting ticket while a KDC is silent hold two of them at most.
func TestKINKTicketsOfStrangers(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		var waiting atomic.Int32
		r.wrap = func(k Kerberos) Kerberos { return slowTGT{k, &waiting} }
		sun := w.gateway("sun", sunAddr, strings.Replace(r.sun("    kink_user_to_user: yes", ""), "'%any'", "0.0.0.0/0", 1))
		name := "kink/sun.example.org@EXAMPLE.ORG"
		for n := range 200 {
			b, err := kinkmsg.Append(nil, kinkmsg.Header{Type: kinkmsg.GetTGT, XID: uint32(n)}, kinkmsg.Body{TGTReq: &name}, nil)
			if err != nil {
				t.Fatal(err)
			}
			sun.e.ReceiveKINK(keyex.Datagram{Local: netip.MustParseAddrPort(sunAddr + ":910"), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), 910), Data: b})
			w.after(60 * time.Millisecond)
		}
		if n := waiting.Load(); n < 1 || n > 2 {
			t.Errorf("%d workers are held by strangers", n)
		}
		// When it is over they are answered again.
		w.after(time.Minute)
		if n := waiting.Load(); n != 0 {
			t.Errorf("%d workers are held", n)
		}
		b, _ := kinkmsg.Append(nil, kinkmsg.Header{Type: kinkmsg.GetTGT}, kinkmsg.Body{TGTReq: &name}, nil)
		sun.e.ReceiveKINK(keyex.Datagram{Local: netip.MustParseAddrPort(sunAddr + ":910"), Remote: netip.MustParseAddrPort(moonAddr + ":910"), Data: b})
		synctest.Wait()
		if n := waiting.Load(); n != 1 {
			t.Errorf("%d workers after the flood", n)
		}
	})
}

// slowTGT is Kerberos whose KDC is silent.
type slowTGT struct {
	Kerberos
	waiting *atomic.Int32
}

func (s slowTGT) GetTGT(ctx context.Context, _ time.Time, _ kink.Principal) ([]byte, error) {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A message whose time is long over may be a recorded one, which comes as often as
// somebody likes and from any address: its answer, though it is proven, has the budget
// of strangers.
func TestKINKOldMessageAgain(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		var create []byte
		w.tap = func(d ikev2.Datagram) bool {
			if create == nil && kinkmsg.Type(d.Data[0]) == kinkmsg.Create {
				create = slices.Clone(d.Data)
			}
			return true
		}
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		moon := w.gateway("moon", moonAddr, r.moon("", ", start: always"))
		w.after(time.Second)
		moon.want(1, 1, "before")
		w.after(20 * time.Minute)
		w.mu.Lock()
		before := len(w.sent)
		w.mu.Unlock()
		for n := range 500 {
			sun.e.ReceiveKINK(keyex.Datagram{Local: netip.MustParseAddrPort(sunAddr + ":910"), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}), 910), Data: slices.Clone(create)})
			synctest.Wait()
		}
		w.mu.Lock()
		n := len(w.sent) - before
		w.mu.Unlock()
		if n == 0 || n > 41 {
			t.Errorf("%d answers to a recorded message that came 500 times", n)
		}
		sun.want(1, 1, "after it")
	})
}

// Somebody else has the port: that is told, with who it is and what to do, IKE is not
// held up, and the next reload opens it.
func TestKINKPortInUse(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		r.busy = errors.New("address already in use; process 7 has it")
		moon := w.gateway("moon", moonAddr, r.moon("    keyingtries: 0", ", start: always"))
		w.after(time.Second)
		f := moon.e.Explain("")
		if !slices.ContainsFunc(f, func(f trace.Failure) bool {
			return strings.Contains(f.Sentence, "process 7 has it") && strings.Contains(f.Advice, "ikectl reload")
		}) {
			t.Errorf("%+v", f)
		}
		r.busy = nil
		ports := len(r.ports)
		if _, err := moon.e.Reload(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		if len(r.ports) != ports+1 {
			t.Error("the reload does not open the port")
		}
		w.after(time.Minute)
		moon.want(1, 1, "with the port")
		sun.want(1, 1, "with the port")
		if _, err := moon.e.Reload(context.Background(), false); err != nil || len(r.ports) != ports+1 {
			t.Errorf("%v, ports %v", err, r.ports)
		}
		moon.want(1, 1, "after a reload that changes nothing")
	})
}

// The peer is known by its name: when the name has another address, it is found there
// after it was missed here.
func TestKINKFollowsTheName(t *testing.T) {
	simulate(t, func(w *world) {
		const other = "192.0.2.7"
		r := newRealm(w, "moon", "sun")
		w.name("sun.example.org", sunAddr)
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		moon := w.gateway("moon", moonAddr, r.conf("moon", "sun.example.org", "'kink/*.example.org@EXAMPLE.ORG'", "    keyingtries: 0\n    dpd_delay: 10s", nets+", start: always"))
		w.after(time.Second)
		moon.want(1, 1, "at the first address")
		sun.crash()
		w.name("sun.example.org", other)
		moved := w.gateway("sun", other, sun.conf)
		w.after(10 * time.Minute)
		moon.want(1, 1, "at the second address")
		moved.want(1, 1, "at the second address")
		if a := moon.sas()[0].Remote.Addr().String(); a != other {
			t.Errorf("the peer is at %s", a)
		}
	})
}

// Over IPv6, and another principal at the same address: what one says of its epoch ends
// nothing of the other.
func TestKINKTwoPrincipalsAtOneAddress(t *testing.T) {
	simulate(t, func(w *world) {
		const moon6, sun6 = "2001:db8::1", "2001:db8::2"
		r := newRealm(w, "moon", "sun", "mars")
		sun := w.gateway("sun", sun6, r.conf("sun", "'%any'", "'kink/*.example.org@EXAMPLE.ORG'", "", netsSun))
		moon := w.gateway("moon", moon6, r.conf("moon", sun6, "kink/sun.example.org@EXAMPLE.ORG", "", nets+", start: always"))
		w.after(time.Second)
		moon.want(1, 1, "over IPv6")
		sun.want(1, 1, "over IPv6")
		keys := sun.back.SAs()
		// mars takes the address, with another epoch.
		moon.crash()
		mars := w.gateway("mars", moon6, r.conf("mars", sun6, "kink/sun.example.org@EXAMPLE.ORG", "", nets))
		for range 5 { // SPIs that moon has not had there
			if _, err := mars.back.AllocSPI(suite.ProtoESP, mars.addr); err != nil {
				t.Fatal(err)
			}
		}
		if err := mars.e.Initiate(context.Background(), InitiateRequest{Child: "net", Timeout: 2 * time.Second}); err != nil {
			t.Error(err)
		}
		if _, n := mars.up(); n != 1 {
			t.Fatalf("mars has %d CHILD_SAs\n%s\n%s", n, mars.dump(), sun.dump())
		}
		if sun.logged("was started again") {
			t.Error("the epoch of mars counts for moon")
		}
		for _, k := range keys {
			if !slices.ContainsFunc(sun.back.SAs(), func(s sad.SA) bool { return s.SPI == k.SPI && s.EncrKey.Equal(k.EncrKey) }) {
				t.Errorf("SA %08x of moon is gone", k.SPI)
			}
		}
	})
}

// faulty is Kerberos whose library panicked.
type faulty struct{ Kerberos }

func (faulty) Panics() uint64 { return 3 }

// The faults of the Kerberos library that were contained can be seen.
func TestKerberosFaultsAreCounted(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		moon := w.gateway("moon", moonAddr, r.moon("", ""))
		if n, ok := moon.e.Drops()["kerberos-panic"]; ok {
			t.Errorf("%d faults, and none happened", n)
		}
		r.wrap = func(k Kerberos) Kerberos { return faulty{k} }
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		if n := sun.e.Drops()["kerberos-panic"]; n != 3 {
			t.Errorf("%d faults are counted", n)
		}
	})
}
