// Package keyex is the contract between the key exchanges (packages ikev2 and
// ikev1) and who drives them: configurations, tasks and work on one side, CHILD_SAs,
// outputs and events on the other. It has values only.
package keyex

import (
	"iter"
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/internal/ident"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/sad"
	"iked/spd"
)

// Machine is the state machine of one IKE SA. It is driven by exactly one
// goroutine:
//
//	m.Receive / m.Start / m.Resume / m.Advance
//	for out := range m.Outputs() { … }
//	wake up again at m.NextDeadline()
//
// Slow or outside work leaves as a Request and comes back through Resume; the SA
// goes on answering in between.
type Machine interface {
	// Receive takes a datagram addressed to this SA; its octets may be changed.
	Receive(now time.Time, d Datagram)
	// Start queues something to initiate.
	Start(now time.Time, t Task)
	// Resume brings the result of a Request.
	Resume(now time.Time, id RequestID, r Reply)
	// Advance tells that NextDeadline has passed.
	Advance(now time.Time)
	// NextDeadline is when Advance must be called; zero: never.
	NextDeadline() time.Time
	// Outputs drains what the last calls produced. The loop's body may call the SA.
	Outputs() iter.Seq[Output]
}

// SPI is an IKE SPI (RFC 7296, Section 3.1).
type SPI uint64

// Datagram is one IKE message without the non-ESP marker. NATT tells whether it
// came or goes on the NAT traversal port (RFC 7296, Section 2.23), where the
// transport puts the marker.
type Datagram struct {
	Local, Remote netip.AddrPort
	NATT          bool
	Data          []byte
}

// AuthClass is a class of authentication methods.
type AuthClass uint8

// Classes.
const (
	AuthAny    AuthClass = iota // remote only: whatever the peer proves with a configured credential
	AuthPSK                     // shared key message integrity code
	AuthPubkey                  // certificates: RSA, ECDSA, digital signature
)

// AuthConfig is one side's authentication.
type AuthConfig struct {
	Class AuthClass
	ID    ident.ID // local: own identity, zero: the certificate's subject or the address. remote: expected, may be %any or a wildcard pattern
	// Ref is opaque to the state machine and handed to Sign and Verify: the
	// certificates and constraints that the configuration names.
	Ref any
}

// Selector is a configured traffic selector. Dynamic stands for the address of
// that side's host or its virtual address.
type Selector struct {
	spd.TS
	Dynamic bool
}

// Lifetime is a limit with its jitter; zero means none.
type Lifetime struct {
	Rekey, Hard, Jitter time.Duration
}

// ChildConfig is a configured CHILD_SA.
type ChildConfig struct {
	Name      string
	Proposals []suite.Proposal // ESP or AH
	// AH are proposals of AH around the ESP of Proposals, both in one protection
	// suite (IKEv1 and KINK alone); none: there is no AH around it.
	AH            []suite.Proposal
	Local, Remote []Selector
	Mode          spd.Mode
	ModeRequired  bool // refuse a peer that falls back to tunnel mode
	ReqID         uint32
	Time          Lifetime
	// Bytes and packets are counted by the backend, which reports Expire.
	SoftBytes, HardBytes, SoftPackets, HardPackets uint64
	BytesJitter, PacketsJitter                     uint64
	ReplayWindow                                   uint32
	TFCPadding                                     uint32
	SHA256_96                                      bool
	DF                                             sad.DF
	DSCP                                           sad.DSCP
	NoECN                                          bool
	// Inactivity closes the CHILD_SA when it carried nothing for that long.
	Inactivity time.Duration
	// PFP are the selectors that a CHILD_SA takes from the packet that asked for it
	// (RFC 4301, Section 4.4.1.2; RFC 7296, Section 2.9).
	PFP spd.PFP
	// Limit bounds the CHILD_SAs of this configuration in one IKE SA; 0: none.
	Limit int
	// IPComp wants payloads compressed before ESP protects them (RFC 3173; RFC 7296,
	// Section 2.22), if the peer does as well.
	IPComp bool
	// Ref is opaque: the engine's own record.
	Ref any
}

// Fragmentation is the swanctl key of that name.
type Fragmentation uint8

// Fragmentation choices (RFC 7383).
const (
	FragYes    Fragmentation = iota // announce and use
	FragAccept                      // announce, never send fragments
	FragNo
)

