package keyex

import (
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/internal/ident"
	"iked/internal/trace"
)

// Work is one of the kinds below.
type Work interface{ work() }

// OwnWork is embedded by kinds of work that one key exchange alone has, and OwnReply
// by their results: what a ticket is, only KINK and who drives it know.
type OwnWork struct{}

// OwnReply is embedded by results of such work.
type OwnReply struct{}

// Compute is pure computation (a key exchange): Run may be called on any
// goroutine, once. Cheap work should run at once.
type Compute struct {
	Cheap bool
	Run   func() Reply
}

// AllocSPI asks the backend for an inbound SPI. Reply: SPIReply.
type AllocSPI struct {
	Proto suite.Protocol
	Local netip.Addr
}

// FreeSPI gives a reserved SPI back; no reply.
type FreeSPI struct {
	Proto suite.Protocol
	Local netip.Addr
	SPI   uint32
}

// Sign makes our AUTH payload with a private key (RFC 7296, Section 2.15; RFC
// 7427). Reply: SignReply.
type Sign struct {
	Config *Config
	Scheme SignScheme
	Octets []byte // the signed octets
	// PeerHashes are the hash algorithms of the peer's SIGNATURE_HASH_ALGORITHMS,
	// nil when it sent none: then only the classic methods may be used.
	PeerHashes []uint16
	// CertRequests are the peer's CERTREQ hashes, 20 octets each.
	CertRequests []byte
}

// Verify checks the peer's certificate chain, identity and AUTH payload. Reply:
// VerifyReply.
type Verify struct {
	Config *Config
	Scheme SignScheme
	ID     ident.ID
	Method uint8
	Auth   []byte
	Octets []byte
	Certs  []Cert
}

// ChooseIdentity asks for the own identity and certificates before AUTH can be
// computed: the identity is part of the signed octets. Reply: IdentityReply.
type ChooseIdentity struct {
	Config       *Config
	Local        netip.Addr
	CertRequests []byte
}

// Cert is a CERT payload (RFC 7296, Section 3.6).
type Cert struct {
	Encoding uint8
	Data     []byte
}

// AssignAddress asks for virtual addresses and attributes for an authenticated
// peer (RFC 7296, Section 3.15). Reply: AddressReply.
type AssignAddress struct {
	Config *Config
	Peer   ident.ID
	// Wanted addresses; unspecified ones ask for any of that family.
	Wanted []netip.Addr
	// Attrs are other attribute types that the peer asked for.
	Attrs []uint16
	// Fixed is the address that the peer's user has; invalid: one of the pools.
	Fixed netip.Addr
}

// ReleaseAddress ends a lease; no reply.
type ReleaseAddress struct {
	Config *Config
	Peer   ident.ID
	Addrs  []netip.Addr
}

// UseAddress asks to put the virtual addresses that we were given on an
// interface, or to take them away again; name servers included. No reply.
type UseAddress struct {
	Config *Config
	Remove bool
	Addrs  []netip.Prefix
	DNS    []netip.Addr
	// Domain is where names without dots are looked for, "" for none.
	Domain string
}

// InstallChild puts SAs of a child into the backend. In and Out say which
// directions. Reply: DoneReply; with an error nothing of the child is left in
// the backend.
type InstallChild struct {
	Child   *Child
	In, Out bool
}

// MoveChild changes the outer addresses of a child; no reply.
type MoveChild struct{ Child *Child }

// RemoveChild takes SAs of a child out of the backend; no reply. When both
// directions are gone, its policies go, unless another child serves them.
type RemoveChild struct {
	Child   *Child
	In, Out bool
}

// LastInbound asks when a CHILD_SA last carried an inbound packet. Reply:
// TimeReply. It saves liveness checks (RFC 7296, Section 2.4). With Outbound the
// outbound packets count as well.
type LastInbound struct {
	Children []*Child
	Outbound bool
}

// FindPaths asks which addresses this host has for a configuration, at which a peer
// may reach it, and between which pairs packets can go to some of the peer's. Local
// is the own address that is in use. Reply: PathsReply.
type FindPaths struct {
	Config  *Config
	Local   netip.Addr
	Remotes []netip.Addr
}

// Path is a pair of addresses between which packets can go, as far as the routes of
// this host tell.
type Path struct{ Local, Remote netip.Addr }

// FindOther asks whether there is another established IKE SA of a configuration
// with the peer and its user, "" for none. Reply: FoundReply.
type FindOther struct {
	Config *Config
	Peer   ident.ID
	User   string
}

func (OwnWork) work()        {}
func (FindOther) work()      {}
func (FindPaths) work()      {}
func (Compute) work()        {}
func (AllocSPI) work()       {}
func (FreeSPI) work()        {}
func (Sign) work()           {}
func (Verify) work()         {}
func (ChooseIdentity) work() {}
func (AssignAddress) work()  {}
func (ReleaseAddress) work() {}
func (UseAddress) work()     {}
func (InstallChild) work()   {}
func (MoveChild) work()      {}
func (RemoveChild) work()    {}
func (LastInbound) work()    {}

// Reply is the result of a Work.
type Reply interface{ reply() }

// SPIReply answers AllocSPI.
type SPIReply struct {
	SPI uint32
	Err error
}

// SignReply answers Sign.
type SignReply struct {
	Method uint8
	Auth   []byte
	Err    error
}

// IdentityReply answers ChooseIdentity. Certs has the leaf first.
type IdentityReply struct {
	ID    ident.ID
	Certs []Cert
	// Curve is the size of the key's curve in bits, 256, 384 or 521; 0 for RSA.
	// IKEv1 names it before it signs (RFC 4754).
	Curve int
	Err   error
}

// VerifyReply answers Verify. Failure is set when the peer is refused.
type VerifyReply struct{ Failure *trace.Failure }

// AddressReply answers AssignAddress.
type AddressReply struct {
	Addrs  []netip.Prefix
	DNS    []netip.Addr
	Others []Attribute
	Err    error
}

// Attribute is a configuration attribute (RFC 7296, Section 3.15.1).
type Attribute struct {
	Type  uint16
	Value []byte
}

// DoneReply answers InstallChild.
type DoneReply struct{ Err error }

// TimeReply answers LastInbound.
type TimeReply struct{ At time.Time }

// PathsReply answers FindPaths. Paths are in the order of Remotes, for each of them
// the best first.
type PathsReply struct {
	Own   []netip.Addr
	Paths []Path
	// Unknown: nobody here knows the routes, and no paths does not mean that there is
	// none.
	Unknown bool
}

func (PathsReply) reply() {}

// FoundReply answers FindOther.
type FoundReply struct{ Found bool }

func (OwnReply) reply()   {}
func (FoundReply) reply() {}

// KEReply answers Compute.
type KEReply struct {
	Value any
	Err   error
}

func (SPIReply) reply()      {}
func (SignReply) reply()     {}
func (IdentityReply) reply() {}
func (VerifyReply) reply()   {}
func (AddressReply) reply()  {}
func (DoneReply) reply()     {}
func (TimeReply) reply()     {}
func (KEReply) reply()       {}
