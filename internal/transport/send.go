package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"iked/internal/transport/batch"
)

// ErrNoSocket: there is no socket of the address family.
var ErrNoSocket = errors.New("no socket of this address family")

// Send sends one IKE message; natt sends it from the NAT traversal port with
// the non-ESP marker, dscp are the six bits of the IP header. An invalid or unspecified local address leaves the source
// to the kernel; the port of local is ignored. The packet may be fragmented on
// its way. Transient faults (no route, link down, no buffers) are counted and
// returned: retransmission is the engine's.
func (t *Transport) Send(local, remote netip.AddrPort, data []byte, natt bool, dscp uint8) error {
	if natt {
		data = append(make([]byte, markerLen, markerLen+len(data)), data...)
	}
	return t.send(local, remote, data, natt, dscp)
}

// Keepalive sends one NAT keepalive (RFC 3948, Section 2.3).
func (t *Transport) Keepalive(local, remote netip.AddrPort) error {
	return t.send(local, remote, []byte{0xff}, true, 0)
}

func (t *Transport) send(local, remote netip.AddrPort, data []byte, natt bool, dscp uint8) error {
	if !remote.IsValid() || remote.Port() == 0 {
		return fmt.Errorf("send to %v: expected an address and a port", remote)
	}
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	f := family(remote.Addr())
	ep := t.ike[f]
	if natt && len(t.natt[f]) > 0 {
		ep = t.natt[f][0]
	}
	if ep == nil {
		return fmt.Errorf("send to %v: %w", remote, ErrNoSocket)
	}
	if local.IsValid() && family(local.Addr()) != f {
		return fmt.Errorf("send from %v to %v: addresses of different families", local.Addr(), remote)
	}
	p := [1]batch.Packet{{Data: data, Local: local, Remote: remote, TOS: dscp << 2}}
	res := ep.send(p[:])
	if res.Err != nil {
		if !errors.Is(res.Err, os.ErrClosed) {
			t.fault("send", res.Err)
		}
		return fmt.Errorf("send %d octets to %v: %w", len(data), remote, res.Err)
	}
	t.counters.ikeOut.Add(1)
	return nil
}

func (e *endpoint) send(p []batch.Packet) batch.Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.w.Send(e.conn, p)
}

// SendESP sends ESP packets from the NAT traversal port in order. Any queue may
// be named: it spreads the load over sockets. It does not allocate.
func (t *Transport) SendESP(queue int, packets []batch.Packet) batch.Result {
	var sum batch.Result
	for len(packets) > 0 {
		f := family(packets[0].Remote.Addr())
		n := 1
		for n < len(packets) && family(packets[n].Remote.Addr()) == f {
			n++
		}
		var res batch.Result
		if eps := t.natt[f]; len(eps) > 0 {
			res = eps[queue%len(eps)].send(packets[:n])
			t.counters.espOut.Add(uint64(n - res.Failed))
			if res.Err != nil && !errors.Is(res.Err, os.ErrClosed) {
				t.fault("send", res.Err)
			}
		} else {
			res = batch.Result{Failed: n, Err: ErrNoSocket}
		}
		sum.Failed += res.Failed
		sum.TooBig = sum.TooBig || res.TooBig
		if res.Err != nil {
			sum.Err = res.Err
		}
		packets = packets[n:]
	}
	return sum
}

// noFamily tells whether the host simply lacks the address family.
func noFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EPROTONOSUPPORT)
}
