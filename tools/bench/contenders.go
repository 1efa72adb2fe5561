package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"iked/internal/testnet"
	"iked/interop"
)

// contender carries packets between the sites; start brings it up on both gateways
// and returns its processes.
type contender struct {
	name  string
	start func(context.Context, *testnet.Topology) ([]*testnet.Process, error)
}

func contenders(iked, ikectl, wireguard string) []contender {
	bin := interop.Binaries{Iked: iked, Ikectl: ikectl}
	return []contender{
		{name: "plain"},
		{name: "iked-aes128gcm", start: ikedWith(bin, "aes128gcm16", false)},
		{name: "iked-aes128gcm-moving", start: moving(bin, "aes128gcm16")},
		{name: "iked-aes128gcm-udp", start: ikedWith(bin, "aes128gcm16", true)},
		{name: "iked-chacha20", start: ikedWith(bin, "chacha20poly1305", false)},
		{name: "wireguard-go", start: wireguardGo(wireguard)},
		{name: "strongswan-aes128gcm", start: strongSwan},
	}
}

// tunnel is the configuration of one side, for iked and strongSwan alike.
func tunnel(local, remote netip.Addr, localNet, remoteNet netip.Prefix, esp string) interop.Config {
	return interop.Config{
		Connections: interop.Section{{Key: "net", Value: interop.Section{
			{Key: "version", Value: "2"},
			{Key: "local_addrs", Value: []string{local.String()}},
			{Key: "remote_addrs", Value: []string{remote.String()}},
			{Key: "proposals", Value: []string{"aes128-sha256-x25519"}},
			{Key: "local", Value: interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: local.String()}}},
			{Key: "remote", Value: interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: remote.String()}}},
			{Key: "children", Value: interop.Section{{Key: "net", Value: interop.Section{
				{Key: "local_ts", Value: []string{localNet.String()}},
				{Key: "remote_ts", Value: []string{remoteNet.String()}},
				{Key: "esp_proposals", Value: []string{esp}},
			}}}},
		}}},
		Secrets: []interop.Secret{{PSK: "a throw-away secret", IDs: []string{local.String(), remote.String()}}},
	}
}

// ofVersion is a configuration of tunnel for a version of IKE.
func ofVersion(c interop.Config, version string) interop.Config {
	for _, e := range c.Connections {
		keys := e.Value.(interop.Section)
		for i := range keys {
			if keys[i].Key == "version" {
				keys[i].Value = version
			}
		}
	}
	return c
}

// ikedWith is iked with protocol 50, or with ESP in UDP as the others have it.
func ikedWith(bin interop.Binaries, esp string, udp bool) func(context.Context, *testnet.Topology) ([]*testnet.Process, error) {
	return func(ctx context.Context, t *testnet.Topology) ([]*testnet.Process, error) {
		b, err := startIked(ctx, bin, t, t.GwB, encapsulated(tunnel(t.WanB4, t.WanA4, t.NetB4, t.NetA4, esp), udp))
		if err != nil {
			return nil, err
		}
		a, err := startIked(ctx, bin, t, t.GwA, encapsulated(tunnel(t.WanA4, t.WanB4, t.NetA4, t.NetB4, esp), udp))
		if err != nil {
			return nil, err
		}
		return []*testnet.Process{a.Process, b.Process}, a.Initiate(ctx, "net")
	}
}

// encapsulated puts ESP into UDP, without a NAT that would call for it.
func encapsulated(c interop.Config, udp bool) interop.Config {
	if udp {
		conn := c.Connections[0].Value.(interop.Section)
		c.Connections[0].Value = append(conn, interop.Entry{Key: "encap", Value: "yes"})
	}
	return c
}

func startIked(ctx context.Context, bin interop.Binaries, t *testnet.Topology, ns *testnet.Namespace, c interop.Config) (*interop.Iked, error) {
	d, err := interop.NewIked(bin, t.Path(ns.Name))
	if err != nil {
		return nil, err
	}
	if err := d.Configure(c.YAML()); err != nil {
		return nil, err
	}
	return d, d.Start(ctx, ns, "--log-level", "info")
}

