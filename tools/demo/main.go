// Command demo shows a site-to-site tunnel between two iked on this machine: two
// gateways and a host behind each, in network namespaces that it makes and removes.
// It needs root, or a kernel that lets users make user namespaces.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/testnet"
)

func main() {
	iked := flag.String("iked", "bin/iked", "the daemon")
	ikectl := flag.String("ikectl", "bin/ikectl", "its command line client")
	keep := flag.Bool("keep", false, "leave the network up until Ctrl-C and say what to try")
	flag.Parse()

	if err := testnet.CanBuild(); err != nil {
		if testnet.InUserNS() {
			fail(err)
		}
		fmt.Println("Not root: trying a user namespace.")
		status, err := testnet.EnterUserNS()
		if err != nil {
			fail(fmt.Errorf("%w\nRun it as root instead", err))
		}
		os.Exit(status)
	}
	if err := testnet.CanTUN(); err != nil {
		fail(fmt.Errorf("%w\nAs root, make it usable: modprobe tun; chmod 0666 /dev/net/tun", err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	d := demo{ctx: ctx, keep: *keep}
	var err error
	if d.iked, err = filepath.Abs(*iked); err == nil {
		d.ikectl, err = filepath.Abs(*ikectl)
	}
	if err == nil {
		err = d.run()
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "demo:", err)
	os.Exit(1)
}

type demo struct {
	ctx          context.Context
	iked, ikectl string
	keep         bool

	topo *testnet.Topology
	a, b *gateway
}

// gateway is one iked.
type gateway struct {
	ns      *testnet.Namespace
	dir     string
	control string
	proc    *testnet.Process
}

func (d *demo) run() (err error) {
	start := time.Now()
	if d.topo, err = testnet.NewTopology(testnet.TopologyOptions{}); err != nil {
		return err
	}
	defer func() {
		logs := d.logs()
		if cerr := d.topo.Close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
		if err != nil {
			fmt.Fprint(os.Stderr, logs)
			return
		}
		fmt.Printf("\nEverything is removed again. %.1f seconds in all.\n", time.Since(start).Seconds())
	}()
	fmt.Print(`Two sites in network namespaces, an iked on each gateway:

  host-a            gw-a                            gw-b            host-b
  10.1.0.2 -------- 10.1.0.1 | 192.0.2.1 ========== 192.0.2.2 | 10.2.0.1 -------- 10.2.0.2

`)
	wire, err := d.topo.Wire.NS.Capture(d.topo.Wire.If)
	if err != nil {
		return err
	}
	if err := d.start(); err != nil {
		return err
	}
	r, err := d.topo.HostA.WaitPing(d.topo.HostB4, testnet.PingOptions{}, 15*time.Second)
	if err != nil {
		return err
	}
	fmt.Printf("The tunnel is up %.1f seconds after the start.\n\n", time.Since(start).Seconds())
	if r, err = d.topo.HostA.Ping(d.topo.HostB4, testnet.PingOptions{Count: 10}); err != nil {
		return err
	}
	fmt.Printf("Ping host-a (10.1.0.2) to host-b (10.2.0.2): %v\n", r)
	if r.Lost() > 0 {
		return fmt.Errorf("%d of %d pings through the tunnel were lost", r.Lost(), r.Sent)
	}
	for _, g := range []*gateway{d.a, d.b} {
		out, err := g.run(d.ctx, d.ikectl, "status")
		if err != nil {
			return err
		}
		fmt.Printf("\n%s# ikectl status\n%s", g.ns.Name, indent(out))
	}
	if d.keep {
		if err := d.wait(); err != nil {
			return err
		}
	}
	if err := d.stop(); err != nil {
		return err
	}
	wire.Stop()
	return report(wire)
}

// start configures and starts both daemons; A brings the tunnel up.
func (d *demo) start() error {
	key := make([]byte, 32)
	rand.Read(key) // never fails (crypto/rand)
	t := d.topo
	for _, s := range []struct {
		g                                       **gateway
		ns                                      *testnet.Namespace
		local, remote, localNet, remoteNet, how string
	}{
		{&d.b, t.GwB, t.WanB4.String(), t.WanA4.String(), t.NetB4.String(), t.NetA4.String(), "passive"},
		{&d.a, t.GwA, t.WanA4.String(), t.WanB4.String(), t.NetA4.String(), t.NetB4.String(), "always"},
	} {
		g := &gateway{ns: s.ns, dir: t.Path(s.ns.Name)}
		g.control = "unix://" + filepath.Join(g.dir, "iked.vici")
		*s.g = g
		if err := os.MkdirAll(filepath.Join(g.dir, "state"), 0o700); err != nil {
			return err
		}
		config := fmt.Sprintf(`connections:
  - name: demo
    local_addrs: [%s]
    remote_addrs: [%s]
    children: [{name: net, local_ts: [%s], remote_ts: [%s], start: %s}]
secrets:
  - {psk: "file:demo.psk"}
`, s.local, s.remote, s.localNet, s.remoteNet, s.how)
		if err := os.WriteFile(filepath.Join(g.dir, "demo.psk"), []byte(hex.EncodeToString(key)), 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(g.dir, "iked.yaml"), []byte(config), 0o600); err != nil {
			return err
		}
		if s.how == "always" {
			fmt.Printf("Configuration of gw-a:\n\n%s\n", indent(config))
		}
		if err := g.start(d.ctx, d.iked, d.ikectl); err != nil {
			return err
		}
	}
	return nil
}

func (g *gateway) start(ctx context.Context, iked, ikectl string) error {
	var err error
	g.proc, err = g.ns.Start(testnet.Command{Name: "iked", Args: []string{
		iked, "--config", filepath.Join(g.dir, "iked.yaml"), "--control", g.control,
		"--state", filepath.Join(g.dir, "state"), "--backend", "userspace",
	}})
	if err != nil {
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err = g.run(ctx, ikectl, "version"); err == nil {
			return nil
		}
		if !g.proc.Alive() || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("iked on %s does not answer: %w", g.ns.Name, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// run runs ikectl in the gateway.
func (g *gateway) run(ctx context.Context, ikectl string, args ...string) (string, error) {
	return g.ns.Run(ctx, append([]string{ikectl, "--control", g.control}, args...)...)
}

// stop ends both daemons and checks that they took their devices with them.
func (d *demo) stop() error {
	for _, g := range []*gateway{d.a, d.b} {
		if err := g.proc.Stop(10 * time.Second); err != nil {
			return err
		}
		if err := g.proc.Wait(); err != nil {
			return fmt.Errorf("iked on %s: %w", g.ns.Name, err)
		}
		links, err := g.ns.Links()
		if err != nil {
			return err
		}
		if len(links) != 3 { // lo, lan0, wan0
			return fmt.Errorf("iked on %s left interfaces behind: %v", g.ns.Name, links)
		}
	}
	return nil
}

// report says what crossed the wire; clear text is a failure.
func report(wire *testnet.Capture) error {
	counts := wire.Counts()
	var protected, housekeeping []string
	for class := testnet.Other; class <= testnet.ICMPError; class++ {
		n := counts[class]
		switch {
		case n == 0:
		case class.IPsec():
			protected = append(protected, fmt.Sprintf("%d %v", n, class))
		case class.Housekeeping():
			housekeeping = append(housekeeping, fmt.Sprintf("%d %v", n, class))
		}
	}
	clear := wire.ClearText()
	fmt.Printf("\nBetween the gateways the wire carried: %s packets.\n", strings.Join(protected, ", "))
	if len(housekeeping) > 0 {
		fmt.Printf("Housekeeping of the link itself: %s packets.\n", strings.Join(housekeeping, ", "))
	}
	fmt.Printf("Anything else: %d packets.\n", len(clear))
	if len(clear) > 0 {
		return fmt.Errorf("clear text crossed the wire, the first packet: %v", clear[0])
	}
	if counts[testnet.ESP]+counts[testnet.ESPinUDP] == 0 || counts[testnet.IKE] == 0 {
		return fmt.Errorf("no IKE or no ESP on the wire: %v", wire)
	}
	return nil
}

// wait says what to try and waits for Ctrl-C.
func (d *demo) wait() error {
	enter := "nsenter"
	if testnet.InUserNS() {
		enter = fmt.Sprintf("nsenter --preserve-credentials --user=/proc/%d/ns/user", os.Getpid())
	} else if os.Getuid() != 0 {
		enter = "sudo nsenter"
	}
	fmt.Printf("\nThe network stays up. In another terminal:\n\n")
	fmt.Printf("  %s --net=%s ping 10.2.0.2\n", enter, d.topo.HostA.Path())
	for _, g := range []*gateway{d.a, d.b} {
		fmt.Printf("  %s --control %s sas            # %s\n", d.ikectl, g.control, g.ns.Name)
	}
	fmt.Printf("  %s --control %s rekey net\n", d.ikectl, d.a.control)
	fmt.Printf("  %s --control %s down demo      # and the ping stops: fail closed\n", d.ikectl, d.a.control)
	fmt.Printf("  %s --control %s log -f\n", d.ikectl, d.b.control)
	fmt.Printf("  %s --net=%s tcpdump -ni %s\n", enter, d.topo.Wire.NS.Path(), d.topo.Wire.If)
	fmt.Printf("\nCtrl-C takes it down.\n")
	<-d.ctx.Done()
	fmt.Println()
	return nil
}

// logs are the daemons' logs, for a failure.
func (d *demo) logs() string {
	var b strings.Builder
	for _, g := range []*gateway{d.a, d.b} {
		if g != nil && g.proc != nil {
			fmt.Fprintf(&b, "\nlog of iked on %s:\n%s", g.ns.Name, indent(g.proc.Log()))
		}
	}
	return b.String()
}

func indent(s string) string {
	if s = strings.TrimRight(s, "\n"); s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(s, "\n", "\n  ") + "\n"
}
