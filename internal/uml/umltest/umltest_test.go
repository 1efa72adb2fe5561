// Package umltest looks at package uml from the machine's side.
package umltest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
)

// guestBinary compiles the tests of package uml.
func guestBinary(t *testing.T) string {
	t.Helper()
	if err := uml.Missing(); err != nil {
		testnet.LeaveOut(t, err.Error())
	}
	bin := filepath.Join(t.TempDir(), "guest.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", bin, "iked/internal/uml").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

func command(t *testing.T, bin, demand string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, bin, append([]string{"-test.v", "-test.run=^TestOnDemand$"}, args...)...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "UML_TEST="+demand, "TMPDIR="+t.TempDir())
	return cmd
}

// A run inside ends as it would have ended outside, with the same words; a guest
// that ends before its tests is a failure.
func TestStatusAndOutputComeOut(t *testing.T) {
	bin := guestBinary(t)
	for _, c := range []struct {
		demand string
		args   []string
		status int
		says   string
	}{
		{"", nil, 0, "--- PASS: TestOnDemand"},
		{"fail", nil, 1, "this is the failure"},
		{"panic", nil, 2, "panic: this is the panic"},
		{"hang", []string{"-test.timeout=2s"}, 2, "panic: test timed out after 2s"},
		{"halt", nil, 2, "the guest ended before the tests did"},
	} {
		t.Run(c.demand, func(t *testing.T) {
			cmd := command(t, bin, c.demand, c.args...)
			out, err := cmd.CombinedOutput()
			status := 0
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				status = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if status != c.status || !strings.Contains(string(out), c.says) {
				t.Errorf("exit status %d, want %d, with the words %q:\n%s", status, c.status, c.says, out)
			}
			empty(t, cmd)
		})
	}
}

// empty checks that a run left no file and no process.
func empty(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	tmp := strings.TrimPrefix(cmd.Env[len(cmd.Env)-1], "TMPDIR=")
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	gone(t, tmp)
}

// gone waits until no process names the folder in its arguments.
func gone(t *testing.T, folder string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var left []string
		dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range dirs {
			// A process may end between the two steps.
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), folder) {
				left = append(left, f)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes are left: %v", left)
		}
	}
}

// A run that is killed, or told to end, takes its guest with it.
func TestGuestEndsWithItsRun(t *testing.T) {
	bin := guestBinary(t)
	for _, signal := range []os.Signal{os.Interrupt, os.Kill} {
		t.Run(fmt.Sprint(signal), func(t *testing.T) {
			cmd := command(t, bin, "hang")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for lines.Scan() && lines.Text() != "hanging" {
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if cmd.Wait() == nil {
				t.Error("a run that was ended by a signal has exit status 0")
			}
			gone(t, strings.TrimPrefix(cmd.Env[len(cmd.Env)-1], "TMPDIR="))
		})
	}
}
