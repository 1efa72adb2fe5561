package krbtest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"iked/kink"
	"iked/kink/krb/krb5"
)

// Keytab is a keytab with all keys of principals.
func (w *World) Keytab(principals ...kink.Principal) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := []byte{5, 2}
	for _, p := range principals {
		e := w.realms[p.Realm()].principals[p]
		for _, g := range e.keys {
			for _, k := range g.keys {
				b = AppendKeytab(b, p, g.kvno, k, e.at)
			}
		}
	}
	return b
}

// AppendKeytab appends an entry of a keytab.
func AppendKeytab(b []byte, p kink.Principal, kvno uint32, k krb5.Key, at time.Time) []byte {
	parts := p.Components()
	e := binary.BigEndian.AppendUint16(nil, uint16(len(parts)))
	for _, s := range append([]string{p.Realm()}, parts...) {
		e = append(binary.BigEndian.AppendUint16(e, uint16(len(s))), s...)
	}
	e = binary.BigEndian.AppendUint32(e, uint32(p.DER().Type))
	e = binary.BigEndian.AppendUint32(e, uint32(at.Unix()))
	e = append(e, byte(kvno))
	e = binary.BigEndian.AppendUint16(e, uint16(k.EType()))
	e = append(binary.BigEndian.AppendUint16(e, uint16(len(k.Reveal()))), k.Reveal()...)
	e = binary.BigEndian.AppendUint32(e, kvno)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(e))), e...)
}

// CCache is a credential cache with a ticket-granting ticket that a user got with
// the password.
func (w *World) CCache(p kink.Principal) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.realms[p.Realm()]
	tgs := r.tgs()
	service := r.principals[tgs]
	g := service.latest()
	session := must(krb5.RandomKey(g.keys[0].EType()))
	now := r.now().Truncate(time.Second)
	end := now.Add(r.Lifetime)
	part := krb5.TicketPart{Flags: krb5.FlagInitial, Key: session, CRealm: p.Realm(), Client: p.DER(), TransitedType: 1, AuthTime: now, EndTime: end}
	plain, err := part.Append(nil)
	enc := must(krb5.Seal(g.keys[0], krb5.UsageTicket, &g.kvno, plain, err))
	name := tgs.DER()
	name.Type = nameTypeService
	t := must(krb5.NewTicket(p.Realm(), name, enc))
	return AppendCredential(ccacheHeader(p), krb5.Credential{Client: p, Server: tgs, Key: session, AuthTime: now, EndTime: end, Flags: krb5.FlagInitial, Ticket: t})
}

func ccacheHeader(p kink.Principal) []byte {
	// One header field: an offset of no seconds.
	b := []byte{5, 4, 0, 12, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	return appendPrincipal(b, p)
}

func appendData(b []byte, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
}

func appendPrincipal(b []byte, p kink.Principal) []byte {
	parts := p.Components()
	b = binary.BigEndian.AppendUint32(b, uint32(p.DER().Type))
	b = binary.BigEndian.AppendUint32(b, uint32(len(parts)))
	b = appendData(b, []byte(p.Realm()))
	for _, s := range parts {
		b = appendData(b, []byte(s))
	}
	return b
}

// AppendCredential appends an entry of a credential cache.
func AppendCredential(b []byte, c krb5.Credential) []byte {
	b = appendPrincipal(appendPrincipal(b, c.Client), c.Server)
	b = binary.BigEndian.AppendUint16(b, uint16(c.Key.EType()))
	b = appendData(b, c.Key.Reveal())
	for _, t := range []time.Time{c.AuthTime, c.StartTime, c.EndTime, c.Till} {
		v := uint32(0)
		if !t.IsZero() {
			v = uint32(t.Unix())
		}
		b = binary.BigEndian.AppendUint32(b, v)
	}
	b = append(b, 0)
	b = binary.BigEndian.AppendUint32(b, c.Flags)
	b = append(b, make([]byte, 8)...) // no addresses, no authorization data
	return appendData(appendData(b, c.Ticket.Raw), nil)
}

// Write puts octets into a file of the test, readable by its owner alone.
func Write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
