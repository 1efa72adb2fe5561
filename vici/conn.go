package vici

import (
	"errors"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"iked/vici/wire"
)

// conn is one client: a reader, a worker that answers one request after the
// other, and a writer, joined by bounded queues. A slow client holds up itself
// only.
type conn struct {
	srv      *Server
	nc       net.Conn
	requests chan []byte
	out      chan wire.Packet
	done     chan struct{} // the worker has answered everything
	gone     chan struct{} // the socket is closed
	goneOnce sync.Once

	mu   sync.Mutex
	regs map[string]int // registrations by event name
}

// drain ends reading; what is queued is still answered and written.
func (c *conn) drain() { c.nc.SetReadDeadline(time.Unix(1, 0)) }

// hangUp closes the socket and forgets the client.
func (c *conn) hangUp() {
	c.goneOnce.Do(func() {
		close(c.gone)
		c.nc.Close()
		c.mu.Lock()
		for e, n := range c.regs {
			c.srv.listeners[e].Add(int32(-n))
		}
		clear(c.regs)
		c.mu.Unlock()
		c.srv.mu.Lock()
		delete(c.srv.clients, c)
		c.srv.mu.Unlock()
	})
}

func (c *conn) registrations(event string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.regs[event]
}

func (c *conn) read() {
	defer c.srv.wg.Done()
	defer close(c.requests)
	for {
		b, err := wire.ReadPacket(c.nc)
		if err != nil {
			if errors.Is(err, wire.ErrTooLong) {
				c.srv.logf(true, "control: client closed: %v", err)
			}
			// A client that closed its writing half still gets its answers.
			if !errors.Is(err, io.EOF) && c.srv.ctx.Err() == nil {
				c.hangUp()
			}
			return
		}
		select {
		case c.requests <- b:
		case <-c.gone:
			return
		}
	}
}

func (c *conn) work() {
	defer c.srv.wg.Done()
	defer close(c.done)
	for b := range c.requests {
		p, err := wire.ParsePacket(b)
		if err != nil {
			c.srv.logf(false, "control: packet ignored: %v", err)
			continue
		}
		switch p.Type {
		case wire.CmdRequest:
			c.sendWait(c.answer(p))
		case wire.EventRegister:
			c.sendWait(wire.Packet{Type: c.register(p.Name)})
		case wire.EventUnregister:
			c.sendWait(wire.Packet{Type: c.unregister(p.Name)})
		default:
			c.srv.logf(false, "control: packet of type %d ignored: only a server sends it", p.Type)
		}
	}
}

// answer runs the command. A panic in it is contained: the client is told, the
// daemon goes on.
func (c *conn) answer(p wire.Packet) (reply wire.Packet) {
	h, ok := c.srv.commands[p.Name]
	if !ok {
		return wire.Packet{Type: wire.CmdUnknown}
	}
	defer func() {
		if r := recover(); r != nil {
			c.srv.Panics.Add(1)
			c.srv.logf(true, "control: command %s failed inside: %v\n%s", p.Name, r, debug.Stack())
			reply = respond(failure("internal error in command " + p.Name + ", see the log of the daemon"))
		}
	}()
	m, err := wire.Parse(p.Body)
	return respond(h(&call{req: m, bad: err, conn: c}))
}

func respond(m wire.Message) wire.Packet {
	body, err := m.Append(nil)
	if err == nil && 1+len(body) > wire.MaxPacket {
		err = wire.ErrTooLong
	}
	if err != nil {
		body, _ = failure("the reply cannot be sent: " + err.Error()).Append(nil)
	}
	return wire.Packet{Type: wire.CmdResponse, Body: body}
}

func (c *conn) register(event string) wire.PacketType {
	if !c.srv.events[event] {
		return wire.EventUnknown
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.gone:
		return wire.EventUnknown
	default:
	}
	total := 0
	for _, n := range c.regs {
		total += n
	}
	if total >= registerCap {
		return wire.EventUnknown
	}
	c.regs[event]++
	c.srv.listeners[event].Add(1)
	return wire.EventConfirm
}

func (c *conn) unregister(event string) wire.PacketType {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.regs[event] == 0 {
		return wire.EventUnknown
	}
	c.regs[event]--
	c.srv.listeners[event].Add(-1)
	return wire.EventConfirm
}

// sendWait queues a packet and waits for room; it returns when the client is
// gone.
func (c *conn) sendWait(p wire.Packet) {
	select {
	case c.out <- p:
	case <-c.gone:
	}
}

// write puts packets on the socket, several in one call when they wait. It ends
// when the worker is done and nothing is left, or the socket fails.
func (c *conn) write() {
	defer c.srv.wg.Done()
	defer c.hangUp()
	var buf []byte
	for {
		var p wire.Packet
		select {
		case p = <-c.out:
		case <-c.gone:
			return
		case <-c.done:
			select {
			case p = <-c.out:
			default:
				return
			}
		}
		buf = c.batch(buf[:0], p)
		if buf == nil {
			return
		}
		c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := c.nc.Write(buf); err != nil {
			return
		}
	}
}

// batch encodes p and what else waits, up to some 64 KiB; nil when a packet cannot
// be written, which only a bug can cause.
func (c *conn) batch(buf []byte, p wire.Packet) []byte {
	for {
		var err error
		if buf, err = p.Append(buf); err != nil {
			c.srv.logf(true, "control: client closed: %v", err)
			return nil
		}
		if len(buf) >= 64<<10 {
			return buf
		}
		select {
		case p = <-c.out:
		default:
			return buf
		}
	}
}

// success and failure are the two verdicts that every client understands; a
// failure always says why.
func success() wire.Message {
	var m wire.Message
	m.Set("success", "yes")
	return m
}

func failure(why string) wire.Message {
	var m wire.Message
	m.Set("success", "no")
	m.Set("errmsg", printable(why))
	return m
}

// verdict is success for nil and failure otherwise.
func verdict(err error) wire.Message {
	if err != nil {
		return failure(err.Error())
	}
	return success()
}

// printable replaces what clients would count as binary.
func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < 0x20 || c > 0x7e {
			b[i] = '?'
		}
	}
	return string(b)
}
