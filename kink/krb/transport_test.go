package krb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"iked/kink"
	"iked/kink/krb/krb5"
)

// krbError is a KRB-ERROR of a KDC, the shortest reply there is.
func krbError(t testing.TB, code int32, text string) []byte {
	t.Helper()
	b, err := kink.KRBError{Code: code, STime: noon, Server: name(t, "krbtgt/A@A"), Text: text}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fakeKDC answers at one port of loopback by UDP and TCP as it is told; nil: not at all.
type fakeKDC struct {
	port             string
	udp, tcp         func(request []byte) [][]byte
	byUDP, byTCP     atomic.Int32
	lastUDP, lastTCP atomic.Value
}

func serve(t *testing.T, udp, tcp func([]byte) [][]byte) *fakeKDC {
	t.Helper()
	k := &fakeKDC{udp: udp, tcp: tcp}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, k.port, _ = net.SplitHostPort(l.Addr().String())
	p, err := net.ListenPacket("udp", "127.0.0.1:"+k.port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); p.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			k.byUDP.Add(1)
			k.lastUDP.Store(bytes.Clone(b[:n]))
			if udp != nil {
				for _, a := range udp(b[:n]) {
					p.WriteTo(a, from)
				}
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var head [4]byte
				if _, err := io.ReadFull(c, head[:]); err != nil {
					return
				}
				b := make([]byte, binary.BigEndian.Uint32(head[:])&0xffffff)
				if _, err := io.ReadFull(c, b); err != nil {
					return
				}
				k.byTCP.Add(1)
				k.lastTCP.Store(b)
				if tcp == nil {
					io.Copy(io.Discard, c) // until the client gives up
					return
				}
				for _, a := range tcp(b) {
					c.Write(a)
				}
			}()
		}
	}()
	return k
}

func framed(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

func answers(b ...[]byte) func([]byte) [][]byte { return func([]byte) [][]byte { return b } }

func network(t testing.TB, more string, kdcs ...*fakeKDC) *Network {
	t.Helper()
	text := "[libdefaults]\ndns_lookup_kdc = false\n" + more + "\n[realms]\nA = {\n"
	for _, k := range kdcs {
		text += "kdc = 127.0.0.1:" + k.port + "\n"
	}
	c, err := loadConf("/x", memFiles{"/x": text + "}\n"})
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = 100 * time.Millisecond
	return NewNetwork(c)
}

func within(t *testing.T, d time.Duration) context.Context {
	c, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return c
}

// UDP comes first, and TCP when the request is large, when the answer is, when UDP is
// not answered (RFC 4120, Section 7.2).
func TestTransports(t *testing.T) {
	yes, tooBig := krbError(t, 25, "yes"), krbError(t, errTooBig, "")
	large := bytes.Repeat([]byte{1}, 2000)
	for _, c := range []struct {
		name     string
		request  []byte
		udp, tcp func([]byte) [][]byte
		u, t     int32 // how often asked
	}{
		{"UDP", []byte("q"), answers(yes), nil, 1, 0},
		{"too large an answer", []byte("q"), answers(tooBig), answers(framed(yes)), 1, 1},
		{"UDP is silent", []byte("q"), nil, answers(framed(yes)), 1, 1},
		{"too large a request", large, answers(tooBig), answers(framed(yes)), 0, 1},
		{"too large a request, and no TCP", large, answers(yes), nil, 1, 1},
		{"garbage comes before the answer", []byte("q"), answers(nil, []byte("x"), yes[:len(yes)-1], append(bytes.Clone(yes), 0), yes), nil, 1, 0},
		{"the answer by TCP comes in pieces", large, nil, func([]byte) [][]byte {
			var out [][]byte
			for _, b := range framed(yes) {
				out = append(out, []byte{b})
			}
			return out
		}, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := serve(t, c.udp, c.tcp)
			got, err := network(t, "", k).Exchange(within(t, 5*time.Second), "A", c.request)
			if err != nil || !bytes.Equal(got, yes) {
				t.Fatalf("%x, %v", got, err)
			}
			if u, tc := k.byUDP.Load(), k.byTCP.Load(); u != c.u || tc != c.t {
				t.Errorf("asked %d times by UDP and %d by TCP, expected %d and %d", u, tc, c.u, c.t)
			}
			for _, v := range []*atomic.Value{&k.lastUDP, &k.lastTCP} {
				if b, ok := v.Load().([]byte); ok && !bytes.Equal(b, c.request) {
					t.Errorf("the request is %x", b)
				}
			}
		})
	}
}

