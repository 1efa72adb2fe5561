package ikev1

import (
	"crypto/hmac"
	"slices"
	"time"

	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// Transaction exchanges (draft-dukes-ike-mode-cfg) carry XAuth and Mode Config:
//
//	HDR*, HASH(1), ATTR(REQUEST or SET)  -->
//	                                     <--  HDR*, HASH(1), ATTR(REPLY or ACK)
//
// HASH(1) = prf(SKEYID_a, M-ID | ATTR)

// Attributes of Mode Config.
const (
	cfgIP4Address uint16 = 1
	cfgIP4Netmask uint16 = 2
	cfgIP4DNS     uint16 = 3
	cfgIP6Address uint16 = 8
	cfgIP6DNS     uint16 = 10
)

// Attributes of XAuth.
const (
	xauthType      uint16 = 16520
	xauthUser      uint16 = 16521
	xauthPassword  uint16 = 16522
	xauthPasscode  uint16 = 16523
	xauthMessage   uint16 = 16524
	xauthChallenge uint16 = 16525
	xauthStatus    uint16 = 16527
	xauthNextPIN   uint16 = 16528
	xauthAnswer    uint16 = 16529
)

// attributes takes the payload of an authentic Transaction message.
func (sa *SA) attributes(now time.Time, x *exchange, in *incoming) (*message.Attributes, bool) {
	hash, rest, ok := in.AfterHash()
	if !ok || !hmac.Equal(hash, sa.keys.hashOf(idOctets(x.id), rest)) {
		sa.dropped(now, "hash", "the HASH of a Transaction exchange is wrong or missing")
		return nil, false
	}
	a, ok := one[*message.Attributes](in.Message, message.TypeAttributes)
	if !ok {
		sa.dropped(now, "missing-payload", "ATTR is expected once")
		return nil, false
	}
	in.accept()
	sa.follow(now, in.from)
	return a, true
}

func find(list []message.Attribute, t uint16) (message.Attribute, bool) {
	for _, a := range list {
		if a.Type == t {
			return a, true
		}
	}
	return message.Attribute{}, false
}

// behindPhase1 begins what comes between phase 1 and Quick Mode.
func (sa *SA) behindPhase1(now time.Time) {
	switch {
	case sa.cfg.V1.XAuth == keyex.XAuthServer:
		sa.askUser(now)
	case sa.cfg.V1.XAuth == keyex.XAuthClient:
		// The server asks.
	default:
		sa.configure(now)
	}
}

// transact sends a request or a set of ours; then gets the answer.
func (sa *SA) transact(now time.Time, name string, kind message.CfgType, list []message.Attribute, then func(now time.Time, a *message.Attributes)) {
	x := sa.newExchange(message.ExchangeTransaction, name)
	sa.cfgID++
	id := sa.cfgID
	x.late = func(now time.Time) {
		if f := sa.refusal; f != nil {
			sa.close(now, keyex.Closed{Reason: keyex.CloseFailed, Failure: f})
			return
		}
		f := sa.failure(now, trace.StageReach, "the peer does not answer "+name, "see the peer's log")
		sa.log(now, trace.Control, true, "%s", f.Sentence)
		sa.close(now, keyex.Closed{Reason: keyex.CloseTimeout, Failure: f})
	}
	x.next = func(now time.Time, in *incoming) {
		a, ok := sa.attributes(now, x, in)
		if !ok {
			return
		}
		if a.Kind != kind+1 {
			sa.dropped(now, "payload-syntax", "the answer to a request is a reply, and that to a set an acknowledgement")
			return
		}
		sa.finish(now, x)
		then(now, a)
	}
	if err := sa.sendHashed(now, x, true, nil, &message.Attributes{Kind: kind, Identifier: id, List: list}); err != nil {
		sa.log(now, trace.Control, true, "%s cannot be sent: %v", name, err)
	}
}

// transaction takes a Transaction exchange of the peer.
func (sa *SA) transaction(x *exchange) func(now time.Time, in *incoming) {
	return func(now time.Time, in *incoming) {
		a, ok := sa.attributes(now, x, in)
		if !ok {
			return
		}
		user := slices.ContainsFunc(a.List, func(x message.Attribute) bool { return x.Type >= xauthType && x.Type <= xauthAnswer })
		status, isStatus := find(a.List, xauthStatus)
		if a.Kind == message.CfgRequest && !user && sa.state == keyex.Connecting {
			// It may have overtaken the acknowledgement that ends XAuth: the peer asks again.
			sa.dropped(now, "wrong-state", "the peer asks for addresses before it is wholly authenticated")
			return
		}
		sa.keep(x)
		sa.finish(now, x)
		answer := func(now time.Time, list []message.Attribute) {
			if err := sa.sendHashed(now, x, false, nil, &message.Attributes{Kind: a.Kind + 1, Identifier: a.Identifier, List: list}); err != nil {
				sa.log(now, trace.Control, true, "a Transaction exchange cannot be answered: %v", err)
			}
			sa.settle(now)
		}
		switch {
		case a.Kind == message.CfgRequest && user:
			sa.answerUser(now, a.List, answer)
		case a.Kind == message.CfgSet && isStatus:
			sa.takeStatus(now, status, answer)
		case a.Kind == message.CfgRequest:
			sa.answerConfig(now, a.List, answer)
		case a.Kind == message.CfgSet:
			sa.takePushed(now, a.List, answer)
		default:
			sa.dropped(now, "payload-syntax", "a Transaction exchange begins with a request or a set")
		}
	}
}
