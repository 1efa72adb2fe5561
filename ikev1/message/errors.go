package message

import (
	"errors"
	"fmt"

	"iked/internal/isakmp"
)

// Reason is a stable word fit to label a counter; see isakmp.Reason.
type Reason = isakmp.Reason

// Reasons of this package, besides those of isakmp.
const (
	ReasonVersion          Reason = "major-version"
	ReasonZeroCookie       Reason = "zero-cookie"
	ReasonFlags            Reason = "flags"
	ReasonPayloadType      Reason = "payload-type"
	ReasonPayloadSyntax    Reason = "payload-syntax"
	ReasonReserved         Reason = "reserved-octet"
	ReasonProposal         Reason = "proposal-syntax"
	ReasonTooManyProposals Reason = "too-many-proposals"
	ReasonAttribute        Reason = "attribute-syntax"
	ReasonDOI              Reason = "doi"
	ReasonSituation        Reason = "situation"
	ReasonFragment         Reason = "fragment"
	ReasonFragmentBudget   Reason = "fragment-budget"
)

// Error is a fault in a message. Notify is what RFC 2408, Section 5 lets the
// receiver tell, 0 for nothing; whether it is told is the state machine's
// decision, since nothing in clear is authenticated.
type Error struct {
	Notify NotifyType
	Reason Reason
	Detail string // what was expected and what was found
	Err    error  // what caused it, or nil
}

func (e *Error) Error() string {
	s := string(e.Reason) + ": " + e.Detail
	if e.Notify != 0 {
		s += " (" + e.Notify.Name() + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

func fault(n NotifyType, r Reason, format string, args ...any) *Error {
	return &Error{Notify: n, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

func short(t PayloadType, want, got int) *Error {
	return fault(PayloadMalformed, ReasonPayloadSyntax, "%v has at least %d octets, found %d", t, want, got)
}

// asError makes an *Error of one of internal/isakmp.
func asError(err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	e = &Error{Notify: PayloadMalformed, Reason: ReasonPayloadSyntax, Detail: err.Error(), Err: err}
	var ie *isakmp.Error
	if errors.As(err, &ie) {
		e.Reason = ie.Reason
	}
	return e
}
