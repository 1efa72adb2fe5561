package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"iked/internal/trace"
)

// stateDir keeps small state over restarts, and makes sure that one daemon only
// works with it. Without a directory that can be written the daemon runs all the
// same, and forgets.
type stateDir struct {
	dir  string // "": nothing is kept
	lock *os.File
}

// openState makes the directory, mode 0700 when it is new, and locks it. The error
// is that another daemon has it.
func openState(dir string, log func(trace.Record)) (*stateDir, error) {
	degrade := func(err error) (*stateDir, error) {
		log(trace.Record{Level: trace.Control, Group: trace.DMN, Warn: true,
			Msg: fmt.Sprintf("state directory %s cannot be used, nothing is kept over a restart: %v", dir, err)})
		return &stateDir{}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return degrade(err)
	}
	// One that was there keeps its mode: it may be somebody else's, such as /tmp.
	if st, err := os.Stat(dir); err == nil && st.Mode()&0o022 != 0 {
		log(trace.Record{Level: trace.Control, Group: trace.DMN, Warn: true,
			Msg: fmt.Sprintf("state directory %s can be written by others (mode %04o); chmod 700 %[1]s, or name another with --state", dir, st.Mode().Perm())})
	}
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return degrade(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return degrade(err)
		}
		pid := make([]byte, 32)
		n, _ := f.ReadAt(pid, 0)
		return nil, fmt.Errorf("another iked (process %s) uses the state directory %s; stop it, or give this one another with --state",
			strings.TrimSpace(string(bytes.TrimRight(pid[:n], "\x00"))), dir)
	}
	s := &stateDir{dir: dir, lock: f}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		log(trace.Record{Level: trace.Control, Group: trace.DMN, Warn: true, Msg: fmt.Sprintf("%s: %v", name, err)})
	}
	s.sweep()
	return s, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// sweep removes files that a crash left half written.
func (s *stateDir) sweep() {
	left, _ := filepath.Glob(filepath.Join(s.dir, "*.json-*.tmp"))
	for _, f := range left {
		os.Remove(f)
	}
}

// maxState bounds a file that is read back.
const maxState = 64 << 20

// Load implements engine.Store.
func (s *stateDir) Load(name string) ([]byte, error) {
	if s.dir == "" {
		return nil, nil
	}
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st syscall.Stat_t
	switch err := syscall.Fstat(int(f.Fd()), &st); {
	case err != nil:
		return nil, err
	case st.Mode&syscall.S_IFMT != syscall.S_IFREG || int(st.Uid) != os.Geteuid():
		// The directory may be one where others can write.
		return nil, fmt.Errorf("%s is not a file of this daemon's user", f.Name())
	case st.Size > maxState:
		return nil, fmt.Errorf("%s has %d octets, at most %d are read", f.Name(), st.Size, maxState)
	}
	return io.ReadAll(io.LimitReader(f, maxState))
}

// Save implements engine.Store: the file is whole, old or new, whatever happens.
func (s *stateDir) Save(name string, data []byte) error {
	if s.dir == "" {
		return nil // told at the start
	}
	f, err := os.CreateTemp(s.dir, name+"-*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, name))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (s *stateDir) close() {
	if s.lock != nil {
		s.lock.Truncate(0)
		s.lock.Close()
	}
}
