package kink

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"iked/kink/der"
)

// Codes of RFC 4120, Section 7.5.9, that KINK acts on or makes.
const (
	ErrClientUnknown   = 6  // KDC_ERR_C_PRINCIPAL_UNKNOWN
	ErrServerUnknown   = 7  // KDC_ERR_S_PRINCIPAL_UNKNOWN
	ErrBadIntegrity    = 31 // KRB_AP_ERR_BAD_INTEGRITY
	ErrTicketExpired   = 32 // KRB_AP_ERR_TKT_EXPIRED
	ErrTicketNotValid  = 33 // KRB_AP_ERR_TKT_NYV
	ErrRepeat          = 34 // KRB_AP_ERR_REPEAT
	ErrNotUs           = 35 // KRB_AP_ERR_NOT_US
	ErrBadMatch        = 36 // KRB_AP_ERR_BADMATCH
	ErrSkew            = 37 // KRB_AP_ERR_SKEW
	ErrBadAddress      = 38 // KRB_AP_ERR_BADADDR
	ErrMessageType     = 40 // KRB_AP_ERR_MSG_TYPE
	ErrModified        = 41 // KRB_AP_ERR_MODIFIED
	ErrBadKeyVersion   = 44 // KRB_AP_ERR_BADKEYVER
	ErrNoKey           = 45 // KRB_AP_ERR_NOKEY
	ErrMutual          = 46 // KRB_AP_ERR_MUT_FAIL
	ErrGeneric         = 60 // KRB_ERR_GENERIC
	ErrUserToUserOnly  = 27 // KDC_ERR_MUST_USE_USER2USER
	ErrUserToUserNoTGT = 67 // KRB_AP_ERR_NO_TGT
)

// maxKRBError bounds a KRB-ERROR, in octets: an e-data of a KDC has certificates at
// worst, one of a peer has nothing.
const maxKRBError = 8192

// KRBError is the message KRB-ERROR (RFC 4120, Section 5.9.1). Server is required;
// the rest of the optional fields may be zero. EText and EData are what the sender
// says, not more.
type KRBError struct {
	Code int32
	// STime is the sender's time, to the microsecond.
	STime time.Time
	// CTime is the time of the authenticator that it answers.
	CTime          time.Time
	Client, Server Principal
	Text           string
	Data           []byte
}

// krbErrorTag is its application tag and its message type.
const krbErrorTag = 30

// Name types (RFC 4120, Section 6.2).
const (
	namePrincipal = 1
	nameSrvHst    = 3
)

var errKRBError = errors.New("no KRB-ERROR")

// ParseKRBError reads a KRB-ERROR in DER.
//
//	KRB-ERROR ::= [APPLICATION 30] SEQUENCE { pvno [0] INTEGER (5), msg-type [1]
//	INTEGER (30), ctime [2] KerberosTime OPTIONAL, cusec [3] Microseconds OPTIONAL,
//	stime [4] KerberosTime, susec [5] Microseconds, error-code [6] Int32, crealm [7]
//	Realm OPTIONAL, cname [8] PrincipalName OPTIONAL, realm [9] Realm, sname [10]
//	PrincipalName, e-text [11] KerberosString OPTIONAL, e-data [12] OCTET STRING
//	OPTIONAL }
func ParseKRBError(b []byte) (KRBError, error) {
	if len(b) > maxKRBError {
		return KRBError{}, fmt.Errorf("a KRB-ERROR of %d octets; at most %d are read", len(b), maxKRBError)
	}
	var e KRBError
	r := der.Application(b, krbErrorTag)
	r.Version(0, 5)
	r.Version(1, krbErrorTag)
	ctime, hasCTime := r.OptTime(2)
	cusec, _ := r.OptMicro(3)
	stime := r.Time(4)
	susec := r.Micro(5)
	e.Code = r.Int32(6)
	crealm := r.OptText(7)
	cname, _ := r.OptName(8)
	realm := r.Text(9)
	sname := r.Name(10)
	text := r.OptText(11)
	if data, there := r.OptOctets(12); there {
		e.Data = append([]byte(nil), data...)
	}
	if !r.End() {
		return KRBError{}, errKRBError
	}
	e.STime = stime.Add(susec)
	if hasCTime {
		e.CTime = ctime.Add(cusec)
	}
	// A name that is none does not spoil the code.
	if p, err := NewPrincipal(crealm, cname.Parts...); err == nil {
		e.Client = p
	}
	if p, err := NewPrincipal(realm, sname.Parts...); err == nil {
		e.Server = p
	}
	e.Text = printable(text)
	return e, nil
}

// printable keeps what a log can show of a stranger's text.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > 256 {
		s = strings.ToValidUTF8(s[:256], "")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// Append appends the message in DER. An error without a server cannot be said.
func (e KRBError) Append(b []byte) ([]byte, error) {
	if e.Server.IsZero() {
		return nil, errors.New("a KRB-ERROR names the server")
	}
	return der.AppendApplication(b, krbErrorTag, func(w der.Writer) {
		w.Int(0, 5)
		w.Int(1, krbErrorTag)
		if !e.CTime.IsZero() {
			w.Time(2, e.CTime)
			w.Micro(3, e.CTime)
		}
		w.Time(4, e.STime)
		w.Micro(5, e.STime)
		w.Int(6, int64(e.Code))
		if !e.Client.IsZero() {
			w.Text(7, e.Client.Realm())
			w.Name(8, e.Client.DER())
		}
		w.Text(9, e.Server.Realm())
		w.Name(10, e.Server.DER())
		if e.Text != "" {
			w.Text(11, e.Text)
		}
		if len(e.Data) > 0 {
			w.Octets(12, e.Data)
		}
	})
}

// DER is the PrincipalName: a service with its host, or a plain principal (RFC
// 4120, Section 6.2).
func (p Principal) DER() der.Name {
	n := der.Name{Type: namePrincipal, Parts: p.Components()}
	if len(n.Parts) == 2 {
		n.Type = nameSrvHst
	}
	return n
}
