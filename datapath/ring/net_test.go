package ring

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"iked/datapath/ip"
	"iked/internal/testnet"
	"iked/internal/transport/batch"
)

// site is a host with a ring and raw sockets for what the stack has, and a peer on
// two links, w0 and w1.
type site struct {
	*testing.T
	net        *testnet.Net
	here, peer *testnet.Namespace
	r          *Ring
	ring       atomic.Uint64 // packets that were taken
	stack      atomic.Uint64 // packets that came to the raw sockets
	last       atomic.Uint32 // sequence number of the newest packet that was taken
}

// The networks of both links; the host is 1 and the peer 2.
var (
	link0 = []string{"192.0.2.%d/24", "2001:db8::%d/64"}
	link1 = []string{"198.51.100.%d/24", "2001:db8:1::%d/64"}
)

func openNet(t *testing.T) *testnet.Net {
	t.Helper()
	testnet.RequireRoot(t)
	n, err := testnet.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return n
}

// newSite makes the host take the packets of the peer's first addresses.
func newSite(t *testing.T) *site {
	t.Helper()
	s := newWire(t)
	err := s.here.Do(func() (err error) { s.r, err = New(Options{Mark: 1}); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.r.Close() })
	s.r.Serve(func(p []batch.Packet) {
		for i := range p {
			b := p[i].Data
			if p[i].Local.Addr().Is4() {
				b = b[ip.IPv4HeaderLen:]
			}
			s.last.Store(binary.BigEndian.Uint32(b[4:]))
		}
		s.ring.Add(uint64(len(p)))
	})
	s.r.Take(here4, peer4, spi)
	s.r.Take(here6, peer6, spi)
	return s
}

// newWire is a site without a ring.
func newWire(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, net: openNet(t)}
	for name, ns := range map[string]**testnet.Namespace{"here": &s.here, "peer": &s.peer} {
		var err error
		if *ns, err = s.net.Namespace(name); err != nil {
			t.Fatal(err)
		}
	}
	s.must(s.net.Connect(testnet.End{NS: s.here, If: "w0"}, testnet.End{NS: s.peer, If: "w0"}, 0))
	s.must(s.net.Connect(testnet.End{NS: s.here, If: "w1"}, testnet.End{NS: s.peer, If: "w1"}, 0))
	s.address("w0", link0)
	s.address("w1", link1)
	for _, network := range []string{"ip4:50", "ip6:50"} {
		var c *net.IPConn
		s.must(s.here.Do(func() (err error) { c, err = net.ListenIP(network, nil); return err }))
		t.Cleanup(func() { c.Close() })
		go func() {
			for b := make([]byte, 1<<16); ; s.stack.Add(1) {
				if _, _, err := c.ReadFrom(b); err != nil {
					return
				}
			}
		}()
	}
	return s
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *site) address(ifname string, networks []string) {
	s.Helper()
	for _, n := range networks {
		s.must(s.here.AddAddr(ifname, fmt.Sprintf(n, 1)))
		s.must(s.peer.AddAddr(ifname, fmt.Sprintf(n, 2)))
	}
}

func (s *site) run(command string) {
	s.Helper()
	if out, err := s.here.Run(context.Background(), strings.Fields(command)...); err != nil {
		s.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// to is a frame of espFrame for an interface of the host.
func (s *site) to(ifname string, frame []byte) []byte {
	s.Helper()
	link, err := s.here.Handle().LinkByName(ifname)
	s.must(err)
	copy(frame, link.Attrs().HardwareAddr)
	return frame
}

// send has the peer send frames over an interface and tells how many of the
// packets were taken and how many came through the stack, when all have arrived.
func (s *site) send(ifname string, frames ...[]byte) (ring, stack uint64) {
	s.Helper()
	ring, stack = s.ring.Load(), s.stack.Load()
	for _, f := range frames {
		s.must(s.peer.Inject(ifname, f))
	}
	for deadline := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		r, st := s.ring.Load()-ring, s.stack.Load()-stack
		if r+st >= uint64(len(frames)) || time.Now().After(deadline) {
			return r, st
		}
	}
}

// families are the packets of both SAs over an interface.
func (s *site) families(ifname string) [][]byte {
	s.Helper()
	return [][]byte{s.to(ifname, fixed(espFrame(peer4, here4, 1000))), s.to(ifname, espFrame(peer6, here6, 1000))}
}

// until sends the packets of both SAs again until they come as they should: each
// once, by the ring or by the stack.
func (s *site) until(what, ifname string, taken bool) {
	s.Helper()
	if taken {
		s.untilOf(what, ifname, 2, 0)
	} else {
		s.untilOf(what, ifname, 0, 2)
	}
}

// untilOf waits until that many of both packets are taken, and come through the
// stack.
func (s *site) untilOf(what, ifname string, wantRing, wantStack uint64) {
	s.Helper()
	var ring, stack uint64
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ring, stack = s.send(ifname, s.families(ifname)...)
		if ring == wantRing && stack == wantStack {
			return
		}
	}
	s.Fatalf("%s: of 2 packets over %s %d were taken and %d came through the stack", what, ifname, ring, stack)
}

