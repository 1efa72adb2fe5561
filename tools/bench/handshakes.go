package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"iked/internal/testnet"
	"iked/interop"
)

// setup is what a daemon needs as responder for one IKE SA with a CHILD_SA, from
// IKE_SA_INIT to its deletion: PSK, x25519, routes and sockets included.
type setup struct {
	name string
	cpu  time.Duration
	err  error
}

// handshakes lets the same iked set up and delete n tunnels, one after the other,
// with each daemon, and takes the responder's processor time.
func handshakes(ctx context.Context, bin interop.Binaries, n int) []setup {
	return []setup{
		handshakesWith(ctx, bin, n, "iked", func(ctx context.Context, t *testnet.Topology, c interop.Config) (*testnet.Process, error) {
			d, err := startIked(ctx, bin, t, t.GwB, c)
			if err != nil {
				return nil, err
			}
			return d.Process, nil
		}),
		handshakesWith(ctx, bin, n, "strongSwan", func(ctx context.Context, t *testnet.Topology, c interop.Config) (*testnet.Process, error) {
			d, err := startCharon(ctx, t, t.GwB, c)
			if err != nil {
				return nil, err
			}
			return d.Process, nil
		}),
	}
}

func handshakesWith(ctx context.Context, bin interop.Binaries, n int, name string,
	start func(context.Context, *testnet.Topology, interop.Config) (*testnet.Process, error)) (r setup) {
	r.name = name
	topo, err := testnet.NewTopology(testnet.TopologyOptions{})
	if err != nil {
		r.err = err
		return r
	}
	defer func() { r.err = errors.Join(r.err, topo.Close()) }()
	responder, err := start(ctx, topo, tunnel(topo.WanB4, topo.WanA4, topo.NetB4, topo.NetA4, "aes128gcm16"))
	if err != nil {
		r.err = err
		return r
	}
	initiator, err := startIked(ctx, bin, topo, topo.GwA, tunnel(topo.WanA4, topo.WanB4, topo.NetA4, topo.NetB4, "aes128gcm16"))
	if err != nil {
		r.err = err
		return r
	}
	once := func() error {
		if err := initiator.Initiate(ctx, "net"); err != nil {
			return err
		}
		_, err := initiator.Call(ctx, "terminate", map[string]any{"ike": "net"})
		return err
	}
	for range 20 { // to warm up
		if r.err = once(); r.err != nil {
			return r
		}
	}
	before, err := responder.CPU()
	for range n {
		if err == nil {
			err = once()
		}
	}
	if err != nil {
		r.err = err
		return r
	}
	after, err := responder.CPU()
	r.cpu, r.err = (after-before)/time.Duration(n), err
	return r
}

func setupTable(list []setup, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| responder | CPU per IKE SA with CHILD_SA, %d times set up and deleted |\n|---|---|\n", n)
	for _, s := range list {
		if s.err != nil {
			fmt.Fprintf(&b, "| %s | failed |\n", s.name)
			continue
		}
		fmt.Fprintf(&b, "| %s | %.2f ms |\n", s.name, s.cpu.Seconds()*1e3)
	}
	return b.String()
}
