package krb5

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"iked/internal/vectors"
	"iked/kink"
	"iked/kink/der"
)

// recorded are exchanges with MIT's KDC, with all its keys.
type recorded struct {
	Keytab, CCache vectors.Hex
	Time           time.Time
	Vectors        []struct {
		Realm          string
		Request, Reply vectors.Hex
	}
}

func mit(t testing.TB) (r recorded, keys *Keytab) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "mit_kdc.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if keys, err = ParseKeytab(r.Keytab); err != nil || len(r.Vectors) != 5 || len(keys.Entries) < 6 || len(keys.Others) != 0 {
		t.Fatalf("%d exchanges, %v, %v", len(r.Vectors), keys, err)
	}
	return r, keys
}

// ticketPart decrypts a ticket with the keys of a KDC; it is written as it was read.
func ticketPart(t testing.TB, keys *Keytab, tk Ticket) TicketPart {
	t.Helper()
	p, err := kink.NewPrincipal(tk.Realm, tk.Server.Parts...)
	if err != nil {
		t.Fatal(err)
	}
	e, ok := keys.Find(p, tk.Enc.EType, tk.Enc.KVNO)
	if !ok {
		t.Fatalf("no key of %s, type %d", p, tk.Enc.EType)
	}
	plain, err := tk.Enc.Open(e.Key, UsageTicket)
	if err != nil {
		t.Fatal(err)
	}
	part, err := ParseTicketPart(plain)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "EncTicketPart", plain, func() ([]byte, error) {
		if part.StartTime.Equal(part.AuthTime) && !bytes.Contains(plain, []byte{0xa6, 0x11, 0x18, 0x0f}) {
			part.StartTime = time.Time{}
		}
		return part.Append(nil)
	})
	prefixes(t, "EncTicketPart", plain, func(b []byte) error { _, err := ParseTicketPart(b); return err })
	made, err := NewTicket(tk.Realm, tk.Server, tk.Enc)
	if err != nil || !bytes.Equal(made.Raw, tk.Raw) {
		t.Errorf("Ticket\n%x (%v), expected\n%x", made.Raw, err, tk.Raw)
	}
	prefixes(t, "Ticket", tk.Raw, func(b []byte) error { _, err := ParseTicket(b); return err })
	return part
}

func same(t testing.TB, what string, want []byte, write func() ([]byte, error)) {
	t.Helper()
	if got, err := write(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s\n%x (%v), expected\n%x", what, got, err, want)
	}
}

// prefixes checks that no prefix of a message is one, and none with an octet behind it.
func prefixes(t testing.TB, what string, b []byte, parse func([]byte) error) {
	t.Helper()
	if err := parse(b); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	for n := range b {
		if parse(b[:n]) == nil {
			t.Errorf("%s: the first %d of %d octets are read", what, n, len(b))
		}
	}
	if parse(append(bytes.Clone(b), 0)) == nil {
		t.Errorf("%s: an octet behind it is not seen", what)
	}
}

