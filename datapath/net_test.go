package datapath_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/datapath"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/internal/trace"
	"iked/internal/transport"
	"iked/sad"
	"iked/spd"
)

// gateway is a datapath in a namespace of a test network.
type gateway struct {
	*datapath.Datapath
	udp *transport.Transport
}

func open(t testing.TB, ns *testnet.Namespace, o datapath.Options) *gateway {
	t.Helper()
	g := &gateway{}
	err := ns.Do(func() error {
		log := func(r trace.Record) { t.Logf("%s: %s", ns.Path(), r.Msg) }
		var err error
		if g.udp, err = transport.New(transport.Options{Queues: 2, Log: log}); err != nil {
			return err
		}
		g.udp.Start()
		o.UDP, o.Mark, o.Log, o.Queues = g.udp, transport.DefaultMark, log, 2
		g.Datapath, err = datapath.New(o)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	return g
}

func (g *gateway) close() {
	g.Datapath.Close()
	g.udp.Close()
}

type way struct {
	name  string
	outer int // 4 or 6
	encap bool
}

var ways = []way{{"ESP over IPv4", 4, false}, {"ESP over IPv6", 6, false}, {"UDP over IPv4", 4, true}, {"UDP over IPv6", 6, true}}

// connect makes both gateways protect both families of both sites.
func connect(t testing.TB, topo *testnet.Topology, a, b *gateway, w way) {
	t.Helper()
	outA, outB := topo.WanA4, topo.WanB4
	if w.outer == 6 {
		outA, outB = topo.WanA6, topo.WanB6
	}
	add := func(g *gateway, id uint32, l, r netip.Addr, in, out uint32, nl, nr netip.Prefix) {
		i, o := backendtest.Pair(id, l, r, in, out, nl, nr)
		for _, s := range []*sad.SA{i, o} {
			if w.encap {
				s.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500}
			}
			if err := g.AddSA(s); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.ApplyPolicies(nil, []spd.Policy{backendtest.Policy(uint64(id), id, nl, nr)}); err != nil {
			t.Fatal(err)
		}
	}
	add(a, 1, outA, outB, 0x1004, 0x2004, topo.NetA4, topo.NetB4)
	add(b, 1, outB, outA, 0x2004, 0x1004, topo.NetB4, topo.NetA4)
	add(a, 2, outA, outB, 0x1006, 0x2006, topo.NetA6, topo.NetB6)
	add(b, 2, outB, outA, 0x2006, 0x1006, topo.NetB6, topo.NetA6)
}

// Pings of every size and TCP cross the tunnel in both families; on the wire
// there is ESP and nothing else.
func TestSitesThroughTunnel(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			a, b := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
			connect(t, topo, a, b, w)
			c, err := topo.GwB.Capture(topo.Wire.If)
			if err != nil {
				t.Fatal(err)
			}
			for _, dst := range []netip.Addr{topo.HostB4, topo.HostB6} {
				for _, size := range []int{56, 1000, 1340} {
					r, err := topo.HostA.Ping(dst, testnet.PingOptions{Count: 3, Size: size})
					if err != nil || r.Lost() != 0 {
						t.Errorf("ping %v with %d octets: %v, %v\na %v\nb %v", dst, size, r, err, counters(a), counters(b))
					}
				}
				transfer(t, topo, dst)
			}
			c.Stop()
			if clear := c.ClearText(); len(clear) != 0 {
				t.Errorf("clear text on the wire:\n%v", clear)
			}
			if n := a.Counters()["out_packets"]; n == 0 {
				t.Error("nothing went through the tunnel")
			}
		})
	}
}

