package conf

import (
	"time"

	"iked/crypto/suite"
	"iked/spd"
)

// Mode is the mode of a child.
type Mode uint8

// Modes; ModePass and ModeDrop are no SAs, but policies.
const (
	ModeTunnel Mode = iota
	ModeTransport
	ModeBEET
	ModePass
	ModeDrop
)

// Action is a set of what to do at an occasion (keys *_action).
type Action uint8

// Actions; 0 is none.
const (
	ActionTrap Action = 1 << iota
	ActionStart
)

// Start is the key start: one knob for the three actions.
type Start uint8

// Start choices. StartUnset: the three actions were given on their own.
const (
	StartUnset    Start = iota
	StartPassive        // none, none, none
	StartOnDemand       // trap, trap, trap
	StartAlways         // trap and start, in all three
)

// TS is a configured traffic selector. Dynamic stands for that side's address
// or virtual address; the protocol and ports of TS still count.
type TS struct {
	spd.TS
	Dynamic bool
}

// Limit is a soft limit, a hard limit and the jitter that is taken off the soft
// one; 0: none. Octets or packets.
type Limit struct{ Rekey, Life, Rand uint64 }

// TimeLimit is a Limit in time.
type TimeLimit struct{ Rekey, Life, Rand time.Duration }

// CopyDSCP is the key copy_dscp.
type CopyDSCP uint8

// CopyDSCP choices.
const (
	DSCPOut CopyDSCP = iota
	DSCPIn
	DSCPBoth
	DSCPNo
)

// TFCToMTU as TFCPadding pads to the path MTU.
const TFCToMTU = ^uint32(0)

// Child is a CHILD_SA: connections.<conn>.children.<name>.
type Child struct {
	Name          string
	Proposals     []suite.Proposal // all of ESP, or all of AH
	AH            []suite.Proposal // of AH around the ESP of Proposals; version 1 and KINK only
	Local, Remote []TS
	Mode          Mode
	// ModeRequired refuses a peer that answers with tunnel mode in place of Mode.
	ModeRequired bool
	// PFP are the selectors that an SA takes from the packet that asked for it
	// (RFC 4301, Section 4.4.1.2).
	PFP spd.PFP
	// PFPLimit bounds the CHILD_SAs that packets make.
	PFPLimit int
	// OthersPolicies: somebody else has the policies (policies: no).
	OthersPolicies bool
	Time           TimeLimit
	Bytes          Limit
	Packets        Limit
	Start          Start
	StartAction    Action
	CloseAction    Action
	DPDAction      Action
	Fail           Fail // FailDefault: the global choice
	Inactivity     time.Duration
	ReqID          uint32 // 0: chosen, or none with OthersPolicies
	ReqIDIn        uint32 // of inbound SAs with OthersPolicies; 0: as ReqID
	Priority       uint32 // 0: computed
	TFCPadding     uint32 // octets, or TFCToMTU
	ReplayWindow   uint32
	SHA256_96      bool
	IPComp         bool
	DF             DF // of the tunnel header
	CopyECN        bool
	CopyDSCP       CopyDSCP
	// What policies and SAs are bound to; kernel backend only.
	Interface             string // device to be made, "" none
	IfIDIn, IfIDOut       uint32 // 0: none
	MarkIn, MarkOut       spd.Mark
	MarkInSA              bool
	SetMarkIn, SetMarkOut spd.Mark
	Offload               Offload
	sameIn, sameOut       bool // set_mark_in, set_mark_out are %same
	noIfID                bool // no number of its own was given
	idleGiven             bool // Inactivity was configured
	reqIDGiven            bool // ReqID was configured
	pos                   Pos
}
