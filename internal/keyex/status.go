package keyex

import (
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/internal/ident"
)

// Status is a picture of an IKE SA for people and for the engine's tables.
type Status struct {
	Version       uint8 // of IKE
	UniqueID      uint32
	State         SAState
	Initiator     bool // the original initiator of this IKE SA
	SPIi, SPIr    SPI
	Config        *Config // nil in a responder before IKE_SA_INIT
	Local, Remote netip.AddrPort
	NATT          bool // the NAT traversal ports are used
	// NATLocal and NATRemote: that side is behind a NAT, or says so; NATFake: we
	// said so to force encapsulation.
	NATLocal, NATRemote, NATFake bool
	LocalID, RemoteID            ident.ID
	Proposal                     suite.Proposal // chosen; no transforms before IKE_SA_INIT
	LocalVIPs, RemoteVIPs        []netip.Prefix
	DNS                          []netip.Addr
	// Home is the home link that a home agent told of.
	Home HomeLink
	// User is whom XAuth authenticated, at the server of it.
	User string
	// Banner, Domain and Networks are what a peer gave with Cisco's extensions. None
	// of it is more than the peer's word; Banner is fit to be shown.
	Banner, Domain string
	Networks       []netip.Prefix
	Children       []*Child // not to be changed
	// Established, RekeyAt, ExpireAt and ReauthAt are zero when they do not apply.
	Established, RekeyAt, ExpireAt, ReauthAt time.Time
	LastInbound                              time.Time
	Queued, Active, Passive                  []string // task names of the control protocol
}
