package ikev2

import (
	"fmt"
	"iked/internal/keyex"
	"net/netip"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/spd"
)

// childBook is what the state machine keeps of a CHILD_SA for itself.
type childBook struct {
	keyex.Halves
	announced  bool // ChildUp or ChildReplaced told of it
	silent     bool // redundant or refused: its end is not told
	deleteSent bool
	outdated   bool // another one is made in its place
	// successor took or will take its place; rival is the lowest nonce of the
	// exchange when the peer made it.
	successor *Child
	rival     []byte
	own       *createChild // our rekeying of it in progress
	peerGone  bool         // the peer deleted it meanwhile

	inactiveAt, fadeAt time.Time
}

// book is the notes on a CHILD_SA.
func book(c *Child) *childBook {
	b, ok := c.Book.(*childBook)
	if !ok {
		b = &childBook{}
		c.Book = b
	}
	return b
}

// fadeTime is how long a replaced CHILD_SA still receives what was on its way.
const fadeTime = 5 * time.Second

// maxChildren bounds the CHILD_SAs of one IKE SA.
const maxChildren = 1024

func (sa *SA) childByInbound(spi uint32) *Child {
	for _, c := range sa.children {
		if c.SPIIn == spi {
			return c
		}
	}
	return nil
}

// childByOutbound finds a CHILD_SA by the peer's inbound SPI.
func (sa *SA) childByOutbound(proto suite.Protocol, spi uint32) *Child {
	for _, c := range sa.children {
		if c.Proto == proto && c.SPIOut == spi {
			return c
		}
	}
	return nil
}

// addresses that stand for dynamic selectors: the virtual ones, or the host's.
func dynamic(vips []netip.Prefix, host netip.Addr) []netip.Addr {
	if len(vips) == 0 {
		return []netip.Addr{host}
	}
	var as []netip.Addr
	for _, p := range vips {
		as = append(as, p.Addr())
	}
	return as
}

// resolve puts addresses for dynamic selectors.
func resolve(list []Selector, addrs []netip.Addr) []spd.TS {
	ts := make([]spd.TS, 0, len(list))
	for _, s := range list {
		t := s.TS
		if s.Dynamic {
			t.From, t.To = netip.Addr{}, netip.Addr{}
			if t.PortFrom == 0 && t.PortTo == 0 {
				t.PortTo = 65535
			}
		}
		ts = append(ts, t)
	}
	return spd.Resolve(ts, addrs...)
}

func (sa *SA) localTS(c *ChildConfig) []spd.TS {
	list := resolve(c.Local, dynamic(sa.vipLocal, sa.local.Addr()))
	if sa.cfg.OwnEnds(c.Mode) {
		return list
	}
	return hostTraffic(c, list, sa.local.Addr())
}

// A peer's own address is the one that it began with: it cannot claim another by
// sending from there, because nothing shows that it receives there.
func (sa *SA) remoteTS(c *ChildConfig) []spd.TS {
	var list []spd.TS
	if sa.cfg.ChecksHomes() {
		peer := sa.remoteID
		if peer.IsAny() {
			// Not authenticated yet: what it answers is held against who it is then.
			peer = sa.cfg.Remote.ID
		}
		list = sa.cfg.PeerTraffic(c.Remote, peer, sa.vipRemote)
	} else {
		list = resolve(c.Remote, dynamic(sa.vipRemote, sa.host))
	}
	if sa.cfg.OwnEnds(c.Mode) {
		return list
	}
	return hostTraffic(c, list, sa.host)
}

func toWire(ts []spd.TS, responder bool) *message.TrafficSelectors {
	p := &message.TrafficSelectors{Responder: responder}
	for _, t := range ts {
		w := message.TS{Type: message.TSIPv6, Proto: t.Proto, StartPort: t.PortFrom, EndPort: t.PortTo, Start: t.From, End: t.To}
		if t.Is4() {
			w.Type = message.TSIPv4
		}
		p.TS = append(p.TS, w)
	}
	return p
}

func fromWire(p *message.TrafficSelectors) []spd.TS {
	ts := make([]spd.TS, 0, len(p.TS))
	for _, w := range p.TS {
		t := spd.TS{From: w.Start, To: w.End, Proto: w.Proto, PortFrom: w.StartPort, PortTo: w.EndPort}
		// An IPv4-mapped range of type IPv6 is no range of this product.
		if t.Check() == nil {
			ts = append(ts, t)
		}
	}
	return ts
}

// withoutKE leaves out key exchange methods: IKE_AUTH does none (RFC 7296,
// Section 1.2).
func withoutKE(ps []suite.Proposal) []suite.Proposal {
	out := make([]suite.Proposal, 0, len(ps))
	for _, p := range ps {
		q := suite.Proposal{Protocol: p.Protocol}
		for _, t := range p.Transforms {
			if t.Type != suite.KE {
				q.Transforms = append(q.Transforms, t)
			}
		}
		out = append(out, q)
	}
	return out
}

