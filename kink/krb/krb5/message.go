package krb5

import (
	"errors"
	"fmt"
	"time"

	"iked/kink/der"
)

// Message types, which are application tags too (RFC 4120, Section 5.10).
const (
	TypeTicket        = 1
	TypeAuthenticator = 2
	TypeEncTicketPart = 3
	TypeASReq         = 10
	TypeASRep         = 11
	TypeTGSReq        = 12
	TypeTGSRep        = 13
	TypeAPReq         = 14
	TypeAPRep         = 15
	TypeEncASRepPart  = 25
	TypeEncTGSRepPart = 26
	TypeEncAPRepPart  = 27
	TypeError         = 30
)

// Key usages (RFC 4120, Section 7.5.1).
const (
	UsageASReqTimestamp   = 1
	UsageTicket           = 2
	UsageASRep            = 3
	UsageTGSReqChecksum   = 6
	UsageTGSAuthenticator = 7
	UsageTGSRep           = 8
	UsageAuthenticator    = 11
	UsageAPRep            = 12
)

// MaxAPReq bounds a KRB_AP_REQ, in octets: KINK is UDP. MaxKDCReply bounds what a KDC
// sends; the authorization data of a large domain is some dozen kilobytes.
const (
	MaxAPReq    = 65507
	MaxKDCReply = 256 << 10
)

// version is pvno, tkt-vno and authenticator-vno.
const version = 5

// Flags of tickets (RFC 4120, Section 5.3).
const (
	FlagInvalid = 1 << (31 - 7)
	FlagInitial = 1 << (31 - 9)
)

// Options of requests to a KDC (RFC 4120, Section 5.4.1; RFC 6806).
const (
	OptionCanonicalize = 1 << (31 - 15)
	OptionEncTktInSkey = 1 << (31 - 28)
)

// Options of KRB_AP_REQ (RFC 4120, Section 5.5.1).
const (
	APUseSessionKey  = 1 << (31 - 1)
	APMutualRequired = 1 << (31 - 2)
)

// errDER says that octets are not the message they should be.
func errDER(what string) error { return fmt.Errorf("this is no %s", what) }

// EncryptedData is RFC 4120, Section 5.2.9. KVNO is nil when it is not there.
type EncryptedData struct {
	EType  int32
	KVNO   *uint32
	Cipher []byte
}

func readEncrypted(r *der.Reader, tag int) EncryptedData {
	in := r.Sequence(tag)
	e := EncryptedData{EType: in.Int32(0)}
	if v, there := in.OptInt(1); there {
		// UInt32 by the RFC; some write it as Int32.
		k := uint32(v)
		e.KVNO = &k
	}
	e.Cipher = in.Octets(2)
	in.End()
	return e
}

func (e EncryptedData) write(tag int) func(der.Writer) {
	return func(w der.Writer) { w.Sequence(tag, e.fields) }
}

func (e EncryptedData) fields(w der.Writer) {
	w.Int(0, int64(e.EType))
	if e.KVNO != nil {
		w.Int(1, int64(*e.KVNO))
	}
	w.Octets(2, e.Cipher)
}

// Append appends an EncryptedData alone.
func (e EncryptedData) Append(b []byte) ([]byte, error) { return der.AppendSequence(b, e.fields) }

// ParseEncryptedData reads an EncryptedData alone.
func ParseEncryptedData(b []byte) (EncryptedData, error) {
	r := der.Sequence(b)
	e := EncryptedData{EType: r.Int32(0)}
	if v, there := r.OptInt(1); there {
		k := uint32(v)
		e.KVNO = &k
	}
	e.Cipher = r.Octets(2)
	if !r.End() {
		return EncryptedData{}, errDER("EncryptedData")
	}
	return e, nil
}

// Seal encrypts a message in DER under a key.
func Seal(k Key, usage uint32, kvno *uint32, plain []byte, err error) (EncryptedData, error) {
	if err != nil {
		return EncryptedData{}, err
	}
	c, err := k.Encrypt(usage, plain)
	return EncryptedData{k.EType(), kvno, c}, err
}

// Open decrypts one message in DER; the padding behind it is left out.
func (e EncryptedData) Open(k Key, usage uint32) ([]byte, error) {
	if e.EType != k.EType() {
		return nil, fmt.Errorf("it is encrypted with %s and the key is of %s", ETypeName(e.EType), ETypeName(k.EType()))
	}
	plain, err := k.Decrypt(usage, e.Cipher)
	if err != nil {
		return nil, err
	}
	if plain = der.First(plain); plain == nil {
		return nil, errors.New("no DER was encrypted")
	}
	return plain, nil
}

func readKey(r *der.Reader, tag int) (id int32, value []byte) {
	in := r.Sequence(tag)
	id = in.Int32(0)
	value = in.Octets(1)
	in.End()
	return id, value
}

