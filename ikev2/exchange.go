package ikev2

import (
	"errors"
	"math"
	"time"

	"iked/ikev2/message"
	"iked/internal/trace"
)

// exchange is one of ours: it sends a request and gets the answer to it. Those
// that the peer starts are answered by the respond functions.
type exchange interface {
	// task is the name that the control protocol knows.
	task() string
	// begin prepares and sends the request, or calls finish.
	begin(now time.Time)
	// answer gets the response; message IDs were checked.
	answer(now time.Time, m *message.Message)
	// abandon: the SA is closed or the exchange is not wanted any more.
	abandon(now time.Time)
}

// queued is an exchange that waits for its turn, or for a time.
type queued struct {
	x         exchange
	notBefore time.Time
}

// window holds message IDs and retransmission; its size is one in each
// direction (RFC 7296, Sections 2.1 to 2.3).
type window struct {
	sendID    uint32    // of our next request
	out       *outgoing // our request without response
	recvID    uint32    // of the peer's next request
	answering *incoming // the peer's request that is worked on
	last      [][]byte  // our response to request recvID-1
	requests  *message.Reassembler
	responses *message.Reassembler
}

// outgoing is a request of ours.
type outgoing struct {
	id        uint32
	exchange  message.Exchange
	datagrams [][]byte
	tries     int // waits that began
	due       time.Time
	limit     int // waits before it is given up
	// spread: it goes over all paths that may lead to the peer (RFC 4555, Section
	// 3.10).
	spread bool
}

// incoming is a request of the peer.
type incoming struct {
	header message.Header
	from   Datagram // without data: where the response goes
	name   string   // task name
	flow   *flow
}

// receive checks the outside of a datagram and decrypts it.
func (sa *SA) receive(now time.Time, d Datagram) {
	h, err := message.CheckHeader(d.Data)
	if err != nil {
		sa.drop(now, h, err)
		return
	}
	if h.Exchange == message.ExchangeIKESAInit {
		sa.receiveInit(now, h, d)
		return
	}
	if sa.keys == nil {
		// CVE-2019-12312: nothing can be decrypted yet.
		sa.dropped(now, h, "no-keys", "there are no keys yet")
		return
	}
	if h.SPIi != sa.spiI || h.SPIr != sa.spiR {
		sa.dropped(now, h, "invalid-spi", "the SPIs are not those of this IKE SA")
		return
	}
	// RFC 7296, Section 3.1: the Initiator flag is the original initiator's.
	if (h.Flags&message.FlagInitiator != 0) == sa.initiator {
		sa.dropped(now, h, "direction", "the Initiator flag is that of our own messages")
		return
	}
	if h.Flags&message.FlagResponse != 0 {
		sa.receiveResponse(now, h, d)
	} else {
		sa.receiveRequest(now, h, d)
	}
}

func (sa *SA) receiveResponse(now time.Time, h message.Header, d Datagram) {
	out := sa.window.out
	if out == nil || out.id != h.MessageID || out.exchange != h.Exchange {
		sa.dropped(now, h, "unexpected-response", "no such request is outstanding")
		return
	}
	m, err := sa.open(now, d, &sa.window.responses)
	if m == nil && err == nil {
		return // a fragment
	}
	if err != nil {
		var e *message.Error
		if errors.As(err, &e) && e.Action == message.Drop {
			sa.drop(now, h, err)
			return
		}
		// RFC 7296, Section 2.21.3.
		sa.close(now, Closed{Reason: CloseFailed, Failure: sa.failure(now, trace.StageRefused,
			"the peer's response cannot be read: "+err.Error(), "this is a fault of the peer's implementation")})
		return
	}
	sa.fresh(now, d)
	sa.counted(h.Exchange, "in-resp")
	sa.window.out, sa.window.responses = nil, nil
	sa.answeredOn(now, d)
	if n := m.Notifies().Find(message.InvalidSyntax); n != nil && sa.state != Connecting && sa.state != Rekeyed && !sa.deleting() {
		// RFC 7296, Section 2.21.3: fatal in both peers, without a Delete.
		sa.close(now, Closed{Reason: CloseFailed, Failure: sa.refusedBy(now, n, message.ExchangeName(h.Exchange))})
		return
	}
	sa.active.answer(now, m)
}

