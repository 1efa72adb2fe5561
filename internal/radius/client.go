package radius

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"iked/internal/secret"
)

// Server is one server. After Timeout the request is sent again, Tries times, and
// each wait is Base times as long as the one before.
type Server struct {
	Name          string
	Addr          netip.AddrPort
	Secret        secret.Bytes
	NASIdentifier string
	Timeout       time.Duration
	Tries         int
	Base          float64
}

// deadTime is how long a server that did not answer is asked last.
const deadTime = time.Minute

// fairWait is what a server must have had to count as one that does not answer.
const fairWait = time.Second

// Client asks servers. It is safe for concurrent use; the zero value is ready.
type Client struct {
	mu   sync.Mutex
	dead map[netip.AddrPort]time.Time // until when
	// Ignored is called with why a packet was not taken as an answer; nil: nobody.
	Ignored func(server string, err error)
}

// Ask asks one server after the other, until one answers. Where ctx has a deadline,
// each gets its share of the time, so that the last one is asked as well. An error
// means that nobody knows: it is no refusal.
func (c *Client) Ask(ctx context.Context, servers []Server, q Request) (Answer, error) {
	if len(servers) == 0 {
		return Answer{}, errors.New("no RADIUS server is configured")
	}
	var why []string
	for i, s := range c.order(servers) {
		q.NASIdentifier = s.NASIdentifier
		if err := q.check(); err != nil {
			return Answer{}, err
		}
		share, cancel := ctx, context.CancelFunc(func() {})
		if end, ok := ctx.Deadline(); ok && i < len(servers)-1 {
			share, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(len(servers)-i))
		}
		begin := time.Now()
		a, err := c.ask(share, &s, &q)
		short := share.Err() != nil && time.Since(begin) < fairWait
		cancel()
		if err == nil {
			c.mark(s.Addr, false)
			return a, nil
		}
		why = append(why, fmt.Sprintf("%s at %v: %v", s.Name, s.Addr, err))
		if ctx.Err() != nil {
			break
		}
		if !short {
			c.mark(s.Addr, true)
		}
	}
	return Answer{}, fmt.Errorf("no RADIUS server answers: %s", strings.Join(why, "; "))
}

// order has the servers that did not answer lately at the end.
func (c *Client) order(servers []Server) []Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	out := slices.Clone(servers)
	slices.SortStableFunc(out, func(a, b Server) int {
		x, y := 0, 0
		if c.dead[a.Addr].After(now) {
			x = 1
		}
		if c.dead[b.Addr].After(now) {
			y = 1
		}
		return x - y
	})
	return out
}

func (c *Client) mark(a netip.AddrPort, dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !dead {
		delete(c.dead, a)
		return
	}
	if c.dead == nil {
		c.dead = map[netip.AddrPort]time.Time{}
	}
	c.dead[a] = time.Now().Add(deadTime)
}

// ask sends a request and waits for its answer. Every request has a socket of its
// own: the port is one more thing that a forger has to guess.
func (c *Client) ask(ctx context.Context, s *Server, q *Request) (Answer, error) {
	var seed [17]byte
	rand.Read(seed[:]) // never fails
	id, authenticator := seed[0], [16]byte(seed[1:])
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.Addr))
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := q.append(nil, id, authenticator, s.Secret)
	defer clear(b)
	in := make([]byte, maxPacket+1)
	wait := float64(s.Timeout)
	for range s.Tries + 1 {
		// RFC 2865, Section 2.5: a repetition has the same identifier and authenticator.
		if _, err := conn.Write(b); err != nil {
			return Answer{}, why(err)
		}
		until := time.Now().Add(time.Duration(wait))
		wait *= s.Base
		conn.SetReadDeadline(until)
		for {
			if ctx.Err() != nil {
				return Answer{}, errors.New("the time for it is over")
			}
			n, err := conn.Read(in)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if ctx.Err() != nil {
					return Answer{}, errors.New("the time for it is over")
				}
				break
			}
			if err != nil {
				return Answer{}, why(err)
			}
			a, err := parseAnswer(in[:n], id, authenticator, s.Secret)
			if err == nil {
				return a, nil
			}
			// RFC 2865, Section 3: silently discarded; the true answer may still come.
			if c.Ignored != nil {
				c.Ignored(s.Name, err)
			}
		}
	}
	if ctx.Err() != nil {
		return Answer{}, errors.New("the time for it is over")
	}
	return Answer{}, errors.New("no answer")
}

// why is what the system said, without the addresses around it.
func why(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
