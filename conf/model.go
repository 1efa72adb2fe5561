// Package conf is the one model of the configuration. Files (YAML or TOML) and
// the control protocol fill the same structs through the same table of keys, are
// checked by the same code, and are applied as the difference of two snapshots.
//
// The key names and defaults are those that the field knows from swanctl.conf.
package conf

import (
	"net/netip"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/pki"
	"iked/internal/secret"
	"iked/spd"
)

// Config is one snapshot. It is immutable once handed over.
type Config struct {
	Global
	Connections []*Connection
	Secrets     []*Secret
	Keys        []*Key
	Certs       []*Cert
	CRLs        []*CRL
	Pools       []*Pool
	Authorities []*Authority
	// Radius are the servers that know users of XAuth, in the order of preference.
	Radius []*Radius
	// Homes binds home addresses to identities: the list home_addresses.
	Homes []Home
	// File is the file that this was read from, "" for none.
	File string
}

// Backend is what carries the traffic.
type Backend string

// Backends.
const (
	BackendAuto      Backend = "auto"
	BackendKernel    Backend = "kernel"
	BackendUserspace Backend = "userspace"
)

// Fail says what happens to the traffic of a tunnel while it is down.
type Fail string

// Fail choices. FailDefault, of a child, means the global choice.
const (
	FailDefault Fail = ""
	FailClosed  Fail = "closed"
	FailOpen    Fail = "open"
)

// Global is what is not about one connection.
type Global struct {
	Port     uint16 // port: 500
	PortNATT uint16 // port_nat_t: 4500
	PortKINK uint16 // port_kink: 910
	// Krb5Conf is the file that says where KDCs are; "" is that of the system.
	Krb5Conf string
	// ETypes are encryption types by name, best first; none: those of Krb5Conf.
	ETypes  string
	Backend Backend
	Fail    Fail // closed or open
	// Bypass is the housekeeping of this host that no policy stops.
	Bypass   Bypass
	Log      Log
	Control  Control
	Datapath Datapath
	Limits   Limits
	// Retransmit is the schedule of IKE requests.
	Retransmit Retransmit
	// KeepAlive is the interval of NAT keepalives; 0: none.
	KeepAlive time.Duration
	// FragmentSize is the largest IKE datagram, IP and UDP headers included; 0: by
	// address family.
	FragmentSize int
	// MinRSABits is the smallest RSA key that is accepted in a certificate chain.
	MinRSABits int
	// XAuthHook is the program that checks users of XAuth; "" for none.
	XAuthHook string
}

// Log is how the daemon logs; the command line wins.
type Log struct {
	Level  string // error, warn, info, debug, trace; "" is info
	Format string // text or json; "" is text
}

// Control is the control socket; the command line wins.
type Control struct {
	Socket string // URI; "" is the default
	Owner  string // user name or number, "" the daemon's
	Group  string // group name or number, "" the daemon's
	Mode   uint32 // permission bits, 0600
}

// Datapath are the knobs of the userspace datapath.
type Datapath struct {
	MTU        int    // of the TUN device; 0: automatic
	Queues     int    // 0: one per CPU
	Device     string // name of the TUN device
	Table      int    // routing table of the remote selectors
	RulePrio   int    // priority of the rule that looks at that table
	Mark       uint32 // firewall mark of the daemon's own packets
	HopLimit   uint8  // of the tunnel header; 0: 64
	FragMemory uint64 // octets for reassembly
	// AcquireQueue is how many packets wait for one SA that is being negotiated.
	AcquireQueue int
}

// DF is what the tunnel header's don't-fragment bit is made from (RFC 4301,
// Section 8.1); keys df and copy_df.
type DF uint8

// DF choices.
const (
	DFCopy DF = iota
	DFSet
	DFClear
)

// Limits bound the work for strangers.
type Limits struct {
	HalfOpen          int // half-open IKE SAs in all
	HalfOpenPerSource int // half-open IKE SAs of one address
	CookieThreshold   int // half-open IKE SAs from which on a cookie is demanded
	RatePerSource     int // IKE_SA_INIT requests per second of one address; 0: no limit
	HalfOpenTimeout   time.Duration
	IKESAs            int // 0: no limit
}

// Retransmit is the schedule of RFC 7296, Section 2.4: the n-th wait is
// Timeout × Base^n, at most Max, varied by Jitter percent.
type Retransmit struct {
	Timeout time.Duration
	Base    float64
	Tries   int
	Max     time.Duration // 0: no cap
	Jitter  int           // percent
}

