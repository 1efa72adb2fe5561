// Package ikev2 is the IKEv2 state machine of RFC 7296: bytes and a time go in,
// values come out. It knows no socket, clock, goroutine, logger or file. What it
// says to who drives it is that of every key exchange: package internal/keyex,
// whose names it takes over.
package ikev2

import "iked/internal/keyex"

// The contract; see package keyex.
type (
	Status         = keyex.Status
	SPI            = keyex.SPI
	Datagram       = keyex.Datagram
	AuthClass      = keyex.AuthClass
	AuthConfig     = keyex.AuthConfig
	Selector       = keyex.Selector
	Lifetime       = keyex.Lifetime
	ChildConfig    = keyex.ChildConfig
	Fragmentation  = keyex.Fragmentation
	Config         = keyex.Config
	SendCert       = keyex.SendCert
	Retransmit     = keyex.Retransmit
	Env            = keyex.Env
	RequestID      = keyex.RequestID
	Output         = keyex.Output
	Send           = keyex.Send
	Request        = keyex.Request
	Event          = keyex.Event
	Closed         = keyex.Closed
	Tombstone      = keyex.Tombstone
	KeepAlive      = keyex.KeepAlive
	CloseReason    = keyex.CloseReason
	Task           = keyex.Task
	StartInit      = keyex.StartInit
	CreateChild    = keyex.CreateChild
	RekeyChild     = keyex.RekeyChild
	DeleteChild    = keyex.DeleteChild
	RekeyIKE       = keyex.RekeyIKE
	Delete         = keyex.Delete
	Liveness       = keyex.Liveness
	PeerMoved      = keyex.PeerMoved
	NetworkChanged = keyex.NetworkChanged
	Relocated      = keyex.Relocated
	ChildRelocated = keyex.ChildRelocated
	Child          = keyex.Child
	ChildState     = keyex.ChildState
	SAState        = keyex.SAState
	SAEvent        = keyex.SAEvent
	Log            = keyex.Log
	Failed         = keyex.Failed
	Up             = keyex.Up
	ChildUp        = keyex.ChildUp
	ChildDown      = keyex.ChildDown
	ChildReplaced  = keyex.ChildReplaced
	NewSA          = keyex.NewSA
	ReauthDue      = keyex.ReauthDue
	Moved          = keyex.Moved
	Count          = keyex.Count
	Work           = keyex.Work
	Compute        = keyex.Compute
	AllocSPI       = keyex.AllocSPI
	FreeSPI        = keyex.FreeSPI
	Sign           = keyex.Sign
	Verify         = keyex.Verify
	ChooseIdentity = keyex.ChooseIdentity
	Cert           = keyex.Cert
	AssignAddress  = keyex.AssignAddress
	ReleaseAddress = keyex.ReleaseAddress
	UseAddress     = keyex.UseAddress
	InstallChild   = keyex.InstallChild
	MoveChild      = keyex.MoveChild
	RemoveChild    = keyex.RemoveChild
	LastInbound    = keyex.LastInbound
	FindPaths      = keyex.FindPaths
	Path           = keyex.Path
	PathsReply     = keyex.PathsReply
	Reply          = keyex.Reply
	SPIReply       = keyex.SPIReply
	SignReply      = keyex.SignReply
	IdentityReply  = keyex.IdentityReply
	VerifyReply    = keyex.VerifyReply
	AddressReply   = keyex.AddressReply
	Attribute      = keyex.Attribute
	DoneReply      = keyex.DoneReply
	TimeReply      = keyex.TimeReply
	KEReply        = keyex.KEReply
)

// Values of the contract.
const (
	AuthAny          = keyex.AuthAny
	AuthPSK          = keyex.AuthPSK
	AuthPubkey       = keyex.AuthPubkey
	FragYes          = keyex.FragYes
	FragAccept       = keyex.FragAccept
	FragNo           = keyex.FragNo
	CertIfAsked      = keyex.CertIfAsked
	CertAlways       = keyex.CertAlways
	CertNever        = keyex.CertNever
	CloseAsked       = keyex.CloseAsked
	ClosePeerDeleted = keyex.ClosePeerDeleted
	CloseFailed      = keyex.CloseFailed
	CloseTimeout     = keyex.CloseTimeout
	CloseRekeyed     = keyex.CloseRekeyed
	CloseExpired     = keyex.CloseExpired
	CloseHalfOpen    = keyex.CloseHalfOpen
	CloseReplaced    = keyex.CloseReplaced
	CloseInternal    = keyex.CloseInternal
	CloseRetry       = keyex.CloseRetry
	ChildCreated     = keyex.ChildCreated
	ChildInstalling  = keyex.ChildInstalling
	ChildInstalled   = keyex.ChildInstalled
	ChildUpdating    = keyex.ChildUpdating
	ChildRekeying    = keyex.ChildRekeying
	ChildRekeyed     = keyex.ChildRekeyed
	ChildDeleting    = keyex.ChildDeleting
	ChildDeleted     = keyex.ChildDeleted
	Created          = keyex.Created
	Connecting       = keyex.Connecting
	Established      = keyex.Established
	Rekeying         = keyex.Rekeying
	Rekeyed          = keyex.Rekeyed
	Deleting         = keyex.Deleting
	Destroying       = keyex.Destroying
)

var _ keyex.Machine = (*SA)(nil)
