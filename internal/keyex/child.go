package keyex

import (
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/internal/secret"
	"iked/spd"
)

// Child is one CHILD_SA: a pair of SAs.
type Child struct {
	UniqueID      uint32
	Config        *ChildConfig
	State         ChildState
	Proto         suite.Protocol
	Mode          spd.Mode
	SPIIn, SPIOut uint32
	// Encr, Integ, KE are the chosen transforms; KE is zero when no key exchange
	// was done for this SA.
	Encr, Integ, KE suite.Transform
	ESN             bool
	// Keys of this direction pair, from this system's point of view.
	EncrIn, IntegIn, EncrOut, IntegOut secret.Bytes
	// CPIIn and CPIOut are the numbers of compression in this pair (RFC 3173, Section
	// 3.3), the former given out here; 0: there is none.
	CPIIn, CPIOut uint16
	// AH is what stands around the ESP of a suite; nil: nothing.
	AH            *Around
	Local, Remote []spd.TS
	// NATLocal and NATRemote are the addresses of this system and of the peer as
	// the peer knows them, in transport mode where a NAT translates them: the
	// checksums of the peer's packets are made with them (RFC 7296, Section 2.23.1).
	// Invalid: not translated.
	NATLocal, NATRemote netip.Addr
	// Flow is the packet that asked for it, nil when none did or the peer began.
	Flow *spd.Flow
	// HardBytes, when not 0, is what the peer allows, fewer octets than Config does.
	HardBytes uint64
	// LocalAddr and RemoteAddr are the outer addresses; Encap their ports when UDP
	// encapsulation is used.
	LocalAddr, RemoteAddr netip.AddrPort
	Encap                 bool
	// OwnEnds: the outer addresses are those of the selectors, without ports, and stay
	// when the IKE SA moves (RFC 4877, Section 3).
	OwnEnds bool
	// NoTFC: the peer sent ESP_TFC_PADDING_NOT_SUPPORTED.
	NoTFC     bool
	Initiator bool // of the exchange that made it
	Installed time.Time
	RekeyAt   time.Time // zero: never
	ExpireAt  time.Time // zero: never
	// Replaces is the unique id of the CHILD_SA that this one rekeys, 0 none.
	Replaces uint32

	// Book is what the state machine keeps of the CHILD_SA for itself.
	Book any
}

// Around is the AH of a protection suite (RFC 2407, Section 4.6.1): a pair of SAs in
// transport mode around the ESP of a CHILD_SA (RFC 4301, Section 4.1 and Appendix
// E), which comes, moves and goes with it.
type Around struct {
	SPIIn, SPIOut     uint32
	Integ             suite.Transform
	ESN               bool
	IntegIn, IntegOut secret.Bytes
}

// Protocols are those of a CHILD_SA with its SPIs, ESP before the AH around it.
func (c *Child) Protocols() []ProtocolSPIs {
	list := []ProtocolSPIs{{c.Proto, c.SPIIn, c.SPIOut}}
	if c.AH != nil {
		list = append(list, ProtocolSPIs{suite.ProtoAH, c.AH.SPIIn, c.AH.SPIOut})
	}
	return list
}

// ProtocolSPIs are the SPIs of one protocol of a CHILD_SA.
type ProtocolSPIs struct {
	Proto         suite.Protocol
	SPIIn, SPIOut uint32
}

// ChildState is the state of a CHILD_SA, with the names that VICI uses.
type ChildState uint8

// Child states.
const (
	ChildCreated ChildState = iota
	ChildInstalling
	ChildInstalled
	ChildUpdating
	ChildRekeying
	ChildRekeyed
	ChildDeleting
	ChildDeleted
)
