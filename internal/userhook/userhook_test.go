package userhook

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/secret"
	"iked/internal/testnet"
)

// program writes a program of root's into a folder of root's. Temporary folders
// are not that: everybody may write beside them.
func program(t *testing.T, text string) string {
	t.Helper()
	testnet.RequireRoot(t)
	dir, err := os.MkdirTemp("/var/lib", "iked-userhook-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "hook")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func bob(password string) Query {
	return Query{User: "bob", Password: secret.New([]byte(password)), Connection: "road", Peer: "192.0.2.1"}
}

// The exit status decides: 0 accepts, 1 refuses, all else is no decision. So is a
// program that takes too long, and what it started ends with it.
func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		text string
		ok   bool
		err  string
	}{
		{"#!/bin/sh\nexit 0\n", true, ""},
		{"#!/bin/sh\nexit 1\n", false, ""},
		{"#!/bin/sh\nexit 2\n", false, "exit status 2"},
		{"#!/bin/sh\nkill -9 $$\n", false, "signal: killed"},
		{"#!/nowhere/sh\n", false, "cannot be run"},
		{"#!/bin/sh\nsleep 60 & echo $! >\"${0%/*}/pid\"\nsleep 60\n", false, "did not end within"},
	} {
		path := program(t, c.text)
		r := New()
		r.timeout = 500 * time.Millisecond
		ok, err := r.Check(t.Context(), path, bob("sesame"))
		if ok != c.ok || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %t, %v; expected %t, %q", c.text, ok, err, c.ok, c.err)
		}
		if pid, err := os.ReadFile(filepath.Join(filepath.Dir(path), "pid")); err == nil {
			gone := func() bool {
				// A zombie has no command line.
				b, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cmdline")
				return err != nil || len(b) == 0
			}
			for begin := time.Now(); !gone(); time.Sleep(10 * time.Millisecond) {
				if time.Since(begin) > 5*time.Second {
					t.Fatalf("%s still runs", pid)
				}
			}
		}
	}
}

// The program reads the fields from its standard input, each with a zero octet
// behind it, and sees nothing of them anywhere else; letters that a shell would
// obey are letters.
func TestFraming(t *testing.T) {
	path := program(t, "#!/bin/sh\ncat >\"${0%/*}/in\"\nenv >\"${0%/*}/env\"\ntr '\\0' '\\n' </proc/$$/cmdline >\"${0%/*}/args\"\npwd >\"${0%/*}/cwd\"\nls /proc/$$/fd >\"${0%/*}/fds\"\n")
	q := bob("$(touch /tmp/x)`id`;\n'\"")
	if ok, err := New().Check(t.Context(), path, q); !ok || err != nil {
		t.Fatal(ok, err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(path), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got, want := read("in"), "bob\x00$(touch /tmp/x)`id`;\n'\"\x00road\x00192.0.2.1\x00"; got != want {
		t.Errorf("it reads %q, expected %q", got, want)
	}
	if env := read("env"); strings.Contains(env, "bob") || strings.Contains(env, "HOME=") || !strings.Contains(env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n") {
		t.Errorf("environment %q", env)
	}
	if args := read("args"); args != "/bin/sh\n"+path+"\n" {
		t.Errorf("arguments %q", args)
	}
	if cwd := read("cwd"); cwd != "/\n" {
		t.Errorf("it runs in %q", cwd)
	}
	for _, fd := range strings.Fields(read("fds")) {
		// 10 and above are the shell's own.
		if fd != "0" && fd != "1" && fd != "2" && len(fd) < 2 {
			t.Errorf("descriptor %s is open", fd)
		}
	}
	for name, q := range map[string]Query{"user": {User: "bob\x00root"}, "password": {User: "bob", Password: secret.New([]byte("a\x00b"))}} {
		if ok, err := New().Check(t.Context(), path, q); ok || err != nil {
			t.Errorf("a zero octet in the %s: %t, %v; expected a refusal", name, ok, err)
		}
	}
}

// A program that somebody else than root could have put there does not run.
func TestUntrusted(t *testing.T) {
	good := "#!/bin/sh\nexit 0\n"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change func(path string) string
		want   string
	}{
		"writable":             {func(p string) string { must(os.Chmod(p, 0o775)); return p }, "can be written"},
		"somebody's":           {func(p string) string { must(os.Chown(p, 65534, 0)); return p }, "does not belong to root"},
		"in a writable folder": {func(p string) string { must(os.Chmod(filepath.Dir(p), 0o777)); return p }, "can be written"},
		"in somebody's folder": {func(p string) string { must(os.Chown(filepath.Dir(p), 65534, 0)); return p }, "does not belong to root"},
		"not executable":       {func(p string) string { must(os.Chmod(p, 0o644)); return p }, "not executable"},
		"a folder":             {func(p string) string { return filepath.Dir(p) }, "is no file"},
		"not there":            {func(p string) string { return p + "x" }, "no such file"},
		"a link to a writable": {func(p string) string { must(os.Chmod(p, 0o757)); must(os.Symlink(p, p+"l")); return p + "l" }, "can be written"},
		"in a temporary folder": {func(p string) string {
			q := filepath.Join(t.TempDir(), "hook")
			must(os.WriteFile(q, []byte(good), 0o755))
			return q
		}, "can be written"},
	} {
		path := c.change(program(t, good))
		if ok, err := New().Check(t.Context(), path, bob("x")); ok || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %t, %v", name, ok, err)
		}
	}
	path := program(t, good)
	must(os.Symlink(path, path+"l"))
	if ok, err := New().Check(t.Context(), path+"l", bob("x")); !ok || err != nil {
		t.Errorf("a link to a good one: %t, %v", ok, err)
	}
}

// Only so many run at a time; who waits too long is told that nobody knows.
func TestParallel(t *testing.T) {
	path := program(t, "#!/bin/sh\nsleep 1\n")
	r := New()
	done := make(chan error, Parallel)
	for range Parallel {
		go func() {
			ok, err := r.Check(t.Context(), path, bob("x"))
			if err == nil && !ok {
				err = fmt.Errorf("refused")
			}
			done <- err
		}()
	}
	for begin := time.Now(); len(r.slots) < Parallel; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatal("they do not run")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if ok, err := r.Check(ctx, path, bob("x")); ok || err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("one more: %t, %v", ok, err)
	}
	for range Parallel {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
