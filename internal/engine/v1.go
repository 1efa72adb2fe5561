package engine

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"

	"iked/conf"
	"iked/ikev1"
	ikev1msg "iked/ikev1/message"
	"iked/ikev2"
	"iked/internal/ident"
	"iked/internal/isakmp"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// ikev1SA lets the engine drive an ikev1.SA.
type ikev1SA struct{ *ikev1.SA }

// Identify implements facts.
func (m ikev1SA) Identify() identity { return identity{ID: m.UniqueID(), SPI: m.OwnSPI()} }

// Look implements facts.
func (m ikev1SA) Look() SAInfo { return lookOf(m.Status()) }

func (e *Engine) newInitiatorV1(cfg *keyex.Config, local, remote netip.AddrPort) machine {
	return ikev1SA{ikev1.NewInitiator(env{e, 1}, cfg, local, remote)}
}

func (e *Engine) newResponderV1(local, remote netip.AddrPort, natt bool) machine {
	return ikev1SA{ikev1.NewResponder(env{e, 1}, local, remote, natt)}
}

// receiveV1 is receive for IKEv1, which is spoken only where a connection says so
// (RFC 9395).
func (g *gate) receiveV1(d keyex.Datagram, h isakmp.Header) string {
	e := g.e
	spoken := e.config.Load().v1
	switch {
	case !spoken && h.SPIr.IsZero():
		g.otherVersion(d, 1)
		return "version-1"
	case h.SPIi.IsZero():
		e.total[cInvalid].Add(1)
		return "zero-spi"
	case h.SPIr.IsZero():
		return g.firstV1(d, h)
	}
	// No flag says whose cookie is whose: the responder's comes second.
	for _, c := range [...]isakmp.SPI{h.SPIr, h.SPIi} {
		if x := e.spis.get(keyex.SPI(c.Uint64())); x != nil && x.v1 {
			return g.pass(x, d) // also when the last such connection is gone: its end must come through
		}
	}
	if !spoken {
		return "version-1"
	}
	e.total[cInvalidSPI].Add(1)
	return "unknown-ike-spi"
}

// firstV1 decides on a first message of phase 1. IKEv1 has no cookie exchange
// before state (RFC 2408, Section 2.5.3, tells apart who answers, later), so that
// strangers get at most half of the half-open SAs, in all and of one address, and
// leave room for IKEv2.
func (g *gate) firstV1(d keyex.Datagram, h isakmp.Header) string {
	e := g.e
	x := ikev1msg.Exchange(h.Exchange)
	other := x == ikev1msg.ExchangeBase || x == ikev1msg.ExchangeAuthOnly
	if h.MessageID != 0 || x != ikev1msg.ExchangeMain && x != ikev1msg.ExchangeAggressive && !other {
		e.total[cInvalid].Add(1)
		return "exchange-type"
	}
	if e.down.Load() {
		return "closing"
	}
	key := halfOpenKey{d.Remote, keyex.SPI(h.SPIi.Uint64())}
	if x := g.half.find(key); x != nil {
		if !x.v1 {
			return "version-1"
		}
		return g.pass(x, d) // sent again
	}
	p := e.config.Load()
	lim := &p.global.Limits
	switch total, mine := g.half.counts(source(d.Remote.Addr())); {
	case g.rate.allow(source(d.Remote.Addr()), lim.RatePerSource, time.Now()) != rateOK:
		return "rate-per-source"
	case lim.IKESAs > 0 && e.ikeCount.Load() >= int64(lim.IKESAs):
		return "ike-sa-limit"
	case e.work.overloaded():
		return "overloaded"
	case lim.HalfOpen > 0 && total >= lim.HalfOpen/2:
		return "half-open-limit"
	case lim.HalfOpenPerSource > 0 && mine >= max(lim.HalfOpenPerSource/2, 1):
		return "half-open-per-source" // the rest is for who shows that the address is its own
	}
	if len(p.candidates(d.Local.Addr().Unmap(), d.Remote.Addr().Unmap(), 1)) == 0 {
		// Nothing is answered: who speaks IKEv1 to a host that does not is a scanner.
		g.otherVersion(d, 1)
		return "no-connection"
	}
	if other {
		e.total[cInvalid].Add(1)
		g.refuseExchange(d, h, x)
		return "unsupported-exchange"
	}
	return g.accept(d, key)
}

