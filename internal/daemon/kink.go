package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"iked/internal/keyex"
	"iked/internal/transport"
)

// kinkPort is the UDP port of KINK, which is opened when a connection needs it. It
// fulfils engine.KINKPort.
type kinkPort struct {
	d       *process
	mu      sync.Mutex
	trans   *transport.Transport // nil: not open
	running bool                 // the daemon reads from sockets
}

var errNotOpen = errors.New("the port of KINK is not open")

// Open implements engine.KINKPort.
func (k *kinkPort) Open(port uint16) error {
	t, err := transport.New(transport.Options{Port: port, Single: true, Mark: k.d.mark(), Log: k.d.log.record, OnDatagram: k.receive})
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; %s", err, whoHas(port))
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trans = t
	if k.running {
		t.Start()
	}
	return nil
}

// start begins to read, also from what is opened later.
func (k *kinkPort) start() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running = true
	if k.trans != nil {
		k.trans.Start()
	}
}

func (k *kinkPort) close() {
	if k == nil {
		return
	}
	k.mu.Lock()
	t := k.trans
	k.trans = nil
	k.mu.Unlock()
	if t != nil {
		t.Close()
	}
}

func (k *kinkPort) receive(m transport.Datagram) {
	if e := k.d.atomic.Load(); e != nil {
		e.ReceiveKINK(keyex.Datagram{Local: m.Local, Remote: m.Remote, Data: m.Data})
	}
}

// Send implements engine.Transport.
func (k *kinkPort) Send(local, remote netip.AddrPort, data []byte, natt bool, dscp uint8) error {
	k.mu.Lock()
	t := k.trans
	k.mu.Unlock()
	if t == nil {
		return errNotOpen
	}
	return t.Send(local, remote, data, natt, dscp)
}

// Keepalive implements engine.Transport: KINK knows no NAT.
func (k *kinkPort) Keepalive(_, _ netip.AddrPort) error { return nil }