func (sa *SA) receiveRequest(now time.Time, h message.Header, d Datagram) {
	w := &sa.window
	repeat := w.recvID > 0 && h.MessageID == w.recvID-1
	switch {
	case repeat && w.last != nil:
		sa.repeat(now, h, d)
		return
	case h.MessageID != w.recvID:
		// RFC 7296, Section 2.3: outside of the window.
		sa.dropped(now, h, "message-id", "the message ID is outside of the window")
		return
	case !sa.allowed(h.Exchange):
		// CVE-2014-2338: no exchange out of order.
		sa.dropped(now, h, "wrong-state", "the exchange does not fit the state")
		return
	case w.answering != nil:
		sa.dropped(now, h, "in-progress", "the request is being worked on")
		return
	}
	m, err := sa.open(now, d, &w.requests)
	if m == nil && err == nil {
		return
	}
	var e *message.Error
	if err != nil && (!errors.As(err, &e) || e.Action == message.Drop) {
		sa.drop(now, h, err)
		return
	}
	w.requests = nil
	sa.fresh(now, d)
	sa.counted(h.Exchange, "in-req")
	d.Data = nil
	w.answering = &incoming{header: h, from: d}
	if err != nil {
		sa.faulty(now, e)
		return
	}
	switch h.Exchange {
	case message.ExchangeIKEAuth:
		w.answering.name = "IKE_AUTH"
		sa.respondAuth(now, m)
	case message.ExchangeCreateChildSA:
		sa.respondCreateChild(now, m)
	case message.ExchangeInformational:
		w.answering.name = "INFORMATIONAL"
		sa.respondInformational(now, m)
	}
}

// allowed tells whether the peer may start this exchange now.
func (sa *SA) allowed(x message.Exchange) bool {
	switch sa.state {
	case Connecting:
		return !sa.initiator && x == message.ExchangeIKEAuth
	case Established, Rekeying, Rekeyed, Deleting:
		return x == message.ExchangeCreateChildSA || x == message.ExchangeInformational
	}
	return false
}

// deleting tells whether the exchange in progress ends the IKE SA anyway.
func (sa *SA) deleting() bool {
	switch sa.active.(type) {
	case *deleteIKE, *rejection:
		return true
	}
	return false
}

// syntaxSent ends the IKE SA after a response with INVALID_SYNTAX (RFC 7296,
// Section 2.21.3).
func (sa *SA) syntaxSent(now time.Time, detail string) {
	sa.close(now, Closed{Reason: CloseFailed, Tombstone: sa.tombstone(), Failure: sa.failure(now, trace.StageRefused,
		"the peer's request is malformed: "+detail, "this is a fault of the peer's implementation")})
}

// faulty answers an authentic request that cannot be read.
func (sa *SA) faulty(now time.Time, e *message.Error) {
	sa.count("invalid", string(e.Reason))
	sa.log(now, trace.Control, true, "the peer's %s request is faulty: %v", message.ExchangeName(sa.window.answering.header.Exchange), e)
	sa.reply(now, message.NewNotify(e.Notify, e.Data))
	// RFC 7296, Sections 2.21.2 and 2.21.3: in IKE_AUTH a critical payload that is
	// not understood means that no IKE SA is made.
	if e.Action == message.Fatal || sa.state == Connecting {
		sa.close(now, Closed{Reason: CloseFailed, Tombstone: sa.tombstone(), Failure: sa.failure(now, trace.StageRefused,
			"the peer's request cannot be read: "+e.Error(), "this is a fault of the peer's implementation")})
	}
}

// viewFault is faulty for the error of a view.
func (sa *SA) viewFault(now time.Time, err error) {
	var e *message.Error
	if !errors.As(err, &e) || e.Action == message.Drop {
		e = &message.Error{Action: message.Fatal, Notify: message.InvalidSyntax, Reason: message.ReasonPayloadSyntax, Detail: err.Error()}
	}
	sa.faulty(now, e)
}

