package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/keyex"
	"iked/internal/secret"
)

// Users is who knows users of XAuth that no secret of the configuration names. Its
// methods block, and are called at once from many goroutines.
type Users interface {
	// Radius asks the servers in their order.
	Radius(ctx context.Context, servers []*conf.Radius, q UserQuery) (UserGrant, error)
	// Hook asks a program.
	Hook(ctx context.Context, path string, q UserQuery) (UserGrant, error)
}

// UserQuery is a question about a user.
type UserQuery struct {
	User     string
	Password secret.Bytes
	Conn     string
	Peer     netip.Addr
}

// UserGrant is the answer to it. Why says more of a refusal; it may hold text of
// the peer's. Address is the one that the user is to have, invalid: any.
type UserGrant struct {
	OK      bool
	Why     string
	Address netip.Addr
}

// Bounds of such questions: how many wait at a time, and how long a peer is kept
// waiting, which gives up after about thirty seconds.
const (
	maxUserChecks = 256
	userPatience  = 25 * time.Second
)

// userChecks counts the questions that are going on.
type userChecks struct{ running atomic.Int32 }

// usersOf is who knows the users of a connection.
func usersOf(cfg *ikev2.Config) conf.Users {
	c, ok := cfg.Ref.(*conf.Connection)
	if !ok || len(c.Remote) == 0 {
		return conf.UsersSecrets
	}
	return c.Remote[len(c.Remote)-1].Users
}

// checkUser answers CheckUser: at once where a secret decides, else when who knows
// the users has answered.
func (s *shard) checkUser(x *ikeSA, id keyex.RequestID, w keyex.CheckUser) {
	e := s.e
	source := usersOf(w.Config)
	if source == conf.UsersSecrets {
		x.answer(id, keyex.UserReply{Err: e.store.checkUser(w)})
		w.Password.Destroy()
		return
	}
	if e.opt.Users == nil {
		w.Password.Destroy()
		x.answer(id, keyex.UserReply{Unavailable: true, Err: errors.New("this engine asks nobody about users")})
		return
	}
	if e.users.running.Add(1) > maxUserChecks {
		e.users.running.Add(-1)
		w.Password.Destroy()
		e.drops.add("user-checks")
		x.answer(id, keyex.UserReply{Unavailable: true, Err: fmt.Errorf("%d users are being checked, no more at a time", maxUserChecks)})
		return
	}
	q := UserQuery{User: w.User, Password: w.Password, Conn: w.Config.Name, Peer: w.From.Addr()}
	p, conn, unique := e.config.Load(), x.conn, x.id
	e.wg.Go(func() {
		r := keyex.UserReply{Unavailable: true, Err: errors.New("an internal fault")}
		defer func() {
			if fault := recover(); fault != nil {
				e.panicked(conn, unique, fault)
			}
			q.Password.Destroy()
			e.users.running.Add(-1)
			s.do(func(s *shard) {
				if !x.closed {
					s.drive(x, func(now time.Time) { x.m.Resume(now, id, r) })
				}
			})
		}()
		ctx, cancel := context.WithTimeout(e.ctx, userPatience)
		defer cancel()
		var g UserGrant
		var err error
		if source == conf.UsersRadius {
			g, err = e.opt.Users.Radius(ctx, p.radius, q)
		} else {
			g, err = e.opt.Users.Hook(ctx, p.global.XAuthHook, q)
		}
		switch {
		case err != nil:
			r = keyex.UserReply{Unavailable: true, Err: err}
		case !g.OK && g.Why != "":
			r = keyex.UserReply{Err: errors.New(g.Why)}
		case !g.OK:
			r = keyex.UserReply{Err: errors.New("there is no such user, or the password is wrong")}
		default:
			r = keyex.UserReply{Address: g.Address}
		}
	})
}
