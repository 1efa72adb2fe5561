// Package backend is the contract between the key exchange and what carries the
// packets: the Linux kernel (package xfrm) or the userspace datapath (package
// datapath). Both pass the same conformance suite.
package backend

import (
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/migrate"
	"iked/sad"
	"iked/spd"
)

// Backend carries packets for negotiated SAs. All methods are safe for
// concurrent use and return when the change is in force.
type Backend interface {
	SADB
	SPDB
	// Describe says what it is and what it can do.
	Describe() Info
	// Events delivers what happened; the channel is closed by Close. A reader
	// that is too slow loses no Expire event: they are repeated until answered.
	Events() <-chan Event
	// Counters are drops and errors by reason, and traffic totals.
	Counters() map[string]uint64
	// Close removes everything that the backend put into the system.
	Close() error
}

// SADB is the SAD half of a backend.
type SADB interface {
	// AllocSPI reserves an inbound SPI of 256 or more (RFC 4303, Section 2.1);
	// the reservation lapses when no SA follows within two minutes or FreeSPI is
	// called.
	// For IPCOMP it is a CPI: 256 to 61439 (RFC 3173, Section 3.3).
	AllocSPI(proto suite.Protocol, local netip.Addr) (uint32, error)
	FreeSPI(proto suite.Protocol, local netip.Addr, spi uint32)
	// AddSA installs an SA. An inbound one completes the reservation of its SPI.
	// Among outbound SAs of one ReqID the one added last carries the traffic.
	AddSA(sa *sad.SA) error
	// UpdateSA changes the outer addresses and ports of an SA atomically.
	UpdateSA(id sad.ID, m Move) (sad.ID, error)
	DeleteSA(id sad.ID) error
	QuerySA(id sad.ID) (sad.Usage, error)
}

// Move is the new outside of an SA.
type Move struct {
	Src, Dst netip.Addr
	Encap    *sad.Encap // nil: none
}

// SPDB is the SPD half of a backend.
type SPDB interface {
	// ApplyPolicies removes and adds entries in one step: no packet sees a state
	// in between. An added ID that exists is replaced.
	ApplyPolicies(remove []uint64, add []spd.Policy) error
}

// Info describes a backend.
type Info struct {
	Name string // "userspace" or "kernel"
	// Detail is one line for status: devices, queues, what is missing.
	Detail string
	// UDPEncapOnly backends cannot carry protocol 50 and 51 themselves.
	UDPEncapOnly bool
	// Supports tells whether an SA with these properties can be carried; reason
	// says in words why not ("CONFIG_INET_ESP is not set"). With IPCOMP and no
	// transforms it is about compression in SAs of the mode.
	Supports func(proto suite.Protocol, mode spd.Mode, encr, integ suite.Transform, esn bool) (ok bool, reason string)
}

// Event is one of Acquire, Expire, Mapping, InvalidSelectors, Migrate, MigrateSA.
type Event interface{ backendEvent() }

// Acquire: an outbound packet matched a Protect policy that no SA serves. With PFP
// flags there is one for each flow that differs in the flagged selectors.
type Acquire struct {
	Policy uint64 // 0: somebody else put the policy in
	ReqID  uint32 // may be 0 with a policy of somebody else's, which then has none
	Flow   spd.Flow
	// Proto and Mode are those of the SA that a policy of somebody else's asks for.
	// Such a question is left to others until AcquireTaken says that it is answered
	// here.
	Proto suite.Protocol
	Mode  spd.Mode
	// IfID and Mark bind that policy, as in spd.Policy.
	IfID uint32
	Mark spd.Mark
	// OuterLocal and OuterRemote are where that policy has the ends of the tunnel, which
	// the SA must have to serve it; invalid: anywhere.
	OuterLocal, OuterRemote netip.Addr
}

// Expire: a lifetime of an SA ended. Hard: it is already unusable.
type Expire struct {
	ID    sad.ID
	Owner uint64
	Hard  bool
	// Why is "time", "bytes" or "packets"; "removed" when somebody else took the SA
	// away.
	Why string
}

// Mapping: authenticated UDP-encapsulated packets of an inbound SA come from
// another address or port (RFC 7296, Section 2.23). Nothing was changed.
type Mapping struct {
	ID    sad.ID
	Owner uint64
	From  netip.AddrPort
	At    time.Time
}

// InvalidSelectors: an inbound packet did not fit the selectors of its SA
// (RFC 4301, Section 5.2, step 4). Rate-limited.
type InvalidSelectors struct {
	ID    sad.ID
	Owner uint64
	Flow  spd.Flow
}

// Migrate: somebody else moved SAs and policies of the backend to other addresses, one
// direction of one policy at a time. UpdateSA with these addresses then finds that it
// is done.
type Migrate struct{ Event migrate.Event }

// MigrateSA: the same of one SA alone, whatever the policies.
type MigrateSA struct{ Event migrate.Single }

func (Migrate) backendEvent()          {}
func (MigrateSA) backendEvent()        {}
func (Acquire) backendEvent()          {}
func (Expire) backendEvent()           {}
func (Mapping) backendEvent()          {}
func (InvalidSelectors) backendEvent() {}
