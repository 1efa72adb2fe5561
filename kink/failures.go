package kink

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"iked/crypto/suite"
	quick "iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink/message"
	"iked/spd"
)

// nonceLen is the length of a nonce in octets (RFC 2409, Section 5: 8 to 256).
const nonceLen = 32

func (sa *SA) nonce() []byte {
	b := make([]byte, nonceLen)
	sa.env.Random(b)
	return b
}

// failure is a Failure with what this SA knows of itself.
func (sa *SA) failure(now time.Time, stage trace.Stage, sentence, advice string, evidence ...string) *trace.Failure {
	return &trace.Failure{
		At: now, Stage: stage, Conn: sa.cfg.Name, Local: sa.local.String(), Remote: sa.remote.String(), LocalID: sa.own.String(), RemoteID: sa.peer.String(),
		Initiator: sa.initiator, Sentence: sentence, Advice: advice, Evidence: evidence,
	}
}

// createFailed ends a CREATE of ours. Where nothing was authentic yet, the SA ends
// with it, and who asked for it tries again.
func (sa *SA) createFailed(now time.Time, cfg *keyex.ChildConfig, flow *spd.Flow, f *trace.Failure) {
	f.Child = cfg.Name
	if sa.state == keyex.Connecting {
		reason := keyex.CloseFailed
		if f.Stage == trace.StageReach {
			reason = keyex.CloseTimeout
		}
		sa.close(now, keyex.Closed{Reason: reason, Failure: f})
		return
	}
	sa.failedFor(now, cfg, flow, f)
	if f.Stage == trace.StageReach && !sa.deleting {
		sa.ping(now)
	}
}

// failed reports the failure of a CHILD_SA; nil cfg: none was found.
func (sa *SA) failed(now time.Time, cfg *keyex.ChildConfig, f *trace.Failure) {
	sa.failedFor(now, cfg, nil, f)
}

// failedFor is failed with the packet that asked for the CHILD_SA.
func (sa *SA) failedFor(now time.Time, cfg *keyex.ChildConfig, flow *spd.Flow, f *trace.Failure) {
	if cfg != nil {
		f.Child = cfg.Name
	}
	sa.logChild(now, cfg, true, "%s", f.Sentence)
	sa.Event(keyex.Failed{Failure: f, Child: cfg, Flow: flow})
}

// mismatch is the failure of a comparison of proposals.
func (sa *SA) mismatch(now time.Time, stage trace.Stage, m *suite.Mismatch) *trace.Failure {
	f := sa.failure(now, stage, m.String(), "make one proposal of both sides agree in every algorithm")
	f.Evidence = append(f.Evidence, strings.Split(strings.TrimRight(m.Table(), "\n"), "\n")...)
	return f
}

// refusedBy tells what an error notify of the peer means.
func (sa *SA) refusedBy(now time.Time, n quick.NotifyType, what string) *trace.Failure {
	advice := "see the peer's log"
	switch n {
	case quick.NoProposalChosen:
		advice = "compare esp_proposals, ah_proposals and mode of both sides; the peer's log names what it has"
	case quick.InvalidIDInformation:
		advice = "compare local_ts and remote_ts of both sides: Quick Mode narrows nothing, the peer must have the same selectors"
	case quick.AuthenticationFailed:
		advice = "the peer has no connection for the principal " + sa.own.String() + ": compare remote.id there"
	}
	return sa.failure(now, trace.StageRefused, fmt.Sprintf("the peer refused %s with %s", what, n.Name()), advice)
}

func (sa *SA) record(r trace.Record) {
	r.Conn, r.UniqueID, r.Peer = sa.cfg.Name, sa.uniqueID, sa.remote.String()
	sa.Event(keyex.Log{Record: r})
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