func writeKey(w der.Writer, tag int, k Key) {
	w.Sequence(tag, func(w der.Writer) {
		w.Int(0, int64(k.EType()))
		w.Octets(1, k.Reveal())
	})
}

// Address is a HostAddress (RFC 4120, Section 5.2.5).
type Address struct {
	Type  int32
	Octet []byte
}

func readAddresses(r *der.Reader, tag int) (list []Address, there bool) {
	in, there := r.OptSequence(tag)
	in.Each(func(r *der.Reader) {
		list = append(list, Address{r.Int32(0), r.Octets(1)})
		r.End()
	})
	return list, there
}

func writeAddresses(w der.Writer, tag int, list []Address) {
	if len(list) > 0 {
		w.List(tag, len(list), func(i int, w der.Writer) {
			w.Int(0, int64(list[i].Type))
			w.Octets(1, list[i].Octet)
		})
	}
}

// Ticket is RFC 4120, Section 5.3. Raw are its octets: they are handed on as they
// came.
type Ticket struct {
	Realm  string
	Server der.Name
	Enc    EncryptedData
	Raw    []byte
}

func readTicket(r *der.Reader, raw []byte) Ticket {
	t := Ticket{Raw: append([]byte(nil), raw...)}
	r.Version(0, version)
	t.Realm = r.Text(1)
	t.Server = r.Name(2)
	t.Enc = readEncrypted(r, 3)
	t.Enc.Cipher = append([]byte(nil), t.Enc.Cipher...)
	r.End()
	return t
}

// ParseTicket reads a Ticket alone.
func ParseTicket(b []byte) (Ticket, error) {
	if len(b) > MaxAPReq {
		return Ticket{}, fmt.Errorf("a ticket of %d octets; at most %d are read", len(b), MaxAPReq)
	}
	r := der.Application(b, TypeTicket)
	t := readTicket(r, b)
	if !r.OK() {
		return Ticket{}, errDER("Ticket")
	}
	return t, nil
}

// NewTicket makes a Ticket and its Raw.
func NewTicket(realm string, server der.Name, enc EncryptedData) (Ticket, error) {
	raw, err := der.AppendApplication(nil, TypeTicket, func(w der.Writer) {
		w.Int(0, version)
		w.Text(1, realm)
		w.Name(2, server)
		enc.write(3)(w)
	})
	return Ticket{realm, server, enc, raw}, err
}

// TicketPart is an EncTicketPart (RFC 4120, Section 5.3).
type TicketPart struct {
	Flags                              uint32
	Key                                Key
	CRealm                             string
	Client                             der.Name
	Transited                          []byte // of type TransitedType
	TransitedType                      int32
	AuthTime, StartTime, EndTime, Till time.Time // StartTime is AuthTime when it is not there
	Addresses                          []Address
	AuthData                           []byte // a SEQUENCE, as it stands; nil when it is not there
}

// ParseTicketPart reads an EncTicketPart.
func ParseTicketPart(b []byte) (TicketPart, error) {
	r := der.Application(b, TypeEncTicketPart)
	var p TicketPart
	p.Flags = r.Flags(0)
	id, value := readKey(r, 1)
	p.CRealm = r.Text(2)
	p.Client = r.Name(3)
	in := r.Sequence(4)
	p.TransitedType = in.Int32(0)
	p.Transited = in.Octets(1)
	in.End()
	p.AuthTime = r.Time(5)
	var there bool
	if p.StartTime, there = r.OptTime(6); !there {
		p.StartTime = p.AuthTime
	}
	p.EndTime = r.Time(7)
	p.Till, _ = r.OptTime(8)
	p.Addresses, _ = readAddresses(r, 9)
	p.AuthData, _ = r.OptRaw(10)
	if !r.End() {
		return TicketPart{}, errDER("EncTicketPart")
	}
	var err error
	p.Key, err = NewKey(id, value)
	return p, err
}

// Append appends the EncTicketPart.
func (p TicketPart) Append(b []byte) ([]byte, error) {
	return der.AppendApplication(b, TypeEncTicketPart, func(w der.Writer) {
		w.Flags(0, p.Flags)
		writeKey(w, 1, p.Key)
		w.Text(2, p.CRealm)
		w.Name(3, p.Client)
		w.Sequence(4, func(w der.Writer) {
			w.Int(0, int64(p.TransitedType))
			w.Octets(1, p.Transited)
		})
		w.Time(5, p.AuthTime)
		w.OptTime(6, p.StartTime)
		w.Time(7, p.EndTime)
		w.OptTime(8, p.Till)
		writeAddresses(w, 9, p.Addresses)
		if p.AuthData != nil {
			w.Raw(10, p.AuthData)
		}
	})
}
