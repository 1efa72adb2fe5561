package krb5

import (
	"fmt"
	"time"

	"iked/kink/der"
)

// Types of PA-DATA (RFC 4120, Section 7.5.2).
const (
	PATGSReq       = 1
	PAEncTimestamp = 2
	PAETypeInfo2   = 19
)

// PAData is RFC 4120, Section 5.2.7.
type PAData struct {
	Type  int32
	Value []byte
}

func readPAData(r *der.Reader) PAData {
	p := PAData{r.Int32(1), r.Octets(2)}
	r.End()
	return p
}

func writePAData(list []PAData) func(i int, w der.Writer) {
	return func(i int, w der.Writer) {
		w.Int(1, int64(list[i].Type))
		w.Octets(2, list[i].Value)
	}
}

// ParseMethodData reads METHOD-DATA (RFC 4120, Section 5.9.1).
func ParseMethodData(b []byte) (list []PAData, err error) {
	r := der.Sequence(b)
	r.Each(func(r *der.Reader) { list = append(list, readPAData(r)) })
	if !r.End() {
		return nil, errDER("METHOD-DATA")
	}
	return list, nil
}

// AppendMethodData appends METHOD-DATA.
func AppendMethodData(b []byte, list []PAData) ([]byte, error) {
	return der.AppendList(b, len(list), writePAData(list))
}

// ParseETypeInfo2 reads the encryption types of an ETYPE-INFO2 (RFC 4120, Section
// 5.2.7.5). The salts are for passwords.
func ParseETypeInfo2(b []byte) (list []int32, err error) {
	r := der.Sequence(b)
	r.Each(func(r *der.Reader) {
		list = append(list, r.Int32(0))
		r.OptText(1)
		r.OptOctets(2)
		r.End()
	})
	if !r.End() {
		return nil, errDER("ETYPE-INFO2")
	}
	return list, nil
}

// AppendETypeInfo2 appends an ETYPE-INFO2 without salts.
func AppendETypeInfo2(b []byte, list []int32) ([]byte, error) {
	return der.AppendList(b, len(list), func(i int, w der.Writer) { w.Int(0, int64(list[i])) })
}

// ParseTimestamp reads a PA-ENC-TS-ENC (RFC 4120, Section 5.2.7.2).
func ParseTimestamp(b []byte) (time.Time, error) {
	r := der.Sequence(b)
	t := r.Time(0)
	if us, there := r.OptMicro(1); there {
		t = t.Add(us)
	}
	if !r.End() {
		return time.Time{}, errDER("PA-ENC-TS-ENC")
	}
	return t, nil
}

// AppendTimestamp appends a PA-ENC-TS-ENC.
func AppendTimestamp(b []byte, t time.Time) ([]byte, error) {
	return der.AppendSequence(b, func(w der.Writer) {
		w.Time(0, t)
		w.Micro(1, t)
	})
}

// KDCBody is a KDC-REQ-BODY (RFC 4120, Section 5.4.1).
type KDCBody struct {
	Options   uint32
	Client    der.Name // AS only
	Realm     string
	Server    der.Name
	Till      time.Time
	RTime     time.Time
	Nonce     uint32 // at most 31 bits
	ETypes    []int32
	Addresses []Address
	// Tickets are additional tickets, as they stand.
	Tickets [][]byte
}

// KDCReq is an AS-REQ or TGS-REQ (RFC 4120, Section 5.4.1). RawBody are the octets of
// the body, which a checksum goes over.
type KDCReq struct {
	Type    int
	PAData  []PAData
	Body    KDCBody
	RawBody []byte
}

// Append appends the KDC-REQ-BODY.
func (k KDCBody) Append(b []byte) ([]byte, error) {
	return der.AppendSequence(b, func(w der.Writer) {
		w.Flags(0, k.Options)
		if len(k.Client.Parts) > 0 {
			w.Name(1, k.Client)
		}
		w.Text(2, k.Realm)
		w.Name(3, k.Server)
		w.Time(5, k.Till)
		w.OptTime(6, k.RTime)
		w.Int(7, int64(k.Nonce))
		w.Integers(8, k.ETypes)
		writeAddresses(w, 9, k.Addresses)
		if len(k.Tickets) > 0 {
			w.Elements(11, k.Tickets...)
		}
	})
}

// Append appends the request; of the body RawBody is written.
func (k KDCReq) Append(b []byte) ([]byte, error) {
	return der.AppendApplication(b, k.Type, func(w der.Writer) {
		w.Int(1, version)
		w.Int(2, int64(k.Type))
		if len(k.PAData) > 0 {
			w.List(3, len(k.PAData), writePAData(k.PAData))
		}
		w.Raw(4, k.RawBody)
	})
}

