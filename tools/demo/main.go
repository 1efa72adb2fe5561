// Command demo shows two iked on this machine that protect traffic, in network
// namespaces that it makes and removes: two gateways and a host behind each, or two
// hosts. It needs root, or a kernel that lets users make user namespaces.
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
	mode := flag.String("mode", "tunnel", "what is shown: "+modeNames())
	backend := flag.String("backend", "userspace", "what carries the traffic: userspace, kernel")
	keys := flag.String("keys", "psk", "what the keys come from: psk, kink")
	mobile := flag.Bool("mobile", false, "gateway A goes through other addresses while a ping runs; in mode tunnel")
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
	if *backend != "userspace" && *backend != "kernel" {
		fail(fmt.Errorf("there is no backend %q; choose userspace or kernel", *backend))
	}
	if *keys != "psk" && *keys != "kink" {
		fail(fmt.Errorf("there are no keys %q; choose psk or kink", *keys))
	}
	if *mobile && (*mode != "tunnel" || *keys != "psk") {
		fail(errors.New("only a tunnel with keys of IKE can move: MOBIKE is part of IKEv2, and transport mode is about the addresses themselves"))
	}
	if err := testnet.CanTUN(); err != nil && *backend == "userspace" {
		fail(fmt.Errorf("%w\nAs root, make it usable: modprobe tun; chmod 0666 /dev/net/tun", err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	d := demo{ctx: ctx, mode: *mode, backend: *backend, keys: *keys, mobile: *mobile, keep: *keep}
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
	mode         string
	backend      string
	keys         string
	mobile       bool // A moves
	keep         bool
	realm        *realm // of keys kink

	*scene
	daemons [2]*daemon // on the sides a and b of the scene
}

// daemon is one iked.
type daemon struct {
	ns      *testnet.Namespace
	dir     string
	control string
	proc    *testnet.Process
}

func (d *demo) run() (err error) {
	start := time.Now()
	if d.scene, err = newScene(d.mode); err != nil {
		return err
	}
	defer func() {
		logs := d.logs()
		if cerr := d.net.Close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
		if err != nil {
			fmt.Fprint(os.Stderr, logs)
			return
		}
		fmt.Printf("\nEverything is removed again. %.1f seconds in all.\n", time.Since(start).Seconds())
	}()
	fmt.Printf("%s:\n%s\n", d.title, d.drawing)
	if d.keys == "kink" {
		if d.realm, err = d.newRealm(d.ctx); err != nil {
			return err
		}
		fmt.Printf("The KDC of %s stands aside, at %v.\n\n", realmName, d.realm.kdc.Listen)
	}
	before, err := d.links()
	if err != nil {
		return err
	}
	wire, err := testnet.Sent(d.wire[:]...)
	if err != nil {
		return err
	}
	if err := d.start(); err != nil {
		return err
	}
	r, err := d.from.WaitPing(d.to, testnet.PingOptions{}, 15*time.Second)
	if err != nil {
		return err
	}
	fmt.Printf("The SAs are up %.1f seconds after the start.\n\n", time.Since(start).Seconds())
	if r, err = d.from.Ping(d.to, testnet.PingOptions{Count: 10}); err != nil {
		return err
	}
	fmt.Printf("Ping %s to %s: %v\n", d.fromName, d.toName, r)
	if r.Lost() > 0 {
		return fmt.Errorf("%d of %d pings were lost", r.Lost(), r.Sent)
	}
	if d.mobile {
		if err := d.wander(); err != nil {
			return err
		}
	}
	for _, g := range d.daemons {
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
	if err := d.stop(before); err != nil {
		return err
	}
	wire.Stop()
	return report(wire, d.between, d.exchange())
}

// start configures and starts both daemons; A brings the connection up.
func (d *demo) start() error {
	key := make([]byte, 32)
	rand.Read(key) // never fails (crypto/rand)
	for _, i := range []int{1, 0} {
		s, how := &d.a, "always"
		if i == 1 {
			s, how = &d.b, "passive"
		}
		g := &daemon{ns: s.ns, dir: d.net.Path(s.ns.Name)}
		g.control = "unix://" + filepath.Join(g.dir, "iked.vici")
		d.daemons[i] = g
		if err := os.MkdirAll(filepath.Join(g.dir, "state"), 0o700); err != nil {
			return err
		}
		top, conn, end := "", "", "secrets:\n  - {psk: \"file:demo.psk\"}\n"
		if d.realm != nil {
			top, conn, end = d.realm.top(), d.realm.connection(i), ""
		}
		local, remote := s.local.String(), s.remote.String()
		if d.mobile && i == 0 {
			local = d.home() // anywhere in its network
		} else if d.mobile {
			remote = d.home()
		}
		config := fmt.Sprintf(`%sconnections:
  - name: demo
    local_addrs: ["%s"]
    remote_addrs: ["%s"]
%s    children: [{name: net, %s, start: %s}]
%s`, top, local, remote, conn, s.child, how, end)
		if s.local.Is4() {
			config = strings.NewReplacer(`["`, "[", `"]`, "]").Replace(config)
		}
		if err := os.WriteFile(filepath.Join(g.dir, "demo.psk"), []byte(hex.EncodeToString(key)), 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(g.dir, "iked.yaml"), []byte(config), 0o600); err != nil {
			return err
		}
		if i == 1 {
			// Whether this system can at all is told in words, before anything runs.
			out, err := g.ns.Run(d.ctx, d.iked, "--check", "--config", filepath.Join(g.dir, "iked.yaml"), "--backend", d.backend)
			if err != nil {
				return fmt.Errorf("this cannot be shown here:\n%s", indent(out))
			}
		} else {
			fmt.Printf("Configuration of %s:\n\n%s\n", g.ns.Name, indent(config))
		}
		if err := g.start(d.ctx, d.iked, d.ikectl, d.backend); err != nil {
			return err
		}
	}
	return nil
}

func (g *daemon) start(ctx context.Context, iked, ikectl, backend string) error {
	var err error
	g.proc, err = g.ns.Start(testnet.Command{Name: "iked", Args: []string{
		iked, "--config", filepath.Join(g.dir, "iked.yaml"), "--control", g.control,
		"--state", filepath.Join(g.dir, "state"), "--backend", backend,
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
func (g *daemon) run(ctx context.Context, ikectl string, args ...string) (string, error) {
	return g.ns.Run(ctx, append([]string{ikectl, "--control", g.control}, args...)...)
}

// links are the network devices of both systems.
func (d *demo) links() (both [2]string, err error) {
	for i, ns := range []*testnet.Namespace{d.a.ns, d.b.ns} {
		list, err := ns.Links()
		if err != nil {
			return both, err
		}
		both[i] = strings.Join(list, " ")
	}
	return both, nil
}

// stop ends both daemons and checks that they took their devices with them.
func (d *demo) stop(before [2]string) error {
	for _, g := range d.daemons {
		if err := g.proc.Stop(10 * time.Second); err != nil {
			return err
		}
		if err := g.proc.Wait(); err != nil {
			return fmt.Errorf("iked on %s: %w", g.ns.Name, err)
		}
	}
	after, err := d.links()
	if err == nil && after != before {
		err = fmt.Errorf("iked left interfaces behind: %q, before it was %q", after, before)
	}
	return err
}

// exchange is the class of the key exchange.
func (d *demo) exchange() testnet.Class {
	if d.keys == "kink" {
		return testnet.KINK
	}
	return testnet.IKE
}

// report says what crossed the wire; clear text is a failure.
func report(wire *testnet.SentCapture, between string, exchange testnet.Class) error {
	counts := wire.Counts()
	var protected, housekeeping []string
	for class := testnet.Other; class <= testnet.KINK; class++ {
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
	fmt.Printf("\nBetween %s the wire carried: %s packets.\n", between, strings.Join(protected, ", "))
	if len(housekeeping) > 0 {
		fmt.Printf("Housekeeping of the link itself: %s packets.\n", strings.Join(housekeeping, ", "))
	}
	fmt.Printf("Anything else: %d packets.\n", len(clear))
	if len(clear) > 0 {
		return fmt.Errorf("clear text crossed the wire, the first packet: %v", clear[0])
	}
	if counts[testnet.ESP]+counts[testnet.ESPinUDP] == 0 || counts[exchange] == 0 {
		return fmt.Errorf("no %v or no ESP on the wire: %v", exchange, wire)
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
	fmt.Printf("  %s --net=%s ping %v\n", enter, d.from.Path(), d.to)
	for _, g := range d.daemons {
		fmt.Printf("  %s --control %s sas            # %s\n", d.ikectl, g.control, g.ns.Name)
	}
	fmt.Printf("  %s --control %s rekey net\n", d.ikectl, d.daemons[0].control)
	fmt.Printf("  %s --control %s down demo      # and the ping stops: fail closed\n", d.ikectl, d.daemons[0].control)
	fmt.Printf("  %s --control %s log -f\n", d.ikectl, d.daemons[1].control)
	fmt.Printf("  %s --net=%s tcpdump -ni %s\n", enter, d.wire[1].NS.Path(), d.wire[1].If)
	fmt.Printf("\nCtrl-C takes it down.\n")
	<-d.ctx.Done()
	fmt.Println()
	return nil
}

// logs are the daemons' logs, for a failure.
func (d *demo) logs() string {
	var b strings.Builder
	for _, g := range d.daemons {
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