// The messages of an Authentication Service and of two Ticket-Granting Services of MIT
// Kerberos are read to the last octet, decrypted with the keys, checked, and written
// again as they were.
func TestMessagesOfMIT(t *testing.T) {
	r, keys := mit(t)
	a, err := kink.ParsePrincipal("kink/a.example@A.EXAMPLE")
	if err != nil {
		t.Fatal(err)
	}
	var session Key
	for i, v := range r.Vectors {
		kind := []int{TypeASReq, TypeASReq, TypeTGSReq, TypeTGSReq, TypeTGSReq}[i]
		q, err := ParseKDCReq(v.Request, kind)
		if err != nil {
			t.Fatal(i, err)
		}
		prefixes(t, "KDC-REQ", v.Request, func(b []byte) error { _, err := ParseKDCReq(b, kind); return err })
		same(t, "KDC-REQ", v.Request, func() ([]byte, error) { return q.Append(nil) })
		same(t, "KDC-REQ-BODY", q.RawBody, func() ([]byte, error) { return q.Body.Append(nil) })
		for _, p := range q.PAData {
			switch p.Type {
			case PAEncTimestamp:
				enc, err := ParseEncryptedData(p.Value)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "EncryptedData", p.Value, func() ([]byte, error) { return enc.Append(nil) })
				prefixes(t, "EncryptedData", p.Value, func(b []byte) error { _, err := ParseEncryptedData(b); return err })
				e, _ := keys.Find(a, enc.EType, nil)
				plain, err := enc.Open(e.Key, UsageASReqTimestamp)
				if err != nil {
					t.Fatal(err)
				}
				at, err := ParseTimestamp(plain)
				if err != nil || at.Sub(r.Time).Abs() > time.Minute {
					t.Errorf("the timestamp is %v (%v)", at, err)
				}
				same(t, "PA-ENC-TS-ENC", plain, func() ([]byte, error) { return AppendTimestamp(nil, at) })
				prefixes(t, "PA-ENC-TS-ENC", plain, func(b []byte) error { _, err := ParseTimestamp(b); return err })
			case PATGSReq:
				ap, err := ParseAPReq(p.Value)
				if err != nil {
					t.Fatal(err)
				}
				part := ticketPart(t, keys, ap.Ticket)
				plain, err := ap.Authenticator.Open(part.Key, UsageTGSAuthenticator)
				if err != nil {
					t.Fatal(err)
				}
				auth, err := ParseAuthenticator(plain)
				if err != nil || auth.Checksum == nil || !part.Key.Verify(UsageTGSReqChecksum, q.RawBody, auth.Checksum.Sum) {
					t.Errorf("the authenticator is %+v (%v)", auth, err)
				}
				prefixes(t, "Authenticator", plain, func(b []byte) error { _, err := ParseAuthenticator(b); return err })
				session = part.Key
			}
		}
		if der.IsApplication(v.Reply, TypeError) {
			e, err := kink.ParseKRBError(v.Reply)
			if err != nil || e.Code != []int32{25, 0, 0, 0, 7}[i] {
				t.Errorf("the error is %+v (%v)", e, err)
			}
			prefixes(t, "KRB-ERROR", v.Reply, func(b []byte) error { _, err := kink.ParseKRBError(b); return err })
			if i != 0 {
				continue
			}
			list, err := ParseMethodData(e.Data)
			if err != nil || len(list) < 2 {
				t.Fatalf("METHOD-DATA %v (%v)", list, err)
			}
			same(t, "METHOD-DATA", e.Data, func() ([]byte, error) { return AppendMethodData(nil, list) })
			prefixes(t, "METHOD-DATA", e.Data, func(b []byte) error { _, err := ParseMethodData(b); return err })
			found := false
			for _, p := range list {
				if p.Type == PAETypeInfo2 {
					info, err := ParseETypeInfo2(p.Value)
					found = err == nil && len(info) >= 1 && info[0] == SHA384
					prefixes(t, "ETYPE-INFO2", p.Value, func(b []byte) error { _, err := ParseETypeInfo2(b); return err })
				}
			}
			if !found {
				t.Error("no ETYPE-INFO2")
			}
			continue
		}
		rep, err := ParseKDCRep(v.Reply, kind+1)
		if err != nil {
			t.Fatal(i, err)
		}
		same(t, "KDC-REP", v.Reply, func() ([]byte, error) { return rep.Append(nil) })
		prefixes(t, "KDC-REP", v.Reply, func(b []byte) error { _, err := ParseKDCRep(b, kind+1); return err })
		k, usage := session, uint32(UsageTGSRep)
		if kind == TypeASReq {
			e, _ := keys.Find(a, rep.Enc.EType, nil)
			k, usage = e.Key, UsageASRep
		}
		plain, err := rep.Enc.Open(k, usage)
		if err != nil {
			t.Fatal(i, err)
		}
		part, err := ParseKDCRepPart(plain)
		if err != nil || part.Nonce != q.Body.Nonce || !part.Server.Equal(q.Body.Server) {
			t.Errorf("EncKDCRepPart %+v (%v)", part, err)
		}
		prefixes(t, "EncKDCRepPart", plain, func(b []byte) error { _, err := ParseKDCRepPart(b); return err })
		tk := ticketPart(t, keys, rep.Ticket)
		if !tk.Key.Equal(part.Key) || !tk.EndTime.Equal(part.EndTime) || !tk.StartTime.IsZero() && !tk.StartTime.Equal(part.StartTime) || !tk.Client.Equal(rep.Client) {
			t.Errorf("the ticket is %+v, its client knows %+v", tk, part)
		}
	}
}

