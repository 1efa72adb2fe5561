package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/strongswan/govici/vici"
)

// dial connects to the daemon.
func (a *app) dial() (*vici.Session, error) {
	network, addr, err := splitURI(a.control)
	if err != nil {
		return nil, usageError{err}
	}
	s, err := vici.NewSession(vici.WithAddr(network, addr))
	if err == nil {
		return s, nil
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = fmt.Errorf("there is no control socket at %s: is iked running, and with this --control?", addr)
	case errors.Is(err, os.ErrPermission):
		err = fmt.Errorf("no permission to use %s: run as root or as the owner of the socket", addr)
	default:
		err = fmt.Errorf("iked does not answer at %s: %w", addr, err)
	}
	return nil, unreachableError{err}
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

// call runs one command and returns its reply; a refusal is an error with the
// daemon's own words.
func call(ctx context.Context, s *vici.Session, cmd string, in *vici.Message) (*vici.Message, error) {
	if in == nil {
		in = vici.NewMessage()
	}
	out, err := s.Call(ctx, cmd, in)
	if err == nil {
		return out, nil
	}
	if out != nil {
		if why := text(out, "errmsg"); why != "" {
			return out, errors.New(why)
		}
	}
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	return out, fmt.Errorf("%s: %w", cmd, err)
}

// stream collects the events of a list command.
func stream(ctx context.Context, s *vici.Session, cmd, event string, in *vici.Message) ([]*vici.Message, error) {
	if in == nil {
		in = vici.NewMessage()
	}
	var all []*vici.Message
	for m, err := range s.CallStreaming(ctx, cmd, event, in) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cmd, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// message builds a request from pairs of key and value; empty values are left
// out.
func message(pairs ...string) *vici.Message {
	m := vici.NewMessage()
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			// Set fails only for values of a type that VICI cannot carry.
			if err := m.Set(pairs[i], pairs[i+1]); err != nil {
				panic(err)
			}
		}
	}
	return m
}

func text(m *vici.Message, key string) string {
	s, _ := m.Get(key).(string)
	return s
}

func list(m *vici.Message, key string) []string {
	l, _ := m.Get(key).([]string)
	if l == nil {
		l = []string{}
	}
	return l
}

func section(m *vici.Message, key string) *vici.Message {
	s, _ := m.Get(key).(*vici.Message)
	if s == nil {
		s = vici.NewMessage()
	}
	return s
}
