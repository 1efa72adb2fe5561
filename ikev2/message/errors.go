package message

import (
	"errors"
	"fmt"

	"iked/internal/isakmp"
)

// Action is what an error puts on the wire.
type Action uint8

const (
	// Drop: the message is forgotten, nothing is sent and no state changes.
	Drop Action = iota
	// NotifyPeer: the request is answered with the notify of the error; the
	// IKE SA goes on.
	NotifyPeer
	// Fatal: the request is answered with the notify of the error and the IKE
	// SA is closed (RFC 7296, Section 2.21.3). When the faulty message was a
	// response there is nothing to answer: the IKE SA is closed.
	Fatal
)

func (a Action) String() string {
	switch a {
	case Drop:
		return "drop"
	case NotifyPeer:
		return "notify"
	case Fatal:
		return "fatal"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// Reason is a stable word fit to label a counter; see isakmp.Reason.
type Reason = isakmp.Reason

// Reasons of this package, besides those of isakmp.
const (
	ReasonVersion           Reason = "major-version"
	ReasonZeroSPI           Reason = "zero-spi"
	ReasonExchange          Reason = "exchange-type"
	ReasonDirection         Reason = "direction"
	ReasonCritical          Reason = "critical-payload"
	ReasonPayloadSyntax     Reason = "payload-syntax"
	ReasonMissingPayload    Reason = "missing-payload"
	ReasonDuplicatePayload  Reason = "duplicate-payload"
	ReasonProposal          Reason = "proposal-syntax"
	ReasonTooManyProposals  Reason = "too-many-proposals"
	ReasonNotEncrypted      Reason = "not-encrypted"
	ReasonEncryptedInside   Reason = "unexpected-encrypted-payload"
	ReasonIntegrity         Reason = "integrity"
	ReasonPadding           Reason = "padding"
	ReasonFragmentNumber    Reason = "fragment-number"
	ReasonFragmentTotal     Reason = "fragment-total"
	ReasonFragmentMismatch  Reason = "fragment-mismatch"
	ReasonFragmentDuplicate Reason = "fragment-duplicate"
	ReasonFragmentBudget    Reason = "fragment-budget"
)

// Error is a fault in a message, with what the receiver does about it.
type Error struct {
	Action Action
	// Notify and Data are the notify to send; NoNotify with Drop.
	Notify NotifyType
	Data   []byte
	Reason Reason
	Detail string // what was expected and what was found
	Err    error  // what caused it, or nil
}

func (e *Error) Error() string {
	s := string(e.Reason) + ": " + e.Detail
	if e.Action != Drop {
		s += " (" + e.Notify.Name() + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// drop is an error that answers nothing.
func drop(r Reason, format string, args ...any) *Error {
	return &Error{Action: Drop, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// syntax is a fault in what a payload or message contains. INVALID_SYNTAX is
// only ever sent inside a message that was protected (RFC 7296, Section
// 3.10.1); for others finish turns it into a drop.
func syntax(r Reason, format string, args ...any) *Error {
	return &Error{Action: Fatal, Notify: InvalidSyntax, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// finish turns err into what applies to a message that was, or was not,
// cryptographically protected.
func finish(err error, protected bool) error {
	if err == nil {
		return nil
	}
	e := new(Error)
	if !errors.As(err, &e) {
		e = syntax(ReasonPayloadSyntax, "%v", err)
		e.Err = err
		var ie *isakmp.Error
		if errors.As(err, &ie) {
			e.Reason, e.Detail = ie.Reason, ie.Error()
		}
	}
	if !protected && e.Notify == InvalidSyntax {
		e.Action, e.Notify, e.Data = Drop, NoNotify, nil
	}
	return e
}
