package ikev1

import (
	"fmt"
	"strings"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

// failure is a Failure with what this SA knows of itself.
func (sa *SA) failure(now time.Time, stage trace.Stage, sentence, advice string, evidence ...string) *trace.Failure {
	f := &trace.Failure{
		At: now, Stage: stage, Local: sa.local.String(), Remote: sa.remote.String(), Initiator: sa.initiator,
		Sentence: sentence, Advice: advice, Evidence: evidence,
	}
	if sa.cfg != nil {
		f.Conn = sa.cfg.Name
	}
	if !sa.localID.IsAny() {
		f.LocalID = sa.localID.String()
	}
	if !sa.remoteID.IsAny() {
		f.RemoteID = sa.remoteID.String()
	}
	return f
}

// complete fills in what an outside failure does not know.
func (sa *SA) complete(now time.Time, f *trace.Failure) *trace.Failure {
	own := sa.failure(now, f.Stage, f.Sentence, f.Advice, f.Evidence...)
	if f.RemoteID != "" {
		own.RemoteID = f.RemoteID
	}
	return own
}

func (sa *SA) log(now time.Time, l trace.Level, warn bool, format string, args ...any) {
	sa.record(trace.Record{At: now, Level: l, Group: trace.IKE, Warn: warn, Msg: fmt.Sprintf(format, args...)})
}

func (sa *SA) logChild(now time.Time, c *keyex.ChildConfig, warn bool, format string, args ...any) {
	r := trace.Record{At: now, Level: trace.Control, Group: trace.CHD, Warn: warn, Msg: fmt.Sprintf(format, args...)}
	if c != nil {
		r.Child = c.Name
	}
	sa.record(r)
}

func (sa *SA) record(r trace.Record) {
	if sa.cfg != nil {
		r.Conn = sa.cfg.Name
	}
	r.UniqueID, r.SPIi, r.SPIr, r.Peer = sa.uniqueID, sa.ckyI.Uint64(), sa.ckyR.Uint64(), sa.remote.String()
	sa.Event(keyex.Log{Record: r})
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

// refusedBy tells what an error notify of the peer means, in phase 1 or in Quick Mode.
func (sa *SA) refusedBy(now time.Time, n message.NotifyType, what string, phase1 bool) *trace.Failure {
	advice := map[message.NotifyType]string{
		message.NoProposalChosen:       "compare esp_proposals, ah_proposals, mode and the group of perfect forward secrecy of both sides; the peer's log names what it has",
		message.AuthenticationFailed:   "compare identities and credentials of both sides: the peer does not accept ours; its log says why",
		message.InvalidIDInformation:   "compare local_ts and remote_ts of both sides: IKEv1 narrows nothing, the peer must have the same selectors, turned round",
		message.PayloadMalformed:       "the peer cannot read our message: with a pre-shared key the secrets differ, most likely",
		message.InvalidHashInformation: "the pre-shared keys differ, most likely",
	}
	if phase1 {
		advice[message.NoProposalChosen] = "compare proposals and authentication of both sides; the peer's log names what it has"
		advice[message.InvalidIDInformation] = "compare the identities of both sides: the peer expects another one of us; its log names it"
	}
	say := advice[n]
	if say == "" {
		say = "see the peer's log"
	}
	return sa.failure(now, trace.StageRefused, fmt.Sprintf("the peer refused %s with %s", what, n.Name()), say)
}
