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
// the first message (IKE_SA_INIT; Main Mode and Quick Mode in IKEv1; CREATE in KINK) to
// its deletion, routes and sockets included.
type setup struct {
	name, version string
	cpu           time.Duration
	err           error
}

// pairs starts two daemons: the responder, whose processor time counts, and the
// iked that sets tunnels up.
type pairs func(context.Context, *testnet.Topology) (responder *testnet.Process, initiator *interop.Iked, err error)

// handshakes lets iked set up and delete n tunnels, one after the other, with each
// daemon and each key exchange, and takes the responder's processor time.
func handshakes(ctx context.Context, bin interop.Binaries, n int) []setup {
	var list []setup
	add := func(name, version string, start pairs) {
		cpu, err := handshakesWith(ctx, n, start)
		list = append(list, setup{name, version, cpu, err})
	}
	for _, version := range []string{"2", "1"} {
		add("iked", version, ikePair(bin, version, func(ctx context.Context, t *testnet.Topology, c interop.Config) (*testnet.Process, error) {
			d, err := startIked(ctx, bin, t, t.GwB, c)
			if err != nil {
				return nil, err
			}
			return d.Process, nil
		}))
		add("strongSwan", version, ikePair(bin, version, func(ctx context.Context, t *testnet.Topology, c interop.Config) (*testnet.Process, error) {
			d, err := startCharon(ctx, t, t.GwB, c)
			if err != nil {
				return nil, err
			}
			return d.Process, nil
		}))
	}
	add("iked", "KINK", kinkPair(bin))
	return list
}

// ikePair is iked before a responder, with a PSK and x25519.
func ikePair(bin interop.Binaries, version string, start func(context.Context, *testnet.Topology, interop.Config) (*testnet.Process, error)) pairs {
	return func(ctx context.Context, topo *testnet.Topology) (*testnet.Process, *interop.Iked, error) {
		side := func(local, remote netip.Addr, localNet, remoteNet netip.Prefix) interop.Config {
			return ofVersion(tunnel(local, remote, localNet, remoteNet, "aes128gcm16"), version)
		}
		responder, err := start(ctx, topo, side(topo.WanB4, topo.WanA4, topo.NetB4, topo.NetA4))
		if err != nil {
			return nil, nil, err
		}
		initiator, err := startIked(ctx, bin, topo, topo.GwA, side(topo.WanA4, topo.WanB4, topo.NetA4, topo.NetB4))
		return responder, initiator, err
	}
}

// handshakesWith is the processor time of the responder for each of n tunnels.
func handshakesWith(ctx context.Context, n int, start pairs) (cpu time.Duration, err error) {
	topo, err := testnet.NewTopology(testnet.TopologyOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, topo.Close()) }()
	responder, initiator, err := start(ctx, topo)
	defer func() {
		if err != nil && initiator != nil && initiator.Process != nil {
			err = fmt.Errorf("%w\nlog of the initiator:\n%s\nlog of the responder:\n%s", err, tail(initiator.Process.Log(), 4000), tail(responder.Log(), 4000))
		}
	}()
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
	fmt.Fprintf(&b, "| responder | key exchange | CPU per IKE SA with CHILD_SA, %d times set up and deleted |\n|---|---|---|\n", n)
	for _, s := range list {
		if s.err != nil {
			fmt.Fprintf(&b, "| %s | %s | failed |\n", s.name, s.version)
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %.2f ms |\n", s.name, s.version, s.cpu.Seconds()*1e3)
	}
	return b.String()
}
