package krb5

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"iked/kink"
)

// Caps on keytabs and credential caches.
const (
	MaxFile    = 16 << 20 // octets
	maxEntries = 100000
)

// KeytabEntry is one key of a keytab.
type KeytabEntry struct {
	Principal kink.Principal
	Time      time.Time
	KVNO      uint32
	Key       Key
}

// Keytab is what a keytab file has. Keys of encryption types that are not supported
// are counted only.
type Keytab struct {
	Entries []KeytabEntry
	// Others are the entries that cannot be used, one line each.
	Others []string
}

// ParseKeytab reads a keytab of version 2, as MIT and Heimdal write it.
//
//	file  = 05 02 *( int32 size, entry of size octets | negative size, a hole )
//	entry = uint16 components, realm, components, uint32 name type, uint32 time,
//	        uint8 kvno, uint16 etype, uint16 length, key, [uint32 kvno]
//
// Strings have their length in 16 bits before them; all is big endian.
func ParseKeytab(b []byte) (*Keytab, error) {
	if len(b) > MaxFile {
		return nil, fmt.Errorf("a keytab of %d octets; at most %d are read", len(b), MaxFile)
	}
	if len(b) < 2 || b[0] != 5 {
		return nil, fmt.Errorf("this is no keytab")
	}
	if b[1] != 2 {
		return nil, fmt.Errorf("a keytab of version %d; version 2 is expected: write it again with ktutil", b[1])
	}
	kt := new(Keytab)
	s := cryptobyte.String(b[2:])
	for n := 0; !s.Empty(); n++ {
		var size uint32
		if !s.ReadUint32(&size) || n == maxEntries {
			return nil, fmt.Errorf("the keytab is cut in entry %d", n+1)
		}
		length := int64(int32(size))
		if length == 0 {
			break
		}
		if length < 0 {
			// A hole that an entry left.
			if -length > int64(len(s)) {
				return nil, fmt.Errorf("the keytab is cut in entry %d", n+1)
			}
			s.Skip(int(-length))
			continue
		}
		var entry []byte
		if length > int64(len(s)) || !s.ReadBytes(&entry, int(length)) {
			return nil, fmt.Errorf("the keytab is cut in entry %d", n+1)
		}
		if err := kt.read(entry); err != nil {
			return nil, fmt.Errorf("entry %d of the keytab: %w", n+1, err)
		}
	}
	return kt, nil
}

func (kt *Keytab) read(entry []byte) error {
	s := cryptobyte.String(entry)
	var count uint16
	if !s.ReadUint16(&count) || count == 0 || count > 16 {
		return fmt.Errorf("%d components of a name", count)
	}
	texts := make([]string, count+1)
	for i := range texts {
		var t cryptobyte.String
		if !s.ReadUint16LengthPrefixed(&t) {
			return fmt.Errorf("the name is cut")
		}
		texts[i] = string(t)
	}
	var kind, at, kvno32 uint32
	var kvno uint8
	var id uint16
	var key cryptobyte.String
	if !s.ReadUint32(&kind) || !s.ReadUint32(&at) || !s.ReadUint8(&kvno) || !s.ReadUint16(&id) || !s.ReadUint16LengthPrefixed(&key) {
		return fmt.Errorf("the key is cut")
	}
	e := KeytabEntry{Time: time.Unix(int64(at), 0).UTC(), KVNO: uint32(kvno)}
	if len(s) >= 4 && s.ReadUint32(&kvno32) && kvno32 != 0 {
		e.KVNO = kvno32
	}
	var err error
	if e.Principal, err = kink.NewPrincipal(texts[0], texts[1:]...); err != nil {
		kt.other("an entry whose name is none: %v", err)
		return nil
	}
	if e.Key, err = NewKey(int32(id), key); err != nil {
		kt.other("%s, kvno %d: %v", e.Principal, e.KVNO, err)
		return nil
	}
	kt.Entries = append(kt.Entries, e)
	return nil
}

func (kt *Keytab) other(format string, args ...any) {
	if len(kt.Others) < 16 {
		kt.Others = append(kt.Others, fmt.Sprintf(format, args...))
	}
}

// Find is the key of a principal, an encryption type and a version; kvno nil means
// the highest.
func (kt *Keytab) Find(p kink.Principal, id int32, kvno *uint32) (KeytabEntry, bool) {
	best := -1
	for i := range kt.Entries {
		e := &kt.Entries[i]
		if e.Principal != p || e.Key.EType() != id {
			continue
		}
		// Old entries have 8 bits of the version only.
		if kvno != nil && (e.KVNO == *kvno || e.KVNO < 256 && e.KVNO == *kvno&0xff) {
			if e.KVNO == *kvno {
				return *e, true
			}
			best = i
		} else if kvno == nil && (best < 0 || kt.newer(i, best)) {
			best = i
		}
	}
	if best < 0 {
		return KeytabEntry{}, false
	}
	return kt.Entries[best], true
}

// newer tells whether an entry is of a later key than another: versions may begin
// anew, then the time decides.
func (kt *Keytab) newer(i, j int) bool {
	a, b := &kt.Entries[i], &kt.Entries[j]
	if !a.Time.Equal(b.Time) && a.KVNO == b.KVNO {
		return a.Time.After(b.Time)
	}
	return a.KVNO > b.KVNO
}

// ETypes are the encryption types of a principal's latest keys.
func (kt *Keytab) ETypes(p kink.Principal) (list []int32) {
	var highest uint32
	for i := range kt.Entries {
		if kt.Entries[i].Principal == p {
			highest = max(highest, kt.Entries[i].KVNO)
		}
	}
	for i := range kt.Entries {
		if e := &kt.Entries[i]; e.Principal == p && e.KVNO == highest {
			list = append(list, e.Key.EType())
		}
	}
	return list
}

// Versions are lines that tell which keys of a principal there are.
func (kt *Keytab) Versions(p kink.Principal) (lines []string) {
	for i := range kt.Entries {
		if e := &kt.Entries[i]; e.Principal == p && len(lines) < 16 {
			lines = append(lines, fmt.Sprintf("kvno %d, %s", e.KVNO, ETypeName(e.Key.EType())))
		}
	}
	return lines
}
