package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/backend/fake"
	"iked/internal/trace"
)

// world is a simulated network with gateways on it, under virtual time.
type world struct {
	t     *testing.T
	mu    sync.Mutex
	gates map[netip.Addr]*gateway
	names map[string][]netip.Addr
	// reverse are the names of addresses.
	reverse map[string][]string
	down    map[netip.Addr]bool // a link that is cut
	delay   time.Duration
	sent    []ikev2.Datagram
	tap     func(d ikev2.Datagram) bool // false: the datagram is lost
	// setup changes what a gateway is made of.
	setup func(g *gateway, o *Options)
}

// gateway is one iked without its process.
type gateway struct {
	w    *world
	name string
	addr netip.Addr
	e    *Engine
	back *fake.Backend
	conf string
	mu   sync.Mutex
	logs []trace.Record
	disk map[string][]byte
	mk   *makers
}

const delay = 5 * time.Millisecond

// simulate runs a test in virtual time and checks at its end that nothing of the
// engines is left running: synctest fails when a goroutine stays.
func simulate(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, gates: map[netip.Addr]*gateway{}, names: map[string][]netip.Addr{}, down: map[netip.Addr]bool{}, delay: delay}
		defer func() {
			for _, g := range w.gates {
				g.stop()
			}
		}()
		f(w)
	})
}

// gateway starts one; text is its configuration in YAML.
func (w *world) gateway(name, addr, text string) *gateway {
	w.t.Helper()
	return w.gatewayOf(name, addr, text, nil)
}

// gatewayOf starts one with state machines of the test's own.
func (w *world) gatewayOf(name, addr, text string, mk *makers) *gateway {
	w.t.Helper()
	g := &gateway{w: w, name: name, addr: netip.MustParseAddr(addr), conf: text, disk: map[string][]byte{}, mk: mk}
	w.mu.Lock()
	w.gates[g.addr] = g
	w.mu.Unlock()
	g.start()
	return g
}

func (g *gateway) start() {
	t := g.w.t
	t.Helper()
	g.back = fake.New()
	opt := Options{Backend: g.back, Transport: wire{g}, Resolver: g, Routes: g, Store: g, Log: g.log, LogLevel: trace.Raw,
		Shards: 2, Workers: 2, Load: func() (*conf.Config, error) { return g.parse() }, Version: "test"}
	if g.w.setup != nil {
		g.w.setup(g, &opt)
	}
	e, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	if g.mk != nil {
		e.make = *g.mk
	}
	cfg, err := g.parse()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	g.w.mu.Lock()
	g.e = e
	g.w.mu.Unlock()
}

func (g *gateway) parse() (*conf.Config, error) {
	cfg, faults := conf.Parse("/nowhere/iked.yaml", []byte(g.conf), time.Now())
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// crash ends a gateway without a word to its peers.
func (g *gateway) crash() {
	g.w.mu.Lock()
	e := g.e
	g.e = nil
	g.w.mu.Unlock()
	if e == nil {
		return
	}
	g.w.cut(g, true) // its last words reach nobody
	defer g.w.cut(g, false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e.Close(ctx)
	g.back.Close()
}

// stop ends a gateway in order.
func (g *gateway) stop() {
	g.w.mu.Lock()
	e := g.e
	g.w.mu.Unlock()
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	e.Close(ctx)
	g.w.mu.Lock()
	g.e = nil
	g.w.mu.Unlock()
	g.back.Close()
	time.Sleep(time.Second) // what is under way arrives nowhere
}

// wire is the transport of a gateway.
type wire struct{ g *gateway }

func (x wire) Send(local, remote netip.AddrPort, data []byte, natt bool, dscp uint8) error {
	w := x.g.w
	d := ikev2.Datagram{Local: remote, Remote: local, NATT: natt, Data: slices.Clone(data)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, d)
	if w.down[x.g.addr] || w.down[remote.Addr()] {
		return errors.New("network is unreachable")
	}
	if w.tap != nil && !w.tap(d) {
		return nil
	}
	time.AfterFunc(w.delay, func() {
		w.mu.Lock()
		var e *Engine
		if g := w.gates[remote.Addr()]; g != nil && !w.down[remote.Addr()] {
			e = g.e
		}
		w.mu.Unlock()
		switch {
		case e == nil:
		case remote.Port() == 910:
			e.ReceiveKINK(d)
		default:
			e.Receive(d)
		}
	})
	return nil
}

func (wire) Keepalive(local, remote netip.AddrPort) error { return nil }

// LookupNetIP implements Resolver.
func (g *gateway) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	if a := g.w.names[host]; a != nil {
		return a, nil
	}
	return nil, errors.New("no such host")
}

// LookupAddr implements Resolver.
func (g *gateway) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	if n := g.w.reverse[addr]; n != nil {
		return n, nil
	}
	return nil, errors.New("no such address")
}