// Packets of one SA that arrive over two interfaces are received once each,
// whether they are taken at one or at both; what the stack has beside the ring is
// what the program did not know.
func TestTwoInterfaces(t *testing.T) {
	s := newSite(t)
	mixed := func(ring, stack uint64) {
		t.Helper()
		var frames0, frames1 [][]byte
		for range 50 {
			frames0, frames1 = append(frames0, s.families("w0")...), append(frames1, s.families("w1")...)
		}
		r0, s0 := s.send("w0", frames0...)
		r1, s1 := s.send("w1", frames1...)
		if r0+r1 != ring || s0+s1 != stack {
			t.Errorf("of 200 packets %d were taken and %d came through the stack, expected %d and %d", r0+r1, s0+s1, ring, stack)
		}
	}
	s.until("the way to the peer", "w0", true)
	s.until("another interface", "w1", false)
	mixed(100, 100)
	// Another peer beyond the other interface brings the program there.
	other := netip.MustParseAddr("198.51.100.2")
	s.r.Take(netip.MustParseAddr("198.51.100.1"), other, 9)
	s.until("another interface with a peer of its own", "w1", true)
	mixed(200, 0)
	s.r.Leave(netip.MustParseAddr("198.51.100.1"), 9, 0)
	s.until("the other peer is gone", "w1", false)
	mixed(100, 100)
}

// The program follows the route to the peer.
func TestRouteMoves(t *testing.T) {
	s := newSite(t)
	s.until("before", "w0", true)
	s.run("ip route add 192.0.2.2/32 via 198.51.100.2 dev w1")
	s.run("ip -6 route add 2001:db8::2/128 via 2001:db8:1::2 dev w1")
	s.until("the route leads here", "w1", true)
	s.until("the route leads elsewhere", "w0", false)
	s.run("ip route delete 192.0.2.2/32")
	s.run("ip -6 route delete 2001:db8::2/128")
	s.until("the route is back", "w0", true)
	s.until("the route is gone", "w1", false)
}

// An interface that is deleted and made again is found again, also when it has the
// number of the one before; so is one that comes back up, with its addresses. An
// address that the host has not is none to take packets for.
func TestInterfaceComesBack(t *testing.T) {
	s := newSite(t)
	s.until("before", "w0", true)
	for _, same := range []bool{false, true} {
		link, err := s.here.Handle().LinkByName("w0")
		s.must(err)
		index := link.Attrs().Index
		func() {
			s.r.mu.Lock() // nobody looks meanwhile
			defer s.r.mu.Unlock()
			s.must(s.here.Handle().LinkDel(link))
			if !same {
				s.must(s.net.Connect(testnet.End{NS: s.here, If: "w0"}, testnet.End{NS: s.peer, If: "w0"}, 0))
			} else {
				s.must(s.here.Handle().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "w0", Index: index, MTU: 1500},
					PeerName: "w0", PeerNamespace: netlink.NsFd(s.peer.FD())}))
				s.must(s.here.SetLink("w0", true))
				s.must(s.peer.SetLink("w0", true))
			}
			s.address("w0", link0)
		}()
		now, err := s.here.Handle().LinkByName("w0")
		s.must(err)
		if (now.Attrs().Index == index) != same {
			t.Fatalf("interface %d was made again as %d", index, now.Attrs().Index)
		}
		s.until(fmt.Sprintf("made again, same number: %v", same), "w0", true)
	}
	for range 2 {
		// Going down takes the IPv6 address away.
		s.must(s.here.SetLink("w0", false))
		s.must(s.here.SetLink("w0", true))
		s.untilOf("without an IPv6 address", "w0", 1, 0)
		s.must(s.here.AddAddr("w0", fmt.Sprintf(link0[1], 1)))
		s.until("up again", "w0", true)
	}
}

