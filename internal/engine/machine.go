package engine

import (
	"iked/ikev2"
	"iked/internal/keyex"
)

// machine is an IKE SA's state machine as the engine drives it.
type machine interface {
	keyex.Machine
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
