// Package kink is Kerberized Internet Negotiation of Keys (RFC 4430): two hosts
// that have principals in Kerberos make IPsec SAs with one exchange of two or three
// messages under the session key of a ticket.
package kink

import (
	"net/netip"
	"time"

	"iked/internal/keyex"
)

// Key usage numbers of KINK (RFC 4430, Section 9).
const (
	UsageEncrypt  = 39
	UsageChecksum = 40
)

// PRFForm chooses the pseudo-random function of AES in RFC 3962.
type PRFForm uint8

// Forms. RFC 3962 gives a message block of one octet, and RFC 3961's function cuts
// the hash to a multiple of it. MIT and Heimdal cut to the cipher's block, so the
// function returns 16 octets; racoon2 takes the text literally and returns 20. The
// other encryption types have one form.
const (
	PRFStandard PRFForm = iota
	PRFRacoon2
)

// SessionKey is the session key of a ticket. Usage numbers are those above.
// Subkeys of authenticators are not used (RFC 4430, Section 3).
type SessionKey interface {
	// EType is the encryption type, 16 to 20.
	EType() int32
	Encrypt(usage uint32, plain []byte) ([]byte, error)
	// Decrypt checks the integrity; padding of block ciphers stays at the end.
	Decrypt(usage uint32, cipher []byte) ([]byte, error)
	// Checksum is the keyed checksum that the encryption type requires.
	Checksum(usage uint32, b []byte) ([]byte, error)
	// Verify compares in constant time.
	Verify(usage uint32, b, sum []byte) bool
	// PRF is pseudo-random of RFC 3961: 16 octets with 3DES, 16 (20 in racoon2's
	// form) with AES of RFC 3962, 32 and 48 with the types of RFC 8009.
	PRF(form PRFForm, b []byte) ([]byte, error)
}

// Ticket is a service ticket for a peer and the session key in it.
type Ticket interface {
	Client() Principal
	Server() Principal
	Key() SessionKey
	// End is when it expires, in this system's time.
	End() time.Time
	// Request makes a KRB_AP_REQ with a fresh authenticator, as each transmission
	// needs; mutual authentication is asked for.
	Request(now time.Time) (apReq []byte, v Verifier, err error)
	// Skew tells the peer's time, which an authenticated KRB_AP_ERR_SKEW brought:
	// authenticators for that peer bear its time from now on.
	Skew(now, peer time.Time)
	// Drop tells that the peer does not answer to it: the next GetTicket asks the KDC.
	Drop()
}

// Verifier checks the answer to one KRB_AP_REQ.
type Verifier interface {
	// Check is nil when the KRB_AP_REP belongs to the request and to its key.
	Check(apRep []byte) error
}

// Acceptor has the own keys: those of the keytab, and for user-to-user the session
// keys of the own ticket-granting tickets that were handed out.
type Acceptor interface {
	// Accept checks a KRB_AP_REQ that came from an address. It costs some
	// decryptions with symmetric keys and no input or output but a record of the
	// replay cache. An error is a *KerberosError with the code of RFC 4120; a
	// KRB_AP_ERR_REPEAT calls for silence.
	Accept(now time.Time, apReq []byte, from netip.Addr) (Accepted, error)
}

// Accepted is a KRB_AP_REQ whose ticket and authenticator are authentic.
type Accepted struct {
	Client, Server Principal
	Key            SessionKey
	// End is when the ticket expires, in this system's time.
	End time.Time
	// APRep answers it.
	APRep []byte
	// Problem is nil, KRB_AP_ERR_SKEW or KRB_AP_ERR_TKT_EXPIRED: then nothing may be
	// done but to answer with APRep and, encrypted, the error (RFC 4430, Section 3.5).
	Problem *KRBError
}

// GetTicket asks for a ticket of Client for Server. Reply: TicketReply. The ticket may
// be for the server in another realm, when the KDCs refer to it: hold its Server
// against the policy. ErrUserToUserOnly means that the server has no key: ask it for
// its ticket-granting ticket.
type GetTicket struct {
	keyex.OwnWork
	Client, Server Principal
	// TGT is the peer's ticket-granting ticket, DER, for user-to-user: the ticket is
	// encrypted in its session key. Nil: the peer has a key in its keytab.
	TGT []byte
	// Refresh asks the KDC also when there is a ticket that has not expired.
	Refresh bool
}

// TicketReply answers GetTicket. Err is a *KerberosError.
type TicketReply struct {
	keyex.OwnReply
	Ticket Ticket
	Err    error
}

// TGTReply is what a GETTGT is answered with: a DER Ticket. Err is a *KerberosError.
type TGTReply struct {
	TGT []byte
	Err error
}

// KerberosError says why Kerberos failed, in words for a person.
type KerberosError struct {
	// Code is of RFC 4120, Section 7.5.9; 0 when it did not come to that.
	Code int32
	// Sentence says what failed, Advice what to change; Evidence has what was found,
	// line by line.
	Sentence string
	Advice   string
	Evidence []string
	// Temporary: trying again later may help without any change here.
	Temporary bool
}

// Error implements error.
func (e *KerberosError) Error() string { return e.Sentence }
