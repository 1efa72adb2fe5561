package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"iked/internal/testnet"
)

// moves are the addresses that gateway A goes through.
var moves = []string{"192.0.2.77", "192.0.2.78", "192.0.2.79"}

// home is the network in which gateway A moves.
func (d *demo) home() string { return netip.PrefixFrom(d.a.local, 24).Masked().String() }

// wander gives gateway A other addresses, one after the other, while a ping runs on
// all the time. MOBIKE tells gateway B (RFC 4555).
func (d *demo) wander() error {
	dev := d.wire[0].If
	// The next address is there before the old one goes, and outlives it. What still comes
	// to the old one is not sent elsewhere.
	if err := errors.Join(d.a.ns.Sysctl("net.ipv4.conf."+dev+".promote_secondaries", "1"),
		d.a.ns.Sysctl("net.ipv4.conf."+dev+".send_redirects", "0"), d.a.ns.Sysctl("net.ipv4.conf.all.send_redirects", "0")); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(d.ctx)
	defer stop()
	type count struct{ sent, received int }
	done := make(chan count, 1)
	go func() {
		var c count
		for ctx.Err() == nil {
			r, err := d.from.Ping(d.to, testnet.PingOptions{Count: 1, Timeout: 100 * time.Millisecond})
			if err == nil {
				c.sent, c.received = c.sent+r.Sent, c.received+r.Received
			}
			time.Sleep(10 * time.Millisecond)
		}
		done <- c
	}()
	fmt.Printf("\n%s moves while %s pings %s every 10 ms:\n", d.a.ns.Name, d.fromName, d.toName)
	at := d.a.local.String()
	for _, next := range moves {
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		if err := errors.Join(d.a.ns.AddAddr(dev, next+"/24"), d.a.ns.DelAddr(dev, at+"/24")); err != nil {
			return err
		}
		for {
			out, err := d.daemons[1].run(ctx, d.ikectl, "status")
			if err != nil {
				return err
			}
			if strings.Contains(out, next) {
				break
			}
			if time.Since(began) > 10*time.Second {
				return fmt.Errorf("%s does not follow to %s:\n%s", d.b.ns.Name, next, indent(out))
			}
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := d.from.WaitPing(d.to, testnet.PingOptions{}, 5*time.Second); err != nil {
			return err
		}
		fmt.Printf("  from %s to %s: packets pass again after %d ms at most\n", at, next, time.Since(began).Milliseconds())
		at = next
	}
	time.Sleep(500 * time.Millisecond)
	stop()
	c := <-done
	fmt.Printf("%d of %d pings got their reply; the others were on their way when an address went.\n", c.received, c.sent)
	if c.received < c.sent/2 {
		return fmt.Errorf("%d of %d pings were lost", c.sent-c.received, c.sent)
	}
	return nil
}
