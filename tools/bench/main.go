// Command bench measures iked side by side with wireguard-go and with strongSwan's
// userspace ESP: two sites in network namespaces, the same traffic from host to
// host through each of them, one after the other.
//
// It needs root and the Debian packages strongswan-charon, strongswan-swanctl and
// libcharon-extra-plugins; what is missing is named in the output.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/testnet"
	"iked/interop"
)

// result is what one contender reached; rates are of the receiver.
type result struct {
	name         string
	tcp1, tcp4   float64 // bit/s, with one and four connections
	cpuPerGB     float64 // seconds of both daemons per 10^9 bytes, at tcp1
	udp, udpLoss float64 // bit/s, and the share of datagrams lost
	pps, ppsLoss float64 // datagrams of 64 bytes per second
	rtt          time.Duration
	err          error
}

func main() {
	seconds := flag.Duration("time", 5*time.Second, "length of each measurement")
	only := flag.String("only", "", "contenders, separated by commas; empty: all; none: only the responders")
	out := flag.String("o", "", "file for the tables as Markdown, besides stdout")
	doc := flag.String("doc", "", "page whose generated part becomes the tables and -go")
	gobench := flag.String("go", "", "output of Go benchmarks for -doc")
	setups := flag.Int("handshakes", 500, "tunnels that are set up for the processor time of a responder; 0: none")
	wg := flag.String("wireguard", "", "wireguard-go program")
	iked := flag.String("iked", "", "iked program")
	ikectl := flag.String("ikectl", "", "ikectl program")
	onlyTCP := flag.Bool("tcp", false, "measure TCP only")
	rounds := flag.Int("rounds", 1, "rounds, each with all contenders in turn; the median of each number counts")
	flag.Parse()
	if err := testnet.CanBuild(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	all := contenders(*iked, *ikectl, *wg)
	all = slices.DeleteFunc(all, func(c contender) bool {
		return *only != "" && !strings.Contains(","+*only+",", ","+c.name+",")
	})
	results, failed := runRounds(ctx, all, *rounds, *seconds, *onlyTCP)
	table := markdown(results, *rounds, *seconds)
	if *setups > 0 && (*only == "" || *only == "none") {
		list := handshakes(ctx, interop.Binaries{Iked: *iked, Ikectl: *ikectl}, *setups)
		for _, s := range list {
			if s.err != nil {
				fmt.Fprintf(os.Stderr, "bench: key exchange %s with %s: %v\n", s.version, s.name, s.err)
				failed = true
			}
		}
		table += "\n" + setupTable(list, *setups)
	}
	fmt.Print(table)
	if *doc != "" && !failed {
		if err := generate(*doc, table, *gobench); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			failed = true
		}
	}
	if *out != "" {
		if err := os.WriteFile(*out, []byte(table), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// measure brings one contender up and sends all traffic through it.
func measure(ctx context.Context, c contender, d time.Duration, onlyTCP bool) (r result) {
	r.name = c.name
	topo, err := testnet.NewTopology(testnet.TopologyOptions{})
	if err != nil {
		r.err = err
		return r
	}
	defer func() { r.err = errors.Join(r.err, topo.Close()) }()
	var daemons []*testnet.Process
	if c.start != nil {
		if daemons, r.err = c.start(ctx, topo); r.err != nil {
			return r
		}
	}
	fail := func(err error) bool {
		if err != nil && r.err == nil {
			r.err = err
			for _, p := range daemons {
				r.err = fmt.Errorf("%w\nlog of %s in %s:\n%s", r.err, p.Name, p.NS.Name, tail(p.Log(), 4000))
			}
		}
		return r.err != nil
	}
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); fail(err) {
		return r
	}
	ping, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 50, Interval: 2 * time.Millisecond})
	if fail(err) {
		return r
	}
	for _, x := range ping.RTT {
		r.rtt += x / time.Duration(len(ping.RTT))
	}
	before, err := cpu(daemons)
	if fail(err) {
		return r
	}
	bytes, rate, err := tcp(topo, 1, d)
	if fail(err) {
		return r
	}
	r.tcp1 = rate
	after, err := cpu(daemons)
	if fail(err) {
		return r
	}
	if bytes > 0 {
		r.cpuPerGB = (after - before).Seconds() / (float64(bytes) / 1e9)
	}
	if _, r.tcp4, err = tcp(topo, 4, d); fail(err) {
		return r
	}
	if onlyTCP {
		return r
	}
	u, err := udp(topo, 1200, d)
	if fail(err) {
		return r
	}
	r.udp, r.udpLoss = u.rate*1200*8, u.loss
	if u, err = udp(topo, 64, d); fail(err) {
		return r
	}
	r.pps, r.ppsLoss = u.rate, u.loss
	return r
}

func cpu(daemons []*testnet.Process) (sum time.Duration, err error) {
	for _, p := range daemons {
		t, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

func machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				model = strings.Trim(name, "\t :\n")
				break
			}
		}
	}
	kernel := "?"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	return fmt.Sprintf("%s, %d cores, Linux %s, %s", model, runtime.NumCPU(), kernel, runtime.Version())
}

func tail(s string, n int) string {
	if len(s) > n {
		return s[len(s)-n:]
	}
	return s
}
