package xfrm

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"iked/xfrm/wire"
)

// journal is a file that says which SAs and policies of the kernel are ours. A line
// is written before something is added and after it was removed, so that after a
// crash it names everything that is there, and at most something that is not. It
// has no keys. It is valid for one boot and one network namespace.
//
// A nil journal keeps nothing.
type journal struct {
	path  string
	lock  *os.File
	file  *os.File
	live  map[string]bool // lines without their sign
	lines int
	err   error // the first failure to write
	// left is what the process before left behind.
	left []leftover
}

// leftover is one of sa and policy.
type leftover struct {
	sa     *wire.SAByID
	policy *wire.PolicyByID
}

const journalVersion = "iked kernel backend 1"

// maxJournal bounds what is read.
const maxJournal = 256 << 20

// identity is the boot and the network namespace of the calling thread.
func identity() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", os.NewSyscallError("stat of the network namespace", err)
	}
	return fmt.Sprintf("%s boot %s namespace %d:%d", journalVersion, bytes.TrimSpace(boot), st.Dev, st.Ino), nil
}

func openJournal(dir string) (*journal, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	id, err := identity()
	if err != nil {
		return nil, err
	}
	j := &journal{path: filepath.Join(dir, "journal"), live: map[string]bool{}}
	if j.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(j.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		j.lock.Close()
		return nil, fmt.Errorf("%s is in use by another process", dir)
	}
	old, err := os.Open(j.path)
	if err == nil {
		j.left, err = readJournal(old, id)
		old.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		j.lock.Close()
		return nil, fmt.Errorf("journal %s: %w", j.path, err)
	}
	// Until it is dealt with, what is left stays in the journal.
	for _, l := range j.left {
		j.live[l.line()] = true
	}
	if err := j.rewrite(id); err != nil {
		j.lock.Close()
		return nil, err
	}
	return j, nil
}

func (l leftover) line() string {
	if l.sa != nil {
		return saLine(l.sa)
	}
	return "p " + hex.EncodeToString(l.policy.Append(nil))
}

func saLine(m *wire.SAByID) string { return "s " + hex.EncodeToString(m.Append(nil)) }

// readJournal gives what is left of a journal. One of another boot or namespace has
// nothing; a last line that is cut, as by a crash, was not in force yet.
func readJournal(f *os.File, id string) ([]leftover, error) {
	if st, err := f.Stat(); err != nil || st.Size() > maxJournal {
		return nil, errors.Join(err, fmt.Errorf("it has more than %d octets", maxJournal))
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<16)
	if !lines.Scan() || lines.Text() != id {
		return nil, lines.Err()
	}
	var order []string
	have := map[string]bool{}
	for lines.Scan() {
		s := lines.Text()
		switch {
		case strings.HasPrefix(s, "+"):
			if !have[s[1:]] {
				have[s[1:]] = true
				order = append(order, s[1:])
			}
		case strings.HasPrefix(s, "-"):
			delete(have, s[1:])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	var list []leftover
	for _, s := range order {
		if have[s] {
			delete(have, s)
			if l, ok := parseLine(s); ok {
				list = append(list, l)
			}
		}
	}
	return list, nil
}

func parseLine(s string) (leftover, bool) {
	kind, text, _ := strings.Cut(s, " ")
	b, err := hex.DecodeString(text)
	if err != nil {
		return leftover{}, false
	}
	switch kind {
	case "s":
		if m, err := wire.Parse(wire.DelSA, b); err == nil {
			return leftover{sa: m.(*wire.SAByID)}, true
		}
	case "p":
		if m, err := wire.Parse(wire.DelPolicy, b); err == nil {
			return leftover{policy: m.(*wire.PolicyByID)}, true
		}
	}
	return leftover{}, false
}

// rewrite writes the journal anew, with what is there now.
func (j *journal) rewrite(id string) error {
	if id == "" {
		var err error
		if id, err = j.header(); err != nil {
			return err
		}
	}
	tmp := j.path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	fmt.Fprintln(w, id)
	for line := range j.live {
		fmt.Fprintf(w, "+%s\n", line)
	}
	if err := errors.Join(w.Flush(), os.Rename(tmp, j.path)); err != nil {
		f.Close()
		return err
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.lines = f, len(j.live)
	return nil
}

// header is the first line as it was written, because the thread of today may be in
// another namespace.
func (j *journal) header() (string, error) {
	f, err := os.Open(j.path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	return lines.Text(), lines.Err()
}

func (j *journal) write(sign, line string) {
	if j == nil || j.file == nil {
		return
	}
	if _, err := j.file.WriteString(sign + line + "\n"); err != nil && j.err == nil {
		j.err = err
	}
	if j.lines++; j.lines > 2*len(j.live)+4096 {
		if err := j.rewrite(""); err != nil && j.err == nil {
			j.err = err
		}
	}
}

func (j *journal) add(line string) {
	if j == nil || j.live[line] {
		return
	}
	j.live[line] = true
	j.write("+", line)
}

func (j *journal) drop(line string) {
	if j == nil || !j.live[line] {
		return
	}
	delete(j.live, line)
	j.write("-", line)
}

func (j *journal) addSA(r *saRecord)    { j.add(saLine(r.byID())) }
func (j *journal) removeSA(r *saRecord) { j.drop(saLine(r.byID())) }

func (j *journal) addPolicy(k policyKey)    { j.add(leftover{policy: k.byID()}.line()) }
func (j *journal) removePolicy(k policyKey) { j.drop(leftover{policy: k.byID()}.line()) }

// remove ends the journal: nothing is left that it could name.
func (j *journal) remove() error {
	if j == nil {
		return nil
	}
	return errors.Join(j.err, os.Remove(j.path))
}

func (j *journal) close() {
	if j == nil {
		return
	}
	if j.file != nil {
		j.file.Close()
	}
	j.lock.Close()
}
