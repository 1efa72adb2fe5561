package ikev2

import (
	"iter"
	"net/netip"
	"time"
)

// SA is one IKE SA (RFC 7296).
type SA struct{}

// NewInitiator makes an SA that will initiate when Start(StartInit) is called.
func NewInitiator(env Env, cfg *Config, local, remote netip.AddrPort) *SA { return &SA{} }

// NewResponder makes an SA for an IKE_SA_INIT request that passed the gate.
func NewResponder(env Env, local, remote netip.AddrPort, natt bool) *SA { return &SA{} }

// Receive takes a datagram addressed to this SA.
func (sa *SA) Receive(now time.Time, d Datagram) {}

// Start queues a task.
func (sa *SA) Start(now time.Time, t Task) {}

// Resume brings the result of a Request.
func (sa *SA) Resume(now time.Time, id RequestID, r Reply) {}

// Advance tells that NextDeadline has passed.
func (sa *SA) Advance(now time.Time) {}

// NextDeadline is when Advance must be called; zero: never.
func (sa *SA) NextDeadline() time.Time { return time.Time{} }

// Outputs drains what the last calls produced.
func (sa *SA) Outputs() iter.Seq[Output] { return func(func(Output) bool) {} }
