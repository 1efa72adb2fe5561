// Package userhook asks a program of the administrator's whether a user's password
// is right. The daemon is one static binary and cannot load PAM; a program can.
// This is the only package of the daemon that runs one.
//
// No shell is involved, and nothing of the peer's is an argument or in the
// environment: it goes to the program's standard input, framed by zero octets.
package userhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"iked/internal/secret"
)

// Timeout is how long the program may take.
const Timeout = 10 * time.Second

// Parallel is how many programs run at a time; who comes later waits.
const Parallel = 8

// Query is what the program reads: each field and a zero octet behind it.
type Query struct {
	User       string
	Password   secret.Bytes
	Connection string
	Peer       string // address of the peer
}

// Runner runs programs. Make it with New.
type Runner struct {
	slots   chan struct{}
	timeout time.Duration
}

// New makes a runner for programs of root's.
func New() *Runner { return &Runner{slots: make(chan struct{}, Parallel), timeout: Timeout} }

// Check runs the program and tells whether it accepts the user: by exit status 0;
// 1 refuses. Every other end, and a program that is not safe to run, is an error:
// nobody knows.
func (r *Runner) Check(ctx context.Context, path string, q Query) (bool, error) {
	in, err := frame(q)
	if err != nil {
		return false, nil // no program could read it: such a user there is not
	}
	defer clear(in)
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return false, errors.New("too many users are being checked")
	}
	real, err := Trusted(path)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, real)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	cmd.Stdin = bytes.NewReader(in)
	// When the time is over, what it started ends with it. Its output goes nowhere.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return false, fmt.Errorf("%s did not end within %v", path, r.timeout)
	case err == nil:
		return true, nil
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return false, nil
	case errors.As(err, &exit):
		return false, fmt.Errorf("%s ended with %v; 0 accepts a user and 1 refuses", path, exit.ProcessState)
	}
	return false, fmt.Errorf("%s cannot be run: %w", path, err)
}

// frame is what the program reads. A zero octet inside of a field would move the
// border between name and password.
func frame(q Query) ([]byte, error) {
	fields := [][]byte{[]byte(q.User), q.Password.Reveal(), []byte(q.Connection), []byte(q.Peer)}
	n := len(fields)
	for _, f := range fields {
		n += len(f)
	}
	b := make([]byte, 0, n) // grown, it would leave copies of the password behind
	for _, f := range fields {
		if bytes.IndexByte(f, 0) >= 0 {
			clear(b)
			return nil, errors.New("a zero octet")
		}
		b = append(append(b, f...), 0)
	}
	return b, nil
}

// Trusted is the program without symbolic links, if nobody but root can put another
// one there: neither by writing to it nor by renaming a folder above.
func Trusted(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(real) {
		return "", fmt.Errorf("%s is no whole path", path)
	}
	for p := real; ; p = filepath.Dir(p) {
		st, err := os.Lstat(p)
		if err != nil {
			return "", err
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		switch {
		case p == real && !st.Mode().IsRegular():
			return "", fmt.Errorf("%s is no file", p)
		case p == real && st.Mode().Perm()&0o111 == 0:
			return "", fmt.Errorf("%s is not executable; chmod 755 %[1]s", p)
		case !ok || sys.Uid != 0:
			return "", fmt.Errorf("%s does not belong to root; chown root %[1]s", p)
		case st.Mode().Perm()&0o022 != 0:
			return "", fmt.Errorf("%s can be written by others than root (mode %04o); chmod go-w %[1]s", p, st.Mode().Perm())
		}
		if p == filepath.Dir(p) {
			return real, nil
		}
	}
}