// otherVersion notes, at a bounded rate, that a peer whose address a connection names
// speaks another version than that. False: no such connection is there.
func (g *gate) otherVersion(d keyex.Datagram, version uint8) bool {
	e, peer := g.e, d.Remote.Addr().Unmap()
	for _, c := range e.config.Load().exact[peer] {
		if is := versionOrTwo(c.ike.Version); is != version && is != keyex.VersionKINK {
			if g.told.take(time.Now()) {
				e.fail(trace.Failure{At: time.Now(), Stage: trace.StageConfig, Conn: c.conf.Name, Local: d.Local.String(), Remote: d.Remote.String(),
					Sentence: fmt.Sprintf("the peer at %s speaks IKEv%d, and %s is a connection of version %d", peer, version, c.conf.Name, is),
					Advice:   fmt.Sprintf("set version: %d here, or version %d at the peer", version, is)}, 0)
			}
			return true
		}
	}
	return false
}

// refuseExchange answers the first message of an exchange that is not spoken (RFC
// 2408, Section 5.2: UNSUPPORTED-EXCHANGE-TYPE). It makes no state, the answer is
// never longer than what asked for it, and both it and the sentence come at a
// bounded rate.
func (g *gate) refuseExchange(d keyex.Datagram, h isakmp.Header, x ikev1msg.Exchange) {
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return
	}
	b, err := ikev1msg.Append(nil, isakmp.Header{SPIi: h.SPIi, Exchange: uint8(ikev1msg.ExchangeInformational), MessageID: binary.BigEndian.Uint32(id[:])},
		[]ikev1msg.Payload{&ikev1msg.Notify{DOI: ikev1msg.DOIIPsec, Protocol: ikev1msg.ProtoISAKMP, Kind: ikev1msg.UnsupportedExchangeType}})
	if err != nil || len(b) > len(d.Data) {
		return
	}
	g.reply(d, b)
	if !g.told.take(time.Now()) {
		return
	}
	g.e.fail(trace.Failure{At: time.Now(), Stage: trace.StageConfig, Local: d.Local.String(), Remote: d.Remote.String(),
		Sentence: fmt.Sprintf("the peer at %s begins with %s, which is not spoken here", d.Remote.Addr().Unmap(), x),
		Advice:   "configure Main Mode on the peer, or Aggressive Mode and aggressive: yes here"}, 0)
}

// versionOf is the major version in the header of a datagram that has one.
func versionOf(b []byte) uint8 { return b[17] >> 4 }

// peerDeletes: a peer deletes a CHILD_SA under another IKE SA than that which made
// it, as IKEv1 peers do after a new phase 1. The peer is authenticated, and it must
// be the one that the CHILD_SA is with. Each such search looks at many SAs, so that
// there are only so many; what is not found ends with its lifetime.
func (s *shard) peerDeletes(x *ikeSA, ev keyex.PeerDeletes) {
	if !s.e.gate.deletes.take(time.Now()) {
		s.e.drops.add("delete-rate")
		return
	}
	own := x.m.Look()
	conn, peer := x.conn, own.RemoteID
	for _, other := range s.e.shards {
		other.do(func(s *shard) {
			for _, y := range s.sas {
				if !y.v1 || y.closed || y.conn != conn || len(y.children) == 0 {
					continue
				}
				if o := y.m.Look(); !ident.Equal(o.RemoteID, peer) || o.User != own.User {
					continue
				}
				for _, c := range y.children {
					if c.out && (c.outID.SPI == ev.SPI && c.outID.Proto == ev.Proto || c.around.outID.SPI == ev.SPI && c.around.outID.Proto == ev.Proto) {
						in := c.child.SPIIn
						s.drive(y, func(now time.Time) { y.m.Start(now, keyex.DeleteChild{SPI: in}) })
						return
					}
				}
			}
		})
	}
}

