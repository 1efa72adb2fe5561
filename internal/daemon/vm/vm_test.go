// Package vm tests iked with the kernel backend, on a kernel that carries ESP.
package vm

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
)

func TestMain(m *testing.M) {
	uml.Main(m, uml.Options{Prepare: func(dir string) error {
		_, err := interop.Build(context.Background(), dir)
		return err
	}})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// config is a connection between two gateways with one child.
func config(local, remote netip.Addr, conn, child string) string {
	return fmt.Sprintf(`connections:
  - name: office
    local_addrs: ["%v"]
    remote_addrs: ["%v"]
%s
    children: [{name: net, %s}]
secrets:
  - {psk: "a throw-away secret"}
`, local, remote, conn, child)
}

// start runs iked in a namespace, with the kernel backend unless args say
// otherwise.
func start(t *testing.T, topo *testnet.Topology, ns *testnet.Namespace, yaml string, args ...string) *interop.Iked {
	t.Helper()
	bin := interop.Binaries{Iked: filepath.Join(uml.Dir(), "iked"), Ikectl: filepath.Join(uml.Dir(), "ikectl")}
	d, err := interop.NewIked(bin, topo.Path(ns.Name))
	must(t, err)
	must(t, d.Configure(yaml))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must(t, d.Start(ctx, ns, append([]string{"--backend", "kernel"}, args...)...))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of iked in %s:\n%s", ns.Name, d.Process.Log())
		}
	})
	return d
}

func ikectl(t *testing.T, d *interop.Iked, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := d.Ikectl(ctx, args...)
	if err != nil {
		t.Fatal(out, err)
	}
	return out
}

// ip runs the command in a namespace.
func ip(t *testing.T, ns *testnet.Namespace, line string) string {
	t.Helper()
	out, err := ns.Run(t.Context(), append([]string{"ip"}, strings.Fields(line)...)...)
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
	return out
}

// wan records what is between the gateways.
func wan(t *testing.T, topo *testnet.Topology) *testnet.SentCapture {
	t.Helper()
	wire, err := testnet.Sent(testnet.End{NS: topo.GwA, If: "wan0"}, testnet.End{NS: topo.GwB, If: "wan0"})
	must(t, err)
	return wire
}

// clean checks that a daemon that ended left neither SAs, policies nor devices.
func clean(t *testing.T, d *interop.Iked, ns *testnet.Namespace, links []string) {
	t.Helper()
	must(t, d.Stop())
	for what, others := range map[string]string{
		"state":  "spi 0x00000000", // a question of the kernel's that nobody answered, which expires
		"policy": "socket ",        // those of sockets end with them
	} {
		for _, entry := range strings.Split("\n"+ip(t, ns, "xfrm "+what), "\nsrc ") {
			if strings.TrimSpace(entry) != "" && !strings.Contains(entry, others) {
				t.Errorf("%s: xfrm %s is left:\n%s", ns.Name, what, entry)
			}
		}
	}
	after, err := ns.Links()
	must(t, err)
	if fmt.Sprint(after) != fmt.Sprint(links) {
		t.Errorf("%s: devices %v, before it was %v", ns.Name, after, links)
	}
}

// An end node that protects everything, or its own subnet, or all traffic with a
// neighbour: IKE gets through the policies, neighbours are found again after they
// were forgotten, and only IKE, ESP and the housekeeping of the link are on the wire.
func TestEndNodeInTheKernel(t *testing.T) {
	uml.Require(t)
	for _, x := range []struct {
		name, a, b string
		v6         bool
		entries    string
	}{
		{"everything over IPv6", `remote_ts: ["::/0"]`, `local_ts: ["::/0"]`, true, "bypass-nd bypass-ike bypass-dhcp"},
		{"own subnet", `remote_ts: ["192.0.2.0/24"]`, `local_ts: ["192.0.2.0/24"]`, false, "bypass-ike bypass-dhcp"},
		{"transport mode over IPv6", "mode: transport", "mode: transport", true, "bypass-nd bypass-ike"},
	} {
		t.Run(x.name, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			here, peer := topo.WanA4, topo.WanB4
			if x.v6 {
				here, peer = topo.WanA6, topo.WanB6
			}
			start(t, topo, topo.GwB, config(peer, here, "", x.b+", start: passive"))
			linksA, err := topo.GwA.Links()
			must(t, err)
			a := start(t, topo, topo.GwA, config(here, peer, "", x.a+", start: on-demand"))
			wire := wan(t, topo)
			_, err = topo.GwA.WaitPing(peer, testnet.PingOptions{}, 20*time.Second)
			must(t, err)
			out := ikectl(t, a, "policies")
			for _, e := range strings.Fields(x.entries) {
				if !strings.Contains(out, e) {
					t.Errorf("there is no %s among the policies:\n%s", e, out)
				}
			}
			if s := ikectl(t, a, "status"); !strings.Contains(s, "backend: kernel, as configured") {
				t.Errorf("status:\n%s", s)
			}
			for _, ns := range []*testnet.Namespace{topo.GwA, topo.GwB} {
				ip(t, ns, "neigh flush dev wan0")
				ip(t, ns, "-6 neigh flush dev wan0")
			}
			r, err := topo.GwA.Ping(peer, testnet.PingOptions{Count: 5, Size: 1000})
			if err != nil || r.Lost() > 0 {
				t.Errorf("after the neighbours were forgotten: %v, %v", r, err)
			}
			wire.Stop()
			if clear := wire.ClearText(); len(clear) > 0 || wire.Counts()[testnet.ESP] < 10 {
				t.Errorf("on the wire: %v %v", wire, clear)
			}
			clean(t, a, topo.GwA, linksA)
		})
	}
}

