package ikev1

import (
	"crypto/hmac"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// Informational exchanges (RFC 2409, Section 5.7; RFC 2408, Section 4.8) are one
// message without an answer:
//
//	HDR*, HASH(1), N/D      HASH(1) = prf(SKEYID_a, M-ID | N/D)

// sendHashed sends a message that starts with the HASH of its other payloads:
// prf(SKEYID_a, M-ID [ | Ni_b ] | payloads).
func (sa *SA) sendHashed(now time.Time, x *exchange, again bool, ni []byte, list ...message.Payload) error {
	rest, err := message.AppendPayloads(nil, list)
	if err != nil {
		return err
	}
	h := &message.Opaque{Kind: message.TypeHash, Data: sa.keys.hashOf(idOctets(x.id), ni, rest)}
	return sa.send(now, x, true, again, append([]message.Payload{h}, list...)...)
}

// inform sends an Informational exchange, encrypted if there are keys for it, and
// gives its datagrams.
func (sa *SA) inform(now time.Time, list ...message.Payload) [][]byte {
	var err error
	var x *exchange
	if sa.keys != nil && sa.keys.last != nil {
		x = sa.newExchange(message.ExchangeInformational, "INFORMATIONAL")
		err = sa.sendHashed(now, x, false, nil, list...)
		delete(sa.exchanges, x.id)
	} else {
		x = &exchange{kind: message.ExchangeInformational}
		var b [4]byte
		sa.env.Random(b[:])
		x.id = binary.BigEndian.Uint32(b[:])
		err = sa.send(now, x, false, false, list...)
	}
	if err != nil {
		sa.log(now, trace.Control, true, "an Informational exchange cannot be sent: %v", err)
	}
	return x.last
}

// tellError tells why phase 1 ends, or what is not spoken (RFC 2408, Section 4.8).
func (sa *SA) tellError(now time.Time, n message.NotifyType) {
	sa.inform(now, &message.Notify{DOI: message.DOIIPsec, Protocol: message.ProtoISAKMP, SPI: sa.cookies(), Kind: n})
}

// tellSPI tells why a pair of SAs is not made, and gives the datagrams that say so.
func (sa *SA) tellSPI(now time.Time, n message.NotifyType, proto suite.Protocol, spi uint32) [][]byte {
	return sa.inform(now, &message.Notify{DOI: message.DOIIPsec, Protocol: message.Protocol(proto), SPI: binary.BigEndian.AppendUint32(nil, spi), Kind: n})
}

// tellDelete tells that a pair is gone; the SPI is that of our inbound SA (RFC
// 2408, Section 3.15).
func (sa *SA) tellDelete(now time.Time, list ...*keyex.Child) {
	if sa.keys == nil {
		return
	}
	for _, d := range offer.Deletes(list) {
		sa.inform(now, d)
	}
}

// deleteChild closes a pair.
func (sa *SA) deleteChild(now time.Time, c *keyex.Child, expired bool) {
	sa.tellDelete(now, c)
	sa.dropChild(now, c, false)
}

// delete closes the ISAKMP SA and all that was made under it. Nothing is answered,
// so nothing is waited for.
func (sa *SA) delete(now time.Time, why keyex.CloseReason) {
	if sa.heir != nil {
		sa.heir.delete(now, why)
		sa.lookAt(sa.heir)
	}
	if sa.keys != nil && sa.keys.last != nil {
		sa.tellDelete(now, sa.children...)
	}
	sa.tellEnd(now)
	sa.close(now, keyex.Closed{Reason: why})
}

// tellEnd deletes the ISAKMP SA at the peer, if that can be said so that the peer
// believes it.
func (sa *SA) tellEnd(now time.Time) {
	if sa.keys != nil && sa.keys.last != nil {
		sa.inform(now, &message.Delete{Protocol: message.ProtoISAKMP, SPIs: [][]byte{sa.cookies()}})
	}
}

// informational takes the peer's.
func (sa *SA) informational(x *exchange) func(now time.Time, in *incoming) {
	return func(now time.Time, in *incoming) {
		hash, rest, ok := in.AfterHash()
		if !ok || !hmac.Equal(hash, sa.keys.hashOf(idOctets(x.id), rest)) {
			sa.dropped(now, "hash", "the HASH of an Informational exchange is wrong or missing")
			return
		}
		in.accept()
		sa.used.add(x.id)
		sa.follow(now, in.from)
		for _, p := range in.Payloads {
			switch p := p.(type) {
			case *message.Notify:
				sa.takeNotify(now, p)
			case *message.Delete:
				sa.takeDelete(now, p)
			}
			if sa.closed {
				return
			}
		}
	}
}

// newGroup refuses New Group Mode (RFC 2409, Section 5.6): groups are configured,
// and one that a peer makes up may be a weak one. Only an authentic message is
// answered.
//
//	HDR*, HASH(1), SA      HASH(1) = prf(SKEYID_a, M-ID | SA)
func (sa *SA) newGroup(x *exchange) func(now time.Time, in *incoming) {
	return func(now time.Time, in *incoming) {
		hash, rest, ok := in.AfterHash()
		if !ok || !hmac.Equal(hash, sa.keys.hashOf(idOctets(x.id), rest)) {
			sa.dropped(now, "hash", "HASH(1) of New Group Mode is wrong or missing")
			return
		}
		in.accept()
		sa.used.add(x.id)
		sa.follow(now, in.from)
		sa.count("ike-drop", "unsupported-exchange")
		sa.log(now, trace.Control, true, "the peer wants New Group Mode, which is not spoken here; configure a group of RFC 3526 or RFC 5903 on it")
		sa.tellError(now, message.UnsupportedExchangeType)
	}
}

// takeNotify acts on an authentic notify.
func (sa *SA) takeNotify(now time.Time, n *message.Notify) {
	switch {
	case n.Kind == message.RUThere, n.Kind == message.RUThereAck:
		sa.takeDPD(now, n)
	case n.Kind == message.ResponderLifetime:
		sa.takeLife(now, n)
	case n.Kind == message.InitialContact && sa.state == keyex.Connecting:
		sa.contact = true // counts when the peer is wholly authenticated
	case n.Kind == message.InitialContact:
		sa.firstContact(now)
	case n.Kind.IsError():
		sa.takeError(now, n)
	default:
		sa.log(now, trace.Detail, false, "the peer notifies %s", n.Kind.Name())
	}
}

// firstContact: the peer has no other SA with us (RFC 2407, Section 4.6.3.3). What
// was taken over from an older ISAKMP SA of its is dead as well. What is still being
// negotiated is of this one: the Quick Mode that says it may be overtaken.
func (sa *SA) firstContact(now time.Time) {
	if sa.contact {
		return // said before: a first contact comes first, and not from who recorded it
	}
	sa.contact = true
	for _, c := range slices.Clone(sa.children) {
		if !c.Installed.IsZero() && c.Installed.Before(sa.established) {
			sa.dropChild(now, c, true)
		}
	}
	sa.Event(keyex.Up{InitialContact: true})
}

// takeError ends the Quick Mode of ours that the peer refuses. The notify names
// its SPI, or none: then it is the one that waits.
func (sa *SA) takeError(now time.Time, n *message.Notify) {
	spi, named := spiOf(n)
	var found *exchange
	for _, x := range sa.exchanges {
		if !x.ours || x.next == nil || x.quick == nil {
			continue
		}
		if named && (x.quick.spis.Main == spi || x.quick.spis.AH == spi) {
			found = x
			break
		}
		if found == nil || x.id < found.id {
			found = x
		}
	}
	if found == nil {
		sa.log(now, trace.Control, true, "the peer notifies %s", n.Kind.Name())
		if !named && n.Protocol == message.ProtoISAKMP {
			sa.lastError = n.Kind
		}
		return
	}
	q := found.quick
	f := sa.refusedBy(now, n.Kind, "Quick Mode for "+q.cfg.Name, false)
	f.Evidence = append(f.Evidence, fmt.Sprintf("ours: %v === %v, mode %s", q.local, q.remote, offer.ModeName(q.cfg.Mode)))
	for _, p := range slices.Concat(q.cfg.Proposals, q.cfg.AH) {
		f.Evidence = append(f.Evidence, "ours: "+p.String())
	}
	q.fail(now, f)
}

// takeDelete drops what the peer deleted: its SPIs are those of our outbound SAs
// (RFC 2408, Section 3.15).
func (sa *SA) takeDelete(now time.Time, d *message.Delete) {
	if d.Protocol == message.ProtoISAKMP {
		if slices.ContainsFunc(d.SPIs, func(s []byte) bool { return string(s) == string(sa.cookies()) }) {
			sa.peerDeleted(now)
		}
		return
	}
	for _, s := range d.SPIs {
		if len(s) != 4 {
			continue
		}
		spi := binary.BigEndian.Uint32(s)
		if c := sa.childByOutbound(suite.Protocol(d.Protocol), spi); c != nil {
			sa.dropChild(now, c, true)
			sa.parts.expect(c, suite.Protocol(d.Protocol))
			continue
		}
		if sa.parts.take(keyex.ProtocolSPIs{Proto: suite.Protocol(d.Protocol), SPIOut: spi}) {
			continue
		}
		// It may have been made under an older ISAKMP SA with the same peer.
		sa.Event(keyex.PeerDeletes{Proto: suite.Protocol(d.Protocol), SPI: spi})
	}
}

// peerDeleted: the peer ends the ISAKMP SA. What was made under it ends with it,
// unless another ISAKMP SA has taken its place.
func (sa *SA) peerDeleted(now time.Time) {
	if sa.state == keyex.Rekeyed {
		sa.close(now, keyex.Closed{Reason: keyex.CloseRekeyed})
		return
	}
	if len(sa.children) == 0 {
		c := keyex.Closed{Reason: keyex.ClosePeerDeleted}
		if sa.lastError != 0 {
			c.Failure = sa.refusedBy(now, sa.lastError, "the IKE_SA", true)
		}
		sa.close(now, c)
		return
	}
	sa.Ask(keyex.FindOther{Config: sa.cfg, Peer: sa.remoteID, User: sa.user}, func(now time.Time, r keyex.Reply) {
		if found, ok := r.(keyex.FoundReply); !ok || !found.Found {
			sa.close(now, keyex.Closed{Reason: keyex.ClosePeerDeleted})
			return
		}
		// RFC 2408, Section 2.4: the SAs that were made under it live on.
		sa.log(now, trace.Control, false, "IKE_SA %s is deleted by the peer, its CHILD_SAs stay with a newer one", sa.cfg.Name)
		sa.keys.destroy()
		sa.keys = nil
		sa.state = keyex.Rekeyed
	})
}

// hint takes a message in clear, or one that comes before the end of phase 1: nobody
// who is authenticated says it, so it changes nothing but how long we wait and what
// we say when nothing better comes (RFC 2408, Section 5.15).
func (sa *SA) hint(now time.Time, in *incoming) {
	if in.Header.Flags&message.FlagEncryption != 0 {
		hash, rest, ok := in.AfterHash()
		if !ok || !hmac.Equal(hash, sa.keys.hashOf(idOctets(in.Header.MessageID), rest)) {
			sa.dropped(now, "hash", "the HASH of an Informational exchange is wrong or missing")
			sa.p1.unreadable(now)
			return
		}
	}
	n, ok := one[*message.Notify](in.Message, message.TypeNotify)
	if !ok || sa.p1 == nil || sa.state != keyex.Connecting || !n.Kind.IsError() || n.Kind == 0 {
		sa.dropped(now, "not-encrypted", "an Informational message that nobody authenticates says nothing here")
		return
	}
	if sa.p1.hinted != 0 {
		return
	}
	sa.p1.hinted = n.Kind
	if sa.initiator {
		sa.timers.refused = now.Add(refusalWait)
	}
	sa.log(now, trace.Control, true, "somebody says for the peer %v: %s; that is not authenticated", sa.remote, n.Kind.Name())
}

// refusalWait is how long a better answer than a refusal in clear may come.
const refusalWait = 3 * time.Second

// dpdState is dead peer detection (RFC 3706).
type dpdState struct {
	seq   uint32 // of our last R-U-THERE; 0: none was sent
	peer  uint32 // of the peer's last one
	seen  bool   // peer is set
	tries int
	due   time.Time // when ours is sent again; zero: nothing is awaited
}

// areYouThere begins a check of the peer.
func (sa *SA) areYouThere(now time.Time) {
	if sa.state != keyex.Established || !sa.vendors.dpd || !sa.dpd.due.IsZero() {
		return
	}
	if sa.dpd.seq == 0 {
		// RFC 3706, Section 6.2: a random start, its first bit zero.
		var b [4]byte
		sa.env.Random(b[:])
		sa.dpd.seq = binary.BigEndian.Uint32(b[:]) >> 1
	}
	sa.dpd.seq++
	sa.dpd.tries = 0
	sa.sendDPD(now)
}

func (sa *SA) sendDPD(now time.Time) {
	sa.inform(now, &message.Notify{DOI: message.DOIIPsec, Protocol: message.ProtoISAKMP, SPI: sa.cookies(), Kind: message.RUThere,
		Data: binary.BigEndian.AppendUint32(nil, sa.dpd.seq)})
	sa.dpd.due = now.Add(sa.cfg.Retransmit.Wait(sa.env, sa.dpd.tries))
}

// dpdLate sends R-U-THERE again, or gives the peer up.
func (sa *SA) dpdLate(now time.Time) {
	if sa.dpd.tries++; sa.dpd.tries < sa.cfg.Retransmit.Limit() {
		sa.count("ike-retransmit", "request")
		sa.sendDPD(now)
		return
	}
	f := sa.failure(now, trace.StageReach, "the peer "+sa.remote.String()+" does not answer dead peer detection", "check that the peer runs, and the way to it")
	sa.log(now, trace.Control, true, "%s", f.Sentence)
	sa.close(now, keyex.Closed{Reason: keyex.CloseTimeout, Failure: f})
}

// takeDPD answers R-U-THERE, and takes the answer to ours.
func (sa *SA) takeDPD(now time.Time, n *message.Notify) {
	if len(n.Data) != 4 || len(n.SPI) != 0 && string(n.SPI) != string(sa.cookies()) {
		sa.dropped(now, "payload-syntax", fmt.Sprintf("%s has a number of 4 octets and the cookies of this SA", n.Kind.Name()))
		return
	}
	seq := binary.BigEndian.Uint32(n.Data)
	if n.Kind == message.RUThereAck {
		if !sa.dpd.due.IsZero() && seq == sa.dpd.seq {
			sa.dpd.due = time.Time{}
			sa.lastInbound = now
		}
		return
	}
	// RFC 3706, Section 6.2: the number rises; a repetition is answered again.
	if sa.dpd.seen && int32(seq-sa.dpd.peer) < 0 {
		sa.dropped(now, "dpd-sequence", "the number of R-U-THERE went back")
		return
	}
	sa.dpd.peer, sa.dpd.seen = seq, true
	sa.inform(now, &message.Notify{DOI: message.DOIIPsec, Protocol: message.ProtoISAKMP, SPI: sa.cookies(), Kind: message.RUThereAck, Data: n.Data})
}
