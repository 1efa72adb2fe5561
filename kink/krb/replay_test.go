package krb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"iked/kink"
)

const skew = 5 * time.Minute

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func name(t testing.TB, s string) kink.Principal {
	t.Helper()
	p, err := kink.ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func open(t testing.TB, path string, now time.Time) *Replay {
	t.Helper()
	r, err := OpenReplay(path, now, skew)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// seen tells whether an authenticator is refused as one that came again.
func seen(t testing.TB, r *Replay, now time.Time, who string, at time.Time) bool {
	t.Helper()
	fail := r.check(now, name(t, who), name(t, "kink/b@A"), at, skew)
	if fail != nil && fail.Code != kink.ErrRepeat {
		t.Fatal(fail)
	}
	return fail != nil
}

// Client, server, second and microsecond make an authenticator; each alone makes it
// another (RFC 4120, Section 3.2.3).
func TestReplayTuple(t *testing.T) {
	r := open(t, "", noon)
	if seen(t, r, noon, "kink/a@A", noon) || !seen(t, r, noon, "kink/a@A", noon) {
		t.Error("once and again")
	}
	if seen(t, r, noon, "kink/a@A", noon.Add(time.Microsecond)) || seen(t, r, noon, "kink/a@B", noon) || seen(t, r, noon, "kink@A", noon) {
		t.Error("another one is refused")
	}
	if r.check(noon, name(t, "kink/a@A"), name(t, "kink/c@A"), noon, skew) != nil {
		t.Error("for another server it is refused")
	}
	// Names run into each other only when nothing holds them apart.
	if r.check(noon, name(t, "a@A"), name(t, "bc@A"), noon, skew) != nil || r.check(noon, name(t, "a@Ab"), name(t, "c@A"), noon, skew) != nil {
		t.Error("different names are the same")
	}
}

// What was seen is known after a restart, in order or not, and after another one; what
// is over is forgotten.
func TestReplayAcrossRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "replay")
	r := open(t, path, noon)
	for i := range 100 {
		if seen(t, r, noon, "kink/a@A", noon.Add(time.Duration(i)*time.Second)) {
			t.Fatal(i)
		}
	}
	if _, err := OpenReplay(path, noon, skew); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second process: %v", err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v)", st.Mode(), err)
	}
	// As after kill -9: the descriptor goes, nothing else is done.
	r.mu.Lock()
	r.file.Close()
	r.file = nil
	r.mu.Unlock()
	for range 2 {
		r = open(t, path, noon.Add(time.Minute))
		if r.Problem() != nil || r.Len() != 100 {
			t.Fatalf("%d entries: %v", r.Len(), r.Problem())
		}
		if !seen(t, r, noon.Add(time.Minute), "kink/a@A", noon) || !seen(t, r, noon.Add(time.Minute), "kink/a@A", noon.Add(99*time.Second)) {
			t.Error("it is not known after a restart")
		}
		r.Close()
	}
	r = open(t, path, noon.Add(skew+50*time.Second))
	if r.Len() != 50 {
		t.Errorf("%d entries are left, expected 50", r.Len())
	}
}

