// Package client is a VICI client. It keeps the order of messages and loses no
// event of a stream, however fast they come: the reader waits for the caller.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"iked/vici/wire"
)

// ErrUnknown: the daemon does not know this command or event.
var ErrUnknown = errors.New("the daemon does not know this request")

// ErrGone: the daemon closed the connection.
var ErrGone = errors.New("the daemon closed the connection")

// Refused is a reply with success=no; its text is the daemon's own.
type Refused struct{ Reason string }

// Error implements error.
func (r Refused) Error() string { return r.Reason }

// Client is one connection. One request runs at a time; events of subscriptions
// are delivered while a request waits, and by Events.
type Client struct {
	conn net.Conn
	mu   sync.Mutex // one request at a time
	regs map[string]bool
}

// Dial connects to a control socket.
func Dial(ctx context.Context, network, addr string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, regs: map[string]bool{}}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// OnEvent takes the events that arrive during a request.
type OnEvent func(name string, m wire.Message)

// Call runs a command. Events that come before the reply go to on, which may be
// nil. A reply with success=no is returned together with Refused.
func (c *Client) Call(ctx context.Context, cmd string, in wire.Message, on OnEvent) (wire.Message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.request(ctx, wire.CmdRequest, cmd, in, on)
	if err != nil {
		return nil, err
	}
	if p.Type != wire.CmdResponse {
		return nil, fmt.Errorf("%s: %w", cmd, ErrUnknown)
	}
	m, err := wire.Parse(p.Body)
	if err != nil {
		return m, fmt.Errorf("reply to %s: %w", cmd, err)
	}
	if s, ok := m.Text("success"); ok && s != "yes" {
		why, _ := m.Text("errmsg")
		if why == "" {
			why = cmd + " failed; the daemon gave no reason"
		}
		return m, Refused{why}
	}
	return m, nil
}

// Register subscribes to events; doing so again changes nothing.
func (c *Client) Register(ctx context.Context, event string, on OnEvent) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.regs[event] {
		return nil
	}
	p, err := c.request(ctx, wire.EventRegister, event, nil, on)
	if err != nil {
		return err
	}
	if p.Type != wire.EventConfirm {
		return fmt.Errorf("event %s: %w", event, ErrUnknown)
	}
	c.regs[event] = true
	return nil
}

// Stream registers an event, runs a command and calls item for each event of
// that name until the reply. The connection stays registered.
func (c *Client) Stream(ctx context.Context, cmd, event string, in wire.Message, item func(wire.Message)) error {
	if err := c.Register(ctx, event, nil); err != nil {
		return err
	}
	_, err := c.Call(ctx, cmd, in, func(name string, m wire.Message) {
		if name == event {
			item(m)
		}
	})
	return err
}

// Events delivers events until ctx ends (nil) or the daemon goes (ErrGone).
func (c *Client) Events(ctx context.Context, on OnEvent) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.watch(ctx)()
	for {
		p, err := c.receive(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		deliver(p, on)
	}
}

func (c *Client) request(ctx context.Context, t wire.PacketType, name string, in wire.Message, on OnEvent) (wire.Packet, error) {
	body, err := in.Append(nil)
	if err != nil {
		return wire.Packet{}, err
	}
	b, err := wire.Packet{Type: t, Name: name, Body: body}.Append(nil)
	if err != nil {
		return wire.Packet{}, err
	}
	defer c.watch(ctx)()
	if _, err := c.conn.Write(b); err != nil {
		return wire.Packet{}, c.gone(ctx, err)
	}
	for {
		p, err := c.receive(ctx)
		if err != nil {
			return p, err
		}
		if p.Type != wire.Event {
			return p, nil
		}
		deliver(p, on)
	}
}

func deliver(p wire.Packet, on OnEvent) {
	if p.Type != wire.Event || on == nil {
		return
	}
	if m, err := wire.Parse(p.Body); err == nil {
		on(p.Name, m)
	}
}

func (c *Client) receive(ctx context.Context) (wire.Packet, error) {
	b, err := wire.ReadPacket(c.conn)
	if err != nil {
		return wire.Packet{}, c.gone(ctx, err)
	}
	return wire.ParsePacket(b)
}

func (c *Client) gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w (%v)", ErrGone, err)
}

// watch makes reads and writes fail when ctx ends. The connection cannot be used
// after that: a reply may still be on its way.
func (c *Client) watch(ctx context.Context) (stop func()) {
	end := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { end() }
}
