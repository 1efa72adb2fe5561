package radius

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const testSecret = "a secret of many octets"

// server answers requests on a port of its own; answer gets each one with its
// number, from 0, and gives packets back.
func server(t *testing.T, answer func(n int, b []byte) [][]byte) (Server, *atomic.Int32) {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	var count atomic.Int32
	go func() {
		b := make([]byte, maxPacket)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			for _, out := range answer(int(count.Add(1)-1), b[:n]) {
				conn.WriteToUDPAddrPort(out, from)
			}
		}
	}()
	return Server{Name: "test", Addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), Secret: key(testSecret), NASIdentifier: "iked",
		Timeout: 100 * time.Millisecond, Tries: 2, Base: 1.2}, &count
}

func accept(b []byte) []byte {
	return reply(codeAccept, b[1], [16]byte(b[4:]), key(testSecret), false)
}

func ask(t *testing.T, c *Client, servers ...Server) (Answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return c.Ask(ctx, servers, Request{User: "bob", Password: key("sesame")})
}

// A request that gets lost is sent again, the same to the octet (RFC 2865, Section
// 2.5); packets that are not authentic do not end the wait.
func TestRetransmission(t *testing.T) {
	var first []byte
	s, count := server(t, func(n int, b []byte) [][]byte {
		if n == 0 {
			first = append([]byte(nil), b...)
			return nil
		}
		if string(first) != string(b) {
			t.Errorf("the repetition differs: %x, %x", first, b)
		}
		forged := accept(b)
		forged[5] ^= 1
		bare := reply(codeAccept, b[1], [16]byte(b[4:]), key(testSecret), true)
		return [][]byte{forged, bare, {1, 2, 3}, reply(codeReject, b[1], [16]byte(b[4:]), key(testSecret), false)}
	})
	var ignored atomic.Int32
	c := &Client{Ignored: func(string, error) { ignored.Add(1) }}
	a, err := ask(t, c, s)
	if err != nil || a.Verdict != Rejected || count.Load() != 2 || ignored.Load() != 3 {
		t.Errorf("%+v, %v after %d requests, %d packets ignored", a, err, count.Load(), ignored.Load())
	}
}

// The next server is asked when one does not answer or is not there, and that one
// is asked last for a while. When none answers, nobody is refused or accepted: it is
// an error that names them.
func TestFailover(t *testing.T) {
	silent, silentCount := server(t, func(int, []byte) [][]byte { return nil })
	silent.Name = "silent"
	gone, _ := server(t, func(int, []byte) [][]byte { return nil })
	closed, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	gone.Name, gone.Addr = "gone", closed.LocalAddr().(*net.UDPAddr).AddrPort()
	closed.Close()
	good, goodCount := server(t, func(_ int, b []byte) [][]byte { return [][]byte{accept(b)} })
	var c Client
	for i := range 2 {
		if a, err := ask(t, &c, silent, gone, good); err != nil || a.Verdict != Accepted {
			t.Fatalf("%+v, %v", a, err)
		}
		if silentCount.Load() != 3 || int(goodCount.Load()) != i+1 {
			t.Errorf("the silent one was asked %d times, the good one %d", silentCount.Load(), goodCount.Load())
		}
	}
	_, err = ask(t, &c, silent, gone)
	if err == nil || !strings.Contains(err.Error(), "silent") || !strings.Contains(err.Error(), "gone") {
		t.Errorf("error %v", err)
	}
	if _, err := ask(t, &c); err == nil {
		t.Error("no server, and no error")
	}
}

// A wrong secret is no answer, in neither direction.
func TestWrongSecret(t *testing.T) {
	s, _ := server(t, func(_ int, b []byte) [][]byte { return [][]byte{accept(b)} })
	s.Secret = key("another secret")
	var last error
	c := &Client{Ignored: func(_ string, err error) { last = err }}
	if a, err := ask(t, c, s); err == nil || !errors.Is(last, errForged) {
		t.Errorf("%+v, %v, %v", a, err, last)
	}
}

// Servers that do not answer leave time for the next one, however long their waits are,
// and are asked last from then on.
func TestShareOfPatience(t *testing.T) {
	silent, silentCount := server(t, func(int, []byte) [][]byte { return nil })
	silent.Timeout = time.Hour
	other := silent
	good, _ := server(t, func(_ int, b []byte) [][]byte { return [][]byte{accept(b)} })
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var c Client
	if a, err := c.Ask(ctx, []Server{silent, other, good}, Request{User: "bob", Password: key("sesame")}); err != nil || a.Verdict != Accepted {
		t.Fatalf("%+v, %v", a, err)
	}
	if a, err := c.Ask(t.Context(), []Server{silent, good}, Request{User: "bob", Password: key("sesame")}); err != nil || a.Verdict != Accepted || silentCount.Load() != 2 {
		t.Errorf("%+v, %v; the silent one was asked %d times", a, err, silentCount.Load())
	}
}

// The caller's patience ends the wait at once, and costs the server nothing.
func TestPatience(t *testing.T) {
	s, _ := server(t, func(int, []byte) [][]byte { return nil })
	s.Timeout = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var c Client
	begin := time.Now()
	_, err := c.Ask(ctx, []Server{s, s}, Request{User: "bob", Password: key("sesame")})
	if err == nil || time.Since(begin) > 10*time.Second || len(c.dead) != 0 {
		t.Errorf("%v after %v, %d servers count as dead", err, time.Since(begin), len(c.dead))
	}
	if _, err := c.Ask(t.Context(), []Server{s}, Request{User: "bob", Password: key(strings.Repeat("p", 200))}); err == nil {
		t.Error("a password that the protocol cannot say was sent")
	}
}
