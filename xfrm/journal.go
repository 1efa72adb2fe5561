package xfrm

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
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
	id    string          // its first line
	live  map[string]bool // lines without their sign
	lines int
	// err keeps the journal from being written until mend succeeds.
	err error
	// left is what the process before left behind and was not dealt with so far;
	// damaged counts lines of its journal that say nothing.
	left    []leftover
	damaged int
}

// errInUse is that of a journal that another process writes.
var errInUse = errors.New("in use by another process")

// leftover is one of sa and policy. reqID is that of the SA, 0: none, or not known.
type leftover struct {
	sa     *wire.SAByID
	reqID  uint32
	policy *wire.PolicyByID
}

const journalVersion = "iked kernel backend 1"

// Bounds of what is read: the file and a line, in octets.
const (
	maxJournal = 256 << 20
	maxLine    = 4096
)

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

func journalPath(dir string) string { return filepath.Join(dir, "journal") }

// openJournal reads the journal in dir and begins it anew. What cannot be written now
// is in err of the journal; an error is errInUse, or means that there is none.
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
	j := &journal{path: journalPath(dir), id: id, live: map[string]bool{}}
	if j.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(j.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		j.lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errInUse
		}
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if err := j.read(); err != nil {
		j.lock.Close()
		return nil, fmt.Errorf("journal %s: %w", j.path, err)
	}
	// Until it is dealt with, what is left stays in the journal.
	for _, l := range j.left {
		j.live[l.line()] = true
	}
	j.mend()
	return j, nil
}

func (j *journal) read() error {
	f, err := os.Open(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() > maxJournal {
		return errors.Join(err, fmt.Errorf("it has more than %d octets: look with `ip xfrm policy` and `ip xfrm state` for what a crashed process left, and remove the file", maxJournal))
	}
	j.left, j.damaged, err = readJournal(f, j.id)
	return err
}

func (l leftover) line() string {
	if l.sa != nil {
		return saLine(l.sa, l.reqID)
	}
	return "p " + hex.EncodeToString(l.policy.Append(nil))
}

func (l leftover) deletion() request {
	if l.sa != nil {
		return request{wire.DelSA, 0, l.sa}
	}
	return request{wire.DelPolicy, 0, l.policy}
}

// saLine names an SA, and its request id, by which it is known elsewhere.
func saLine(m *wire.SAByID, reqID uint32) string {
	s := "s " + hex.EncodeToString(m.Append(nil))
	if reqID != 0 {
		s += fmt.Sprintf(" %d", reqID)
	}
	return s
}

func (r *saRecord) line() string { return saLine(r.byID(), r.reqID) }

// readJournal gives what is left of a journal, and how many of its lines say
// nothing. One of another boot or namespace has nothing; a last line that is cut, as
// by a crash, was not in force yet.
func readJournal(r io.Reader, id string) (list []leftover, damaged int, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	// next gives a line without its end; ok: it has one and is not too long.
	next := func() (line string, ok bool, err error) {
		b, err := in.ReadSlice('\n')
		line = string(bytes.TrimSuffix(b, []byte("\n")))
		ok = err == nil
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		return line, ok, err
	}
	if first, ok, err := next(); !ok || first != id {
		return nil, 0, notEOF(err)
	}
	var order []string
	have := map[string]bool{}
	for {
		s, ok, err := next()
		if err != nil {
			if notEOF(err) != nil {
				return nil, 0, err
			}
			break
		}
		sign, entry := s[:min(1, len(s))], s[min(1, len(s)):]
		switch _, good := parseLine(entry); {
		case !ok || !good || sign != "+" && sign != "-":
			damaged++
		case sign == "-":
			delete(have, entry)
		case !have[entry]:
			have[entry] = true
			order = append(order, entry)
		}
	}
	for _, s := range order {
		if have[s] {
			delete(have, s)
			l, _ := parseLine(s)
			list = append(list, l)
		}
	}
	return list, damaged, nil
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func parseLine(s string) (leftover, bool) {
	kind, text, _ := strings.Cut(s, " ")
	text, more, ided := strings.Cut(text, " ")
	b, err := hex.DecodeString(text)
	if err != nil || ided && kind != "s" {
		return leftover{}, false
	}
	switch kind {
	case "s":
		var id uint64
		if ided {
			if id, err = strconv.ParseUint(more, 10, 32); err != nil || id == 0 || more != strconv.FormatUint(id, 10) {
				return leftover{}, false
			}
		}
		if m, err := wire.Parse(wire.DelSA, b); err == nil {
			return leftover{sa: m.(*wire.SAByID), reqID: uint32(id)}, true
		}
	case "p":
		if m, err := wire.Parse(wire.DelPolicy, b); err == nil {
			return leftover{policy: m.(*wire.PolicyByID)}, true
		}
	}
	return leftover{}, false
}

// rewrite writes the journal anew, with what is there now.
func (j *journal) rewrite() error {
	tmp := j.path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	fmt.Fprintln(w, j.id)
	for line := range j.live {
		fmt.Fprintf(w, "+%s\n", line)
	}
	if err = w.Flush(); err == nil {
		err = os.Rename(tmp, j.path)
	}
	if err != nil {
		f.Close()
		return errors.Join(err, os.Remove(tmp))
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.lines = f, len(j.live)
	return nil
}

// mend writes the whole journal, which also ends a line that was cut.
func (j *journal) mend() { j.err = j.rewrite() }

func (j *journal) write(sign, line string) {
	if j.err != nil {
		return // mend writes what is there then
	}
	if _, j.err = j.file.WriteString(sign + line + "\n"); j.err != nil {
		return
	}
	if j.lines++; j.lines > 2*len(j.live)+4096 {
		j.mend()
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

func (j *journal) addSA(r *saRecord)    { j.add(r.line()) }
func (j *journal) removeSA(r *saRecord) { j.drop(r.line()) }

func (j *journal) addPolicy(k policyKey)    { j.add(leftover{policy: k.byID()}.line()) }
func (j *journal) removePolicy(k policyKey) { j.drop(leftover{policy: k.byID()}.line()) }

// forget says that what these lines name is gone. What follows is remove, which
// writes what is left.
func (j *journal) forget(lines []string) {
	if j == nil {
		return
	}
	for _, l := range lines {
		delete(j.live, l)
	}
}

// remove ends the journal, unless something is left that it has to name.
func (j *journal) remove() error {
	if j == nil {
		return nil
	}
	if len(j.live) > 0 {
		j.mend()
		return j.err
	}
	if err := os.Remove(j.path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
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