// Connection is an IKE SA with its children: connections.<name>.
type Connection struct {
	Name    string
	Version int // 1, 2, or VersionKINK
	// Racoon2 is kink_compat: racoon2. UserToUser is the key kink_user_to_user.
	Racoon2, UserToUser bool
	// Aggressive is Aggressive Mode of IKEv1, AggressivePSK the consent to answer it
	// with a pre-shared key.
	Aggressive, AggressivePSK bool
	// LifeCheck is the key proposal_check.
	LifeCheck LifeCheck
	// Push is Mode Config without request (key pull: no).
	Push bool
	// Unity announces Cisco's extensions of Mode Config as client.
	Unity       bool
	LocalAddrs  []Host
	RemoteAddrs []Host
	LocalPort   uint16 // 0: the daemon's port
	RemotePort  uint16 // 500
	Proposals   []suite.Proposal
	VIPs        []netip.Addr // addresses to ask for; unspecified: any of that family
	Pools       []string     // pools to give addresses from
	DSCP        uint8        // of IKE packets
	Encap       bool         // force UDP encapsulation
	Mobike      bool
	NoNATs      bool // nat_traversal: no
	Mobility    Mobility
	// MobilityRole is this side's part in Mobile IPv6.
	MobilityRole keyex.MobilityRole
	// Homes is the list home_addresses of the file, for a role that needs it.
	Homes    []Home
	DPDDelay time.Duration // 0: off
	// IfIDIn and IfIDOut are those of children that give none.
	IfIDIn, IfIDOut uint32
	// Fragmentation of IKE messages (RFC 7383).
	Fragmentation Fragmentation
	SendCertReq   bool
	SendCert      SendCert
	KeyingTries   int // 0: for ever
	Unique        Unique
	ReauthTime    time.Duration // 0: never
	RekeyTime     time.Duration // 0: never
	OverTime      time.Duration // from the soft to the hard limit
	RandTime      time.Duration
	Local, Remote []*Auth // authentication rounds, in order; at least one each
	Children      []*Child
	given         []string // keys that KINK has no use for
	pos           Pos
}

// VersionKINK is the version of a connection of KINK (RFC 4430).
const VersionKINK = 0x10

// Host is an entry of local_addrs or remote_addrs: an address, a subnet, a
// range, %any or a DNS name, which is resolved again at every attempt.
type Host struct {
	Text     string
	Name     string     // DNS name, else ""
	From, To netip.Addr // range, unmapped; both invalid for %any and for a name
}

// IsAny tells whether the entry matches every address.
func (h Host) IsAny() bool { return h.Name == "" && !h.From.IsValid() }

// Dialable tells whether the entry names one peer: an address or a name.
func (h Host) Dialable() bool {
	_, one := h.Addr()
	return one || h.Name != ""
}

// Addr is the address of an entry that is exactly one.
func (h Host) Addr() (netip.Addr, bool) { return h.From, h.From.IsValid() && h.From == h.To }

// Contains tells whether an address matches; a DNS name never does.
func (h Host) Contains(a netip.Addr) bool {
	a = a.Unmap()
	if h.Name != "" {
		return false
	}
	if !h.From.IsValid() {
		return true
	}
	return a.BitLen() == h.From.BitLen() && h.From.Compare(a) <= 0 && a.Compare(h.To) <= 0
}

// ManyPeers tells whether remote_addrs stand for many peers and name none. On
// demand, the packet then says which peer is meant.
func (c *Connection) ManyPeers() bool { return !slices.ContainsFunc(c.RemoteAddrs, Host.Dialable) }

// PerPacket tells whether packets make the CHILD_SAs of a child, one for each
// value that they differ in: by its PFP flags, or because they say which peer is
// meant.
func (c *Connection) PerPacket(ch *Child) bool {
	return ch.PFP != 0 || ch.StartAction&ActionTrap != 0 && ch.SAs() && c.ManyPeers()
}

// SAs tells whether a child has SAs, and is not a policy alone.
func (c *Child) SAs() bool { return c.Mode != ModePass && c.Mode != ModeDrop }

// Fragmentation is the key of that name.
type Fragmentation uint8

// Fragmentation choices; force is about IKEv1 and means yes.
const (
	FragYes Fragmentation = iota
	FragAccept
	FragForce
	FragNo
)

