// Package xfrm is the kernel backend: SAs and policies are given to the IPsec
// stack of the Linux kernel (XFRM) over netlink, which carries the packets.
package xfrm

import (
	"errors"
	"time"

	"iked/crypto/suite"
	"iked/internal/trace"
	"iked/spd"
)

// Options of New. The zero value of a field is its default.
type Options struct {
	// Log gets what a person should know; it must not block. nil: none.
	Log func(trace.Record)
	// State is a folder for the journal of what was put into the kernel, so that a
	// process that starts after a crash finds it and touches nothing else. "": none,
	// and then what a crashed process left behind stays.
	State string
	// Device gets virtual addresses (RFC 7296, Section 2.19); DefaultDevice. It is
	// made when the first address comes, and removed with the last.
	Device string
	// Sweep is how often the kernel is compared with what should be there;
	// DefaultSweep.
	Sweep time.Duration
}

// Defaults of Options.
const (
	DefaultDevice = "ipsec0"
	DefaultSweep  = 30 * time.Second
)

// Report is what a kernel has, found out by trying.
type Report struct {
	// Missing names what is absent, in words: "CONFIG_INET_ESP is not set".
	Missing []string
	// Usable is empty, or why this kernel can carry nothing.
	Unusable string
	// IfID tells that SAs and policies can be bound to XFRM interfaces.
	IfID bool
}

// Supports tells whether an SA with these properties can be carried, and if not,
// why. integ is the zero Transform for a combined-mode cipher.
func (r *Report) Supports(proto suite.Protocol, mode spd.Mode, encr, integ suite.Transform, esn bool) (ok bool, reason string) {
	if r.Unusable != "" {
		return false, r.Unusable
	}
	return true, ""
}

// Probe finds out what the kernel of the calling thread's network namespace has.
// Nothing remains of it. The error is that of a system where nothing can be found
// out, such as one without CAP_NET_ADMIN.
func Probe() (Report, error) {
	return Report{Unusable: errNotYet.Error()}, nil
}

var errNotYet = errors.New("the kernel backend is not in this version")

// Backend implements backend.Backend with the kernel's IPsec stack.
type Backend struct{}

// New opens the backend in the network namespace of the calling thread.
func New(o Options) (*Backend, error) {
	return nil, errNotYet
}
