package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"iked/conf"
	"iked/internal/engine"
	"iked/internal/radius"
	"iked/internal/trace"
	"iked/internal/userhook"
)

// users is who knows users of XAuth beside the secrets.
type users struct {
	radius radius.Client
	hook   *userhook.Runner
}

func newUsers(log *logger) *users {
	u := &users{hook: userhook.New()}
	// Anybody can send such packets: one sentence in a while is enough.
	var last atomic.Int64
	u.radius.Ignored = func(server string, err error) {
		now := time.Now().UnixNano()
		if at := last.Load(); now-at > int64(10*time.Second) && last.CompareAndSwap(at, now) {
			log.warn(trace.NET, "a packet from the address of the RADIUS server %s is ignored: %v", server, err)
		}
	}
	return u
}

// hookFaults are warnings about a program of xauth_hook that would not run: else the
// first user would learn of it.
func hookFaults(c *conf.Config) conf.Faults {
	if c.XAuthHook == "" {
		return nil
	}
	if _, err := userhook.Trusted(c.XAuthHook); err != nil {
		return conf.Faults{{Pos: conf.Pos{File: c.File, Key: "xauth_hook"}, Warning: true, Message: err.Error(), Remedy: "no user of auth: xauth-hook is let in before that is right"}}
	}
	return nil
}

// Radius implements engine.Users.
func (u *users) Radius(ctx context.Context, servers []*conf.Radius, q engine.UserQuery) (engine.UserGrant, error) {
	list := make([]radius.Server, 0, len(servers))
	for _, s := range servers {
		list = append(list, radius.Server{Name: s.Name, Addr: netip.AddrPortFrom(s.Address, s.AuthPort), Secret: s.Secret, NASIdentifier: s.NASIdentifier,
			Timeout: s.RetransmitTimeout, Tries: s.RetransmitTries, Base: s.RetransmitBase})
	}
	a, err := u.radius.Ask(ctx, list, radius.Request{User: q.User, Password: q.Password, CallingStation: q.Peer.String()})
	if err != nil {
		return engine.UserGrant{}, err
	}
	switch a.Verdict {
	case radius.Accepted:
		return engine.UserGrant{OK: true, Address: a.Address}, nil
	case radius.Challenge:
		return engine.UserGrant{Why: "the RADIUS server asks in return, as for a one-time password, which is not supported by this version: let it decide by the password alone"}, nil
	}
	if a.Message != "" {
		return engine.UserGrant{Why: fmt.Sprintf("the RADIUS server refuses the user and says %.200q", a.Message)}, nil
	}
	return engine.UserGrant{Why: "the RADIUS server refuses the user"}, nil
}

// Hook implements engine.Users.
func (u *users) Hook(ctx context.Context, path string, q engine.UserQuery) (engine.UserGrant, error) {
	if path == "" {
		return engine.UserGrant{}, errors.New("xauth_hook names no program")
	}
	ok, err := u.hook.Check(ctx, path, userhook.Query{User: q.User, Password: q.Password, Connection: q.Conn, Peer: q.Peer.String()})
	if err != nil {
		return engine.UserGrant{}, err
	}
	if !ok {
		return engine.UserGrant{Why: "the program of xauth_hook refuses the user"}, nil
	}
	return engine.UserGrant{OK: true}, nil
}