// Damage of any octet is seen, and so is a file that lost its end or that is something
// else; then authenticators from before are refused, also after one more restart, until
// they are too old anyway. A record that was cut while it was written is no damage: it
// was not answered.
func TestReplayDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "replay")
	r := open(t, path, noon)
	seen(t, r, noon, "kink/a@A", noon)
	seen(t, r, noon, "kink/a@A", noon.Add(time.Second))
	r.Close()
	whole, err := os.ReadFile(path)
	if err != nil || len(whole) != 3*replaySize {
		t.Fatalf("%d octets (%v)", len(whole), err)
	}
	damaged := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, path, noon)
		defer r.Close()
		if r.Problem() == nil {
			t.Fatal("the damage is not seen")
		}
		if !seen(t, r, noon, "kink/a@A", noon) || !seen(t, r, noon, "kink/x@A", noon.Add(skew)) {
			t.Fatal("what may have been seen is accepted")
		}
		if later := noon.Add(skew + time.Second); seen(t, r, later, "kink/a@A", later) || !seen(t, r, later, "kink/a@A", later) {
			t.Fatal("afterwards it is not as before")
		}
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		damaged(b)
	}
	for n := 1; n < replaySize; n++ {
		damaged(whole[:n])
	}
	damaged(make([]byte, 3*replaySize))
	damaged(append(bytes.Clone(whole), make([]byte, replaySize)...))
	damaged([]byte("hello"))
	// The floor is in the file.
	r = open(t, path, noon.Add(time.Second))
	if r.Problem() != nil || !seen(t, r, noon.Add(time.Second), "kink/y@A", noon) {
		t.Error("a restart forgets the damage")
	}
	r.Close()
	// The clock was a year ahead when the damage was found.
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, path, noon.AddDate(1, 0, 0)).Close()
	r = open(t, path, noon)
	if later := noon.Add(skew + time.Second); !seen(t, r, noon, "kink/z@A", noon) || seen(t, r, later, "kink/z@A", later) {
		t.Error("the floor of a clock that was ahead")
	}
	r.Close()
	for n := 2*replaySize + 1; n < 3*replaySize; n++ {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, path, noon)
		if r.Problem() != nil || r.Len() != 1 || !seen(t, r, noon, "kink/a@A", noon) {
			t.Fatalf("cut after %d octets: %v", n, r.Problem())
		}
		r.Close()
	}
	for _, bad := range []string{t.TempDir(), "/dev/null/replay"} {
		if _, err := OpenReplay(bad, noon, skew); err == nil {
			t.Errorf("%s is opened", bad)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReplay(link, noon, skew); err == nil {
		t.Error("a symbolic link is followed")
	}
}

// The cache is bounded, for all and for one client, who does not take the others' room;
// what is full refuses, and room comes with time. The file stays bounded as well.
func TestReplayBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "replay")
	r := open(t, path, noon)
	for i := range maxReplayClient {
		if seen(t, r, noon, "kink/a@A", noon.Add(time.Duration(i))) != (i%1000 != 0) {
			t.Fatal(i) // less than a microsecond is no difference
		}
		if fail := r.check(noon, name(t, "kink/a@A"), name(t, "kink/b@A"), noon.Add(time.Duration(i+10)*time.Millisecond), skew); fail != nil {
			if fail.Code != kink.ErrGeneric || !fail.Temporary || i < maxReplayClient-100 {
				t.Fatalf("entry %d: %v", i, fail)
			}
			break
		}
	}
	if seen(t, r, noon, "kink/b@A", noon) {
		t.Error("another client is refused")
	}
	r.max = r.Len() + 10
	for i := range 11 {
		fail := r.check(noon, name(t, fmt.Sprintf("kink/c%d@A", i)), name(t, "kink/b@A"), noon, skew)
		if (fail == nil) != (i < 10) {
			t.Fatalf("entry %d: %v", i, fail)
		}
	}
	// Much later all of it is over, and the file is made small.
	later := noon.Add(time.Hour)
	if seen(t, r, later, "kink/a@A", later) || r.Len() != 1 {
		t.Errorf("%d entries are left", r.Len())
	}
	st, err := os.Stat(path)
	if err != nil || st.Size() > 3*replaySize {
		t.Errorf("the file has %d octets (%v)", st.Size(), err)
	}
	r.Close()
	if r := open(t, path, later); r.Problem() != nil || !seen(t, r, later, "kink/a@A", later) {
		t.Error("the small file is not whole")
	}
}

// When the file cannot be written, authenticators are still refused that come again,
// and the problem is told.
func TestReplayDiskFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "replay")
	r := open(t, path, noon)
	seen(t, r, noon, "kink/a@A", noon)
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.file.Close()
	r.file = full
	r.mu.Unlock()
	if seen(t, r, noon, "kink/b@A", noon) || !seen(t, r, noon, "kink/b@A", noon) || !seen(t, r, noon, "kink/a@A", noon) {
		t.Error("it does not remember")
	}
	// The file was begun anew with all of them.
	if r.Problem() != nil {
		t.Error(r.Problem())
	}
	r.Close()
	r = open(t, path, noon)
	if r.Problem() != nil || !seen(t, r, noon, "kink/b@A", noon) || !seen(t, r, noon, "kink/a@A", noon) {
		t.Errorf("after a restart: %v", r.Problem())
	}
	// It cannot be replaced either.
	r.mu.Lock()
	r.file.Close()
	r.file, _ = os.OpenFile("/dev/full", os.O_RDWR, 0)
	r.path = filepath.Join(t.TempDir(), "none", "replay")
	r.mu.Unlock()
	if seen(t, r, noon, "kink/c@A", noon) || !seen(t, r, noon, "kink/c@A", noon) || r.Problem() == nil {
		t.Errorf("no file at all: %v", r.Problem())
	}
}

// Shards ask at once.
func TestReplayAtOnce(t *testing.T) {
	r := open(t, filepath.Join(t.TempDir(), "replay"), noon)
	var mu sync.Mutex
	first := 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				if fail := r.check(noon, name(t, "kink/a@A"), name(t, "kink/b@A"), noon.Add(time.Duration(i)*time.Second), 10*time.Hour); fail == nil {
					mu.Lock()
					first++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if first != 200 {
		t.Errorf("%d were accepted, expected 200", first)
	}
	// The disk has it within a second, while Close waits for nothing.
	r.sync()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// Any file is read without harm, and what is read is written again.
func FuzzReplayFile(f *testing.F) {
	head := make([]byte, 32)
	copy(head, replayMagic)
	f.Add(sealed(head))
	binary.BigEndian.PutUint64(head[24:], uint64(noon.UnixMicro()))
	f.Add(append(sealed(head), replayEntry{7, noon.Add(time.Hour).UnixMicro()}.record([16]byte{1})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := open(t, "", noon)
		if r.load(b, noon) != nil {
			return
		}
		if len(r.seen) > len(b)/replaySize || len(r.seen) < len(r.clients) {
			t.Errorf("%d entries of %d clients in %d octets", len(r.seen), len(r.clients), len(b))
		}
		seen(t, r, noon, "kink/a@A", noon)
	})
}
