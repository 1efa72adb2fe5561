package kink

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
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
	ErrBadVersion      = 39 // KRB_AP_ERR_BADVERSION
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

const (
	krbErrorTag  = 30
	krbErrorType = 30
	nameSrvHst   = 3
	namePrinc    = 1
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
	var e KRBError
	if len(b) > maxKRBError {
		return e, fmt.Errorf("a KRB-ERROR of %d octets; at most %d are read", len(b), maxKRBError)
	}
	in := cryptobyte.String(b)
	var app, seq cryptobyte.String
	if !in.ReadASN1(&app, casn1.Tag(krbErrorTag).Constructed()|0x40) || !in.Empty() || !app.ReadASN1(&seq, casn1.SEQUENCE) || !app.Empty() {
		return e, errKRBError
	}
	r := errorReader{s: seq}
	var pvno, kind, cusec, susec, code int64
	r.integer(0, false, &pvno)
	r.integer(1, false, &kind)
	hasCTime := r.time(2, true, &e.CTime)
	r.integer(3, true, &cusec)
	r.time(4, false, &e.STime)
	r.integer(5, false, &susec)
	r.integer(6, false, &code)
	var crealm, realm, text string
	var cname, sname []string
	r.text(7, true, &crealm)
	r.name(8, true, &cname)
	r.text(9, false, &realm)
	r.name(10, false, &sname)
	r.text(11, true, &text)
	var data cryptobyte.String
	if r.field(12, true, &data) {
		var octets cryptobyte.String
		if !data.ReadASN1(&octets, casn1.OCTET_STRING) || !data.Empty() {
			r.fail()
		}
		e.Data = append([]byte(nil), octets...)
	}
	switch {
	case r.bad || !r.s.Empty():
		return KRBError{}, errKRBError
	case pvno != 5 || kind != krbErrorType:
		return KRBError{}, fmt.Errorf("a KRB-ERROR with version %d and type %d; 5 and %d are expected", pvno, kind, krbErrorType)
	case susec < 0 || susec > 999999 || cusec < 0 || cusec > 999999 || cusec != 0 && !hasCTime:
		return KRBError{}, errKRBError
	case code < math.MinInt32 || code > math.MaxInt32:
		return KRBError{}, errKRBError
	}
	e.Code = int32(code)
	e.STime = e.STime.Add(time.Duration(susec) * time.Microsecond)
	if hasCTime {
		e.CTime = e.CTime.Add(time.Duration(cusec) * time.Microsecond)
	}
	// A name that is none does not spoil the code.
	if p, err := NewPrincipal(crealm, cname...); err == nil {
		e.Client = p
	}
	if p, err := NewPrincipal(realm, sname...); err == nil {
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

// errorReader reads the fields of a SEQUENCE with explicit context tags, in order;
// what does not fit sets bad.
type errorReader struct {
	s   cryptobyte.String
	bad bool
}

func (r *errorReader) fail() { r.bad = true }

// field enters the field with a tag, and tells whether it is there.
func (r *errorReader) field(tag int, optional bool, out *cryptobyte.String) bool {
	var there bool
	if r.bad || !r.s.ReadOptionalASN1(out, &there, casn1.Tag(tag).Constructed().ContextSpecific()) || !there && !optional {
		r.fail()
		return false
	}
	return there
}

func (r *errorReader) integer(tag int, optional bool, out *int64) {
	var f cryptobyte.String
	if r.field(tag, optional, &f) && (!f.ReadASN1Integer(out) || !f.Empty()) {
		r.fail()
	}
}

func (r *errorReader) time(tag int, optional bool, out *time.Time) bool {
	var f cryptobyte.String
	there := r.field(tag, optional, &f)
	if there && (!f.ReadASN1GeneralizedTime(out) || !f.Empty()) {
		r.fail()
	}
	return there
}

func (r *errorReader) text(tag int, optional bool, out *string) {
	var f, v cryptobyte.String
	if !r.field(tag, optional, &f) {
		return
	}
	if !f.ReadASN1(&v, casn1.GeneralString) || !f.Empty() {
		r.fail()
	}
	*out = string(v)
}

func (r *errorReader) name(tag int, optional bool, out *[]string) {
	var f, seq, list, v cryptobyte.String
	if !r.field(tag, optional, &f) {
		return
	}
	n := errorReader{}
	if !f.ReadASN1(&seq, casn1.SEQUENCE) || !f.Empty() {
		r.fail()
		return
	}
	n.s = seq
	var kind int64
	n.integer(0, false, &kind)
	var strs cryptobyte.String
	if !n.field(1, false, &strs) || n.bad || !n.s.Empty() || !strs.ReadASN1(&list, casn1.SEQUENCE) || !strs.Empty() {
		r.fail()
		return
	}
	for !list.Empty() {
		if !list.ReadASN1(&v, casn1.GeneralString) || len(*out) > maxComponents {
			r.fail()
			return
		}
		*out = append(*out, string(v))
	}
}

// Append appends the message in DER. An error without a server cannot be said.
func (e KRBError) Append(b []byte) ([]byte, error) {
	if e.Server.IsZero() {
		return nil, errors.New("a KRB-ERROR names the server")
	}
	w := cryptobyte.NewBuilder(b)
	w.AddASN1(casn1.Tag(krbErrorTag).Constructed()|0x40, func(w *cryptobyte.Builder) {
		w.AddASN1(casn1.SEQUENCE, func(w *cryptobyte.Builder) {
			field := func(tag int, f func(*cryptobyte.Builder)) {
				w.AddASN1(casn1.Tag(tag).Constructed().ContextSpecific(), f)
			}
			integer := func(tag int, v int64) {
				field(tag, func(w *cryptobyte.Builder) { w.AddASN1Int64(v) })
			}
			at := func(tag int, t time.Time) {
				t = t.UTC()
				field(tag, func(w *cryptobyte.Builder) { w.AddASN1GeneralizedTime(t) })
				integer(tag+1, int64(t.Nanosecond()/1000))
			}
			text := func(tag int, s string) {
				field(tag, func(w *cryptobyte.Builder) { addGeneralString(w, s) })
			}
			name := func(tag int, p Principal) {
				field(tag, func(w *cryptobyte.Builder) { addName(w, p) })
			}
			integer(0, 5)
			integer(1, krbErrorType)
			if !e.CTime.IsZero() {
				at(2, e.CTime)
			}
			at(4, e.STime)
			integer(6, int64(e.Code))
			if !e.Client.IsZero() {
				text(7, e.Client.Realm())
				name(8, e.Client)
			}
			text(9, e.Server.Realm())
			name(10, e.Server)
			if e.Text != "" {
				text(11, e.Text)
			}
			if len(e.Data) > 0 {
				field(12, func(w *cryptobyte.Builder) { w.AddASN1OctetString(e.Data) })
			}
		})
	})
	return w.Bytes()
}

func addGeneralString(w *cryptobyte.Builder, s string) {
	w.AddASN1(casn1.GeneralString, func(w *cryptobyte.Builder) { w.AddBytes([]byte(s)) })
}

// addName writes a PrincipalName: a service with its host, or a plain principal
// (RFC 4120, Section 6.2).
func addName(w *cryptobyte.Builder, p Principal) {
	parts := p.Components()
	kind := int64(namePrinc)
	if len(parts) == 2 {
		kind = nameSrvHst
	}
	w.AddASN1(casn1.SEQUENCE, func(w *cryptobyte.Builder) {
		w.AddASN1(casn1.Tag(0).Constructed().ContextSpecific(), func(w *cryptobyte.Builder) { w.AddASN1Int64(kind) })
		w.AddASN1(casn1.Tag(1).Constructed().ContextSpecific(), func(w *cryptobyte.Builder) {
			w.AddASN1(casn1.SEQUENCE, func(w *cryptobyte.Builder) {
				for _, c := range parts {
					addGeneralString(w, c)
				}
			})
		})
	})
}
