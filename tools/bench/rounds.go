package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// contest is what one contender reached in each round.
type contest struct {
	name   string
	rounds []result
	err    error
}

// runRounds measures all contenders in turn, and again, so that what the machine
// does besides meets all of them alike. One that failed once is left out.
func runRounds(ctx context.Context, all []contender, rounds int, d time.Duration, onlyTCP bool) (list []contest, failed bool) {
	list = make([]contest, len(all))
	for n := range rounds {
		for i, c := range all {
			x := &list[i]
			x.name = c.name
			if x.err != nil {
				continue
			}
			r := measure(ctx, c, d, onlyTCP)
			if x.err = r.err; r.err != nil {
				fmt.Fprintf(os.Stderr, "bench: %s, round %d: %v\n", c.name, n+1, r.err)
				failed = true
			} else {
				x.rounds = append(x.rounds, r)
			}
			if ctx.Err() != nil {
				os.Exit(1)
			}
		}
	}
	return list, failed
}

// median of one number of the rounds.
func (x *contest) median(number func(result) float64) float64 {
	var list []float64
	for _, r := range x.rounds {
		list = append(list, number(r))
	}
	return median(list)
}

// median of a list that is not empty; of an even number the lower one in the middle.
func median(list []float64) float64 {
	slices.Sort(list)
	return list[(len(list)-1)/2]
}

func markdown(list []contest, rounds int, d time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Machine: %s. Each measurement takes %v", machine(), d)
	if rounds > 1 {
		fmt.Fprintf(&b, "; each number is the median of %d rounds, in each of which all take turns", rounds)
	}
	b.WriteString(".\n\n| through | TCP, 1 connection | TCP, 4 connections | CPU per GB | UDP 1200 bytes | UDP 64 bytes | round trip |\n|---|---|---|---|---|---|---|\n")
	for i := range list {
		x := &list[i]
		if x.err != nil {
			fmt.Fprintf(&b, "| %s | failed | | | | | |\n", x.name)
			continue
		}
		cpu := "-"
		if v := x.median(func(r result) float64 { return r.cpuPerGB }); v > 0 {
			cpu = fmt.Sprintf("%.2f s", v)
		}
		fmt.Fprintf(&b, "| %s | %.0f Mbit/s | %.0f Mbit/s | %s | %.0f Mbit/s (%.0f %% lost) | %.0f k/s (%.0f %% lost) | %v |\n", x.name,
			x.median(func(r result) float64 { return r.tcp1 })/1e6, x.median(func(r result) float64 { return r.tcp4 })/1e6, cpu,
			x.median(func(r result) float64 { return r.udp })/1e6, x.median(func(r result) float64 { return r.udpLoss })*100,
			x.median(func(r result) float64 { return r.pps })/1e3, x.median(func(r result) float64 { return r.ppsLoss })*100,
			time.Duration(x.median(func(r result) float64 { return float64(r.rtt) })).Round(time.Microsecond))
	}
	return b.String() + ratios(list)
}

// peer is the contender that the others are held against.
const peer = "wireguard-go"

// ratios are those of a round: what both reached a minute apart.
func ratios(list []contest) string {
	i := slices.IndexFunc(list, func(x contest) bool { return x.name == peer && x.err == nil })
	if i < 0 || len(list[i].rounds) < 2 {
		return ""
	}
	base := list[i].rounds
	var b strings.Builder
	fmt.Fprintf(&b, "\n| times %s, round by round | TCP, 1 connection | TCP, 4 connections | CPU per GB |\n|---|---|---|---|\n", peer)
	for _, x := range list {
		if x.err != nil || !strings.HasPrefix(x.name, "iked") {
			continue
		}
		fmt.Fprintf(&b, "| %s |", x.name)
		for _, number := range []func(result) float64{
			func(r result) float64 { return r.tcp1 }, func(r result) float64 { return r.tcp4 }, func(r result) float64 { return r.cpuPerGB },
		} {
			var each []float64
			var words []string
			for n := range x.rounds {
				v := number(x.rounds[n]) / number(base[n])
				each, words = append(each, v), append(words, fmt.Sprintf("%.2f", v))
			}
			fmt.Fprintf(&b, " %s, median %.2f |", strings.Join(words, " "), median(each))
		}
		b.WriteString("\n")
	}
	return b.String()
}
