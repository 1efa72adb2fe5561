package ikev1

import (
	"crypto/sha256"
	"errors"
	"math"
	"time"

	"iked/ikev1/message"
	"iked/internal/isakmp"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// Limits of one ISAKMP SA.
const (
	maxParallel  = 8   // Quick Modes of ours at once
	maxExchanges = 256 // exchanges of the peer's that go on, or whose answers may be repeated
	maxChildren  = 1024
	keepAnswer   = 60 * time.Second // how long a finished exchange answers repetitions
)

// exchange is the messages of one message ID, or those of phase 1 (RFC 2408,
// Section 4). The state of the content is its owner's; what is here is the same
// for all: the chain of IVs, repetition and retransmission.
type exchange struct {
	kind  message.Exchange
	id    uint32
	ours  bool
	name  string // task name of the control protocol
	iv    []byte // of the next message in either direction
	seen  [sha256.Size]byte
	last  [][]byte // our last datagrams
	quick *quick   // whose exchange it is, if it is a Quick Mode of ours
	// next takes the peer's next message; nil: none is expected.
	next func(now time.Time, m *incoming)
	// due is when our last message is sent again, zero never: only who expects an
	// answer repeats, and nobody does before the peer's address is proven
	// (CVE-2016-5361).
	due   time.Time
	tries int
	// late tells the owner that the peer does not answer.
	late func(now time.Time)
	// stop tells the owner that the exchange is over before its end.
	stop func(now time.Time)
	end  time.Time // a finished one is kept until then
}

// incoming is a message of the peer that could be read. Whoever has checked it
// accepts it: only then the chain of IVs goes on.
type incoming struct {
	*message.Message
	from   keyex.Datagram
	accept func()
}

// receive checks the outside of a datagram and finds its exchange.
func (sa *SA) receive(now time.Time, d keyex.Datagram) {
	h, err := message.ParseHeader(d.Data)
	if err != nil {
		sa.faulty(now, err)
		return
	}
	if !sa.ownCookies(h) {
		sa.dropped(now, "invalid-cookie", "the cookies are not those of this SA")
		return
	}
	if message.PayloadType(h.NextPayload) == message.TypeFragment && h.Flags&message.FlagEncryption == 0 {
		whole := sa.reassemble(now, d.Data)
		if whole == nil {
			return
		}
		d.Data = whole
		if h, err = message.ParseHeader(d.Data); err != nil || !sa.ownCookies(h) || message.PayloadType(h.NextPayload) == message.TypeFragment {
			sa.dropped(now, "fragment", "the fragments make no message of this SA")
			return
		}
	}
	x := sa.find(h)
	if x == nil {
		if sa.early(h, d) {
			return
		}
		if x = sa.begun(now, h); x == nil {
			return
		}
	}
	sum := fingerprint(d.Data)
	switch {
	case x.seen == sum:
		sa.repeat(now, x, d)
	case x.next == nil:
		sa.dropped(now, "unexpected-message", "no message of this exchange is expected now")
	default:
		sa.read(now, x, h, d, sum)
	}
}

// ownCookies compares the cookies (RFC 2408, Section 2.5.3). The responder's is
// zero in the first message alone, and new to the initiator in the second.
func (sa *SA) ownCookies(h isakmp.Header) bool {
	if sa.initiator {
		return h.SPIi == sa.ckyI && (h.SPIr == sa.ckyR || sa.ckyR.IsZero() && !h.SPIr.IsZero())
	}
	if sa.ckyI.IsZero() {
		return h.SPIr.IsZero()
	}
	return h.SPIi == sa.ckyI && (h.SPIr == sa.ckyR || h.SPIr.IsZero() && h.MessageID == 0)
}

// find is the exchange that a message belongs to.
func (sa *SA) find(h isakmp.Header) *exchange {
	switch message.Exchange(h.Exchange) {
	case message.ExchangeMain, message.ExchangeAggressive:
		if h.MessageID == 0 && sa.first != nil && sa.first.kind == message.Exchange(h.Exchange) {
			return sa.first
		}
		return nil
	}
	if x := sa.exchanges[h.MessageID]; x != nil && x.kind == message.Exchange(h.Exchange) {
		return x
	}
	return nil
}

// begun makes the exchange that a message of the peer begins; nil: it may not.
func (sa *SA) begun(now time.Time, h isakmp.Header) *exchange {
	kind := message.Exchange(h.Exchange)
	switch kind {
	case message.ExchangeMain, message.ExchangeAggressive:
		if sa.initiator || sa.first != nil || h.MessageID != 0 {
			sa.dropped(now, "wrong-state", "phase 1 has begun in another way")
			return nil
		}
		sa.ckyI = h.SPIi
		return sa.answerPhase1(now, kind)
	case message.ExchangeQuick, message.ExchangeInformational, message.ExchangeTransaction, message.ExchangeNewGroup:
	case message.ExchangeBase, message.ExchangeAuthOnly:
		sa.dropped(now, "exchange-type", kind.String()+" is not spoken here")
		return nil
	default:
		sa.dropped(now, "exchange-type", "the exchange type is not known")
		return nil
	}
	if kind == message.ExchangeInformational && h.Flags&message.FlagEncryption == 0 {
		// Nothing authenticates it: a hint, see informational.go.
		return &exchange{kind: kind, id: h.MessageID, next: sa.hint}
	}
	if p := sa.p1; p != nil && kind == message.ExchangeInformational && sa.keys != nil && p.x.iv != nil && h.MessageID != 0 {
		// Phase 1 is not over, and the peer says so with the keys that there are: no more
		// than a hint, since it has not proven who it is.
		return &exchange{kind: kind, id: h.MessageID, iv: sa.keys.ivAfter(p.x.iv, h.MessageID), next: sa.hint}
	}
	switch {
	case sa.keys == nil || sa.keys.last == nil, kind == message.ExchangeQuick && (sa.state == keyex.Created || sa.state == keyex.Connecting):
		sa.dropped(now, "wrong-state", kind.String()+" comes before the end of phase 1")
		return nil
	case h.MessageID == 0 || sa.used.has(h.MessageID):
		// RFC 2409, Section 5.5: the message ID is unique in the ISAKMP SA.
		sa.dropped(now, "message-id", "the message ID was used before")
		return nil
	case sa.peerExchanges() >= maxExchanges:
		sa.dropped(now, "too-many-exchanges", "too many exchanges are going on")
		return nil
	}
	x := &exchange{kind: kind, id: h.MessageID, iv: sa.keys.firstIV(h.MessageID)}
	switch kind {
	case message.ExchangeQuick:
		x.next = (&quickResponder{sa: sa, x: x, flow: keyex.Flow{Queue: &sa.Queue}}).request
		x.name = "QUICK_MODE"
	case message.ExchangeInformational:
		x.next, x.name = sa.informational(x), "INFORMATIONAL"
	case message.ExchangeTransaction:
		x.next, x.name = sa.transaction(x), "TRANSACTION"
	case message.ExchangeNewGroup:
		x.next = sa.newGroup(x)
	}
	return x
}

// peerExchanges counts those that the peer began.
func (sa *SA) peerExchanges() (n int) {
	for _, x := range sa.exchanges {
		if !x.ours {
			n++
		}
	}
	return n
}

// keep puts an exchange of the peer into the table, once its first message is
// authentic.
func (sa *SA) keep(x *exchange) {
	if sa.exchanges == nil {
		sa.exchanges = map[uint32]*exchange{}
	}
	sa.exchanges[x.id] = x
	sa.used.add(x.id)
}

// read decrypts and parses a message, and hands it to the exchange.
func (sa *SA) read(now time.Time, x *exchange, h isakmp.Header, d keyex.Datagram, sum [sha256.Size]byte) {
	in := &incoming{from: d}
	var iv []byte
	var err error
	if h.Flags&message.FlagEncryption == 0 {
		if x.iv != nil && !(x == sa.first && x.kind == message.ExchangeAggressive) {
			sa.dropped(now, "not-encrypted", "the message is in clear, expected an encrypted one")
			return
		}
		in.Message, err = message.Parse(d.Data)
	} else {
		if x.iv == nil || sa.keys == nil {
			sa.dropped(now, "no-keys", "the message is encrypted, and there are no keys yet")
			return
		}
		var clear []byte
		if clear, iv, err = sa.keys.open(x.iv, d.Data[isakmp.HeaderLen:]); err == nil {
			in.Message, err = message.ParseDecrypted(h, clear)
		}
	}
	if err != nil {
		sa.faulty(now, err)
		if (x == sa.first || x.kind == message.ExchangeInformational) && sa.p1 != nil && iv != nil {
			sa.p1.unreadable(now)
		}
		return
	}
	in.accept = func() {
		if iv != nil {
			x.iv = iv
		}
		x.seen, x.due, x.next = sum, time.Time{}, nil
		sa.lastInbound = now
	}
	x.next(now, in)
}

// repeat answers a repetition of the peer's last message with our last one.
func (sa *SA) repeat(now time.Time, x *exchange, d keyex.Datagram) {
	if len(x.last) == 0 {
		sa.count("ike-drop", "repeated")
		return
	}
	sa.count("ike-retransmit", "response")
	sa.transmit(now, x.last)
}

// reassemble takes a fragment; nil while the message is not whole.
func (sa *SA) reassemble(now time.Time, b []byte) []byte {
	// The peer may know that we take them before we know what it takes.
	if sa.cfg == nil || sa.cfg.Fragmentation == keyex.FragNo || !sa.initiator && !sa.vendors.fragments {
		sa.dropped(now, "fragment", "a fragment comes, and fragmentation was not agreed on")
		return nil
	}
	m, err := message.Parse(b)
	if err != nil || len(m.Payloads) != 1 {
		sa.dropped(now, "fragment", "a fragment is a message of one payload")
		return nil
	}
	if sa.reassembler == nil {
		sa.reassembler = &message.Reassembler{}
	}
	whole, err := sa.reassembler.Add(m.Payloads[0].(*message.Fragment))
	if err != nil {
		sa.faulty(now, err)
	}
	if whole != nil {
		sa.reassembler = nil
	}
	return whole
}

// send sends the next message of an exchange. With again, it is repeated until
// the peer answers.
func (sa *SA) send(now time.Time, x *exchange, encrypted, again bool, list ...message.Payload) error {
	h := isakmp.Header{SPIi: sa.ckyI, SPIr: sa.ckyR, Exchange: uint8(x.kind), MessageID: x.id}
	var b []byte
	var err error
	if encrypted {
		if b, x.iv, err = sa.keys.seal(x.iv, h, list); err != nil {
			return err
		}
	} else if b, err = message.Append(nil, h, list); err != nil {
		return err
	}
	x.last = [][]byte{b}
	if size := sa.maxMessage(); len(b) > size {
		sa.fragmentID++
		if parts, ok := message.Split(b, sa.fragmentID, size); ok {
			x.last = parts
		}
	}
	x.tries, x.due = 0, time.Time{}
	sa.transmit(now, x.last)
	if again {
		x.due = now.Add(sa.cfg.Retransmit.Wait(sa.env, 0))
	}
	return nil
}

// maxMessage is the longest message that is sent whole.
func (sa *SA) maxMessage() int {
	if !sa.vendors.fragments || sa.cfg.Fragmentation != keyex.FragYes {
		return math.MaxInt
	}
	size, headers := sa.cfg.FragmentSize, 28
	if sa.remote.Addr().Is6() {
		headers = 48
	}
	if size == 0 {
		size = 576
		if sa.remote.Addr().Is6() {
			size = 1280
		}
	}
	if sa.natt {
		headers += 4
	}
	return size - headers
}

func (sa *SA) transmit(now time.Time, list [][]byte) {
	sa.lastOutbound = now
	for _, b := range list {
		sa.Emit(keyex.Send{Datagram: keyex.Datagram{Local: sa.local, Remote: sa.remote, NATT: sa.natt, Data: b}})
	}
}

// retransmit sends our last message of an exchange again, or gives the peer up.
func (sa *SA) retransmit(now time.Time, x *exchange) {
	x.tries++
	if x.tries >= sa.cfg.Retransmit.Limit() {
		x.due = time.Time{}
		x.late(now)
		return
	}
	sa.count("ike-retransmit", "request")
	sa.log(now, trace.Detail, false, "retransmit %d of %s %08x", x.tries, x.kind, x.id)
	if x != sa.first && sa.first != nil && sa.first.kind == message.ExchangeAggressive && sa.initiator && sa.lastInbound.Before(sa.established.Add(1)) {
		// The third message of Aggressive Mode has no answer: it may be what got lost.
		sa.transmit(now, sa.first.last)
	}
	sa.transmit(now, x.last)
	x.due = now.Add(sa.cfg.Retransmit.Wait(sa.env, x.tries))
}

// finish ends an exchange; repetitions are still answered for a while.
func (sa *SA) finish(now time.Time, x *exchange) {
	x.next, x.due, x.late, x.stop = nil, time.Time{}, nil, nil
	x.end = now.Add(keepAnswer)
}

// drop ends an exchange before its end.
func (sa *SA) drop(now time.Time, x *exchange) {
	if x.stop != nil {
		x.stop(now)
	}
	x.next, x.due = nil, time.Time{}
	delete(sa.exchanges, x.id)
}

// newExchange begins an exchange of ours behind phase 1.
func (sa *SA) newExchange(kind message.Exchange, name string) *exchange {
	var b [4]byte
	id := uint32(0)
	for id == 0 || sa.used.has(id) {
		sa.env.Random(b[:])
		id = uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	}
	x := &exchange{kind: kind, id: id, ours: true, name: name, iv: sa.keys.firstIV(id)}
	sa.keep(x)
	return x
}

// faulty counts a message that cannot be read.
func (sa *SA) faulty(now time.Time, err error) {
	reason := "payload-syntax"
	var e *message.Error
	if errors.As(err, &e) {
		reason = string(e.Reason)
	}
	sa.dropped(now, reason, err.Error())
}

func (sa *SA) dropped(now time.Time, reason, why string) {
	sa.count("ike-drop", reason)
	sa.log(now, trace.Detail, false, "a message is dropped: %s", why)
}

func (sa *SA) count(counter, reason string) {
	sa.Event(keyex.Count{Counter: counter, Reason: reason})
}

// usedIDs remembers the message IDs of an ISAKMP SA, the latest ones.
type usedIDs struct {
	set  map[uint32]bool
	ring []uint32
}

const maxUsedIDs = 4096

func (u *usedIDs) has(id uint32) bool { return u.set[id] }

func (u *usedIDs) add(id uint32) {
	if u.set[id] {
		return
	}
	if u.set == nil {
		u.set = map[uint32]bool{}
	}
	if len(u.ring) == maxUsedIDs {
		delete(u.set, u.ring[0])
		u.ring = u.ring[1:]
	}
	u.set[id] = true
	u.ring = append(u.ring, id)
}