// ParseKDCReq reads a request of a type.
func ParseKDCReq(b []byte, kind int) (KDCReq, error) {
	r := der.Application(b, kind)
	k := KDCReq{Type: kind}
	r.Version(1, version)
	r.Version(2, int64(kind))
	r.List(3, func(r *der.Reader) { k.PAData = append(k.PAData, readPAData(r)) })
	k.RawBody = r.Raw(4)
	if !r.End() {
		return KDCReq{}, errDER("KDC-REQ")
	}
	in := der.Sequence(k.RawBody)
	q := &k.Body
	q.Options = in.Flags(0)
	q.Client, _ = in.OptName(1)
	q.Realm = in.Text(2)
	q.Server, _ = in.OptName(3)
	in.OptTime(4)
	q.Till = in.Time(5)
	q.RTime, _ = in.OptTime(6)
	q.Nonce = uint32(in.Int(7))
	q.ETypes = in.Integers(8)
	q.Addresses, _ = readAddresses(in, 9)
	in.OptRaw(10)
	q.Tickets = in.Elements(11)
	if !in.End() {
		return KDCReq{}, errDER("KDC-REQ-BODY")
	}
	return k, nil
}

// KDCRep is an AS-REP or TGS-REP (RFC 4120, Section 5.4.2).
type KDCRep struct {
	Type   int
	PAData []PAData
	CRealm string
	Client der.Name
	Ticket Ticket
	Enc    EncryptedData
}

// ParseKDCRep reads a reply of a type.
func ParseKDCRep(b []byte, kind int) (KDCRep, error) {
	if len(b) > MaxKDCReply {
		return KDCRep{}, fmt.Errorf("a reply of %d octets; at most %d are read", len(b), MaxKDCReply)
	}
	r := der.Application(b, kind)
	k := KDCRep{Type: kind}
	r.Version(0, version)
	r.Version(1, int64(kind))
	r.List(2, func(r *der.Reader) { k.PAData = append(k.PAData, readPAData(r)) })
	k.CRealm = r.Text(3)
	k.Client = r.Name(4)
	in, raw := r.Application(5, TypeTicket)
	k.Ticket = readTicket(in, raw)
	k.Enc = readEncrypted(r, 6)
	if !r.End() {
		return KDCRep{}, errDER("KDC-REP")
	}
	return k, nil
}

// Append appends the reply; of the ticket Raw is written.
func (k KDCRep) Append(b []byte) ([]byte, error) {
	return der.AppendApplication(b, k.Type, func(w der.Writer) {
		w.Int(0, version)
		w.Int(1, int64(k.Type))
		if len(k.PAData) > 0 {
			w.List(2, len(k.PAData), writePAData(k.PAData))
		}
		w.Text(3, k.CRealm)
		w.Name(4, k.Client)
		w.Raw(5, k.Ticket.Raw)
		k.Enc.write(6)(w)
	})
}

// KDCRepPart is an EncKDCRepPart (RFC 4120, Section 5.4.2).
type KDCRepPart struct {
	Key                                Key
	Nonce                              uint32
	Flags                              uint32
	AuthTime, StartTime, EndTime, Till time.Time // StartTime is AuthTime when it is not there
	SRealm                             string
	Server                             der.Name
}

// ParseKDCRepPart reads an EncASRepPart or EncTGSRepPart. Some KDCs send the second
// where the first is due (RFC 4120, Section 5.4.2).
func ParseKDCRepPart(b []byte) (KDCRepPart, error) {
	tag := TypeEncTGSRepPart
	if der.IsApplication(b, TypeEncASRepPart) {
		tag = TypeEncASRepPart
	}
	r := der.Application(b, tag)
	var p KDCRepPart
	id, value := readKey(r, 0)
	r.Raw(1) // last-req
	nonce := r.Int(2)
	r.OptTime(3) // key-expiration
	p.Flags = r.Flags(4)
	p.AuthTime = r.Time(5)
	var there bool
	if p.StartTime, there = r.OptTime(6); !there {
		p.StartTime = p.AuthTime
	}
	p.EndTime = r.Time(7)
	p.Till, _ = r.OptTime(8)
	p.SRealm = r.Text(9)
	p.Server = r.Name(10)
	r.OptRaw(11) // caddr
	r.OptRaw(12) // encrypted-pa-data
	if !r.End() {
		return KDCRepPart{}, errDER("EncKDCRepPart")
	}
	if nonce < 0 || nonce > 1<<31-1 {
		return KDCRepPart{}, fmt.Errorf("the nonce %d is none of ours", nonce)
	}
	p.Nonce = uint32(nonce)
	var err error
	p.Key, err = NewKey(id, value)
	return p, err
}

// Append appends the part with an application tag.
func (p KDCRepPart) Append(b []byte, tag int) ([]byte, error) {
	return der.AppendApplication(b, tag, func(w der.Writer) {
		writeKey(w, 0, p.Key)
		w.List(1, 1, func(_ int, w der.Writer) {
			w.Int(0, 0)
			w.Time(1, p.AuthTime)
		})
		w.Int(2, int64(p.Nonce))
		w.Flags(4, p.Flags)
		w.Time(5, p.AuthTime)
		w.OptTime(6, p.StartTime)
		w.Time(7, p.EndTime)
		w.OptTime(8, p.Till)
		w.Text(9, p.SRealm)
		w.Name(10, p.Server)
	})
}
