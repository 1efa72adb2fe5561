package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"iked/vici/client"
	"iked/vici/wire"
)

// dialTimeout bounds the connection to a daemon that accepts nothing.
const dialTimeout = 5 * time.Second

// dial connects to the daemon.
func (a *app) dial(ctx context.Context) (*client.Client, error) {
	network, addr, err := splitURI(a.control)
	if err != nil {
		return nil, usageError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := client.Dial(ctx, network, addr)
	if err == nil {
		// The kernel accepts for a daemon that hangs, and any program may listen there.
		if _, err = c.Call(ctx, "version", nil, nil); err == nil {
			return c, nil
		}
		c.Close()
		err = unanswered(ctx, err)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return nil, errInterrupted
	case errors.Is(err, os.ErrNotExist):
		err = fmt.Errorf("there is no control socket at %s: is iked running, and with this --control?", addr)
	case errors.Is(err, os.ErrPermission):
		err = fmt.Errorf("no permission to use %s: run as root or as the owner of the socket", addr)
	default:
		err = fmt.Errorf("iked does not answer at %s: %w", addr, err)
	}
	return nil, unreachableError{err}
}

// unanswered says why who accepted a connection did not answer the first request.
func unanswered(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it accepts the connection and says nothing for %v: it hangs, or is stopped", dialTimeout)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("what listens there does not speak the control protocol, or ended: %w", err)
}

func splitURI(uri string) (network, addr string, err error) {
	if strings.HasPrefix(uri, "/") {
		return "unix", uri, nil
	}
	u, err := url.Parse(uri)
	if err != nil {
		return "", "", fmt.Errorf("control %q: %w", uri, err)
	}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		return "unix", u.Path, nil
	case u.Scheme == "tcp" && u.Host != "":
		return "tcp", u.Host, nil
	}
	return "", "", fmt.Errorf("control %q: expected unix://PATH or tcp://HOST:PORT", uri)
}

var errInterrupted = errors.New("interrupted")

// call runs one command and returns its reply; a refusal is an error with the
// daemon's own words.
func call(ctx context.Context, c *client.Client, cmd string, in wire.Message, on client.OnEvent) (wire.Message, error) {
	m, err := c.Call(ctx, cmd, in, on)
	return m, reachable(ctx, err)
}

// stream collects the events of a list command.
func stream(ctx context.Context, c *client.Client, cmd, event string, in wire.Message) ([]wire.Message, error) {
	var all []wire.Message
	err := c.Stream(ctx, cmd, event, in, func(m wire.Message) { all = append(all, m) })
	return all, reachable(ctx, err)
}

func reachable(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errInterrupted
	case errors.Is(err, client.ErrGone):
		return unreachableError{err}
	}
	return err
}

// message builds a request from pairs of key and value; empty values are left
// out.
func message(pairs ...string) wire.Message {
	var m wire.Message
	for i := 0; i+1 < len(pairs); i += 2 {
		m.SetIf(pairs[i], pairs[i+1])
	}
	return m
}

func text(m wire.Message, key string) string {
	s, _ := m.Text(key)
	return s
}

func list(m wire.Message, key string) []string {
	l := []string{}
	for _, it := range m.List(key) {
		l = append(l, string(it))
	}
	return l
}

func section(m wire.Message, key string) wire.Message {
	s, _ := m.Section(key)
	return s
}
