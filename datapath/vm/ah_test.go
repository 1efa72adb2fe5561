// Package vm tests the datapath against the IPsec stack of a kernel, configured by
// hand, for what RFCs have no test vectors of.
package vm

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/crypto/integ"
	"iked/crypto/suite"
	"iked/datapath"
	"iked/internal/secret"
	"iked/internal/testnet"
	"iked/internal/trace"
	"iked/internal/transport"
	"iked/internal/uml"
	"iked/sad"
	"iked/spd"
)

func TestMain(m *testing.M) { uml.Main(m, uml.Options{}) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is two hosts on a link: a carries packets with the datapath, b with its
// kernel.
type world struct {
	a, b *testnet.Namespace
	d    *datapath.Datapath
}

var (
	wanA = map[int]netip.Addr{4: netip.MustParseAddr("192.0.2.1"), 6: netip.MustParseAddr("2001:db8::1")}
	wanB = map[int]netip.Addr{4: netip.MustParseAddr("192.0.2.2"), 6: netip.MustParseAddr("2001:db8::2")}
	lanA = map[int]netip.Addr{4: netip.MustParseAddr("10.0.0.1"), 6: netip.MustParseAddr("fd00::1")}
	lanB = map[int]netip.Addr{4: netip.MustParseAddr("10.0.0.2"), 6: netip.MustParseAddr("fd00::2")}
)

func (w *world) ip(t *testing.T, ns *testnet.Namespace, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	if out, err := ns.Run(context.Background(), append([]string{"ip"}, strings.Fields(line)...)...); err != nil {
		t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	n, err := testnet.Open()
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	w := &world{}
	w.a, err = n.Namespace("a")
	must(t, err)
	w.b, err = n.Namespace("b")
	must(t, err)
	must(t, n.Connect(testnet.End{NS: w.a, If: "eth0"}, testnet.End{NS: w.b, If: "eth0"}, 1500))
	for _, x := range []struct {
		ns       *testnet.Namespace
		wan, lan map[int]netip.Addr
		to       map[int]netip.Addr
	}{{w.a, wanA, lanA, nil}, {w.b, wanB, lanB, lanA}} {
		w.ip(t, x.ns, "addr add %v/24 dev eth0", x.wan[4])
		w.ip(t, x.ns, "addr add %v/64 dev eth0 nodad", x.wan[6])
		for _, f := range []int{4, 6} {
			w.ip(t, x.ns, "addr add %v/%d dev lo", x.lan[f], x.lan[f].BitLen())
			if x.to != nil {
				w.ip(t, x.ns, "route add %v/%d dev eth0 src %v", x.to[f], x.to[f].BitLen(), x.lan[f])
			}
		}
	}
	// Neighbours are known: discovery would have to pass policies between the hosts.
	for _, x := range []struct{ at, of *testnet.Namespace }{{w.a, w.b}, {w.b, w.a}} {
		l, err := x.of.Handle().LinkByName("eth0")
		must(t, err)
		to := wanB
		if x.of == w.a {
			to = wanA
		}
		for _, f := range []int{4, 6} {
			w.ip(t, x.at, "neigh replace %v lladdr %v dev eth0 nud permanent", to[f], l.Attrs().HardwareAddr)
		}
	}
	must(t, w.a.Do(func() (err error) {
		w.d, err = datapath.New(datapath.Options{UDPEncapOnly: false, Mark: transport.DefaultMark, Log: func(r trace.Record) { t.Log(r.Msg) }})
		return err
	}))
	t.Cleanup(func() { must(t, w.d.Close()) })
	return w
}

// sa is one layer of protection, the same on both sides.
type layer struct {
	proto suite.Protocol
	mode  spd.Mode
	id    uint16 // of the integrity algorithm
	name  string // as the kernel calls it
	esn   bool
	flags string // of the kernel's outbound SA
	outer int
}

func (l layer) String() string {
	return fmt.Sprintf("%v mode %d %s esn %v %s", l.proto, l.mode, l.name, l.esn, l.flags)
}

func key(spi uint32, n int) []byte {
	return bytes.Repeat([]byte{byte(spi), byte(spi>>8) + 7, 3, 1}, n/4)
}

// protect installs layers, the innermost first, between two addresses on both
// sides, and gives back what removes them.
func (w *world) protect(t *testing.T, base uint32, inA, inB netip.Addr, layers []layer) (undo func()) {
	t.Helper()
	var ids []sad.ID
	sel := func(a netip.Addr) []spd.TS { return []spd.TS{spd.FromPrefix(netip.PrefixFrom(a, a.BitLen()))} }
	p := spd.Policy{ID: uint64(base), Name: "test/cross", Action: spd.Protect, Local: sel(inA), Remote: sel(inB), ReqID: base, Priority: 10}
	var tmplOut, tmplIn []string
	for i, l := range layers {
		src, dst := wanA[l.outer], wanB[l.outer]
		spiIn, spiOut := base+0x1000+uint32(i), base+0x2000+uint32(i)
		keyLen, icv, err := integ.Lens(l.id)
		must(t, err)
		mode, proto, number := "transport", "ah", uint8(51)
		if l.mode == spd.Tunnel {
			mode = "tunnel"
		}
		if l.proto == suite.ProtoESP {
			proto, number = "esp", 50
		}
		local, remote := inA, inB
		if i > 0 {
			local, remote = src, dst
		}
		for _, dir := range []sad.Direction{sad.In, sad.Out} {
			s := &sad.SA{ID: sad.ID{Dir: dir, Proto: l.proto, SPI: spiOut, Dst: dst}, Src: src, ReqID: base + uint32(i), Mode: l.mode, ESN: l.esn,
				Local: sel(local), Remote: sel(remote), Integ: suite.Transform{Type: suite.INTEG, ID: l.id}, ReplayWindow: 64, Name: "test/cross"}
			if dir == sad.In {
				s.SPI, s.Dst, s.Src = spiIn, src, dst
			}
			s.IntegKey = secret.New(key(s.SPI, keyLen))
			crypt := ""
			if l.proto == suite.ProtoESP {
				s.Encr = suite.Transform{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128}
				s.EncrKey = secret.New(key(s.SPI+1, 16))
				crypt = " enc cbc(aes) 0x" + hex.EncodeToString(key(s.SPI+1, 16))
			}
			must(t, w.d.AddSA(s))
			ids = append(ids, s.ID)
			flags := l.flags
			if dir == sad.Out {
				flags = "align4" // what the datapath sends
			}
			if l.outer == 6 || l.proto == suite.ProtoESP {
				flags = ""
			}
			if l.mode == spd.Tunnel {
				flags += " af-unspec"
			}
			replay := "replay-window 64"
			if l.esn {
				flags += " esn"
			}
			if flags = strings.TrimSpace(flags); flags != "" {
				flags = " flag " + strings.Join(strings.Fields(flags), " flag ")
			}
			w.ip(t, w.b, "xfrm state add src %v dst %v proto %s spi 0x%x reqid %d mode %s %s%s auth-trunc %s 0x%x %d%s",
				s.Src, s.Dst, proto, s.SPI, s.ReqID, mode, replay, flags, l.name, key(s.SPI, keyLen), 8*icv, crypt)
		}
		ends := ""
		if l.mode == spd.Tunnel {
			ends = "src %v dst %v "
		}
		tmpl := func(from, to netip.Addr) string {
			if ends == "" {
				return fmt.Sprintf("tmpl proto %s reqid %d mode %s", proto, base+uint32(i), mode)
			}
			return fmt.Sprintf("tmpl "+ends+"proto %s reqid %d mode %s", from, to, proto, base+uint32(i), mode)
		}
		tmplOut, tmplIn = append(tmplOut, tmpl(dst, src)), append(tmplIn, tmpl(src, dst))
		if i == 0 {
			p.Proto, p.Mode = number, l.mode
		} else {
			p.Bundle = append(p.Bundle, spd.Template{Proto: number, Mode: l.mode, ReqID: base + uint32(i), Local: src, Remote: dst})
		}
	}
	w.ip(t, w.b, "xfrm policy add src %v dst %v dir out %s", inB, inA, strings.Join(tmplOut, " "))
	w.ip(t, w.b, "xfrm policy add src %v dst %v dir in %s", inA, inB, strings.Join(tmplIn, " "))
	must(t, w.d.ApplyPolicies(nil, []spd.Policy{p}))
	return func() {
		must(t, w.d.ApplyPolicies([]uint64{p.ID}, nil))
		for _, id := range ids {
			must(t, w.d.DeleteSA(id))
		}
		w.ip(t, w.b, "xfrm policy flush")
		w.ip(t, w.b, "xfrm state flush")
	}
}

// cross pings from the datapath's host to the kernel's and back, whole packets and
// fragments, and looks at the wire.
func (w *world) cross(t *testing.T, name string, base uint32, inA, inB netip.Addr, layers []layer) {
	t.Helper()
	undo := w.protect(t, base, inA, inB, layers)
	defer undo()
	wire, err := testnet.Sent(testnet.End{NS: w.a, If: "eth0"}, testnet.End{NS: w.b, If: "eth0"})
	must(t, err)
	// The path MTU gets known.
	_, err = w.a.Ping(inB, testnet.PingOptions{From: inA, Size: 3000})
	must(t, err)
	for _, size := range []int{56, 1300, 3000} {
		r, err := w.a.Ping(inB, testnet.PingOptions{From: inA, Count: 3, Size: size})
		if err != nil || r.Lost() != 0 {
			t.Errorf("%s: ping with %d octets: %v, %v\n%v\n%v", name, size, r, err, nonZero(w.d.Counters()), wire)
			break
		}
	}
	r, err := w.b.Ping(inA, testnet.PingOptions{From: inB, Count: 2, Size: 1000})
	if err != nil || r.Lost() != 0 {
		t.Errorf("%s: ping from the kernel's side: %v, %v\n%v", name, r, err, nonZero(w.d.Counters()))
	}
	wire.Stop()
	if clear := wire.ClearText(); len(clear) != 0 {
		t.Errorf("%s: clear text on the wire: %v", name, clear)
	}
}

func nonZero(m map[string]uint64) map[string]uint64 {
	for k, v := range m {
		if v == 0 {
			delete(m, k)
		}
	}
	return m
}

// RFC 4302 against a kernel: every algorithm that both have, transport and tunnel
// mode, either family in either, with and without ESN; IPv4 with AH padded to four
// octets and, as kernels send it by default, to eight; around ESP, and inside of it.
func TestAHAgainstTheKernel(t *testing.T) {
	uml.Require(t)
	w := newWorld(t)
	base := uint32(1)
	run := func(name string, inA, inB netip.Addr, layers ...layer) {
		t.Helper()
		w.cross(t, fmt.Sprintf("%s, %v", name, layers), base, inA, inB, layers)
		base += 0x10
	}
	for _, alg := range []struct {
		id   uint16
		name string
	}{
		{suite.IntegHMACSHA1_96, "hmac(sha1)"}, {suite.IntegHMACSHA256, "hmac(sha256)"}, {suite.IntegHMACSHA384, "hmac(sha384)"},
		{suite.IntegHMACSHA512, "hmac(sha512)"}, {suite.IntegAESXCBC96, "xcbc(aes)"}, {suite.IntegAESCMAC96, "cmac(aes)"},
	} {
		for _, esn := range []bool{false, true} {
			l := layer{proto: suite.ProtoAH, mode: spd.Transport, id: alg.id, name: alg.name, esn: esn, flags: "align4", outer: 4}
			run("transport, IPv4", wanA[4], wanB[4], l)
			l.flags = ""
			run("transport, IPv4, padded to eight octets", wanA[4], wanB[4], l)
			l.outer = 6
			run("transport, IPv6", wanA[6], wanB[6], l)
		}
	}
	for _, outer := range []int{4, 6} {
		for _, inner := range []int{4, 6} {
			l := layer{proto: suite.ProtoAH, mode: spd.Tunnel, id: suite.IntegHMACSHA256, name: "hmac(sha256)", esn: true, flags: "align4", outer: outer}
			run(fmt.Sprintf("tunnel, IPv%d in IPv%d", inner, outer), lanA[inner], lanB[inner], l)
		}
	}
}

// RFC 4301, Section 4.1: AH around ESP, which both apply. AH inside of ESP is opened
// as the kernel seals it; the other way it cannot be tried, because the kernel
// verifies the ICV of an inner AH while its header still names ESP.
func TestBundlesAgainstTheKernel(t *testing.T) {
	uml.Require(t)
	w := newWorld(t)
	base := uint32(1)
	run := func(name string, inA, inB netip.Addr, layers ...layer) {
		t.Helper()
		w.cross(t, fmt.Sprintf("%s, %v", name, layers), base, inA, inB, layers)
		base += 0x10
	}
	for _, f := range []int{4, 6} {
		esp := layer{proto: suite.ProtoESP, mode: spd.Transport, id: suite.IntegHMACSHA256, name: "hmac(sha256)", outer: f}
		ah := layer{proto: suite.ProtoAH, mode: spd.Transport, id: suite.IntegHMACSHA256, name: "hmac(sha256)", flags: "align4", outer: f}
		run("ESP transport, then AH transport", wanA[f], wanB[f], esp, ah)
		tunnel := esp
		tunnel.mode = spd.Tunnel
		run("ESP tunnel, then AH transport", lanA[f], lanB[f], tunnel, ah)

		undo := w.protect(t, base, wanA[f], wanB[f], []layer{ah, esp})
		before := w.d.Counters()["in_packets"]
		_, err := w.b.Ping(wanA[f], testnet.PingOptions{From: wanB[f], Count: 3, Size: 1000})
		must(t, err)
		if n := w.d.Counters()["in_packets"] - before; n != 3 {
			t.Errorf("AH transport, then ESP transport, IPv%d: %d packets of the kernel were opened, expected 3; %v", f, n, nonZero(w.d.Counters()))
		}
		undo()
		base += 0x10
	}
}

// RFC 4302, Section 3.3.3.1, against a kernel: what changes on the way by its
// reading changes by ours. IPv4 options that are kept and that are zeroed, which the
// receiver fills in; IPv6 options with and without the bit of mutability.
func TestOptionsAgainstTheKernel(t *testing.T) {
	uml.Require(t)
	w := newWorld(t)
	l := layer{proto: suite.ProtoAH, mode: spd.Transport, id: suite.IntegHMACSHA256, name: "hmac(sha256)", esn: true, flags: "align4", outer: 4}
	undo4 := w.protect(t, 1, wanA[4], wanB[4], []layer{l})
	defer undo4()
	l.outer = 6
	w.protect(t, 0x20, wanA[6], wanB[6], []layer{l})
	v4 := func(opt ...byte) func(int) error {
		return func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(opt)) }
	}
	v6 := func(opt int, b ...byte) func(int) error {
		return func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, opt, string(b)) }
	}
	for _, c := range []struct {
		name   string
		family int
		set    func(int) error
	}{
		{"router alert", 4, v4(148, 4, 0, 0)},
		{"record route", 4, v4(7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)},
		{"timestamps", 4, v4(68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0)},
		{"timestamps, router alert and padding", 4, v4(68, 8, 5, 0, 0, 0, 0, 0, 1, 148, 4, 0, 0, 0, 0, 0)},
		{"hop-by-hop", 6, v6(unix.IPV6_HOPOPTS, 0, 0, 1, 4, 0, 0, 0, 0)},
		{"hop-by-hop that may change", 6, v6(unix.IPV6_HOPOPTS, 0, 0, 0x3e, 4, 1, 2, 3, 4)},
		{"destination", 6, v6(unix.IPV6_DSTOPTS, 0, 0, 0x1e, 4, 1, 2, 3, 4)},
		{"destination that may change", 6, v6(unix.IPV6_DSTOPTS, 0, 0, 0x3e, 4, 1, 2, 3, 4)},
	} {
		for _, way := range []struct {
			name     string
			from, to *testnet.Namespace
			src, dst netip.Addr
		}{{"to the kernel", w.a, w.b, wanA[c.family], wanB[c.family]}, {"from the kernel", w.b, w.a, wanB[c.family], wanA[c.family]}} {
			server, err := way.to.ListenPacket("udp", netip.AddrPortFrom(way.dst, 7500).String())
			must(t, err)
			conn, err := way.from.Dial("udp", netip.AddrPortFrom(way.dst, 7500).String())
			must(t, err)
			rc, err := conn.(*net.UDPConn).SyscallConn()
			must(t, err)
			var set error
			must(t, rc.Control(func(fd uintptr) { set = c.set(int(fd)) }))
			must(t, set)
			msg := bytes.Repeat([]byte("AH"), 200)
			_, err = conn.Write(msg)
			must(t, err)
			got := make([]byte, 1000)
			must(t, server.SetReadDeadline(time.Now().Add(2*time.Second)))
			if n, _, err := server.ReadFrom(got); err != nil || !bytes.Equal(got[:n], msg) {
				stat, _ := w.b.Run(context.Background(), "grep", "-v", "[[:space:]]0$", "/proc/thread-self/net/xfrm_stat")
				t.Errorf("%s, %s: %v, %d octets; %v; %s", c.name, way.name, err, n, nonZero(w.d.Counters()), stat)
			}
			must(t, conn.Close())
			must(t, server.Close())
		}
	}
}