// Packets take the shortcut beside the IP stack once the way is known, in both
// families, and arrive; a firewall on the way out sees every packet.
func TestShortcut(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	testnet.RequireCommand(t, "nft", "nftables")
	for _, w := range ways[:2] {
		t.Run(w.name, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			a, b := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
			connect(t, topo, a, b, w)
			ping := func() {
				t.Helper()
				r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 5, Size: 1340, Interval: time.Millisecond})
				if err != nil || r.Lost() != 0 {
					t.Fatalf("ping: %v, %v\na %v\nb %v", r, err, counters(a), counters(b))
				}
			}
			until := func(what string, ok func(before, after uint64) bool) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); ; {
					before := a.Counters()["out_linked"]
					ping()
					if ok(before, a.Counters()["out_linked"]) {
						return
					}
					if time.Now().After(deadline) {
						t.Fatalf("%s: %v", what, counters(a))
					}
				}
			}
			until("no packet took the shortcut", func(before, after uint64) bool { return after >= before+4 })
			for _, cmd := range []string{"nft add table inet f", "nft add chain inet f o { type filter hook output priority 0 ; }"} {
				if out, err := topo.GwA.Run(context.Background(), strings.Fields(cmd)...); err != nil {
					t.Fatal(out, err)
				}
			}
			until("packets pass the firewall by", func(before, after uint64) bool { return after == before })
		})
	}
}

func counters(g *gateway) map[string]uint64 {
	m := g.Counters()
	for k, v := range m {
		if v == 0 {
			delete(m, k)
		}
	}
	return m
}

// transfer sends 4 MB over TCP and compares.
func transfer(t *testing.T, topo *testnet.Topology, dst netip.Addr) {
	t.Helper()
	l, err := topo.HostB.Listen("tcp", netip.AddrPortFrom(dst, 7777).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		var got bytes.Buffer
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := got.ReadFrom(c); err == nil && !bytes.Equal(got.Bytes(), data) {
			err = fmt.Errorf("%d octets arrived changed", got.Len())
			done <- err
			return
		}
		done <- err
	}()
	c, err := topo.HostA.Dial("tcp", netip.AddrPortFrom(dst, 7777).String())
	if err != nil {
		t.Fatalf("dial %v: %v", dst, err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Errorf("TCP to %v: %v", dst, err)
	}
}

// Without an SA nothing passes, after Close everything is gone from the system.
func TestFailClosedAndCleanUp(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	before := system(t, topo.GwA)
	a := open(t, topo.GwA, datapath.Options{})
	if err := a.ApplyPolicies(nil, []spd.Policy{backendtest.Policy(1, 1, topo.NetA4, topo.NetB4)}); err != nil {
		t.Fatal(err)
	}
	c, err := topo.GwB.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 2, Timeout: 300 * time.Millisecond}); err == nil && r.Received != 0 {
		t.Errorf("a ping passed without an SA: %v", r)
	}
	c.Stop()
	if clear := c.ClearText(); len(clear) != 0 {
		t.Errorf("clear text on the wire:\n%v", clear)
	}
	if a.Counters()["out_no_sa"] == 0 {
		t.Errorf("counters %v", counters(a))
	}
	a.close()
	if after := system(t, topo.GwA); after != before {
		t.Errorf("left behind:\n%s\nwas\n%s", after, before)
	}
}

func system(t *testing.T, ns *testnet.Namespace) string {
	t.Helper()
	var all strings.Builder
	for _, cmd := range []string{"ip -4 rule", "ip -6 rule", "ip -4 route show table 5220", "ip -6 route show table 5220", "ip -o link"} {
		out, err := ns.Run(context.Background(), strings.Fields(cmd)...)
		if err != nil {
			out = "" // a table that never had a route does not exist
		}
		if strings.Contains(cmd, "link") {
			n := strings.Count(out, "\n")
			out = fmt.Sprintf("%d links", n)
		}
		fmt.Fprintf(&all, "%s:\n%s\n", cmd, out)
	}
	return all.String()
}

// What a process protected when it was killed stays blocked and is adopted by
// the next start: its device is gone, its routes say unreachable.
func TestAdoptAfterCrash(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	for _, cmd := range []string{
		"ip rule add not fwmark 0x1ced lookup 5220 pref 5220 protocol 220",
		"ip route add unreachable " + topo.NetB4.String() + " table 5220 metric 4096 proto 220",
	} {
		if out, err := topo.GwA.Run(context.Background(), strings.Fields(cmd)...); err != nil {
			t.Fatal(out, err)
		}
	}
	a, b := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
	if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 1, Timeout: 300 * time.Millisecond}); err == nil && r.Received != 0 {
		t.Errorf("a ping passed before the policies were there: %v", r)
	}
	connect(t, topo, a, b, ways[0])
	if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 1}); err != nil || r.Lost() != 0 {
		t.Errorf("ping: %v, %v", r, err)
	}
	out, _ := topo.GwA.Run(context.Background(), "ip", "-4", "rule")
	if strings.Count(out, "5220:") != 1 {
		t.Errorf("rules\n%s", out)
	}
}

