package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iked/vici/wire"
)

// daemonAt answers on a socket as serve says, one connection after the other.
func daemonAt(t *testing.T, serve func(net.Conn)) (uri string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.vici")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return "unix://" + path
}

// answers is a daemon that knows the given commands; events go before the reply.
type answer struct {
	event  string
	events []wire.Message
	reply  wire.Message
}

func answers(commands map[string]answer) func(net.Conn) {
	return func(c net.Conn) {
		send := func(p wire.Packet) {
			if b, err := p.Append(nil); err == nil {
				c.Write(b)
			}
		}
		for {
			b, err := wire.ReadPacket(c)
			if err != nil {
				return
			}
			p, err := wire.ParsePacket(b)
			if err != nil {
				return
			}
			if p.Type == wire.EventRegister {
				send(wire.Packet{Type: wire.EventConfirm})
				continue
			}
			a, ok := commands[p.Name]
			if !ok {
				send(wire.Packet{Type: wire.CmdUnknown})
				continue
			}
			for _, e := range a.events {
				body, _ := e.Append(nil)
				send(wire.Packet{Type: wire.Event, Name: a.event, Body: body})
			}
			body, _ := a.reply.Append(nil)
			send(wire.Packet{Type: wire.CmdResponse, Body: body})
		}
	}
}

func msg(pairs ...string) wire.Message { return message(pairs...) }

func ikectl(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

// The exit code tells a script what kind of end it was, and with -o json standard
// output is one document with a schema version, also for a failure.
func TestExitCodes(t *testing.T) {
	good := daemonAt(t, answers(map[string]answer{
		"version":   {reply: msg("daemon", "iked", "version", "1")},
		"reload":    {reply: msg("success", "no", "errmsg", "/etc/iked/iked.yaml:3: unknown key")},
		"rekey":     {reply: msg("success", "yes", "matches", "1")},
		"terminate": {reply: msg("success", "yes", "matches", "1")},
	}))
	hangs := daemonAt(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	garbage := daemonAt(t, func(c net.Conn) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) })
	closes := daemonAt(t, func(net.Conn) {})
	for _, x := range []struct {
		uri  string
		args []string
		code int
		says string
	}{
		{good, []string{"version"}, exitDone, "iked 1"},
		{good, []string{"rekey", "#3"}, exitDone, "started"},
		{good, []string{"down", "#3"}, exitDone, "done"},
		{good, []string{"reload"}, exitFailed, "iked.yaml:3: unknown key"},
		{good, []string{"explain"}, exitFailed, "does not know"},
		{good, []string{"dance"}, exitUsage, "dance"},
		{good, nil, exitUsage, "command is missing"},
		{good, []string{"status", "extra"}, exitUsage, "extra"},
		{good, []string{"up"}, exitUsage, "expected one"},
		{good, []string{"up", "x", "--timeout", "0s"}, exitUsage, "more than 0"},
		{good, []string{"down", "#0"}, exitUsage, "number of an IKE SA"},
		{good, []string{"up", "--ike", "--child", "x"}, exitUsage, "cannot be both"},
		{good, []string{"status", "--nonsense"}, exitUsage, "nonsense"},
		{"carrier-pigeon://x", []string{"status"}, exitUsage, "expected unix://"},
		{"unix:///nonexistent/socket", []string{"status"}, exitUnreachable, "is iked running"},
		{hangs, []string{"status"}, exitUnreachable, "it hangs"},
		{garbage, []string{"status"}, exitUnreachable, "does not speak the control protocol"},
		{closes, []string{"status"}, exitUnreachable, "ended"},
		{closes, []string{"log", "-f"}, exitUnreachable, "ended"},
	} {
		code, _, stderr := ikectl(t, append([]string{"--control", x.uri}, x.args...)...)
		if code != x.code {
			t.Errorf("ikectl %v ends with %d, want %d: %s", x.args, code, x.code, stderr)
		}
		if x.code == exitDone {
			_, out, _ := ikectl(t, append([]string{"--control", x.uri}, x.args...)...)
			stderr = out
		}
		if !strings.Contains(stderr, x.says) {
			t.Errorf("ikectl %v says %q, want %q", x.args, stderr, x.says)
		}
		if x.uri == hangs || len(x.args) == 0 {
			continue // the wait once is enough; help is no document
		}
		_, stdout, _ := ikectl(t, append([]string{"--control", x.uri, "-o", "json"}, x.args...)...)
		var doc map[string]any
		if strings.HasPrefix(stdout, "{") || x.code != exitUsage {
			if err := json.Unmarshal([]byte(stdout), &doc); err != nil || doc["schema_version"] != float64(schemaVersion) {
				t.Errorf("ikectl -o json %v is no document with a schema version: %v\n%s", x.args, err, stdout)
			}
		}
	}
}

// Counters that are zero hide the others: text leaves them out, JSON and --all do
// not.
func TestCountersHideZeros(t *testing.T) {
	var m, total, all, drops wire.Message
	total.Set("ike-init-in-req", "7")
	total.Set("invalid", "0")
	all.SetSection("", total)
	m.SetSection("counters", all)
	m.SetSection("drops", drops)
	uri := daemonAt(t, answers(map[string]answer{"version": {}, "get-counters": {reply: m}}))
	for _, x := range []struct {
		args []string
		zero bool
	}{{[]string{"counters"}, false}, {[]string{"counters", "--all"}, true}, {[]string{"-o", "json", "counters"}, true}} {
		code, out, stderr := ikectl(t, append([]string{"--control", uri}, x.args...)...)
		if code != 0 || !strings.Contains(out, "ike-init-in-req") || strings.Contains(out, "invalid") != x.zero {
			t.Errorf("ikectl %v: %d\n%s%s", x.args, code, out, stderr)
		}
	}
}

// What a peer calls itself reaches the terminal without control characters.
func TestTerminalIsSafe(t *testing.T) {
	uri := daemonAt(t, answers(map[string]answer{
		"version":    {},
		"recent-log": {event: "recent-log", events: []wire.Message{msg("group", "IKE", "msg", "the peer is \x1b]0;owned\x07 CN=x", "at", "2026-01-02T03:04:05Z")}},
	}))
	code, out, stderr := ikectl(t, "--control", uri, "log")
	if code != 0 || strings.ContainsAny(out, "\x1b\x07") || !strings.Contains(out, "CN=x") {
		t.Errorf("%d %q %s", code, out, stderr)
	}
}

// A daemon that ends is waited for, and so is its log; one that never was is an
// error at once.
func TestLogFollowsARestart(t *testing.T) {
	connections := make(chan int, 16)
	var count atomic.Int64
	uri := daemonAt(t, func(c net.Conn) {
		n := int(count.Add(1))
		connections <- n
		answer := answers(map[string]answer{"version": {}})
		if n > 1 {
			answer(c)
			return
		}
		// The first one dies after a while.
		done := make(chan struct{})
		go func() { defer close(done); answer(c) }()
		time.Sleep(100 * time.Millisecond)
		c.Close()
		<-done
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	code := make(chan int)
	go func() { code <- run(ctx, []string{"--control", uri, "log", "-f"}, &out, &errs) }()
	for c := range connections {
		if c == 2 {
			break
		}
	}
	cancel()
	if c := <-code; c != 0 || !strings.Contains(errs.String(), "the daemon ended; waiting") {
		t.Errorf("ends with %d: %s", c, errs.String())
	}
}