func startCharon(ctx context.Context, t *testnet.Topology, ns *testnet.Namespace, c interop.Config) (*interop.Charon, error) {
	if _, err := os.Stat(interop.CharonPath); err != nil {
		return nil, fmt.Errorf("install the Debian packages %s", interop.CharonPackages)
	}
	d, err := interop.StartCharon(ctx, ns, t.Path(ns.Name), interop.CharonOptions{})
	if err != nil {
		return nil, err
	}
	return d, d.Load(ctx, c)
}

func strongSwan(ctx context.Context, t *testnet.Topology) ([]*testnet.Process, error) {
	b, err := startCharon(ctx, t, t.GwB, tunnel(t.WanB4, t.WanA4, t.NetB4, t.NetA4, "aes128gcm16"))
	if err != nil {
		return nil, err
	}
	a, err := startCharon(ctx, t, t.GwA, tunnel(t.WanA4, t.WanB4, t.NetA4, t.NetB4, "aes128gcm16"))
	if err != nil {
		return nil, err
	}
	return []*testnet.Process{a.Process, b.Process}, a.Initiate(ctx, "net")
}

// wireguardGo starts wireguard-go and configures it over its own control socket.
func wireguardGo(program string) func(context.Context, *testnet.Topology) ([]*testnet.Process, error) {
	return func(ctx context.Context, t *testnet.Topology) ([]*testnet.Process, error) {
		if program == "" {
			return nil, errors.New("no -wireguard program given; tools/bench.sh builds it")
		}
		keyA, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		keyB, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		var processes []*testnet.Process
		for _, s := range []struct {
			ns        *testnet.Namespace
			own, peer *ecdh.PrivateKey
			endpoint  netip.Addr
			far       netip.Prefix
		}{{t.GwB, keyB, keyA, t.WanA4, t.NetA4}, {t.GwA, keyA, keyB, t.WanB4, t.NetB4}} {
			p, err := s.ns.Start(testnet.Command{
				Name: "wireguard-go", Args: []string{program, "-f", "wg0"}, Env: []string{"LOG_LEVEL=error"}, PrivateRun: true,
			})
			if err != nil {
				return nil, err
			}
			processes = append(processes, p)
			script := fmt.Sprintf("set=1\nprivate_key=%s\nlisten_port=51820\nreplace_peers=true\npublic_key=%s\nendpoint=%s\nallowed_ip=%s\n\n",
				hex.EncodeToString(s.own.Bytes()), hex.EncodeToString(s.peer.PublicKey().Bytes()), netip.AddrPortFrom(s.endpoint, 51820), s.far)
			if err := configure(ctx, p, script); err != nil {
				return nil, fmt.Errorf("wireguard-go: %w\n%s", err, p.Log())
			}
			if err := s.ns.SetMTU("wg0", 1420); err != nil {
				return nil, err
			}
			if err := s.ns.SetLink("wg0", true); err != nil {
				return nil, err
			}
			h := s.ns.Handle()
			link, err := h.LinkByName("wg0")
			if err != nil {
				return nil, err
			}
			if err := h.RouteAdd(&netlink.Route{
				LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
				Dst: &net.IPNet{IP: s.far.Addr().AsSlice(), Mask: net.CIDRMask(s.far.Bits(), 32)},
			}); err != nil {
				return nil, err
			}
		}
		return processes, nil
	}
}

// configure sends a script to wireguard-go; its /run is its own.
func configure(ctx context.Context, p *testnet.Process, script string) error {
	path := fmt.Sprintf("/proc/%d/root/run/wireguard/wg0.sock", p.PID())
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.Dial("unix", path)
		if err == nil {
			defer c.Close()
			if _, err := c.Write([]byte(script)); err != nil {
				return err
			}
			line, err := bufio.NewReader(c).ReadString('\n')
			if err != nil {
				return err
			}
			if strings.TrimSpace(line) != "errno=0" {
				return fmt.Errorf("refused: %s", strings.TrimSpace(line))
			}
			return nil
		}
		if !p.Alive() || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
