package krb5

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"iked/kink"
)

// Credential is a ticket with its session key.
type Credential struct {
	Client, Server                     kink.Principal
	Key                                Key
	AuthTime, StartTime, EndTime, Till time.Time // StartTime is AuthTime when it is not there
	Flags                              uint32
	// UserToUser: the ticket is encrypted in the session key of another ticket.
	UserToUser bool
	Ticket     Ticket
}

// CCache is what a credential cache has.
type CCache struct {
	Principal   kink.Principal
	Credentials []Credential
}

// confRealm is the realm of entries that are settings and no tickets.
const confRealm = "X-CACHECONF:"

// ParseCCache reads a credential cache file of version 3 or 4, as MIT and Heimdal
// write it. Entries that are no tickets or have keys of types that are not supported
// are left out.
//
//	file       = 05 04, uint16 length, header fields, principal, *credential
//	principal  = uint32 name type, uint32 components, realm, components
//	credential = client, server, uint16 etype, key, 4 × uint32 time, uint8 is-skey,
//	             uint32 flags, addresses, authorization data, ticket, second ticket
//
// Octets have their length in 32 bits before them; all is big endian.
func ParseCCache(b []byte) (*CCache, error) {
	if len(b) > MaxFile {
		return nil, fmt.Errorf("a credential cache of %d octets; at most %d are read", len(b), MaxFile)
	}
	s := cryptobyte.String(b)
	var major, minor uint8
	if !s.ReadUint8(&major) || !s.ReadUint8(&minor) || major != 5 {
		return nil, fmt.Errorf("this is no credential cache")
	}
	if minor != 3 && minor != 4 {
		return nil, fmt.Errorf("a credential cache of version %d; version 3 or 4 is expected", minor)
	}
	var header cryptobyte.String
	if minor == 4 && !s.ReadUint16LengthPrefixed(&header) {
		return nil, fmt.Errorf("the credential cache is cut in its header")
	}
	p, ok := readPrincipal(&s)
	if !ok {
		return nil, fmt.Errorf("the credential cache is cut in its principal")
	}
	c := new(CCache)
	var err error
	if c.Principal, err = p.principal(); err != nil {
		return nil, fmt.Errorf("the principal of the credential cache: %w", err)
	}
	for n := 1; !s.Empty(); n++ {
		if n == maxEntries || !c.read(&s, minor) {
			return nil, fmt.Errorf("the credential cache is cut in entry %d", n)
		}
	}
	return c, nil
}

// fileName is a principal of the file, which need not be one.
type fileName struct {
	realm string
	parts []string
}

func (f fileName) principal() (kink.Principal, error) { return kink.NewPrincipal(f.realm, f.parts...) }

func readData(s *cryptobyte.String) ([]byte, bool) {
	var n uint32
	var b []byte
	if !s.ReadUint32(&n) || int64(n) > int64(len(*s)) || !s.ReadBytes(&b, int(n)) {
		return nil, false
	}
	return b, true
}

func readPrincipal(s *cryptobyte.String) (f fileName, ok bool) {
	var kind, count uint32
	if !s.ReadUint32(&kind) || !s.ReadUint32(&count) || count > 64 {
		return f, false
	}
	realm, ok := readData(s)
	if !ok {
		return f, false
	}
	f.realm = string(realm)
	for range count {
		part, ok := readData(s)
		if !ok {
			return f, false
		}
		f.parts = append(f.parts, string(part))
	}
	return f, true
}

// skipTyped reads over a list of addresses or of authorization data.
func skipTyped(s *cryptobyte.String) bool {
	var count uint32
	if !s.ReadUint32(&count) {
		return false
	}
	for range count {
		var kind uint16
		if !s.ReadUint16(&kind) {
			return false
		}
		if _, ok := readData(s); !ok {
			return false
		}
	}
	return true
}

func (c *CCache) read(s *cryptobyte.String, minor uint8) bool {
	client, ok := readPrincipal(s)
	if !ok {
		return false
	}
	server, ok := readPrincipal(s)
	if !ok {
		return false
	}
	var id, again uint16
	if !s.ReadUint16(&id) || minor == 3 && !s.ReadUint16(&again) {
		return false
	}
	key, ok := readData(s)
	if !ok {
		return false
	}
	var times [4]uint32
	for i := range times {
		if !s.ReadUint32(&times[i]) {
			return false
		}
	}
	var skey uint8
	var cred Credential
	if !s.ReadUint8(&skey) || !s.ReadUint32(&cred.Flags) || !skipTyped(s) || !skipTyped(s) {
		return false
	}
	ticket, ok := readData(s)
	if !ok {
		return false
	}
	if _, ok = readData(s); !ok {
		return false
	}
	if server.realm == confRealm {
		return true
	}
	var err error
	if cred.Client, err = client.principal(); err != nil {
		return true
	}
	if cred.Server, err = server.principal(); err != nil {
		return true
	}
	if cred.Key, err = NewKey(int32(id), key); err != nil {
		return true
	}
	if cred.Ticket, err = ParseTicket(ticket); err != nil {
		return true
	}
	at := func(v uint32) time.Time {
		if v == 0 {
			return time.Time{}
		}
		return time.Unix(int64(v), 0).UTC()
	}
	cred.AuthTime, cred.StartTime, cred.EndTime, cred.Till = at(times[0]), at(times[1]), at(times[2]), at(times[3])
	if cred.StartTime.IsZero() {
		cred.StartTime = cred.AuthTime
	}
	cred.UserToUser = skey != 0
	c.Credentials = append(c.Credentials, cred)
	return true
}