// Config is a configured IKE SA. It is immutable once handed over.
type Config struct {
	Name string
	// Version of IKE: 1, or 0 and 2 for IKEv2; or VersionKINK.
	Version uint8
	// V1 is about IKEv1 alone, KINK about KINK.
	V1            V1
	KINK          KINK
	Proposals     []suite.Proposal
	Local, Remote AuthConfig
	Children      []*ChildConfig
	Fragmentation Fragmentation
	FragmentSize  int // largest IKE datagram including IP and UDP headers; 0: 1280 (v6) and 576… as RFC 7383, Section 2.5.1 says
	ForceEncap    bool
	// Mobike offers and takes MOBIKE (RFC 4555).
	Mobike bool
	// NoNATs neither looks for NATs nor allows any (RFC 4555, Section 3.9); IKEv2.
	NoNATs bool
	// Role is this side's part in Mobile IPv6, Homes the home addresses that peers may
	// have.
	Role        MobilityRole
	Homes       []Home
	SendCertReq bool
	SendCert    SendCert
	// VIPs asks for virtual addresses as initiator: an unspecified address of a
	// family asks for any of that family.
	VIPs []netip.Addr
	// Pools names pools from which a responder gives virtual addresses and
	// attributes.
	Pools     []string
	DPDDelay  time.Duration
	Rekey     Lifetime      // IKE SA rekeying
	Reauth    Lifetime      // reauthentication: reported by Event ReauthDue, done by the engine
	KeepAlive time.Duration // NAT keepalive interval; 0: 20 s, below 0: none
	// InitialContact: whether the initiator may send it (RFC 7296, Section 2.4).
	InitialContact bool
	Retransmit     Retransmit
	// HalfOpen is how long an unauthenticated responder SA may live; 0: 30 s.
	HalfOpen time.Duration
	// PortNATT and PeerPortNATT are the own and the peer's NAT traversal ports,
	// to which an initiator floats (RFC 7296, Section 2.23); 0: 4500.
	PortNATT, PeerPortNATT uint16
	Ref                    any
}

// SendCert is the swanctl key send_cert.
type SendCert uint8

// SendCert choices.
const (
	CertIfAsked SendCert = iota
	CertAlways
	CertNever
)

// Retransmit is the schedule of RFC 7296, Section 2.4: the n-th wait is
// Timeout × Base^n, capped by Max, varied by Jitter percent; after Tries waits
// the SA is dead. Zero values: 2 s (doc'd default), 1.8, 5, 0 (no cap), 10.
type Retransmit struct {
	Timeout time.Duration
	Base    float64
	Tries   int
	Max     time.Duration
	Jitter  int
}

// Env is what an SA needs from outside; its methods answer at once.
type Env interface {
	// Candidates are the configurations that may answer a peer, best first
	// (RFC 4301, Section 4.4.3): by the addresses only.
	Candidates(local, remote netip.Addr) []*Config
	// PSK finds the shared secret of two identities.
	PSK(local, remote ident.ID) (secret.Bytes, bool)
	// CertRequests are the CERTREQ hashes (20 octets each, concatenated) of the
	// trust anchors for a configuration.
	CertRequests(cfg *Config) []byte
	// NewSPI returns an unused random SPI for a new IKE SA.
	NewSPI() SPI
	// NextChildID numbers CHILD_SA objects, NextIKEID IKE SA objects; never reused.
	NextChildID() uint32
	NextIKEID() uint32
	// Random fills b with octets fit for keys and nonces.
	Random(b []byte)
}

// RequestID pairs a Request with its Resume.
type RequestID uint64

// Output is what an SA wants done; see the types below.
type Output interface{ output() }

// Send puts a datagram on the wire. Several in a row are one flight.
type Send struct{ Datagram }

// Request is work whose result must come back through Resume.
type Request struct {
	ID   RequestID
	Work Work
}

// Event reports what happened.
type Event struct{ Event SAEvent }

// Closed: the SA is over; nothing may be called any more. Its children are
// already deleted by outputs before this one.
type Closed struct {
	Reason  CloseReason
	Failure *trace.Failure // nil when it was asked for
	// Tombstone, when not nil, answers the retransmissions of the peer's last
	// request, whose answer may get lost. Who keeps it under the SA's SPI for a
	// minute spares the peer a timeout.
	Tombstone Tombstone
}

// Tombstone is what stays of a closed SA. Answer is what to send when d repeats
// the last request that the SA answered; nil otherwise. It may change d. Destroy wipes
// its keys, after which there is no answer.
type Tombstone interface {
	Answer(d Datagram) []Datagram
	Destroy()
}

// KeepAlive asks for a NAT keepalive: a datagram of the one octet 0xFF, without
// non-ESP marker, from the NAT traversal port (RFC 3948, Section 2.3).
type KeepAlive struct{ Local, Remote netip.AddrPort }

func (Send) output()      {}
func (KeepAlive) output() {}
func (Request) output()   {}
func (Event) output()     {}
func (Closed) output()    {}

// CloseReason tells the engine whether and how to come back.
type CloseReason uint8

// Close reasons.
const (
	CloseAsked       CloseReason = iota // Start(Delete) of our own
	ClosePeerDeleted                    // the peer sent a Delete
	CloseFailed                         // negotiation failed
	CloseTimeout                        // the peer does not answer: retransmission or DPD
	CloseRekeyed                        // replaced by a rekeyed SA
	CloseExpired                        // hard lifetime
	CloseHalfOpen                       // never authenticated
	CloseReplaced                       // uniqueness policy, decided by the engine
	CloseInternal                       // a bug was contained
	CloseRetry                          // the peer was told to come again with another key exchange method
)

// Task is something to initiate.
type Task interface{ task() }