// The KRB_AP_REQ and KRB_AP_REP of MIT's library, as racoon2 sent them, are written
// again as they were, to what is under encryption.
func TestAPMessagesOfMIT(t *testing.T) {
	pcap, err := os.ReadFile(filepath.Join("testdata", "racoon2", "kink.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join("testdata", "racoon2", "kink-b.keytab"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeytab(raw)
	if err != nil {
		t.Fatal(err)
	}
	// The elements stand where their tags and lengths are.
	find := func(tag byte) []byte {
		i := bytes.Index(pcap, []byte{tag, 0x82})
		n := 4
		if i < 0 {
			i, n = bytes.Index(pcap, []byte{tag, 0x53, 0x30}), 2
		}
		if i < 0 {
			t.Fatalf("no %x", tag)
		}
		if n == 2 {
			return pcap[i : i+2+int(pcap[i+1])]
		}
		return pcap[i : i+4+int(binary.BigEndian.Uint16(pcap[i+2:]))]
	}
	req := find(0x6e)
	q, err := ParseAPReq(req)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "KRB_AP_REQ", req, func() ([]byte, error) { return q.Append(nil) })
	prefixes(t, "KRB_AP_REQ", req, func(b []byte) error { _, err := ParseAPReq(b); return err })
	part := ticketPart(t, keys, q.Ticket)
	plain, err := q.Authenticator.Open(part.Key, UsageAuthenticator)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := ParseAuthenticator(plain)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Authenticator", plain, func() ([]byte, error) { return auth.Append(nil) })
	if q.Options != APMutualRequired {
		t.Errorf("options %x", q.Options)
	}
	rep := find(0x6f)
	enc, err := ParseAPRep(rep)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "KRB_AP_REP", rep, func() ([]byte, error) { return AppendAPRep(nil, enc) })
	prefixes(t, "KRB_AP_REP", rep, func(b []byte) error { _, err := ParseAPRep(b); return err })
	if plain, err = enc.Open(part.Key, UsageAPRep); err != nil {
		t.Fatal(err)
	}
	at, err := ParseAPRepPart(plain)
	if err != nil || !at.Equal(auth.CTime) {
		t.Errorf("it answers %v, the authenticator is of %v (%v)", at, auth.CTime, err)
	}
	same(t, "EncAPRepPart", plain, func() ([]byte, error) { return AppendAPRepPart(nil, at) })
	prefixes(t, "EncAPRepPart", plain, func(b []byte) error { _, err := ParseAPRepPart(b); return err })
}