// A KDC that is away, that is silent, that does not serve or sends garbage is passed
// over for the next.
func TestNextKDC(t *testing.T) {
	yes := krbError(t, 25, "yes")
	gone := &fakeKDC{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, gone.port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	for name, first := range map[string]*fakeKDC{
		"away":                  gone,
		"silent":                serve(t, nil, nil),
		"no service":            serve(t, answers(krbError(t, errUnavailable, "")), nil),
		"garbage":               serve(t, answers([]byte("no")), answers(framed([]byte("no")))),
		"a huge length":         serve(t, nil, answers([]byte{0x7f, 0xff, 0xff, 0xff, 1})),
		"the reserved bit":      serve(t, nil, answers([]byte{0x80, 0, 0, 1, 1})),
		"a cut answer":          serve(t, answers(krbError(t, errTooBig, "")), answers(framed(yes)[:20])),
		"a length of nothing":   serve(t, nil, answers([]byte{0, 0, 0, 0})),
		"too large by TCP also": serve(t, answers(krbError(t, errTooBig, "")), answers(framed(krbError(t, errTooBig, "")))),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := network(t, "", first, serve(t, answers(yes), nil)).Exchange(within(t, 10*time.Second), "A", []byte("q"))
			if err != nil || !bytes.Equal(got, yes) {
				t.Errorf("%x, %v", got, err)
			}
		})
	}
	// Alone, it is the answer in the end.
	got, err := network(t, "max_retries = 1", serve(t, answers(krbError(t, errUnavailable, "no")), nil)).Exchange(within(t, 10*time.Second), "A", []byte("q"))
	if err != nil || code(got) != errUnavailable {
		t.Errorf("%x %v", got, err)
	}
}

// KDCs that do not answer are asked no longer than the deadline, each of them at its
// turn, and the failure names them; without an end they are given up all the same.
func TestDeadline(t *testing.T) {
	a, b := serve(t, nil, nil), serve(t, nil, nil)
	begin := time.Now()
	_, err := network(t, "", a, b).Exchange(within(t, 500*time.Millisecond), "A", []byte("q"))
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("it took %v", d)
	}
	var k *kink.KerberosError
	if !errors.As(err, &k) || !k.Temporary || !strings.Contains(k.Sentence, "no KDC of realm A can be reached") {
		t.Fatalf("%v", err)
	}
	if a.byUDP.Load() == 0 || b.byUDP.Load() == 0 {
		t.Error("one was not asked")
	}
	begin = time.Now()
	_, err = network(t, "max_retries = 1", a, b).Exchange(context.Background(), "A", []byte("q"))
	if d := time.Since(begin); err == nil || d > 5*time.Second {
		t.Errorf("%v after %v", err, d)
	}
	if !errors.As(err, &k) || len(k.Evidence) != 2 || !strings.Contains(k.Evidence[0], "127.0.0.1: ") || !strings.Contains(k.Evidence[0], "no answer") {
		t.Errorf("the evidence is %q", k.Evidence)
	}
	done, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	begin = time.Now()
	n := network(t, "", a)
	n.conf.Timeout = time.Minute
	if _, err := n.Exchange(done, "A", []byte("q")); err == nil || time.Since(begin) > 10*time.Second {
		t.Errorf("canceled: %v after %v", err, time.Since(begin))
	}
}

// A realm without a KDC is told apart from one whose KDC is away, with what to do.
func TestNoKDCKnown(t *testing.T) {
	n := network(t, "")
	_, err := n.Exchange(within(t, time.Second), "NOWHERE", []byte("q"))
	var k *kink.KerberosError
	if !errors.As(err, &k) || !strings.Contains(k.Sentence, "no KDC of realm NOWHERE is known") || !strings.Contains(k.Advice, "krb5.conf") {
		t.Errorf("%v", err)
	}
}

// SRV records name the KDCs of a realm that krb5.conf does not (RFC 4120, Section
// 7.2.3.2).
func TestSRVRecords(t *testing.T) {
	yes := krbError(t, 25, "yes")
	k := serve(t, answers(yes), nil)
	var asked atomic.Value
	dns, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dns.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			size, from, err := dns.ReadFrom(b)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if q.Unpack(b[:size]) != nil || len(q.Questions) != 1 {
				continue
			}
			q.Response = true
			q.Additionals = nil
			switch want := q.Questions[0]; {
			case want.Type == dnsmessage.TypeSRV && want.Name.String() == "_kerberos._udp.A.":
				asked.Store(want.Name.String())
				var port uint16
				fmt.Sscan(k.port, &port)
				q.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: want.Name, Type: want.Type, Class: want.Class}, Body: &dnsmessage.SRVResource{Port: port, Target: dnsmessage.MustNewName("kdc.a.")}}}
			case want.Type == dnsmessage.TypeA && want.Name.String() == "kdc.a.":
				q.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: want.Name, Type: want.Type, Class: want.Class}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			case want.Type == dnsmessage.TypeSRV:
				q.RCode = dnsmessage.RCodeNameError
			}
			if out, err := q.Pack(); err == nil {
				dns.WriteTo(out, from)
			}
		}
	}()
	c, err := loadConf("", memFiles{})
	if err != nil {
		t.Fatal(err)
	}
	n := NewNetwork(c)
	n.resolver.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", dns.LocalAddr().String())
	}
	got, err := n.Exchange(within(t, 10*time.Second), "A", []byte("q"))
	if err != nil || !bytes.Equal(got, yes) || asked.Load() == nil {
		t.Fatalf("%x, %v", got, err)
	}
	if _, err := n.Exchange(within(t, 10*time.Second), "B", []byte("q")); err == nil || !strings.Contains(err.Error(), "no KDC of realm B is known") {
		t.Errorf("%v", err)
	}
	if krb5.MaxKDCReply < 100<<10 {
		t.Error("a large domain's tickets do not fit")
	}
}