// shardOf is the shard of the IKEv1 SAs with a peer: they take over each other's
// CHILD_SAs, so that they share one.
func (e *Engine) shardOf(peer netip.Addr) *shard {
	if s := e.wanderers.find(peer.Unmap()); s != nil {
		return s
	}
	return e.hashedShard(peer)
}

func (e *Engine) hashedShard(peer netip.Addr) *shard {
	return e.shards[maphash.Comparable(e.peers, peer.Unmap())%uint64(len(e.shards))]
}

// adoptV1 lets an SA that a peer has just made take over from the one that it had
// before: this is how IKEv1 rekeys (RFC 2409, Section 5). False: there is none.
func (s *shard) adoptV1(x *ikeSA, now time.Time) bool {
	own := x.m.Look()
	if own.Initiator {
		return false
	}
	var old *ikeSA
	for _, y := range s.sas {
		if y == x || !y.v1 || !y.up || y.heir || y.closed || y.replaced || y.conn != x.conn || old != nil && y.id < old.id {
			continue
		}
		if o := y.m.Look(); o.State == keyex.Established && (sameHost(x.cfg, o.Remote, own.Remote) || movedFrom(y, x)) && ident.Equal(o.RemoteID, own.RemoteID) && ident.Equal(o.LocalID, own.LocalID) && o.User == own.User {
			old = y
		}
	}
	if old == nil {
		return false
	}
	x.m.(ikev1SA).Adopt(now, old.m.(ikev1SA).SA)
	s.inherit(old, x)
	s.wandered(x)
	s.do(func(s *shard) { s.drive(old, func(time.Time) {}) })
	return true
}

// sameHost tells whether two IKE SAs with one identity may be with one peer: by the
// address, and where many peers may share an identity, by the port as well, since
// they may also share the address of a NAT.
func sameHost(cfg *keyex.Config, a, b netip.AddrPort) bool {
	return a == b || !shared(cfg) && a.Addr() == b.Addr()
}

// movedFrom tells whether a mobility manager told of another place of an IKE SA's peer
// while the peer was making a new one from where it had been.
func movedFrom(old, x *ikeSA) bool {
	return !shared(x.cfg) && old.m.(ikev1SA).LeftMeanwhile(x.m.(ikev1SA).SA)
}

// shared tells whether many peers may have one identity.
func shared(cfg *keyex.Config) bool {
	c, ok := cfg.Ref.(*conf.Connection)
	return ok && c.Unique == conf.UniqueNever
}

// checkUser checks a user of XAuth against the secrets of that type.
func (s *credStore) checkUser(w keyex.CheckUser) error {
	want, ok := s.now.Load().secrets.User(w.User)
	// Digests are compared, so that it takes as long for a user that is not there and
	// for a password of another length.
	a, b := sha256.Sum256(want.Reveal()), sha256.Sum256(w.Password.Reveal())
	if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || !ok {
		return errors.New("there is no such user, or the password is wrong")
	}
	return nil
}

// userSecret finds the own password for XAuth.
func (s *credStore) userSecret(w keyex.UserSecret) keyex.SecretReply {
	x, ok := s.now.Load().secrets.User(w.User)
	if !ok {
		return keyex.SecretReply{Err: fmt.Errorf("there is no secret of type xauth for %q", w.User)}
	}
	return keyex.SecretReply{Secret: x}
}

// findOther answers whether there is another IKE SA with the peer.
func (s *shard) findOther(x *ikeSA, id keyex.RequestID, w keyex.FindOther) {
	conn, own, remote := w.Config.Name, x.id, x.m.Look().Remote
	s.e.sup.post(func() {
		found := false
		for _, o := range s.e.sup.sas {
			found = found || o.info.UniqueID != own && o.info.Conn == conn && (!shared(w.Config) || o.info.Remote == remote) && o.info.Version == 1 && !o.closing && !o.replaced &&
				o.info.State == ikev2.Established && ident.Equal(o.info.RemoteID, w.Peer) && o.info.User == w.User
		}
		s.do(func(s *shard) {
			if !x.closed {
				s.drive(x, func(now time.Time) { x.m.Resume(now, id, keyex.FoundReply{Found: found}) })
			}
		})
	})
}
