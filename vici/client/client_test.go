package client

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"iked/vici/wire"
)

// daemon answers one connection with what a script says: packets to send for
// each request that arrives, nil to hang up.
func daemon(t *testing.T, script ...[]wire.Packet) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for _, packets := range script {
			if _, err := wire.ReadPacket(c); err != nil || packets == nil {
				return
			}
			var b []byte
			for _, p := range packets {
				b, _ = p.Append(b)
			}
			c.Write(b)
		}
		wire.ReadPacket(c) // until the client closes
	}()
	c, err := Dial(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		l.Close()
		<-done
	})
	return c
}

func body(pairs ...string) []byte {
	var m wire.Message
	for i := 0; i < len(pairs); i += 2 {
		m.Set(pairs[i], pairs[i+1])
	}
	b, _ := m.Append(nil)
	return b
}

func response(pairs ...string) wire.Packet {
	return wire.Packet{Type: wire.CmdResponse, Body: body(pairs...)}
}

// A refusal carries the daemon's own words, and its reply.
func TestRefused(t *testing.T) {
	c := daemon(t,
		[]wire.Packet{response("success", "no", "errmsg", "no such SA", "matches", "0")},
		[]wire.Packet{response("success", "no")},
		[]wire.Packet{response("success", "yes")})
	m, err := c.Call(t.Context(), "terminate", nil, nil)
	var refused Refused
	if !errors.As(err, &refused) || refused.Reason != "no such SA" {
		t.Errorf("got %v", err)
	}
	if n, _ := m.Text("matches"); n != "0" {
		t.Errorf("the reply is lost: %v", m)
	}
	if _, err := c.Call(t.Context(), "terminate", nil, nil); !errors.As(err, &refused) || refused.Reason == "" {
		t.Errorf("a refusal without a reason needs one of its own: %v", err)
	}
	if _, err := c.Call(t.Context(), "terminate", nil, nil); err != nil {
		t.Errorf("success is %v", err)
	}
}

// Commands and events that the daemon does not know are told apart from one that
// went away.
func TestUnknownAndGone(t *testing.T) {
	c := daemon(t, []wire.Packet{{Type: wire.CmdUnknown}}, []wire.Packet{{Type: wire.EventUnknown}}, nil)
	if _, err := c.Call(t.Context(), "nonsense", nil, nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("command: %v", err)
	}
	if err := c.Register(t.Context(), "nonsense", nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("event: %v", err)
	}
	if _, err := c.Call(t.Context(), "version", nil, nil); !errors.Is(err, ErrGone) {
		t.Errorf("hang-up: %v", err)
	}
}

// Events before the reply reach the caller in order; those of other names do not
// belong to the stream.
func TestStream(t *testing.T) {
	c := daemon(t,
		[]wire.Packet{{Type: wire.EventConfirm}},
		[]wire.Packet{
			{Type: wire.Event, Name: "list-sa", Body: body("n", "0")},
			{Type: wire.Event, Name: "log", Body: body("n", "x")},
			{Type: wire.Event, Name: "list-sa", Body: body("n", "1")},
			response(),
		})
	var got []string
	err := c.Stream(t.Context(), "list-sas", "list-sa", nil, func(m wire.Message) {
		s, _ := m.Text("n")
		got = append(got, s)
	})
	if err != nil || len(got) != 2 || got[0] != "0" || got[1] != "1" {
		t.Errorf("got %v, %v", got, err)
	}
}

// A call ends with its context although the daemon never answers.
func TestContextEndsCall(t *testing.T) {
	c := daemon(t, []wire.Packet{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Call(ctx, "version", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