// Mobility is the key of that name: how a peer hears that a mobility manager moved
// this side.
type Mobility uint8

// Mobility choices.
const (
	MobilityMOBIKE Mobility = iota // by MOBIKE, where it was agreed
	MobilityKBit                   // by its own mobility manager
	MobilityReauth                 // by a new IKE SA
)

// LifeCheck is the key proposal_check.
type LifeCheck uint8

// Check levels of IKEv1.
const (
	LifeClaim LifeCheck = iota
	LifeObey
	LifeStrict
	LifeExact
)

// SendCert is the key send_cert.
type SendCert uint8

// SendCert choices.
const (
	CertIfAsked SendCert = iota
	CertAlways
	CertNever
)

// Unique is what a second IKE SA of the same two identities does.
type Unique uint8

// Unique choices.
const (
	UniqueNo Unique = iota
	UniqueNever
	UniqueKeep
	UniqueReplace
)

// AuthClass is a class of authentication.
type AuthClass uint8

// Classes. AuthAny is for remote: any class that the configuration can check.
const (
	AuthAny AuthClass = iota
	AuthPSK
	AuthPubkey
	AuthXAuth // IKEv1: a user name and a password
)

// Auth is one authentication round of one side.
type Auth struct {
	Name  string // suffix of the section, "" usually
	Round int
	Class AuthClass
	// Implied: the configuration gave no class and this one was chosen, by what
	// secrets there are.
	Implied bool
	// ID: local, the own identity, zero when it comes from the certificate or the
	// address. Remote: the expected one, possibly %any, a subnet, a range or with
	// wildcards.
	ID ident.ID
	// CAID must occur in the peer's chain.
	CAID    ident.ID
	Certs   []*pki.Cert // local: candidates; remote: the accepted ones
	CACerts []*pki.Cert // remote: the accepted trust anchors
	// Constraints on keys and signatures, from auth texts as "rsa-2048-sha256".
	Constraints pki.Constraints
	Revocation  pki.Revocation
	CertPolicy  []string // OIDs, one of which the chain must have
	Text        string   // of the key auth
	User        string   // name of the own user for XAuth
	// Keytab and CCache are paths of the own keys, and of tickets that somebody else
	// keeps fresh, for KINK; both "": the keytab of the system.
	Keytab, CCache string
	text           string // of the key id
	Users          Users  // who knows the peer's user
	// HomeAddresses are those that the peer may have, with any protocol and port.
	HomeAddresses []spd.TS
	pos           Pos
}

// SecretType is what a shared secret is for.
type SecretType string

// Secret types.
const (
	SecretIKE  SecretType = "ike"
	SecretEAP  SecretType = "eap"
	SecretNTLM SecretType = "ntlm"
	SecretPPK  SecretType = "ppk"
)

// Secret is a shared secret and whose it is.
type Secret struct {
	Name   string // unique name, "" for none
	Type   SecretType
	Data   secret.Bytes
	Owners []ident.ID // none: %any
	pos    Pos
}

// Key is a private key.
type Key struct {
	File string // "" when it came over the control protocol
	Key  *pki.Key
	pos  Pos
}

// Cert is a certificate that was not named by a connection.
type Cert struct {
	File string
	// CA tells that it came from cacerts/ and is a trust anchor.
	CA   bool
	Cert *pki.Cert
}

// CRL is a certificate revocation list.
type CRL struct {
	File string
	CRL  *pki.CRL
}

// Pool is a pool of virtual addresses with the attributes that go with them.
type Pool struct {
	Name string
	// Base is the first address that is given, Size how many there are.
	Base netip.Addr
	Size uint64
	Text string // of addrs
	// Attrs in order, by configuration attribute number (RFC 7296, Section 3.15.1).
	Attrs []Attr
	pos   Pos
}

// Attr is a configuration attribute in wire form.
type Attr struct {
	Type  uint16
	Value []byte
}

// Authority is a CA with what belongs to it.
type Authority struct {
	Name        string
	CACert      *pki.Cert
	CRLURIs     []string
	OCSPURIs    []string
	CertURIBase string
	pos         Pos
}

// Pos is where something was written.
type Pos struct {
	File string
	Line int    // 0: unknown
	Key  string // path, as connections[office].children[net].local_ts[0]
	// lines of the keys below, when known
	lines *lineTable
}

type lineTable struct{ of map[string]int }
