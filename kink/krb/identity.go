package krb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"iked/kink"
	"iked/kink/krb/krb5"
)

// Identity is a principal of this system with where its keys or tickets are: a
// keytab, or a credential cache for one who has a password only and so can be reached
// by user-to-user alone.
type Identity struct {
	Principal kink.Principal
	Keytab    *Keytab // nil: none
	CCache    string  // path; "": none
}

// Keytab is a keytab file. It is read again when it changes, as a new key must be
// there before the KDC uses it.
type Keytab struct {
	path string

	mu      sync.Mutex
	kt      *krb5.Keytab
	err     error
	stamp   stamp
	checked time.Time
}

// stamp tells versions of a file apart.
type stamp struct {
	at   time.Time
	size int64
}

// recheck bounds how often the file is looked at: a stranger's ticket may ask for it.
const recheck = 10 * time.Second

// OpenKeytab names a keytab, FILE: before it is allowed, and reads it. A file that is
// not there, or has faults, is an error that Problem repeats until it is mended.
func OpenKeytab(name string, now time.Time) (*Keytab, error) {
	path, err := absolute(name, "keytab")
	if err != nil {
		return nil, err
	}
	k := &Keytab{path: path}
	k.get(now)
	return k, nil
}

// Problem says why there are no keys, or is nil.
func (k *Keytab) Problem() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Reload looks at the file at once.
func (k *Keytab) Reload(now time.Time) error {
	k.mu.Lock()
	k.checked = time.Time{}
	k.mu.Unlock()
	k.get(now)
	return k.Problem()
}

// get are the keys as they were read last; the file is looked at when that is long ago.
func (k *Keytab) get(now time.Time) *krb5.Keytab {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := now.Sub(k.checked); k.kt != nil && d >= 0 && d < recheck || k.kt == nil && !k.checked.IsZero() && d >= 0 && d < recheck {
		return k.keys()
	}
	k.checked = now
	st, err := os.Stat(k.path)
	if err == nil && k.kt != nil && k.err == nil && (stamp{st.ModTime(), st.Size()}) == k.stamp {
		return k.keys()
	}
	var b []byte
	if err == nil {
		b, err = readFile(k.path, krb5.MaxFile)
	}
	var kt *krb5.Keytab
	if err == nil {
		kt, err = krb5.ParseKeytab(b)
		clear(b)
	}
	if err != nil {
		// A file that is being written is half: the keys from before stay.
		k.err = k.explain(err)
		return k.keys()
	}
	k.kt, k.err, k.stamp = kt, nil, stamp{st.ModTime(), st.Size()}
	return k.keys()
}

func (k *Keytab) keys() *krb5.Keytab {
	if k.kt == nil {
		return new(krb5.Keytab)
	}
	return k.kt
}

func (k *Keytab) explain(err error) error {
	e := &kink.KerberosError{
		Sentence: fmt.Sprintf("the keytab %s cannot be read: %v", k.path, err),
		Advice:   "write it with ktadd of kadmin, ktutil or ktpass, and let the daemon read it",
	}
	if errors.Is(err, fs.ErrNotExist) {
		e.Sentence = fmt.Sprintf("the keytab %s does not exist", k.path)
	}
	return e
}

// entry is the key for a ticket that is encrypted with it; kvno nil means the latest.
// The error says what is missing.
func (k *Keytab) entry(now time.Time, p kink.Principal, etype int32, kvno *uint32) (krb5.KeytabEntry, *kink.KerberosError) {
	kt := k.get(now)
	if e, ok := kt.Find(p, etype, kvno); ok {
		return e, nil
	}
	fail := &kink.KerberosError{Code: kink.ErrNoKey, Evidence: []string{"keytab: " + k.path}}
	fail.Advice = fmt.Sprintf("extract the current keys of %s into the keytab, with ktadd -k %s %s or ktpass", p, k.path, p)
	version := "any version"
	if kvno != nil {
		version = fmt.Sprintf("version %d", *kvno)
	}
	if have := kt.Versions(p); len(have) > 0 {
		fail.Code = kink.ErrBadKeyVersion
		fail.Sentence = fmt.Sprintf("there is no key of %s with %s and %s in the keytab", p, version, krb5.ETypeName(etype))
		for _, v := range have {
			fail.Evidence = append(fail.Evidence, "in the keytab: "+v)
		}
		return krb5.KeytabEntry{}, fail
	}
	fail.Sentence = fmt.Sprintf("there is no keytab entry for %s", p)
	if err := k.Problem(); err != nil {
		fail.Sentence += ": " + err.Error()
	}
	for _, o := range kt.Others {
		fail.Evidence = append(fail.Evidence, "not usable: "+o)
	}
	return krb5.KeytabEntry{}, fail
}