// newChild makes the record of a negotiated pair, with its keys.
func (sa *SA) newChild(c *Child, chosen suite.Proposal, gir secret.Bytes, ni, nr []byte) error {
	c.Proto = chosen.Protocol
	c.Encr, _ = chosen.First(suite.ENCR)
	c.Integ, _ = chosen.First(suite.INTEG)
	c.KE, _ = chosen.First(suite.KE)
	c.ESN = chosen.ESN()
	c.LocalAddr, c.RemoteAddr = sa.childEnds()
	c.Encap = sa.nat.any()
	if sa.cfg.OwnEnds(c.Mode) {
		// RFC 4877, Section 3: the home address, and not the care-of address that IKE is at.
		l, r, ok := childSelectors{c.Local, c.Remote}.ends()
		if !ok {
			return fmt.Errorf("the selectors %s === %s have more than one address on a side", spd.ListText(c.Local), spd.ListText(c.Remote))
		}
		c.OwnEnds, c.Encap = true, false
		c.LocalAddr, c.RemoteAddr = netip.AddrPortFrom(l, 0), netip.AddrPortFrom(r, 0)
	}
	if err := sa.childKeys(c, gir, ni, nr); err != nil {
		return err
	}
	if c.Config.SHA256_96 && c.Integ.ID == suite.IntegHMACSHA256 {
		c.Integ.ID = suite.IntegHMACSHA256_96
	}
	c.State = ChildInstalling
	sa.children = append(sa.children, c)
	return nil
}

// installChild asks the backend for directions of a child.
func (sa *SA) installChild(x *flow, c *Child, in, out bool, then func(time.Time, error)) {
	book(c).Install(&x.Flow, c, in, out, then)
}

// removeChild takes directions out of the backend, as far as they are there.
func (sa *SA) removeChild(c *Child, in, out bool) { book(c).Remove(&sa.Queue, c, in, out) }

// unlist takes a child off the list.
func (sa *SA) unlist(c *Child) {
	if i := slices.Index(sa.children, c); i >= 0 {
		sa.children = slices.Delete(sa.children, i, i+1)
	}
}

// childUp tells of a new CHILD_SA.
func (sa *SA) childUp(now time.Time, c *Child) {
	sa.childInstalled(now, c)
	book(c).announced = true
	sa.logChild(now, c.Config, false, "CHILD_SA %s{%d} established with SPIs %08x_i %08x_o and TS %s === %s",
		c.Config.Name, c.UniqueID, c.SPIIn, c.SPIOut, spd.ListText(c.Local), spd.ListText(c.Remote))
	sa.Event(ChildUp{Child: c})
}

// childInstalled starts its life.
func (sa *SA) childInstalled(now time.Time, c *Child) {
	c.Begin(sa.env, now, c.Config.Time.Rekey, c.Config.Time.Hard)
	if c.Config.Inactivity > 0 {
		book(c).inactiveAt = now.Add(c.Config.Inactivity)
	}
}

// childReplaced tells that a rekeying is done.
func (sa *SA) childReplaced(now time.Time, old, new *Child) {
	if book(new).announced {
		return
	}
	if !book(old).announced {
		// It is rekeyed already, before the end of what it replaced was seen.
		for _, c := range sa.children {
			if book(c).successor == old {
				sa.childReplaced(now, c, old)
				break
			}
		}
	}
	book(new).announced = true
	sa.count("child-rekey", "")
	sa.logChild(now, new.Config, false, "CHILD_SA %s{%d} rekeyed: now {%d} with SPIs %08x_i %08x_o and TS %s === %s",
		new.Config.Name, old.UniqueID, new.UniqueID, new.SPIIn, new.SPIOut, spd.ListText(new.Local), spd.ListText(new.Remote))
	sa.Event(ChildReplaced{Old: old, New: new})
}

// sendOn installs the outbound half of a child that waited for the end of the
// one it replaces (RFC 7296, Section 2.8).
func (sa *SA) sendOn(now time.Time, c *Child) {
	if book(c).OutUp || c.State == ChildDeleted {
		return
	}
	x := newFlow(sa)
	sa.installChild(x, c, false, true, func(now time.Time, err error) {
		if err == nil {
			return
		}
		sa.failed(now, c.Config, sa.failure(now, trace.StageInstall, fmt.Sprintf("the outbound SA of %s cannot be installed: %v", c.Config.Name, err), "see the kernel's or the datapath's message"))
		sa.queueDeleteChild(now, c, true)
	})
}

// dropChild ends a CHILD_SA that both sides know to be over.
func (sa *SA) dropChild(now time.Time, c *Child, peer bool) {
	sa.unlist(c)
	c.State = ChildDeleted
	switch s := book(c).successor; {
	case s != nil && s.State != ChildDeleted:
		sa.sendOn(now, s)
		sa.childReplaced(now, c, s)
		sa.fade(now, c)
	case s != nil && book(s).announced:
		// What replaced it is gone already, too.
		sa.fade(now, c)
	case book(c).own != nil:
		// Our rekeying of it is on its way and decides what it was.
		book(c).peerGone = true
		sa.removeChild(c, true, true)
	default:
		sa.removeChild(c, true, true)
		sa.childDown(c, peer)
	}
}

func (sa *SA) childDown(c *Child, peer bool) {
	if book(c).silent || !book(c).announced {
		return
	}
	sa.Event(ChildDown{Child: c, Peer: peer})
}

// fade keeps the inbound half for what is still on the way.
func (sa *SA) fade(now time.Time, c *Child) {
	sa.removeChild(c, false, true)
	if !book(c).InUp {
		sa.removeChild(c, true, false)
		return
	}
	book(c).fadeAt = now.Add(fadeTime)
	sa.fading = append(sa.fading, c)
}