// Packets with a VLAN tag belong to a VLAN's interface, or to none, and are not
// taken at the interface below; those with a priority only come through the stack.
func TestTagged(t *testing.T) {
	s := newSite(t)
	s.until("before", "w0", true)
	tagged := func(vlan uint16) (frames [][]byte) {
		for _, f := range s.families("w0") {
			tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, 5<<13|vlan)
			frames = append(frames, slices.Insert(f, 12, tag...))
		}
		return frames
	}
	if ring, stack := s.send("w0", tagged(0)...); ring != 0 || stack != 2 {
		t.Errorf("with a priority, of 2 packets %d were taken and %d came through the stack", ring, stack)
	}
	if ring, stack := s.send("w0", tagged(7)...); ring != 0 || stack != 0 {
		t.Errorf("in a VLAN, of 2 packets %d were taken and %d came through the stack", ring, stack)
	}
}

// What the datapath does not know and what is in pieces comes through the stack,
// the pieces as one packet.
func TestStrangersAndFragments(t *testing.T) {
	s := newSite(t)
	s.until("before", "w0", true)
	stranger4, stranger6 := s.families("w0")[0], s.families("w0")[1]
	stranger4[14+ip.IPv4HeaderLen]++
	stranger6[14+ip.IPv6HeaderLen]++
	if ring, stack := s.send("w0", stranger4, stranger6); ring != 0 || stack != 2 {
		t.Errorf("of 2 packets with another SPI %d were taken and %d came through the stack", ring, stack)
	}
	// Fragments of 600 octets and the rest.
	whole := s.families("w0")[0]
	first := bytes.Clone(whole[:14+ip.IPv4HeaderLen+600])
	binary.BigEndian.PutUint16(first[16:], ip.IPv4HeaderLen+600)
	binary.BigEndian.PutUint16(first[18:], 0x77) // identification
	binary.BigEndian.PutUint16(first[20:], 0x2000)
	last := append(bytes.Clone(whole[:14+ip.IPv4HeaderLen]), whole[14+ip.IPv4HeaderLen+600:]...)
	binary.BigEndian.PutUint16(last[16:], uint16(len(last)-14))
	binary.BigEndian.PutUint16(last[18:], 0x77)
	binary.BigEndian.PutUint16(last[20:], 600/8)
	if ring, stack := s.send("w0", fixed(first), fixed(last)); ring != 0 || stack != 1 {
		t.Errorf("a packet in two fragments: %d were taken and %d came through the stack", ring, stack)
	}
	s.until("after", "w0", true)
}

// What an interface has of its own, or is part of, comes before the ring.
func TestInterfaceOfOthers(t *testing.T) {
	for name, c := range map[string]struct{ begin, end string }{
		"traffic control": {"tc qdisc add dev w0 clsact", "tc qdisc delete dev w0 clsact"},
		"bridge":          {"ip link add br7 up type bridge && ip link set w0 master br7", "ip link delete br7"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.until("before", "w0", true)
			commands := func(list string) error {
				for command := range strings.SplitSeq(list, " && ") {
					if out, err := s.here.Run(context.Background(), strings.Fields(command)...); err != nil {
						return fmt.Errorf("%s: %w: %s", command, err, out)
					}
				}
				return nil
			}
			s.must(commands(c.begin))
			s.until("it is there", "w0", false)
			s.must(commands(c.end))
			s.until("after", "w0", true)
		})
	}
}

