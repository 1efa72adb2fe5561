package krb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"iked/kink"
)

// Caps of the replay cache: entries of all, and of one client, who must not fill it.
const (
	maxReplay       = 1 << 16
	maxReplayClient = 1 << 13
	// sweepEvery bounds how often what is over is looked for.
	sweepEvery = 10 * time.Second
	// syncAfter is how long a record may be in memory only, should the power fail.
	syncAfter = time.Second
)

// Replay remembers the authenticators of the last minutes (RFC 4120, Section 3.2.3),
// across restarts in a file. It may be used by several goroutines.
//
//	file   = header, records, each of 32 octets and followed by the first 8 octets of
//	         its SHA-256
//	header = "iked replay 1\n", 10 octets of zeros, int64 floor
//	record = 16 octets of SHA-256 of names and time, int64 client, int64 end
//
// Times are microseconds since 1970; all is big endian.
type Replay struct {
	path string
	max  int

	mu      sync.Mutex
	seen    map[[16]byte]replayEntry
	clients map[uint64]int
	swept   time.Time
	// floor: authenticators until then are refused, as those that were seen are lost.
	floor   int64
	file    *os.File
	records int // in the file
	timer   *time.Timer
	problem error
}

type replayEntry struct {
	client uint64
	end    int64
}

const (
	replayMagic = "iked replay 1\n"
	replaySize  = 40
)

// OpenReplay opens the cache in a file, for this process alone; "" keeps it in memory
// only. skew is what clocks may be off. A file that is damaged is begun anew: then
// authenticators from before now are refused, as RFC 4120 wants, and Problem says so.
func OpenReplay(path string, now time.Time, skew time.Duration) (*Replay, error) {
	r := &Replay{path: path, max: maxReplay, seen: map[[16]byte]replayEntry{}, clients: map[uint64]int{}}
	if path == "" {
		return r, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the replay cache %s cannot be opened: %w", path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("the replay cache %s is in use by another process", path)
	}
	if !r.same(f) {
		f.Close()
		return nil, fmt.Errorf("the replay cache %s is being replaced by another process", path)
	}
	r.file = f
	b, err := io.ReadAll(io.LimitReader(f, int64(r.max+2)*2*replaySize+1024*replaySize+1))
	if err == nil {
		err = r.load(b, now)
	}
	if err != nil {
		clear(r.seen)
		clear(r.clients)
		// What was seen had a time of at most skew from now.
		r.floor = now.Add(skew).UnixMicro()
		r.problem = fmt.Errorf("the replay cache %s is damaged (%w): for %v no peer is accepted that was not there before", path, err, skew)
	}
	// A clock that was far ahead when the file was damaged must not close the door for
	// years: what was seen then is too far ahead now.
	r.floor = min(r.floor, now.Add(skew).UnixMicro())
	if err := r.rewrite(now); err != nil {
		r.file.Close()
		return nil, fmt.Errorf("the replay cache %s cannot be written: %w", path, err)
	}
	return r, nil
}

// same tells whether the path still leads to an open file.
func (r *Replay) same(f *os.File) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(r.path)
	return err == nil && os.SameFile(a, b)
}

// Problem says what is wrong with the file, or is nil.
func (r *Replay) Problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

// Len is how many authenticators are remembered.
func (r *Replay) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// Close writes what is left and closes the file.
func (r *Replay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.file == nil {
		return nil
	}
	err := errors.Join(r.file.Sync(), r.file.Close())
	r.file = nil
	return err
}

// check refuses an authenticator that was seen, and remembers one that was not.
func (r *Replay) check(now time.Time, client, server kink.Principal, ctime time.Time, skew time.Duration) *kink.KerberosError {
	h := sha256.New()
	for _, p := range []kink.Principal{client, server} {
		s := p.String()
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s))))
		h.Write([]byte(s))
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(ctime.UnixMicro())))
	id := [16]byte(h.Sum(nil))
	who := sha256.Sum256([]byte(client.String()))
	e := replayEntry{binary.BigEndian.Uint64(who[:]), ctime.Add(skew).UnixMicro()}

	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.seen[id]; there {
		return refuse(kink.ErrRepeat, "", "an authenticator of %s came again", client)
	}
	if ctime.UnixMicro() <= r.floor {
		return &kink.KerberosError{
			Code: kink.ErrRepeat, Temporary: true,
			Sentence: fmt.Sprintf("%s is not accepted yet: the record of what it sent before was lost, and this may be sent again by somebody else", client),
			Advice:   fmt.Sprintf("it is accepted after %s", time.UnixMicro(r.floor).UTC().Format(time.RFC3339)),
		}
	}
	if len(r.seen) >= r.max || r.clients[e.client] >= maxReplayClient || now.Sub(r.swept).Abs() > time.Minute {
		r.sweep(now)
	}
	if len(r.seen) >= r.max {
		return &kink.KerberosError{Code: kink.ErrGeneric, Temporary: true, Sentence: fmt.Sprintf("%s is refused: the replay cache is full with %d entries", client, len(r.seen))}
	}
	if r.clients[e.client] >= maxReplayClient {
		return &kink.KerberosError{Code: kink.ErrGeneric, Temporary: true, Sentence: fmt.Sprintf("%s is refused: it sent %d authenticators within minutes", client, r.clients[e.client])}
	}
	r.add(id, e)
	r.write(id, e)
	return nil
}

