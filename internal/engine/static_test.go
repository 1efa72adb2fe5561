package engine

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/secret"
	"iked/sad"
	"iked/spd"
)

// manual is an SA keyed by hand, with AES-GCM.
func manual(dir sad.Direction, spi uint32) *sad.SA {
	net := func(s string) []spd.TS { return []spd.TS{spd.FromPrefix(netip.MustParsePrefix(s))} }
	return &sad.SA{ID: sad.ID{Dir: dir, Proto: suite.ProtoESP, SPI: spi, Dst: addr(sunAddr)}, Src: addr(moonAddr),
		Local: net("10.1.0.0/16"), Remote: net("10.2.0.0/16"),
		Encr: suite.Transform{Type: suite.ENCR, ID: suite.EncrAESGCM16, KeyBits: 128}, EncrKey: secret.New(bytes.Repeat([]byte{7}, 20))}
}

func manualPolicy(name string, reqid uint32) *spd.Policy {
	sa := manual(sad.Out, 256)
	return &spd.Policy{Name: name, Action: spd.Protect, Local: sa.Local, Remote: sa.Remote, ReqID: reqid, OuterLocal: sa.Src, OuterRemote: sa.Dst}
}

// Manual keys live beside what is negotiated, with numbers of their own, and
// survive a reload; the end of the daemon takes them out (RFC 4301, Section 4.5.1).
func TestStaticBesideNegotiated(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		moon.want(1, 1, "before")
		sas, policies := len(moon.back.SAs()), len(moon.back.Policies())

		reqid, err := moon.e.AddStaticSA(manual(sad.Out, 0x1000))
		if err != nil || reqid < firstStaticReqID {
			t.Fatalf("reqid 0x%x, %v", reqid, err)
		}
		in := manual(sad.In, 0x1001)
		in.ReqID = reqid
		if got, err := moon.e.AddStaticSA(in); err != nil || got != reqid {
			t.Fatalf("reqid 0x%x, %v, expected that of the other direction", got, err)
		}
		if err := moon.e.AddStaticPolicy(manualPolicy("p", reqid)); err != nil {
			t.Fatal(err)
		}
		moon.conf += "\n# a change\n"
		if _, err := moon.e.Reload(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		w.after(2 * time.Second)
		if got := moon.back.SAs(); len(got) != sas+2 {
			t.Errorf("%d SAs after a reload, expected %d", len(got), sas+2)
		}
		static := 0
		for _, sa := range moon.back.SAs() {
			if sa.Static {
				static++
				if sa.Owner != 0 || sa.ReqID != reqid {
					t.Errorf("static SA with owner %d, reqid 0x%x", sa.Owner, sa.ReqID)
				}
			}
		}
		if static != 2 {
			t.Errorf("%d static SAs, expected 2", static)
		}
		if got := moon.back.Policies(); len(got) != policies+1 {
			t.Errorf("%d policies, expected %d", len(got), policies+1)
		}
		if ikes, children := moon.up(); ikes != 1 || children != 1 {
			t.Errorf("%d IKE SAs and %d CHILD_SAs after the reload, expected one of each", ikes, children)
		}
		back := moon.back
		moon.stop()
		if len(back.SAs())+len(back.Policies()) != 0 {
			t.Errorf("left behind: %v %v", back.SAs(), back.Policies())
		}
	})
}

// What is refused, and with which words.
func TestStaticRefusals(t *testing.T) {
	simulate(t, func(w *world) {
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: passive, reqid: 1073741900"))
		w.after(time.Second)
		if _, err := moon.e.AddStaticSA(manual(sad.Out, 0x1000)); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			change func(*sad.SA)
			want   string
		}{
			{func(sa *sad.SA) { sa.SPI = 0x1000 }, "exists"},
			{func(sa *sad.SA) { sa.SPI = 255 }, "below 256"},
			{func(sa *sad.SA) { sa.EncrKey = secret.New(make([]byte, 16)) }, "encr_key has 16 octets, AES_GCM_16_128 needs 20"},
			{func(sa *sad.SA) { sa.IntegKey = secret.New(make([]byte, 16)) }, "integ_key has 16 octets"},
			{func(sa *sad.SA) {
				sa.Encr = suite.Transform{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128}
				sa.EncrKey = secret.New(make([]byte, 16))
			}, "integrity"},
			{func(sa *sad.SA) { sa.Proto = suite.ProtoAH }, "encr_key"},
			{func(sa *sad.SA) { sa.Proto, sa.EncrKey = suite.ProtoAH, secret.Bytes{} }, "integ_key is missing"},
			{func(sa *sad.SA) { sa.ReqID = 5 }, "range of negotiated"},
			{func(sa *sad.SA) { sa.ReqID = 1073741900 }, "child of the configuration"},
			{func(sa *sad.SA) { sa.Local = nil }, "no selectors"},
		} {
			sa := manual(sad.Out, 0x2000)
			c.change(sa)
			if _, err := moon.e.AddStaticSA(sa); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, expected one about %q", err, c.want)
			}
		}
		if n := len(moon.e.StaticSAs(false)); n != 1 {
			t.Errorf("%d SAs, expected the first only", n)
		}
		for _, c := range []struct {
			p    *spd.Policy
			want string
		}{
			{manualPolicy("", firstStaticReqID), "name is missing"},
			{manualPolicy("p", 0), "reqid is missing"},
			{manualPolicy("p", 1), "range of negotiated"},
			{&spd.Policy{Name: "p", Action: spd.Protect, ReqID: firstStaticReqID}, "no selectors"},
		} {
			if err := moon.e.AddStaticPolicy(c.p); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("policy %q: %v, expected an error about %q", c.p.Name, err, c.want)
			}
		}
		if err := moon.e.DeleteStaticPolicy("p"); err == nil {
			t.Error("a policy that is not there was deleted")
		}
	})
}