// StartInit begins IKE_SA_INIT; with Child the first CHILD_SA follows in
// IKE_AUTH. Flow, when set, is the packet that asked for it: its selectors go
// first (RFC 7296, Section 2.9). KINK has no SA of its own to set up and begins with
// the CHILD_SA, or with STATUS.
type StartInit struct {
	Child *ChildConfig
	Flow  *spd.Flow
}

// CreateChild makes another CHILD_SA.
type CreateChild struct {
	Child *ChildConfig
	Flow  *spd.Flow
}

// RekeyChild replaces a CHILD_SA, named by its inbound SPI.
type RekeyChild struct{ SPI uint32 }

// DeleteChild closes a CHILD_SA, named by its inbound SPI. Expired tells that
// the backend dropped it at its hard limit.
type DeleteChild struct {
	SPI     uint32
	Expired bool
}

// RekeyIKE replaces the IKE SA.
type RekeyIKE struct{}

// Delete closes the IKE SA; Force does not wait for an answer. Why ends up in
// Closed.
type Delete struct {
	Force bool
	Why   CloseReason
}

// Liveness checks the peer now (RFC 7296, Section 2.4).
type Liveness struct{}

// PeerMoved: authenticated ESP packets come from another address (RFC 7296,
// Section 2.23).
type PeerMoved struct{ Remote netip.AddrPort }

// NetworkChanged: addresses or routes of this host are others now. An IKE SA that
// can move looks for its way again (RFC 4555, Section 3.5).
type NetworkChanged struct{}

// Relocated: a mobility manager moved the IKE SA to other addresses (MIGRATE with
// KMADDRESS). The ports stay. With Tell the peer hears of it where there is a way; else
// it knows by itself.
type Relocated struct {
	Local, Remote netip.Addr
	Tell          bool
}

// ChildRelocated: the SAs of a CHILD_SA, named by its inbound SPI, have other outer
// addresses.
type ChildRelocated struct {
	SPI           uint32
	Local, Remote netip.Addr
}

func (StartInit) task()      {}
func (CreateChild) task()    {}
func (RekeyChild) task()     {}
func (DeleteChild) task()    {}
func (RekeyIKE) task()       {}
func (Delete) task()         {}
func (Liveness) task()       {}
func (PeerMoved) task()      {}
func (NetworkChanged) task() {}
func (Relocated) task()      {}
func (ChildRelocated) task() {}

// SAState is the state of an IKE SA, with the names that VICI uses.
type SAState uint8

// IKE SA states.
const (
	Created SAState = iota
	Connecting
	Established
	Rekeying
	Rekeyed
	Deleting
	Destroying
)

// SAEvent is one of the kinds below.
type SAEvent interface{ saEvent() }

// Log is a record for people; the engine completes its fixed fields.
type Log struct{ trace.Record }

// Failed is a negotiation that failed while the IKE SA may live on.
type Failed struct {
	Failure *trace.Failure
	Child   *ChildConfig // nil: the IKE SA
	Flow    *spd.Flow    // the packet that asked for the child, nil: none
}

// Up: the IKE SA is authenticated. InitialContact: the peer said it has no other
// SA with us (RFC 7296, Section 2.4), and was authenticated.
type Up struct{ InitialContact bool }

// ChildUp, ChildDown: a CHILD_SA came or went other than by rekeying.
type ChildUp struct{ Child *Child }

// ChildDown carries why: Peer when the peer deleted it.
type ChildDown struct {
	Child *Child
	Peer  bool
}

// ChildReplaced: Old was rekeyed, New took its place.
type ChildReplaced struct{ Old, New *Child }

// NewSA: this IKE SA was rekeyed and Successor took over its children. The
// engine must drive it from now on; this SA closes by itself.
type NewSA struct {
	Successor Machine
	// Redundant: it lost a simultaneous rekeying and will close without children;
	// or this is not decided yet, and a second event without Redundant follows
	// when it won. Each such event means: look at its outputs and its deadline.
	Redundant bool
}

// PeerDeletes: the peer deleted an SA of its that this IKE SA does not know. It may
// have been made under an older IKE SA with the same peer (IKEv1). SPI is that of
// our outbound SA.
type PeerDeletes struct {
	Proto suite.Protocol
	SPI   uint32
}

// ReauthDue: the reauthentication time came (RFC 7296, Section 2.8.3).
type ReauthDue struct{}

// Moved: the addresses of the IKE SA changed.
type Moved struct{}

// Count adds one to a counter; Reason is a label such as "bad-icv".
type Count struct{ Counter, Reason string }

func (Log) saEvent()           {}
func (Failed) saEvent()        {}
func (Up) saEvent()            {}
func (ChildUp) saEvent()       {}
func (ChildDown) saEvent()     {}
func (ChildReplaced) saEvent() {}
func (NewSA) saEvent()         {}
func (PeerDeletes) saEvent()   {}
func (ReauthDue) saEvent()     {}
func (Moved) saEvent()         {}
func (Count) saEvent()         {}
