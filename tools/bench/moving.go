package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"iked/internal/testnet"
	"iked/interop"
)

// movesPerSecond is how often a contender that moves does.
const movesPerSecond = 100

// moving is iked with protocol 50 whose tunnel goes to and fro between two addresses of
// gateway A, as mobility managers on both sides tell.
func moving(bin interop.Binaries, esp string) func(context.Context, *testnet.Topology) ([]*testnet.Process, error) {
	return func(ctx context.Context, t *testnet.Topology) ([]*testnet.Process, error) {
		const second = "192.0.2.9"
		if err := t.GwA.AddAddr("wan0", second+"/24"); err != nil {
			return nil, err
		}
		still := func(c interop.Config) interop.Config {
			c.Connections[0].Value = append(c.Connections[0].Value.(interop.Section), interop.Entry{Key: "mobike", Value: "no"})
			return c
		}
		b, err := startIked(ctx, bin, t, t.GwB, still(tunnel(t.WanB4, t.WanA4, t.NetB4, t.NetA4, esp)))
		if err != nil {
			return nil, err
		}
		a, err := startIked(ctx, bin, t, t.GwA, still(tunnel(t.WanA4, t.WanB4, t.NetA4, t.NetB4, esp)))
		if err != nil {
			return nil, err
		}
		if err := a.Initiate(ctx, "net"); err != nil {
			return nil, err
		}
		go func() {
			began, moves := time.Now(), 0
			tick := time.NewTicker(time.Second / movesPerSecond)
			defer tick.Stop()
			for at, to, peer := t.WanA4.String(), second, t.WanB4.String(); ; at, to = to, at {
				<-tick.C
				// B hears at the new address before A sends from it.
				_, err := b.Call(ctx, "migrate", map[string]any{"old_src": peer, "old_dst": at, "new_src": peer, "new_dst": to})
				if err == nil {
					_, err = a.Call(ctx, "migrate", map[string]any{"old_src": at, "old_dst": peer, "new_src": to, "new_dst": peer})
				}
				if err != nil { // the measurement is over
					fmt.Fprintf(os.Stderr, "bench: %d moves in %v\n", moves, time.Since(began).Round(time.Millisecond))
					return
				}
				moves++
			}
		}()
		return []*testnet.Process{a.Process, b.Process}, nil
	}
}