// open decrypts a message, or adds a fragment to *r. Both results are nil while
// fragments are missing.
func (sa *SA) open(now time.Time, d Datagram, r **message.Reassembler) (*message.Message, error) {
	enc, err := message.FindEncrypted(d.Data)
	if err != nil {
		return nil, err
	}
	if !enc.IsFragment() {
		o, err := enc.Open(sa.keys.in, d.Data)
		if err != nil {
			return nil, err
		}
		return o.Message()
	}
	if !sa.peerFragments || sa.cfg.Fragmentation == FragNo {
		// RFC 7383, Section 2.3: only after both sides agreed.
		return nil, &message.Error{Reason: "fragment-unexpected", Detail: "fragmentation was not negotiated"}
	}
	if *r == nil {
		*r = new(message.Reassembler)
	}
	if err := (*r).Wanted(enc); err != nil {
		return nil, err
	}
	o, err := enc.Open(sa.keys.in, d.Data)
	if err != nil {
		return nil, err
	}
	first, plain, complete, err := (*r).Add(o)
	if err != nil || !complete {
		return nil, err
	}
	return message.ParseInner(enc.Header, first, plain)
}

// repeat answers a retransmitted request with the same response (RFC 7296,
// Section 2.1), if it is authentic.
func (sa *SA) repeat(now time.Time, h message.Header, d Datagram) {
	enc, err := message.FindEncrypted(d.Data)
	if err == nil && enc.Fragment > 1 {
		// RFC 7383, Section 2.6.1: only the first fragment calls for it.
		return
	}
	if err == nil {
		_, err = enc.Open(sa.keys.in, d.Data)
	}
	if err != nil {
		sa.drop(now, h, err)
		return
	}
	sa.count("ike-retransmit", "response")
	d.Data = nil
	sa.transmit(now, sa.window.last, d)
}

// fresh notes an authentic message that is not a repetition.
func (sa *SA) fresh(now time.Time, d Datagram) {
	sa.lastInbound = now
	sa.follow(now, d)
}

// request sends a request of the active exchange.
func (sa *SA) request(now time.Time, x message.Exchange, ps ...message.Payload) error {
	w := &sa.window
	ds, err := message.SealFragments(sa.header(x, w.sendID, false), ps, sa.keys.out, sa.maxMessage())
	if err != nil {
		return err
	}
	sa.sendRequest(now, x, ds)
	return nil
}

func (sa *SA) sendRequest(now time.Time, x message.Exchange, ds [][]byte) {
	w := &sa.window
	if w.sendID == math.MaxUint32 {
		// RFC 7296, Section 2.2: the IKE SA ends before its message IDs wrap.
		sa.close(now, Closed{Reason: CloseExpired, Failure: sa.failure(now, trace.StageReach, "the message IDs of the IKE SA are used up", "")})
		return
	}
	w.out = &outgoing{id: w.sendID, exchange: x, datagrams: ds, limit: sa.cfg.Retransmit.Limit()}
	_, w.out.spread = sa.active.(*tryPaths)
	w.sendID++
	sa.counted(x, "out-req")
	sa.sendAgain(now, w.out)
	sa.schedule(now, w.out)
}

// reply sends the response to the request that is being answered.
func (sa *SA) reply(now time.Time, ps ...message.Payload) {
	w := &sa.window
	a := w.answering
	w.answering = nil
	ds, err := message.SealFragments(sa.header(a.header.Exchange, a.header.MessageID, true), ps, sa.keys.out, sa.maxMessage())
	if err != nil {
		// Only a response that no fragment size can carry gets here.
		sa.close(now, Closed{Reason: CloseInternal, Failure: sa.failure(now, trace.StageReach, err.Error(), "")})
		return
	}
	w.recvID++
	w.last = ds
	sa.counted(a.header.Exchange, "out-resp")
	sa.transmit(now, ds, a.from)
}

