// Package trace is what the product says about itself: log records with fixed
// fields, and failures that `ikectl explain` can tell in one sentence with the
// evidence. Protocol packages fill these values; only internal/daemon writes them
// anywhere. No field ever holds key material.
package trace

import "time"

// Level orders records as the control protocol does: 0 audit, 1 control, 2
// detail, 3 raw (without secrets).
type Level uint8

// Levels.
const (
	Audit Level = iota
	Control
	Detail
	Raw
)

// Group is the subsystem a record belongs to, in the names that VICI uses.
type Group string

// Groups.
const (
	DMN Group = "DMN"
	MGR Group = "MGR"
	IKE Group = "IKE"
	CHD Group = "CHD"
	CFG Group = "CFG"
	KNL Group = "KNL"
	NET Group = "NET"
	ENC Group = "ENC"
	ESP Group = "ESP"
	LIB Group = "LIB"
)

// Record is one log line. The engine completes Conn and UniqueID for records of
// an IKE SA.
type Record struct {
	At       time.Time
	Level    Level
	Group    Group
	Warn     bool // something a person should look at
	Conn     string
	UniqueID uint32
	Child    string
	Peer     string // address:port
	SPIi     uint64
	SPIr     uint64
	Exchange string
	MID      uint32
	Msg      string
}

// Stage is the step of a negotiation at which it failed.
type Stage string

// Stages.
const (
	StageReach     Stage = "reach-peer"
	StageProposal  Stage = "ike-proposal"
	StageKE        Stage = "key-exchange"
	StageIdentity  Stage = "identity"
	StageCert      Stage = "certificate"
	StageAuth      Stage = "authentication"
	StageAddress   Stage = "virtual-address"
	StageSelectors Stage = "traffic-selectors"
	StageChild     Stage = "child-proposal"
	StageInstall   Stage = "install"
	StageConfig    Stage = "configuration"
	StageRefused   Stage = "refused-by-peer"
)

// Failure is one failed negotiation, as `ikectl explain` shows it.
type Failure struct {
	At        time.Time
	Stage     Stage
	Conn      string
	Child     string
	Local     string // address:port
	Remote    string // address:port
	LocalID   string
	RemoteID  string
	Initiator bool
	// Sentence says what failed; the log has the same sentence.
	Sentence string
	// Evidence is the comparison line by line: proposals side by side, the
	// selectors and their intersection, the steps of the certificate check.
	Evidence []string
	// Advice says what to change, and where.
	Advice string
}