// Sites whose gateways encapsulate in UDP: the kernel takes ESP from the port of
// NAT traversal, IKE lives beside it.
func TestUDPEncapsulationInTheKernel(t *testing.T) {
	uml.Require(t)
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			a, b := topo.WanA4, topo.WanB4
			if v6 {
				a, b = topo.WanA6, topo.WanB6
			}
			ts := func(l, r netip.Prefix, how string) string {
				return fmt.Sprintf("local_ts: [%v], remote_ts: [%v], start: %s", l, r, how)
			}
			start(t, topo, topo.GwB, config(b, a, "    encap: yes", ts(topo.NetB4, topo.NetA4, "passive")))
			start(t, topo, topo.GwA, config(a, b, "    encap: yes", ts(topo.NetA4, topo.NetB4, "always")))
			wire := wan(t, topo)
			_, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second)
			must(t, err)
			if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 5, Size: 1000}); err != nil || r.Lost() > 0 {
				t.Errorf("%v %v", r, err)
			}
			wire.Stop()
			if c := wire.Counts(); len(wire.ClearText()) > 0 || c[testnet.ESPinUDP] < 10 || c[testnet.ESP] > 0 {
				t.Errorf("on the wire: %v", wire)
			}
		})
	}
}

// A child with interface has a VTI here, made with it and removed with it: what is
// routed there crosses protected, and without SAs it crosses not at all.
func TestRouteBasedTunnel(t *testing.T) {
	uml.Require(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	links, err := topo.GwA.Links()
	must(t, err)
	child := "local_ts: [0.0.0.0/0], remote_ts: [0.0.0.0/0], interface: office0, if_id: 42, start: "
	b := start(t, topo, topo.GwB, config(topo.WanB4, topo.WanA4, "", child+"passive"))
	a := start(t, topo, topo.GwA, config(topo.WanA4, topo.WanB4, "", child+"always"))
	ip(t, topo.GwA, "route add "+topo.NetB4.String()+" dev office0")
	ip(t, topo.GwB, "route add "+topo.NetA4.String()+" dev office0")
	wire := wan(t, topo)
	_, err = topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second)
	must(t, err)
	if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 5, Size: 1000}); err != nil || r.Lost() > 0 {
		t.Errorf("%v %v", r, err)
	}
	if out := ikectl(t, a, "sas"); !strings.Contains(out, "mark in 0x0000002a, mark out 0x0000002a") {
		t.Errorf("the mark is not shown:\n%s", out)
	}
	// Beside the device the peer is reached in clear: the policies are not about that.
	wire.Stop()
	if clear := wire.ClearText(); len(clear) > 0 {
		t.Errorf("on the wire: %v", wire)
	}
	if r, err := topo.GwA.Ping(topo.WanB4, testnet.PingOptions{Count: 2}); err != nil || r.Lost() > 0 {
		t.Errorf("beside the device: %v %v", r, err)
	}
	must(t, b.Stop())
	wire = wan(t, topo)
	r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 2, Timeout: 500 * time.Millisecond})
	wire.Stop()
	if err == nil && r.Received > 0 || len(wire.ClearText()) > 0 {
		t.Errorf("without SAs: %v, on the wire %v", r, wire)
	}
	clean(t, a, topo.GwA, links)
}

// This kernel carries everything, so it is taken; what was asked for by name is
// kept, and refused when it cannot carry what is configured.
func TestChoiceOnThisKernel(t *testing.T) {
	uml.Require(t)
	check := func(child string, args ...string) (string, error) {
		t.Helper()
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "iked.yaml"), []byte(config(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), "", child)), 0o600))
		out, err := exec.CommandContext(t.Context(), filepath.Join(uml.Dir(), "iked"), append([]string{"--check", "--config", filepath.Join(dir, "iked.yaml")}, args...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := check("start: passive"); err != nil || !strings.Contains(out, "backend: kernel, because the kernel has what the configuration needs") {
		t.Errorf("%v %s", err, out)
	}
	if out, err := check("start: passive", "--backend", "userspace"); err != nil || !strings.Contains(out, "backend: userspace, as configured") {
		t.Errorf("%v %s", err, out)
	}
	if out, err := check("start: passive, interface: office0"); err != nil || !strings.Contains(out, "backend: kernel") {
		t.Errorf("%v %s", err, out)
	}
	if out, err := check("start: passive, interface: office0", "--backend", "userspace"); err == nil || !strings.Contains(out, "needs the kernel backend") {
		t.Errorf("%v %s", err, out)
	}
}