// maxMessage is the longest message that is sent whole.
func (sa *SA) maxMessage() int {
	if !sa.peerFragments || sa.cfg.Fragmentation != FragYes {
		return math.MaxInt
	}
	// RFC 7383, Section 2.5.1.
	size := sa.cfg.FragmentSize
	if size == 0 {
		size = 576
		if sa.remote.Addr().Is6() {
			size = 1280
		}
	}
	return message.MaxMessageLen(size, sa.remote.Addr().Is6(), sa.natt)
}

func (sa *SA) transmit(now time.Time, ds [][]byte, to Datagram) {
	sa.lastOutbound = now
	for _, b := range ds {
		to.Data = b
		sa.Emit(Send{Datagram: to})
	}
}

// schedule sets when the request is sent again (RFC 7296, Section 2.4).
func (sa *SA) schedule(now time.Time, o *outgoing) {
	o.due = now.Add(sa.cfg.Retransmit.Wait(sa.env, o.tries))
	o.tries++
}

// retransmit sends the request again or gives the peer up.
func (sa *SA) retransmit(now time.Time) {
	o := sa.window.out
	if sa.mobile.stranded && !sa.deleting() && sa.closing() == nil {
		// There is no way to send it. It goes on when there is one again. What shall end
		// ends by itself.
		o.due = now.Add(sa.cfg.Retransmit.Wait(sa.env, 0))
		return
	}
	if o.tries < o.limit {
		sa.count("ike-retransmit", "request")
		sa.log(now, trace.Detail, false, "retransmit %d of %s request %d", o.tries, message.ExchangeName(o.exchange), o.id)
		sa.sendAgain(now, o)
		sa.schedule(now, o)
		return
	}
	sa.timedOut(now, o)
}

// enqueue puts an exchange behind the others.
func (sa *SA) enqueue(x exchange) { sa.queue = append(sa.queue, queued{x: x}) }

// enqueueFirst puts it before them.
func (sa *SA) enqueueFirst(x exchange) {
	sa.queue = append([]queued{{x: x}}, sa.queue...)
}

// later puts it at the end and lets it wait.
func (sa *SA) later(at time.Time, x exchange) {
	sa.queue = append(sa.queue, queued{x, at})
}

// pump begins the next exchange of ours when nothing else is going on. While a
// request of the peer is worked on, none begins: it could contradict it.
func (sa *SA) pump(now time.Time) {
	for !sa.closed && sa.active == nil && sa.window.answering == nil && sa.mayInitiate() {
		next := -1
		for i, q := range sa.queue {
			if !q.notBefore.After(now) {
				next = i
				break
			}
		}
		if next < 0 {
			return
		}
		x := sa.queue[next].x
		sa.queue = append(sa.queue[:next:next], sa.queue[next+1:]...)
		sa.active = x
		x.begin(now)
	}
}

func (sa *SA) mayInitiate() bool {
	switch sa.state {
	case Established, Rekeying, Rekeyed, Deleting:
		return true
	}
	return false
}

// finish ends the active exchange.
func (sa *SA) finish() { sa.active = nil }

// counters of the control protocol.
func (sa *SA) counted(x message.Exchange, way string) {
	name := "info-"
	switch x {
	case message.ExchangeIKESAInit:
		name = "ike-init-"
	case message.ExchangeIKEAuth:
		name = "ike-auth-"
	case message.ExchangeCreateChildSA:
		name = "create-child-"
	}
	sa.count(name+way, "")
}

// drop counts a message that had no effect.
func (sa *SA) drop(now time.Time, h message.Header, err error) {
	var e *message.Error
	if errors.As(err, &e) {
		sa.dropped(now, h, string(e.Reason), e.Detail)
		return
	}
	sa.dropped(now, h, "error", err.Error())
}

func (sa *SA) dropped(now time.Time, h message.Header, reason, detail string) {
	sa.count("invalid", reason)
	if reason == "invalid-spi" {
		sa.count("invalid-spi", "")
	}
	r := trace.Record{At: now, Level: trace.Detail, Group: trace.IKE, Exchange: message.ExchangeName(h.Exchange), MID: h.MessageID}
	r.Msg = "message ignored: " + detail
	sa.record(r)
}
