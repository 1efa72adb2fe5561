// Package vici is the control protocol of the daemon: the protocol that swanctl
// and its client libraries speak. Server does the connections; the files
// command_*.go answer one family of commands each.
package vici

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"iked/internal/engine"
	"iked/vici/wire"
)

// Bounds on what clients may occupy.
const (
	maxClients   = 64
	maxPipelined = 16              // requests read ahead of the one being answered
	maxQueued    = 4096            // packets waiting for one client
	writeTimeout = 5 * time.Second // a client that reads nothing for that long is closed
	registerCap  = 64              // registrations of one client
)

// handler answers one command. It may send events of its stream through c. What
// it returns is the reply. A client that goes away does not stop it.
type handler func(c *call) wire.Message

// call is one request being answered.
type call struct {
	req wire.Message
	// bad is set when the request did not parse to its end.
	bad  error
	conn *conn
}

// event sends one event of the stream that belongs to this request; it waits for
// room, so a stream is never cut, and gives up when the client is gone.
func (c *call) event(name string, m wire.Message) {
	if c.conn.registrations(name) == 0 {
		return
	}
	body, err := m.Append(nil)
	if err != nil {
		c.conn.srv.logf(true, "control: event %s cannot be sent: %v", name, err)
		return
	}
	c.conn.sendWait(wire.Packet{Type: wire.Event, Name: name, Body: body})
}

// Server serves any number of listeners.
type Server struct {
	commands map[string]handler
	events   map[string]bool
	logf     func(warn bool, format string, args ...any)
	engine   *engine.Engine
	sub      *engine.Subscription
	recent   recent

	mu      sync.Mutex
	clients map[*conn]struct{}
	// listeners counts registrations by event name, so that broadcasts that
	// nobody wants cost nothing.
	listeners map[string]*atomic.Int32
	closed    bool
	wg        sync.WaitGroup
	ctx       context.Context
	cancel    context.CancelFunc

	// Dropped counts events that slow clients did not get.
	Dropped atomic.Uint64
	// Panics counts commands that panicked and were contained.
	Panics atomic.Uint64
}

// New makes the server of an engine. logf gets what it has to say of itself.
func New(e *engine.Engine, logf func(warn bool, format string, args ...any)) *Server {
	s := newServer(eventNames(), logf)
	s.engine = e
	s.info()
	s.control()
	s.lists()
	s.loads()
	s.statics()
	s.sub = e.Subscribe(engine.EventLog|engine.EventIKEUpDown|engine.EventIKERekey|engine.EventIKEUpdate|
		engine.EventChildUpDown|engine.EventChildRekey, 1024)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.forward(s.sub)
	}()
	return s
}

func newServer(events []string, logf func(warn bool, format string, args ...any)) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		commands:  map[string]handler{},
		events:    map[string]bool{},
		logf:      logf,
		clients:   map[*conn]struct{}{},
		listeners: map[string]*atomic.Int32{},
		ctx:       ctx,
		cancel:    cancel,
	}
	for _, e := range events {
		s.events[e] = true
		s.listeners[e] = new(atomic.Int32)
	}
	return s
}

// Serve accepts clients until the listener is closed. Errors of accept such as
// running out of file descriptors are waited out.
func (s *Server) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.logf(true, "control: accept: %v", err)
			select {
			case <-time.After(200 * time.Millisecond):
				continue
			case <-s.ctx.Done():
				return nil
			}
		}
		if !s.add(c) {
			c.Close()
		}
	}
}

func (s *Server) add(nc net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if len(s.clients) >= maxClients {
		s.logf(true, "control: %d clients are connected, no more are accepted; end those that hang", maxClients)
		return false
	}
	c := &conn{
		srv:      s,
		nc:       nc,
		requests: make(chan []byte, maxPipelined),
		out:      make(chan wire.Packet, maxQueued),
		done:     make(chan struct{}),
		gone:     make(chan struct{}),
		regs:     map[string]int{},
	}
	s.clients[c] = struct{}{}
	s.wg.Add(3)
	go c.read()
	go c.work()
	go c.write()
	return true
}

// Close ends all clients after what is queued for them was written.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.cancel()
	for c := range s.clients {
		c.drain()
	}
	s.mu.Unlock()
	if s.sub != nil {
		s.sub.Close()
	}
	s.wg.Wait()
	return nil
}

// wanted tells whether a client is registered for the event.
func (s *Server) wanted(event string) bool { return s.listeners[event].Load() > 0 }

// broadcast sends an event to every client that registered it, once for each
// registration. It never waits: a client whose queue is full loses the event.
func (s *Server) broadcast(event string, build func() wire.Message) {
	if !s.wanted(event) {
		return
	}
	body, err := build().Append(nil)
	if err != nil {
		s.logf(true, "control: event %s cannot be sent: %v", event, err)
		return
	}
	p := wire.Packet{Type: wire.Event, Name: event, Body: body}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		for range c.registrations(event) {
			select {
			case c.out <- p:
			default:
				s.Dropped.Add(1)
			}
		}
	}
}
