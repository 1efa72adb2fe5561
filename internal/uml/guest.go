package uml

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// grace is what the guest may take beyond the time limit of the tests, for its
// boot and its end. go test itself waits a minute longer than the limit.
const grace = 40 * time.Second

// longest is the limit of a run whose tests have none.
const longest = 30 * time.Minute

// guest is one run of the kernel.
type guest struct {
	o   Options
	dir string // init, status, console, and what Prepare makes
}

func newGuest(o Options) (*guest, error) {
	if o.Memory == 0 {
		o.Memory = 512
	}
	dir, err := os.MkdirTemp("", "uml-")
	if err != nil {
		return nil, err
	}
	return &guest{o: o, dir: dir}, nil
}

// run boots, runs the command inside and returns its exit status.
func (g *guest) run(args []string) (status int, err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(g.dir)) }()
	if g.o.Prepare != nil {
		if err := g.o.Prepare(g.dir); err != nil {
			return 0, err
		}
	}
	// A link or a copy: go test may remove its own file first.
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	aliases, err := moduleAliases()
	if err != nil {
		return 0, err
	}
	script := initScript(g.dir, cwd, append([]string{self}, guestArgs(args[1:])...), os.Environ(), append(append([]string(nil), Modules...), g.o.Modules...), aliases)
	initPath := filepath.Join(g.dir, "init")
	if err := os.WriteFile(initPath, []byte(script), 0o700); err != nil {
		return 0, err
	}
	if err := g.boot(initPath); err != nil {
		return 0, err
	}
	return g.status()
}

// boot runs the kernel to its end, with what the tests print on stdout.
func (g *guest) boot(initPath string) error {
	out, guestOut, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	console, err := os.Create(g.console())
	if err != nil {
		guestOut.Close()
		return err
	}
	defer console.Close()
	// The console shows the kernel's own messages; the tests have a serial line
	// to themselves, so that nothing comes between.
	cmd := exec.Command(kernelPath, fmt.Sprintf("mem=%dM", g.o.Memory), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw",
		"init="+initPath, "uml_dir="+g.dir, "umid=guest", "con=null", "ssl=null", "con0=null,fd:3", "ssl0=null,fd:4", "quiet", "panic=-1")
	cmd.ExtraFiles = []*os.File{console, guestOut}
	cmd.Stderr = console
	// A group of its own, so that the kernel's helper processes end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	done := make(chan error, 1)
	started := make(chan error, 1)
	go lockedThread(func() {
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	})
	err = <-started
	guestOut.Close()
	if err != nil {
		return err
	}
	// A group that has ended already is no fault.
	kill := func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	defer kill()
	release, err := watch(cmd.Process.Pid)
	if err != nil {
		kill()
		<-done
		return err
	}
	defer release()
	var copying sync.WaitGroup
	copying.Go(func() { _, _ = io.Copy(os.Stdout, out) })

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	defer signal.Stop(signals)
	timer := time.NewTimer(limit())
	defer timer.Stop()
	select {
	case err = <-done:
		// The kernel's exit status says nothing of the tests: the file does.
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = nil
		}
	case s := <-signals:
		kill()
		<-done
		err = fmt.Errorf("ended by signal %v", s)
	case <-timer.C:
		kill()
		<-done
		err = fmt.Errorf("the guest did not end within %v\n%s", limit(), g.consoleTail())
	}
	kill() // what is left holds the pipe
	copying.Wait()
	return err
}

// watch ends a group of processes when this process does, however it ends: the
// kernel's helpers do not notice that the kernel was killed. Its group ends with
// the call of what it returns.
func watch(group int) (release func(), err error) {
	cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("read end; kill -9 -%d", group))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	end, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		end.Close()
		_ = cmd.Wait() // that the group was gone already is its exit status
	}, nil
}

// limit is how long the guest may run.
func limit() time.Duration {
	f := flag.Lookup("test.timeout")
	if f == nil {
		return longest
	}
	d, ok := f.Value.(flag.Getter).Get().(time.Duration)
	if !ok || d <= 0 {
		return longest
	}
	return d + grace
}

// status is the exit status of the tests, as the init script wrote it down.
func (g *guest) status() (int, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, "status"))
	if err != nil {
		return 0, fmt.Errorf("the guest ended before the tests did\n%s", g.consoleTail())
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("status of the tests: %w", err)
	}
	return n, nil
}

func (g *guest) console() string { return filepath.Join(g.dir, "console") }

func (g *guest) consoleTail() string {
	b, err := os.ReadFile(g.console())
	if err != nil {
		return err.Error()
	}
	const most = 8192
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return "console of the guest:\n" + string(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")))
}
