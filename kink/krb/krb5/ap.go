package krb5

import (
	"fmt"
	"time"

	"iked/kink/der"
)

// Checksum is RFC 4120, Section 5.2.9.
type Checksum struct {
	Type int32
	Sum  []byte
}

// Authenticator is RFC 4120, Section 5.5.1. A subkey and a sequence number are read
// over: KINK does not use them.
type Authenticator struct {
	CRealm   string
	Client   der.Name
	Checksum *Checksum
	// CTime is ctime and cusec.
	CTime time.Time
}

// ParseAuthenticator reads an Authenticator.
func ParseAuthenticator(b []byte) (Authenticator, error) {
	r := der.Application(b, TypeAuthenticator)
	var a Authenticator
	r.Version(0, version)
	a.CRealm = r.Text(1)
	a.Client = r.Name(2)
	if in, there := r.OptSequence(3); there {
		a.Checksum = &Checksum{in.Int32(0), in.Octets(1)}
		in.End()
	}
	usec := r.Micro(4)
	a.CTime = r.Time(5).Add(usec)
	if in, there := r.OptSequence(6); there {
		in.Int32(0)
		in.Octets(1)
		in.End()
	}
	r.OptInt(7)
	r.OptRaw(8)
	if !r.End() {
		return Authenticator{}, errDER("Authenticator")
	}
	return a, nil
}

// Append appends the Authenticator.
func (a Authenticator) Append(b []byte) ([]byte, error) {
	return der.AppendApplication(b, TypeAuthenticator, func(w der.Writer) {
		w.Int(0, version)
		w.Text(1, a.CRealm)
		w.Name(2, a.Client)
		if a.Checksum != nil {
			w.Sequence(3, func(w der.Writer) {
				w.Int(0, int64(a.Checksum.Type))
				w.Octets(1, a.Checksum.Sum)
			})
		}
		w.Micro(4, a.CTime)
		w.Time(5, a.CTime)
	})
}

// APReq is KRB_AP_REQ (RFC 4120, Section 5.5.1).
type APReq struct {
	Options       uint32
	Ticket        Ticket
	Authenticator EncryptedData
}

// ParseAPReq reads a KRB_AP_REQ.
func ParseAPReq(b []byte) (APReq, error) {
	if len(b) > MaxAPReq {
		return APReq{}, fmt.Errorf("a KRB_AP_REQ of %d octets; at most %d are read", len(b), MaxAPReq)
	}
	r := der.Application(b, TypeAPReq)
	var a APReq
	r.Version(0, version)
	r.Version(1, TypeAPReq)
	a.Options = r.Flags(2)
	in, raw := r.Application(3, TypeTicket)
	a.Ticket = readTicket(in, raw)
	a.Authenticator = readEncrypted(r, 4)
	if !r.End() {
		return APReq{}, errDER("KRB_AP_REQ")
	}
	return a, nil
}

// Append appends the KRB_AP_REQ; of the ticket Raw is written.
func (a APReq) Append(b []byte) ([]byte, error) {
	return der.AppendApplication(b, TypeAPReq, func(w der.Writer) {
		w.Int(0, version)
		w.Int(1, TypeAPReq)
		w.Flags(2, a.Options)
		w.Raw(3, a.Ticket.Raw)
		a.Authenticator.write(4)(w)
	})
}

// ParseAPRep reads a KRB_AP_REP (RFC 4120, Section 5.5.2): its encrypted part.
func ParseAPRep(b []byte) (EncryptedData, error) {
	if len(b) > maxAPRep {
		return EncryptedData{}, fmt.Errorf("a KRB_AP_REP of %d octets; at most %d are read", len(b), maxAPRep)
	}
	r := der.Application(b, TypeAPRep)
	r.Version(0, version)
	r.Version(1, TypeAPRep)
	e := readEncrypted(r, 2)
	if !r.End() {
		return EncryptedData{}, errDER("KRB_AP_REP")
	}
	return e, nil
}

// maxAPRep: two times, a subkey and a number.
const maxAPRep = 1024

// AppendAPRep appends a KRB_AP_REP.
func AppendAPRep(b []byte, e EncryptedData) ([]byte, error) {
	return der.AppendApplication(b, TypeAPRep, func(w der.Writer) {
		w.Int(0, version)
		w.Int(1, TypeAPRep)
		e.write(2)(w)
	})
}

// ParseAPRepPart reads an EncAPRepPart: ctime and cusec. A subkey and a sequence
// number are read over.
func ParseAPRepPart(b []byte) (time.Time, error) {
	r := der.Application(b, TypeEncAPRepPart)
	t := r.Time(0)
	t = t.Add(r.Micro(1))
	if in, there := r.OptSequence(2); there {
		in.Int32(0)
		in.Octets(1)
		in.End()
	}
	r.OptInt(3)
	if !r.End() {
		return time.Time{}, errDER("EncAPRepPart")
	}
	return t, nil
}

// AppendAPRepPart appends an EncAPRepPart.
func AppendAPRepPart(b []byte, ctime time.Time) ([]byte, error) {
	return der.AppendApplication(b, TypeEncAPRepPart, func(w der.Writer) {
		w.Time(0, ctime)
		w.Micro(1, ctime)
	})
}
