package backend

import (
	"errors"
	"net/netip"
	"time"

	"iked/spd"
)

// Errors that callers tell apart with errors.Is; what a backend returns wraps
// them with the SA or the address it is about.
var (
	// ErrNotFound: the SA does not exist.
	ErrNotFound = errors.New("no such SA")
	// ErrExists: an SA with this ID is already installed.
	ErrExists = errors.New("SA exists")
	// ErrClosed: the backend was closed.
	ErrClosed = errors.New("backend is closed")
	// ErrUnsupported: the SA has a property that the backend cannot carry.
	ErrUnsupported = errors.New("not supported by this backend")
	// ErrInvalid: the SA or the policy contradicts itself.
	ErrInvalid = errors.New("invalid")
)

// AddressInstaller is implemented by a backend that can put a virtual address
// (RFC 7296, Section 2.19) on its own device. Both methods may be called more
// than once with the same address; RemoveAddress takes it away when it was
// called as often as AddAddress.
type AddressInstaller interface {
	AddAddress(p netip.Prefix) error
	RemoveAddress(p netip.Prefix) error
}

// AcquireAnswerer is implemented by a backend that wants to know that an Acquire
// will not be answered: no SA can be had. What waits for it is dropped, and the
// policy asks again after retry at the earliest.
type AcquireAnswerer interface {
	AcquireFailed(policy uint64, flow spd.Flow, retry time.Duration)
}

// AcquireTaker is implemented by a backend beside which others put policies in.
type AcquireTaker interface {
	// AcquireTaken tells that the question of somebody else's policy, which has the
	// number 0, is answered here: by an SA or by AcquireFailed. Other such questions
	// are left alone.
	AcquireTaken(flow spd.Flow)
}
