package ikev2

import (
	"fmt"
	"strings"
	"time"

	"iked/crypto/suite"
	"iked/ikev2/message"
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

// log emits a record of the IKE group.
func (sa *SA) log(now time.Time, l trace.Level, warn bool, format string, args ...any) {
	sa.record(trace.Record{At: now, Level: l, Group: trace.IKE, Warn: warn, Msg: fmt.Sprintf(format, args...)})
}

func (sa *SA) logChild(now time.Time, c *ChildConfig, warn bool, format string, args ...any) {
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
	r.UniqueID, r.SPIi, r.SPIr, r.Peer = sa.uniqueID, sa.spiI.Uint64(), sa.spiR.Uint64(), sa.remote.String()
	sa.Event(Log{Record: r})
}

// failed reports the failure of a CHILD_SA; nil cfg: none was found.
func (sa *SA) failed(now time.Time, cfg *ChildConfig, f *trace.Failure) {
	sa.failedFor(now, cfg, nil, f)
}

// failedFor is failed for a CHILD_SA that a packet asked for.
func (sa *SA) failedFor(now time.Time, cfg *ChildConfig, flow *spd.Flow, f *trace.Failure) {
	if cfg != nil {
		f.Child = cfg.Name
	}
	sa.logChild(now, cfg, true, "%s", f.Sentence)
	sa.Event(Failed{Failure: f, Child: cfg, Flow: flow})
}

// mismatch is the failure of a comparison of proposals.
func (sa *SA) mismatch(now time.Time, stage trace.Stage, m *suite.Mismatch) *trace.Failure {
	f := sa.failure(now, stage, m.String(), "make one proposal of both sides agree in every algorithm")
	for _, l := range strings.Split(strings.TrimRight(m.Table(), "\n"), "\n") {
		f.Evidence = append(f.Evidence, l)
	}
	return f
}

// refusedBy tells what an error notify of the peer means.
func (sa *SA) refusedBy(now time.Time, n *message.Notify, what string) *trace.Failure {
	advice := map[message.NotifyType]string{
		message.NoProposalChosen:       "compare the proposals of both sides; the peer's log names what it has",
		message.AuthenticationFailed:   "compare identities and credentials of both sides: the peer does not accept ours; its log says why",
		message.TSUnacceptable:         "compare local_ts and remote_ts of both sides: the peer's policy has nothing in common with ours",
		message.InternalAddressFailure: "the peer has no virtual address for us: check its pools",
		message.FailedCPRequired:       "the peer wants us to ask for a virtual address: configure vips",
		message.InvalidMajorVersion:    "the peer does not speak IKEv2",
		message.NoAdditionalSAs:        "the peer allows no further CHILD_SA on this IKE SA",
		message.UnexpectedNATDetected:  "there is a NAT on the way, which one of both sides does not allow: set nat_traversal to yes, or remove the NAT",
		message.SinglePairRequired:     "the peer accepts one pair of addresses per CHILD_SA only",
	}[n.Kind]
	if advice == "" {
		advice = "see the peer's log"
	}
	return sa.failure(now, trace.StageRefused, fmt.Sprintf("the peer refused %s with %s", what, n.Kind.Name()), advice)
}