// BenchmarkTCP is TCP throughput between the hosts of two sites on one machine,
// by iperf3: gateways and hosts share its processors.
func BenchmarkTCP(b *testing.B) {
	testnet.RequireRoot(b)
	testnet.RequireTUN(b)
	testnet.RequireCommand(b, "iperf3", "iperf3")
	for _, w := range ways {
		b.Run(w.name, func(b *testing.B) {
			topo := testnet.ForTest(b, testnet.TopologyOptions{})
			ga, gb := open(b, topo.GwA, datapath.Options{}), open(b, topo.GwB, datapath.Options{})
			connect(b, topo, ga, gb, w)
			srv, err := topo.HostB.Start(testnet.Command{Args: []string{"iperf3", "-s", "-1", "-p", "5300"}})
			if err != nil {
				b.Fatal(err)
			}
			defer srv.Stop(time.Second)
			time.Sleep(300 * time.Millisecond)
			seconds := "4"
			if s := os.Getenv("BENCH_SECONDS"); s != "" {
				seconds = s
			}
			before := cpu(b)
			var octets float64
			for range b.N {
				out, err := topo.HostA.Run(context.Background(), "iperf3", "-c", topo.HostB4.String(), "-p", "5300", "-t", seconds, "-J")
				if err != nil {
					b.Fatal(err, out)
				}
				var r struct {
					End struct {
						Sum struct {
							Bits   float64 `json:"bits_per_second"`
							Octets float64 `json:"bytes"`
						} `json:"sum_received"`
						Sent struct {
							Retransmits float64 `json:"retransmits"`
						} `json:"sum_sent"`
					} `json:"end"`
				}
				if err := json.Unmarshal([]byte(out), &r); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(r.End.Sum.Bits/1e6, "Mbit/s")
				b.ReportMetric(r.End.Sent.Retransmits, "retransmits")
				b.ReportMetric(0, "ns/op")
				octets += r.End.Sum.Octets
			}
			// Both gateways, which are this process, without the hosts.
			b.ReportMetric((cpu(b)-before).Seconds()/(octets/1e9), "cpu-s/GB")
			b.Logf("a %v\nb %v", counters(ga), counters(gb))
		})
	}
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ESP is taken from the interface beside the IP stack, in both families; an
// interface that goes down and comes back is found again; a firewall on the way in
// sees every packet.
func TestRing(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	testnet.RequireCommand(t, "nft", "nftables")
	for _, w := range ways[:2] {
		t.Run(w.name, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			a, b := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
			connect(t, topo, a, b, w)
			run := func(command string) {
				t.Helper()
				if out, err := topo.GwB.Run(context.Background(), strings.Fields(command)...); err != nil {
					t.Fatal(command, out, err)
				}
			}
			until := func(what string, ok func(ring, all uint64) bool) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); ; {
					before := b.Counters()
					r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 5, Size: 1340, Interval: time.Millisecond})
					after := b.Counters()
					if err == nil && r.Lost() == 0 && ok(after["in_ring"]-before["in_ring"], after["in_packets"]-before["in_packets"]) {
						return
					}
					if time.Now().After(deadline) {
						t.Fatalf("%s: %v, %v\n%v", what, r, err, counters(b))
					}
				}
			}
			all := func(ring, all uint64) bool { return ring >= 5 && ring == all }
			none := func(ring, all uint64) bool { return ring == 0 && all >= 5 }
			until("no packet is taken", all)
			transfer(t, topo, topo.HostB4)
			if w.outer == 4 { // IPv6 loses its addresses with the interface
				run("ip link set " + topo.Wire.If + " down")
				run("ip link set " + topo.Wire.If + " up")
				until("none is taken after the interface came back", all)
			}
			run("nft add table inet f")
			run("nft add chain inet f i { type filter hook input priority 0 ; }")
			until("packets pass the firewall by", none)
			run("nft delete table inet f")
			until("none is taken after the firewall went", all)
		})
	}
}