// What a KDC writes is read as it was meant.
func TestKDCMessagesRoundTrip(t *testing.T) {
	at := func(t *rapid.T, name string) time.Time {
		return time.Unix(rapid.Int64Range(1, 1<<33).Draw(t, name), 0).UTC()
	}
	rapid.Check(t, func(t *rapid.T) {
		k, err := RandomKey(rapid.SampledFrom([]int32{16, 17, 18, 19, 20}).Draw(t, "type"))
		if err != nil {
			t.Fatal(err)
		}
		n := der.Name{Type: rapid.Int32().Draw(t, "name type"), Parts: rapid.SliceOfN(rapid.StringN(0, 5, 20), 1, 16).Draw(t, "parts")}
		p := KDCRepPart{Key: k, Nonce: rapid.Uint32Range(0, 1<<31-1).Draw(t, "nonce"), Flags: rapid.Uint32().Draw(t, "flags"), AuthTime: at(t, "auth"), StartTime: at(t, "start"), EndTime: at(t, "end"), SRealm: "R", Server: n}
		if rapid.Bool().Draw(t, "renewable") {
			p.Till = at(t, "till")
		}
		b, err := p.Append(nil, rapid.SampledFrom([]int{TypeEncASRepPart, TypeEncTGSRepPart}).Draw(t, "tag"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseKDCRepPart(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(p, got, cmp.Comparer(Key.Equal)); d != "" {
			t.Fatal(d)
		}
		tp := TicketPart{Flags: p.Flags, Key: k, CRealm: "C", Client: n, Transited: []byte("T"), TransitedType: 1, AuthTime: p.AuthTime, StartTime: p.StartTime, EndTime: p.EndTime, Till: p.Till}
		if rapid.Bool().Draw(t, "addresses") {
			tp.Addresses = []Address{{2, []byte{192, 0, 2, 1}}, {24, make([]byte, 16)}}
			tp.AuthData = []byte{0x30, 0}
		}
		if b, err = tp.Append(nil); err != nil {
			t.Fatal(err)
		}
		gotPart, err := ParseTicketPart(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tp, gotPart, cmp.Comparer(Key.Equal)); d != "" {
			t.Fatal(d)
		}
	})
}

// A key of another type than the ciphertext opens nothing, neither does what is no DER.
func TestOpenRefused(t *testing.T) {
	a, _ := RandomKey(AES128)
	b, _ := RandomKey(SHA256)
	e, err := Seal(a, 1, nil, []byte{0x30, 0}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Open(b, 1); err == nil {
		t.Error("another type")
	}
	if got, err := e.Open(a, 1); err != nil || !bytes.Equal(got, []byte{0x30, 0}) {
		t.Errorf("%x %v", got, err)
	}
	if e, err = Seal(a, 1, nil, []byte{0x30, 5}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Open(a, 1); err == nil {
		t.Error("what is no DER")
	}
	for _, c := range []struct {
		what  string
		parse func([]byte) error
		size  int
	}{
		{"Ticket", func(b []byte) error { _, err := ParseTicket(b); return err }, MaxAPReq},
		{"KRB_AP_REQ", func(b []byte) error { _, err := ParseAPReq(b); return err }, MaxAPReq},
		{"KRB_AP_REP", func(b []byte) error { _, err := ParseAPRep(b); return err }, maxAPRep},
		{"KDC-REP", func(b []byte) error { _, err := ParseKDCRep(b, TypeASRep); return err }, MaxKDCReply},
	} {
		if err := c.parse(make([]byte, c.size+1)); err == nil || !bytes.Contains([]byte(err.Error()), []byte("at most")) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// Any octets are read or refused; what is read is written as octets that are read as
// the same.
func FuzzMessages(f *testing.F) {
	r, _ := mit(f)
	for _, v := range r.Vectors {
		f.Add([]byte(v.Request))
		f.Add([]byte(v.Reply))
	}
	f.Add([]byte{0x6f, 0x82, 0xff, 0xff, 0x30, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []int{TypeASReq, TypeTGSReq} {
			if q, err := ParseKDCReq(b, kind); err == nil {
				again(t, q.Append, func(b []byte) error { _, err := ParseKDCReq(b, kind); return err })
				for _, p := range q.PAData {
					ParseEncryptedData(p.Value)
					ParseAPReq(p.Value)
				}
			}
			if q, err := ParseKDCRep(b, kind+1); err == nil {
				again(t, q.Append, func(b []byte) error { _, err := ParseKDCRep(b, kind+1); return err })
			}
		}
		if q, err := ParseAPReq(b); err == nil {
			again(t, q.Append, func(b []byte) error { _, err := ParseAPReq(b); return err })
		}
		if e, err := ParseAPRep(b); err == nil {
			again(t, func(b []byte) ([]byte, error) { return AppendAPRep(b, e) }, func(b []byte) error { _, err := ParseAPRep(b); return err })
		}
		if e, err := ParseEncryptedData(b); err == nil {
			again(t, e.Append, func(b []byte) error { _, err := ParseEncryptedData(b); return err })
		}
		ParseTicket(b)
		ParseMethodData(b)
		ParseETypeInfo2(b)
	})
}

// FuzzParts is FuzzMessages for what stands under encryption.
func FuzzParts(f *testing.F) {
	k, _ := NewKey(AES128, make([]byte, 16))
	at := time.Unix(1e9, 0).UTC()
	n := der.Name{Type: 3, Parts: []string{"kink", "a"}}
	for _, add := range []func() ([]byte, error){
		func() ([]byte, error) {
			return TicketPart{Key: k, CRealm: "R", Client: n, AuthTime: at, EndTime: at, Addresses: []Address{{2, []byte{1, 2, 3, 4}}}, AuthData: []byte{0x30, 0}}.Append(nil)
		},
		func() ([]byte, error) {
			return KDCRepPart{Key: k, AuthTime: at, EndTime: at, SRealm: "R", Server: n}.Append(nil, TypeEncASRepPart)
		},
		func() ([]byte, error) {
			return Authenticator{CRealm: "R", Client: n, CTime: at, Checksum: &Checksum{15, []byte{1}}}.Append(nil)
		},
		func() ([]byte, error) { return AppendAPRepPart(nil, at) },
		func() ([]byte, error) { return AppendTimestamp(nil, at) },
	} {
		b, err := add()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParseTicketPart(b); err == nil {
			again(t, p.Append, func(b []byte) error { _, err := ParseTicketPart(b); return err })
		}
		if p, err := ParseKDCRepPart(b); err == nil {
			again(t, func(b []byte) ([]byte, error) { return p.Append(b, TypeEncTGSRepPart) }, func(b []byte) error { _, err := ParseKDCRepPart(b); return err })
		}
		if a, err := ParseAuthenticator(b); err == nil {
			again(t, a.Append, func(b []byte) error { _, err := ParseAuthenticator(b); return err })
		}
		if at, err := ParseAPRepPart(b); err == nil {
			again(t, func(b []byte) ([]byte, error) { return AppendAPRepPart(b, at) }, func(b []byte) error { _, err := ParseAPRepPart(b); return err })
		}
		ParseTimestamp(b)
		der.First(b)
	})
}

func again(t *testing.T, write func([]byte) ([]byte, error), parse func([]byte) error) {
	t.Helper()
	b, err := write(nil)
	if err == nil {
		err = parse(b)
	}
	if err != nil {
		t.Fatalf("%x: %v", b, err)
	}
}
