package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"iked/internal/testnet"
	"iked/interop"
)

// setup is what a daemon needs as responder for one IKE SA with a CHILD_SA, from
// the first message (IKE_SA_INIT; Main Mode and Quick Mode in IKEv1) to its deletion:
// PSK, x25519, routes and sockets included.
type setup struct {
	name, version string
	cpu           time.Duration
	err           error
}

// handshakes lets the same iked set up and delete n tunnels, one after the other,
// with each daemon, and takes the responder's processor time.
func handshakes(ctx context.Context, bin interop.Binaries, n int) []setup {
	type starter func(context.Context, *testnet.Topology, interop.Config) (*testnet.Process, error)
	var list []setup
	for _, version := range []string{"2", "1"} {
		for _, daemon := range []struct {
			name  string
			start starter
		}{
			{"iked", func(ctx context.Context, t *testnet.Topology, c interop.Config) (*testnet.Process, error) {
				d, err := startIked(ctx, bin, t, t.GwB, c)
				if err != nil {
					return nil, err
				}
				return d.Process, nil
			}},
			{"strongSwan", func(ctx context.Context, t *testnet.Topology, c interop.Config) (*testnet.Process, error) {
				d, err := startCharon(ctx, t, t.GwB, c)
				if err != nil {
					return nil, err
				}
				return d.Process, nil
			}},
		} {
			cpu, err := handshakesWith(ctx, bin, n, version, daemon.start)
			list = append(list, setup{daemon.name, version, cpu, err})
		}
	}
	return list
}

// handshakesWith is the processor time of the responder for each of n tunnels.
func handshakesWith(ctx context.Context, bin interop.Binaries, n int, version string,
	start func(context.Context, *testnet.Topology, interop.Config) (*testnet.Process, error)) (cpu time.Duration, err error) {
	topo, err := testnet.NewTopology(testnet.TopologyOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, topo.Close()) }()
	side := func(local, remote netip.Addr, localNet, remoteNet netip.Prefix) interop.Config {
		return ofVersion(tunnel(local, remote, localNet, remoteNet, "aes128gcm16"), version)
	}
	responder, err := start(ctx, topo, side(topo.WanB4, topo.WanA4, topo.NetB4, topo.NetA4))
	if err != nil {
		return 0, err
	}
	initiator, err := startIked(ctx, bin, topo, topo.GwA, side(topo.WanA4, topo.WanB4, topo.NetA4, topo.NetB4))
	if err != nil {
		return 0, err
	}
	once := func() error {
		if err := initiator.Initiate(ctx, "net"); err != nil {
			return err
		}
		_, err := initiator.Call(ctx, "terminate", map[string]any{"ike": "net"})
		return err
	}
	for range 20 { // to warm up
		if err := once(); err != nil {
			return 0, err
		}
	}
	before, err := responder.CPU()
	for range n {
		if err == nil {
			err = once()
		}
	}
	if err != nil {
		return 0, err
	}
	after, err := responder.CPU()
	return (after - before) / time.Duration(n), err
}

func setupTable(list []setup, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| responder | IKE | CPU per IKE SA with CHILD_SA, %d times set up and deleted |\n|---|---|---|\n", n)
	for _, s := range list {
		if s.err != nil {
			fmt.Fprintf(&b, "| %s | %s | failed |\n", s.name, s.version)
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %.2f ms |\n", s.name, s.version, s.cpu.Seconds()*1e3)
	}
	return b.String()
}
