package vici

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	govici "github.com/strongswan/govici/vici"

	"iked/vici/client"
	"iked/vici/wire"
)

// startServer serves the given commands on a socket of its own.
func startServer(t *testing.T, commands map[string]handler, events ...string) (*Server, string) {
	t.Helper()
	s := newServer(events, func(_ bool, format string, args ...any) { t.Logf(format, args...) })
	for n, h := range commands {
		s.commands[n] = h
	}
	path := filepath.Join(t.TempDir(), "v")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		l.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, path
}

func dialRaw(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func send(t *testing.T, c net.Conn, p wire.Packet) {
	t.Helper()
	b, err := p.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c net.Conn) wire.Packet {
	t.Helper()
	b, err := wire.ReadPacket(c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := wire.ParsePacket(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func echo(c *call) wire.Message { return c.req }

// Requests of one client are answered one after the other in their order, also
// when they were sent without waiting.
func TestPipelinedRequestsAnsweredInOrder(t *testing.T) {
	_, path := startServer(t, map[string]handler{"echo": echo})
	c := dialRaw(t, path)
	for i := range 50 {
		var m wire.Message
		m.Set("n", fmt.Sprint(i))
		body, _ := m.Append(nil)
		send(t, c, wire.Packet{Type: wire.CmdRequest, Name: "echo", Body: body})
	}
	for i := range 50 {
		p := receive(t, c)
		m, err := wire.Parse(p.Body)
		if err != nil || p.Type != wire.CmdResponse || m.Int("n", -1) != int64(i) {
			t.Fatalf("reply %d: %+v %v", i, m, err)
		}
	}
}

// A name that is not registered is answered by CMD_UNKNOWN, an event without a
// source by EVENT_UNKNOWN, and registrations are counted.
func TestUnknownNames(t *testing.T) {
	_, path := startServer(t, nil, "log")
	c := dialRaw(t, path)
	for _, step := range []struct {
		typ  wire.PacketType
		name string
		want wire.PacketType
	}{
		{wire.CmdRequest, "nonsense", wire.CmdUnknown},
		{wire.EventRegister, "nonsense", wire.EventUnknown},
		{wire.EventUnregister, "log", wire.EventUnknown},
		{wire.EventRegister, "log", wire.EventConfirm},
		{wire.EventRegister, "log", wire.EventConfirm},
		{wire.EventUnregister, "log", wire.EventConfirm},
		{wire.EventUnregister, "log", wire.EventConfirm},
		{wire.EventUnregister, "log", wire.EventUnknown},
	} {
		send(t, c, wire.Packet{Type: step.typ, Name: step.name})
		if got := receive(t, c).Type; got != step.want {
			t.Fatalf("%d %s: got %d, want %d", step.typ, step.name, got, step.want)
		}
	}
}

// Malformed packets get no reply and do not end the connection; one that
// announces too much ends it.
func TestGarbage(t *testing.T) {
	_, path := startServer(t, map[string]handler{"echo": echo})
	c := dialRaw(t, path)
	for _, raw := range [][]byte{{}, {99}, {0}, {0, 200, 'x'}, {0, 1, 0x07}, {byte(wire.CmdResponse)}, {byte(wire.Event), 1, 'x'}} {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(raw)))
		if _, err := c.Write(append(b, raw...)); err != nil {
			t.Fatal(err)
		}
	}
	send(t, c, wire.Packet{Type: wire.CmdRequest, Name: "echo"})
	if p := receive(t, c); p.Type != wire.CmdResponse {
		t.Fatalf("got %+v", p)
	}
	c.Write([]byte{0xff, 0xff, 0xff, 0xff})
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("connection goes on after a length of 4 GiB: %v", err)
	}
}

// A client that reads nothing loses broadcasts and holds up neither the daemon
// nor other clients.
func TestSlowClient(t *testing.T) {
	s, path := startServer(t, map[string]handler{"echo": echo}, "log")
	slow := dialRaw(t, path)
	send(t, slow, wire.Packet{Type: wire.EventRegister, Name: "log"})
	if receive(t, slow).Type != wire.EventConfirm {
		t.Fatal("not registered")
	}
	big := bytes.Repeat([]byte{'x'}, 4000)
	for range 3 * maxQueued {
		s.broadcast("log", func() wire.Message {
			var m wire.Message
			m.SetBytes("msg", big)
			return m
		})
	}
	if s.Dropped.Load() == 0 {
		t.Fatal("nothing was dropped: the queue of a client is not bounded")
	}
	quick := dialRaw(t, path)
	send(t, quick, wire.Packet{Type: wire.CmdRequest, Name: "echo"})
	if receive(t, quick).Type != wire.CmdResponse {
		t.Fatal("another client got no reply")
	}
}

const items = 2*maxQueued + 1 // more than any queue holds

// All events of a stream come before the reply, and only to a client that
// registered.
func TestStreamBeforeReply(t *testing.T) {
	_, path := startServer(t, map[string]handler{"list": func(c *call) wire.Message {
		for i := range items {
			var m wire.Message
			m.Set("n", fmt.Sprint(i))
			c.event("item", m)
		}
		return nil
	}}, "item")
	s, err := client.Dial(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 2 { // the second time it is registered already
		n := 0
		if err := s.Stream(context.Background(), "list", "item", nil, func(m wire.Message) {
			if m.Int("n", -1) != int64(n) {
				t.Errorf("item %d is %v", n, m)
			}
			n++
		}); err != nil || n != items {
			t.Fatalf("%d items, %v", n, err)
		}
	}
	c := dialRaw(t, path)
	send(t, c, wire.Packet{Type: wire.CmdRequest, Name: "list"})
	if p := receive(t, c); p.Type != wire.CmdResponse {
		t.Fatalf("a client that did not register got %+v", p)
	}
}

// A command that panics is answered with a reason and the daemon goes on.
func TestPanicContained(t *testing.T) {
	srv, path := startServer(t, map[string]handler{"boom": func(*call) wire.Message { panic("boom") }, "echo": echo})
	s, err := govici.NewSession(govici.WithSocketPath(path))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Call(context.Background(), "boom", govici.NewMessage()); err == nil {
		t.Fatal("no error")
	}
	if _, err := s.Call(context.Background(), "echo", govici.NewMessage()); err != nil {
		t.Fatal(err)
	}
	if srv.Panics.Load() != 1 {
		t.Fatal("not counted")
	}
}

// A client that dies during a request disturbs nobody, and no more clients are
// taken than the limit.
func TestClientsBounded(t *testing.T) {
	release := make(chan struct{})
	srv, path := startServer(t, map[string]handler{"wait": func(*call) wire.Message { <-release; return success() }})
	for range maxClients {
		c := dialRaw(t, path)
		send(t, c, wire.Packet{Type: wire.CmdRequest, Name: "wait"})
	}
	waitFor(t, func() bool {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		return len(srv.clients) == maxClients
	})
	extra := dialRaw(t, path)
	if _, err := extra.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("client %d was accepted (%v)", maxClients+1, err)
	}
	close(release)
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for range 2000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("condition not reached")
}