func (r *Replay) add(id [16]byte, e replayEntry) {
	if _, there := r.seen[id]; !there {
		r.clients[e.client]++
	}
	r.seen[id] = e
}

// sweep forgets what is over: such an authenticator is refused for its time.
func (r *Replay) sweep(now time.Time) {
	if d := now.Sub(r.swept); d >= 0 && d < sweepEvery {
		return
	}
	r.swept = now
	for id, e := range r.seen {
		if e.end < now.UnixMicro() {
			delete(r.seen, id)
			if r.clients[e.client]--; r.clients[e.client] <= 0 {
				delete(r.clients, e.client)
			}
		}
	}
	if r.file != nil && r.records > 2*len(r.seen)+1024 {
		if err := r.rewrite(now); err != nil {
			r.problem = fmt.Errorf("the replay cache %s cannot be written: %w", r.path, err)
		}
	}
}

// sealed is a record with its check.
func sealed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, sum[:8]...)
}

func (e replayEntry) record(id [16]byte) []byte {
	b := append(make([]byte, 0, replaySize), id[:]...)
	b = binary.BigEndian.AppendUint64(b, e.client)
	return sealed(binary.BigEndian.AppendUint64(b, uint64(e.end)))
}

// write appends a record. After an error the file is begun anew with all of them.
func (r *Replay) write(id [16]byte, e replayEntry) {
	if r.file == nil {
		return
	}
	_, err := r.file.Write(e.record(id))
	r.records++
	if err != nil {
		if err = r.rewrite(time.UnixMicro(0)); err != nil {
			// A file that lacks records must not be taken for whole.
			r.file.Truncate(replaySize / 2)
			r.problem = fmt.Errorf("the replay cache %s cannot be written: %w", r.path, err)
		} else {
			r.problem = nil
		}
		return
	}
	if r.timer == nil {
		r.timer = time.AfterFunc(syncAfter, r.sync)
	}
}

// sync puts on the disk what was written.
func (r *Replay) sync() {
	r.mu.Lock()
	r.timer = nil
	f := r.file
	r.mu.Unlock()
	if f != nil {
		f.Sync() // of a file that was replaced meanwhile it does no harm
	}
}

// load reads what the file has. A record at the end that is cut was never answered.
func (r *Replay) load(b []byte, now time.Time) error {
	if len(b) == 0 {
		return nil // the first start
	}
	head, err := unseal(b)
	if err != nil || !bytes.HasPrefix(head, []byte(replayMagic)) {
		return errors.New("no header")
	}
	r.floor = int64(binary.BigEndian.Uint64(head[24:]))
	for b = b[replaySize:]; len(b) >= replaySize; b = b[replaySize:] {
		rec, err := unseal(b)
		if err != nil {
			return err
		}
		e := replayEntry{binary.BigEndian.Uint64(rec[16:]), int64(binary.BigEndian.Uint64(rec[24:]))}
		if e.end >= now.UnixMicro() && len(r.seen) < r.max {
			r.add([16]byte(rec), e)
		}
	}
	return nil
}

func unseal(b []byte) ([]byte, error) {
	if len(b) < replaySize {
		return nil, errors.New("a record is cut")
	}
	if !bytes.Equal(sealed(append([]byte(nil), b[:32]...)), b[:replaySize]) {
		return nil, errors.New("a record is wrong")
	}
	return b[:32], nil
}

// rewrite replaces the file by one with what is remembered and not over.
func (r *Replay) rewrite(now time.Time) error {
	head := make([]byte, 32)
	copy(head, replayMagic)
	binary.BigEndian.PutUint64(head[24:], uint64(r.floor))
	b := sealed(head)
	n := 0
	for id, e := range r.seen {
		if e.end >= now.UnixMicro() {
			b = append(b, e.record(id)...)
			n++
		}
	}
	temp := r.path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(temp, r.path)
	}
	if err != nil {
		f.Close()
		os.Remove(temp)
		return err
	}
	r.file.Close()
	r.file, r.records = f, n
	return nil
}
