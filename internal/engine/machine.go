package engine

import (
	"iter"
	"time"

	"iked/ikev2"
)

// machine is an IKE SA's state machine as the engine drives it (package ikev2).
type machine interface {
	Receive(now time.Time, d ikev2.Datagram)
	Start(now time.Time, t ikev2.Task)
	Resume(now time.Time, id ikev2.RequestID, r ikev2.Reply)
	Advance(now time.Time)
	NextDeadline() time.Time
	Outputs() iter.Seq[ikev2.Output]
	facts
}

// facts are what the engine reads from a state machine.
type facts interface {
	Identify() identity
	Look() SAInfo
	// Config is the configuration in use; nil while a responder has not chosen.
	Config() *ikev2.Config
}

// identity is what names an IKE SA in the engine: its number, and the SPI that
// this system chose for it.
type identity struct {
	ID  uint32
	SPI ikev2.SPI
}