// Delete, update and flush find their SAs; a lifetime that is over removes one and
// says so (RFC 4301, Section 4.4.2.1). Keys are gone after, and never listed unasked.
func TestStaticLife(t *testing.T) {
	simulate(t, func(w *world) {
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: passive"))
		add := func(dir sad.Direction, spi uint32) *sad.SA {
			t.Helper()
			sa := manual(dir, spi)
			if _, err := moon.e.AddStaticSA(sa); err != nil {
				t.Fatal(err)
			}
			return sa
		}
		soft := add(sad.Out, 0x1000)
		key := soft.EncrKey
		if !moon.logged("never put this key in again") {
			t.Error("no warning about a counter mode (RFC 8221, Section 3)")
		}
		add(sad.In, 0x1000)
		if err := moon.e.DeleteStaticSA(StaticSelector{SPI: 0x1000}); err == nil || !strings.Contains(err.Error(), "say which") {
			t.Errorf("two SAs fit: %v", err)
		}
		if err := moon.e.DeleteStaticSA(StaticSelector{SPI: 0x1000, Dir: sad.In}); err != nil {
			t.Error(err)
		}
		to := addr("203.0.113.9")
		if err := moon.e.UpdateStaticSA(StaticSelector{SPI: 0x1000}, backend.Move{Dst: to}); err != nil {
			t.Fatal(err)
		}
		list := moon.e.StaticSAs(false)
		if len(list) != 1 || list[0].Dst != to || list[0].Src != addr(moonAddr) {
			t.Fatalf("after the move: %+v", list)
		}
		if !bytes.Equal(list[0].EncrKey.Reveal(), make([]byte, 20)) || bytes.Equal(key.Reveal(), make([]byte, 20)) {
			t.Error("a list without keys has some, or took them away")
		}
		if l := moon.e.StaticSAs(true); !bytes.Equal(l[0].EncrKey.Reveal(), bytes.Repeat([]byte{7}, 20)) {
			t.Error("an export with keys has others")
		}
		moon.back.Expire(list[0].ID, false, "bytes")
		w.after(time.Second)
		if len(moon.e.StaticSAs(false)) != 1 || !moon.logged("near the end of its lifetime in bytes") {
			t.Error("a soft limit removed the SA, or was not said")
		}
		moon.back.Expire(list[0].ID, true, "bytes")
		w.after(time.Second)
		if len(moon.e.StaticSAs(false)) != 0 || len(moon.back.SAs()) != 0 || !moon.logged("lifetime in bytes is over") {
			t.Errorf("after the hard limit: %v %v", moon.e.StaticSAs(false), moon.back.SAs())
		}
		if !bytes.Equal(key.Reveal(), make([]byte, 20)) {
			t.Error("the key outlived its SA")
		}
		for i := range uint32(3) {
			add(sad.In, 0x2000+i)
			if err := moon.e.AddStaticPolicy(manualPolicy(fmt.Sprint("p", i), firstStaticReqID)); err != nil {
				t.Fatal(err)
			}
		}
		// All three have the same selectors.
		if moon.logged("policy p0 is never used") || !moon.logged("policy p1 is never used") {
			t.Error("which policies are never used was not said")
		}
		if n, err := moon.e.FlushStaticSAs(); n != 3 || err != nil {
			t.Errorf("flushed %d SAs, %v", n, err)
		}
		if n, err := moon.e.FlushStaticPolicies(); n != 3 || err != nil || len(moon.e.StaticPolicies()) != 0 {
			t.Errorf("flushed %d policies, %v", n, err)
		}
		if strings.Contains(moon.dump(), "0707") {
			t.Error("a key is in the log")
		}
	})
}