// An SA that moves is taken from its new peer, and at its new address of this host, from
// the first packet on, and for a while at the address of before: what went through the
// stack meanwhile would overtake what waits in the ring.
func TestMovesLeaveNothingToTheStack(t *testing.T) {
	s := newSite(t)
	second, other := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.3")
	s.must(s.here.AddAddr("w0", second.String()+"/24"))
	s.until("before", "w0", true)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		s.r.mu.Lock()
		known := s.r.own[second]
		s.r.mu.Unlock()
		if known {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the second address is not seen")
		}
	}
	frame := func(to netip.Addr) []byte { return s.to("w0", fixed(espFrame(peer4, to, 1000))) }
	wants := func(what string, to netip.Addr, taken bool) {
		t.Helper()
		if ring, stack := s.send("w0", frame(to)); ring+stack != 1 || (ring == 1) != taken {
			t.Errorf("%s: %d taken, %d through the stack", what, ring, stack)
		}
	}
	for i := range 20 {
		peer := []netip.Addr{other, peer4}[i%2]
		s.r.Take(here4, peer, spi)
		wants(fmt.Sprintf("from %v", peer), here4, true)
	}
	at, to := here4, second
	for range 20 {
		s.r.Take(to, peer4, spi)
		s.r.Leave(at, spi, time.Hour)
		wants("at the new address", to, true)
		wants("at the address of before", at, true)
		at, to = to, at
	}
	s.r.mu.Lock()
	n := len(s.r.taken)
	s.r.mu.Unlock()
	if n != 3 {
		t.Errorf("%d SAs are taken, expected one of IPv6, and the other one at two addresses", n)
	}
	s.r.Leave(to, spi, time.Millisecond)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if ring, stack := s.send("w0", frame(to)); ring == 0 && stack == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the address of before is taken for ever")
		}
	}
	wants("in the end", at, true)
	// One that is wanted again before its time is over stays.
	s.r.Leave(at, spi, 50*time.Millisecond)
	s.r.Take(at, peer4, spi)
	time.Sleep(100 * time.Millisecond)
	wants("after coming back", at, true)
}

// A firewall that comes while packets arrive sees each of them after half a
// second at most, and none comes twice or is lost between.
func TestFirewallComes(t *testing.T) {
	testnet.RequireCommand(t, "nft", "nftables")
	s := newSite(t)
	s.until("before", "w0", true)
	type sent struct {
		seq uint32
		at  time.Time
	}
	var log []sent
	ringBefore, stackBefore := s.ring.Load(), s.stack.Load()
	stop, stopped := make(chan bool), make(chan bool)
	frame := s.families("w0")[0]
	go func() {
		defer close(stopped)
		for seq := uint32(1); ; seq++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			binary.BigEndian.PutUint32(frame[14+ip.IPv4HeaderLen+4:], seq)
			log = append(log, sent{seq, time.Now()})
			if err := s.peer.Inject("w0", frame); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	time.Sleep(200 * time.Millisecond)
	s.run("nft add table inet f")
	s.run("nft add chain inet f i { type filter hook input priority 0 ; }")
	s.run("nft add rule inet f i ip protocol esp counter drop")
	ruled := time.Now()
	time.Sleep(time.Second)
	close(stop)
	<-stopped
	time.Sleep(100 * time.Millisecond)
	last := s.last.Load()
	if last == 0 || int(last) >= len(log) {
		t.Fatalf("of %d packets the last one that was taken is %d", len(log), last)
	}
	evaded := log[last-1].at.Sub(ruled)
	t.Logf("the last packet that was taken was sent %v after the rule", evaded)
	if evaded > 500*time.Millisecond {
		t.Errorf("a packet that was sent %v after the rule passed by", evaded)
	}
	out, err := s.here.Run(context.Background(), "nft", "list", "chain", "inet", "f", "i")
	s.must(err)
	var dropped uint64
	if _, after, ok := strings.Cut(out, "counter packets "); ok {
		_, err = fmt.Sscan(after, &dropped)
	}
	ring, stack := s.ring.Load()-ringBefore, s.stack.Load()-stackBefore
	if err != nil || dropped == 0 || ring+stack+dropped != uint64(len(log)) {
		t.Errorf("%d packets were sent, %d taken, %d came through the stack, the firewall dropped %d (%v)\n%s", len(log), ring, stack, dropped, err, out)
	}
}