// LocalFor implements Routes.
func (g *gateway) LocalFor(remote netip.Addr) (netip.Addr, error) { return g.addr, nil }

// Load implements Store.
func (g *gateway) Load(name string) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.disk[name], nil
}

// Save implements Store.
func (g *gateway) Save(name string, data []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.disk[name] = data
	return nil
}

func (g *gateway) log(r trace.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.logs = append(g.logs, r)
}

// logged tells whether a record with the text came.
func (g *gateway) logged(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.logs, func(r trace.Record) bool { return strings.Contains(r.Msg, text) })
}

func (g *gateway) dump() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var b strings.Builder
	for _, r := range g.logs {
		fmt.Fprintf(&b, "%s %s [%d] %s\n", g.name, r.At.Format("15:04:05.000"), r.UniqueID, r.Msg)
	}
	return b.String()
}

func (g *gateway) sas() []SAInfo {
	g.w.t.Helper()
	list, err := g.e.ListSAs(context.Background(), SAFilter{})
	if err != nil {
		g.w.t.Fatal(err)
	}
	return list
}

// up counts the IKE SAs and CHILD_SAs that are up.
func (g *gateway) up() (ikes, children int) {
	for _, s := range g.sas() {
		if s.State != ikev2.Established && s.State != ikev2.Rekeying {
			continue
		}
		ikes++
		for _, c := range s.Children {
			if c.State == ikev2.ChildInstalled || c.State == ikev2.ChildRekeying {
				children++
			}
		}
	}
	return ikes, children
}

// want fails unless a gateway has so many IKE SAs and CHILD_SAs up, and as many
// SAs in its backend as these need.
func (g *gateway) want(ikes, children int, when string) {
	g.w.t.Helper()
	synctest.Wait()
	i, c := g.up()
	if i != ikes || c != children {
		g.w.t.Fatalf("%s, %s: %d IKE SAs with %d CHILD_SAs are up, expected %d with %d\n%s", g.name, when, i, c, ikes, children, g.dump())
	}
	if n := len(g.back.SAs()); n != 2*children {
		g.w.t.Fatalf("%s, %s: the backend has %d SAs, expected %d\n%s", g.name, when, n, 2*children, g.dump())
	}
}

// after lets virtual time pass.
func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// cut takes a gateway off the network, or brings it back.
func (w *world) cut(g *gateway, off bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[g.addr] = off
}

func (w *world) name(host, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if addr == "" {
		delete(w.names, host)
		return
	}
	w.names[host] = []netip.Addr{netip.MustParseAddr(addr)}
}

const (
	moonAddr = "192.0.2.1"
	sunAddr  = "192.0.2.2"
)

// site is a site-to-site configuration.
func site(self, peer, peerAddr, localTS, remoteTS, extra, childExtra string) string {
	return fmt.Sprintf(`
connections:
  - name: office
    remote_addrs: [%s]
    proposals: [aes128gcm16-prfsha256-x25519]
    local: {id: %s, auth: psk}
    remote: {id: %s, auth: psk}
%s
    children:
      - {name: net, local_ts: [%s], remote_ts: [%s], esp_proposals: [aes128gcm16-x25519]%s}
secrets:
  - {psk: "correct horse battery staple"}
`, peerAddr, self, peer, extra, localTS, remoteTS, childExtra)
}

func moonConf(extra, child string) string {
	return site("moon", "sun", sunAddr, "10.1.0.0/16", "10.2.0.0/16", extra, child)
}

func sunConf(extra, child string) string {
	return site("sun", "moon", moonAddr, "10.2.0.0/16", "10.1.0.0/16", extra, child)
}
